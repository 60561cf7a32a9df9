"""Curves over the score threshold, and recall by the size of the lesion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.remarks import few_scans_for_froc
from detseg3d.evaluation.scores.froc import FROC_RATES
from detseg3d.reporting.html.charts import (
    Bars,
    Line,
    bar_chart,
    froc_axis,
    legend,
    line_chart,
    share_axis,
)
from detseg3d.reporting.html.figures import CRITERION_NAMES, Evaluated
from detseg3d.reporting.html.markup import DASH, Html, dig, fragment, number, tag
from detseg3d.reporting.html.tables import scrolling

__all__ = ["curve_section", "size_section"]

Point = tuple[float, float]

_SIZES = (
    ("mm3", "By volume", "volume of the true lesion, mm³"),
    ("quantile", "In four equal shares of the lesions, smallest first", "volume of the true lesion, mm³"),
    ("voxels", "By number of voxels", "voxels of the true lesion"),
)


# -- Curves ------------------------------------------------------------------------------------------------------------


def curve_section(evaluated: Evaluated) -> Html:
    """FROC and precision–recall curves, and the FROC in figures; a sentence where there are no scores."""
    scores = {name: dig(r, "summary", "scores") for name, r in evaluated.results.items()}
    without = [name for name, entry in scores.items() if not entry]
    known = {name: entry for name, entry in scores.items() if entry}
    if not known:
        return tag("p", "The predictions have no scores, so there is no threshold to vary and no curve to draw.")
    if not any(dig(r, "summary", "lesions", "any", "truth") for r in evaluated.results.values()):
        return tag("p", "No scan has a true lesion, so there is no recall to draw a curve of.")
    parts = [
        tag("p", "Each point of a curve is a threshold: predictions with a lower score are left out. Point at a marker "
            "for its figures."),
    ]  # fmt: skip
    few = few_scans_for_froc(min(dig(r, "summary", "cases") or 0 for r in evaluated.results.values()), FROC_RATES)
    if few:
        parts.append(tag("p", few, class_="note"))
    if without and evaluated.several:
        parts.append(tag("p", "Without scores, and therefore without a curve: ", ", ".join(without), "."))
    if evaluated.several:
        for criterion, name in CRITERION_NAMES.items():
            series = {system: entry[criterion] for system, entry in known.items() if criterion in entry}
            styles = {system: list(scores).index(system) for system in series}
            charts = _curves(series, styles, f" ({name})")
            parts.append(charts if criterion == HEADLINE else _folded(f"The same at {name}", charts))
        tables = [
            fragment(tag("h4", system), _froc_table({CRITERION_NAMES[HEADLINE]: entry[HEADLINE]}))
            for system, entry in known.items()
        ]
    else:
        [only] = known.values()
        named = {name: only[criterion] for criterion, name in CRITERION_NAMES.items() if criterion in only}
        parts.append(_curves(named, {name: index for index, name in enumerate(named)}, ""))
        tables = [_froc_table(named)]
    parts.append(_folded("Recall and threshold at each number of false positives per scan", fragment(tables)))
    return fragment(parts)


def _folded(title: str, content: Html) -> Html:
    return tag("details", tag("summary", title), content)


def _curves(series: Mapping[str, Mapping[str, Any]], styles: Mapping[str, int], suffix: str) -> Html:
    froc = [_froc_line(name, entry, styles[name]) for name, entry in series.items()]
    ranked = [_precision_line(name, entry, styles[name]) for name, entry in series.items()]
    share = share_axis("recall")
    names = ", ".join(series)
    return fragment(
        legend([(styles[name], name) for name in series]),
        tag(
            "div",
            tag(
                "figure",
                tag("figcaption", f"FROC{suffix}"),
                line_chart(froc, froc_axis(), share, f"Recall against false positives per scan: {names}"),
            ),
            tag(
                "figure",
                tag("figcaption", f"Precision and recall{suffix}"),
                line_chart(ranked, share, share_axis("precision"), f"Precision against recall: {names}"),
            ),
            class_="charts",
        ),
    )


def _froc_line(name: str, entry: Mapping[str, Any], style: int) -> Line:
    """A curve of steps: between two thresholds nothing is gained, and after the last one nothing is lost."""
    curve = entry["froc_curve"]
    steps = _steps([(0.0, 0.0), *zip(curve["fp_per_scan"], curve["recall"], strict=True)])
    axis = froc_axis()
    first = max(recall for rate, recall in steps if rate <= axis.low)
    points = [(axis.low, first), *((rate, recall) for rate, recall in steps if axis.low < rate <= axis.high)]
    points.append((axis.high, points[-1][1]))
    marks = []
    for row in entry["froc"]:
        if row["recall"] is None:
            continue
        rate = _fraction(row["fp_per_scan"])
        text = f"{name}: recall {number(row['recall'])} at {rate} false positives per scan or fewer"
        if row["threshold"] is not None:
            text += f", score {number(row['threshold'], 3)} or more"
        marks.append((float(row["fp_per_scan"]), float(row["recall"]), text))
    return Line(name, tuple(points), style, tuple(marks))


def _steps(points: Sequence[Point]) -> list[Point]:
    """Corners of a step function through points that go right and up: first right, then up."""
    result = [points[0]]
    for (_, before), (right, up) in pairwise(points):
        result += [(right, before), (right, up)]
    return result


def _precision_line(name: str, entry: Mapping[str, Any], style: int) -> Line:
    curve = entry["pr_curve"]
    points = tuple(zip(curve["recall"], curve["precision"], strict=True))
    marks: tuple[tuple[float, float, str], ...] = ()
    if points:
        recall, precision = points[-1]
        text = f"{name}, all predictions: precision {number(precision)}, recall {number(recall)}"
        marks = ((recall, precision, text),)
    return Line(name, points, style, marks)


def _froc_table(entries: Mapping[str, Mapping[str, Any]]) -> Html:
    rates = [row["fp_per_scan"] for row in next(iter(entries.values()))["froc"]]
    header = [tag("th", "false positives per scan", scope="col")]
    header += [tag("th", _fraction(rate), scope="col", class_="number") for rate in rates]
    header += [tag("th", "mean (CPM)", scope="col", class_="number")]
    rows = []
    for name, entry in entries.items():
        recalls = [tag("td", number(row["recall"]), class_="number strong") for row in entry["froc"]]
        mean = tag("td", number(entry.get("cpm")), class_="number strong")
        rows.append(tag("tr", tag("th", f"recall, {name}", scope="row"), recalls, mean))
        thresholds = [tag("td", number(row["threshold"], 3), class_="number faint") for row in entry["froc"]]
        rows.append(tag("tr", tag("th", "lowest score", scope="row", class_="faint"), thresholds, tag("td", "")))
    table = tag("table", tag("thead", tag("tr", header)), tag("tbody", rows))
    return scrolling(table, "recall and threshold by false positives per scan")


def _fraction(rate: float) -> str:
    """A rate as people write it: 1/8, 1/4, 1/2, 1, 2."""
    return f"1/{round(1 / rate)}" if 0 < rate < 1 else f"{rate:g}"


# -- Size --------------------------------------------------------------------------------------------------------------


def size_section(evaluated: Evaluated) -> Html:
    """Recall by the size of the true lesion, in charts and tables."""
    parts: list[Html] = []
    for kind, title, axis in _SIZES:
        tables = {
            name: [row for row in dig(r, "summary", "recall_by_size", kind) or () if row["lesions"]]
            for name, r in evaluated.results.items()
        }
        if not any(tables.values()):
            continue
        content = tag(
            "div",
            _size_chart(tables, kind, axis, evaluated.several),
            _size_table(tables, kind),
            class_="charts beside",
        )
        parts.append(content if not parts else _folded(title, content))
    if not parts:
        return tag("p", "No scan has a true lesion.")
    note = tag(
        "p",
        "Whiskers: 95 % interval of the share, by patients: the lesions of a patient are not independent; n is the "
        "number of true lesions.",
        class_="note",
    )
    return fragment(parts[0], note, parts[1:])


def _size_chart(tables: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, axis: str, several: bool) -> Html:
    # Systems may lack scans, each others: the axis shows the most lesions, a bar tells its own number.
    every = sorted((row for table in tables.values() for row in table), key=lambda row: row["lesions"])
    rows = list({row["bin"]: row for row in every}.values())
    rows.sort(key=lambda row: row["from"])
    bins = [(_short_bin(row, kind), f"n = {row['lesions']}") for row in rows]
    if several:
        series = [_bars(name, rows, table, HEADLINE, n) for n, (name, table) in enumerate(tables.items())]
    else:
        [table] = tables.values()
        series = [_bars(name, rows, table, criterion, n) for n, (criterion, name) in enumerate(CRITERION_NAMES.items())]
    chart = bar_chart(series, bins, axis, share_axis("recall"), f"Recall by {axis}")
    names = [(bars.style, bars.name) for bars in series]
    return tag("figure", legend(names, "bar"), chart)


def _bars(
    name: str, rows: Sequence[Mapping[str, Any]], table: Sequence[Mapping[str, Any]], criterion: str, style: int
) -> Bars:
    own = {row["bin"]: row for row in table}
    values = [dig(own, row["bin"], f"recall_{criterion}") for row in rows]
    limits = [[dig(own, row["bin"], f"{end}_{criterion}") for end in ("low", "high")] for row in rows]
    intervals = [None if low is None or high is None else (low, high) for low, high in limits]
    counts = tuple(dig(own, row["bin"], "lesions") or 0 for row in rows)
    return Bars(name, tuple(values), tuple(intervals), style, counts)


def _short_bin(row: Mapping[str, Any], kind: str) -> str:
    low, high = float(row["from"]), row["to" if kind == "quantile" else "below"]
    if kind == "quantile":
        return _size(low) if low == high else f"{_size(low)}{DASH}{_size(high)}"
    if high is None:
        return f"≥ {_size(low)}"
    return f"< {_size(high)}" if low == 0 else f"{_size(low)}{DASH}{_size(high)}"


def _size(value: float) -> str:
    """Short enough for an axis: 7.5, 120, 12k."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _size_table(tables: Mapping[str, Sequence[Mapping[str, Any]]], kind: str) -> Html:
    recalls = [f"recall, {name}" for name in CRITERION_NAMES.values()]
    titles = ["true lesions", f"found, {CRITERION_NAMES[HEADLINE]}", *recalls, "mean Dice"]
    header = [tag("th", "size", scope="col"), *(tag("th", text, scope="col", class_="number") for text in titles)]
    rows = []
    for name, table in tables.items():
        if name:
            rows.append(tag("tr", tag("th", name, colspan=len(header), scope="rowgroup", class_="group")))
        for row in table:
            figures = (row[key] for key in (*(f"recall_{name}" for name in CRITERION_NAMES), "dice"))
            found = number(row[f"found_{HEADLINE}"], 0)
            cells = [number(row["lesions"], 0), found, *(number(value) for value in figures)]
            label = tag("th", row["bin"], _diameters(row) if kind == "mm3" else None, scope="row")
            rows.append(tag("tr", label, [tag("td", cell, class_="number") for cell in cells]))
    return scrolling(tag("table", tag("thead", tag("tr", header)), tag("tbody", rows)), "recall by size")


def _diameters(row: Mapping[str, Any]) -> Html:
    """The bin as diameters of spheres, which is how lesions are spoken of."""
    low, high = row["from"], row["below"]
    if high is None:
        text = f"{_diameter(low)} mm across or more"
    elif low == 0:
        text = f"under {_diameter(high)} mm across"
    else:
        text = f"{_diameter(low)} to {_diameter(high)} mm across"
    return tag("span", text, class_="meaning")


def _diameter(volume: float) -> str:
    return number((6 * volume / math.pi) ** (1 / 3), 1)
