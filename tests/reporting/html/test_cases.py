from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from detseg3d.reporting.html.cases import choose_cases, prepare_viewer, viewer_section
from detseg3d.reporting.html.figures import Evaluated
from detseg3d.reporting.html.markup import DASH
from detseg3d.reporting.html.volumes import CaseView
from tests.reporting.html.factory import TWO, Page, evaluate, view, write_cases

NAMES = ("bad", "good", "healthy", "middle")
PLENTY = 10_000_000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"), NAMES)


@pytest.fixture(scope="module")
def evaluated(root: Path) -> Evaluated:
    return Evaluated.of(evaluate(root))


def case(case_id: str, f1: float, dice: float, truth: int = 4, found: int = 2, false: int = 0) -> dict[str, Any]:
    counts = {"f1": f1, "truth": truth, "found": found, "false_positives": false}
    return {"case_id": case_id, "dice": dice, "lesions": {"iou_0.1": counts, "any": counts}}


def chosen(cases: list[dict[str, Any]], worst: int = 1, best: int = 1) -> list[tuple[str, str]]:
    views = [CaseView(entry["case_id"], "image") for entry in cases]
    picked = choose_cases(Evaluated.of({"cases": cases}), views, worst, best)
    return [(shown.view.case_id, shown.rank) for shown in picked]


def test_the_ends_of_the_ranking_are_chosen() -> None:
    cases = [case("a", 0.5, 0.5), case("b", 0.1, 0.9), case("c", 0.9, 0.1), case("d", 0.6, 0.5), case("e", 0.4, 0.5)]
    assert chosen(cases, 2, 2) == [("b", "worst"), ("e", "worst"), ("c", "best"), ("d", "best")]


def test_dice_decides_where_f1_is_equal_and_then_the_number_of_errors() -> None:
    assert chosen([case("a", 0.5, 0.5), case("b", 0.5, 0.4)]) == [("b", "worst"), ("a", "best")]
    assert chosen([case("a", 0.0, 0.0, found=0, false=1), case("b", 0.0, 0.0, found=0, false=3)])[0][0] == "b"


def test_scans_without_lesions_are_neither_best_nor_worst_if_there_are_others() -> None:
    cases = [case("empty", 1.0, 1.0, truth=0, found=0), case("false", 0.0, 0.0, truth=0, found=0, false=1)]
    cases += [case("a", 0.5, 0.5), case("b", 0.4, 0.5)]
    assert chosen(cases) == [("b", "worst"), ("a", "best")]


@pytest.mark.parametrize(
    ("number", "expected"), [(0, []), (1, ["worst"]), (2, ["worst", "best"]), (3, ["worst"] * 2 + ["best"])]
)
def test_few_cases_are_shared_and_none_comes_twice(number: int, expected: list[str]) -> None:
    picked = chosen([case(str(n), n / 10, 0.5) for n in range(number)], 2, 2)
    assert [rank for _, rank in picked] == expected and len({name for name, _ in picked}) == number


def test_cases_without_files_or_figures_are_left_out(evaluated: Evaluated) -> None:
    views = [CaseView("nobody", "image"), CaseView("good", "image")]
    assert [shown.view.case_id for shown in choose_cases(evaluated, views, 2, 2)] == ["good"]


def test_a_view_may_belong_to_another_system(evaluated: Evaluated) -> None:
    other = {**evaluated.first, "cases": [case("good", 0.0, 0.0)]}
    both = Evaluated.of({"systems": {"mine": evaluated.first, "other": other}})
    views = [
        CaseView("good", "image"),
        CaseView("good", "image", system="other"),
        CaseView("good", "image", system="none"),
    ]
    assert [(shown.system, shown.rank) for shown in choose_cases(both, views, 1, 1)] == [
        ("other", "worst"),
        ("mine", "best"),
    ]


def section(root: Path, evaluated: Evaluated, name: str, **options: Any) -> Page:
    shown = choose_cases(evaluated, [view(root, name, **options)], 1, 0)
    return Page(viewer_section(prepare_viewer(shown, PLENTY)))


def settings(page: Page) -> Any:
    (data,) = page.find("script", id="viewer-data")
    return json.loads(data["text"])


