"""Curves over the score threshold, and recall by the size of the lesion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.remarks import few_scans_for_froc
from detseg3d.evaluation.scores.froc import FROC_RATES
from detseg3d.reporting.html.charts import Bars, Line, bar_chart, fraction_axis, froc_axis, legend, line_chart
from detseg3d.reporting.html.figures import CRITERION_NAMES, Evaluated, dig
from detseg3d.reporting.html.formatting import DASH, number, sphere_diameter
from detseg3d.reporting.html.rendering import render

__all__ = ["curve_section", "size_section"]

Point = tuple[float, float]


# -- Curves ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Charts:
    """FROC and precision–recall curves under one criterion."""

    criterion: str
    suffix: str
    folded: bool
    legend: Markup
    froc: Markup
    precision: Markup


@dataclass(frozen=True)
class _FrocRow:
    """Recall and threshold at each number of false positives per scan."""

    name: str
    recalls: tuple[float | None, ...]
    thresholds: tuple[float | None, ...]
    cpm: float | None


@dataclass(frozen=True)
class _FrocTable:
    """A table of FROC rows. ``system`` is empty if there is only one system."""

    system: str
    rates: tuple[str, ...]
    rows: tuple[_FrocRow, ...]


def curve_section(evaluated: Evaluated) -> Markup:
    """Return the FROC and precision–recall curves and the FROC table, or a sentence if there are no scores."""
    scores = {name: dig(r, "summary", "scores") for name, r in evaluated.results.items()}
    known = {name: entry for name, entry in scores.items() if entry}
    reason = ""
    if not known:
        reason = "The predictions have no scores. Without scores there is no threshold to vary and no curve to draw."
    elif not any(dig(r, "summary", "lesions", "any", "truth") for r in evaluated.results.values()):
        reason = "No scan has a true lesion. Without true lesions there is no recall to draw."
    if reason:
        return render("curves", reason=reason)
    few = few_scans_for_froc(min(dig(r, "summary", "cases") or 0 for r in evaluated.results.values()), FROC_RATES)
    if evaluated.several:
        criteria = [_charts_of_systems(scores, criterion) for criterion in CRITERION_NAMES]
        tables = [_froc_table({CRITERION_NAMES[HEADLINE]: entry[HEADLINE]}, system) for system, entry in known.items()]
    else:
        [only] = known.values()
        named = {name: only[criterion] for criterion, name in CRITERION_NAMES.items() if criterion in only}
        criteria = [_charts(named, {name: index for index, name in enumerate(named)}, HEADLINE, "")]
        tables = [_froc_table(named, "")]
    return render(
        "curves",
        reason="",
        few_scans=few,
        without=[name for name, entry in scores.items() if not entry] if evaluated.several else [],
        criteria=criteria,
        tables=tables,
    )


def _charts_of_systems(scores: Mapping[str, Any], criterion: str) -> _Charts:
    series = {system: entry[criterion] for system, entry in scores.items() if entry and criterion in entry}
    styles = {system: list(scores).index(system) for system in series}
    return _charts(series, styles, criterion, f" ({CRITERION_NAMES[criterion]})")


def _charts(series: Mapping[str, Mapping[str, Any]], styles: Mapping[str, int], criterion: str, suffix: str) -> _Charts:
    froc = [_froc_line(name, entry, styles[name]) for name, entry in series.items()]
    ranked = [_precision_line(name, entry, styles[name]) for name, entry in series.items()]
    recall, precision = fraction_axis("recall"), fraction_axis("precision")
    names = ", ".join(series)
    return _Charts(
        criterion=CRITERION_NAMES[criterion],
        suffix=suffix,
        folded=criterion != HEADLINE,
        legend=legend([(styles[name], name) for name in series]),
        froc=line_chart(froc, froc_axis(), recall, f"Recall against false positives per scan: {names}"),
        precision=line_chart(ranked, recall, precision, f"Precision against recall: {names}"),
    )


def _froc_line(name: str, entry: Mapping[str, Any], style: int) -> Line:
    """Return a curve of steps: between two thresholds nothing is gained, and after the last one nothing is lost."""
    curve = entry["froc_curve"]
    steps = _steps([(0.0, 0.0), *zip(curve["fp_per_scan"], curve["recall"], strict=True)])
    axis = froc_axis()
    # The axis begins at 1/16: the curve enters it with the highest recall at fewer false positives.
    first = max(recall for rate, recall in steps if rate <= axis.low)
    points = [(axis.low, first), *((rate, recall) for rate, recall in steps if axis.low < rate <= axis.high)]
    points.append((axis.high, points[-1][1]))
    marks = []
    for row in entry["froc"]:
        if row["recall"] is None:
            continue
        rate = _as_fraction(row["fp_per_scan"])
        text = f"{name}: recall {number(row['recall'])} at {rate} false positives per scan or fewer"
        if row["threshold"] is not None:
            text += f", score {number(row['threshold'], 3)} or more"
        marks.append((float(row["fp_per_scan"]), float(row["recall"]), text))
    return Line(name, tuple(points), style, tuple(marks))


def _steps(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a step function through rising points: each step goes right first, then up."""
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


