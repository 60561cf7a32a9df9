from __future__ import annotations

import copy
from typing import Any

import pytest

from detseg3d.reporting.html.figures import Evaluated
from detseg3d.reporting.html.formatting import DASH
from detseg3d.reporting.html.tables import Tile, case_table, class_table, key_metrics, metric_table, problem_list
from tests.reporting.html.factory import Page, evaluate, write_cases


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate(write_cases(tmp_path_factory.mktemp("cases")))


def body(page: Page) -> dict[str, list[str]]:
    """The cells of each row by the row's own heading, without the line that explains it."""
    (table,) = page.find("table")
    rows = {}
    for row in page.find("tr", within=table):
        heads = page.find("th", within=row, scope="row")
        if heads:
            meanings = page.find("span", within=heads[0], class_="meaning")
            name = heads[0]["text"].removesuffix(meanings[0]["text"] if meanings else "")
            rows[name] = [cell["text"] for cell in page.find("td", within=row)]
    return rows


def compared(result: dict[str, Any], **figures: dict[str, float | None]) -> Evaluated:
    comparison = {"first": "a", "second": "b", "figures": figures}
    return Evaluated.of({"systems": {"a": result, "b": result}, "comparisons": [comparison]})


def test_the_headline_has_value_and_interval(result: dict[str, Any]) -> None:
    rows = body(Page(metric_table(Evaluated.of(result))))
    low, high = (result["intervals"]["recall_iou_0.1"][end] for end in ("low", "high"))
    assert rows["Recall (sensitivity) at IoU ≥ 0.1"] == ["0.67", f"{low:.2f} to {high:.2f}", "3", ""]
    assert rows["Dice"][2] == "4"  # scans, one of them without lesions
    assert rows["False positives per scan at IoU ≥ 0.1"][0] == "0.25"  # one in four scans
    assert next(iter(rows)) == "Lesion F1 at IoU ≥ 0.1"


def test_figures_that_were_not_asked_for_have_no_row(result: dict[str, Any]) -> None:
    plain = copy.deepcopy(result)
    surfaces = ("nsd", "nsd_with_lesions", "hd95_mm", "hd95_mm_with_lesions")
    for key in (*surfaces, "cc_dice", "lesionwise_dice"):
        plain["intervals"].pop(key)
    for key in (*surfaces, "cc_dice", "lesionwise"):
        plain["summary"].pop(key)
    rows = body(Page(metric_table(Evaluated.of(plain))))
    assert "Dice" in rows and not {"HD95 (mm)", "CC-Dice", "Lesion-wise Dice"} & set(rows)


def test_without_scores_there_is_no_average_precision(result: dict[str, Any]) -> None:
    plain = {**result, "summary": {**result["summary"], "scores": None}}
    assert not {"Average precision", "CPM"} & set(body(Page(metric_table(Evaluated.of(plain)))))


def test_the_tolerance_of_the_surface_dice_is_stated(result: dict[str, Any]) -> None:
    assert "Surface Dice (NSD), 1 mm" in body(Page(metric_table(Evaluated.of(result))))


def test_the_distance_of_scans_with_lesions_stands_beside_that_of_all(result: dict[str, Any]) -> None:
    page = Page(metric_table(Evaluated.of(result)))
    assert {"HD95 (mm), scans with lesions", "Surface Dice, scans with lesions"} <= set(body(page))
    assert "the volume's diagonal where one side is empty" in page.visible


def test_lesion_wise_dice_says_that_its_lesions_are_others(result: dict[str, Any]) -> None:
    assert "components of the dilated mask, whatever its instances" in metric_table(Evaluated.of(result))


@pytest.mark.parametrize(
    ("key", "name", "entry", "cell"),
    [
        ("f1_iou_0.1", "Lesion F1 at IoU ≥ 0.1", (0.1, 0.02, 0.2), "better+0.1000.020 to 0.200"),
        ("f1_iou_0.1", "Lesion F1 at IoU ≥ 0.1", (-0.1, -0.2, -0.001), "worse−0.100−0.200 to −0.001"),
        ("f1_iou_0.1", "Lesion F1 at IoU ≥ 0.1", (0.1, -0.02, 0.2), "+0.100−0.020 to 0.200"),
        ("f1_iou_0.1", "Lesion F1 at IoU ≥ 0.1", (0.0, None, None), "0.000"),
        (
            "fp_per_scan_any",
            "False positives per scan at any overlap",
            (-1.0, -2.0, -0.5),
            "better−1.000−2.000 to −0.500",
        ),
        ("hd95_mm", "HD95 (mm)", (2.0, 1.0, 3.0), "worse+2.001.00 to 3.00"),
    ],
)
def test_a_difference_is_better_or_worse_only_if_its_interval_leaves_out_zero(
    result: dict[str, Any], key: str, name: str, entry: tuple[float, ...], cell: str
) -> None:
    figures = {key: dict(zip(("difference", "low", "high"), entry, strict=True))}
    assert body(Page(metric_table(compared(result, **figures))))[name][-1] == cell