def test_every_true_lesion_and_every_false_positive_has_a_row(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert rows[0] == ["lesion", "outcome", "volume (mm³)", "across (mm)", "Dice", "IoU", "score"]
    assert rows[1:] == [
        ["1", "found", "64", "5.0", "1.00", "1.00", "0.90"],
        ["2", "missed", "64", "5.0", DASH, DASH, DASH],
        ["3", "false positive", "8.0", "2.5", DASH, DASH, "0.60"],
    ]
    assert "1 of 2 lesions found, 1 false positive" in page.visible


def test_a_row_knows_where_its_lesion_is(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "bad")
    rows = [row for row in page.find("tr") if "data-point" in row["attributes"]]
    z, y, x = TWO
    assert rows[1]["attributes"]["data-point"] == f"{z + 1.0} {y + 2.0} {x + 2.0}"  # 2 slices of 4 x 4 voxels
    assert settings(page)["cases"][0]["frame"]["offset"] == [0, 0, 0]


def test_a_second_prediction_in_a_lesion_is_no_false_positive(evaluated: Evaluated, root: Path) -> None:
    lesions = [dict(entry) for entry in evaluated.first["lesions"] if entry["case_id"] == "bad"]
    lesions.append(
        {**lesions[-1], "id": 9, "matched": {"any": True}, "partner": 1, "iou": 0.1, "dice": 0.2, "score": None}
    )
    page = section(root, Evaluated.of({**evaluated.first, "lesions": lesions}), "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert [row[1] for row in rows[1:]] == ["found", "missed", "false positive", "found again"]
    assert rows[-1][4:] == ["0.20", "0.10", DASH]


def test_lesions_that_one_prediction_finds_say_so(evaluated: Evaluated, root: Path) -> None:
    lesions = [dict(entry) for entry in evaluated.first["lesions"] if entry["case_id"] == "good"]
    lesions = [{**entry, "partner": 1} for entry in lesions if entry["kind"] == "truth" or entry["id"] == 1]
    for several, told in ((lesions, "foundshares its prediction with 1 other"), (lesions[1:], "found")):
        page = section(root, Evaluated.of({**evaluated.first, "lesions": several}), "good")
        rows = page.rows(page.find("table", class_="lesions")[0])[1:]
        assert [row[1] for row in rows] == [told] * (len(several) - 1)


def test_several_classes_have_a_column(evaluated: Evaluated, root: Path) -> None:
    lesions = [dict(entry) for entry in evaluated.first["lesions"] if entry["case_id"] == "bad"]
    lesions[0]["class_name"] = "<core>"
    page = section(root, Evaluated.of({**evaluated.first, "lesions": lesions}), "bad")
    rows = page.rows(page.find("table", class_="lesions")[0])
    assert [row[2] for row in rows] == ["class", "<core>", "lesion", "lesion"]


def test_a_scan_with_nothing_to_find_has_no_table(root: Path, evaluated: Evaluated) -> None:
    page = section(root, evaluated, "healthy")
    assert page.find("table") == [] and "No lesion, neither in truth nor in prediction" in page.visible


def test_boxes_come_with_their_scores(root: Path, evaluated: Evaluated) -> None:
    rois = [{"box": [2, 3, 3, 4, 7, 7], "score": 0.876}, {"box": [0, 0, 0, 1, 1, 1], "score": None}, {"id": 3}]
    assert settings(section(root, evaluated, "bad", rois=rois))["cases"][0]["boxes"] == [
        {"box": [2, 3, 3, 4, 7, 7], "label": "0.88"},
        {"box": [0, 0, 0, 1, 1, 1], "label": ""},
    ]


def test_a_case_that_cannot_be_read_is_named_and_the_others_are_shown(
    root: Path, evaluated: Evaluated, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"no image")
    views = [CaseView("bad", broken), view(root, "good"), CaseView("middle", tmp_path / "missing.nii.gz")]
    content = prepare_viewer(choose_cases(evaluated, views, 2, 1), PLENTY)
    page = Page(viewer_section(content))
    assert [entry["id"] for entry in settings(page)["cases"]] == ["good"]
    warnings = [entry["text"] for entry in page.find("p", class_="warn")]
    assert any("bad" in text and "broken.nii.gz" in text for text in warnings)
    assert any("middle" in text and "does not exist" in text for text in warnings)


def test_an_unforeseen_error_costs_one_case_only(
    root: Path, evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(shown: CaseView) -> None:
        raise MemoryError("16 GB")

    monkeypatch.setattr("detseg3d.reporting.html.cases.load_volumes", fail)
    content = prepare_viewer(choose_cases(evaluated, [view(root, "good")], 1, 1), PLENTY)
    assert content.cases == () and content.unread == (("good", "MemoryError: 16 GB"),)
    assert "There is no case to show" in viewer_section(content)


def test_what_has_no_room_is_named(root: Path, evaluated: Evaluated) -> None:
    content = prepare_viewer(choose_cases(evaluated, [view(root, name) for name in NAMES], 2, 2), 0)
    page = Page(viewer_section(content))
    assert content.cases == () and "Left out for want of room: bad, middle, good, healthy." in page.visible


def test_tabs_and_panels_belong_together(root: Path, evaluated: Evaluated) -> None:
    content = prepare_viewer(choose_cases(evaluated, [view(root, name) for name in NAMES], 1, 1), PLENTY)
    page = Page(viewer_section(content))
    tabs = [tab["attributes"] for tab in page.find("button", role="tab")]
    panels = [panel["attributes"]["id"] for panel in page.find("div", role="tabpanel")]
    assert [tab["aria-controls"] for tab in tabs] == panels
    assert [tab["aria-selected"] for tab in tabs] == ["true", "false"]
    volumes = {block["attributes"]["id"] for block in page.find("script", type="application/octet-stream")}
    assert volumes == {f"volume-{n}-{name}" for n in (0, 1) for name in ("image", "truth", "prediction")}
