from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.trained_models import no_trained_model, resolve_model

NAME = "Dataset001_Tiny"


def test_the_error_knows_what_the_folder_is_instead(tmp_path: Path) -> None:
    results, model = tmp_path / "results", tmp_path / "results" / NAME
    assert no_trained_model(model).value == "no such folder"
    (model / "fold_1").mkdir(parents=True)
    assert no_trained_model(model).value == "fold_1 without model_final.safetensors"
    (model / "fold_1" / "model_final.safetensors").write_bytes(b"weights")
    fold, root = no_trained_model(model / "fold_1"), no_trained_model(results)
    assert (fold.value, root.value) == ("the folder of a single fold", "1 model(s) in subfolders")
    assert str(model) in str(fold.remedy) and str(model) in str(root.remedy)
    (tmp_path / "other").mkdir()
    assert no_trained_model(tmp_path / "other").value == "an empty folder"
    assert no_trained_model(tmp_path).value == "other, results"


def test_a_model_is_found_by_number_or_name_and_several_are_refused(tmp_path: Path) -> None:
    for name in (NAME, "Dataset002_Tiny"):
        (tmp_path / name).mkdir()
    assert resolve_model(tmp_path, 1) == resolve_model(tmp_path, NAME) == tmp_path / NAME
    with pytest.raises(DetSeg3DError) as caught:
        resolve_model(tmp_path, "Tiny")
    assert caught.value.file == tmp_path
