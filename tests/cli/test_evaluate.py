from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detseg3d.cli.evaluate import main


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    volume = np.zeros((4, 4, 4), np.uint8)
    volume[1:3, 1:3, 1:3] = 1
    for folder in ("truth", "pred"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "case.npy", volume)
    return ["-gt", str(tmp_path / "truth"), "-pred", str(tmp_path / "pred"), "-np", "0"]


def test_it_prints_a_table_and_writes_json(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, "-o", str(tmp_path / "out" / "metrics.json")]) == 0
    assert "| all |     1 |       1 | 1.000 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["summary"]["dice"]["mean"] == 1.0


def test_the_spacing_of_arrays_can_be_given(folders: list[str], tmp_path: Path) -> None:
    main([*folders, "--npy_spacing", "3", "1", "1", "-o", str(tmp_path / "metrics.json")])
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["lesions"][0]["volume_mm3"] == 24.0


def test_a_missing_case_is_named_and_the_exit_code_says_so(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "truth" / "forgotten.npy", np.zeros((4, 4, 4), np.uint8))
    assert main([*folders, "-o", str(tmp_path / "metrics.json")]) == 1
    assert "forgotten" in capsys.readouterr().out
    assert (tmp_path / "metrics.json").exists()


def test_instances_reads_both_sides_as_instance_maps(folders: list[str], tmp_path: Path) -> None:
    two = np.zeros((4, 4, 4), np.uint8)
    two[1:3, 1:3, 1], two[1:3, 1:3, 2] = 1, 2
    np.save(tmp_path / "truth" / "case.npy", two)
    assert main([*folders, "--instances", "-o", str(tmp_path / "metrics.json")]) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["summary"]["lesions"]
    assert (figures["any"]["truth"], figures["any"]["predictions"]) == (2, 1)
    assert (figures["any"]["found"], figures["iou_0.5"]["found"]) == (2, 1)


def test_a_wrong_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-gt", str(tmp_path / "nowhere"), "-pred", str(tmp_path)]) == 1
    assert "the folder of the truth does not exist" in capsys.readouterr().err
