"""What many tests share: the plans of a network so small that a training step takes milliseconds."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import hypothesis
import pytest

if TYPE_CHECKING:
    from detseg3d.planning.plans import Plans

# A busy machine must not fail a test. Every run draws other examples, so fewer of them are enough each time.
hypothesis.settings.register_profile("detseg3d", deadline=None, max_examples=40)
hypothesis.settings.register_profile("fuzz", deadline=None, max_examples=20_000)
hypothesis.settings.load_profile("detseg3d")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Search for no garbage while the tests are collected: there is none, and the search takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _interrupts_are_heard() -> None:
    """Shells let what they start in the background ignore SIGINT. Our commands respect that; these tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _fresh_precision() -> Iterator[None]:
    """A precision that one test chose does not hold for the tests that follow in this process."""
    yield
    device = sys.modules.get("detseg3d.system.device")
    if device is not None:
        device._IN_USE.clear()


@pytest.fixture(autouse=True)
def _fresh_logging() -> None:
    """Each test finds the package's logging untouched: commands set it up, and other tools disable what they find."""
    package = logging.getLogger("detseg3d")
    package.setLevel(logging.NOTSET)
    package.handlers.clear()
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.split(".")[0] == "detseg3d":
            logger.disabled = False


TINY_PLANS: dict[str, Any] = {
    "dataset_name": "Dataset001_Tiny",
    "file_ending": ".nii.gz",
    "channel_names": ["FLAIR"],
    "class_names": ["lesion"],
    "class_labels": [1],
    "normalization": [{"scheme": "zscore"}],
    "fine_spacing": [1, 1, 1],
    "detection_spacing": [1, 1, 1],
    "planned_shape": [32, 40, 36],
    "stage1": {
        "channels": [8, 16],
        "strides": [[2, 2, 2], [2, 2, 2]],
        "kernels": [[3, 3, 3], [3, 3, 3]],
        "blocks": [1, 1],
        "fpn_channels": 8,
        "head_stages": [0, 1],
        "level_max_sizes": [[10, 10, 10]],
    },
    "roi": {"size": [16, 16, 16], "minimum_extent": [10, 10, 10]},
    "stage2": {
        "channels": [8, 16],
        "strides": [[2, 2, 2]],
        "kernels": [[3, 3, 3], [3, 3, 3]],
        "feature_channels": 4,
    },
    "training": {
        "steps": 8,
        "steps_per_epoch": 4,
        "curriculum": [{"fraction": 0.5, "window": [16, 16, 16]}, {"fraction": 0.5, "window": None}],
    },
    "inference": {"score_threshold": 0.4, "growth_threshold": 0.35},
    "memory_precision": "fp32",
    "recall_bound": {"lesions": 0, "found": 0, "bound": 1},
}


@pytest.fixture(scope="session")
def tiny_plans() -> Plans:
    """Plans of one channel and one class at 1 mm; frozen, so change a copy: ``tiny_plans.evolve(roi={...})``."""
    from detseg3d.planning.plans import parse_plans

    return parse_plans(TINY_PLANS)


@pytest.fixture
def plans_data() -> dict[str, Any]:
    """The content of the plans.json of ``tiny_plans``: a fresh copy to change at will."""
    return deepcopy(TINY_PLANS)


def make_for_all_workers(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that ``make`` fills. The worker processes of pytest-xdist share it: the first one fills it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        folder = factory.mktemp(name)
        make(folder)
        return folder
    # The folders of the workers lie in the folder of the whole test run.
    folder = factory.getbasetemp().parent / name
    complete = folder.with_name(f"{name}_is_complete")
    with filelock.FileLock(folder.with_name(f"{name}.lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            complete.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_plans: Plans) -> Path:
    """A results folder with two folds that find nearly all lesions of ``tests.scans.make_scan``; read it only."""
    from tests.scans import train_model

    name = "Dataset001_Tiny"
    folder = make_for_all_workers(tmp_path_factory, "results", lambda root: train_model(root / name, tiny_plans))
    return folder / name


@pytest.fixture(scope="module")
def quick_training() -> Iterator[None]:
    """Draw no curves and trust half precision in all trainings of a module."""
    from tests.scans import quick_trainings

    with quick_trainings():
        yield


@pytest.fixture(scope="session")
def whole_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with all that training and consolidation leave beside its folds; read it only."""
    from tests.shared_models import complete_model

    return complete_model(tmp_path_factory.mktemp("theirs") / "Dataset001_Tiny", tiny_model)


@pytest.fixture(scope="session")
def model_file(whole_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole model as one file."""
    from detseg3d.pipeline.exchange import export_model

    path = tmp_path_factory.mktemp("model_file") / "model.safetensors"
    export_model(whole_model, path)
    return path


@pytest.fixture
def own_model(whole_model: Path, tmp_path: Path) -> Path:
    """A copy of the whole model to change, alone in its folder."""
    return Path(shutil.copytree(whole_model, tmp_path / "own" / whole_model.name))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB, in memory; skipped where mounting is not allowed."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.decode(errors='replace').strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
