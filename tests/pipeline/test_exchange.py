from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import find_datasets
from detseg3d.inference.load_options import LoadOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.pipeline.exchange import export_model, install_model
from tests.scans import make_scan
from tests.shared_models import (
    SECRET,
    ModelContent,
    changed_model,
    edit,
    everything,
    read_content,
    with_absurd_plans,
)

NAME = "Dataset001_Tiny"
WEIGHTS = "fold_0/model_final.safetensors"


# -- Export ------------------------------------------------------------------------------------------------------------


DOCUMENTS = (
    "cross_validation/metrics.json",
    "dataset.json",
    "dataset_fingerprint.json",
    "fold_0/appearance.json",
    "fold_0/plans.json",
    "fold_1/appearance.json",
    "fold_1/plans.json",
    "operating_point.json",
    "plans.json",
)


def test_the_file_holds_the_model_and_nothing_else(whole_model: Path, model_file: Path) -> None:
    content = read_content(model_file)
    assert tuple(sorted(content.documents)) == DOCUMENTS
    assert content.name == NAME
    for fold in ("fold_0", "fold_1"):
        tensors = load_file(str(whole_model / fold / "model_final.safetensors"))
        stored = {name.partition("/")[2]: t for name, t in content.tensors.items() if name.startswith(f"{fold}/")}
        assert stored.keys() == tensors.keys()
        assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


def test_the_file_names_no_case_and_no_folder(whole_model: Path, model_file: Path) -> None:
    documents = read_content(model_file).documents
    metrics = json.loads(documents["cross_validation/metrics.json"])
    summary = json.loads(documents["dataset_fingerprint.json"])["summary"]
    for name in ("dataset.json", "dataset_fingerprint.json", "cross_validation/metrics.json"):
        assert SECRET in (whole_model / name).read_text(encoding="utf-8"), "the model itself names it"
    for text in (SECRET, json.dumps(SECRET)[1:-1], "/home/", str(whole_model)):
        assert text.encode() not in model_file.read_bytes()
        assert all(text not in document for document in documents.values())
    assert metrics["summary"]["cases"] == summary["cases"] == 2 and summary["cases_without_lesions"] == 1


def test_only_the_requested_folds_are_exported(whole_model: Path, tmp_path: Path) -> None:
    exported = export_model(whole_model, tmp_path / "m.safetensors", folds=[1])
    assert exported.folds == ("fold_1",)
    assert {name.split("/")[0] for name in exported.documents if name.startswith("fold_")} == {"fold_1"}
    assert {name.split("/")[0] for name in read_content(tmp_path / "m.safetensors").tensors} == {"fold_1"}


def test_a_model_of_folds_alone_can_be_exported(tiny_model: Path, tmp_path: Path) -> None:
    exported = export_model(tiny_model, tmp_path / "m.safetensors")
    assert exported.folds == ("fold_0", "fold_1")
    assert all(name.startswith("fold_") for name in exported.documents)


def test_equal_models_give_equal_files(whole_model: Path, model_file: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_model(whole_model, tmp_path / f"{name}.safetensors")
        assert (tmp_path / f"{name}.safetensors").read_bytes() == model_file.read_bytes()


def test_an_export_that_fails_leaves_the_earlier_file(
    whole_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    (tmp_path / "m.safetensors").write_bytes(b"earlier")
    monkeypatch.setattr("detseg3d.inference.model_file.save_file", fail)
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "m.safetensors")
    assert caught.value.file == tmp_path / "m.safetensors"
    assert (tmp_path / "m.safetensors").read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_a_model_exported_again_after_its_installation_is_the_same_file(model_file: Path, tmp_path: Path) -> None:
    installation = install_model(model_file, tmp_path / "results")
    export_model(installation.folder, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == model_file.read_bytes()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def no_plans(folder: Path) -> None:
    (folder / "fold_1" / "plans.json").unlink()


def truncated_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-4])


def other_plans(folder: Path) -> None:
    path = folder / "fold_1" / "plans.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**data, "fine_spacing": [2, 1, 1], "detection_spacing": [2, 1, 1]}), encoding="utf-8")


def weights_of_another_training(folder: Path) -> None:
    shutil.copyfile(folder / "fold_1" / "model_final.safetensors", folder / WEIGHTS)


def other_channels(folder: Path) -> None:
    data = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps({**data, "channel_names": {"0": "CT"}}), encoding="utf-8")


def no_metrics(folder: Path) -> None:
    (folder / "cross_validation" / "metrics.json").write_text("[]", encoding="utf-8")


def old_fingerprint(folder: Path) -> None:
    (folder / "dataset_fingerprint.json").write_text('{"version": 99}', encoding="utf-8")


WRONG = [
    (no_weights, WEIGHTS),
    (no_plans, "fold_1/plans.json"),
    (truncated_weights, WEIGHTS),
    (other_plans, "fold_1/plans.json"),
    (weights_of_another_training, "operating_point.json"),
    (other_channels, "dataset.json"),
    (no_metrics, "cross_validation/metrics.json"),
    (old_fingerprint, "dataset_fingerprint.json"),
]


