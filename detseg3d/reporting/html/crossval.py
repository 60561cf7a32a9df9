"""The sections about a cross-validation: operating point, calibration, and the stages at which lesions are lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from detseg3d.evaluation.cross_validation import (
    Attribution,
    CalibrationSummary,
    ConsolidationSummary,
    ShiftSummary,
    ThresholdChoice,
)
from detseg3d.evaluation.scores.calibration import ReliabilityBin
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.html.charts import Line, fraction_axis, legend, line_chart
from detseg3d.reporting.html.formatting import DASH, number
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.text.consolidation import (
    CHOICE_COLUMNS,
    GOAL_HEADER,
    SHIFT_HEADER,
    choice_rows,
    describe_consolidation,
    goal_rows,
    shift_remarks,
    shift_rows,
)

__all__ = ["calibration_section", "metrics_by_origin", "operating_point_section", "shift_section", "stage_section"]


@dataclass(frozen=True)
class _Row:
    """A row of a table: its name and the texts of its cells."""

    name: str
    cells: tuple[str, ...]


# -- Operating point ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ThresholdRow:
    """A threshold with its value in the plan and its chosen value. ``None`` means that the threshold has no effect."""

    name: str
    plan: float | None
    chosen: float | None

    @property
    def changed(self) -> bool:
        """True if the chosen value differs from the value in the plan."""
        return self.plan != self.chosen


def metrics_by_origin(choice: ThresholdChoice) -> Markup:
    """Return the table of metrics, with a remark that names the scans on which the thresholds were chosen."""
    origin = choice.predicted_at_thresholds_of
    return _choice_metrics(choice, origin.remark, warn=not origin.is_honest)


def operating_point_section(summary: ConsolidationSummary) -> Markup:
    """Return the chosen thresholds, and their results on scans that were not used for the choice."""
    choice = summary.choice
    thresholds = [
        _ThresholdRow(field.label_with_unit, field.shown(choice.thresholds_of_the_plan), field.shown(choice.thresholds))
        for field in THRESHOLD_FIELDS
    ]
    return render(
        "operating_point",
        objective=choice.objective,
        settings_tried=choice.settings_tried,
        folds=len(summary.folds),
        scans=summary.cases,
        remarks=describe_consolidation(summary),
        metrics=_choice_metrics(choice),
        thresholds=thresholds,
    )


def _choice_metrics(choice: ThresholdChoice, remark: str = "", warn: bool = False) -> Markup:
    """Return the table of the metrics, with a remark above it."""
    rows = [
        _Row(
            name,
            tuple(
                DASH if metrics is None else number(column.value_in(metrics), column.digits)
                for column in CHOICE_COLUMNS
            ),
        )
        for name, metrics in choice_rows(choice.metrics)
    ]
    header = ["thresholds (IoU ≥ 0.1)", *(column.title for column in CHOICE_COLUMNS)]
    return render("choice_metrics", remark=remark, warn=warn, header=header, rows=rows)


# -- Shifted scans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """A table of texts; the first cell of a row is its heading."""

    name: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def shift_section(shifts: ShiftSummary) -> Markup:
    """Return the metrics of shifted scans for each goal and for each shift."""
    tables = [
        _Table("goals of the operating point", GOAL_HEADER, goal_rows(shifts)),
        _Table("simulated changes", SHIFT_HEADER, shift_rows(shifts)),
    ]
    return render("shifts", remarks=shift_remarks(shifts), tables=tables)


# -- Calibration -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ReliabilityRow:
    """A range of scores, with its bin before and after calibration."""

    name: str
    bins: tuple[ReliabilityBin, ReliabilityBin]


def calibration_section(calibration: CalibrationSummary, folds: int) -> Markup:
    """Return the reliability diagram and table: the observed fraction of lesions against the score."""
    lines, names = [], []
    sides = (("raw score", calibration.before), ("calibrated score", calibration.after))
    for style, (name, reliability) in enumerate(sides):
        lines.append(_reliability_line(name, reliability.bins, style))
        names.append((style, f"{name}, calibration error {number(reliability.expected_error, 3)}"))
    chart = line_chart(
        lines,
        fraction_axis("score"),
        fraction_axis("fraction that are lesions"),
        "Reliability: observed fraction of lesions against the score, before and after calibration",
        diagonal=True,
    )
    table = [
        _ReliabilityRow(f"{number(left.low, 1)} to {number(left.high, 1)}", (left, right))
        for left, right in zip(calibration.before.bins, calibration.after.bins, strict=True)
    ]
    return render("calibration", folds=folds, legend=legend(names), chart=chart, rows=table)


def _reliability_line(name: str, bins: Sequence[ReliabilityBin], style: int) -> Line:
    """Return the line through the bins that contain predictions."""
    marks = []
    for entry in bins:
        if entry.mean_score is not None and entry.observed is not None:
            text = f"{name}: {entry.count} predictions with a mean score of {number(entry.mean_score)}"
            marks.append((entry.mean_score, entry.observed, f"{text}; {number(entry.observed)} are lesions"))
    return Line(name, tuple((score, observed) for score, observed, _ in marks), style, tuple(marks))


# -- Stages ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _StageRow:
    """Recall, or Dice, over all lesions and in each range of sizes."""

    name: str
    all: float | None
    values: tuple[float | None, ...]


def stage_section(attribution: Attribution) -> Markup:
    """Return the recall after each stage, over all lesions and by size, and the Dice of Stage 2 in the true boxes."""
    bins = [size for size in attribution.by_size if size.lesions]
    return render(
        "stages",
        bins=[size.name for size in bins],
        rows=[
            _StageRow(stage.stage, stage.recall, tuple(size.recalls[index] for size in bins))
            for index, stage in enumerate(attribution.stages)
        ],
        lesions=[size.lesions for size in bins],
        dice=_StageRow("", attribution.dice_in_true_boxes, tuple(size.dice for size in bins)),
    )
