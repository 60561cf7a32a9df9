"""The section of the report that compares two systems scan by scan: paired plots and p-values."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from detseg3d.evaluation.result import Comparison
from detseg3d.evaluation.scores.paired_tests import ScanMetric, paired_values
from detseg3d.reporting.html.charts import Line, count_axis, fraction_axis, line_chart
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import number
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.text.paired_tests import TEST_HEADER, describe_tests, rows_of_tests

__all__ = ["pair_section"]

_EQUAL, _FIRST, _SECOND = 0, 1, 2  # styles of the marks: circle, square, triangle


@dataclass(frozen=True)
class _Plot:
    """The pairs of one metric."""

    title: str
    chart: Markup
    first_better: int
    equal: int
    second_better: int


@dataclass(frozen=True)
class _Pair:
    """The comparison of two systems."""

    first: str
    second: str
    plots: tuple[_Plot, ...]
    rows: list[tuple[str, ...]]
    text: str
    warning: str


def pair_section(evaluated: Evaluated) -> Markup:
    """Return the plots and tests of each pair of systems; empty if there is only one system."""
    pairs = []
    for comparison in evaluated.comparisons:
        if not comparison.tests:
            continue
        text, warning = describe_tests(comparison.tests)
        plots = tuple(_plot(evaluated, comparison, metric) for metric in ScanMetric)
        pairs.append(_Pair(comparison.first, comparison.second, plots, rows_of_tests(comparison.tests), text, warning))
    return render("pairs", pairs=pairs, header=TEST_HEADER) if pairs else Markup()


def _plot(evaluated: Evaluated, comparison: Comparison, metric: ScanMetric) -> _Plot:
    first, second = comparison.first, comparison.second
    values = paired_values(evaluated.results[first].cases, evaluated.results[second].cases, metric)
    counts = {_EQUAL: 0, _FIRST: 0, _SECOND: 0}
    marks: dict[int, list[tuple[float, float, str]]] = {style: [] for style in counts}
    digits = 0 if metric.lower_is_better else 2
    for name, a, b in zip(values.case_ids, values.first, values.second, strict=True):
        style = _EQUAL if a == b else (_SECOND if (b > a) is not metric.lower_is_better else _FIRST)
        counts[style] += 1
        marks[style].append((a, b, f"{name}: {first} {number(a, digits)}, {second} {number(b, digits)}"))
    highest = max((*values.first, *values.second), default=1.0)
    axes = [count_axis(name, highest) if metric.lower_is_better else fraction_axis(name) for name in (first, second)]
    chart = line_chart(
        [Line("", (), style, tuple(entries)) for style, entries in marks.items()],
        axes[0],
        axes[1],
        f"{metric.value} of each scan: {second} against {first}",
        diagonal=True,
    )
    return _Plot(metric.value, chart, counts[_FIRST], counts[_EQUAL], counts[_SECOND])
