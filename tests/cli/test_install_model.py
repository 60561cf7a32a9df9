from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import export_model, install_model, predict
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from tests.scans import make_scan


@pytest.fixture(scope="module")
def model_file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "m.safetensors"
    assert export_model.main(["Tiny", "-o", str(path), "--results", str(tiny_model.parent)]) == 0
    return path


def predicted(scan: Path, output: Path, *words: str) -> dict[str, bytes]:
    flags = ["-device", "cpu", "--no_progress", "--disable_tta", "--save_probabilities"]
    assert predict.main(["-i", str(scan), "-o", str(output), *words, *flags]) == 0
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    # The record and the log of the run state times, which differ.
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("run.")}


def test_an_installed_model_and_its_file_predict_the_same_as_the_exported_model(
    tiny_model: Path, model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert install_model.main([str(model_file), "--results", str(results), "--name", "Dataset901_Theirs"]) == 0
    printed = capsys.readouterr().out
    assert f"installed {results / 'Dataset901_Theirs'}, fold(s) 0 1" in printed
    image = make_scan(101)[0]
    write_image(image, Geometry(image.shape), tmp_path / "scan.nii.gz")
    first = predicted(tmp_path / "scan.nii.gz", tmp_path / "first", "-m", str(tiny_model))
    second = predicted(tmp_path / "scan.nii.gz", tmp_path / "second", "-d", "901", "--results", str(results))
    straight = predicted(tmp_path / "scan.nii.gz", tmp_path / "straight", "-m", str(model_file))
    assert len(first) == 6 and first == second == straight


def test_an_existing_name_is_an_error_without_overwrite(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(model_file), "--results", str(tmp_path)]
    assert install_model.main(words) == 0
    assert install_model.main(words) == 1
    assert "there is an earlier model of this name" in capsys.readouterr().err
    (tmp_path / "Dataset001_Tiny" / "notes.txt").write_text("mine", encoding="utf-8")
    assert install_model.main([*words, "--overwrite"]) == 0
    assert f"kept as {tmp_path / 'replaced_Dataset001_Tiny'}" in capsys.readouterr().out


def test_a_file_that_is_not_a_model_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"#!/bin/sh\nrm -rf ~\n")
    assert install_model.main([str(tmp_path / "m.safetensors"), "--results", str(tmp_path / "results")]) == 1
    error = capsys.readouterr().err
    assert "the weights cannot be read" in error and "Traceback" not in error
    assert list((tmp_path / "results").iterdir()) == []
