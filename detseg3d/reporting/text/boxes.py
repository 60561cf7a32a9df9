"""Write the result of an evaluation of boxes as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from detseg3d.evaluation.boxes.evaluate import BoxCriterion, BoxEvaluation, BoxSummary
from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.scores.bootstrap import Interval
from detseg3d.evaluation.scores.froc import FROC_RATES
from detseg3d.reporting.text.markdown import DASH, format_value, markdown_table
from detseg3d.reporting.text.remarks import describe_few_patients, describe_intervals, describe_left_out

__all__ = ["format_box_evaluation"]

_MAX_NAMES = 5


def format_box_evaluation(result: BoxEvaluation) -> str:
    """Return the result of an evaluation of boxes as Markdown."""
    summary = result.summary
    parts = [
        "### Boxes\n\n"
        + markdown_table(
            ("criterion", "AP", "95 % interval", "mAP", "CPM", "95 % interval"),
            [_criterion_row(criterion, summary) for criterion in BoxCriterion],
        ),
        "### Recall at false positives per scan\n\n"
        + markdown_table(
            ("criterion", *(f"{rate:g}" for rate in FROC_RATES)),
            [
                (
                    criterion.label,
                    *(_with_lesions(point.recall, summary) for point in summary.scores[criterion].froc),
                )
                for criterion in BoxCriterion
            ],
        ),
        _class_table(summary),
        _describe_cases(summary),
        _describe_intervals(summary),
        "mAP is the mean AP of the classes that occur in the truth. Under the criterion of the centre, further boxes\n"
        "in a lesion that was already found are ignored, as in LUNA16. Under the criteria of the IoU they are false\n"
        "positives.",
        _list("Warnings", result.warnings),
        _list("Not evaluated", result.problems),
    ]
    return "\n\n".join(part for part in parts if part)


def _criterion_row(criterion: BoxCriterion, summary: BoxSummary) -> tuple[str, ...]:
    scores, intervals = summary.scores[criterion], summary.intervals[criterion]
    return (
        criterion.label,
        _with_lesions(scores.average_precision, summary),
        _range(intervals.average_precision),
        format_value(scores.mean_average_precision),
        _with_lesions(scores.cpm, summary),
        _range(intervals.cpm),
    )


def _range(interval: Interval) -> str:
    return DASH if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"


def _with_lesions(value: float, summary: BoxSummary) -> str:
    """Return a metric as text, or a dash if there are no true lesions and the value is only a convention."""
    return format_value(value if summary.lesions else None)


def _class_table(summary: BoxSummary) -> str:
    if len(summary.lesions_by_class) < 2:
        return ""
    rows = []
    for name, lesions in summary.lesions_by_class.items():
        values = [summary.scores[criterion].classes[name].average_precision for criterion in BoxCriterion]
        rows.append((name, *(format_value(value if lesions else None) for value in values)))
    header = ("class", *(criterion.label for criterion in BoxCriterion))
    return "### AP by class\n\n" + markdown_table(header, rows)


def _describe_cases(summary: BoxSummary) -> str:
    text = (
        f"{summary.cases} cases with {summary.lesions} lesions and {summary.boxes} boxes; "
        f"cases without lesions: {summary.lesion_free_scans},\nwith {summary.boxes_in_lesion_free_scans} of the boxes."
    )
    silent = summary.cases_without_boxes
    if silent:
        shown = ", ".join(silent[:_MAX_NAMES]) + (", …" if len(silent) > _MAX_NAMES else "")
        text += f" The table of boxes does not mention these cases, so they have no boxes: {len(silent)} ({shown})."
    return text


def _describe_intervals(summary: BoxSummary) -> str:
    intervals = [
        entry
        for of_criterion in summary.intervals.values()
        for entry in (of_criterion.average_precision, of_criterion.cpm)
    ]
    if all(entry.low is None for entry in intervals):
        return ""
    few = describe_few_patients(intervals)
    notes = describe_intervals({"": summary.patients}), describe_left_out(intervals), few and f"**{few}**"
    return " ".join(note for note in notes if note)


def _list(title: str, entries: Sequence[CaseProblem]) -> str:
    if not entries:
        return ""
    lines = [f"- {entry.case_id}: {' '.join(entry.problem.split())}" for entry in entries]
    return f"### {title}: {len(entries)}\n\n" + "\n".join(lines)
