from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.cli.evaluate import main


def metrics(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return data


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
    assert "| all |     1 |       1 |           1.000 |  1.000 |     1.000 |" in capsys.readouterr().out
    assert (
        json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["summary"]["overall"]["dice"][
            "mean"
        ]
        == 1.0
    )


def test_the_spacing_of_arrays_can_be_given(folders: list[str], tmp_path: Path) -> None:
    main([*folders, "--spacing", "3", "1", "1", "-o", str(tmp_path / "metrics.json")])
    assert (
        json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["cases"][0]["lesions"][0]["volume_mm3"]
        == 24.0
    )


def test_a_missing_case_is_named_and_the_exit_code_is_1(
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
    figures = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["summary"]["overall"]["detection"]
    assert (figures["any"]["truth"], figures["any"]["predictions"]) == (2, 1)
    assert (figures["any"]["found"], figures["iou_0.5"]["found"]) == (2, 1)


def test_a_wrong_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-gt", str(tmp_path / "nowhere"), "-pred", str(tmp_path)]) == 1
    assert "the folder of the truth does not exist" in capsys.readouterr().err


def test_a_folder_gets_all_tables(folders: list[str], tmp_path: Path) -> None:
    assert main([*folders, "-o", str(tmp_path / "out"), "--bootstrap", "10"]) == 0
    names = {"metrics.json", "metrics.csv", "lesions.csv", "metrics.md", "run.json", "run.log"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_systems_are_named_and_compared(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "case.npy", np.zeros((4, 4, 4), np.uint8))
    assert main([*folders, "-pred", f"nothing={other}", "-o", str(tmp_path / "both.json"), "--bootstrap", "10"]) == 0
    result = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))
    assert list(result["systems"]) == ["pred", "nothing"]
    assert result["comparisons"][0]["differences"]["recall_iou_0.1"]["difference"] == -1.0
    assert "nothing − pred" in capsys.readouterr().out


def test_systems_with_different_scans_give_a_warning(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("truth", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
        np.save(tmp_path / folder / "hard.npy", np.ones((4, 4, 4), np.uint8))
    np.save(tmp_path / "other" / "case.npy", np.ones((4, 4, 4), np.uint8))
    assert main([*folders, "-pred", str(tmp_path / "other"), "--bootstrap", "0"]) == 1
    warned = capsys.readouterr().err
    assert "pred was not evaluated on 1 scan(s) of the other systems: hard" in warned


def test_two_folders_of_one_name_are_refused(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folders, "-pred", folders[3]]) != 0
    assert "have the same name" in capsys.readouterr().err


@pytest.fixture
def maps(folders: list[str], tmp_path: Path) -> list[str]:
    """Write a probability map with high values in the upper half of the lesion and a weaker false positive."""
    probability = np.zeros((4, 4, 4), np.float32)
    probability[1, 1:3, 1:3], probability[3, 3, 3] = 0.9, 0.6
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "case.npy", probability)
    return [*folders[:2], "-pred", str(tmp_path / "maps"), "-np", "0", "-o", str(tmp_path / "out"), "--bootstrap", "0"]


def test_probability_maps_become_lesions_with_scores(maps: list[str], tmp_path: Path) -> None:
    assert main([*maps, "--probabilities"]) == 0
    result = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    scores = {
        lesion["matched"]["any"]: lesion["score"]
        for lesion in result["cases"][0]["lesions"]
        if lesion["kind"] != "truth"
    }
    assert scores == {True: pytest.approx(0.9), False: pytest.approx(0.6)}
    assert result["summary"]["scores"]["any"]["average_precision"] == 1.0


def test_the_threshold_of_a_sweep_is_used(maps: list[str], tmp_path: Path) -> None:
    assert main([*maps, "--sweep"]) == 0
    swept = json.loads((tmp_path / "out" / "sweep.json").read_text(encoding="utf-8"))
    result = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert result["options"]["components"] == swept["chosen"]["rule"]


def test_boxes_are_evaluated_as_boxes(folders: list[str], tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("case,z0,y0,x0,z1,y1,x1,score\ncase,1,1,1,3,3,3,0.8\n", encoding="utf-8")
    assert main([*folders[:2], "-pred", str(table), "--boxes", "-o", str(tmp_path / "out"), "--bootstrap", "10"]) == 0
    result = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert result["summary"]["scores"]["iou_0.5"]["average_precision"] == 1.0


def test_the_viewer_has_the_spacing_of_the_data_set(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {"labels": {"background": 0, "lesion": 1}, "default_spacing": [3, 1, 1]}
    (tmp_path / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    spacings = []

    def remember(*arguments: Any) -> list[Any]:
        assert arguments[0].path.is_dir()
        spacings.append(arguments[0].spacing)
        return []

    monkeypatch.setattr("detseg3d.reporting.html.case_files.find_case_files", remember)
    words = ["-o", str(tmp_path / "out"), "--report", "--images", str(tmp_path / "pred"), "--bootstrap", "0"]
    assert main([*folders, *words]) == 0
    assert main([*folders, *words, "--spacing", "2", "1", "1"]) == 0
    assert spacings == [(3.0, 1.0, 1.0), (2.0, 1.0, 1.0)]


def test_a_report_needs_a_folder(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*folders, "--report"]) != 0
    assert "give -o FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(("side", "found"), [("truth", (2, 1)), ("predictions", (1, 2))])
def test_only_one_side_may_have_instance_maps(
    folders: list[str], tmp_path: Path, side: str, found: tuple[int, int]
) -> None:
    two = np.zeros((4, 4, 4), np.uint8)
    two[1:3, 1:3, 1], two[1:3, 1:3, 2] = 7, 9
    np.save(tmp_path / ("truth" if side == "truth" else "pred") / "case.npy", two)
    assert main([*folders, "--instances", side, "-o", str(tmp_path / "metrics.json")]) == 0
    figures = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["summary"]["overall"]["detection"][
        "any"
    ]
    assert (figures["truth"], figures["predictions"]) == found


@pytest.mark.parametrize("extra", [[], ["--report"], ["--boxes"]])
def test_a_case_name_that_is_not_utf_8_is_evaluated_or_named(
    folders: list[str], tmp_path: Path, extra: list[str]
) -> None:
    """The case may fail, because some libraries do not accept its path, but the error names the case."""
    name = os.fsdecode(b"m\xfcller.npy")
    for folder in ("truth", "pred"):
        np.save(tmp_path / folder / "plain.npy", np.zeros((4, 4, 4), np.uint8))
        (tmp_path / folder / "plain.npy").rename(tmp_path / folder / name)
    if extra == ["--boxes"]:
        boxes = tmp_path / "pred" / os.fsdecode(b"m\xfcller.csv")
        boxes.write_text("z0,y0,x0,z1,y1,x1,score\n0,0,0,1,1,1,0.5\n", encoding="utf-8")
        (tmp_path / "pred" / "case.csv").write_text("z0,y0,x0,z1,y1,x1,score\n", encoding="utf-8")
    assert main([*folders, *extra, "-o", str(tmp_path / "out")]) in (0, 1)
    assert "udcfcller" in (tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")
    for file in ("metrics.md", *(["report.html"] if extra == ["--report"] else [])):
        assert (tmp_path / "out" / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", ["brats2024-mets", "brats2026-mets", "picai", "panoptica"])
def test_a_preset_adds_its_metrics(
    folders: list[str], tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, "--preset", preset, "-o", str(tmp_path / "metrics.json")]) == 0
    assert f"### Preset {preset}" in capsys.readouterr().out
    result = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert result["summary"]["preset"]["preset"] == result["options"]["variants"]["preset"] == preset
    assert result["options"]["variants"]["lesionwise"]["area_weighted"] == (preset == "brats2024-mets")


@pytest.mark.parametrize("extra", [["--lesionwise", "glioma"], ["--boxes"]])
def test_a_preset_excludes_flags_that_contradict_it(
    folders: list[str], extra: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*folders, "--preset", "brats2024-mets", *extra]) == 1
    assert "preset" in capsys.readouterr().err
