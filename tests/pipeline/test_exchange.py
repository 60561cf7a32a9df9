from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import find_datasets
from detseg3d.inference.predictor import Predictor
from detseg3d.pipeline.exchange import export_model, install_model
from tests.scans import make_scan
from tests.shared_models import SECRET, absurd, changed_archive, edit, everything

NAME = "Dataset001_Tiny"
WEIGHTS = "fold_0/model_final.safetensors"


# -- Export ------------------------------------------------------------------------------------------------------------


def test_the_file_holds_what_a_model_is_and_nothing_else(archive: Path) -> None:
    with zipfile.ZipFile(archive) as handle:
        assert sorted(handle.namelist()) == [
            "cross_validation/metrics.json",
            "dataset.json",
            "dataset_fingerprint.json",
            "fold_0/appearance.json",
            "fold_0/model_final.safetensors",
            "fold_0/plans.json",
            "fold_1/appearance.json",
            "fold_1/model_final.safetensors",
            "fold_1/plans.json",
            "manifest.json",
            "operating_point.json",
            "plans.json",
        ]


def test_no_case_and_no_folder_is_named(whole_model: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive) as handle:
        content = b"".join(handle.read(name) for name in handle.namelist())
        metrics = json.loads(handle.read("cross_validation/metrics.json"))
        summary = json.loads(handle.read("dataset_fingerprint.json"))["summary"]
    for name in ("dataset.json", "dataset_fingerprint.json", "cross_validation/metrics.json"):
        assert SECRET in (whole_model / name).read_text(encoding="utf-8"), "the model itself names it"
    for text in (SECRET, json.dumps(SECRET)[1:-1], "/home/", str(whole_model)):
        assert text.encode() not in content
    assert metrics["summary"]["cases"] == summary["cases"] == 2 and summary["cases_without_lesions"] == 1


def test_the_best_weights_go_along_if_they_are_there(own_model: Path, tmp_path: Path) -> None:
    shutil.copyfile(own_model / WEIGHTS, own_model / "fold_0" / "model_best.safetensors")
    assert "fold_0/model_best.safetensors" in export_model(own_model, tmp_path / "m.zip").files


def test_only_the_folds_that_are_asked_for_are_exported(whole_model: Path, tmp_path: Path) -> None:
    files = export_model(whole_model, tmp_path / "m.zip", folds=[1]).files
    assert {name.split("/")[0] for name in files if name.startswith("fold_")} == {"fold_1"}


def test_a_model_of_nothing_but_folds_can_be_exported(tiny_model: Path, tmp_path: Path) -> None:
    names = {name.split("/")[0] for name in export_model(tiny_model, tmp_path / "m.zip").files}
    assert names == {"fold_0", "fold_1"}


def test_a_model_exported_again_after_its_installation_is_the_same_file(archive: Path, tmp_path: Path) -> None:
    done = install_model(archive, tmp_path / "results")
    export_model(done.folder, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == archive.read_bytes()


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
    (no_weights, r"the weights do not exist\n.*fold_0"),
    (no_plans, r"the file does not exist\n.*fold_1.plans\.json"),
    (truncated_weights, "the weights cannot be read"),
    (other_plans, "the folds were trained with different plans"),
    (weights_of_another_training, r"(?s)the operating point was chosen with other weights.*\['fold_0'\]"),
    (other_channels, "describes other channels or classes than the plans"),
    (no_metrics, r"the file is not what its name says\n.*metrics\.json"),
    (old_fingerprint, r"the file is not what its name says\n.*dataset_fingerprint\.json"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG)
def test_a_model_that_is_not_complete_is_not_exported(
    own_model: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(own_model)
    with pytest.raises(DetSeg3DError, match=message):
        export_model(own_model, tmp_path / "m.zip", folds=[0, 1])
    assert not (tmp_path / "m.zip").exists()


def test_folds_that_are_not_there_are_named(whole_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)these folds are not trained.*\['fold_7'\]"):
        export_model(whole_model, tmp_path / "m.zip", folds=[0, 7])


def test_a_file_of_another_ending_is_refused(whole_model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)exported as a zip file.*ends in \.zip"):
        export_model(whole_model, tmp_path / "model.pth")


# -- Installation ------------------------------------------------------------------------------------------------------


def test_the_installed_model_is_the_exported_one(whole_model: Path, archive: Path, tmp_path: Path) -> None:
    done = install_model(archive, tmp_path / "new" / "results")
    assert (done.folder, done.folds, done.kept) == (tmp_path / "new" / "results" / NAME, ("0", "1"), None)
    installed = everything(done.folder)
    for name in (WEIGHTS, "fold_0/plans.json", "fold_0/appearance.json", "fold_1/plans.json", "operating_point.json"):
        assert installed[name] == (whole_model / name).read_bytes()
    assert find_datasets(tmp_path / "new" / "results") == [done.folder]


def test_it_predicts_what_the_exported_one_predicts(whole_model: Path, archive: Path, tmp_path: Path) -> None:
    done = install_model(archive, tmp_path)
    image = make_scan(101)[0]
    first, second = (
        Predictor.from_model_folder(folder, device="cpu").predict_array(image, (1.0, 1.0, 1.0), keep_probabilities=True)
        for folder in (whole_model, done.folder)
    )
    assert first.probabilities is not None and second.probabilities is not None and first.lesions
    np.testing.assert_array_equal(first.instances, second.instances)
    np.testing.assert_array_equal(first.probabilities, second.probabilities)
    assert (first.lesions, first.candidates) == (second.lesions, second.candidates)


def test_it_can_have_another_name(archive: Path, tmp_path: Path) -> None:
    assert install_model(archive, tmp_path, name="Dataset901_Theirs").folder == tmp_path / "Dataset901_Theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["Dataset901_Theirs"]


@pytest.mark.parametrize("name", ["Theirs", "../Dataset901_X", "Dataset901_a/b", "Dataset901_a\x1b"])
def test_another_name_must_be_one(archive: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DetSeg3DError, match="name"):
        install_model(archive, tmp_path / "results", name=name)
    assert list(tmp_path.iterdir()) == []


# What an archive may hold that is right in size and digest, and no model: each is refused, and nothing is installed.


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: files.pop(name)}) if name not in files else files.__delitem__(name)


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: content})


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update(
        {WEIGHTS: save({name: change(tensor) for name, tensor in load(files[WEIGHTS]).items()})}
    )


