"""The tables of the report: main metrics, metrics by class, metrics by scan, and scans that were not evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from detseg3d.evaluation.catalogue import (
    Better,
    MetricGroup,
    MetricSpec,
    Needs,
    estimate_of,
    metric_spec,
    shown_metrics,
)
from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, Criterion
from detseg3d.evaluation.result import ClassMeans, Comparison, Group
from detseg3d.reporting.html.charts import interval_strip
from detseg3d.reporting.html.evaluated import Evaluated
from detseg3d.reporting.html.formatting import DASH, interval, number
from detseg3d.reporting.html.rendering import render

__all__ = ["Tile", "case_table", "class_table", "key_metrics", "metric_table", "problem_list"]

_KEY_METRICS = (f"f1_{HEADLINE}", f"recall_{HEADLINE}", f"precision_{HEADLINE}", f"fp_per_scan_{HEADLINE}", "dice")
_DIRECTIONS = {Better.LOWER: "Lower is better.", Better.NEAR_ZERO: "Values near 0 are better."}


@dataclass(frozen=True)
class Tile:
    """A large number of the report: its name, its value, and a detail in smaller print."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class _Difference:
    """The paired difference of a metric between two systems.

    Attributes
    ----------
    text, interval : str
        Difference and its interval as text.
    verdict : str
        ``better`` or ``worse`` if the interval does not contain 0, else empty.
    """

    text: str
    interval: str
    verdict: str


@dataclass(frozen=True)
class _Estimate:
    """The value of a metric with its interval as text, and the number of scans with a value."""

    value: float | None
    interval: str
    scans: int | None

    @classmethod
    def of(cls, estimate: MetricEstimate, digits: int) -> _Estimate:
        """Return an estimate with ``digits`` digits after the point."""
        if estimate.value is None:
            return cls(None, "", None)
        return cls(estimate.value, interval(estimate.low, estimate.high, digits), estimate.scans)


@dataclass(frozen=True)
class _MetricRow:
    """A row of the table of metrics: an estimate for each system, and the difference for each pair of systems."""

    name: str
    meaning: str
    digits: int
    estimates: tuple[_Estimate, ...]
    strip: Markup
    differences: tuple[_Difference | None, ...]


@dataclass(frozen=True)
class _Group:
    """Metrics that belong together."""

    name: str
    rows: tuple[_MetricRow, ...]


@dataclass(frozen=True)
class _Cell:
    """A cell of the rows that state the numbers of scans and lesions."""

    text: str
    strong: bool


# -- Main metrics ------------------------------------------------------------------------------------------------------


def key_metrics(evaluated: Evaluated) -> list[Tile]:
    """Return the main metrics as tiles. The list is empty for several systems, which the table compares."""
    if evaluated.several:
        return []
    result = evaluated.first
    group = result.summary.overall
    free = group.lesion_free.scans
    tiles = [
        Tile("scans", number(result.summary.cases, 0), f"{number(free, 0)} without lesions" if free else ""),
        Tile("true lesions", number(group.true_lesions, 0), _found(group)),
    ]
    for spec in map(metric_spec, _KEY_METRICS):
        known = _Estimate.of(estimate_of(result, spec), spec.digits)
        tiles.append(Tile(spec.label, number(known.value, spec.digits), known.interval))
    return tiles


def _found(group: Group) -> str:
    return f"{number(group.headline.found, 0)} found at {HEADLINE.label}" if group.true_lesions else ""


def metric_table(evaluated: Evaluated) -> Markup:
    """Return the table of all metrics with intervals, for each system, and of the differences between systems."""
    groups = []
    for group in MetricGroup:
        rows = tuple(_metric_row(evaluated, spec) for spec in shown_metrics(group) if _is_shown(evaluated, spec))
        if rows:
            groups.append(_Group(group, rows))
    columns = [*evaluated.results, *(f"{pair.second} − {pair.first}" for pair in evaluated.comparisons)]
    return render(
        "metric_table",
        several=evaluated.several,
        columns=columns,
        width=1 + len(columns) if evaluated.several else 5,
        sizes=_sizes(evaluated) if evaluated.several else (),
        groups=groups,
    )


