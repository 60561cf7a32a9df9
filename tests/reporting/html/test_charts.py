from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from detseg3d.reporting.html.charts import (
    Bars,
    Line,
    bar_chart,
    fraction_axis,
    froc_axis,
    interval_strip,
    legend,
    line_chart,
)


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def of_class(root: ET.Element, name: str) -> list[ET.Element]:
    return [element for element in root.iter() if name in element.get("class", "").split()]


def numbers(text: str | None) -> list[float]:
    return [float(value) for value in re.findall(r"-?\d+\.?\d*", text or "")]


def draw(*lines: Line, **options: Any) -> ET.Element:
    return parse(line_chart(lines, fraction_axis("x"), fraction_axis("y"), "a chart", **options))


def test_a_line_runs_through_its_points() -> None:
    root = draw(Line("a", ((0.0, 0.0), (0.5, 1.0), (1.0, 0.5))))
    x0, y0, x1, y1, x2, y2 = numbers(of_class(root, "line")[0].get("points"))
    assert x1 - x0 == x2 - x1 > 0  # to the right
    assert y0 - y1 == 2 * (y2 - y1) > 0  # and up, where y is smaller


def test_false_positives_are_doubled_at_equal_steps() -> None:
    axis = froc_axis()
    places = [axis.place(value) for value, _ in axis.ticks]
    steps = {round(b - a, 9) for a, b in pairwise(places)}
    assert len(steps) == 1 and places[-1] == 1.0


@pytest.mark.parametrize(("value", "place"), [(-1.0, 0.0), (0.0, 0.0), (0.25, 0.25), (2.0, 1.0)])
def test_values_outside_an_axis_are_placed_at_its_end(value: float, place: float) -> None:
    assert fraction_axis("").place(value) == place


def test_series_differ_in_more_than_colour() -> None:
    root = draw(*(Line(str(n), ((0.0, 0.0), (1.0, 1.0)), n, ((0.5, 0.5, "mark"),)) for n in range(4)))
    shapes = {(mark[0].tag, (mark[0].get("d") or "")[-8:]) for mark in of_class(root, "mark")}
    assert len(shapes) == 4


def test_a_marker_has_a_text() -> None:
    root = draw(Line("a", (), 0, ((0.5, 0.5, "recall < 1"),)))
    assert [title.text for title in of_class(root, "mark")[0].iter("title")] == ["recall < 1"]


def test_a_single_point_has_a_marker_and_no_line() -> None:
    root = draw(Line("a", ((0.5, 0.5),), 0, ((0.5, 0.5, "here"),)))
    assert of_class(root, "line") == [] and len(of_class(root, "mark")) == 1


def test_the_diagonal_goes_from_corner_to_corner() -> None:
    root = draw(Line("a", ((0.0, 0.0), (1.0, 1.0))), diagonal=True)
    assert of_class(root, "diagonal")[0].get("points") == of_class(root, "line")[0].get("points")


def test_a_chart_has_a_description_for_readers_who_cannot_see_it() -> None:
    root = draw()
    assert root.get("role") == "img" and root[0].tag == "title" and root[0].text == "a chart"


def test_the_height_of_a_bar_is_its_value_and_a_missing_value_has_no_bar() -> None:
    series = [Bars("a", (0.25, None, 1.0), (None, None, (0.5, 1.0)))]
    root = parse(
        bar_chart(series, [("x", "n = 4"), ("y", "n = 0"), ("z", "n = 1")], "size", fraction_axis("recall"), "bars")
    )
    low, high = (float(group[0].get("height", "")) for group in of_class(root, "bar"))
    assert high == pytest.approx(4 * low)
    (whisker,) = of_class(root, "whisker")
    assert float(whisker.get("y1", "")) - float(whisker.get("y2", "")) == pytest.approx(high / 2)


def test_bars_without_bins_are_an_empty_frame() -> None:
    assert of_class(parse(bar_chart([], [], "size", fraction_axis("recall"), "bars")), "bar") == []


def test_an_interval_lies_around_its_value() -> None:
    root = parse(interval_strip(0.5, 0.4, 0.7))
    (bar,), (dot,) = of_class(root, "range"), of_class(root, "value")
    left, width, middle = float(bar.get("x", "")), float(bar.get("width", "")), float(dot.get("cx", ""))
    assert (left, width, middle) == (42.0, 30.0, 52.0)


def test_the_strip_of_a_missing_value_is_empty() -> None:
    assert interval_strip(None, None, None) == ""
    assert of_class(parse(interval_strip(0.5, None, None)), "range") == []


@pytest.mark.parametrize("kind", ["line", "bar"])
def test_names_in_a_legend_are_escaped(kind: str) -> None:
    root = parse(legend([(0, "<b>"), (7, "two")], kind))
    assert [entry[1].text for entry in root] == ["<b>", "two"]
