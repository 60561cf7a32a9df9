from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.cli import follow, report
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry, read_image, write_image
from detseg3d.exports.colors import lesion_color
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.json_records import plain
from tests.data.formats.dicom.builders import SeriesBuilder
from tests.exports.results import GEOMETRIES, two_lesions, write_results

GEOMETRY = GEOMETRIES["feet first"]
DIGEST = "0123456789abcdef" * 4
SIMILARITY = {"unlike_training": True, "reasons": ["slices of 9 mm"]}
EXPECTED = {"basis": "similar shifts", "home_recall": 0.8, "recall_low": 0.41, "recall_high": 0.41}


def change_record(folder: Path, case: str = "a", **entries: Any) -> None:
    file = folder / "rois" / f"{case}.json"
    write_json({**read_json(file), **entries}, file)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_results(tmp_path / "results", GEOMETRY, two_lesions(GEOMETRY.shape))
    return tmp_path / "results"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).normal(100, 10, GEOMETRY.shape).astype(np.float32)
    write_image(values, GEOMETRY, tmp_path / "scans" / "a_0000.nii.gz")
    return tmp_path / "scans"


def text_of(page: Path) -> str:
    """Return the words of a page without its pictures."""
    html = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def test_a_page_has_pictures_and_the_numbers_and_colours_of_all_lesions(
    results: Path, scan: Path, tmp_path: Path
) -> None:
    assert report.main(["-i", str(results), "--images", str(scan), "-o", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "a.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 3 + 2 * 3  # the maps of the scan, and three pictures of each lesion
    for number in (1, 2):
        color = "#{:02x}{:02x}{:02x}".format(*lesion_color(number))
        assert len(re.findall(f'<text [^>]*fill="{color}">{number}</text>', html)) >= 6
        assert f'style="background: {color}; color: #' in html
    assert "For research use only. Not for diagnosis." in text_of(tmp_path / "out" / "a.html")
    assert not re.search(r"https?://|<script|<link", html)


def test_the_page_states_model_thresholds_date_and_warnings(results: Path, tmp_path: Path) -> None:
    identity = DicomIdentity("1", "2", "3", "4", "MR", "", "axial FLAIR", (), (), date="2024-02-29")
    change_record(
        results,
        model={"name": "Brain", "digest": DIGEST, "version": "9.8.7"},
        thresholds={"score_threshold": 0.37, "minimum_volume_mm3": 5.0},
        dicom=[plain(identity)],
        similarity=SIMILARITY,
        expected_recall=EXPECTED,
        limit_reached=True,
    )
    page = tmp_path / "page.html"
    assert report.main(["-i", str(results), "--case", "a", "-o", str(page)]) == 0
    text = text_of(page)
    expected = ("Brain (0123456789ab)", DIGEST, "9.8.7", "0.37", "smallest lesion (mm³) 5", "2024-02-29", "axial FLAIR")
    for part in (*expected, "slices of 9 mm", "0.41 instead of 0.80", "lesions may be missing"):
        assert part in text
    assert "no pictures, because the scan was not given" in text


def test_a_date_that_the_files_do_not_state_is_not_invented(results: Path, scan: Path, tmp_path: Path) -> None:
    assert report.main(["-i", str(results), "--images", str(scan), "-o", str(tmp_path)]) == 0
    assert "Date of the scan not stated in the files" in text_of(tmp_path / "a.html")


def test_the_date_and_the_pictures_come_from_the_dicom_series_of_the_result(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 500, (8, 9, 10)).astype(np.int16)
    folder = tmp_path / "study"
    SeriesBuilder(array, extra={"SeriesDate": "20230405"}).write(folder, [f"a{index}" for index in range(8)])
    SeriesBuilder(array + 1, name="other", number=2).write(folder, [f"b{index}" for index in range(8)])
    geometry = read_geometry(ImageSource(folder, series="1"))
    write_results(tmp_path / "results", geometry, two_lesions(geometry.shape))
    change_record(tmp_path / "results", dicom=[plain(identity) for identity in geometry.dicom])
    command = ["-i", str(tmp_path / "results"), "--images", str(folder), "-o", str(tmp_path / "out")]
    assert report.main(command) == 0
    text = text_of(tmp_path / "out" / "a.html")
    assert "2023-04-05" in text and "CT, series" in text


def test_a_scan_without_lesions_says_so(scan: Path, tmp_path: Path) -> None:
    write_results(tmp_path / "results", GEOMETRY, np.zeros(GEOMETRY.shape, np.uint16))
    assert report.main(["-i", str(tmp_path / "results"), "--images", str(scan), "-o", str(tmp_path / "out")]) == 0
    assert "The model found no lesion in this scan." in text_of(tmp_path / "out" / "a.html")


def test_the_follow_up_is_shown_with_the_numbers_of_both_scans(results: Path, scan: Path, tmp_path: Path) -> None:
    earlier = two_lesions(GEOMETRY.shape)
    earlier[earlier == 2] = 0
    earlier[6, 0:2, 0:2] = 7
    write_results(tmp_path / "earlier", GEOMETRY, earlier)
    # The classes of the factory follow the numbers of the lesions.
    for folder in (tmp_path / "earlier", results):
        lesions = read_json(folder / "rois" / "a.json")["lesions"]
        change_record(folder, lesions=[{**lesion, "class": "lesion", "label": 1} for lesion in lesions])
    both = ["-i", str(tmp_path / "earlier"), str(results), "-o", str(tmp_path / "follow"), "--registration", "none"]
    assert follow.main([*both, "--no_pictures"]) == 0
    command = ["-i", str(results), "--images", str(scan), "-o", str(tmp_path / "page.html")]
    assert report.main([*command, "--follow_up", str(tmp_path / "follow")]) == 0
    text = text_of(tmp_path / "page.html")
    rows = text[text.index("Follow-up: earlier → results") : text.index("Lesions")]
    assert re.search(r"– 2 new – → 12 mm³", rows)
    assert re.search(r"7 – disappeared .*6\.0 mm³ → –", rows)
    assert re.search(r"1 1 stable", rows)


@pytest.mark.parametrize("other", ["other patient", "other result"])
def test_a_follow_up_of_something_else_is_refused(results: Path, tmp_path: Path, other: str) -> None:
    name = "b" if other == "other patient" else "a"
    for folder, size in (("one", 3), ("two", 4)):
        lesion = np.zeros(GEOMETRY.shape, np.uint16)
        lesion[2 : 2 + size, 2:5, 2:5] = 1
        write_results(tmp_path / folder, GEOMETRY, lesion, name)
    both = ["-i", str(tmp_path / "one"), str(tmp_path / "two"), "-o", str(tmp_path / "follow")]
    assert follow.main([*both, "--registration", "none", "--no_pictures"]) == 0
    command = ["-i", str(results), "-o", str(tmp_path / "page.html"), "--follow_up", str(tmp_path / "follow")]
    assert report.main(command) == 1
    assert not (tmp_path / "page.html").exists()


def test_a_case_that_fails_is_named_and_the_others_are_written(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results(results, GEOMETRY, two_lesions(GEOMETRY.shape), "edited")
    edited = two_lesions(GEOMETRY.shape)
    edited[0, 0, 0] = 1
    write_image(edited, GEOMETRY, results / "instances" / "edited.nii.gz")
    assert report.main(["-i", str(results), "-o", str(tmp_path / "out"), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert (list(result["files"]), [entry["case"] for entry in result["failed"]]) == (["a"], ["edited"])


def test_a_scan_on_another_grid_is_refused(results: Path, scan: Path, tmp_path: Path) -> None:
    image = read_image(scan / "a_0000.nii.gz")
    write_image(image.array, GEOMETRIES["oblique"], scan / "a_0000.nii.gz")
    assert report.main(["-i", str(results), "--images", str(scan), "-o", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out" / "a.html").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--case", "unknown", "-o", "out"],
        ["-o", "page.html"],  # two cases cannot be one page
        ["--images", "SCAN", "-o", "out"],  # one scan cannot be that of two cases
        ["--patient", "a", "-o", "out"],  # without a follow-up
        ["--case", "a", "--follow_up", "none", "--patient", "b", "-o", "page.html"],
    ],
)
def test_wrong_arguments_are_refused(
    results: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(results, GEOMETRY, two_lesions(GEOMETRY.shape), "b")
    words = [str(scan / "a_0000.nii.gz") if word == "SCAN" else word for word in flags]
    assert report.main(["-i", str(results), *words]) == 1
