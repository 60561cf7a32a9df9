from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from detseg3d.evaluation.scores.calibration import expected_calibration_error, reliability_bins
from detseg3d.reporting.html.crossval import (
    calibration_section,
    metrics_by_origin,
    operating_point_section,
    stage_section,
)
from detseg3d.reporting.html.formatting import DASH
from tests.reporting.html.factory import Page, consolidation


def with_point(folds: int = 5, thresholds: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(consolidation(folds))
    data["operating_point"] |= changes
    data["operating_point"]["thresholds"] |= thresholds or {}
    return data


def test_the_cross_fitted_figure_stands_first_and_that_of_the_same_scans_last() -> None:
    page = Page(metrics_by_origin(consolidation()))
    rows = page.rows(page.find("table")[0])
    assert [row[:2] for row in rows[1:]] == [
        ["cross-fitted: each fold with the thresholds chosen on the other folds", "0.688"],
        ["with the thresholds of the plan", "0.650"],
        ["chosen and judged on the same scans", "0.700"],
    ]
    assert page.find("p", class_="warn") == []
    assert rows[0][-3:] == ["lesions found", "predictions", "F1, any overlap"]
    assert rows[3][-3:] == ["40", "48", "0.750"]


def test_thresholds_that_changed_stand_out() -> None:
    page = Page(operating_point_section(consolidation()))
    strong = page.find("td", within=page.find("table")[1], class_="strong")
    assert [cell["text"] for cell in strong] == ["0.450"]


def test_a_single_fold_has_no_cross_fitted_figure_and_says_so() -> None:
    page = Page(metrics_by_origin(consolidation(folds=1)))
    assert page.rows(page.find("table")[0])[1][1:] == [DASH] * 8
    assert "chosen on the same scans" in page.find("p", class_="warn")[0]["text"]


def test_a_plan_that_was_kept_is_said() -> None:
    text = Page(metrics_by_origin(with_point(predicted_at_thresholds_of="plan"))).visible
    assert "no others gained more than noise" in text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"target_reached": False}, "target was not reached"),
        (
            {
                "thresholds": {"minimum_volume_mm3": 4.0},
                "f1_without_minimum": 0.69,
                "true_lesions_below_minimum": 3,
                "true_lesions": 80,
            },
            "under 4.0 mm³ are left out (F1 0.700, without this rule 0.690). 3 of 80 true lesions",
        ),
        ({"thresholds": {"minimum_volume_mm3": 4.0}}, "are left out."),
        (
            {
                "thresholds": {"scan_threshold": 0.75},
                "scans": {"with_lesions": 36, "missed": 1, "without_lesions": 4, "clean": 3},
            },
            "a lesion of score 0.750 or more is reported without any: 3 of 4 scans without lesions, and 1 of 36",
        ),
    ],
)
def test_what_must_not_be_overlooked_is_said_aloud(changes: dict[str, Any], text: str) -> None:
    assert text in Page(operating_point_section(with_point(**changes))).find("p", class_="warn")[0]["text"]


def test_cases_that_failed_are_named() -> None:
    data = {**consolidation(), "failures": {"case_<7>": "damaged"}}
    assert "case_<7>" in Page(operating_point_section(data)).visible


def test_the_reliability_of_both_scores_is_drawn_and_listed() -> None:
    scores, truth = [0.05, 0.95, 0.95, 0.45], [0, 1, 0, 1]
    bins = [entry.to_json() for entry in reliability_bins(scores, truth)]
    both = {"ece": expected_calibration_error(scores, truth), "bins": bins}
    page = Page(calibration_section(json.loads(json.dumps({"before": both, "after": both})), folds=5))
    marks = [title["text"] for mark in page.find("g", class_="mark") for title in page.find("title", within=mark)]
    assert "raw score: 2 predictions with a mean score of 0.95; 0.50 are lesions" in marks
    rows = page.rows(page.find("table")[0])
    assert rows[1] == ["0.0 to 0.1", "1", "0.00", "1", "0.00"]
    assert rows[2] == ["0.1 to 0.2", "0", DASH, "0", DASH]
    assert "calibrated score, calibration error 0.375" in page.visible  # (0.05 + 2 · 0.45 + 0.55) / 4


def test_calibration_of_one_fold_does_not_claim_other_folds() -> None:
    assert "other folds" not in calibration_section(consolidation()["calibration"], folds=1)


def test_stages_are_shares_by_size_and_empty_bins_are_left_out() -> None:
    page = Page(stage_section(consolidation()["attribution"]))
    rows = page.rows(page.find("table")[0])
    assert rows[0] == ["after", "all", "under 15 voxels"]
    assert rows[1] == ["Stage 1, stored candidates", "0.90", "0.90"]
    assert rows[-2:] == [["true lesions", "10", "10"], ["Dice of Stage 2, given the true boxes", "0.75", "0.75"]]


def test_outlines_that_were_not_measured_are_dashes() -> None:
    data = copy.deepcopy(consolidation()["attribution"])
    data["stage2_true_boxes"] = {"mean": None, "by_size": []}
    page = Page(stage_section(data))
    assert page.rows(page.find("table")[0])[-1][1:] == [DASH, DASH]
