from __future__ import annotations

import json
from pathlib import Path

import pytest

from detseg3d.cli import example, follow
from tests.pipeline.test_follow import CUBE, write_results


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    before = write_results(tmp_path / "before", {"a": {1: CUBE}})
    after = write_results(tmp_path / "after", {"a": {1: (6, 6, 6, 12, 12, 14)}})
    return ["-i", str(before), str(after), "-o", str(tmp_path / "out"), "--registration", "none", "--no_pictures"]


def state(tmp_path: Path) -> str:
    text = (tmp_path / "out" / "changes.csv").read_text(encoding="utf-8").splitlines()
    return dict(zip(text[0].split(","), text[1].split(","), strict=True))["state"]


def test_the_default_compares_volumes(folders: list[str], tmp_path: Path) -> None:
    assert follow.main(folders) == 0
    assert state(tmp_path) == "enlarged"  # 216 to 288 mm³, +33 %


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--growth", "40"], "stable"),
        (["--criterion", "diameter"], "stable"),  # the axis grows by less than 5 mm
        (["--criterion", "diameter", "--growth", "5", "--min_growth_mm", "1"], "enlarged"),
    ],
)
def test_thresholds_can_be_set(folders: list[str], tmp_path: Path, flags: list[str], expected: str) -> None:
    assert follow.main([*folders, *flags]) == 0
    assert state(tmp_path) == expected


def test_a_failed_patient_gives_exit_code_1(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(tmp_path / "before", {"b": {}})
    assert follow.main([*folders, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["patients"], [entry["case"] for entry in result["failed"]]) == (["a"], ["b"])


def test_dates_can_be_given(folders: list[str], tmp_path: Path) -> None:
    assert follow.main([*folders, "--dates", "2023-12-31", "2024-12-30"]) == 0
    header, row = (tmp_path / "out" / "changes.csv").read_text(encoding="utf-8").splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert values["interval_days"] == "365"
    # 216 to 288 mm³: 365 · ln 2 / ln(4 / 3)
    assert float(values["doubling_time_days"]) == pytest.approx(879.4, abs=0.1)


def test_a_failure_of_the_dicom_objects_gives_exit_code_1(
    folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert follow.main([*folders, "--dicom_sr", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert (result["patients"], [entry["case"] for entry in result["failed"]]) == (["a"], ["a"])


@pytest.mark.parametrize(
    "flags",
    [["--transforms", "x.tfm"], ["--min_growth_mm", "2"], ["--dicom_seg", "binary"], ["--dates", "2023-12-31"]],
)
def test_flags_that_would_do_nothing_are_refused(folders: list[str], flags: list[str]) -> None:
    assert follow.main([*folders, *flags]) == 1


def test_the_example_can_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--num_cases", "1", "--shape", "36", "40", "40", "--spacing", "3", "3", "3", "-np", "0"]
    assert example.main([str(tmp_path), "--follow_up", *small]) == 0
    folder = tmp_path / "FollowUp_Example"
    assert f"detseg3d_follow -i {folder}/baseline" in capsys.readouterr().out
    sides = [str(folder / side) for side in ("baseline", "follow_up")]
    images = [f"{side}/images" for side in sides]
    assert follow.main(["-i", *sides, "--images", *images, "-o", str(tmp_path / "out"), "--no_pictures"]) == 0
