from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.cli import example
from detseg3d.system.json_files import read_json

SMALL = ["--num_cases", "2", "--num_test", "1", "--shape", "20", "24", "24", "--spacing", "3", "1", "1", "-np", "0"]


def test_the_data_set_is_written_and_the_next_step_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.main([str(tmp_path), *SMALL]) == 0
    folder = tmp_path / "Dataset999_Example"
    assert read_json(folder / "dataset.json")["numTraining"] == 2
    shown = capsys.readouterr().out
    assert str(folder) in shown
    assert f"detseg3d_plan_and_preprocess -d 999 --raw {tmp_path}" in shown


def test_an_existing_data_set_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main([str(tmp_path), *SMALL])
    assert example.main([str(tmp_path), *SMALL]) == 1
    assert "the data set exists already" in capsys.readouterr().err


def test_an_empty_shape_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.main([str(tmp_path), "--shape", "0", "24", "24"])
    assert "--shape" in capsys.readouterr().err
