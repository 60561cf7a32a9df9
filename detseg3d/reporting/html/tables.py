"""The tables of the report: main metrics, metrics by class, metrics by scan, and scans that were not evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from detseg3d.evaluation.metrics import HEADLINE
from detseg3d.evaluation.remarks import measured
from detseg3d.reporting.html.charts import interval_strip
from detseg3d.reporting.html.figures import CRITERION_NAMES, FIGURES, GROUPS, Estimate, Evaluated, Figure, dig, estimate
from detseg3d.reporting.html.formatting import DASH, interval, number
from detseg3d.reporting.html.rendering import render

__all__ = ["Tile", "case_table", "class_table", "key_metrics", "metric_table", "problem_list"]

_KEY_METRICS = {
    "f1_iou_0.1": "Lesion F1 at IoU ≥ 0.1",
    "recall_iou_0.1": "Recall (sensitivity) at IoU ≥ 0.1",
    "precision_iou_0.1": "Precision at IoU ≥ 0.1",
    "fp_per_scan_iou_0.1": "FP per scan at IoU ≥ 0.1",
    "dice": "Dice",
}


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
    verdict : str
        ``better`` or ``worse`` if the interval does not contain 0, else empty.
    """

    text: str
    interval: str
    verdict: str


@dataclass(frozen=True)
class _MetricRow:
    """A row of the table of metrics: an estimate of each system, and the differences of each two systems."""

    name: str
    meaning: str
    digits: int
    estimates: tuple[Estimate, ...]
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
    """Return the numbers that readers look for first. Several systems have none: their table is the comparison."""
    if evaluated.several:
        return []
    result = evaluated.first
    summary = result.get("summary") or {}
    free = dig(summary, "false_positives", "lesion_free", "scans")
    tiles = [
        Tile("scans", number(summary.get("cases"), 0), f"{number(free, 0)} without lesions" if free else ""),
        Tile("true lesions", number(dig(summary, "lesions", "any", "truth"), 0), _found(summary)),
    ]
    for metric in FIGURES:
        if metric.key in _KEY_METRICS:
            known = estimate(result, metric)
            value = number(known.value, metric.digits)
            tiles.append(Tile(_KEY_METRICS[metric.key], value, known.interval(metric.digits)))
    return tiles


def _found(summary: Mapping[str, Any]) -> str:
    if not dig(summary, "lesions", HEADLINE, "truth"):
        return ""
    return f"{number(dig(summary, 'lesions', HEADLINE, 'found'), 0)} found at {CRITERION_NAMES[HEADLINE]}"


def metric_table(evaluated: Evaluated) -> Markup:
    """Return the table of all metrics with intervals, for each system, and of the differences between systems."""
    groups = []
    for name in GROUPS:
        rows = tuple(_metric_row(evaluated, metric) for metric in FIGURES if _is_shown(evaluated, metric, name))
        if rows:
            groups.append(_Group(name, rows))
    columns = [*evaluated.results, *(f"{pair['second']} − {pair['first']}" for pair in evaluated.comparisons)]
    return render(
        "metric_table",
        several=evaluated.several,
        columns=columns,
        width=1 + len(columns) if evaluated.several else 5,
        sizes=_sizes(evaluated) if evaluated.several else (),
        groups=groups,
    )


def _sizes(evaluated: Evaluated) -> list[tuple[str, list[_Cell]]]:
    """Return the rows with the numbers of scans and true lesions. A single system has them in its tiles."""
    summaries = [result.get("summary") for result in evaluated.results.values()]
    scans = [_Cell(number(dig(summary, "cases"), 0), True) for summary in summaries]
    lesions = [_Cell(number(dig(summary, "lesions", "any", "truth"), 0), True) for summary in summaries]
    common = [_Cell(f"{number(pair.get('cases'), 0)} in both", False) for pair in evaluated.comparisons]
    return [("Scans", scans + common), ("True lesions", lesions + [_Cell(DASH, False) for _ in common])]


def _is_shown(evaluated: Evaluated, metric: Figure, group: str) -> bool:
    """Return False if a metric belongs to another group, was not requested, or needs scores and there are none."""
    if metric.group != group:
        return False
    if group == GROUPS[-1] and not any(dig(r, "summary", "scores") for r in evaluated.results.values()):
        return False
    return bool(metric.needs) or any(
        estimate(result, metric).value is not None for result in evaluated.results.values()
    )


def _metric_row(evaluated: Evaluated, metric: Figure) -> _MetricRow:
    estimates = tuple(estimate(result, metric) for result in evaluated.results.values())
    first = estimates[0]
    return _MetricRow(
        _name_with_options(metric, evaluated),
        metric.meaning,
        metric.digits,
        estimates,
        interval_strip(first.value, first.low, first.high) if metric.share else Markup(),
        tuple(_difference(pair, metric) for pair in evaluated.comparisons),
    )


def _name_with_options(metric: Figure, evaluated: Evaluated) -> str:
    """Return the name of a metric, with the tolerance if the metric has one."""
    tolerance = dig(evaluated.first, "options", "figures", "tolerance_mm")
    return f"{metric.name}, {tolerance:g} mm" if metric.key == "nsd" and tolerance is not None else metric.name