def _sizes(evaluated: Evaluated) -> list[tuple[str, list[_Cell]]]:
    """Return the rows with the numbers of scans and true lesions. For a single system, the tiles show these numbers."""
    summaries = [result.summary for result in evaluated.results.values()]
    scans = [_Cell(number(summary.cases, 0), True) for summary in summaries]
    lesions = [_Cell(number(summary.overall.true_lesions, 0), True) for summary in summaries]
    common = [_Cell(f"{number(pair.cases, 0)} in both", False) for pair in evaluated.comparisons]
    return [("Scans", scans + common), ("True lesions", lesions + [_Cell(DASH, False) for _ in common])]


def _is_shown(evaluated: Evaluated, spec: MetricSpec) -> bool:
    """Return False if a metric was not requested, or if it needs scores and no system has scores."""
    results = evaluated.results.values()
    if spec.group is MetricGroup.RANKING and all(result.summary.scores is None for result in results):
        return False
    return spec.needs is not Needs.NOTHING or any(estimate_of(result, spec).value is not None for result in results)


def _metric_row(evaluated: Evaluated, spec: MetricSpec) -> _MetricRow:
    estimates = [estimate_of(result, spec) for result in evaluated.results.values()]
    first = estimates[0]
    return _MetricRow(
        _name_with_options(spec, evaluated),
        " ".join(filter(None, (spec.definition, _DIRECTIONS.get(spec.better)))),
        spec.digits,
        tuple(_Estimate.of(estimate, spec.digits) for estimate in estimates),
        interval_strip(first.value, first.low, first.high) if spec.is_share else Markup(),
        tuple(_difference(pair, spec) for pair in evaluated.comparisons),
    )


def _name_with_options(spec: MetricSpec, evaluated: Evaluated) -> str:
    """Return the name of a metric with its unit, and with the tolerance if the metric has one."""
    variants = evaluated.first.options.variants
    if spec.key == "nsd" and variants is not None:
        return f"{spec.label}, {variants.tolerance_mm:g} mm"
    return spec.label_with_unit


def _difference(comparison: Comparison, spec: MetricSpec) -> _Difference | None:
    entry = comparison.differences.get(spec.key)
    if entry is None or entry.difference is None:
        return None
    difference, low, high = entry.difference, entry.low, entry.high
    # One more digit than the metric, because a limit that is rounded to 0.00 does not show if the interval contains 0.
    digits = spec.digits + 1
    text = number(difference, digits)
    if difference > 0 and any(digit in text for digit in "123456789"):
        text = f"+{text}"
    verdict = ""
    if low is not None and high is not None and (low > 0 or high < 0) and spec.better is not Better.NEAR_ZERO:
        verdict = "better" if (difference < 0) == (spec.better is Better.LOWER) else "worse"
    return _Difference(text, interval(low, high, digits), verdict)


# -- Classes -----------------------------------------------------------------------------------------------------------

_CLASS_HEADER = (
    "class",
    "true lesions",
    "F1 at IoU ≥ 0.1",
    "recall",
    "precision",
    "F1 at any overlap",
    "F1 at IoU ≥ 0.5",
    "PQ",
    "Dice",
    "scans",
)


@dataclass(frozen=True)
class _ClassRow:
    """A row of the table of classes."""

    name: str
    system: str
    cells: tuple[str, ...]


def class_table(evaluated: Evaluated) -> Markup:
    """Return the table of the main metrics by class; empty if there is only one class."""
    names = list(dict.fromkeys(name for r in evaluated.results.values() for name in r.summary.classes))
    if len(names) < 2:
        return Markup()
    rows = []
    for name in names:
        for system, result in evaluated.results.items():
            group = result.summary.classes.get(name)
            if group is not None:
                rows.append(_ClassRow(name, system, _class_cells(group)))
    for system, result in evaluated.results.items():
        means = result.summary.class_mean
        rows.append(_ClassRow(f"mean of {number(means.classes, 0)} classes", system, _mean_cells(means)))
    return render("class_table", header=_CLASS_HEADER, rows=rows)


