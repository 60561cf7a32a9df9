"""Charts of the report as SVG.

This module writes the SVG elements directly, because no library meets the needs of the page. The text of a chart must
remain text. The colours must come from the style sheet, which has colours for light mode, dark mode and print. A chart
must need only a few kilobytes. An SVG of matplotlib has fixed colours and fonts and is much larger. A JavaScript
library adds megabytes. The report needs only three kinds of axes: fractions from 0 to 1, false positives per scan on a
logarithmic scale, and bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from detseg3d.reporting.html.formatting import number

__all__ = [
    "Bars",
    "Line",
    "bar_chart",
    "count_axis",
    "froc_axis",
    "interval_strip",
    "legend",
    "line_chart",
    "fraction_axis",
]

# Size and margins of the plot, in units of the view box.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420.0, 250.0, 46.0, 14.0, 10.0, 44.0
STYLES = 6
"""Number of styles: colour, dash pattern and marker. The seventh series looks like the first."""


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` with labelled ticks, linear or logarithmic."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value on the axis, from 0 to 1. A value outside the axis gets the nearest end."""
        low, high, inside = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, inside = math.log(low), math.log(high), math.log(inside)
        return (inside - low) / (high - low)


def fraction_axis(title: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(title, 0.0, 1.0, tuple((tick / 5, f"{tick / 5:.1f}") for tick in range(6)))


def froc_axis() -> Axis:
    """Return the axis of the false positives per scan, from 1/16 to 8. Each tick is twice the previous tick."""
    names = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "1", 2.0: "2", 4.0: "4", 8.0: "8"}
    return Axis("false positives per scan", 1 / 16, 8.0, tuple(names.items()), logarithmic=True)


def count_axis(title: str, highest: float) -> Axis:
    """Return an axis of counts from 0 to at least ``highest``, with about five ticks at round numbers.

    Examples
    --------
    >>> count_axis("false positives", 7).ticks
    ((0.0, '0'), (2.0, '2'), (4.0, '4'), (6.0, '6'), (8.0, '8'))
    """
    step = next(
        size for power in range(12) for size in (10**power, 2 * 10**power, 5 * 10**power) if size * 5 >= highest
    )
    last = max(1, math.ceil(highest / step))
    return Axis(
        title, 0.0, float(last * step), tuple((float(tick * step), str(tick * step)) for tick in range(last + 1))
    )


