"""Write the result of an evaluation as Markdown tables."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.catalogue import CATALOGUE, MetricSpec, Needs, estimate_of
from detseg3d.evaluation.intervals import MetricDifference, MetricEstimate
from detseg3d.evaluation.metrics import HEADLINE, Criterion
from detseg3d.evaluation.result import (
    ClassMeans,
    Comparison,
    EvaluationResult,
    FalsePositives,
    Group,
    PresetSummary,
    RecallBySize,
    Summary,
    SystemsResult,
)
from detseg3d.evaluation.scores.froc import FROC_RATES, ScoreSummary
from detseg3d.reporting.text.markdown import DASH, format_value, markdown_table
from detseg3d.reporting.text.paired_tests import TEST_HEADER, describe_tests, rows_of_tests
from detseg3d.reporting.text.remarks import (
    HD95_PENALTY,
    describe_different_scans,
    describe_few_patients,
    describe_few_scans,
    describe_intervals,
    describe_left_out,
)

__all__ = ["format_estimate", "format_evaluation"]

_GROUP_HEADER = (
    "",
    "cases",
    "lesions",
    "F1 at IoU ≥ 0.1",
    "recall",
    "precision",
    "FP per scan",
    "F1 at any overlap",
    "F1 at IoU ≥ 0.5",
    "PQ",
    "Dice (of scans)",
    "Dice, scans with lesions (of scans)",
)
_SIZE_HEADER = (
    "size",
    "lesions",
    "found at IoU ≥ 0.1",
    *(f"recall at {criterion.label}" for criterion in Criterion),
    "Dice",
)


def format_evaluation(result: EvaluationResult | SystemsResult) -> str:
    """Return the result of an evaluation as Markdown.

    Parameters
    ----------
    result : EvaluationResult or SystemsResult
        Result of one system or of several systems.
    """
    if isinstance(result, EvaluationResult):
        parts = [*_one_system(result), _metric_table({"value": result}, ()), format_problems(result.problems)]
        return "\n\n".join(part for part in parts if part)
    different = describe_different_scans(result)
    parts = [different and f"**Warning.** {different}", _metric_table(result.systems, result.comparisons)]
    parts += [_tests(pair) for pair in result.comparisons]
    for name, system in result.systems.items():
        parts += [f"## {name}", *_one_system(system), format_problems(system.problems)]
    return "\n\n".join(part for part in parts if part)


def _one_system(result: EvaluationResult) -> list[str]:
    summary = result.summary
    classes = summary.classes if len(summary.classes) > 1 else {}
    rows = [_group_row("all", summary.overall), *(_group_row(name, group) for name, group in classes.items())]
    if classes:
        rows.append(_class_mean_row(summary.class_mean))
    return [
        "### Lesions and voxels\n\n" + markdown_table(_GROUP_HEADER, rows),
        "Recall, precision and false positives are also at IoU ≥ 0.1: lesions and predictions are matched one to one.\n"
        "At any overlap, a larger mask finds more lesions, even if it outlines them badly. Lesion metrics are pooled\n"
        "over cases. Dice is a mean over scans, and the number of scans is in brackets."
        + (
            " In the row of a class,\nonly scans with the class in the truth or in the prediction count."
            if classes
            else ""
        ),
        _lesion_free_scans(summary.overall.lesion_free),
        _size_table(summary.overall.recall_by_size),
        _froc_table(summary),
        _preset_table(summary.preset),
    ]


def _group_row(name: str, group: Group) -> tuple[str, ...]:
    headline, dice = group.headline, group.dice

    def measured(value: float | None, needs: Needs) -> str:
        return format_value(value if needs.are_met(group) else None)

    return (
        name,
        str(group.scans),
        str(headline.truth),
        measured(headline.f1, Needs.EITHER),
        measured(headline.recall, Needs.TRUTH),
        measured(headline.precision, Needs.PREDICTIONS),
        format_value(headline.false_positives_per_scan, 2),
        measured(group.detection[Criterion.ANY].f1, Needs.EITHER),
        measured(group.detection[Criterion.IOU_05].f1, Needs.EITHER),
        measured(group.panoptic.pq, Needs.EITHER),
        _of_scans(dice.mean if Needs.EITHER.are_met(group) else None, dice.cases),
        _of_scans(dice.mean_with_lesions, dice.cases_with_lesions),
    )


def _of_scans(value: float | None, scans: int) -> str:
    return DASH if value is None else f"{value:.3f} ({scans})"


def _class_mean_row(means: ClassMeans) -> tuple[str, ...]:
    """Return the row of the means over the classes that occur in the truth."""
    name = f"mean of {means.classes} class{'' if means.classes == 1 else 'es'}"
    f1, f1_any, f1_half = (format_value(means.f1[criterion]) for criterion in Criterion)
    dice = format_value(means.dice), format_value(means.dice_with_lesions)
    return name, DASH, DASH, f1, DASH, DASH, DASH, f1_any, f1_half, format_value(means.pq), *dice


def _lesion_free_scans(lesion_free: FalsePositives) -> str:
    if not lesion_free.scans:
        return ""
    return (
        f"Scans without lesions: {lesion_free.scans}, with {lesion_free.per_scan:.2f} false positives per scan. "
        f"{lesion_free.scans_without_false_positives} of them\nhave no false positive; their Dice is 1 by definition."
    )


def _size_table(recall_by_size: RecallBySize) -> str:
    rows = []
    for kind, bins in (("", recall_by_size.voxels), ("", recall_by_size.mm3), ("quantile: ", recall_by_size.quantile)):
        for entry in bins:
            if entry.lesions:
                recalls = (format_value(entry.detection[criterion].recall) for criterion in Criterion)
                found = str(entry.detection[HEADLINE].found)
                rows.append((kind + entry.name, str(entry.lesions), found, *recalls, format_value(entry.dice)))
    return "### Recall by size of the true lesion\n\n" + markdown_table(_SIZE_HEADER, rows) if rows else ""


def _froc_table(summary: Summary) -> str:
    """Return the recall at the usual numbers of false positives per scan, with the score threshold for each number."""
    if summary.scores is None or not Needs.TRUTH.are_met(summary.overall):
        return ""
    rows = []
    for criterion in Criterion:
        rows += _froc_rows(criterion.label, summary.scores[criterion])
    rates = [f"{point.fp_per_scan:g}" for point in summary.scores[HEADLINE].froc]
    table = markdown_table(("", *rates, "CPM", "AP"), rows)
    few = describe_few_scans(summary.cases, FROC_RATES)
    return f"### FROC: recall by false positives per scan\n\n{table}" + (f"\n\n{few}" if few else "")


def _froc_rows(label: str, scores: ScoreSummary) -> list[tuple[str, ...]]:
    recalls = [format_value(point.recall) for point in scores.froc]
    thresholds = [format_value(point.threshold) for point in scores.froc]
    return [
        (f"recall, {label}", *recalls, format_value(scores.cpm), format_value(scores.average_precision)),
        (f"lowest score, {label}", *thresholds, DASH, DASH),
    ]


def _preset_table(preset: PresetSummary | None) -> str:
    """Return the metrics of a challenge under its own rules, with a column for each class."""
    if preset is None or not preset.classes:
        return ""
    columns = list(preset.classes.values())
    rows = [
        (first.title, f"`{first.key}`", *(format_value(column[place].value) for column in columns))
        for place, first in enumerate(columns[0])
    ]
    table = markdown_table(("metric", "name in the challenge", *preset.classes), rows)
    return f"### Preset {preset.preset}\n\n{table}"


def _metric_table(systems: Mapping[str, EvaluationResult], comparisons: Sequence[Comparison]) -> str:
    """Return the table of the main metrics of each system and the differences of each pair, with intervals."""
    specs = [
        spec for spec in CATALOGUE if spec.is_shown and any(spec.key in part.estimates for part in systems.values())
    ]
    if not specs:
        return ""
    header = [
        "metric",
        *([] if len(systems) > 1 else ["scans"]),
        *systems,
        *(f"{pair.second} − {pair.first}" for pair in comparisons),
    ]
    rows = [*_size_rows(systems, comparisons), *(_metric_row(spec, systems, comparisons) for spec in specs)]
    text = "### Metrics with 95 % intervals\n\n" + markdown_table(header, rows)
    estimates = [entry for part in systems.values() for entry in part.estimates.values()]
    notes = []
    if any(entry.low is not None for entry in estimates):
        few = describe_few_patients(estimates)
        notes = [
            describe_intervals({name: part.patients for name, part in systems.items()}),
            describe_left_out(estimates),
            few and f"**{few}**",
        ]
    if comparisons:
        notes.append("Differences are paired: both systems are compared on the same cases\nand resampled together.")
    if any(spec.key == "hd95_mm" for spec in specs):
        notes.append(HD95_PENALTY)
    return "\n\n".join(part for part in (text, "\n".join(note for note in notes if note)) if part)


def _tests(pair: Comparison) -> str:
    """Return the tests of two systems scan by scan as Markdown."""
    if not pair.tests:
        return ""
    text, warning = describe_tests(pair.tests)
    table = markdown_table(TEST_HEADER, rows_of_tests(pair.tests))
    title = f"### {pair.second} against {pair.first}, scan by scan"
    notes = [f"The difference is {pair.second} − {pair.first}. {text}", warning and f"**{warning}**"]
    return "\n\n".join([title, table, *(textwrap.fill(note, 118) for note in notes if note)])


def _size_rows(systems: Mapping[str, EvaluationResult], comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Return the rows with the numbers of scans and lesions; empty for one system, whose class table has them."""
    if len(systems) == 1:
        return []
    summaries = [part.summary for part in systems.values()]
    return [
        ["scans", *(str(entry.cases) for entry in summaries), *(f"{pair.cases} in both" for pair in comparisons)],
        ["true lesions", *(str(entry.overall.true_lesions) for entry in summaries), *(DASH for _ in comparisons)],
    ]


