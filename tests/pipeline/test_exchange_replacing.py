"""Installations that replace an earlier model, and installations that are interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import find_datasets
from detseg3d.pipeline.exchange import install_model
from tests.shared_models import changed_model, edit, everything, with_absurd_plans

NAME = "Dataset001_Tiny"


# -- Earlier models ---------------------------------------------------------------------------------------------


def test_a_model_of_the_same_name_is_not_touched(own_model: Path, model_file: Path) -> None:
    before = everything(own_model)
    with pytest.raises(DetSeg3DError) as caught:
        install_model(model_file, own_model.parent)
    assert caught.value.file == own_model and "--overwrite" in str(caught.value.remedy)
    assert everything(own_model) == before and list(own_model.parent.iterdir()) == [own_model]


def test_a_trained_model_is_kept_when_another_model_takes_its_name(own_model: Path, model_file: Path) -> None:
    before = everything(own_model)
    done = install_model(model_file, own_model.parent, overwrite=True)
    assert done.kept == own_model.parent / f"replaced_{NAME}"
    assert everything(done.kept) == before
    assert find_datasets(own_model.parent) == [done.folder] and (done.folder / "installation.json").is_file()


def test_an_installed_model_is_replaced_by_the_next(model_file: Path, tmp_path: Path) -> None:
    install_model(model_file, tmp_path)
    newer = changed_model(model_file, tmp_path / "newer.safetensors", edit("dataset.json", description="newer"))
    assert install_model(newer, tmp_path, overwrite=True).kept is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "newer.safetensors"]
    assert json.loads((tmp_path / NAME / "dataset.json").read_text(encoding="utf-8"))["description"] == "newer"


def add_a_file(folder: Path) -> None:
    (folder / "fold_0" / "checkpoint_latest.pt").write_bytes(b"training goes on")


def change_a_file(folder: Path) -> None:
    (folder / "operating_point.json").write_bytes(b"{}")


@pytest.mark.parametrize("change", [add_a_file, change_a_file])
def test_an_installed_model_that_was_changed_is_kept(
    model_file: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    change(install_model(model_file, tmp_path).folder)
    first = install_model(model_file, tmp_path, overwrite=True)
    change(first.folder)
    second = install_model(model_file, tmp_path, overwrite=True)
    assert (first.kept, second.kept) == (tmp_path / f"replaced_{NAME}", tmp_path / f"replaced_{NAME}_2")


def test_a_refused_file_leaves_the_earlier_model_as_it_is(own_model: Path, model_file: Path, tmp_path: Path) -> None:
    before = everything(own_model)
    hostile = changed_model(model_file, tmp_path / "hostile.safetensors", with_absurd_plans)
    with pytest.raises(DetSeg3DError) as caught:
        install_model(hostile, own_model.parent, overwrite=True)
    assert caught.value.file == hostile
    assert everything(own_model) == before and list(own_model.parent.iterdir()) == [own_model]


def test_after_a_failure_at_the_end_the_earlier_model_is_restored(
    own_model: Path, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = everything(own_model), Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial.model"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(DetSeg3DError) as caught:
        install_model(model_file, own_model.parent, overwrite=True)
    assert caught.value.file == own_model.parent and "No space left" in caught.value.problem
    assert everything(own_model) == before and list(own_model.parent.iterdir()) == [own_model]


# Moments at which the process is killed: the module, the function, and the number of the call that does not return.
KILLED_IN = {
    "the first fold": ("detseg3d.inference.model_file", "save_tensors", 1),
    "the last fold": ("detseg3d.inference.model_file", "save_tensors", 2),
    "the checks": ("detseg3d.pipeline.exchange", "check_model_folder", 1),
    "the last step": ("detseg3d.pipeline.exchange", "_put_in_place", 1),
    "between the names": ("pathlib", "Path.rename", 2),
}
KILL = """
import functools, importlib, json, os, signal, sys
import detseg3d.pipeline.exchange  # before the forks, since the import takes seconds
from detseg3d.cli import install_model
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
def killed(model_file: Path, whole_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kill the installer at each moment and return the results folders. Each holds the model to be replaced."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    folders = {moment: tmp_path_factory.mktemp("killed") for moment in KILLED_IN}
    jobs = []
    for moment, folder in folders.items():
        shutil.copytree(whole_model, folder / NAME)
        jobs.append((*KILLED_IN[moment], [str(model_file), "--results", str(folder), "--overwrite"]))
    words = [sys.executable, "-c", KILL, json.dumps(jobs)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("moment", [moment for moment in KILLED_IN if moment != "between the names"])
def test_a_killed_installation_leaves_the_earlier_model(
    killed: dict[str, Path], whole_model: Path, moment: str
) -> None:
    folder = killed[moment]
    assert find_datasets(folder) == [folder / NAME]
    assert everything(folder / NAME) == everything(whole_model)
    assert [path for path in folder.iterdir() if path.name != NAME and not path.name.startswith(".")] == []


def test_a_model_is_not_lost_if_the_process_is_killed_between_the_two_names(
    killed: dict[str, Path], whole_model: Path, model_file: Path
) -> None:
    folder = killed["between the names"]
    assert find_datasets(folder) == []
    assert everything(folder / f"replaced_{NAME}") == everything(whole_model)
    assert install_model(model_file, folder).folder == folder / NAME
