"""Writing each kind of file to a full disk is an error that names the file, and leaves no part of the file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.case_store import CaseStore
from detseg3d.data.images import read_image, write_image
from detseg3d.inference.candidates import Candidates, save_candidates
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.weights import save_weights
from detseg3d.system.json_files import write_json
from detseg3d.training.log import EpochRecord, TrainingLog
from detseg3d.training.state import LossValues, TrainingState
from tests.disks import contents, filled, litter, read_only

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 60)).astype(np.uint8)  # 144 kB that cannot be compressed
GEOMETRY = Geometry(NOISE.shape)


def write_native(path: Path) -> None:
    """Write an image with the header of a file of the same format, which uses other code."""
    scan = path.parents[1] / f"native_{path.name}"
    if not scan.exists():
        write_image(NOISE, GEOMETRY, scan)
    write_image(NOISE, read_image(scan)[1], path)


def write_case(path: Path) -> None:
    CaseStore(path.parent).write("case", NOISE[None].astype(np.float32), NOISE, {"preprocessing_hash": "abc"})


def write_weights(path: Path) -> None:
    save_weights(torch.nn.Linear(200, 200), path)


def write_checkpoint(path: Path) -> None:
    model = torch.nn.Linear(200, 200)
    TrainingState(model, model, [torch.optim.AdamW(model.parameters())]).save(path)  # type: ignore[arg-type]


def write_candidates(path: Path) -> None:
    probability = torch.from_numpy(NOISE.astype(np.float32) / 255)
    roi = RoiPrediction(np.array([0, 0, 0, 9, 9, 9.0]), 0, probability, 0.5)
    found = Detections(roi.roi[None], np.array([0.5]), np.array([0]))
    save_candidates(Candidates(found, [roi], GEOMETRY.shape, GEOMETRY.spacing), path)


WRITERS: dict[str, Callable[[Path], None]] = {
    **{f"a{ending}": lambda path: write_image(NOISE, GEOMETRY, path)
       for ending in (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy")},
    **{f"native{ending}": write_native for ending in (".nii.gz", ".nii", ".nrrd")},
    "a.json": lambda path: write_json(list(range(30_000)), path),
    "case.json": write_case,
    "model.safetensors": write_weights,
    "checkpoint.pt": write_checkpoint,
    "candidates.npz": write_candidates,
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_an_error_and_earlier_files_stay(name: str, small_disk: Path) -> None:
    target = small_disk / "folder" / name
    target.parent.mkdir()
    WRITERS[name](target)
    before = contents(small_disk)
    assert target in (small_disk / path for path in before)
    with filled(small_disk):
        with pytest.raises(DetSeg3DError, match="cannot be written") as caught:
            WRITERS[name](target)
        assert caught.value.file is not None
        assert caught.value.file.parent == target.parent and ".partial." not in str(caught.value)
        assert contents(small_disk) == before
        assert litter(small_disk) == []
    WRITERS[name](target)
    assert contents(small_disk).keys() == before.keys()


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_while_writing_is_an_error(name: str, small_disk: Path) -> None:
    """The end of the file is cut off, which some libraries do not report."""
    target = small_disk / "folder" / name
    target.parent.mkdir()
    WRITERS[name](small_disk / "folder" / name)
    size = max(path.stat().st_size for path in target.parent.iterdir())
    for path in target.parent.iterdir():
        path.unlink()
    with filled(small_disk):
        with (small_disk / "filler").open("r+b") as handle:
            handle.truncate((small_disk / "filler").stat().st_size - size // 2)
        with pytest.raises(DetSeg3DError, match="cannot be written"):
            WRITERS[name](target)
        assert contents(target.parent) == {}
        assert litter(small_disk) == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_an_error(name: str, small_disk: Path) -> None:
    with read_only(small_disk), pytest.raises(DetSeg3DError, match="Read-only file system"):
        WRITERS[name](small_disk / "folder" / name)


def test_a_log_that_cannot_be_written_is_an_error(small_disk: Path) -> None:
    log = TrainingLog(small_disk / "log.jsonl", None)
    record = EpochRecord(1, 1, 1.0, 0.1, "whole volumes", LossValues(), 0.0, 0.0)
    log.append(record)
    with filled(small_disk), pytest.raises(DetSeg3DError, match="No space left"):
        log.append(replace(record, step=2, phase="x" * 10_000))
    TrainingLog(small_disk / "log.jsonl", resume_step=1)
    assert [json.loads(line)["step"] for line in log.path.read_text(encoding="utf-8").splitlines()] == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of file sizes on Windows")
def test_a_file_that_may_not_grow_is_an_error(tmp_path: Path) -> None:
    """This test needs no separate disk, so it also runs without the right to mount."""
    import resource

    folder = tmp_path / "folder"
    folder.mkdir()
    for name in WRITERS:
        if name.startswith("native"):
            WRITERS[name](folder / name)  # also writes the scan from which the header is copied
            (folder / name).unlink()
    outcomes = {}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # Python ignores the signal of this limit
    try:
        for name, write in WRITERS.items():
            try:
                write(folder / name)
                outcomes[name] = "no error"
            except DetSeg3DError as error:
                outcomes[name] = "refused" if "cannot be written" in str(error) else str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcomes == dict.fromkeys(WRITERS, "refused")
    assert [path.name for path in folder.rglob("*")] == []
