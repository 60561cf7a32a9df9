"""Tests of the report in a browser.

Chromium opens a copy of the report to which a script was added. The script records errors from the beginning, does what
a reader would do, and writes what it saw into the page, which Chromium prints. So a page is opened only once for many
tests.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from detseg3d.evaluation.result import SystemsResult
from detseg3d.reporting.html.case_files import PredictedBox
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.system.json_files import read_json
from tests.integration.browser import (
    ATTACK,
    CHROMIUM,
    LARGE,
    MISSED,
    OPEN_SCANS,
    READ,
    SHAPE,
    TRY_CONTROLS,
    UPSIDE_DOWN,
    browse,
    look,
)
from tests.reporting.html.factory import case_files, cube, evaluate, save_case, write_cases

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three scans that are stored upside down. The name of the worst one attacks the page."""
    folder = tmp_path_factory.mktemp("cases")
    random = np.random.default_rng(0)
    for name, missed in ((ATTACK, True), ("better", False), ("healthy", False)):
        image = random.normal(100, 5, SHAPE).astype(np.float32)
        truth, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint16)
        if name != "healthy":
            cube(truth, *LARGE, 1)
            cube(truth, *MISSED, 1)
            (z, y, x), size = LARGE
            cube(prediction, (z, y + 2, x), size, 1)
            if not missed:
                cube(prediction, *MISSED, 2)
        image[truth > 0] += 80
        save_case(folder, name, image, truth, prediction, direction=UPSIDE_DOWN)
    return folder


def make_report(root: Path, name: str = "report.html") -> Path:
    files = []
    for case in (ATTACK, "better", "healthy"):
        lesions = read_json(root / "predictions" / "rois" / f"{case}.json")["lesions"]
        boxes = [PredictedBox(tuple(lesion["box"]), lesion["score"]) for lesion in lesions]
        files.append(case_files(root, case, boxes))
    return write_report(root / name, ReportInput(evaluate(root), cases=tuple(files), worst=1, best=1))


