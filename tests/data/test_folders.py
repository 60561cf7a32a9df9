from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.data.folders import FoldFolder, ModelFolder, PredictionFolder


def test_a_model_lists_its_folds_without_replacements_locks_and_files(tmp_path: Path) -> None:
    model = ModelFolder(tmp_path)
    for folder in (model.fold(1).path, model.fold("all").path, model.fold(0).path, model.replacement(0).path):
        folder.mkdir()
    model.fold_lock(0).touch()
    (tmp_path / "fold_7").touch()
    assert [fold.name for fold in model.folds()] == ["0", "1", "all"]
    assert [fold.trains_all_cases for fold in model.folds()] == [False, False, True]


def test_a_model_folder_that_does_not_exist_has_no_folds(tmp_path: Path) -> None:
    assert ModelFolder(tmp_path / "missing").folds() == []


def test_weights_are_named_after_their_checkpoint() -> None:
    fold = FoldFolder(Path("fold_3"))
    assert fold.weights("final") == fold.final_weights == Path("fold_3/model_final.safetensors")
    assert fold.weights("best") == fold.best_weights == Path("fold_3/model_best.safetensors")


def test_a_case_keeps_the_dots_of_its_name() -> None:
    folder = PredictionFolder(Path("out"))
    assert folder.mask("a.b", ".nii.gz") == Path("out/a.b.nii.gz")
    assert folder.record("a.b") == Path("out/rois/a.b.json")
    assert folder.candidates("a.b") == Path("out/candidates/a.b.npz")
    assert folder.probabilities("a.b") == Path("out/probabilities/a.b.npz")


def test_all_files_of_a_case_lie_in_the_case_folders() -> None:
    folder = PredictionFolder(Path("out"))
    files = [folder.mask("a", ".mha"), folder.instances("a", ".mha"), folder.instance_classes("a")]
    files += [folder.record("a"), folder.probabilities("a"), folder.candidates("a")]
    assert {file.parent for file in files} == set(folder.case_folders)


@pytest.mark.parametrize("root", ["out", "/data/out", "."])
def test_a_prediction_folder_is_found_from_its_files(root: str) -> None:
    folder = PredictionFolder(Path(root))
    assert PredictionFolder.holding_instances(folder.instances("a", ".mha")) == folder
    assert PredictionFolder.holding_instances(folder.mask("a", ".mha")) is None
    assert PredictionFolder.holding_probabilities(folder.probabilities("a")) == folder
    assert PredictionFolder.holding_probabilities(folder.record("a")) is None
