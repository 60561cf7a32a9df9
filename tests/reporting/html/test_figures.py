from __future__ import annotations

from typing import Any

import pytest

from detseg3d.reporting.html.figures import FIGURES, GROUPS, Estimate, Evaluated, dig, estimate
from tests.reporting.html.factory import evaluate, write_cases

BY_KEY = {figure.key: figure for figure in FIGURES}


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate(write_cases(tmp_path_factory.mktemp("cases")))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.key)
def test_every_figure_stands_where_it_is_looked_for(result: dict[str, Any], figure: Any) -> None:
    assert isinstance(dig(result["summary"], *figure.path), float)
    assert figure.group in GROUPS and figure.meaning.endswith((".", "?"))


def test_the_interval_comes_with_the_value(result: dict[str, Any]) -> None:
    known = estimate(result, BY_KEY["recall_any"])
    assert known.value == pytest.approx(4 / 6)  # good 2 of 2, middle and bad 1 of 2
    assert known.low is not None and known.high is not None and known.low <= known.value <= known.high


def test_intervals_and_summary_agree(result: dict[str, Any]) -> None:
    for figure in FIGURES:
        if figure.key in result["intervals"]:
            assert result["intervals"][figure.key]["value"] == pytest.approx(dig(result["summary"], *figure.path))


def test_without_intervals_the_value_is_that_of_the_summary() -> None:
    summary = {"dice": {"mean": 0.5}}
    assert estimate({"summary": summary}, BY_KEY["dice"]) == Estimate(0.5)


@pytest.mark.parametrize(
    ("key", "missing"), [("recall_any", "truth"), ("precision_iou_0.1", "predictions"), ("cpm_any", "truth")]
)
def test_a_share_of_nothing_is_no_figure(result: dict[str, Any], key: str, missing: str) -> None:
    counts = {**result["summary"]["lesions"]["any"], missing: 0}
    lesions = {**result["summary"]["lesions"], "any": counts}
    without = {**result, "summary": {**result["summary"], "lesions": lesions}}
    assert estimate(without, BY_KEY[key]) == Estimate()


def test_where_nothing_is_on_either_side_there_is_no_figure(result: dict[str, Any]) -> None:
    counts = {**result["summary"]["lesions"]["any"], "truth": 0, "predictions": 0}
    lesions = {**result["summary"]["lesions"], "any": counts}
    nothing = {**result, "summary": {**result["summary"], "lesions": lesions}}
    for key in ("f1_any", "f1_iou_0.1", "f1_iou_0.5", "pq", "dice"):
        assert estimate(nothing, BY_KEY[key]) == Estimate()
        counts["predictions"] = 1
        assert estimate(nothing, BY_KEY[key]) != Estimate()
        counts["predictions"] = 0


def test_one_system_has_no_name_and_several_have() -> None:
    one = Evaluated.of({"summary": {}})
    assert not one.several and list(one.results) == [""]
    two = Evaluated.of({"systems": {"a": {"x": 1}, "b": {}}, "comparisons": [{"first": "a", "second": "b"}]})
    assert two.several and two.first == {"x": 1} and len(two.comparisons) == 1
