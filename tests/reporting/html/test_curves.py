from __future__ import annotations

import re
from dataclasses import replace

import pytest

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.result import EvaluationResult, SystemsResult
from detseg3d.evaluation.scores.froc import FrocCurvePoints
from detseg3d.evaluation.summary import summarize
from detseg3d.reporting.html.charts import froc_axis
from detseg3d.reporting.html.curves import curve_section, size_section
from detseg3d.reporting.html.evaluated import Evaluated
from tests.reporting.html.factory import Page, evaluate, write_cases


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> EvaluationResult:
    return evaluate(write_cases(tmp_path_factory.mktemp("cases")))


def with_curve(result: EvaluationResult, rates: list[float], recalls: list[float]) -> EvaluationResult:
    assert result.summary.scores is not None
    curve = FrocCurvePoints(tuple(rates), tuple(recalls), tuple(rates))
    scores = {**result.summary.scores, HEADLINE: replace(result.summary.scores[HEADLINE], froc_curve=curve)}
    return replace(result, summary=replace(result.summary, scores=scores))


def without_scores(result: EvaluationResult) -> EvaluationResult:
    return replace(result, summary=replace(result.summary, scores=None))


def first_line(markup: str) -> list[tuple[float, float]]:
    """Return false positives per scan and recall along the first curve."""
    points = re.search(r'<polyline points="([^"]*)" class="line s0"', markup)
    assert points is not None
    places = [tuple(float(value) for value in pair.split(",")) for pair in points[1].split()]
    axis = froc_axis()
    return [(axis.low * (axis.high / axis.low) ** ((x - 46) / 420), round(1 - (y - 10) / 250, 3)) for x, y in places]


def test_the_curve_rises_in_steps_and_keeps_its_last_recall(result: EvaluationResult) -> None:
    line = first_line(curve_section(Evaluated.of(with_curve(result, [0.5, 2.0], [0.4, 0.6]))))
    assert line == [
        (pytest.approx(rate, rel=0.01), recall)
        for rate, recall in [(1 / 16, 0.0), (0.5, 0.0), (0.5, 0.4), (2.0, 0.4), (2.0, 0.6), (8.0, 0.6)]
    ]


def test_the_curve_begins_at_the_recall_without_false_positives(result: EvaluationResult) -> None:
    line = first_line(curve_section(Evaluated.of(with_curve(result, [0.0, 0.0, 9.0], [0.3, 0.5, 0.9]))))
    assert [recall for _, recall in line] == [0.5, 0.5]  # the chart ends at 8 false positives per scan


def test_the_table_has_recall_and_threshold_at_each_rate(result: EvaluationResult) -> None:
    page = Page(curve_section(Evaluated.of(result)))
    rows = page.rows(page.find("table")[0])
    assert rows[0] == ["false positives per scan", "1/8", "1/4", "1/2", "1", "2", "4", "8", "mean (CPM)"]
    assert result.summary.scores is not None
    froc = result.summary.scores[HEADLINE].froc
    assert rows[1][1:8] == [f"{point.recall:.2f}" for point in froc]
    assert rows[2][1:8] == [f"{point.threshold:.3f}" for point in froc]


def test_a_sentence_explains_that_predictions_without_scores_have_no_curve(result: EvaluationResult) -> None:
    page = Page(curve_section(Evaluated.of(without_scores(result))))
    assert "no scores" in page.visible and page.find("svg") == []


def test_one_system_without_scores_is_named_beside_the_curves_of_others(result: EvaluationResult) -> None:
    page = Page(curve_section(Evaluated.of(SystemsResult({"with": result, "masks": without_scores(result)}))))
    assert "no curve: masks" in page.visible and page.find("svg", class_="chart") != []


def test_without_predictions_the_curve_is_flat(result: EvaluationResult) -> None:
    line = first_line(curve_section(Evaluated.of(with_curve(result, [], []))))
    assert line == [(pytest.approx(1 / 16), 0.0), (pytest.approx(8.0, rel=0.01), 0.0)]


def test_without_true_lesions_there_is_no_recall(result: EvaluationResult) -> None:
    free = replace(result.summary, overall=summarize([]).overall)
    empty = replace(result, summary=free)
    assert "no recall" in Page(curve_section(Evaluated.of(empty))).visible
    assert "No scan has a true lesion" in Page(size_section(Evaluated.of(empty))).visible


def test_recall_by_size_leaves_out_empty_bins(result: EvaluationResult) -> None:
    # All lesions have 2 slices of 4 x 4 voxels of 2 mm³: 64 mm³, a sphere of 4.96 mm.
    page = Page(size_section(Evaluated.of(result)))
    rows = page.rows(page.find("table")[0])
    assert [row[0] for row in rows[1:]] == ["30 to under 100 mm³diameter 3.9 to 5.8 mm"]
    assert rows[1][1:4] == ["6", "4", "0.67"]


def test_the_text_of_a_bar_names_its_system_its_range_and_its_number_of_lesions(result: EvaluationResult) -> None:
    page = Page(size_section(Evaluated.of(SystemsResult({"a": result, "b": result}))))
    titles = [title["text"] for group in page.find("g", class_="bar") for title in page.find("title", within=group)]
    assert titles[:2] == ["a, 30–100: 0.67 (n = 6)", "b, 30–100: 0.67 (n = 6)"]