@pytest.fixture(scope="module")
def seen(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a reader sees who goes through the whole report."""
    return look(make_report(root), READ, tmp_path_factory.mktemp("browser"))


def point(text: str) -> list[float]:
    return [float(value) for value in text.split()]


def test_the_page_has_no_errors_and_loads_nothing(seen: dict[str, Any]) -> None:
    assert (seen["errors"], seen["requests"]) == ([], [])
    assert seen["note"] == ""


def test_errors_requests_and_attacks_are_recorded(root: Path, tmp_path: Path) -> None:
    """Show that the test above can fail: the script records an error, a request and an attack."""
    report = make_report(root, "damaged.html")
    text = report.read_text(encoding="utf-8")
    damage = '<img src="https://example.invalid/x.png"><script>alert(1); throw new Error("broken");</script>'
    report.write_text(text.replace("<main>", f"<main>{damage}", 1), encoding="utf-8")
    noticed = look(report, "", tmp_path)
    assert any("broken" in error for error in noticed["errors"])
    assert any("img-src" in error for error in noticed["errors"])
    assert (noticed["alerts"], noticed["images"]) == (1, 1)


def test_a_hostile_name_stays_a_name(seen: dict[str, Any]) -> None:
    assert (seen["alerts"], seen["images"]) == (0, 0)


def test_a_click_on_a_lesion_moves_the_crosshair_to_it(seen: dict[str, Any]) -> None:
    assert [lesion["outcome"] for lesion in seen["lesions"]] == ["found", "missed"]
    for lesion in seen["lesions"]:
        assert point(lesion["point"]) == point(lesion["target"]) and lesion["current"] == "current"
    assert seen["lesions"][1]["changed"]


def test_the_readout_states_the_voxel_of_the_lesion_in_the_file(seen: dict[str, Any]) -> None:
    for lesion, ((z, y, x), size) in zip(seen["lesions"], (LARGE, MISSED), strict=True):
        depth = max(size // 2, 1)
        middle = (z + depth // 2, y + size // 2, x + size // 2)
        assert lesion["readout"].startswith("Voxel of the file: z {}, y {}, x {}. Intensity: about ".format(*middle))


def test_outlines_and_boxes_are_drawn_in_their_colours(seen: dict[str, Any]) -> None:
    found, missed = (lesion["colors"] for lesion in seen["lesions"])
    assert all(count > 20 for count in found)
    assert missed[0] > 20 and missed[1] == missed[2] == 0  # a missed lesion has neither prediction nor box


@pytest.mark.parametrize("layer", ["truth", "prediction", "boxes"])
def test_a_layer_can_be_switched_off_and_on(seen: dict[str, Any], layer: str) -> None:
    before, off, after = seen["layers"][layer]
    assert before == after > 20 and off == 0


def test_keys_move_the_crosshair_by_a_voxel(seen: dict[str, Any]) -> None:
    start, right, down, up = (np.floor(point(text)) for text in seen["keys"])
    assert (right - start).tolist() == [0, 0, 1]
    assert (down - right).tolist() == [0, 1, 0]
    assert (up - down).tolist() == [1, 0, 0]
    assert seen["shortcut"] is False


def test_a_click_in_the_middle_is_the_middle_of_the_scan(seen: dict[str, Any]) -> None:
    assert point(seen["middle"])[1:] == pytest.approx([SHAPE[1] / 2, SHAPE[2] / 2], abs=0.2)


def test_a_click_above_the_middle_goes_to_the_head(seen: dict[str, Any]) -> None:
    assert point(seen["above"])[0] > SHAPE[0] / 2


def test_a_box_is_drawn_only_on_its_slices(seen: dict[str, Any]) -> None:
    (z, _, _), size = LARGE
    expected = [z <= number < z + size // 2 for number in range(SHAPE[0])]
    assert seen["slices"] == expected[::-1]  # the first slice shown is the lowest, and the file runs downwards


def test_contrast_changes_the_picture(seen: dict[str, Any]) -> None:
    assert seen["brighter"] is True


def test_another_scan_is_shown_with_its_lesions(seen: dict[str, Any]) -> None:
    assert seen["second"] == {
        "selected": "true",
        "title": "better 2 of 2 lesions found, 0 false positives (any overlap)",
    }


def test_a_click_on_a_column_sorts_the_table(seen: dict[str, Any]) -> None:
    (up, rising), (down, falling) = seen["sorted"]
    assert (up, down) == ("ascending", "descending")
    assert len(set(rising)) == 3 and rising == sorted(rising, key=float) and falling == rising[::-1]


def test_scans_without_a_value_come_last(seen: dict[str, Any]) -> None:
    assert seen["found"] == ["1", "2", "–"]


def test_a_scan_can_be_searched_by_name(seen: dict[str, Any]) -> None:
    assert seen["filtered"] == [ATTACK]


def test_printing_opens_all_folded_parts(seen: dict[str, Any]) -> None:
    assert seen["folded"] == 0


def test_a_screenshot_of_the_page_is_not_blank(root: Path, seen: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    browse(root / "report.html", tmp_path, f"--screenshot={picture}", "--virtual-time-budget=10000")
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (900, 1366) and pixels[..., :3].std() > 0.05


@pytest.fixture(scope="module")
def tried(root: Path, seen: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the controls of the pictures do. The fixture ``seen`` has written the report."""
    noticed = look(root / "report.html", TRY_CONTROLS, tmp_path_factory.mktemp("browser"))
    assert noticed["errors"] == []
    return noticed


def test_three_planes_and_a_map_are_shown(tried: dict[str, Any]) -> None:
    assert [caption.split(" ")[0] for caption in tried["captions"]] == ["axial", "coronal", "sagittal", "all"]


def test_keys_and_the_wheel_change_the_zoom(tried: dict[str, Any]) -> None:
    start, larger, smaller, wheel = tried["zoom"]
    assert (larger - start, smaller - start, wheel - start) == (0.5, -0.5, 0)


def test_the_wheel_changes_the_slice_only_of_the_chosen_picture(tried: dict[str, Any]) -> None:
    assert tried["scrolled"] == [True, False]


def test_the_contrast_of_an_area_is_narrower_than_the_full_range(tried: dict[str, Any]) -> None:
    (black, white), full = tried["windows"][1:3]
    assert 0 <= black < white <= 255 and white - black < 255
    assert tried["presets"] == ["Full range"] and full == [0, 255] and tried["redrawn"]


def test_dragging_with_the_right_button_changes_the_contrast_only(tried: dict[str, Any]) -> None:
    narrower, darker = tried["windows"][3:]
    assert narrower == [20, 235]  # 40 pixels to the left: 40 grey levels fewer
    assert darker == [10, 225]  # 20 pixels down: 10 grey levels lower
    assert tried["stayed"]


def test_a_double_click_enlarges_one_picture_and_brings_back_the_others(tried: dict[str, Any]) -> None:
    assert tried["panes"] == [1, 4]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("scans"), ("bad", "good", "healthy", "middle"))