def _class_cells(group: Group) -> tuple[str, ...]:
    shown = (
        (group.headline.f1, Needs.EITHER),
        (group.headline.recall, Needs.TRUTH),
        (group.headline.precision, Needs.PREDICTIONS),
        (group.detection[Criterion.ANY].f1, Needs.EITHER),
        (group.detection[Criterion.IOU_05].f1, Needs.EITHER),
        (group.panoptic.pq, Needs.EITHER),
        (group.dice.mean, Needs.EITHER),
    )
    cells = (number(value) if needs.are_met(group) else DASH for value, needs in shown)
    return number(group.true_lesions, 0), *cells, number(group.dice.cases, 0)


def _mean_cells(means: ClassMeans) -> tuple[str, ...]:
    """Return the means over the classes that occur in the truth."""
    f1, f1_any, f1_half = (number(means.f1[criterion]) for criterion in Criterion)
    return DASH, f1, DASH, DASH, f1_any, f1_half, number(means.pq), number(means.dice), DASH


# -- Scans -------------------------------------------------------------------------------------------------------------

_CASE_TITLES = ("found", "false positives", "F1 at IoU ≥ 0.1", "Dice")
_OUTLINE_TITLES = ("NSD", "HD95 (mm)", "CC-Dice", "lesion-wise Dice")


@dataclass(frozen=True)
class _Number:
    """A cell with a number. The column can be sorted by its numbers."""

    value: float | None
    digits: int = 2


@dataclass(frozen=True)
class _CaseRow:
    """A row of the table of scans."""

    case_id: str
    in_viewer: bool
    cells: tuple[_Number, ...]


def case_table(evaluated: Evaluated, shown: Sequence[str] = ()) -> Markup:
    """Return the table of the metrics of each scan.

    Parameters
    ----------
    evaluated : Evaluated
        Results to show.
    shown : sequence of str
        Cases that the viewer shows. Their names are links to the viewer.
    """
    systems = [{case.case_id: case for case in r.cases} for r in evaluated.results.values()]
    with_outlines = not evaluated.several and any(case.outlines is not None for case in evaluated.first.cases)
    rows = []
    for name in sorted({name for cases in systems for name in cases}):
        first = next(cases[name] for cases in systems if name in cases)
        cells = [_Number(first.overall.detection[HEADLINE].truth, 0)]
        for cases in systems:
            cells += _case_cells(cases.get(name))
            cells += _outline_cells(cases.get(name)) if with_outlines else []
        rows.append(_CaseRow(name, name in shown, tuple(cells)))
    return render(
        "cases",
        rows=rows,
        systems=list(evaluated.results) if evaluated.several else [],
        titles=[*_CASE_TITLES, *(_OUTLINE_TITLES if with_outlines else ())],
    )


def _case_cells(case: CaseMetrics | None) -> list[_Number]:
    if case is None:
        return [_Number(None)] * len(_CASE_TITLES)
    counts = case.overall.detection[HEADLINE]
    return [
        _Number(counts.found if counts.truth else None, 0),
        _Number(counts.false_positives, 0),
        _Number(counts.f1),
        _Number(case.dice),
    ]


def _outline_cells(case: CaseMetrics | None) -> list[_Number]:
    if case is None or case.outlines is None:
        return [_Number(None)] * len(_OUTLINE_TITLES)
    outlines = case.outlines.overall
    return [
        _Number(outlines.nsd),
        _Number(outlines.hd95_mm, 1),
        _Number(outlines.cc_dice),
        _Number(outlines.lesionwise.dice),
    ]


# -- Problems ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reason:
    """A reason why scans were not evaluated, and the scans."""

    system: str
    text: str
    cases: tuple[str, ...]


def problem_list(evaluated: Evaluated) -> Markup:
    """Return the list of the scans that could not be evaluated, grouped by reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for system, result in evaluated.results.items():
        for problem in result.problems:
            cases.setdefault((system, problem.problem), []).append(problem.case_id)
    reasons = [_Reason(system, text, tuple(names)) for (system, text), names in cases.items()]
    return render("problems", reasons=reasons)
