from __future__ import annotations

import pytest

from benchmarks import coverage
from benchmarks.coverage import KINDS


@pytest.mark.parametrize("name", ["few", "one"])
def test_intervals_of_ten_patients_hold_the_true_value(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(coverage, "_PATIENTS", 5000)
    kind = KINDS[name]
    found = coverage.coverage(kind, coverage.true_values(kind, 0), patients=10, studies=100, samples=100, seed=0)
    assert set(found) == set(coverage.FIGURES)
    # Percentiles of the resamples held recall in 40 % (one) and 81 % (few) of studies.
    assert min(share for share, _ in found.values()) >= 0.88
    assert all(0 < width < 3 for _, width in found.values())


def test_two_systems_that_are_equally_good_rarely_differ() -> None:
    alarms = coverage.false_alarms(KINDS["few"], patients=15, studies=100, samples=100, seed=0)
    assert set(alarms) == set(coverage.PAIRED)
    assert max(alarms.values()) <= 0.11
