"""Write the result of a consolidation as Markdown. The HTML report uses the same remarks and columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detseg3d.evaluation.cross_validation import (
    Attribution,
    ChoiceMetrics,
    ConsolidationSummary,
    GoalMetrics,
    PooledMetrics,
    ShiftMetrics,
    ShiftSummary,
)
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.text.evaluation import format_estimate, format_evaluation
from detseg3d.reporting.text.markdown import DASH, markdown_table

__all__ = [
    "CHOICE_COLUMNS",
    "GOAL_HEADER",
    "SHIFT_HEADER",
    "choice_rows",
    "describe_consolidation",
    "format_consolidation",
    "format_cross_validation",
    "goal_rows",
    "shift_rows",
    "shift_remarks",
]


# -- Shared with the HTML report ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChoiceColumn:
    """A column of the table of metrics at the chosen thresholds."""

    title: str
    value_in: Callable[[PooledMetrics], float]
    digits: int


CHOICE_COLUMNS = (
    ChoiceColumn("F1", lambda metrics: metrics.f1_iou_0_1, 3),
    ChoiceColumn("recall", lambda metrics: metrics.recall_iou_0_1, 3),
    ChoiceColumn("precision", lambda metrics: metrics.precision_iou_0_1, 3),
    ChoiceColumn("false positives per scan", lambda metrics: metrics.fp_per_scan_iou_0_1, 2),
    ChoiceColumn("Dice", lambda metrics: metrics.dice, 3),
    ChoiceColumn("lesions found", lambda metrics: metrics.found_iou_0_1, 0),
    ChoiceColumn("predictions", lambda metrics: metrics.predictions, 0),
    ChoiceColumn("F1, any overlap", lambda metrics: metrics.f1_any, 3),
)
"""Columns of the table of metrics at the chosen thresholds, at IoU ≥ 0.1 if the title names no criterion."""


def choice_rows(metrics: ChoiceMetrics) -> list[tuple[str, PooledMetrics | None]]:
    """Return the name and the metrics of each row of the table. The metrics to expect on new scans come first."""
    return [
        ("cross-fitted: each fold with the thresholds chosen on the other folds", metrics.cross_fitted),
        ("with the thresholds of the plan", metrics.plan),
        ("chosen and evaluated on the same scans", metrics.chosen_on_the_same_scans),
    ]


GOAL_HEADER = (
    "thresholds chosen for",
    "scans",
    "F1 [95 % interval over patients]",
    "recall",
    "precision",
    "false positives per scan",
    "Dice",
)
"""Columns of :func:`goal_rows`."""

SHIFT_HEADER = ("simulated change", "scans", "lesions", "recall, unchanged", "recall", "F1, unchanged", "F1")
"""Columns of :func:`shift_rows`."""


def goal_rows(shifts: ShiftSummary) -> list[tuple[str, ...]]:
    """Return the metrics of unchanged and of shifted scans for each goal."""
    rows = []
    for goal in shifts.goals:
        used = ", in use" if goal.goal is shifts.goal else ""
        rows.append((f"{goal.goal}{used}", "unchanged", *_goal_cells(goal.home, goal.home_f1_interval)))
        rows.append((f"{goal.goal}{used}", "shifted", *_goal_cells(goal.shifted, goal.shifted_f1_interval)))
    return rows


def _goal_cells(metrics: PooledMetrics, interval: tuple[float, float] | None) -> tuple[str, ...]:
    around = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    values = (metrics.recall_iou_0_1, metrics.precision_iou_0_1, metrics.fp_per_scan_iou_0_1, metrics.dice)
    return (f"{metrics.f1_iou_0_1:.3f}{around}", *(f"{value:.3f}" for value in values))


def shift_rows(shifts: ShiftSummary) -> list[tuple[str, ...]]:
    """Return the metrics of the scans of each shift, before and after the shift, at the operating point."""
    return [_shift_row(shift) for shift in shifts.by_shift]


def _shift_row(shift: ShiftMetrics) -> tuple[str, ...]:
    before, after = shift.unchanged, shift.shifted
    metrics = (before.recall_iou_0_1, after.recall_iou_0_1, before.f1_iou_0_1, after.f1_iou_0_1)
    name = shift.name.replace("_", " ")
    return name, str(shift.scans), str(after.lesions), *(f"{value:.3f}" for value in metrics)


def shift_remarks(shifts: ShiftSummary) -> list[str]:
    """Return what a reader must know about the metrics of shifted scans."""
    home, used = shifts.goals[0], shifts.chosen
    remarks = [
        f"{shifts.scans} copies of validation scans of {shifts.patients} patients were changed as another scanner or "
        f"protocol may change a scan ({shifts.strength} strength). Each patient is judged at thresholds that other "
        "patients chose. The changes are simulated: a real scanner may change a scan more, or differently. These "
        "metrics show how far the operating point can be trusted, and do not replace an evaluation on scans of the new "
        "scanner.",
        f"The calibration error of the score is {shifts.home_calibration_error:.3f} on unchanged and "
        f"{shifts.shifted_calibration_error:.3f} on shifted scans.",
    ]
    if len(shifts.goals) > 1:
        remarks.append(_compare_goals(home, shifts.goals[1], used))
    return remarks


def _compare_goals(home: GoalMetrics, robust: GoalMetrics, used: GoalMetrics) -> str:
    """Say what the robust thresholds would cost and gain, or cost and gained."""
    if robust.thresholds == home.thresholds:
        return "Both goals have the same thresholds: no others are better on shifted scans by more than noise."
    lost = home.home.f1_iou_0_1 - robust.home.f1_iou_0_1
    won = robust.shifted.f1_iou_0_1 - home.shifted.f1_iou_0_1
    advice = "" if used is robust else " To use them, consolidate again with --operate robust."
    return (
        "Compared with the thresholds for home, the robust thresholds change the F1 of unchanged scans by "
        f"{-lost:+.3f} and the F1 of shifted scans by {won:+.3f}.{advice}"
    )


def describe_consolidation(summary: ConsolidationSummary) -> list[str]:
    """Return the warnings that a reader must not overlook; usually an empty list.

    The remarks are about a target that was not reached, lesions and scans that the thresholds suppress, and cases that
    failed.
    """
    choice, thresholds = summary.choice, summary.choice.thresholds
    remarks = []
    if not choice.target_reached:
        remarks.append("The target was not reached by any threshold; the nearest threshold was chosen.")
    if thresholds.minimum_volume_mm3:
        f1 = choice.metrics.chosen_on_the_same_scans.f1_iou_0_1
        remarks.append(
            f"Predicted lesions under {thresholds.minimum_volume_mm3:g} mm³ are left out of every prediction. The F1 "
            f"is {_number(f1)} with this rule and {_number(choice.f1_without_minimum)} without it. "
            f"{choice.true_lesions_below_minimum} of {choice.true_lesions} true lesions are smaller."
        )
    if thresholds.scan_threshold:
        scans = choice.scans
        remarks.append(
            f"A scan is reported without lesions if its best lesion has a score below "
            f"{_number(thresholds.scan_threshold)}. This applies to {scans.clean} of {scans.without_lesions} scans "
            f"without true lesions, and to {scans.missed} of {scans.with_lesions} scans with true lesions."
        )
    if summary.failures:
        remarks.append(f"These cases failed: {', '.join(sorted(summary.failures))}.")
    return remarks


# -- Markdown ----------------------------------------------------------------------------------------------------------

_HEADLINE = {
    "f1_iou_0.1": "F1 (IoU ≥ 0.1)",
    "f1_any": "F1 (any overlap)",
    "dice": "Dice",
    "pq": "panoptic quality",
}


def format_cross_validation(summary: ConsolidationSummary, result: EvaluationResult) -> str:
    """Return a cross-validation as Markdown: the main metrics, the evaluation, and the consolidation.

    Parameters
    ----------
    summary : ConsolidationSummary
        Result of the consolidation.
    result : EvaluationResult
        Evaluation of the pooled predictions.
    """
    return "\n\n".join((_headline(summary, result), format_evaluation(result), format_consolidation(summary)))


def _headline(summary: ConsolidationSummary, result: EvaluationResult) -> str:
    """Return the metrics to quote with their intervals, and below these the metrics at each set of thresholds."""
    origin = summary.choice.predicted_at_thresholds_of
    estimates = result.estimates if origin.is_honest else {}
    rows = [(text, format_estimate(estimates.get(name))) for name, text in _HEADLINE.items()]
    parts = [
        "## Cross-validation",
        f"**{origin.remark}**" if origin.is_honest else f"**Warning.** {origin.remark}",
        markdown_table(("to expect on new scans", "value [95 % interval over patients]"), rows),
        _choice_table(summary.choice.metrics),
    ]
    if not origin.is_honest:
        parts.append("All thresholds below were chosen and evaluated on the same scans.")
    return "\n\n".join(parts)


def _choice_table(metrics: ChoiceMetrics) -> str:
    rows = [
        (name, *(DASH if row is None else _number(column.value_in(row)) for column in CHOICE_COLUMNS))
        for name, row in choice_rows(metrics)
    ]
    return markdown_table(("thresholds", *(column.title for column in CHOICE_COLUMNS)), rows)


def format_consolidation(summary: ConsolidationSummary) -> str:
    """Return operating point, calibration and lost lesions as Markdown."""
    choice, calibration = summary.choice, summary.calibration
    origin = choice.predicted_at_thresholds_of
    remarks = [*([] if origin.is_honest else [origin.remark]), *describe_consolidation(summary)]
    fitted = (
        "The scores of each fold were calibrated with the other folds."
        if len(summary.folds) > 1
        else "The scores were calibrated with the same scans."
    )
    parts = [
        f"### Operating point: {choice.objective}",
        "\n".join(f"- **{remark}**" for remark in remarks),
        _choice_table(choice.metrics),
        _threshold_table(summary),
        f"Calibration error of the score (10 bins): {_number(calibration.before.expected_error)} before, "
        f"{_number(calibration.after.expected_error)} after.\n{fitted}",
        _shift_section(summary.shifts),
        "### Where lesions are lost",
        _stage_table(summary.attribution),
        "Up to the RoI score, a lesion counts as found if a candidate belongs to the lesion. In the final mask, a\n"
        "lesion counts as found if any mask touches the lesion, even the mask of a neighbouring lesion. The\n"
        "operating point was chosen on the same scans.",
    ]
    return "\n\n".join(part for part in parts if part)


def _shift_section(shifts: ShiftSummary | None) -> str:
    """Return the section about shifted scans; empty if there are none."""
    if shifts is None:
        return ""
    parts = [
        "### Scans unlike the training scans",
        *shift_remarks(shifts),
        markdown_table(GOAL_HEADER, goal_rows(shifts)),
        markdown_table(SHIFT_HEADER, shift_rows(shifts)),
    ]
    return "\n\n".join(parts)


def _threshold_table(summary: ConsolidationSummary) -> str:
    plan, chosen = summary.choice.thresholds_of_the_plan, summary.choice.thresholds
    rows = [
        (field.label_with_unit, _number(field.shown(plan)), _number(field.shown(chosen))) for field in THRESHOLD_FIELDS
    ]
    return markdown_table(("threshold", "plan", "chosen"), rows)


def _stage_table(attribution: Attribution) -> str:
    bins = [size for size in attribution.by_size if size.lesions]
    rows = [
        (stage.stage, _number(stage.recall), *(_number(size.recalls[index]) for size in bins))
        for index, stage in enumerate(attribution.stages)
    ]
    dice = (_number(attribution.dice_in_true_boxes), *(_number(size.dice) for size in bins))
    rows.append(("Dice of Stage 2 in the true boxes", *dice))
    counts = [size.lesions for size in bins]
    rows.append(("lesions", str(sum(counts)), *map(str, counts)))
    return markdown_table(("stage", "recall", *(size.name for size in bins)), rows)


def _number(value: float | None) -> str:
    """Return a number with at most three digits after the point, without trailing zeros."""
    return DASH if value is None else f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
