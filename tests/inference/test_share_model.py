from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from detseg3d.core.errors import DetSeg3DError
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.share_model import export_model, install_model
from detseg3d.io.paths import find_datasets
from tests.scans import make_scan
from tests.shared_models import SECRET, changed_archive, complete_model

NAME = "Dataset001_Tiny"
WEIGHTS = "fold_0/model_final.safetensors"


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return complete_model(tmp_path_factory.mktemp("theirs") / NAME, tiny_model)


@pytest.fixture(scope="module")
def archive(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "model.zip"
    export_model(model, path)
    return path


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A copy of the model to change."""
    return Path(shutil.copytree(model, tmp_path / "own" / NAME))


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- Export ------------------------------------------------------------------------------------------------------------


def test_the_file_holds_what_a_model_is_and_nothing_else(archive: Path) -> None:
    with zipfile.ZipFile(archive) as handle:
        assert sorted(handle.namelist()) == [
            "cross_validation/metrics.json",
            "dataset.json",
            "dataset_fingerprint.json",
            "fold_0/model_final.safetensors",
            "fold_0/plans.json",
            "fold_1/model_final.safetensors",
            "fold_1/plans.json",
            "manifest.json",
            "operating_point.json",
            "plans.json",
        ]


def test_no_case_and_no_folder_is_named(model: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive) as handle:
        content = b"".join(handle.read(name) for name in handle.namelist())
        metrics = json.loads(handle.read("cross_validation/metrics.json"))
    assert SECRET.encode() in (model / "dataset.json").read_bytes(), "the model itself names it"
    for text in (SECRET, json.dumps(SECRET)[1:-1], "/home/", str(model)):
        assert text.encode() not in content
    assert metrics["summary"] == {"dice": {"mean": 0.5}}


def test_the_best_weights_go_along_if_they_are_there(own: Path, tmp_path: Path) -> None:
    shutil.copyfile(own / WEIGHTS, own / "fold_0" / "model_best.safetensors")
    assert "fold_0/model_best.safetensors" in export_model(own, tmp_path / "m.zip").files


def test_only_the_folds_that_are_asked_for_are_exported(model: Path, tmp_path: Path) -> None:
    files = export_model(model, tmp_path / "m.zip", folds=[1]).files
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
    own: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(own)
    with pytest.raises(DetSeg3DError, match=message):
        export_model(own, tmp_path / "m.zip", folds=[0, 1])
    assert not (tmp_path / "m.zip").exists()


def test_folds_that_are_not_there_are_named(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)these folds are not trained.*\['fold_7'\]"):
        export_model(model, tmp_path / "m.zip", folds=[0, 7])


def test_a_file_of_another_ending_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)exported as a zip file.*ends in \.zip"):
        export_model(model, tmp_path / "model.pth")


# -- Installation ------------------------------------------------------------------------------------------------------


def test_the_installed_model_is_the_exported_one(model: Path, archive: Path, tmp_path: Path) -> None:
    done = install_model(archive, tmp_path / "new" / "results")
    assert (done.folder, done.folds, done.kept) == (tmp_path / "new" / "results" / NAME, ("0", "1"), None)
    installed = everything(done.folder)
    for name in (WEIGHTS, "fold_0/plans.json", "fold_1/plans.json", "operating_point.json"):
        assert installed[name] == (model / name).read_bytes()
    assert find_datasets(tmp_path / "new" / "results") == [done.folder]


def test_it_predicts_what_the_exported_one_predicts(model: Path, archive: Path, tmp_path: Path) -> None:
    done = install_model(archive, tmp_path)
    image = make_scan(101)[0]
    first, second = (
        Predictor.from_model_folder(folder, device="cpu").predict_array(image, (1.0, 1.0, 1.0), keep_probabilities=True)
        for folder in (model, done.folder)
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


def edit(name: str, **changes: object) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files[name] = json.dumps({**json.loads(files[name]), **changes}).encode()

    return change


def weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update(
        {WEIGHTS: save({name: change(tensor) for name, tensor in load(files[WEIGHTS]).items()})}
    )


def absurd(files: dict[str, bytes]) -> None:
    for name in ("fold_0/plans.json", "fold_1/plans.json"):
        data = json.loads(files[name])
        data["stage1"]["channels"] = [8, 10**9]
        files[name] = json.dumps(data).encode()


REFUSED = {
    "absurd plans": (absurd, "fold_0/plans.json: the plans have 1 problem"),
    "no fold": (
        lambda files: [files.pop(name) for name in list(files) if name.startswith("fold_")],
        "there is no trained fold",
    ),
    "no weights": (drop(WEIGHTS), r"fold_0/model_final\.safetensors: the weights do not exist"),
    "no plans of a fold": (drop("fold_1/plans.json"), r"fold_1/plans\.json: the file does not exist"),
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


# -- What is there already ---------------------------------------------------------------------------------------------


def test_a_model_of_the_same_name_is_not_touched(own: Path, archive: Path) -> None:
    before = everything(own)
    with pytest.raises(DetSeg3DError, match=r"(?s)there is a model of this name.*--name.*--overwrite"):
        install_model(archive, own.parent)
    assert everything(own) == before and list(own.parent.iterdir()) == [own]


def test_a_training_of_ones_own_is_kept_when_its_name_is_taken(own: Path, archive: Path) -> None:
    before = everything(own)
    done = install_model(archive, own.parent, overwrite=True)
    assert done.kept == own.parent / f"replaced_{NAME}"
    assert everything(done.kept) == before
    assert find_datasets(own.parent) == [done.folder] and (done.folder / "manifest.json").is_file()


def test_an_installed_model_gives_way_to_the_next(archive: Path, tmp_path: Path) -> None:
    install_model(archive, tmp_path)
    newer = changed_archive(archive, tmp_path / "newer.zip", edit("dataset.json", description="newer"))
    assert install_model(newer, tmp_path, overwrite=True).kept is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "newer.zip"]
    assert json.loads((tmp_path / NAME / "dataset.json").read_text(encoding="utf-8"))["description"] == "newer"


def add_a_file(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_latest.pt").write_bytes(b"training goes on")


def change_a_file(folder: Path) -> None:
    (folder / "operating_point.json").write_bytes(b"{}")


@pytest.mark.parametrize("change", [add_a_file, change_a_file])
def test_an_installed_model_that_was_worked_on_is_kept(
    archive: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(install_model(archive, tmp_path).folder)
    first = install_model(archive, tmp_path, overwrite=True)
    change(first.folder)
    second = install_model(archive, tmp_path, overwrite=True)
    assert (first.kept, second.kept) == (tmp_path / f"replaced_{NAME}", tmp_path / f"replaced_{NAME}_2")


def test_a_refused_file_does_not_touch_what_it_was_to_replace(own: Path, archive: Path, tmp_path: Path) -> None:
    before = everything(own)
    hostile = changed_archive(archive, tmp_path / "hostile.zip", absurd)
    with pytest.raises(DetSeg3DError, match="is refused"):
        install_model(hostile, own.parent, overwrite=True)
    assert everything(own) == before and list(own.parent.iterdir()) == [own]


def test_a_failure_at_the_very_end_puts_the_model_back(
    own: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = everything(own), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial.model"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DetSeg3DError, match="cannot be installed: No space left"):
        install_model(archive, own.parent, overwrite=True)
    assert everything(own) == before and list(own.parent.iterdir()) == [own]


# Where a process is killed in the middle of an installation: the function, and the call of it that does not return.
KILLED_IN = {
    "the first file": ("detseg3d.io.model_archive", "_unpack", 1),
    "the last file": ("detseg3d.io.model_archive", "_unpack", 9),
    "the checks": ("detseg3d.inference.share_model", "check_model_folder", 1),
    "the last step": ("detseg3d.inference.share_model", "_put_in_place", 1),
    "between the names": ("pathlib", "Path.rename", 2),
}
KILL = """
import functools, importlib, json, os, signal, sys
from detseg3d.cli import install_model
from detseg3d.inference import share_model
for home, name, last, words in json.loads(sys.argv[1]):
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name
        continue
    *path, name = name.split(".")
    owner, calls = functools.reduce(getattr, path, importlib.import_module(home)), []
    original = getattr(owner, name)
    def stop(*arguments):
        calls.append(None)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)
    setattr(owner, name, stop)
    os._exit(install_model.main(words))
