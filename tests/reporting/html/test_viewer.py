from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from detseg3d.core.orientation import SLICE_SIDES
from detseg3d.evaluation.metrics import Criterion, LesionMetrics
from detseg3d.reporting import html
from detseg3d.reporting.html.case_files import PredictedBox
from detseg3d.reporting.html.cases import UnreadableCase, ViewerContent, choose_cases, read_cases
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import DASH
from detseg3d.reporting.html.viewer import viewer_section
from tests.reporting.html.factory import TWO, Page, case_files, evaluate, write_cases

NAMES = ("bad", "good", "healthy", "middle")
PLENTY = 10_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), NAMES)


@pytest.fixture(scope="module")
def evaluated(root: Path) -> Evaluated:
    return Evaluated.of(evaluate(root))


def section(root: Path, evaluated: Evaluated, name: str, **options: Any) -> Page:
    chosen = choose_cases(evaluated, [case_files(root, name, **options)], 1, 0)
    return Page(viewer_section(read_cases(chosen, PLENTY)))


def lesions_of(evaluated: Evaluated, name: str) -> list[LesionMetrics]:
    return [lesion for lesion in evaluated.first.lesions if lesion.case_id == name]


def with_lesions(evaluated: Evaluated, name: str, lesions: list[LesionMetrics]) -> Evaluated:
    cases = tuple(
        replace(case, lesions=tuple(lesions)) if case.case_id == name else case for case in evaluated.first.cases
    )
    return Evaluated.of(replace(evaluated.first, cases=cases))


def settings(page: Page) -> Any:
    (data,) = page.find("script", id="viewer-data")
    return json.loads(data["text"])


def test_every_true_lesion_and_every_false_positive_has_a_row(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert rows[0] == ["lesion", "outcome", "volume (mm³)", "long axis (mm)", "Dice", "IoU", "score"]
    # Slices of 4 x 4 and 2 x 2 mm: the long axis runs between the centres of faces, hypot(4, 3) and hypot(2, 1) mm. The
    # numbers are those of the instance maps: of the prediction, or, with T, of the truth.
    assert rows[1:] == [
        ["1", "found", "64", "5.0", "1.00", "1.00", "0.90"],
        ["T2", "missed", "64", "5.0", DASH, DASH, DASH],
        ["3", "false positive", "8.0", "2.2", DASH, DASH, "0.60"],
    ]
    assert "1 of 2 lesions found, 1 false positive (any overlap)" in page.visible


def test_without_measured_axes_the_diameter_of_a_sphere_is_shown(root: Path, evaluated: Evaluated) -> None:
    case = next(case for case in evaluated.first.cases if case.case_id == "bad")
    plain = replace(case, lesions=tuple(replace(lesion, shape=None) for lesion in case.lesions))
    page = section(root, Evaluated.of(replace(evaluated.first, cases=(plain,))), "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert [row[3] for row in rows] == ["diameter (mm)", "5.0", "5.0", "2.5"]  # 64, 64 and 8 mm³


def test_a_row_states_the_position_of_its_lesion(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "bad")
    rows = [row for row in page.find("tr") if "data-point" in row["attributes"]]
    z, y, x = TWO
    assert rows[1]["attributes"]["data-point"] == f"{z + 1.0} {y + 2.0} {x + 2.0}"  # 2 slices of 4 x 4 voxels
    assert settings(page)["cases"][0]["frame"]["offset"] == [0, 0, 0]


def test_a_second_prediction_in_a_lesion_is_not_a_false_positive(evaluated: Evaluated, root: Path) -> None:
    lesions = lesions_of(evaluated, "bad")
    matched = dict.fromkeys(Criterion, True)
    again = replace(lesions[-1], id=9, matched=matched, partner=1, iou=0.1, dice=0.2, score=None)
    page = section(root, with_lesions(evaluated, "bad", [*lesions, again]), "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert [row[1] for row in rows[1:]] == ["found", "missed", "false positive", "found again"]
    assert rows[-1][4:] == ["0.20", "0.10", DASH]


def test_lesions_that_share_a_prediction_are_marked(evaluated: Evaluated, root: Path) -> None:
    lesions = [
        replace(lesion, partner=1) for lesion in lesions_of(evaluated, "good") if lesion.is_true or lesion.id == 1
    ]
    for several, told in ((lesions, "foundshares its prediction with 1 other lesion"), (lesions[1:], "found")):
        page = section(root, with_lesions(evaluated, "good", several), "good")
        rows = page.rows(page.find("table", class_="lesions")[0])[1:]
        assert [row[1] for row in rows] == [told] * (len(several) - 1)


def test_several_classes_have_a_column(evaluated: Evaluated, root: Path) -> None:
    first, *others = lesions_of(evaluated, "bad")
    page = section(root, with_lesions(evaluated, "bad", [replace(first, class_name="<core>"), *others]), "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert [row[2] for row in rows] == ["class", "<core>", "lesion", "lesion"]


def test_a_scan_without_lesions_has_no_table(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "healthy")
    assert page.find("table") == [] and "Neither the truth nor the prediction has a lesion" in page.visible


def test_boxes_come_with_their_scores(root: Path, evaluated: Evaluated) -> None:
    boxes = [PredictedBox((2, 3, 3, 4, 7, 7), 0.876), PredictedBox((0, 0, 0, 1, 1, 1))]
    assert settings(section(root, evaluated, "bad", boxes=boxes))["cases"][0]["boxes"] == [
        {"box": [2, 3, 3, 4, 7, 7], "label": "0.88"},
        {"box": [0, 0, 0, 1, 1, 1], "label": ""},
    ]


def test_tabs_and_panels_belong_together(root: Path, evaluated: Evaluated) -> None:
    content = read_cases(choose_cases(evaluated, [case_files(root, name) for name in NAMES], 1, 1), PLENTY)
    page = Page(viewer_section(content))
    tabs = [tab["attributes"] for tab in page.find("button", role="tab")]
    panels = [panel["attributes"]["id"] for panel in page.find("div", role="tabpanel")]
    assert [tab["aria-controls"] for tab in tabs] == panels
    assert [tab["aria-selected"] for tab in tabs] == ["true", "false"]
    volumes = {block["attributes"]["id"] for block in page.find("script", type="application/octet-stream")}
    assert volumes == {f"volume-{n}-{name}" for n in (0, 1) for name in ("image", "truth", "prediction")}


def test_a_case_that_cannot_be_shown_is_named_with_the_reason() -> None:
    content = ViewerContent(unreadable=(UnreadableCase("bad", "the file <x> is damaged"),), omitted=("a", "b"))
    page = Page(viewer_section(content))
    warnings = [entry["text"] for entry in page.find("p", class_="warn")]
    assert warnings[0] == "bad cannot be shown: the file <x> is damaged" and "a, b" in warnings[1]
    assert "There is no scan to show" in page.visible


def test_the_viewer_and_the_pictures_name_the_sides_of_a_slice_alike() -> None:
    script = (Path(html.__file__).parent / "assets" / "slices.js").read_text(encoding="utf-8")
    planes = script[script.index("const PLANES") : script.index("const MAP")]
    letters = [json.loads(found) for found in re.findall(r"letters: (\[.*?\])", planes)]
    assert letters == [[top, bottom, left, right] for left, right, top, bottom in SLICE_SIDES]
