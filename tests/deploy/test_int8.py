"""Networks in 8-bit integers."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import detseg3d
from detseg3d.cli import export_model as export_command
from detseg3d.core.backend import NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.pipeline import int8
from detseg3d.pipeline.exchange import export_model
from tests.scans import make_scan

for package in ("onnx", "openvino", "nncf"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is in the extra int8", allow_module_level=True)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two scans."""
    folder = tmp_path_factory.mktemp("scans")
    for seed in (40, 41):
        scan, _ = make_scan(seed, lesions=3)
        write_image(scan, Geometry(scan.shape), folder / f"case_{seed}_0000.nii.gz")
    return folder


@pytest.fixture(scope="module")
def exported(whole_model: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Fold 0 of the tiny model in int8, by the command, and the output of the command."""
    file = tmp_path_factory.mktemp("int8") / "model.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr(export_command, "show", lines.append)
        words = ["-d", whole_model.name, "--results", str(whole_model.parent), "-o", str(file), "-f", "0"]
        assert export_command.main([*words, "--format", "openvino", "--int8", str(scans)]) == 0
    return file, "\n".join(lines)


def test_a_model_in_int8_finds_the_same_lesions(
    whole_model: Path, exported: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    scan, _ = make_scan(101)
    wanted = detseg3d.predict(scan, whole_model, spacing=(1, 1, 1), folds=(0,), device="cpu")
    with caplog.at_level("INFO", logger="detseg3d"):
        given = detseg3d.predict(scan, exported[0], spacing=(1, 1, 1), device="cpu")
    assert len(given.lesions) == len(wanted.lesions) > 0
    both = (given.semantic > 0) & (wanted.semantic > 0)
    assert 2 * both.sum() > 0.9 * ((given.semantic > 0).sum() + (wanted.semantic > 0).sum())
    # Other numbers than those of the network in floating point: the integers are in use.
    scores = [[candidate.detection_score for candidate in result.candidates] for result in (given, wanted)]
    assert scores[0] != scores[1]
    assert "with openvino" in caplog.text and "int8" in caplog.text


def test_the_command_states_how_far_the_masks_agree(exported: tuple[Path, str]) -> None:
    assert "fold_0: int8" in exported[1] and "Dice" in exported[1]


def test_int8_is_offered_for_openvino_only(whole_model: Path, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "m.safetensors", (0,), NetworkFormat.ONNX, scans)
    assert (caught.value.value, caught.value.expected) == ("onnx", "openvino")


def test_scans_without_lesions_cannot_show_that_the_masks_agree(whole_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    noise = np.random.default_rng(0).normal(100, 10, (16, 18, 20)).astype(np.float32)
    write_image(noise, Geometry(noise.shape), folder / "a_0000.nii.gz")
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "m.safetensors", (0,), NetworkFormat.OPENVINO, folder)
    assert caught.value.file == folder and not (tmp_path / "m.safetensors").exists()


def test_a_model_with_other_masks_in_int8_is_not_written(
    whole_model: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MIN_MASK_AGREEMENT", 1.01)
    with pytest.raises(DetSeg3DError) as caught:
        export_model(whole_model, tmp_path / "m.safetensors", (0,), NetworkFormat.OPENVINO, scans)
    assert caught.value.file == scans and str(caught.value.value).startswith("Dice")
    assert not (tmp_path / "m.safetensors").exists()