@pytest.mark.parametrize(("damage", "file"), WRONG)
def test_a_model_that_is_not_complete_is_not_exported(
    own_model: Path, tmp_path: Path, damage: Callable[[Path], None], file: str
) -> None:
    damage(own_model)
    with pytest.raises(DetSeg3DError) as caught:
        export_model(own_model, tmp_path / "m.safetensors", folds=[0, 1])
    assert caught.value.file == own_model / file
    assert not (tmp_path / "m.safetensors").exists()


def test_missing_folds_are_named(whole_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "m.safetensors", folds=[0, 7])
    assert caught.value.value == ["fold_7"]


def test_a_file_of_another_ending_is_refused(whole_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "model.pth")
    assert caught.value.file == tmp_path / "model.pth" and ".safetensors" in str(caught.value.expected)


# -- Installation ------------------------------------------------------------------------------------------------------


def test_the_installed_model_is_the_exported_one(whole_model: Path, model_file: Path, tmp_path: Path) -> None:
    installation = install_model(model_file, tmp_path / "new" / "results")
    assert (installation.folder, installation.folds, installation.kept) == (
        tmp_path / "new" / "results" / NAME,
        ("0", "1"),
        None,
    )
    installed = everything(installation.folder)
    for name in (WEIGHTS, "fold_0/plans.json", "fold_0/appearance.json", "fold_1/plans.json", "operating_point.json"):
        assert installed[name] == (whole_model / name).read_bytes()
    assert find_datasets(tmp_path / "new" / "results") == [installation.folder]


def test_the_installed_model_predicts_like_the_exported_one(
    whole_model: Path, model_file: Path, tmp_path: Path
) -> None:
    installation = install_model(model_file, tmp_path)
    image = make_scan(101)[0]
    first, second = (
        Predictor.from_model_folder(folder, options=LoadOptions(device="cpu")).predict_array(
            image, (1.0, 1.0, 1.0), keep_probabilities=True
        )
        for folder in (whole_model, installation.folder)
    )
    assert first.probabilities is not None and second.probabilities is not None and first.lesions
    np.testing.assert_array_equal(first.instances, second.instances)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert (first.lesions, first.candidates) == (second.lesions, second.candidates)


def test_a_model_can_be_installed_under_another_name(model_file: Path, tmp_path: Path) -> None:
    assert install_model(model_file, tmp_path, name="Dataset901_Theirs").folder == tmp_path / "Dataset901_Theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset901_Theirs"]


@pytest.mark.parametrize("name", ["Theirs", "../Dataset901_X", "Dataset901_a/b", "Dataset901_a\x1b"])
def test_the_other_name_must_be_the_name_of_a_data_set(model_file: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        install_model(model_file, tmp_path / "results", name=name)
    assert caught.value.value == name
    assert list(tmp_path.iterdir()) == []


# Files in the right format that do not hold a complete model. Each file is refused, and nothing is installed.


def put(name: str, text: str) -> Callable[[ModelContent], object]:
    return lambda content: content.documents.update({name: text})


def rename_channel(content: ModelContent) -> None:
    """Give the training scans of fold 0 another channel than its plans."""
    data = json.loads(content.documents["fold_0/appearance.json"])
    data["channels"][0]["name"] = "T1"
    content.documents["fold_0/appearance.json"] = json.dumps(data)


def other_network_in_one_fold(content: ModelContent) -> None:
    data = json.loads(content.documents["fold_1/plans.json"])
    data["fine_spacing"] = data["detection_spacing"] = [2, 1, 1]
    content.documents["fold_1/plans.json"] = json.dumps(data)


REFUSED: dict[str, Callable[[ModelContent], object]] = {
    "absurd plans": with_absurd_plans,
    "an unknown entry of the training scans": edit("fold_0/appearance.json", names=["x"]),
    "training scans of another channel": rename_channel,
    "folds of two networks": other_network_in_one_fold,
    "plans of the model that are not plans": put("plans.json", "{}"),
    "an operating point with another entry": edit("operating_point.json", code="x"),
    "other classes": edit("dataset.json", labels={"background": 0, "a": 1, "b": 2}),
    "a fingerprint of another version": put("dataset_fingerprint.json", '{"version": 99}'),
    "empty metrics": put("cross_validation/metrics.json", "{}"),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_an_incomplete_model_is_not_installed(
    model_file: Path, tmp_path: Path, change: Callable[[ModelContent], object]
) -> None:
    hostile = changed_model(model_file, tmp_path / "hostile.safetensors", change)
    with pytest.raises(DetSeg3DError) as caught:
        install_model(hostile, tmp_path / "results")
    assert caught.value.file == hostile
    assert list((tmp_path / "results").iterdir()) == []


def test_a_changed_model_that_is_complete_is_installed(model_file: Path, tmp_path: Path) -> None:
    """The test above fails because of the wrong content, and not because a file was changed."""
    same = changed_model(model_file, tmp_path / "same.safetensors", edit("dataset.json", description="theirs"))
    assert install_model(same, tmp_path / "results").folds == ("0", "1")