def test_a_figure_that_was_not_compared_has_a_dash(result: dict[str, Any]) -> None:
    assert body(Page(metric_table(compared(result))))["Dice"][-1] == DASH


def test_key_metrics_count_scans_and_lesions(result: dict[str, Any]) -> None:
    scans, lesions, *_ = key_metrics(Evaluated.of(result))
    assert scans == Tile("scans", "4", "1 without lesions")
    assert lesions == Tile("true lesions", "6", "4 found at IoU ≥ 0.1")


def test_one_class_needs_no_table_of_classes(result: dict[str, Any]) -> None:
    assert class_table(Evaluated.of(result)) == ""


def test_an_absent_class_has_dashes_and_one_that_is_missed_has_zeros(result: dict[str, Any]) -> None:
    group = result["summary"]["classes"]["lesion"]
    absent, missed = copy.deepcopy(group), copy.deepcopy(group)
    for name in ("any", "iou_0.1"):
        absent["lesions"][name] |= {"truth": 0, "predictions": 0, "recall": 1.0, "precision": 1.0}
        missed["lesions"][name] |= {"predictions": 0, "recall": 0.0, "precision": 0.0, "f1": 0.0}
    summary = {**result["summary"], "classes": {"lesion": group, "absent": absent, "missed": missed}}
    rows = body(Page(class_table(Evaluated.of({**result, "summary": summary}))))
    assert rows["absent"] == ["0", *[DASH] * 7, "3"]
    assert rows["missed"][:5] == ["6", "0.00", "0.00", DASH, "0.00"]
    assert rows["mean of 1 classes"][7] == rows["lesion"][7]


def test_cases_can_be_sorted_by_what_they_are(result: dict[str, Any]) -> None:
    page = Page(case_table(Evaluated.of(result), shown=["bad"]))
    (table,) = page.find("table", id="case-table")
    rows = {cells[0]: cells[1:] for cells in page.rows(table)[1:]}
    assert list(rows) == ["bad", "good", "healthy", "middle"]
    assert rows["bad"][:4] == ["2", "1", "1", "0.50"]
    assert rows["healthy"][:5] == ["0", DASH, "0", "1.00", "1.00"]
    keys = [cell["attributes"]["data-value"] for cell in page.find("td", within=table)]
    assert "" in keys and all(key == "" or float(key) >= 0 for key in keys)
    assert len(page.find("button", within=table, class_="sort")) == len(page.rows(table)[0])


def test_only_cases_in_the_viewer_lead_there(result: dict[str, Any]) -> None:
    links = Page(case_table(Evaluated.of(result), shown=["bad"])).find("a")
    assert [link["attributes"]["data-show-case"] for link in links] == ["bad"]


def test_systems_stand_side_by_side_and_a_case_may_lack_one(result: dict[str, Any]) -> None:
    fewer = {**result, "cases": [case for case in result["cases"] if case["case_id"] != "bad"]}
    page = Page(case_table(Evaluated.of({"systems": {"a": result, "b": fewer}})))
    rows = {cells[0]: cells[1:] for cells in page.rows(page.find("table")[0])[2:]}
    assert rows["bad"][5:] == [DASH] * 4
    assert rows["good"][1:5] == rows["good"][5:]


def test_problems_are_listed_by_reason(result: dict[str, Any]) -> None:
    problems = [{"case": name, "problem": "no prediction in <x>"} for name in ("a", "b")]
    page = Page(problem_list(Evaluated.of({**result, "problems": problems})))
    assert [entry["text"] for entry in page.find("li")] == ["a, bno prediction in <x>"]


def test_no_problems_is_said_too(result: dict[str, Any]) -> None:
    assert "Every scan was evaluated" in problem_list(Evaluated.of(result))
