"""The recall to expect on a scan that is unlike the training scans."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.evaluation.cross_validation import DifferenceShare, GoalMetrics, ShiftMetrics, ShiftSummary
from detseg3d.inference.expectation import ExpectationBasis, expect_recall
from detseg3d.planning.appearance.comparison import Difference
from detseg3d.planning.appearance.measures import Kind
from detseg3d.planning.thresholds import Thresholds
from tests.reporting.html.factory import pooled_metrics

SPACING = Difference(Kind.SPACING, True, 1.5)
DETAIL = Difference(Kind.DETAIL, True, 1.2)
NOISE = Difference(Kind.NOISE, True, 2.0)


def shift(name: str, recall: float, *differences: Difference) -> ShiftMetrics:
    """A shift of four scans with ten lesions, of which all scans have the given differences."""
    return ShiftMetrics(
        name=name,
        description=name,
        scans=4,
        unchanged=pooled_metrics(lesions=10),
        shifted=pooled_metrics(lesions=10, recall_iou_0_1=recall, found_iou_0_1=round(10 * recall)),
        differences=tuple(DifferenceShare(d.kind, d.is_higher, 1.0, d.size) for d in differences),
    )


def summary(*shifts: ShiftMetrics) -> ShiftSummary:
    metrics = pooled_metrics(recall_iou_0_1=0.8)
    goal = GoalMetrics(OperatingGoal.HOME, Thresholds(), metrics, metrics, None, None)
    return ShiftSummary(OperatingGoal.HOME, "medium", 12, 4, (goal,), shifts, 0.05, 0.15)


SHIFTS = summary(shift("thick_slices_z", 0.4, SPACING, DETAIL), shift("noise", 0.7, NOISE), shift("gamma", 0.6))


def test_the_shift_with_the_same_differences_is_the_most_similar_one() -> None:
    expected = expect_recall([SPACING, DETAIL], SHIFTS)
    assert (expected.basis, expected.shifts) == (ExpectationBasis.SIMILAR_SHIFTS, ("thick_slices_z",))
    assert (expected.recall_low, expected.recall_high, expected.home_recall) == (0.4, 0.4, 0.8)
    assert (expected.found, expected.lesions, expected.range) == (4, 10, "0.40")


def test_a_difference_in_the_other_direction_is_another_difference() -> None:
    thin = replace(SPACING, is_higher=False)
    assert expect_recall([thin], SHIFTS).basis is ExpectationBasis.ALL_SHIFTS


def test_without_a_similar_shift_the_range_over_all_shifts_is_stated() -> None:
    expected = expect_recall([Difference(Kind.LAYOUT, False, 1.0)], SHIFTS)
    assert (expected.basis, expected.range) == (ExpectationBasis.ALL_SHIFTS, "0.40 to 0.70")
    assert set(expected.shifts) == {"thick_slices_z", "noise", "gamma"} and expected.lesions == 30


def test_a_shift_that_shares_less_than_half_of_the_differences_is_not_similar() -> None:
    others = [Difference(kind, True, 1.0) for kind in (Kind.LAYOUT, Kind.HISTOGRAM)]
    assert expect_recall([NOISE, *others], SHIFTS).basis is ExpectationBasis.ALL_SHIFTS
    assert expect_recall([NOISE, others[0]], SHIFTS).shifts == ("noise",)


def test_two_shifts_that_are_equally_similar_give_a_range() -> None:
    twice = summary(shift("thick_slices_z", 0.4, SPACING), shift("other_spacing", 0.5, SPACING))
    expected = expect_recall([SPACING], twice)
    assert (expected.range, expected.found, expected.lesions) == ("0.40 to 0.50", 9, 20)


@pytest.mark.parametrize(("size", "more"), [(1.5, False), (2.5, True)])
def test_a_scan_that_differs_more_than_the_shifted_scans_is_noticed(size: float, more: bool) -> None:
    expected = expect_recall([replace(SPACING, size=size), DETAIL], SHIFTS)
    assert expected.differs_more is more and ("differs more" in expected.describe()) is more


def test_without_shifted_scans_the_recall_is_unknown() -> None:
    for shifts in (None, summary(), summary(replace(shift("noise", 0.0), shifted=pooled_metrics(lesions=0)))):
        expected = expect_recall([NOISE], shifts)
        assert (expected.basis, expected.range, expected.home_recall) == (ExpectationBasis.UNKNOWN, "unknown", None)
        assert "detseg3d_consolidate" in expected.describe()


def test_the_sentence_states_recall_change_and_number_of_lesions() -> None:
    text = expect_recall([SPACING, DETAIL], SHIFTS).describe()
    assert "0.40 instead of 0.80" in text and "thick slices z" in text and "4 of 10 lesions" in text


def test_the_json_holds_the_range_in_words() -> None:
    data = expect_recall([NOISE], SHIFTS).to_json()
    assert (data["basis"], data["range"], data["recall_low"], data["shifts"]) == (
        "similar shifts",
        "0.70",
        0.7,
        ["noise"],
    )
