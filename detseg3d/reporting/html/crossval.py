"""The sections about a cross-validation: operating point, calibration, and the stages at which lesions are lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.html.charts import Line, fraction_axis, legend, line_chart
from detseg3d.reporting.html.evaluated import get_nested
from detseg3d.reporting.html.formatting import DASH, number
from detseg3d.reporting.html.rendering import render

__all__ = ["calibration_section", "metrics_by_origin", "operating_point_section", "stage_section"]

_METRICS = (
    ("f1_iou_0_1", "F1", 3),
    ("recall_iou_0_1", "recall", 3),
    ("precision_iou_0_1", "precision", 3),
    ("fp_per_scan_iou_0_1", "false positives per scan", 2),
    ("dice", "Dice", 3),
    ("found_iou_0_1", "lesions found", 0),
    ("predictions", "predictions", 0),
    ("f1_any", "F1, any overlap", 3),
)


@dataclass(frozen=True)
class _Row:
    """A row of a table: its name and the texts of its cells."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class _ThresholdRow:
    """A threshold of the plan and the chosen one."""

    name: str
    plan: float | None
    chosen: float | None

    @property
    def changed(self) -> bool:
        """Whether another value than that of the plan was chosen."""
        return self.plan is not None and self.plan != self.chosen


# -- Operating point ---------------------------------------------------------------------------------------------------


def metrics_by_origin(consolidation: Mapping[str, Any]) -> Markup:
    """Return what readers must know first: on which scans the thresholds were chosen, and what this changes."""
    point = consolidation["operating_point"]
    origin = ThresholdOrigin(point["predicted_at_thresholds_of"])
    return _choice_metrics(point, origin.remark, warn=not origin.is_honest)


def operating_point_section(consolidation: Mapping[str, Any]) -> Markup:
    """Return the thresholds that were chosen, and their results on scans that were not used for the choice."""
    point = consolidation["operating_point"]
    return render(
        "operating_point",
        objective=point.get("objective", DASH),
        settings_tried=point.get("settings_tried"),
        folds=len(consolidation.get("folds") or ()),
        scans=consolidation.get("cases") or 0,
        remarks=_remarks(consolidation),
        metrics=_choice_metrics(point),
        thresholds=[
            _ThresholdRow(
                field.label_with_unit,
                get_nested(point, "thresholds_of_the_plan", field.name),
                get_nested(point, "thresholds", field.name),
            )
            for field in THRESHOLD_FIELDS
        ],
    )


def _remarks(consolidation: Mapping[str, Any]) -> list[str]:
    """Return what readers must not overlook; usually nothing."""
    point = consolidation["operating_point"]
    thresholds = point["thresholds"]
    remarks = []
    if point.get("target_reached") is False:
        remarks.append("The target was not reached by any threshold; the nearest was chosen.")
    smallest = thresholds.get("minimum_volume_mm3")
    if smallest:
        text = f"Predicted lesions under {number(smallest, 1)} mm³ are left out"
        if point.get("f1_without_minimum") is not None:
            f1 = get_nested(point, "figures", "chosen_on_the_same_scans", "f1_iou_0_1")
            text += f" (F1 {number(f1, 3)}, without this rule {number(point['f1_without_minimum'], 3)})"
        if point.get("true_lesions_below_minimum") is not None:
            small, all_ = (number(point.get(key), 0) for key in ("true_lesions_below_minimum", "true_lesions"))
            text += f". {small} of {all_} true lesions are as small"
        remarks.append(text + ".")
    if thresholds.get("scan_threshold"):
        scans = point.get("scans") or {}
        clean, without, missed, with_lesions = (
            number(scans.get(key), 0) for key in ("clean", "without_lesions", "missed", "with_lesions")
        )
        remarks.append(
            f"A scan without a lesion of score {number(thresholds['scan_threshold'], 3)} or more is reported without "
            f"any: {clean} of {without} scans without lesions, and {missed} of {with_lesions} with."
        )
    failures = consolidation.get("failures") or {}
    if failures:
        remarks.append(f"These cases failed: {', '.join(sorted(failures))}.")
    return remarks


def _choice_metrics(point: Mapping[str, Any], remark: str = "", warn: bool = False) -> Markup:
    """Return the table of the cross-fitted metrics, then of those of the plan, then of those on the same scans."""
    rows = []
    for key, name in (
        ("cross_fitted", "cross-fitted: each fold with the thresholds chosen on the other folds"),
        ("plan", "with the thresholds of the plan"),
        ("chosen_on_the_same_scans", "chosen and judged on the same scans"),
    ):
        metrics = get_nested(point, "figures", key)
        rows.append(_Row(name, tuple(number(get_nested(metrics, metric), digits) for metric, _, digits in _METRICS)))
    header = ["thresholds (IoU ≥ 0.1)", *(title for _, title, _ in _METRICS)]
    return render("choice_metrics", remark=remark, warn=warn, header=header, rows=rows)


# -- Calibration -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReliabilityRow:
    """A range of scores, with its bin before and after calibration."""

    name: str
    bins: tuple[Mapping[str, Any], Mapping[str, Any]]


def calibration_section(calibration: Mapping[str, Any], folds: int) -> Markup:
    """Return the reliability diagram and table: the observed fraction of lesions against the score."""
    lines, names = [], []
    for style, (key, name) in enumerate((("before", "raw score"), ("after", "calibrated score"))):
        rows = [row for row in get_nested(calibration, key, "bins") or () if row.get("count")]
        lines.append(_reliability_line(name, rows, style))
        names.append((style, f"{name}, calibration error {number(get_nested(calibration, key, 'ece'), 3)}"))
    chart = line_chart(
        lines,
        fraction_axis("score"),
        fraction_axis("fraction that are lesions"),
        "Reliability: observed fraction of lesions against the score, before and after calibration",
        diagonal=True,
    )
    before, after = (get_nested(calibration, key, "bins") or [] for key in ("before", "after"))
    table = [
        _ReliabilityRow(f"{number(left['low'], 1)} to {number(left['high'], 1)}", (left, right))
        for left, right in zip(before, after, strict=True)
    ]
    return render("calibration", folds=folds, legend=legend(names), chart=chart, rows=table)


def _reliability_line(name: str, rows: Sequence[Mapping[str, Any]], style: int) -> Line:
    points = tuple((float(row["mean_score"]), float(row["observed"])) for row in rows)
    marks = tuple(
        (
            score,
            observed,
            f"{name}: {row['count']} predictions with a mean score of {number(score)}; {number(observed)} are lesions",
        )
        for (score, observed), row in zip(points, rows, strict=True)
    )
    return Line(name, points, style, marks)


# -- Stages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StageRow:
    """Recall, or Dice, over all lesions and in each bin of sizes."""

    name: str
    all: float | None
    values: tuple[float | None, ...]


def stage_section(attribution: Mapping[str, Any]) -> Markup:
    """Return the recall after each stage, over all lesions and by size, and the Dice of Stage 2 in the true boxes."""
    bins = [row for row in attribution["by_size"] if row["lesions"]]
    rows = [
        _StageRow(stage["stage"], stage["recall"], tuple(get_nested(row, "stages", stage["stage"]) for row in bins))
        for stage in attribution["stages"]
    ]
    outlines = attribution.get("stage2_true_boxes") or {}
    dice = {row["bin"]: row["dice"] for row in outlines.get("by_size") or ()}
    return render(
        "stages",
        bins=[row["bin"] for row in bins],
        rows=rows,
        lesions=[row["lesions"] for row in bins],
        dice=_StageRow("", outlines.get("mean"), tuple(dice.get(row["bin"]) for row in bins)),
    )
