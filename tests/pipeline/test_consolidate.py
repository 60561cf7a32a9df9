from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.consolidation import count_table as count_table_module
from detseg3d.consolidation.objective import Objective
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import ModelFolder, PredictionFolder
from detseg3d.data.images import read_geometry, read_image, write_image
from detseg3d.evaluation.cross_validation import ScanCounts
from detseg3d.evaluation.scores.calibration import apply_calibration
from detseg3d.inference.candidates import load_candidates, save_candidates
from detseg3d.inference.operating_point import load_operating_point
from detseg3d.pipeline import consolidate as consolidate_module
from detseg3d.pipeline.consolidate import ConsolidationResult, consolidate
from detseg3d.planning.plans import Plans
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.run import Run
from tests.consolidation.factory import (
    NAME,
    Blob,
    Box,
    filled,
    make_candidates,
    write_fold,
    write_raw,
)

A: Box = (4, 4, 4, 7, 7, 7)
B: Box = (16, 4, 4, 19, 7, 7)
C: Box = (4, 18, 4, 7, 21, 7)
D: Box = (16, 18, 18, 19, 21, 21)


def blob(box: Box, score: float, **more: Any) -> Blob:
    return Blob(box, score, score, **more)


CASES = {
    "0": {"a": [blob(A, 0.9), blob(B, 0.8), blob(C, 0.6)], "b": [blob(A, 0.85), blob(D, 0.58)]},
    "1": {"c": [blob(B, 0.7), blob(C, 0.75), blob(D, 0.55)], "healthy": [blob(A, 0.6)]},
}
# In each fold there are two patients, and what is gained is gained in both.
LABELS = {
    "a": (filled(A, B) > 0).astype(np.uint8),
    "b": (filled(A, C) > 0).astype(np.uint8),
    "c": (filled(B, C) > 0).astype(np.uint8),
    "healthy": filled().astype(np.uint8),
}
# Six lesions. At the plan's 0.4 five are found, with a false positive in every case; above 0.6 without any.


def write(root: Path, plans: Plans, labels: dict[str, np.ndarray] | None = None, **more: Any) -> None:
    write_raw(root, labels or LABELS, **more)
    for name, cases in CASES.items():
        write_fold(root, name, cases, plans)