def _metric_row(
    spec: MetricSpec, systems: Mapping[str, EvaluationResult], comparisons: Sequence[Comparison]
) -> list[str]:
    row = [spec.label_with_unit]
    if len(systems) == 1:
        [only] = systems.values()
        row.append(str(only.estimates[spec.key].scans))
    row += [format_estimate(estimate_of(part, spec)) for part in systems.values()]
    return row + [_format_difference(pair.differences.get(spec.key)) for pair in comparisons]


def format_estimate(estimate: MetricEstimate | None) -> str:
    """Return a value with its interval, such as ``0.812 [0.700, 0.891]``."""
    if estimate is None or estimate.value is None:
        return DASH
    text = f"{estimate.value:.3f}"
    return text if estimate.low is None else f"{text} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _format_difference(difference: MetricDifference | None) -> str:
    if difference is None or difference.difference is None:
        return DASH
    text = f"{difference.difference:+.3f}"
    return text if difference.low is None else f"{text} [{difference.low:+.3f}, {difference.high:+.3f}]"


def format_problems(problems: Sequence[CaseProblem]) -> str:
    """Return the cases that could not be evaluated as Markdown, grouped by reason; empty if there are none."""
    if not problems:
        return ""
    cases: dict[str, list[str]] = {}
    for problem in problems:
        cases.setdefault(" ".join(problem.problem.split()), []).append(problem.case_id)
    lines = [f"- {reason}: {', '.join(names)}" for reason, names in cases.items()]
    wrapped = [textwrap.fill(line, 118, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
    return f"### Not evaluated: {len(problems)}\n\n" + "\n".join(wrapped)
