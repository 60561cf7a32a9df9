from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from detseg3d.cli import export_model


def run(model: Path, output: Path, *words: str) -> int:
    return export_model.main(["001", "-o", str(output), "--results", str(model.parent), *words])


def test_a_model_is_written_and_its_files_are_listed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, tmp_path / "new" / "m.zip", "-f", "0") == 0
    printed = capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "new" / "m.zip") as archive:
        for info in archive.infolist():
            assert f"{info.file_size:>12}  {info.filename}" in printed or info.filename == "manifest.json"
    size = (tmp_path / "new" / "m.zip").stat().st_size
    assert f"wrote {tmp_path / 'new' / 'm.zip'}: Dataset001_Tiny, {size} bytes" in printed


def test_a_fold_that_is_not_there_is_an_error(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_model, tmp_path / "m.zip", "-f", "0", "4") == 1
    assert "these folds are not trained" in capsys.readouterr().err
    assert not (tmp_path / "m.zip").exists()


def test_a_data_set_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_model.main(["9", "-o", str(tmp_path / "m.zip"), "--results", str(tmp_path)]) == 1
    assert "there is no data set '9'" in capsys.readouterr().err
