from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import export_model


def run(model: Path, output: Path, *words: str) -> int:
    return export_model.main(["001", "-o", str(output), "--results", str(model.parent), *words])


def test_a_model_is_written_and_its_content_is_listed(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "m.safetensors"
    assert run(tiny_model, file, "-f", "0") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "weights:   fold_0, for detseg3d",
        "documents: fold_0/appearance.json fold_0/plans.json",
        f"wrote {file}: Dataset001_Tiny, {file.stat().st_size} bytes",
    ]


def test_a_missing_fold_is_an_error(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_model, tmp_path / "m.safetensors", "-f", "0", "4") == 1
    assert "these folds are not trained" in capsys.readouterr().err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_missing_data_set_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_model.main(["9", "-o", str(tmp_path / "m.safetensors"), "--results", str(tmp_path)]) == 1
    assert f"file:     {tmp_path}" in capsys.readouterr().err
