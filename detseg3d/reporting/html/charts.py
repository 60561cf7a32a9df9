"""Charts as inline SVG: text stays text, colours come from the page's style sheet and follow light, dark and print.

A plotting library would bake colours and fonts into every chart; the few kinds of axes that a report needs (shares from
0 to 1, false positives per scan by powers of two, bins) are drawn here instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detseg3d.reporting.html.markup import Html, fragment, number, tag

__all__ = [
    "Axis",
    "Bars",
    "Line",
    "bar_chart",
    "froc_axis",
    "interval_strip",
    "legend",
    "line_chart",
    "share_axis",
]

# The inner plot and its margins, in units of the view box.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420.0, 250.0, 46.0, 14.0, 10.0, 44.0
STYLES = 6
"""Series are told apart by colour, dash pattern and marker; the seventh looks like the first."""


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` and its labelled ticks; by logarithms if ``logarithmic``."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, 0 to 1; values beyond the ends are put at the ends."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, at = math.log(low), math.log(high), math.log(at)
        return (at - low) / (high - low)


def share_axis(title: str) -> Axis:
    """From 0 to 1."""
    return Axis(title, 0.0, 1.0, tuple((tick / 5, f"{tick / 5:.1f}") for tick in range(6)))


def froc_axis() -> Axis:
    """False positives per scan from 1/16 to 8: each step to the right doubles them."""
    names = {0.125: "1/8", 0.25: "1/4", 0.5: "1/2", 1.0: "1", 2.0: "2", 4.0: "4", 8.0: "8"}
    return Axis("false positives per scan", 1 / 16, 8.0, tuple(names.items()), logarithmic=True)


@dataclass(frozen=True)
class Line:
    """A series of a line chart.

    Attributes
    ----------
    name : str
    points : tuple of (x, y)
        Joined in this order.
    style : int
        Colour, dash pattern and marker.
    marks : tuple of (x, y, str)
        Points with a marker and the text that appears on them.
    joined : bool
        Draw the line between the points.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    style: int = 0
    marks: tuple[tuple[float, float, str], ...] = ()
    joined: bool = True


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, description: str, diagonal: bool = False) -> Html:
    """Lines in a frame.

    Parameters
    ----------
    lines : sequence of Line
    x, y : Axis
    description : str
        For readers who do not see the chart.
    diagonal : bool, optional
        Also draw the line of equality.

    Examples
    --------
    >>> svg = line_chart([Line("a", ((0.0, 0.0), (1.0, 1.0)))], share_axis("x"), share_axis("y"), "a line")
    >>> 'points="46,260 466,10"' in svg
    True
    """
    parts = [_frame(x, y)]
    if diagonal:
        parts.append(_polyline(((x.low, y.low), (x.high, y.high)), x, y, "diagonal"))
    for line in lines:
        style = f"s{line.style % STYLES}"
        if line.joined and len(line.points) > 1:
            parts.append(_polyline(line.points, x, y, f"line {style}"))
    for line in lines:  # above all lines, or they could not be pointed at
        parts += [
            tag("g", _marker(*_at(a, b, x, y), line.style), tag("title", text), class_=f"mark s{line.style % STYLES}")
            for a, b, text in line.marks
        ]
    return _svg(parts, description)


def legend(entries: Sequence[tuple[int, str]], kind: str = "line") -> Html:
    """Names and looks of series: ``line`` or ``bar``."""
    items = []
    for style, name in entries:
        if kind == "bar":
            sample = tag("rect", x=7, y=1, width=12, height=12, class_=f"bar s{style % STYLES}")
        else:
            sample = fragment(
                tag("line", x1=0, y1=7, x2=26, y2=7, class_=f"line s{style % STYLES}"),
                tag("g", _marker(13, 7, style), class_=f"mark s{style % STYLES}"),
            )
        items.append(
            tag("li", tag("svg", sample, viewBox="0 0 26 14", class_="swatch", aria_hidden="true"), tag("span", name))
        )
    return tag("ul", items, class_="legend")


@dataclass(frozen=True)
class Bars:
    """A series of a bar chart: for each bin a value, ``None`` for no bar, its interval, and what it is a share of."""

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    style: int = 0
    counts: tuple[int, ...] = ()


