from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.intervals import MetricDifference
from detseg3d.evaluation.result import Comparison, EvaluationResult, Group, SystemsResult
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import DASH
from detseg3d.reporting.html.tables import Tile, case_table, class_table, key_metrics, metric_table, problem_list
from tests.evaluations import result_of
from tests.reporting.html.factory import Page, evaluate, write_cases


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    return evaluate(write_cases(tmp_path_factory.mktemp("cases")))


def body(page: Page) -> dict[str, list[str]]:
    """Return the cells of each row by the heading of the row, without its explanation."""
    (table,) = page.find("table")
    rows = {}
    for row in page.find("tr", within=table):
        heads = page.find("th", within=row, scope="row")
        if heads:
            meanings = page.find("span", within=heads[0], class_="meaning")
            name = heads[0]["text"].removesuffix(meanings[0]["text"] if meanings else "")
            rows[name] = [cell["text"] for cell in page.find("td", within=row)]
    return rows


def compared(result: EvaluationResult, **differences: MetricDifference) -> Evaluated:
    return Evaluated.of(SystemsResult({"a": result, "b": result}, (Comparison("a", "b", 4, differences),)))


def test_each_metric_has_a_value_and_an_interval(result: EvaluationResult) -> None:
    rows = body(Page(metric_table(Evaluated.of(result))))
    recall = result.estimates["recall_iou_0.1"]
    assert rows["Lesion recall at IoU ≥ 0.1"] == ["0.67", f"{recall.low:.2f} to {recall.high:.2f}", "3", ""]
    assert rows["Dice"][2] == "4"  # scans, one of them without lesions
    assert rows["False positives per scan at IoU ≥ 0.1"][0] == "0.25"  # one in four scans
    assert next(iter(rows)) == "Lesion F1 at IoU ≥ 0.1"


def test_metrics_that_were_not_requested_have_no_row(result: EvaluationResult) -> None:
    plain = result_of([replace(case, outlines=None) for case in result.cases])
    every, rows = (set(body(Page(metric_table(Evaluated.of(entry))))) for entry in (result, plain))
    names = {"HD95 (mm)", "CC-Dice", "Lesion-wise Dice (BraTS)"}
    assert names <= every and "Dice" in rows and not names & rows


def test_without_scores_there_is_no_average_precision(result: EvaluationResult) -> None:
    plain = replace(result, summary=replace(result.summary, scores=None))
    names = body(Page(metric_table(Evaluated.of(plain))))
    assert not [name for name in names if name.startswith(("CPM", "Average precision"))]


def test_the_tolerance_of_the_surface_dice_is_stated(result: EvaluationResult) -> None:
    assert "Surface Dice (NSD), 1 mm" in body(Page(metric_table(Evaluated.of(result))))


def test_distances_are_shown_for_all_scans_and_for_scans_with_lesions(result: EvaluationResult) -> None:
    page = Page(metric_table(Evaluated.of(result)))
    assert {"HD95, scans with lesions (mm)", "Surface Dice (NSD), scans with lesions"} <= set(body(page))
    assert "the diagonal of the volume if only one side is empty" in page.visible


def test_lesion_wise_dice_is_explained_as_a_dice_of_dilated_components(result: EvaluationResult) -> None:
    assert "components of the dilated mask, also if the labels are instance maps" in metric_table(Evaluated.of(result))


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
def test_a_difference_is_better_or_worse_only_if_its_interval_does_not_contain_zero(
    result: EvaluationResult, key: str, name: str, entry: tuple[float, ...], cell: str
) -> None:
    difference = MetricDifference(None, None, *entry)
    assert body(Page(metric_table(compared(result, **{key: difference}))))[name][-1] == cell


def test_a_metric_that_was_not_compared_has_a_dash(result: EvaluationResult) -> None:
    assert body(Page(metric_table(compared(result))))["Dice"][-1] == DASH


def test_key_metrics_count_scans_and_lesions(result: EvaluationResult) -> None:
    scans, lesions, *_ = key_metrics(Evaluated.of(result))
    assert scans == Tile("scans", "4", "1 without lesions")
    assert lesions == Tile("true lesions", "6", "4 found at IoU ≥ 0.1")


def test_one_class_needs_no_table_of_classes(result: EvaluationResult) -> None:
    assert class_table(Evaluated.of(result)) == ""


def test_an_absent_class_has_dashes_and_a_missed_class_has_zeros(result: EvaluationResult) -> None:
    group = result.summary.classes["lesion"]

    def with_counts(**counts: float) -> Group:
        return replace(group, detection={name: replace(entry, **counts) for name, entry in group.detection.items()})

    absent = with_counts(truth=0, predictions=0, recall=1.0, precision=1.0)
    missed = with_counts(predictions=0, recall=0.0, precision=0.0, f1=0.0)
    summary = replace(result.summary, classes={"lesion": group, "absent": absent, "missed": missed})
    rows = body(Page(class_table(Evaluated.of(replace(result, summary=summary)))))
    assert rows["absent"] == ["0", *[DASH] * 7, "3"]
    assert rows["missed"][:5] == ["6", "0.00", "0.00", DASH, "0.00"]
    assert rows["mean of 1 classes"][7] == rows["lesion"][7]


def test_each_cell_has_a_value_to_sort_by(result: EvaluationResult) -> None:
    page = Page(case_table(Evaluated.of(result), shown=["bad"]))
    (table,) = page.find("table", id="case-table")
    rows = {cells[0]: cells[1:] for cells in page.rows(table)[1:]}
    assert list(rows) == ["bad", "good", "healthy", "middle"]
    assert rows["bad"][:4] == ["2", "1", "1", "0.50"]
    assert rows["healthy"][:5] == ["0", DASH, "0", "1.00", "1.00"]
    keys = [cell["attributes"]["data-value"] for cell in page.find("td", within=table)]
    assert "" in keys and all(key == "" or float(key) >= 0 for key in keys)
    assert len(page.find("button", within=table, class_="sort")) == len(page.rows(table)[0])


def test_only_cases_in_the_viewer_are_links(result: EvaluationResult) -> None:
    links = Page(case_table(Evaluated.of(result), shown=["bad"])).find("a")
    assert [link["attributes"]["data-show-case"] for link in links] == ["bad"]


def test_systems_are_shown_side_by_side_and_a_missing_case_has_dashes(result: EvaluationResult) -> None:
    fewer = replace(result, cases=tuple(case for case in result.cases if case.case_id != "bad"))
    page = Page(case_table(Evaluated.of(SystemsResult({"a": result, "b": fewer}))))
    rows = {cells[0]: cells[1:] for cells in page.rows(page.find("table")[0])[2:]}
    assert rows["bad"][5:] == [DASH] * 4
    assert rows["good"][1:5] == rows["good"][5:]


def test_problems_are_listed_by_reason(result: EvaluationResult) -> None:
    problems = tuple(CaseProblem(name, "no prediction in <x>") for name in ("a", "b"))
    page = Page(problem_list(Evaluated.of(replace(result, problems=problems))))
    assert [entry["text"] for entry in page.find("li")] == ["a, bno prediction in <x>"]


def test_a_sentence_states_that_every_scan_was_evaluated(result: EvaluationResult) -> None:
    assert "Every scan was evaluated" in problem_list(Evaluated.of(result))