def test_a_scan_in_a_file_is_opened_from_the_table(scans: Path, tmp_path: Path) -> None:
    files = tuple(case_files(scans, name) for name in ("bad", "good", "healthy", "middle"))
    page = write_report(tmp_path / "report.html", ReportInput(evaluate(scans), cases=files, worst=1, best=1))
    seen = look(page, OPEN_SCANS, tmp_path)
    assert (seen["errors"], seen["note"]) == ([], "")
    assert seen["first"]["title"].startswith("bad")
    assert seen["opened"]["title"].startswith("middle")
    assert (seen["opened"]["rows"], seen["opened"]["chosen"], seen["opened"]["sides"]) == (2, "middle", 1)
    assert min(seen["opened"]["outlines"]) > 0
    assert seen["sorted"] == "ascending"
    assert seen["empty"]
    assert {Path(name).parent.name for name in seen["requests"]} <= {"report_scans"}


def test_two_systems_are_shown_side_by_side_at_one_place(scans: Path, tmp_path: Path) -> None:
    result = evaluate(scans)
    both = SystemsResult({"mine": result, "other": result})
    files = [case_files(scans, name, system=system) for name in ("healthy", "middle") for system in ("mine", "other")]
    # The other system found nothing in this scan.
    files[-1] = replace(files[-1], prediction=files[1].prediction)
    page = write_report(tmp_path / "report.html", ReportInput(both, cases=tuple(files), worst=1, best=0))
    seen = look(page, OPEN_SCANS, tmp_path)
    assert seen["errors"] == []
    assert (seen["first"]["sides"], seen["opened"]["sides"]) == (1, 2)
    assert seen["systems"] == [["mine", 2], ["other", 2]]
    assert seen["linked"] == [True, True, True]
    assert seen["captions"][0] == seen["captions"][1]
    assert seen["same"], "both sides show the same system after the choice"


def test_without_its_folder_the_page_says_what_is_missing(scans: Path, tmp_path: Path) -> None:
    files = tuple(case_files(scans, name) for name in ("bad", "good", "healthy", "middle"))
    page = write_report(tmp_path / "report.html", ReportInput(evaluate(scans), cases=files, worst=1, best=1))
    shutil.rmtree(tmp_path / "report_scans")
    script = """
    document.querySelector('[data-show-case="middle"]').click();
    await until(() => box.dataset.failed !== undefined);
    seen.note = box.querySelector("[data-note]").textContent;
    document.querySelector('[data-show-case="good"]').click();
    await until(() => box.dataset.ready);
    seen.after = [box.querySelector("[data-note]").textContent, panel().querySelector("h3").textContent];
    """
    seen = look(page, script, tmp_path)
    assert "report_scans/0001.js is missing" in seen["note"]
    assert seen["after"][0] == ""
    assert seen["after"][1].startswith("good")
