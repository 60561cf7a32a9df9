from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.evaluation.cross_validation import CalibrationSummary, Reliability
from detseg3d.evaluation.scores.calibration import expected_calibration_error, reliability_bins
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.html.crossval import (
    calibration_section,
    metrics_by_origin,
    operating_point_section,
    shift_section,
    stage_section,
)
from detseg3d.reporting.html.formatting import DASH
from tests.reporting.html.factory import Page, consolidation, shift_summary


def test_cross_fitted_metrics_come_first_and_metrics_of_the_same_scans_last() -> None:
    page = Page(metrics_by_origin(consolidation().choice))
    rows = page.rows(page.find("table")[0])
    assert [row[:2] for row in rows[1:]] == [
        ["cross-fitted: each fold with the thresholds chosen on the other folds", "0.688"],
        ["with the thresholds of the plan", "0.650"],
        ["chosen and evaluated on the same scans", "0.700"],
    ]
    assert page.find("p", class_="warn") == []
    assert rows[0][-3:] == ["lesions found", "predictions", "F1, any overlap"]
    assert rows[3][-3:] == ["40", "48", "0.750"]


def test_a_single_fold_has_no_cross_fitted_metrics_and_a_warning() -> None:
    page = Page(metrics_by_origin(consolidation(folds=1).choice))
    assert page.rows(page.find("table")[0])[1][1:] == [DASH] * 8
    assert page.find("p", class_="warn")[0]["text"] == ThresholdOrigin.SAME_SCANS.remark


def test_kept_thresholds_of_the_plan_are_explained() -> None:
    choice = replace(consolidation().choice, predicted_at_thresholds_of=ThresholdOrigin.PLAN)
    assert ThresholdOrigin.PLAN.remark in Page(metrics_by_origin(choice)).visible


def test_every_threshold_has_a_row_and_changed_values_are_bold() -> None:
    page = Page(operating_point_section(consolidation()))
    table = page.find("table")[1]
    assert [row[0] for row in page.rows(table)[1:]] == [field.label_with_unit for field in THRESHOLD_FIELDS]
    assert [cell["text"] for cell in page.find("td", within=table, class_="strong")] == ["0.450"]


def test_a_threshold_without_effect_is_a_dash() -> None:
    page = Page(operating_point_section(consolidation()))
    rows = {row[0]: row[1:] for row in page.rows(page.find("table")[1])}
    assert rows["smallest lesion (mm³)"] == [DASH, DASH]


def test_a_failed_case_is_named_and_escaped() -> None:
    summary = replace(consolidation(), failures={"case_<7>": "damaged"})
    page = Page(operating_point_section(summary))
    assert page.find("p", class_="warn")[0]["text"] == "These cases failed: case_<7>."


def test_the_reliability_of_both_scores_is_drawn_and_listed() -> None:
    scores, truth = [0.05, 0.95, 0.95, 0.45], [0, 1, 0, 1]
    both = Reliability(expected_calibration_error(scores, truth), tuple(reliability_bins(scores, truth)))
    page = Page(calibration_section(CalibrationSummary(both, both), folds=5))
    marks = [title["text"] for mark in page.find("g", class_="mark") for title in page.find("title", within=mark)]
    assert "raw score: 2 predictions with a mean score of 0.95; 0.50 are lesions" in marks
    rows = page.rows(page.find("table")[0])
    assert rows[1] == ["0.0 to 0.1", "1", "0.00", "1", "0.00"]
    assert rows[2] == ["0.1 to 0.2", "0", DASH, "0", DASH]
    assert "calibrated score, calibration error 0.375" in page.visible  # (0.05 + 2 · 0.45 + 0.55) / 4


@pytest.mark.parametrize(("folds", "claimed"), [(1, False), (5, True)])
def test_only_several_folds_calibrate_each_other(folds: int, claimed: bool) -> None:
    assert ("other folds" in calibration_section(consolidation().calibration, folds)) is claimed


def test_stages_are_fractions_by_size_and_empty_ranges_are_left_out() -> None:
    page = Page(stage_section(consolidation().attribution))
    rows = page.rows(page.find("table")[0])
    assert rows[0] == ["after", "all", "under 15 voxels"]
    assert rows[1] == ["Stage 1, stored candidates", "0.90", "0.90"]
    assert rows[-2:] == [["true lesions", "10", "10"], ["Dice of Stage 2, given the true boxes", "0.75", "0.75"]]


def test_a_dice_that_was_not_measured_is_a_dash() -> None:
    attribution = consolidation().attribution
    sizes = tuple(replace(size, dice=None) for size in attribution.by_size)
    page = Page(stage_section(replace(attribution, by_size=sizes, dice_in_true_boxes=None)))
    assert page.rows(page.find("table")[0])[-1][1:] == [DASH, DASH]


def test_shifted_scans_have_a_table_of_goals_and_a_table_of_changes() -> None:
    page = Page(shift_section(shift_summary()))
    goals, changes = (page.rows(table) for table in page.find("table"))
    assert [row[:3] for row in goals[1:]] == [
        ["home, in use", "unchanged", "0.800 [0.600, 0.900]"],
        ["home, in use", "shifted", "0.400"],
        ["robust", "unchanged", "0.790 [0.600, 0.900]"],
        ["robust", "shifted", "0.550"],
    ]
    assert changes[1] == ["thick slices z", "4", "50", "0.800", "0.234", "0.700", "0.345"]
