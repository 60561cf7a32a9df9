from __future__ import annotations

import pytest

from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.scores.froc import FROC_RATES
from detseg3d.reporting.text.remarks import (
    MIN_PATIENTS,
    describe_few_patients,
    describe_few_scans,
    describe_left_out,
)


def estimate(patients: int, low: float | None = 0.5, left_out: int = 0) -> MetricEstimate:
    return MetricEstimate(0.6, low, 0.7, left_out, patients, patients)


@pytest.mark.parametrize(("fewest", "warned"), [(MIN_PATIENTS - 1, True), (MIN_PATIENTS, False)])
def test_the_metric_with_the_fewest_patients_decides_on_the_warning(fewest: int, warned: bool) -> None:
    text = describe_few_patients([estimate(100), estimate(100), estimate(fewest)])
    assert (f"here {fewest}" in text) == warned


def test_a_metric_without_an_interval_needs_no_warning() -> None:
    assert describe_few_patients([estimate(0, low=None)]) == ""


def test_the_largest_number_of_left_out_resamples_is_stated() -> None:
    assert "up to 12" in describe_left_out([estimate(3, left_out=12), estimate(9, left_out=2)])
    assert describe_left_out([estimate(9)]) == ""


@pytest.mark.parametrize(("scans", "named"), [(1, 3), (2, 2), (3, 2), (4, 1), (7, 1), (8, 0), (100, 0)])
def test_rates_that_allow_no_false_positive_at_all_are_named(scans: int, named: int) -> None:
    assert describe_few_scans(scans, FROC_RATES).count("1/") == named
