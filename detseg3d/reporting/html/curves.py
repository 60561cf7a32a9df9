"""Curves over the score threshold, and recall by the size of the lesion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from detseg3d.evaluation.metrics import HEADLINE, Criterion
from detseg3d.evaluation.result import RecallBySize, SizeBin
from detseg3d.evaluation.scores.froc import FROC_RATES, ScoreSummary
from detseg3d.reporting.html.charts import Bars, Line, bar_chart, fraction_axis, froc_axis, legend, line_chart
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import DASH, number, sphere_diameter
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.text.remarks import describe_few_scans

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
    scores = {name: r.summary.scores for name, r in evaluated.results.items()}
    known = {name: entry for name, entry in scores.items() if entry}
    reason = ""
    if not known:
        reason = "The predictions have no scores. Without scores there is no threshold to vary and no curve to draw."
    elif not any(r.summary.overall.true_lesions for r in evaluated.results.values()):
        reason = "No scan has a true lesion. Without true lesions there is no recall to draw."
    if reason:
        return render("curves", reason=reason)
    few = describe_few_scans(min(r.summary.cases for r in evaluated.results.values()), FROC_RATES)
    if evaluated.several:
        criteria = [_charts_of_systems(scores, criterion) for criterion in Criterion]
        tables = [_froc_table({HEADLINE.label: entry[HEADLINE]}, system) for system, entry in known.items()]
    else:
        [only] = known.values()
        named = {criterion.label: only[criterion] for criterion in Criterion}
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


def _charts_of_systems(scores: Mapping[str, Mapping[Criterion, ScoreSummary] | None], criterion: Criterion) -> _Charts:
    series = {system: entry[criterion] for system, entry in scores.items() if entry}
    styles = {system: list(scores).index(system) for system in series}
    return _charts(series, styles, criterion, f" ({criterion.label})")


def _charts(
    series: Mapping[str, ScoreSummary], styles: Mapping[str, int], criterion: Criterion, suffix: str
) -> _Charts:
    froc = [_froc_line(name, entry, styles[name]) for name, entry in series.items()]
    ranked = [_precision_line(name, entry, styles[name]) for name, entry in series.items()]
    recall, precision = fraction_axis("recall"), fraction_axis("precision")
    names = ", ".join(series)
    return _Charts(
        criterion=criterion.label,
        suffix=suffix,
        folded=criterion != HEADLINE,
        legend=legend([(styles[name], name) for name in series]),
        froc=line_chart(froc, froc_axis(), recall, f"Recall against false positives per scan: {names}"),
        precision=line_chart(ranked, recall, precision, f"Precision against recall: {names}"),
    )


def _froc_line(name: str, entry: ScoreSummary, style: int) -> Line:
    """Return the FROC curve as steps, because the recall changes only at the scores of predictions."""
    curve = entry.froc_curve
    steps = _steps([(0.0, 0.0), *zip(curve.fp_per_scan, curve.recall, strict=True)])
    axis = froc_axis()
    # The axis begins at 1/16 false positives per scan. The curve begins with the highest recall at or below this rate.
    first = max(recall for rate, recall in steps if rate <= axis.low)
    points = [(axis.low, first), *((rate, recall) for rate, recall in steps if axis.low < rate <= axis.high)]
    points.append((axis.high, points[-1][1]))
    marks = []
    for point in entry.froc:
        rate = _as_fraction(point.fp_per_scan)
        text = f"{name}: recall {number(point.recall)} at {rate} false positives per scan or fewer"
        if point.threshold is not None:
            text += f", score {number(point.threshold, 3)} or more"
        marks.append((point.fp_per_scan, point.recall, text))
    return Line(name, tuple(points), style, tuple(marks))


def _steps(points: Sequence[Point]) -> list[Point]:
    """Return the corners of a step function through rising points: each step goes right first, then up."""
    result = [points[0]]
    for (_, before), (right, up) in pairwise(points):
        result += [(right, before), (right, up)]
    return result


def _precision_line(name: str, entry: ScoreSummary, style: int) -> Line:
    points = tuple(zip(entry.pr_curve.recall, entry.pr_curve.precision, strict=True))
    marks: tuple[tuple[float, float, str], ...] = ()
    if points:
        recall, precision = points[-1]
        text = f"{name}, all predictions: precision {number(precision)}, recall {number(recall)}"
        marks = ((recall, precision, text),)
    return Line(name, points, style, marks)


def _froc_table(entries: Mapping[str, ScoreSummary], system: str) -> _FrocTable:
    rates = tuple(_as_fraction(point.fp_per_scan) for point in next(iter(entries.values())).froc)
    rows = tuple(
        _FrocRow(
            name,
            tuple(point.recall for point in entry.froc),
            tuple(point.threshold for point in entry.froc),
            entry.cpm,
        )
        for name, entry in entries.items()
    )
    return _FrocTable(system, rates, rows)


def _as_fraction(rate: float) -> str:
    """Return a rate as a fraction or a whole number: 1/8, 1/4, 1/2, 1, 2."""
    return f"1/{round(1 / rate)}" if 0 < rate < 1 else f"{rate:g}"


# -- Sizes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _SizeKind:
    """A way to divide lesions by size.

    Attributes
    ----------
    title, axis : str
        Title of the part of the page, and title of the axis.
    bins_in : callable
        Function that returns the bins.
    has_diameters : bool
        True if the table also states the bins as diameters of spheres.
    """

    title: str
    axis: str
    bins_in: Callable[[RecallBySize], Sequence[SizeBin]]
    has_diameters: bool = False


_VOLUME = "volume of the true lesion, mm³"
_SIZES = (
    _SizeKind("By volume", _VOLUME, lambda recall: recall.mm3, has_diameters=True),
    _SizeKind("In four groups with equal numbers of lesions, smallest first", _VOLUME, lambda recall: recall.quantile),
    _SizeKind("By number of voxels", "voxels of the true lesion", lambda recall: recall.voxels),
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
    for kind in _SIZES:
        bins = {
            name: [entry for entry in kind.bins_in(result.summary.overall.recall_by_size) if entry.lesions]
            for name, result in evaluated.results.items()
        }
        if any(bins.values()):
            rows = tuple((name, tuple(_size_row(entry, kind) for entry in entries)) for name, entries in bins.items())
            tables.append(_SizeTable(kind.title, *_size_chart(bins, kind.axis, evaluated.several), rows))
    recalls = [f"recall, {criterion.label}" for criterion in Criterion]
    header = ["size", "true lesions", f"found, {HEADLINE.label}", *recalls, "mean Dice"]
    return render("sizes", tables=tables, header=header)


def _size_row(row: SizeBin, kind: _SizeKind) -> _SizeRow:
    cells = (
        number(row.lesions, 0),
        number(row.detection[HEADLINE].found, 0),
        *(number(row.detection[criterion].recall) for criterion in Criterion),
        number(row.dice),
    )
    return _SizeRow(row.name, _diameters(row) if kind.has_diameters else "", cells)


def _size_chart(tables: Mapping[str, Sequence[SizeBin]], axis: str, several: bool) -> tuple[Markup, Markup]:
    """Return legend and chart: one series for each system, or for each criterion of a single system."""
    # Systems may lack different scans, and then differ in the number of lesions in a bin. The axis states the largest
    # number, and the text of each bar states the number of its system.
    every = sorted((row for table in tables.values() for row in table), key=lambda row: row.lesions)
    rows = list({row.name: row for row in every}.values())
    rows.sort(key=lambda row: row.low)
    bins = [(_short_bin(row), f"n = {row.lesions}") for row in rows]
    if several:
        series = [_bars(name, rows, table, HEADLINE, n) for n, (name, table) in enumerate(tables.items())]
    else:
        [table] = tables.values()
        series = [_bars(criterion.label, rows, table, criterion, n) for n, criterion in enumerate(Criterion)]
    chart = bar_chart(series, bins, axis, fraction_axis("recall"), f"Recall by {axis}")
    return legend([(bars.style, bars.name) for bars in series], "bar"), chart


def _bars(name: str, rows: Sequence[SizeBin], table: Sequence[SizeBin], criterion: Criterion, style: int) -> Bars:
    """Return the bars of one series. A bin that the series does not have is empty."""
    by_name = {row.name: row for row in table}
    values: list[float | None] = []
    intervals: list[tuple[float, float] | None] = []
    counts = []
    for row in rows:
        entry = by_name.get(row.name)
        found = None if entry is None else entry.detection[criterion]
        values.append(None if found is None else found.recall)
        if found is None or found.low is None or found.high is None:
            intervals.append(None)
        else:
            intervals.append((found.low, found.high))
        counts.append(0 if entry is None else entry.lesions)
    return Bars(name, tuple(values), tuple(intervals), style, tuple(counts))


def _short_bin(row: SizeBin) -> str:
    """Return the range of a bin in a form that is short enough for an axis."""
    low, high = row.low, row.high
    if high is None:
        return f"≥ {_size(low)}"
    if low == high:  # all lesions of a quantile may have the same size
        return _size(low)
    return f"< {_size(high)}" if low == 0 else f"{_size(low)}{DASH}{_size(high)}"


def _size(value: float) -> str:
    """Return a size that is short enough for an axis: 7.5, 120, 12k."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _diameters(row: SizeBin) -> str:
    """Return a bin as diameters of spheres, because clinical readers describe lesions by their diameters."""
    low, high = row.low, row.high
    if high is None:
        return f"diameter {_diameter(low)} mm or more"
    if low == 0:
        return f"diameter under {_diameter(high)} mm"
    return f"diameter {_diameter(low)} to {_diameter(high)} mm"


def _diameter(volume: float) -> str:
    return number(sphere_diameter(volume), 1)
