"""Shifted validation scans are predicted, stored, and read by a consolidation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.consolidation.folds import ValidatedFolds, load_validated_folds
from detseg3d.consolidation.objective import Objective
from detseg3d.consolidation.shifted_scans import load_truth, read_shifted_record
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import FoldFolder
from detseg3d.data.images import read_channels
from detseg3d.inference.candidates import Candidates
from detseg3d.pipeline.consolidate import ConsolidationResult, consolidate
from detseg3d.pipeline.run import ExperimentOptions, run_experiment
from detseg3d.pipeline.shifted_validation import clear_shifted_scans, predict_shifted_scans
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingOptions
from tests.consolidation.factory import NAME, Blob, Box, filled, make_candidates, write_fold, write_raw

A: Box = (4, 4, 4, 10, 10, 10)
B: Box = (14, 4, 4, 20, 10, 10)
LABELS = {case_id: (filled(A, B) > 0).astype(np.uint8) for case_id in ("a", "b")}
BLOBS = [Blob(A, 0.9, 0.9), Blob(B, 0.85, 0.85)]


class FakePredictor:
    """Find one lesion of every scan, and fail in scans of the case ``broken``."""

    reference = None

    def __init__(self, plans: Plans, broken: str = "") -> None:
        self.plans, self.broken = plans, broken

    def read(self, case: Any, options: Any) -> Any:
        if case.case_id == self.broken:
            raise DetSeg3DError("the image is damaged", file=case.images[0].path)
        return read_channels(case.images)

    def find_candidates(self, images: np.ndarray, geometry: Any, similarity: Any, loose: bool) -> Candidates:
        assert loose and images.dtype == np.float32
        return make_candidates([Blob(A, 0.3, 0.3)], images.shape[1:], geometry.spacing)


@pytest.fixture
def fold(tmp_path: Path, tiny_plans: Plans) -> FoldFolder:
    write_raw(tmp_path, LABELS)
    return FoldFolder(write_fold(tmp_path, "0", {"a": BLOBS, "b": BLOBS}, tiny_plans))


def predict(root: Path, fold: FoldFolder, plans: Plans, count: int, broken: str = "") -> None:
    dataset = load_raw_dataset(root / "raw" / NAME)
    predictor: Any = FakePredictor(plans, broken)
    predict_shifted_scans(predictor, dataset, dataset.cases, fold, count, show_progress=False)


def validated(root: Path) -> ValidatedFolds:
    return load_validated_folds(load_raw_dataset(root / "raw" / NAME), root / "results" / NAME, ["0"])


def run(root: Path, **options: Any) -> ConsolidationResult:
    return consolidate(root / "raw" / NAME, root / "results" / NAME, ["0"], run=Run(0, False), **options)


def test_the_shifted_scans_of_a_fold_are_found_by_a_consolidation(
    tmp_path: Path, fold: FoldFolder, tiny_plans: Plans
) -> None:
    predict(tmp_path, fold, tiny_plans, 4)
    shifted = validated(tmp_path).shifted
    assert sorted((case.case_id, case.shift) for case in shifted) == [
        ("a", "gamma"),
        ("a", "thick_slices_z"),
        ("b", "fainter_lesions"),
        ("b", "gaussian_noise"),
    ]
    for case in shifted:
        truth = load_truth(case.label)
        assert len(truth) == 2 and (truth.shape == (24, 26, 28)) is (case.shift != "thick_slices_z")


def test_a_scan_that_fails_is_left_out(
    tmp_path: Path, fold: FoldFolder, tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    predict(tmp_path, fold, tiny_plans, 2, broken="a")
    record = read_shifted_record(fold.validation)
    assert record is not None and [scan.case_id for scan in record.scans] == ["b"]
    assert "the image is damaged" in caplog.text


def test_shifted_scans_of_other_weights_are_not_used(
    tmp_path: Path, fold: FoldFolder, tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    predict(tmp_path, fold, tiny_plans, 2)
    fold.final_weights.write_bytes(b"trained again")
    assert validated(tmp_path).shifted == {}
    assert "were predicted with other weights" in caplog.text


def test_nothing_is_written_if_no_shifted_scan_is_requested(
    tmp_path: Path, fold: FoldFolder, tiny_plans: Plans
) -> None:
    predict(tmp_path, fold, tiny_plans, 0)
    assert read_shifted_record(fold.validation) is None and not fold.validation.shifted_scans_folder.exists()


def test_earlier_shifted_scans_are_removed(tmp_path: Path, fold: FoldFolder, tiny_plans: Plans) -> None:
    predict(tmp_path, fold, tiny_plans, 1)
    clear_shifted_scans(fold.validation)
    assert read_shifted_record(fold.validation) is None and not fold.validation.shifted_scans_folder.exists()


def test_the_operating_point_states_the_metrics_at_home_and_on_shifted_scans(
    tmp_path: Path, fold: FoldFolder, tiny_plans: Plans
) -> None:
    predict(tmp_path, fold, tiny_plans, 4)
    result = run(tmp_path)
    shifts = result.point.shifts
    assert shifts is not None and shifts == result.summary.shifts
    assert (shifts.goal, shifts.scans, shifts.patients) == (OperatingGoal.ROBUST, 4, 2)
    home = shifts.goals[0]
    assert (home.goal, home.home.f1_iou_0_1, home.shifted.found_iou_0_1) == (OperatingGoal.HOME, 1.0, 0)
    assert sum(shift.scans for shift in shifts.by_shift) == 4


def test_without_shifted_scans_the_goal_is_home(tmp_path: Path, fold: FoldFolder) -> None:
    result = run(tmp_path)
    assert result.point.shifts is None and result.summary.shifts is None


def test_robust_thresholds_without_shifted_scans_are_refused(tmp_path: Path, fold: FoldFolder) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        run(tmp_path, goal=OperatingGoal.ROBUST)
    assert caught.value.file == fold.path.parent


def test_with_a_target_the_default_goal_is_home(tmp_path: Path, fold: FoldFolder, tiny_plans: Plans) -> None:
    predict(tmp_path, fold, tiny_plans, 2)
    result = run(tmp_path, objective=Objective(target_recall=0.5))
    assert result.point.shifts is not None and result.point.shifts.goal is OperatingGoal.HOME


def test_an_experiment_with_robust_thresholds_needs_shifted_scans(tmp_path: Path) -> None:
    """The contradiction is noticed before the training."""
    options = ExperimentOptions(goal=OperatingGoal.ROBUST, training=TrainingOptions(shifted_scans=0))
    with pytest.raises(DetSeg3DError) as caught:
        run_experiment(tmp_path / "images", tmp_path / "labels", tmp_path / "out", options)
    assert caught.value.value == 0 and not (tmp_path / "out").exists()
