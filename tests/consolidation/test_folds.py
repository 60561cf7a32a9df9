from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.consolidation.folds import ValidatedFolds, load_validated_folds
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.system.json_files import write_json
from tests.consolidation.factory import NAME, Blob, write_fold, write_raw

BLOBS = [Blob((4, 4, 4, 7, 7, 7), 0.9, 0.9)]


@pytest.fixture
def root(tmp_path: Path, tiny_plans: Plans) -> Path:
    """Folds 0 (cases a and c) and 1 (case b), and a case d that no fold validated."""
    write_raw(tmp_path, {case_id: np.zeros((4, 4, 4), np.uint8) for case_id in "abcd"})
    write_fold(tmp_path, "0", {"c": BLOBS, "a": BLOBS}, tiny_plans)
    write_fold(tmp_path, "1", {"b": BLOBS}, tiny_plans)
    return tmp_path


def load(root: Path, *folds: str | int) -> ValidatedFolds:
    return load_validated_folds(load_raw_dataset(root / "raw" / NAME), root / "results" / NAME, folds)


def refuse(root: Path, *folds: str | int) -> DetSeg3DError:
    """The error of loading these folds."""
    with pytest.raises(DetSeg3DError) as caught:
        load(root, *folds)
    return caught.value


def fold(root: Path, name: str) -> Path:
    return root / "results" / NAME / f"fold_{name}"


def test_each_case_comes_from_the_fold_that_validated_it(root: Path, tiny_plans: Plans) -> None:
    found = load(root, 0, "1")
    assert [(case.case_id, case.fold) for case in found.cases] == [("a", "0"), ("b", "1"), ("c", "0")]
    for case in found.cases:
        assert case.candidates == fold(root, case.fold) / "validation" / "candidates" / f"{case.case_id}.npz"
        assert case.label == root / "raw" / NAME / "labelsTr" / f"{case.case_id}.mha"
    assert (found.folds, found.plans, found.failures) == (("0", "1"), tiny_plans, {})
    assert found.weights == {f"fold_{n}": hashlib.sha256(f"weights of {n}".encode()).hexdigest() for n in (0, 1)}
    assert [lesion.case for lesion in found.true_boxes] == ["c", "a", "b"]


def test_only_the_folds_named_are_pooled(root: Path) -> None:
    assert [case.case_id for case in load(root, 1).cases] == ["b"]