@dataclass(frozen=True)
class Line:
    """A series of a line chart.

    Attributes
    ----------
    name : str
        Name of the series.
    points : tuple of (x, y)
        The line joins the points in this order.
    style : int
        Number of the colour, dash pattern and marker.
    marks : tuple of (x, y, str)
        Points with a marker. The text appears if the mouse points at the marker.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: int = 0
    marks: tuple[tuple[float, float, str], ...] = ()


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, description: str, diagonal: bool = False) -> Markup:
    """Return a chart of lines as an SVG element.

    Parameters
    ----------
    lines : sequence of Line
        Series of the chart.
    x, y : Axis
        Horizontal and vertical axis.
    description : str
        Text for readers who cannot see the chart.
    diagonal : bool, optional
        Also draw the line from corner to corner.

    Examples
    --------
    >>> svg = line_chart([Line("a", ((0.0, 0.0), (1.0, 1.0)))], fraction_axis("x"), fraction_axis("y"), "a line")
    >>> 'points="46,260 466,10"' in svg
    True
    """
    parts = [_frame(x, y)]
    if diagonal:
        parts.append(_polyline(((x.low, y.low), (x.high, y.high)), x, y, "diagonal"))
    for line in lines:
        style = f"s{line.style % STYLES}"
        if len(line.points) > 1:
            parts.append(_polyline(line.points, x, y, f"line {style}"))
    for line in lines:  # markers come after all lines: a line on top would hide a marker from the mouse
        parts += [
            _element(
                "g",
                _marker(*_at(a, b, x, y), line.style),
                _element("title", text),
                class_=f"mark s{line.style % STYLES}",
            )
            for a, b, text in line.marks
        ]
    return _svg(parts, description)


def legend(entries: Sequence[tuple[int, str]], kind: str = "line") -> Markup:
    """Return the legend of a chart.

    Parameters
    ----------
    entries : sequence of (int, str)
        Style and name of each series.
    kind : str
        ``line`` or ``bar``.
    """
    items = []
    for style, name in entries:
        if kind == "bar":
            sample = _element("rect", x=7, y=1, width=12, height=12, class_=f"bar s{style % STYLES}")
        else:
            sample = _join(
                _element("line", x1=0, y1=7, x2=26, y2=7, class_=f"line s{style % STYLES}"),
                _element("g", _marker(13, 7, style), class_=f"mark s{style % STYLES}"),
            )
        items.append(
            _element(
                "li",
                _element("svg", sample, viewBox="0 0 26 14", class_="swatch", aria_hidden="true"),
                _element("span", name),
            )
        )
    return _element("ul", *items, class_="legend")


@dataclass(frozen=True)
class Bars:
    """A series of a bar chart.

    Attributes
    ----------
    name : str
        Name of the series.
    values : tuple of float or None
        Value of each bin. ``None`` draws no bar.
    intervals : tuple of (float, float) or None
        Interval of each value. ``None`` draws no whisker.
    style : int
        Number of the colour.
    counts : tuple of int
        Number of lesions in each bin; empty if the numbers below the bins apply to all series.
    """

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    style: int = 0
    counts: tuple[int, ...] = ()


def bar_chart(
    series: Sequence[Bars], bins: Sequence[tuple[str, str]], x_title: str, y: Axis, description: str
) -> Markup:
    """Return a chart with a group of bars for each bin as an SVG element.

    Parameters
    ----------
    series : sequence of Bars
        Series of the chart.
    bins : sequence of (str, str)
        Two lines of text below each group.
    x_title : str
        Title of the horizontal axis.
    y : Axis
        Vertical axis.
    description : str
        Text for readers who cannot see the chart.
    """
    parts = [_frame(Axis(x_title, 0.0, 1.0, ()), y, extra=14)]
    slot = _WIDTH / max(len(bins), 1)
    width = min(slot * 0.78 / max(len(series), 1), 26.0)
    for index, (first, second) in enumerate(bins):
        middle = _LEFT + slot * (index + 0.5)
        parts.append(_element("text", first, x=middle, y=_TOP + _HEIGHT + 14, class_="tick middle"))
        parts.append(_element("text", second, x=middle, y=_TOP + _HEIGHT + 28, class_="tick middle faint"))
        for place, bars in enumerate(series):
            value = bars.values[index]
            if value is None:
                continue
            left = middle + (place - len(series) / 2) * width
            height = y.place(value) * _HEIGHT
            own = f"n = {bars.counts[index]}" if bars.counts else second
            text = f"{bars.name}, {first}: {number(value)} ({own})"
            shape = _element(
                "rect",
                x=left + 1,
                y=_TOP + _HEIGHT - height,
                width=width - 2,
                height=max(height, 0.6),
            )
            parts.append(_element("g", shape, _element("title", text), class_=f"bar s{bars.style % STYLES}"))
            limits = bars.intervals[index]
            if limits is not None:
                low, high = (_TOP + _HEIGHT * (1 - y.place(limit)) for limit in limits)
                center = left + width / 2
                parts.append(_element("line", x1=center, y1=low, x2=center, y2=high, class_="whisker"))
    return _svg(parts, description, extra=14)


def interval_strip(value: float | None, low: float | None, high: float | None) -> Markup:
    """Return a small scale from 0 to 1 with a value and its interval. The result is empty if there is no value."""
    if value is None:
        return Markup()
    x = fraction_axis("")
    parts = [_element("line", x1=2, y1=7, x2=102, y2=7, class_="track")]
    if low is not None and high is not None:
        left, right = (2 + 100 * x.place(limit) for limit in (low, high))
        parts.append(_element("rect", x=left, y=4, width=max(right - left, 1), height=6, rx=3, class_="range"))
    parts.append(_element("circle", cx=2 + 100 * x.place(value), cy=7, r=3.5, class_="value"))
    return _element("svg", *parts, viewBox="0 0 104 14", class_="strip", aria_hidden="true")


# -- Elements ----------------------------------------------------------------------------------------------------------


def _element(tag: str, *children: str, **attributes: object) -> Markup:
    """Return an element with escaped text and values. ``class_`` becomes ``class``, ``aria_x`` becomes ``aria-x``."""
    opening = Markup()
    for name, value in attributes.items():
        text = _coordinate(value) if isinstance(value, float) else value
        opening += Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), text)
    return Markup("<{0}{1}>{2}</{0}>").format(tag, opening, _join(*children))


def _join(*children: str) -> Markup:
    return Markup().join(children)


def _svg(parts: Sequence[Markup], description: str, extra: float = 0.0) -> Markup:
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM + extra
    box = f"0 0 {_coordinate(width)} {_coordinate(height)}"
    return _element("svg", _element("title", description), *parts, viewBox=box, role="img", class_="chart")


def _frame(x: Axis, y: Axis, extra: float = 0.0) -> Markup:
    """Return the grid, the ticks and the titles."""
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = []
    for value, label in y.ticks:
        height = bottom - _HEIGHT * y.place(value)
        parts.append(_element("line", x1=_LEFT, y1=height, x2=right, y2=height, class_="grid"))
        parts.append(_element("text", label, x=_LEFT - 7, y=height, dy="0.35em", class_="tick end"))
    for value, label in x.ticks:
        place = _LEFT + _WIDTH * x.place(value)
        parts.append(_element("line", x1=place, y1=_TOP, x2=place, y2=bottom, class_="grid"))
        parts.append(_element("text", label, x=place, y=bottom + 16, class_="tick middle"))
    parts.append(_element("line", x1=_LEFT, y1=bottom, x2=right, y2=bottom, class_="axis"))
    middle = _LEFT + _WIDTH / 2
    parts.append(_element("text", x.title, x=middle, y=bottom + 37 + extra, class_="title middle"))
    turn = f"translate(12 {_coordinate(_TOP + _HEIGHT / 2)}) rotate(-90)"
    parts.append(_element("text", y.title, transform=turn, class_="title middle"))
    return _join(*parts)


def _at(a: float, b: float, x: Axis, y: Axis) -> tuple[float, float]:
    return _LEFT + _WIDTH * x.place(a), _TOP + _HEIGHT * (1 - y.place(b))


def _polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis, look: str) -> Markup:
    places = (_at(a, b, x, y) for a, b in points)
    return _element("polyline", points=" ".join(f"{_coordinate(a)},{_coordinate(b)}" for a, b in places), class_=look)


def _marker(x: float, y: float, style: int) -> Markup:
    """Return a circle, square, triangle or diamond, so that series differ not only in colour."""
    kind = style % 4
    if kind == 0:
        return _element("circle", cx=x, cy=y, r=3.5)
    if kind == 1:
        return _element("rect", x=x - 3.2, y=y - 3.2, width=6.4, height=6.4)
    if kind == 2:
        return _element("path", d=f"M{_coordinate(x)} {_coordinate(y - 4.2)}l4 7h-8z")
    return _element("path", d=f"M{_coordinate(x)} {_coordinate(y - 4.6)}l4.6 4.6l-4.6 4.6l-4.6-4.6z")


def _coordinate(value: float) -> str:
    """Return a coordinate as text. A tenth of a unit is finer than a pixel."""
    return f"{value:.1f}".removesuffix(".0")