def _froc_table(entries: Mapping[str, Mapping[str, Any]], system: str) -> _FrocTable:
    rates = tuple(_as_fraction(row["fp_per_scan"]) for row in next(iter(entries.values()))["froc"])
    rows = tuple(
        _FrocRow(
            name,
            tuple(row["recall"] for row in entry["froc"]),
            tuple(row["threshold"] for row in entry["froc"]),
            entry.get("cpm"),
        )
        for name, entry in entries.items()
    )
    return _FrocTable(system, rates, rows)


def _as_fraction(rate: float) -> str:
    """Return a rate as readers write it: 1/8, 1/4, 1/2, 1, 2."""
    return f"1/{round(1 / rate)}" if 0 < rate < 1 else f"{rate:g}"


# -- Sizes -------------------------------------------------------------------------------------------------------------

_SIZES = (
    ("mm3", "By volume", "volume of the true lesion, mm³"),
    ("quantile", "In four groups with equal numbers of lesions, smallest first", "volume of the true lesion, mm³"),
    ("voxels", "By number of voxels", "voxels of the true lesion"),
)


@dataclass(frozen=True)
class _SizeRow:
    """A row of the table of recall by size."""

    name: str
    diameters: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _SizeTable:
    """Chart and table of the recall by size, with the rows of each system."""

    title: str
    legend: Markup
    chart: Markup
    systems: tuple[tuple[str, tuple[_SizeRow, ...]], ...]


def size_section(evaluated: Evaluated) -> Markup:
    """Return charts and tables of the recall by the size of the true lesion."""
    tables = []
    for kind, title, axis in _SIZES:
        rows = {
            name: [row for row in dig(r, "summary", "recall_by_size", kind) or () if row["lesions"]]
            for name, r in evaluated.results.items()
        }
        if any(rows.values()):
            systems = tuple((name, tuple(_size_row(row, kind) for row in entries)) for name, entries in rows.items())
            tables.append(_SizeTable(title, *_size_chart(rows, kind, axis, evaluated.several), systems))
    recalls = [f"recall, {name}" for name in CRITERION_NAMES.values()]
    header = ["size", "true lesions", f"found, {CRITERION_NAMES[HEADLINE]}", *recalls, "mean Dice"]
    return render("sizes", tables=tables, header=header)


def _size_row(row: Mapping[str, Any], kind: str) -> _SizeRow:
    values = (row[key] for key in (*(f"recall_{name}" for name in CRITERION_NAMES), "dice"))
    cells = (number(row["lesions"], 0), number(row[f"found_{HEADLINE}"], 0), *(number(value) for value in values))
    return _SizeRow(row["bin"], _diameters(row) if kind == "mm3" else "", cells)


def _size_chart(
    tables: Mapping[str, Sequence[Mapping[str, Any]]], kind: str, axis: str, several: bool
) -> tuple[Markup, Markup]:
    """Return legend and chart: one series for each system, or for each criterion of a single system."""
    # Systems may lack different scans. The axis states the largest number of lesions, and a bar states its own number.
    every = sorted((row for table in tables.values() for row in table), key=lambda row: row["lesions"])
    rows = list({row["bin"]: row for row in every}.values())
    rows.sort(key=lambda row: row["from"])
    bins = [(_short_bin(row, kind), f"n = {row['lesions']}") for row in rows]
    if several:
        series = [_bars(name, rows, table, HEADLINE, n) for n, (name, table) in enumerate(tables.items())]
    else:
        [table] = tables.values()
        series = [_bars(name, rows, table, criterion, n) for n, (criterion, name) in enumerate(CRITERION_NAMES.items())]
    chart = bar_chart(series, bins, axis, fraction_axis("recall"), f"Recall by {axis}")
    return legend([(bars.style, bars.name) for bars in series], "bar"), chart


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
    """Return a size that is short enough for an axis: 7.5, 120, 12k."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _diameters(row: Mapping[str, Any]) -> str:
    """Return a bin as diameters of spheres, because readers know lesions by their diameters."""
    low, high = row["from"], row["below"]
    if high is None:
        return f"diameter {_diameter(low)} mm or more"
    if low == 0:
        return f"diameter under {_diameter(high)} mm"
    return f"diameter {_diameter(low)} to {_diameter(high)} mm"


def _diameter(volume: float) -> str:
    return number(sphere_diameter(volume), 1)