def test_without_names_all_numbered_folds_are_pooled(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset, results = load_raw_dataset(root / "raw" / NAME), root / "results" / NAME
    (results / "fold_all").mkdir()
    found = load_validated_folds(dataset, results)
    assert found.folds == ("0", "1") and [case.case_id for case in found.cases] == ["a", "b", "c"]
    assert "1 of 4 cases were not validated by any of the folds" in caplog.text
    (results / "fold_3").mkdir()
    with pytest.raises(DetSeg3DError) as caught:
        load_validated_folds(dataset, results)
    assert caught.value.file == results / "fold_2" / "validation"


def test_a_fold_named_twice_counts_once(root: Path) -> None:
    assert [case.case_id for case in load(root, 1, "1").cases] == ["b"]


def test_the_fold_of_all_cases_is_refused(root: Path, tiny_plans: Plans) -> None:
    write_fold(root, "all", {"d": BLOBS}, tiny_plans)
    assert refuse(root, 0, "all").file == fold(root, "all")


@pytest.mark.parametrize("name", ["2", "0"])
def test_a_fold_without_candidates_is_named(root: Path, name: str) -> None:
    for file in fold(root, "0").glob("validation/candidates/*"):
        file.unlink()
    error = refuse(root, 1, name)
    assert error.file == fold(root, name) / "validation"
    assert f"detseg3d_train {NAME} {name} --val" in str(error.remedy)


def test_folds_that_share_a_case_are_refused(root: Path, tiny_plans: Plans) -> None:
    write_fold(root, "2", {"d": BLOBS, "c": BLOBS}, tiny_plans)
    error = refuse(root, 0, 1, 2)
    assert (error.value, error.file) == ("c", fold(root, "2") / "validation" / "candidates" / "c.npz")


def test_an_incomplete_validation_is_refused(root: Path) -> None:
    (fold(root, "0") / "validation" / "summary.json").unlink()
    error = refuse(root, 0, 1)
    assert error.file == fold(root, "0") / "validation" / "summary.json"
    assert f"{NAME} 0 --val" in str(error.remedy)


@pytest.mark.parametrize("summary", [[], {"cases": []}, {"cases": [{}], "problems": []}, {"cases": 1, "problems": []}])
def test_a_damaged_summary_is_named(root: Path, summary: Any) -> None:
    write_json(summary, fold(root, "0") / "validation" / "summary.json")
    assert refuse(root, 0).file == fold(root, "0") / "validation" / "summary.json"


def test_candidates_of_an_earlier_validation_are_not_pooled(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The splits were changed, and the fold has trained on the case since."""
    write_json({"cases": [{"case_id": "a"}], "problems": []}, fold(root, "0") / "validation" / "summary.json")
    found = load(root, 0, 1)
    assert [case.case_id for case in found.cases] == ["a", "b"] and found.failures == {}
    assert [lesion.case for lesion in found.true_boxes] == ["a", "b"]
    assert "fold 0: the stored candidates of 1 case(s) are older than the last validation" in caplog.text


def test_cases_whose_validation_failed_are_reported(root: Path) -> None:
    problems = [{"case_id": "c", "problem": "no prediction in validation"}]
    summary = {"cases": [{"case_id": "a"}, {"case_id": "d"}], "problems": problems}
    write_json(summary, fold(root, "0") / "validation" / "summary.json")
    found = load(root, 0)
    assert [case.case_id for case in found.cases] == ["a"]
    assert found.failures == {
        "c": "validation of fold 0: no prediction in validation",
        "d": "fold 0 has no candidates of this case",
    }


def test_files_of_a_killed_process_are_ignored(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (fold(root, "0") / "validation" / "candidates" / ".1234.partial.c.npz").write_bytes(b"")
    assert len(load(root, 0).cases) == 2 and caplog.text == ""


def test_a_case_without_a_label_is_named(root: Path) -> None:
    (root / "raw" / NAME / "labelsTr" / "a.mha").unlink()
    assert refuse(root, 0).value == "a"


def test_a_fold_without_weights_is_named(root: Path) -> None:
    (fold(root, "1") / "model_final.safetensors").unlink()
    assert refuse(root, 0, 1).file == fold(root, "1") / "model_final.safetensors"


def test_weights_newer_than_the_candidates_are_noticed(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    load(root, 0, 1)
    assert caplog.text == ""
    os.utime(fold(root, "1") / "model_final.safetensors", (4e9, 4e9))
    load(root, 0, 1)
    assert "fold 1: 1 of 1 stored candidates are older than the weights" in caplog.text
    assert "fold 0" not in caplog.text


# -- Plans -------------------------------------------------------------------------------------------------------------


def test_a_fold_planned_before_the_spacing_of_arrays_was_kept_is_pooled(root: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans.evolve(default_spacing=(3.0, 1.0, 1.0)), fold(root, "1") / "plans.json")
    assert load(root, 0, 1).folds == ("0", "1")


def test_folds_of_different_networks_are_refused(root: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans.evolve(roi={"margin": 0.5}), fold(root, "1") / "plans.json")
    assert refuse(root, 0, 1).file == fold(root, "1") / "plans.json"


@pytest.mark.parametrize(
    ("name", "value"),
    [("candidate_threshold", 0.3), ("suppression_distance", 0.25), ("suppression_iou", 0.2), ("mirror_axes", (0,))],
)
def test_candidates_found_under_different_settings_are_refused(
    root: Path, tiny_plans: Plans, name: str, value: Any
) -> None:
    save_plans(tiny_plans.evolve(inference={name: value}), fold(root, "1") / "plans.json")
    error = refuse(root, 0, 1)
    assert (error.file, error.value) == (fold(root, "1") / "plans.json", f"{name} {value}")
    assert error.expected == f"{name} {getattr(tiny_plans.inference, name)}, as fold 0"


def test_other_thresholds_are_logged_and_those_of_the_first_fold_are_used(
    root: Path, tiny_plans: Plans, caplog: pytest.LogCaptureFixture
) -> None:
    save_plans(tiny_plans.evolve(inference={"mask_threshold": 0.7}), fold(root, "1") / "plans.json")
    assert load(root, 0, 1).plans.inference.mask_threshold == 0.5
    assert "the plans of fold_1 have other thresholds than those of fold_0" in caplog.text


def test_another_length_of_training_does_not_matter(root: Path, tiny_plans: Plans) -> None:
    save_plans(tiny_plans.evolve(training={"steps": 7}), fold(root, "1") / "plans.json")
    assert len(load(root, 0, 1).cases) == 3


# -- True boxes --------------------------------------------------------------------------------------------------------


def test_the_dice_of_the_true_boxes_may_be_missing(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (fold(root, "0") / "validation" / "true_boxes.json").unlink()
    assert [lesion.case for lesion in load(root, 0, 1).true_boxes] == ["b"]
    assert "fold 0 has no Dice of the true boxes" in caplog.text


@pytest.mark.parametrize("rows", [{}, [1], [{"case": "a", "voxels": 3}]])
def test_a_damaged_file_of_true_boxes_is_named(root: Path, rows: Any) -> None:
    write_json(rows, fold(root, "0") / "validation" / "true_boxes.json")
    error = refuse(root, 0)
    assert error.file == fold(root, "0") / "validation" / "true_boxes.json"
    assert f"{NAME} 0 --val" in str(error.remedy)
