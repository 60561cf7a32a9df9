from __future__ import annotations

import base64
import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.data.image_source import ImageSource
from detseg3d.evaluation.result import EvaluationResult, SystemsResult
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.html.scan_files import write_scan_files
from tests.reporting.html.factory import SHAPE, Page, case_files, cube, evaluate, save_case, write_cases

NAMES = ("bad", "good", "healthy", "middle")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), NAMES)


@pytest.fixture(scope="module")
def result(root: Path) -> EvaluationResult:
    return evaluate(root)


def content(file: Path) -> Any:
    """Return the data of a scan file, which is a script with one assignment."""
    name, _, text = file.read_text(encoding="utf-8").partition("=")
    assert name == f'detseg3dScans["{file.name}"]'
    return json.loads(text.removesuffix(";\n"))


def voxels(data: Any, layer: str) -> np.ndarray:
    raw = gzip.decompress(base64.b64decode(data["volumes"][layer]))
    return np.frombuffer(raw, data["info"]["layers"][layer]).reshape(data["info"]["shape"])


def test_every_scan_that_the_page_does_not_hold_has_a_file_and_a_link(
    root: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    cases = tuple(case_files(root, name) for name in NAMES)
    page = Page(
        write_report(tmp_path / "r.html", ReportInput(result, cases=cases, worst=1, best=1)).read_text(encoding="utf-8")
    )
    files = sorted((tmp_path / "r_scans").iterdir())
    assert [content(file)["info"]["id"] for file in files] == ["middle", "healthy"]  # bad and good are in the page
    links = [link["attributes"].get("data-show-case") for link in page.find("a", href="#viewer")]
    assert [name for name in links if name] == list(NAMES)
    (settings,) = page.find("script", id="viewer-data")
    assert json.loads(settings["text"])["scans"] == [
        {"id": "middle", "file": "r_scans/0001.js"},
        {"id": "healthy", "file": "r_scans/0002.js"},
    ]


def test_a_file_holds_voxels_and_lesions_of_its_scan(root: Path, result: EvaluationResult, tmp_path: Path) -> None:
    write_scan_files(tmp_path / "r.html", Evaluated.of(result), [case_files(root, "middle")])
    data = content(tmp_path / "r_scans" / "0001.js")
    truth = np.zeros(SHAPE, np.uint8)
    cube(truth, (2, 3, 3), 4, 1)
    cube(truth, (3, 10, 10), 4, 1)
    np.testing.assert_array_equal(voxels(data, "truth"), truth)
    rows = Page(data["panel"]).find("span", class_="outcome")
    assert [row["text"] for row in rows] == ["found", "missed"]


@pytest.fixture
def two_systems(root: Path, result: EvaluationResult, tmp_path: Path) -> tuple[Evaluated, Path]:
    """A second system that found nothing, with a false positive at the edge of the scan."""
    other = tmp_path / "other"
    image, truth, prediction = (np.zeros(SHAPE, kind) for kind in (np.float32, np.uint8, np.uint16))
    cube(truth, (2, 3, 3), 4, 1)
    prediction[7, 15, 15] = 5
    save_case(other, "middle", image, truth, prediction)
    both = SystemsResult({"first": result, "second": replace(result, prediction_folder=str(other))})
    return Evaluated.of(both), other


def test_all_systems_of_a_scan_are_in_one_file_on_one_grid(
    root: Path, two_systems: tuple[Evaluated, Path], tmp_path: Path
) -> None:
    evaluated, other = two_systems
    first = case_files(root, "middle", system="first")
    second = replace(first, prediction=other / "predictions" / "instances" / "middle.nii.gz", system="second")
    scans = write_scan_files(tmp_path / "r.html", evaluated, [first, second])
    assert [entry.case_id for entry in scans.entries] == ["middle"]
    data = content(tmp_path / "r_scans" / "0001.js")
    assert [(system["name"], system["layer"]) for system in data["info"]["systems"]] == [
        ("first", "prediction-0"),
        ("second", "prediction-1"),
    ]
    assert set(data["volumes"]) == {"image", "truth", "prediction-0", "prediction-1"}
    assert np.argwhere(voxels(data, "prediction-1") == 5).tolist() == [[7, 15, 15]]
    assert (voxels(data, "prediction-0") > 0).sum() == 32
    assert len(Page(data["panel"]).find("table", class_="lesions")) == 2


def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_written(
    root: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not an image")
    files = [replace(case_files(root, "bad"), image=ImageSource(broken)), case_files(root, "good")]
    scans = write_scan_files(tmp_path / "r.html", Evaluated.of(result), files)
    assert [entry.case_id for entry in scans.entries] == ["good"]
    assert [entry.case_id for entry in scans.unreadable] == ["bad"]


def test_files_of_an_earlier_report_do_not_stay(root: Path, result: EvaluationResult, tmp_path: Path) -> None:
    for names in (NAMES, NAMES[:1]):
        write_scan_files(tmp_path / "r.html", Evaluated.of(result), [case_files(root, name) for name in names])
    assert [path.name for path in (tmp_path / "r_scans").iterdir()] == ["0001.js"]
    write_scan_files(tmp_path / "r.html", Evaluated.of(result), [])
    assert not (tmp_path / "r_scans").exists()


def test_the_page_does_not_grow_with_the_voxels_of_its_scans(
    root: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    many = [replace(result.cases[0], case_id=f"case{n:03d}") for n in range(60)]
    files = [replace(case_files(root, "bad"), case_id=case.case_id) for case in many]
    sizes = []
    for count in (20, 60):
        part = replace(result, cases=tuple(many[:count]))
        page = write_report(tmp_path / f"{count}.html", ReportInput(part, cases=tuple(files[:count])))
        sizes.append(page.stat().st_size)
        assert len(list((tmp_path / f"{count}_scans").iterdir())) == count - 4  # two worst and two best are in the page
    assert (sizes[1] - sizes[0]) / 40 < 1500  # a row of the table of scans, an entry of the list, and a file name


def test_text_of_a_scan_cannot_end_a_script(root: Path, result: EvaluationResult, tmp_path: Path) -> None:
    attack = replace(result.cases[0], case_id="</script><b>")
    part = Evaluated.of(replace(result, cases=(attack,)))
    write_scan_files(tmp_path / "r.html", part, [replace(case_files(root, "bad"), case_id="</script><b>")])
    text = (tmp_path / "r_scans" / "0001.js").read_text(encoding="utf-8")
    assert "<" not in text
    assert content(tmp_path / "r_scans" / "0001.js")["info"]["id"] == "</script><b>"