def run(root: Path, folds: Sequence[str | int] = (0, 1), **options: Any) -> ConsolidationResult:
    return consolidate(
        root / "raw" / NAME, root / "results" / NAME, folds, **{"run": Run(show_progress=False), **options}
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """Two validated folds; read it only."""
    folder = tmp_path_factory.mktemp("consolidate")
    write(folder, tiny_plans)
    return folder


@pytest.fixture(scope="module")
def result(root: Path) -> ConsolidationResult:
    return run(root)


# -- The whole ---------------------------------------------------------------------------------------------------------


def test_the_operating_point_is_better_than_the_plan(result: ConsolidationResult) -> None:
    choice = result.summary.choice
    chosen = choice.metrics.chosen_on_the_same_scans
    assert choice.metrics.plan.f1_iou_0_1 == pytest.approx(2 * (5 / 6) * (5 / 9) / (5 / 6 + 5 / 9))
    assert (chosen.precision_iou_0_1, chosen.recall_iou_0_1) == (1.0, pytest.approx(5 / 6))
    assert chosen.f1_iou_0_1 == pytest.approx(10 / 11) and choice.target_reached
    assert choice.thresholds.minimum_volume_mm3 == 0.0
    assert (choice.true_lesions, choice.true_lesions_below_minimum) == (6, 0)


def test_scores_are_calibrated_by_what_was_seen(result: ConsolidationResult) -> None:
    """By hand: the first four of nine scores are none, the others are; each score is a block of its own kind."""
    none, some = [0.55, 0.58, 0.6, 0.6], [0.7, 0.75, 0.8, 0.85, 0.9]
    expected = [(0, 0), (np.mean(none), 0.5 / 5), (np.mean(some), 5.5 / 6), (1, 1)]
    assert np.allclose(result.point.inference.calibration, expected, atol=1e-6)


def test_the_threshold_of_the_plan_is_put_on_the_calibrated_scale(
    result: ConsolidationResult, tiny_plans: Plans
) -> None:
    threshold = apply_calibration(result.point.inference.calibration, [tiny_plans.inference.score_threshold])[0]
    assert result.summary.choice.thresholds_of_the_plan.score_threshold == threshold


def test_the_operating_point_is_stored_with_the_model(root: Path, result: ConsolidationResult) -> None:
    point = load_operating_point(root / "results" / NAME)
    assert point == result.point and point is not None
    assert set(point.weights) == {"fold_0", "fold_1"} and point.objective == "highest lesion F1 (IoU ≥ 0.1)"
    chosen = result.summary.choice.thresholds
    for name in ("score_threshold", "candidate_threshold", "mask_threshold", "suppression_distance", "suppression_iou"):
        assert getattr(point.inference, name) == getattr(chosen, name)


def test_the_masks_are_those_of_the_operating_point(root: Path, result: ConsolidationResult) -> None:
    wanted = {"a": filled(A, B), "b": filled(A), "c": filled(B, C), "healthy": filled()}
    for case_id, instances in wanted.items():
        semantic, geometry = read_image(result.predictions / f"{case_id}.mha")
        np.testing.assert_array_equal(semantic > 0, instances > 0)
        label = root / "raw" / NAME / "labelsTr" / f"{case_id}.mha"
        assert geometry == read_geometry(label) and geometry.origin == (3.5, -20.0, 0.25)
        record = read_json(result.predictions / "rois" / f"{case_id}.json")
        assert len(record["lesions"]) == len(np.unique(instances)) - 1
        assert all(lesion["score"] >= result.point.inference.score_threshold for lesion in record["lesions"])


def test_the_report_is_written(root: Path, result: ConsolidationResult) -> None:
    report = read_json(root / "results" / NAME / "cross_validation" / "consolidation.json")
    assert report == json.loads(json.dumps(result.summary.to_json()))
    assert (report["dataset"], report["folds"], report["cases"], report["failures"]) == (NAME, ["0", "1"], 4, {})
    assert len(report["sweep"]) == report["choice"]["settings_tried"]
    assert set(report["choice"]["thresholds_chosen_without_each_fold"]) == {"0", "1"}
    assert [stage.found for stage in result.summary.attribution.stages[1:]] == [5, 5, 5, 5]
    assert result.summary.attribution.dice_in_true_boxes == 0.5
    assert (result.cases, result.failures) == (("a", "b", "c", "healthy"), {})


@pytest.mark.slow
def test_worker_processes_give_the_same(
    result: ConsolidationResult, tmp_path: Path, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step of the search has to do: to start workers takes seconds, each time."""
    here = count_table_module.map_cases
    steps: list[str] = []

    def count(function: Any, items: Any, name: Any, what: str, run: Run) -> Any:
        steps.append(what)
        first = what == "mask threshold" and steps.count(what) == 1
        return here(function, items, name, what, replace(run, processes=int(first)))

    monkeypatch.setattr(count_table_module, "map_cases", count)
    write(tmp_path, tiny_plans)
    again = run(tmp_path, run=Run(1))
    assert "mask threshold" in steps
    assert (again.summary, again.point) == (result.summary, result.point)


def test_a_target_is_served(tmp_path: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, tiny_plans)
    choice = run(tmp_path, objective=Objective(target_recall=0.5)).summary.choice
    chosen = choice.metrics.chosen_on_the_same_scans
    assert chosen.recall_iou_0_1 >= 0.5 and chosen.precision_iou_0_1 == 1.0 and choice.target_reached
    assert choice.objective == "highest precision at a lesion recall of 0.5 or more (IoU ≥ 0.1)"
    assert caplog.text == ""


def test_an_unreached_target_is_a_warning(tmp_path: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, tiny_plans)
    choice = run(tmp_path, objective=Objective(target_recall=0.9)).summary.choice
    recall = choice.metrics.chosen_on_the_same_scans.recall_iou_0_1
    assert recall == pytest.approx(5 / 6) and not choice.target_reached
    assert "The target was not reached" in caplog.text
    assert "recall 0.833 with 0.00 false positives per scan" in caplog.text


def test_a_smallest_volume_is_a_warning(tmp_path: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    specks = [blob((12, 2 + 6 * n, 24, 13, 3 + 6 * n, 25), 0.95) for n in range(4)]
    label = (filled(A, B, C, (21, 2, 2, 22, 3, 3)) > 0).astype(np.uint8)
    write_raw(tmp_path, dict.fromkeys("abc", label))
    found = [blob(A, 0.9), blob(B, 0.9), blob(C, 0.9), *specks]
    write_fold(tmp_path, "0", dict.fromkeys("abc", found), tiny_plans)
    result = run(tmp_path, [0])
    choice = result.summary.choice
    # 3 of 4 lesions in 7 predictions, or in 3; the fourth is a single voxel itself.
    assert choice.thresholds.minimum_volume_mm3 == 1.5 == result.point.inference.minimum_volume_mm3
    f1 = choice.metrics.chosen_on_the_same_scans.f1_iou_0_1
    assert (choice.f1_without_minimum, f1) == (pytest.approx(6 / 11), pytest.approx(6 / 7))
    assert (choice.true_lesions_below_minimum, choice.true_lesions) == (3, 12)
    assert (
        "lesions under 1.5 mm³ are left out of every prediction. The F1 is 0.857 with this rule and 0.545 without it"
        in caplog.text
    )
    assert "3 of 12 true lesions are smaller" in caplog.text


def test_a_scan_threshold_is_a_warning(tmp_path: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    healthy = {f"h{n}": [blob(C, 0.6)] for n in range(4)}
    full = {f"l{n}": [blob(A, 0.9), blob(B, 0.55)] for n in range(12)}
    labels = {name: np.zeros(filled(A).shape, np.uint8) for name in healthy}
    write_raw(tmp_path, labels | {name: (filled(A, B) > 0).astype(np.uint8) for name in full})
    write_fold(tmp_path, "0", healthy | full, tiny_plans)
    choice = run(tmp_path, [0]).summary.choice
    assert choice.thresholds.scan_threshold > 0.0
    assert choice.metrics.chosen_on_the_same_scans.dice == 1.0
    assert choice.scans == ScanCounts(with_lesions=12, missed=0, without_lesions=4, clean=4)
    assert "4 of 4 scans without true lesions, and to 0 of 12 scans with true lesions" in caplog.text


# -- What may be otherwise ---------------------------------------------------------------------------------------------


def test_classes_have_their_own_labels(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(class_names=["cyst", "tumour"], class_labels=[1, 2])
    label = (filled(A, B) > 0).astype(np.uint8)
    label[filled(B) > 0] = 2
    write_raw(tmp_path, {"a": label, "b": label}, classes=("cyst", "tumour"))
    good = [blob(A, 0.9), blob(B, 0.9, of_class=1)]
    write_fold(tmp_path, "0", {"a": [*good, blob(C, 0.3)]}, plans)
    write_fold(tmp_path, "1", {"b": [blob(A, 0.8, of_class=1), blob(B, 0.85, of_class=1)]}, plans)
    result = run(tmp_path)
    # At the plan's threshold, which is kept, since two patients in two folds tell nothing.
    metrics = result.summary.choice.metrics.cross_fitted
    assert metrics is not None
    assert (metrics.found_iou_0_1, metrics.lesions, metrics.predictions) == (3, 4, 4)
    np.testing.assert_array_equal(read_image(result.predictions / "a.mha")[0], label)


def test_instance_maps_are_taken_as_they_are(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(instances=True)
    touching: Box = (4, 4, 7, 7, 7, 9)
    write_raw(tmp_path, {"a": filled(A, touching) * 300}, instances=True)
    write_fold(tmp_path, "0", {"a": [blob(A, 0.9), blob(touching, 0.8), blob(D, 0.6)]}, plans)
    choice = run(tmp_path, [0]).summary.choice
    assert (choice.true_lesions, choice.metrics.plan.found_iou_0_1) == (2, 2)


def test_a_calibration_of_the_plan_is_replaced(tmp_path: Path, tiny_plans: Plans, result: ConsolidationResult) -> None:
    """Its thresholds of 0.1 and 0.0875 mean raw scores of 0.4 and 0.35, as in the plan without one."""
    calibrated = {"calibration": ((0, 0), (0.4, 0.1), (1, 1)), "score_threshold": 0.1, "growth_threshold": 0.0875}
    write(tmp_path, tiny_plans.evolve(inference=calibrated))
    again = run(tmp_path)
    assert again.point.inference.calibration == result.point.inference.calibration
    assert again.summary.choice == result.summary.choice


def test_arrays_have_the_spacing_of_the_data_set(tmp_path: Path, tiny_plans: Plans) -> None:
    spacing = (2.0, 1.0, 0.5)
    raw = write_raw(tmp_path, {"a": LABELS["a"]}, default_spacing=list(spacing))
    for part in ("labelsTr/a", "imagesTr/a_0000"):
        (raw / f"{part}.mha").unlink()
        np.save(raw / f"{part}.npy", LABELS["a"])
    write_json({**read_json(raw / "dataset.json"), "file_ending": ".npy"}, raw / "dataset.json")
    write_fold(tmp_path, "0", {"a": make_candidates(CASES["0"]["a"][:2], spacing=spacing)}, tiny_plans)
    result = run(tmp_path, [0])
    assert read_json(result.predictions / "rois" / "a.json")["spacing"] == list(spacing)
    np.testing.assert_array_equal(np.load(result.predictions / "a.npy"), LABELS["a"])


def test_a_case_without_candidates_counts(tmp_path: Path, tiny_plans: Plans) -> None:
    write_raw(tmp_path, {"a": LABELS["a"], "b": LABELS["b"]})
    write_fold(tmp_path, "0", {"a": CASES["0"]["a"], "b": []}, tiny_plans)
    choice = run(tmp_path, [0]).summary.choice
    assert choice.metrics.plan.recall_iou_0_1 == 0.5  # 2 of 4


# -- What goes wrong ---------------------------------------------------------------------------------------------------


def test_nothing_predicted_is_nothing_to_choose_from(tmp_path: Path, tiny_plans: Plans) -> None:
    write_raw(tmp_path, {"a": LABELS["a"]})
    write_fold(tmp_path, "0", {"a": []}, tiny_plans)
    with pytest.raises(DetSeg3DError) as caught:
        run(tmp_path, [0])
    assert caught.value.file == tmp_path / "results" / NAME


def test_all_cases_that_cannot_be_read_are_named(tmp_path: Path, tiny_plans: Plans) -> None:
    write(tmp_path, tiny_plans)
    (tmp_path / "raw" / NAME / "labelsTr" / "a.mha").write_bytes(b"")
    PredictionFolder(tmp_path / "results" / NAME / "fold_1" / "validation").candidates("c").write_bytes(b"")
    with pytest.raises(DetSeg3DError, match=r"(?s)2 case\(s\) cannot be used:\n  a: .*a\.mha.*\n  c: .*c\.npz"):
        run(tmp_path)
    assert load_operating_point(tmp_path / "results" / NAME) is None


@pytest.mark.parametrize("how", ["shape", "spacing"])
def test_candidates_of_another_grid_are_refused(tmp_path: Path, tiny_plans: Plans, how: str) -> None:
    write_raw(tmp_path, {"a": LABELS["a"]})
    shape, spacing = ((24, 26, 29), (1.0, 1.0, 1.0)) if how == "shape" else ((24, 26, 28), (1.0, 1.0, 1.1))
    write_fold(tmp_path, "0", {"a": make_candidates([blob(A, 0.9)], shape, spacing)}, tiny_plans)
    with pytest.raises(DetSeg3DError) as caught:
        run(tmp_path, [0])
    assert caught.value.file == ModelFolder(tmp_path / "results" / NAME).fold(0).validation.candidates("a")
    assert "--val" in str(caught.value.remedy)


def test_candidates_of_an_unknown_class_are_refused(tmp_path: Path, tiny_plans: Plans) -> None:
    write_raw(tmp_path, {"a": LABELS["a"]})
    write_fold(tmp_path, "0", {"a": [blob(A, 0.9, of_class=1)]}, tiny_plans)
    with pytest.raises(DetSeg3DError) as caught:
        run(tmp_path, [0])
    assert (caught.value.value, caught.value.expected) == (1, "one of lesion (0 to 0)")


def test_a_mask_that_cannot_be_written_is_reported_and_the_others_are(
    tmp_path: Path, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, tiny_plans)
    original = consolidate_module.write_case

    def fail(prediction: Any, case_id: str, folder: Path, ending: str) -> None:
        original(prediction, case_id, folder, ending)
        if case_id == "c":
            (folder / "rois" / "c.json").unlink()
            raise OSError("the disk is full")

    monkeypatch.setattr(consolidate_module, "write_case", fail)
    result = run(tmp_path)
    assert result.failures == {"c": "OSError: the disk is full"} and result.summary.failures == result.failures
    assert result.cases == ("a", "b", "c", "healthy") and "c failed: OSError: the disk is full" in caplog.text
    masks = {path.name for folder in (".", "instances") for path in (result.predictions / folder).glob("*.mha")}
    assert masks == {"a.mha", "b.mha", "healthy.mha"}  # no half of a result
    assert load_operating_point(tmp_path / "results" / NAME) == result.point


def test_cases_whose_validation_failed_are_reported(
    tmp_path: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, tiny_plans)
    file = tmp_path / "results" / NAME / "fold_0" / "validation" / "summary.json"
    write_json({"cases": [{"case_id": "a"}], "problems": [{"case_id": "b", "problem": "out of memory"}]}, file)
    result = run(tmp_path)
    assert result.cases == ("a", "c", "healthy") and list(result.failures) == ["b"]
    assert "b failed: validation of fold 0: out of memory" in caplog.text


def test_predictions_of_an_earlier_consolidation_do_not_stay(tmp_path: Path, tiny_plans: Plans) -> None:
    write(tmp_path, tiny_plans)
    folder = run(tmp_path).predictions
    for name in ("metrics.json", "metrics.csv", "metrics.md", "lesions.csv", "report.html"):
        (folder / name).write_text("of all folds", encoding="utf-8")
    own = folder / "my notes.txt"
    own.write_text("keep me", encoding="utf-8")
    write_image(LABELS["a"], read_geometry(folder / "a.mha"), folder / "another.mha")  # of no case of the data set
    run(tmp_path, [1])
    left = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    cases = {f"{place}{case}" for case in ("c.mha", "healthy.mha") for place in ("", "instances/")}
    assert left == cases | {
        "rois/c.json", "rois/healthy.json", "consolidation.json", "my notes.txt", "another.mha",
    }  # fmt: skip


def test_an_earlier_operating_point_stays_until_a_new_one_is_found(tmp_path: Path, tiny_plans: Plans) -> None:
    write(tmp_path, tiny_plans)
    before = run(tmp_path).point
    file = PredictionFolder(tmp_path / "results" / NAME / "fold_0" / "validation").candidates("a")
    kept = load_candidates(file)
    file.write_bytes(b"")
    with pytest.raises(DetSeg3DError):
        run(tmp_path, objective=Objective(target_fp=1.0))
    assert load_operating_point(tmp_path / "results" / NAME) == before
    assert (tmp_path / "results" / NAME / "cross_validation" / "a.mha").is_file()
    save_candidates(kept, file)
    after = run(tmp_path, objective=Objective(target_fp=1.0)).point
    assert after.objective != before.objective