def _difference(comparison: Mapping[str, Any], metric: Figure) -> _Difference | None:
    entry = dig(comparison, "figures", metric.key) or {}
    difference, low, high = (entry.get(name) for name in ("difference", "low", "high"))
    if difference is None:
        return None
    # One digit more than the metric: with a limit of 0.00, readers could not see whether the interval contains 0.
    digits = metric.digits + 1
    text = number(difference, digits)
    if difference > 0 and any(digit in text for digit in "123456789"):
        text = f"+{text}"
    verdict = ""
    if low is not None and high is not None and (low > 0 or high < 0) and metric.lower_is_better is not None:
        verdict = "better" if (difference < 0) == metric.lower_is_better else "worse"
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
    names = list(dict.fromkeys(name for r in evaluated.results.values() for name in dig(r, "summary", "classes") or {}))
    if len(names) < 2:
        return Markup()
    rows = []
    for name in names:
        for system, result in evaluated.results.items():
            group = dig(result, "summary", "classes", name)
            if group is not None:
                rows.append(_ClassRow(name, system, _class_cells(group)))
    for system, result in evaluated.results.items():
        means = dig(result, "summary", "class_mean")
        if means is not None:
            rows.append(_ClassRow(f"mean of {number(means.get('classes'), 0)} classes", system, _mean_cells(means)))
    return render("class_table", header=_CLASS_HEADER, rows=rows)


def _class_cells(group: Mapping[str, Any]) -> tuple[str, ...]:
    found = dig(group, "lesions", HEADLINE) or {}
    shown = (
        (found.get("f1"), "either"),
        (found.get("recall"), "truth"),
        (found.get("precision"), "predictions"),
        (dig(group, "lesions", "any", "f1"), "either"),
        (dig(group, "lesions", "iou_0.5", "f1"), "either"),
        (dig(group, "panoptic", "pq"), "either"),
        (dig(group, "dice", "mean"), "either"),
    )
    cells = (number(value) if measured(group, needs) else DASH for value, needs in shown)
    return number(found.get("truth"), 0), *cells, number(dig(group, "dice", "cases"), 0)


def _mean_cells(means: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the means over the classes that the truth has."""
    f1 = [number(means.get(f"f1_{name}")) for name in ("iou_0.1", "any", "iou_0.5")]
    return DASH, f1[0], DASH, DASH, *f1[1:], number(means.get("pq")), number(means.get("dice")), DASH


# -- Scans -------------------------------------------------------------------------------------------------------------

_CASE_TITLES = ("found", "false positives", "F1 at IoU ≥ 0.1", "Dice")
_CASE_FIGURES = (
    ("nsd", "NSD", 2),
    ("hd95_mm", "HD95 (mm)", 1),
    ("cc_dice", "CC-Dice", 2),
    ("lesionwise_dice", "lesion-wise Dice", 2),
)


@dataclass(frozen=True)
class _Number:
    """A cell that holds a number, by which the column can be sorted."""

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
    shown : sequence of str
        Cases that the viewer shows. Their names are links to the viewer.
    """
    systems = [{case["case_id"]: case for case in r.get("cases") or ()} for r in evaluated.results.values()]
    figures: list[tuple[str, str, int]] = []
    if not evaluated.several:
        figures = [
            entry
            for entry in _CASE_FIGURES
            if any(dig(c, "figures", entry[0]) is not None for c in systems[0].values())
        ]
    rows = []
    for name in sorted({name for cases in systems for name in cases}):
        first = next(cases[name] for cases in systems if name in cases)
        cells = [_Number(dig(first, "lesions", "any", "truth"), 0)]
        for cases in systems:
            cells += _case_cells(cases.get(name), figures)
        rows.append(_CaseRow(name, name in shown, tuple(cells)))
    return render(
        "cases",
        rows=rows,
        systems=list(evaluated.results) if evaluated.several else [],
        titles=[*_CASE_TITLES, *(title for _, title, _ in figures)],
    )


def _case_cells(case: Mapping[str, Any] | None, figures: Sequence[tuple[str, str, int]]) -> list[_Number]:
    found = dig(case, "lesions", HEADLINE) or {}
    return [
        _Number(found.get("found") if found.get("truth") else None, 0),
        _Number(found.get("false_positives"), 0),
        _Number(found.get("f1")),
        _Number(dig(case, "dice")),
        *(_Number(dig(case, "figures", key), digits) for key, _, digits in figures),
    ]


# -- Problems ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reason:
    """A reason why scans were not evaluated, and the scans."""

    system: str
    text: str
    cases: tuple[str, ...]


def problem_list(evaluated: Evaluated) -> Markup:
    """Return the list of the scans that could not be evaluated, by reason: many scans often have the same reason."""
    cases: dict[tuple[str, str], list[str]] = {}
    for system, result in evaluated.results.items():
        for problem in result.get("problems") or ():
            cases.setdefault((system, str(problem["problem"])), []).append(str(problem["case"]))
    reasons = [_Reason(system, text, tuple(names)) for (system, text), names in cases.items()]
    return render("problems", reasons=reasons)
