from __future__ import annotations

import pytest

from detseg3d.evaluation.remarks import FEW_PATIENTS, few_scans_for_froc, left_out, too_few
from detseg3d.evaluation.scores.froc import FROC_RATES


def figure(patients: int, low: float | None = 0.5, out: int = 0) -> dict[str, float | None]:
    return {"value": 0.6, "low": low, "high": 0.7, "left_out": out, "patients": patients, "scans": patients}


@pytest.mark.parametrize(("fewest", "warned"), [(FEW_PATIENTS - 1, True), (FEW_PATIENTS, False)])
def test_the_figure_of_the_fewest_patients_decides_on_the_warning(fewest: int, warned: bool) -> None:
    text = too_few([{"dice": figure(100)}, {"dice": figure(100), "recall_iou_0.1": figure(fewest)}])
    assert (f"here {fewest}" in text) == warned


def test_a_figure_without_an_interval_needs_no_warning() -> None:
    assert too_few([{"recall_any": figure(0, low=None)}, {}]) == ""


def test_the_most_resamples_that_were_left_out_are_stated() -> None:
    assert "up to 12" in left_out([{"recall_any": figure(3, out=12), "dice": figure(9, out=2)}, {}])
    assert left_out([{"dice": figure(9)}]) == ""


@pytest.mark.parametrize(("scans", "named"), [(1, 3), (2, 2), (3, 2), (4, 1), (7, 1), (8, 0), (100, 0)])
def test_rates_that_allow_no_false_positive_at_all_are_named(scans: int, named: int) -> None:
    assert few_scans_for_froc(scans, FROC_RATES).count("1/") == named