"""


@pytest.fixture(scope="module")
def killed(archive: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each moment the results folder, with a model that was to be replaced, after the installer was killed."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    folders = {moment: tmp_path_factory.mktemp("killed") for moment in KILLED_IN}
    jobs = []
    for moment, folder in folders.items():
        shutil.copytree(model, folder / NAME)
        jobs.append((*KILLED_IN[moment], [str(archive), "--results", str(folder), "--overwrite"]))
    words = [sys.executable, "-c", KILL, json.dumps(jobs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("moment", [moment for moment in KILLED_IN if moment != "between the names"])
def test_a_killed_installation_leaves_the_model_that_was_there(
    killed: dict[str, Path], model: Path, moment: str
) -> None:
    folder = killed[moment]
    assert find_datasets(folder) == [folder / NAME]
    assert everything(folder / NAME) == everything(model)
    assert [path for path in folder.iterdir() if path.name != NAME and not path.name.startswith(".")] == []


def test_a_model_is_not_lost_if_the_process_is_killed_between_the_two_names(
    killed: dict[str, Path], model: Path, archive: Path
) -> None:
    folder = killed["between the names"]
    assert find_datasets(folder) == []
    assert everything(folder / f"replaced_{NAME}") == everything(model)
    assert install_model(archive, folder).folder == folder / NAME