def bar_chart(series: Sequence[Bars], bins: Sequence[tuple[str, str]], x_title: str, y: Axis, description: str) -> Html:
    """Groups of bars with whiskers, one group for each bin.

    Parameters
    ----------
    series : sequence of Bars
    bins : sequence of (str, str)
        Two lines of text under each group.
    x_title : str
    y : Axis
    description : str
        For readers who do not see the chart.
    """
    parts = [_frame(Axis(x_title, 0.0, 1.0, ()), y, extra=14)]
    slot = _WIDTH / max(len(bins), 1)
    width = min(slot * 0.78 / max(len(series), 1), 26.0)
    for index, (first, second) in enumerate(bins):
        middle = _LEFT + slot * (index + 0.5)
        parts.append(tag("text", first, x=_n(middle), y=_n(_TOP + _HEIGHT + 14), class_="tick middle"))
        parts.append(tag("text", second, x=_n(middle), y=_n(_TOP + _HEIGHT + 28), class_="tick middle faint"))
        for place, bars in enumerate(series):
            value = bars.values[index]
            if value is None:
                continue
            left = middle + (place - len(series) / 2) * width
            height = y.place(value) * _HEIGHT
            own = f"n = {bars.counts[index]}" if bars.counts else second
            text = f"{bars.name}, {first}: {number(value)} ({own})"
            shape = tag(
                "rect",
                x=_n(left + 1), y=_n(_TOP + _HEIGHT - height), width=_n(width - 2), height=_n(max(height, 0.6)),
            )  # fmt: skip
            parts.append(tag("g", shape, tag("title", text), class_=f"bar s{bars.style % STYLES}"))
            limits = bars.intervals[index]
            if limits is not None:
                low, high = (_n(_TOP + _HEIGHT * (1 - y.place(limit))) for limit in limits)
                center = _n(left + width / 2)
                parts.append(tag("line", x1=center, y1=low, x2=center, y2=high, class_="whisker"))
    return _svg(parts, description, extra=14)


def interval_strip(value: float | None, low: float | None, high: float | None) -> Html:
    """A value between 0 and 1 and its interval on a small scale; nothing without a value."""
    if value is None:
        return Html("")
    x = share_axis("")
    parts = [tag("line", x1=2, y1=7, x2=102, y2=7, class_="track")]
    if low is not None and high is not None:
        left, right = (2 + 100 * x.place(limit) for limit in (low, high))
        parts.append(tag("rect", x=_n(left), y=4, width=_n(max(right - left, 1)), height=6, rx=3, class_="range"))
    parts.append(tag("circle", cx=_n(2 + 100 * x.place(value)), cy=7, r=3.5, class_="value"))
    return tag("svg", parts, viewBox="0 0 104 14", class_="strip", aria_hidden="true")


# -- Parts -------------------------------------------------------------------------------------------------------------


def _svg(parts: Sequence[Html], description: str, extra: float = 0.0) -> Html:
    width, height = _LEFT + _WIDTH + _RIGHT, _TOP + _HEIGHT + _BOTTOM + extra
    box = f"0 0 {_n(width)} {_n(height)}"
    return tag("svg", tag("title", description), parts, viewBox=box, role="img", class_="chart")


def _frame(x: Axis, y: Axis, extra: float = 0.0) -> Html:
    """Grid, ticks and titles."""
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    parts = []
    for value, label in y.ticks:
        height = _n(bottom - _HEIGHT * y.place(value))
        parts.append(tag("line", x1=_n(_LEFT), y1=height, x2=_n(right), y2=height, class_="grid"))
        parts.append(tag("text", label, x=_n(_LEFT - 7), y=height, dy="0.35em", class_="tick end"))
    for value, label in x.ticks:
        place = _n(_LEFT + _WIDTH * x.place(value))
        parts.append(tag("line", x1=place, y1=_n(_TOP), x2=place, y2=_n(bottom), class_="grid"))
        parts.append(tag("text", label, x=place, y=_n(bottom + 16), class_="tick middle"))
    parts.append(tag("line", x1=_n(_LEFT), y1=_n(bottom), x2=_n(right), y2=_n(bottom), class_="axis"))
    middle = _n(_LEFT + _WIDTH / 2)
    parts.append(tag("text", x.title, x=middle, y=_n(bottom + 37 + extra), class_="title middle"))
    turn = f"translate(12 {_n(_TOP + _HEIGHT / 2)}) rotate(-90)"
    parts.append(tag("text", y.title, transform=turn, class_="title middle"))
    return fragment(parts)


def _at(a: float, b: float, x: Axis, y: Axis) -> tuple[float, float]:
    return _LEFT + _WIDTH * x.place(a), _TOP + _HEIGHT * (1 - y.place(b))


def _polyline(points: Sequence[tuple[float, float]], x: Axis, y: Axis, look: str) -> Html:
    places = (_at(a, b, x, y) for a, b in points)
    return tag("polyline", points=" ".join(f"{_n(a)},{_n(b)}" for a, b in places), class_=look)


def _marker(x: float, y: float, style: int) -> Html:
    """Circle, square, triangle or diamond: not only the colour tells series apart."""
    kind = style % 4
    if kind == 0:
        return tag("circle", cx=_n(x), cy=_n(y), r=3.5)
    if kind == 1:
        return tag("rect", x=_n(x - 3.2), y=_n(y - 3.2), width=6.4, height=6.4)
    if kind == 2:
        return tag("path", d=f"M{_n(x)} {_n(y - 4.2)}l4 7h-8z")
    return tag("path", d=f"M{_n(x)} {_n(y - 4.6)}l4.6 4.6l-4.6 4.6l-4.6-4.6z")


def _n(value: float) -> str:
    """A coordinate: a tenth of a unit is finer than a pixel."""
    return f"{value:.1f}".removesuffix(".0")
