"""Hostile and damaged model folders, given to the real command: each gives one error that names the problem."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detseg3d.cli import predict
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.models.detseg import DetSeg3D
from tests.scans import make_scan

WEIGHTS = "model_final.safetensors"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of ``fold_0`` to damage."""
    folder = tmp_path / "Dataset001_Tiny"
    (folder / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "appearance.json", WEIGHTS):
        shutil.copyfile(tiny_model / "fold_0" / name, folder / "fold_0" / name)
    return folder


@pytest.fixture
def refusal(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Predict with the model and return the message of the single expected error."""

    def run() -> str:
        image = make_scan(101)[0]
        write_image(image, Geometry(image.shape), tmp_path / "scan.mha")
        words = ["-i", str(tmp_path / "scan.mha"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
        assert predict.main([*words, "--no_progress"]) == 1
        printed = capsys.readouterr()
        assert printed.err.count("error: ") == 1 and "Traceback" not in printed.err
        assert not (tmp_path / "out").exists()
        return printed.err

    return run


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if memory is allocated for a network: a hostile model must be refused earlier."""
    make = DetSeg3D.__init__

    def watch(self: DetSeg3D, *arguments: Any) -> None:
        assert torch.get_default_device().type == "meta", "memory was taken for the network"
        make(self, *arguments)

    monkeypatch.setattr(DetSeg3D, "__init__", watch)


def edit_plans(model: Path, section: str, **change: Any) -> None:
    path = model / "fold_0" / "plans.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data[section] = {**data[section], **change}
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    path = model / "fold_0" / WEIGHTS
    tensors = load_file(str(path))
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, str(path))


def first_name(tensors: dict[str, torch.Tensor]) -> str:
    return sorted(tensors)[0]


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("stage1", {"channels": [8, 10**9]}, "stage1.channels.1"),
        ("stage1", {"fpn_channels": 4097}, "stage1.fpn_channels"),
        ("stage1", {"channels": [4096, 4096]}, "the network would have"),
        ("stage2", {"channels": [8, 10**30]}, "the number 1000"),
        ("stage2", {"channels": [8, 10**12]}, "stage2.channels.1"),
        ("roi", {"size": [10**6, 16, 16]}, "roi.size.0"),
        ("inference", {"max_candidates": 10**12}, "inference.max_candidates"),
        ("inference", {"candidate_threshold": float("nan")}, "NaN is not allowed in JSON"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_plans_of_an_absurd_network_are_refused(
    model: Path, refusal: Callable[[], str], section: str, change: dict[str, Any], message: str
) -> None:
    edit_plans(model, section, **change)
    assert message in refusal()


@pytest.mark.usefixtures("no_network")
def test_plans_of_a_large_network_need_weights_of_the_same_size(model: Path, refusal: Callable[[], str]) -> None:
    edit_plans(model, "stage1", channels=[1024, 2048])
    assert "the weights do not fit the plans" in refusal()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kept", [0, 5, 100, -4])
def test_truncated_weights_are_refused(model: Path, refusal: Callable[[], str], kept: int) -> None:
    path = model / "fold_0" / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    assert "the weights cannot be read" in refusal()


@pytest.mark.usefixtures("no_network")
def test_a_header_that_states_more_than_the_file_holds_is_refused(model: Path, refusal: Callable[[], str]) -> None:
    path = model / "fold_0" / WEIGHTS
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header[first_name({name: 0 for name in header if name != "__metadata__"})]["shape"] = [10**6, 10**6]
    block = json.dumps(header).encode()
    path.write_bytes(len(block).to_bytes(8, "little") + block + content[8 + length :])
    assert "the weights cannot be read" in refusal()


@pytest.mark.usefixtures("no_network")
def test_a_sparse_file_of_huge_weights_is_refused_unread(model: Path, refusal: Callable[[], str]) -> None:
    """A file may have holes: 4 TB of zeros take no space on the disk, but would take memory."""
    tensors = {"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}
    block = json.dumps(tensors).encode()
    path = model / "fold_0" / WEIGHTS
    path.write_bytes(len(block).to_bytes(8, "little") + block)
    try:
        os.truncate(path, 8 + len(block) + 2**42)
    except OSError:
        pytest.skip("the file system has no files of that size")
    assert str(path) in refusal()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32])
def test_weights_of_another_type_are_refused(model: Path, refusal: Callable[[], str], dtype: torch.dtype) -> None:
    edit_weights(model, lambda tensors: tensors.update({name: t.to(dtype) for name, t in tensors.items()}))
    assert "the weights are stored in another type" in refusal()


@pytest.mark.usefixtures("no_network")
def test_weights_of_another_shape_are_refused(model: Path, refusal: Callable[[], str]) -> None:
    edit_weights(model, lambda tensors: tensors.update({first_name(tensors): torch.zeros(7)}))
    assert "the weights do not fit the plans (1 missing, 1 left over)" in refusal()


@pytest.mark.usefixtures("no_network")
def test_weights_that_are_missing_are_refused(model: Path, refusal: Callable[[], str]) -> None:
    edit_weights(model, lambda tensors: tensors.pop(first_name(tensors)))
    assert "the weights do not fit the plans (1 missing, 0 left over)" in refusal()


def test_weights_that_are_not_finite_are_refused(model: Path, refusal: Callable[[], str]) -> None:
    edit_weights(model, lambda tensors: tensors[first_name(tensors)].fill_(float("nan")))
    assert "hold NaN or infinity" in refusal()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"version": 1', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"9" * 10_000, "not valid JSON"),
        (b"\xff\xfe", "cannot be read"),
        (b" " * (17 << 20) + b"{}", "too large for a file of its kind"),
        (b"[]", "the plans have 1 problem(s)"),
    ],
)
def test_files_that_are_not_plans_are_refused(
    model: Path, refusal: Callable[[], str], content: bytes, message: str
) -> None:
    (model / "fold_0" / "plans.json").write_bytes(content)
    assert message in refusal()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", ["plans.json", WEIGHTS])
def test_a_pipe_in_place_of_a_file_does_not_hang(model: Path, refusal: Callable[[], str], name: str) -> None:
    (model / "fold_0" / name).unlink()
    os.mkfifo(model / "fold_0" / name)
    assert any(message in refusal() for message in ("not a regular file", "no trained model"))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 1}', b" " * (17 << 20) + b"{}"])
def test_a_damaged_operating_point_is_refused(model: Path, refusal: Callable[[], str], content: bytes) -> None:
    (model / "operating_point.json").write_bytes(content)
    assert "operating_point.json" in refusal()


def test_a_grid_far_too_fine_for_the_scan_fails_that_scan(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "fold_0" / "plans.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["roi"]["minimum_extent"] = [0.01] * 3
    path.write_text(json.dumps({**data, "fine_spacing": [1e-3] * 3, "detection_spacing": [1e-3] * 3}), encoding="utf-8")
    image = make_scan(101)[0]
    write_image(image, Geometry(image.shape), tmp_path / "scan.mha")
    words = ["-i", str(tmp_path / "scan.mha"), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert predict.main([*words, "--no_progress"]) == 1
    assert "the scan is too large on the grid of the plans" in capsys.readouterr().err
