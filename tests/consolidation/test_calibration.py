"""Calibration of the scores of several folds."""

from __future__ import annotations

import numpy as np
import pytest

from detseg3d.consolidation.calibration import (
    ScoredLesions,
    calibration_errors,
    rescale_thresholds,
    summarize_calibration,
)
from detseg3d.planning.plans import Plans

PATIENTS = np.array([f"patient {number}" for number in range(200)])


def test_each_fold_is_calibrated_by_the_others() -> None:
    """Fold a shows that 0.5 means certainty, fold b that it means nothing: by the other each is as wrong as can be."""
    scored = ScoredLesions(np.full(200, 0.5), np.arange(200) < 100, np.array(["a"] * 100 + ["b"] * 100), PATIENTS)
    report = summarize_calibration(scored)
    assert report.before.expected_error == pytest.approx(0.0)  # half of all
    assert report.after.expected_error == pytest.approx(100.5 / 101)
    assert sum(entry.count for entry in report.after.bins) == 200


def test_a_single_fold_is_calibrated_by_itself() -> None:
    scored = ScoredLesions(np.full(100, 0.5), np.ones(100, bool), np.array(["a"] * 100), PATIENTS[:100])
    report = summarize_calibration(scored)
    assert (report.before.expected_error, report.after.expected_error) == (0.5, pytest.approx(0.5 / 101))


def test_thresholds_move_to_the_scale_of_the_calibration(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"score_threshold": 0.4, "growth_threshold": 0.2, "scan_threshold": 0.0})
    inference = rescale_thresholds(plans, ((0, 0), (0.4, 0.1), (1, 1))).inference
    assert (inference.score_threshold, inference.growth_threshold, inference.scan_threshold) == pytest.approx(
        (0.1, 0.05, 0.0)
    )
    again = rescale_thresholds(plans.evolve(inference=inference.model_dump()), ((0, 0), (1, 1))).inference
    assert again.score_threshold == pytest.approx(0.4)


def test_shifted_scans_are_calibrated_with_the_unchanged_scans_of_other_patients() -> None:
    """Unchanged, 65 % of the lesions are true; shifted, none. The calibrated 0.65 is right at home only."""
    folds = np.array(["0"] * 200)
    unchanged = ScoredLesions(np.full(200, 0.7), np.arange(200) % 20 < 13, folds, PATIENTS)
    shifted = ScoredLesions(np.full(200, 0.7), np.zeros(200, bool), folds, PATIENTS)
    home, away = calibration_errors(unchanged, shifted)
    assert home == pytest.approx(0.0, abs=0.01) and away == pytest.approx(0.65, abs=0.01)