def rename_channel(files: dict[str, bytes]) -> None:
    """The training scans of fold 0 have another channel than its plans."""
    data = json.loads(files["fold_0/appearance.json"])
    data["channels"][0]["name"] = "T1"
    files["fold_0/appearance.json"] = json.dumps(data).encode()


REFUSED = {
    "absurd plans": (absurd, "fold_0/plans.json: the plans have 1 problem"),
    "no fold": (
        lambda files: [files.pop(name) for name in list(files) if name.startswith("fold_")],
        "there is no trained fold",
    ),
    "no weights": (drop(WEIGHTS), r"fold_0/model_final\.safetensors: the weights do not exist"),
    "no plans of a fold": (drop("fold_1/plans.json"), r"fold_1/plans\.json: the file does not exist"),
    "nothing of the training scans of a fold": (drop("fold_1/appearance.json"), r"its training scans look like"),
    "training scans that are no JSON": (
        put("fold_0/appearance.json", b"["),
        r"fold_0/appearance\.json: the file is not",
    ),
    "an unknown entry of the training scans": (edit("fold_0/appearance.json", names=["x"]), r"names: Extra inputs"),
    "training scans of another channel": (rename_channel, r"fold_0/appearance\.json: .*other channels"),
    "code for weights": (put(WEIGHTS, b"\x80\x04cos\nsystem\n"), "the weights cannot be read"),
    "weights of half the size": (weights(lambda tensor: tensor.half()), "stored in another type"),
    "weights that are no numbers": (weights(lambda tensor: tensor * float("nan")), "no finite numbers"),
    "weights of another network": (weights(lambda tensor: tensor[None].clone()), "do not fit the plans"),
    "bad best weights": (put("fold_0/model_best.safetensors", b""), r"model_best\.safetensors: the weights cannot"),
    "plans that are no JSON": (put("plans.json", b"import os"), r"plans\.json: the file is not valid JSON"),
    "an operating point of its own": (edit("operating_point.json", code="x"), "the operating point has 1 problem"),
    "a dataset.json of a list": (put("dataset.json", b"[]"), r"dataset\.json must be an object"),
    "other classes": (edit("dataset.json", labels={"background": 0, "a": 1, "b": 2}), "other channels or classes"),
    "a fingerprint of nothing": (put("dataset_fingerprint.json", b"0"), "not what its name says"),
    "metrics of nothing": (put("cross_validation/metrics.json", b"{}"), "not what its name says"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_model_is_not_installed(archive: Path, tmp_path: Path, what: str) -> None:
    change, message = REFUSED[what]
    hostile = changed_archive(archive, tmp_path / "hostile.zip", change)
    with pytest.raises(DetSeg3DError, match=message) as caught:
        install_model(hostile, tmp_path / "results")
    assert caught.value.file == hostile
    assert list((tmp_path / "results").iterdir()) == []


def test_a_changed_archive_of_a_model_is_installed(archive: Path, tmp_path: Path) -> None:
    """The test above refuses what was changed and not that something was."""
    same = changed_archive(archive, tmp_path / "same.zip", edit("dataset.json", description="theirs"))
    assert install_model(same, tmp_path / "results").folds == ("0", "1")
