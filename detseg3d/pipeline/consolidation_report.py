"""The cross-validation report: figures of the pooled predictions, and the consolidation in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import EvaluationFolder, PredictionFolder
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.inference.operating_point import ChoiceFigures
from detseg3d.pipeline.consolidate import Consolidated
from detseg3d.planning.thresholds import THRESHOLD_FIELDS
from detseg3d.reporting.html.case_files import find_case_files
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.text.evaluation import format_estimate, format_evaluation
from detseg3d.reporting.text.evaluation_files import write_evaluation
from detseg3d.reporting.text.markdown import markdown_table
from detseg3d.system.files import write_text
from detseg3d.system.json_records import plain
from detseg3d.system.run import Run

__all__ = ["CrossValidationFigures", "format_consolidation", "format_cross_validation", "report_consolidation"]


@dataclass(frozen=True)
class CrossValidationFigures:
    """What metrics.json states beside the evaluation of the pooled predictions, under ``cross_validation``.

    Attributes
    ----------
    predicted_at_thresholds_of : ThresholdOrigin
        Where the thresholds come from at which the evaluated predictions were made.
    remark : str
        The same in words.
    headline : dict of str to MetricEstimate, or None
        Main metrics of the evaluation; ``None`` if the thresholds were chosen on the same scans.
    figures : ChoiceFigures or None
        Cross-fitted, chosen and judged on the same scans, and of the plan.
    """

    predicted_at_thresholds_of: ThresholdOrigin
    remark: str
    headline: Mapping[str, MetricEstimate] | None
    figures: ChoiceFigures | None


def report_consolidation(done: Consolidated, raw: str | Path, run: Run = Run()) -> EvaluationResult:
    """Evaluate the pooled predictions and write the figures and ``report.html`` beside them.

    Parameters
    ----------
    done : Consolidated
    raw : path
        The raw data set.
    run : Run

    Returns
    -------
    EvaluationResult
        The file ``metrics.json`` also has ``cross_validation``, see :class:`CrossValidationFigures`.
    """
    raw = Path(raw)
    dataset = load_raw_dataset(raw)
    # Cases of folds that were not pooled are not missing; a pooled case without masks is.
    cases = done.cases or sorted(
        path.stem for path in PredictionFolder(done.predictions).records_folder.glob("[!.]*.json")
    )
    given = EvaluationInput(raw, done.predictions, done.label_format, cases, dataset.label_files)
    result = evaluate_folders(given, run=run)
    origin = ThresholdOrigin(done.report["operating_point"]["predicted_at_thresholds_of"])
    record = CrossValidationFigures(
        origin, origin.remark, result.estimates if origin.is_honest else None, done.point.figures
    )
    write_evaluation(result, done.predictions, {"cross_validation": plain(record)})
    write_text(format_cross_validation(done.report, result) + "\n", EvaluationFolder(done.predictions).text)
    files = find_case_files(
        {case.case_id: case.images[0] for case in dataset.cases},
        dataset.label_files,
        {"predictions": done.predictions},
    )
    title = f"{done.report['dataset']}: cross-validation"
    write_report(EvaluationFolder(done.predictions).report, ReportInput(result, done.report, tuple(files), title))
    return result


def format_cross_validation(report: Mapping[str, Any], result: EvaluationResult) -> str:
    """All of a cross-validation as Markdown: the headline, the evaluation, and what was chosen.

    Parameters
    ----------
    report : dict
        ``report`` of :class:`~detseg3d.pipeline.consolidate.Consolidated`.
    result : EvaluationResult
        From :func:`report_consolidation`.
    """
    return "\n\n".join((_headline(report, result), format_evaluation(result), format_consolidation(report)))


def _headline(report: Mapping[str, Any], result: EvaluationResult) -> str:
    """The figures to quote, with intervals; and below them the figures that were chosen on the same scans."""
    point = report["operating_point"]
    origin = ThresholdOrigin(point["predicted_at_thresholds_of"])
    names = {
        "f1_iou_0.1": "F1 (IoU ≥ 0.1)",
        "f1_any": "F1 (any overlap)",
        "dice": "Dice",
        "pq": "panoptic quality",
    }
    known = result.estimates if origin.is_honest else {}
    rows = [(text, format_estimate(known.get(name))) for name, text in names.items()]
    parts = [
        "## Cross-validation",
        f"**{origin.remark}**" if origin.is_honest else f"**Warning.** {origin.remark}",
        markdown_table(("to expect on new scans", "value [95 % interval over patients]"), rows),
        _figure_table(point),
    ]
    if not origin.is_honest:
        parts.append("Everything below was chosen and judged on the same scans.")
    return "\n\n".join(parts)


_FIGURES = {
    "f1_iou_0_1": "F1",
    "recall_iou_0_1": "recall",
    "precision_iou_0_1": "precision",
    "fp_per_scan_iou_0_1": "FP per scan",
    "dice": "Dice",
    "found_iou_0_1": "lesions found",
    "predictions": "predictions",
    "f1_any": "F1, any overlap",
}


def _figure_table(point: Mapping[str, Any]) -> str:
    """Figures at the thresholds; IoU ≥ 0.1 unless a column says otherwise."""
    figures = point["figures"]
    rows = [
        (text, *(_number(figures[key].get(name)) if figures[key] else "–" for name in _FIGURES))
        for key, text in (
            ("cross_fitted", "cross-fitted: each fold by the choice of the others"),
            ("plan", "the plan's thresholds"),
            ("chosen_on_the_same_scans", "chosen and judged on the same scans"),
        )
    ]
    return markdown_table(("thresholds", *_FIGURES.values()), rows)


def format_consolidation(report: Mapping[str, Any]) -> str:
    """Operating point, calibration and stages as Markdown.

    Parameters
    ----------
    report : dict
        ``report`` of :class:`~detseg3d.pipeline.consolidate.Consolidated`.
    """
    point, calibration = report["operating_point"], report["calibration"]
    several = len(report["folds"]) > 1
    error = f"{calibration['before']['ece']:.3f} before, {calibration['after']['ece']:.3f} after"
    judged = "each fold's scores calibrated by the other folds" if several else "on the scores it was fitted on"
    parts = [
        f"### Operating point: {point['objective']}",
        _remarks(report),
        _figure_table(point),
        _thresholds(point),
        f"Calibration error of the score (10 bins): {error}\n({judged}).",
        "### Where lesions are lost",
        _stages(report["attribution"]),
        "Up to the RoI score a lesion counts if a candidate is meant for it, in the final mask if it is touched, also\n"
        "by the mask of a neighbour. At the operating point, which was chosen on the same scans.",
    ]
    return "\n\n".join(part for part in parts if part)


def _remarks(report: Mapping[str, Any]) -> str:
    """What must not be overlooked; nothing most of the time."""
    point = report["operating_point"]
    origin = ThresholdOrigin(point["predicted_at_thresholds_of"])
    thresholds, same_scans = point["thresholds"], point["figures"]["chosen_on_the_same_scans"]
    remarks = [] if origin is ThresholdOrigin.OTHER_FOLDS else [origin.remark]
    if not point.get("target_reached", True):
        remarks.append("**The target was not reached** by any threshold; the nearest was chosen.")
    if thresholds["minimum_volume_mm3"]:
        remarks.append(
            f"**Lesions under {thresholds['minimum_volume_mm3']:g} mm³ are left out of every prediction**: "
            f"F1 {_number(same_scans['f1_iou_0_1'])}, without this rule {_number(point['f1_without_minimum'])}. "
            f"{point['true_lesions_below_minimum']} of {point['true_lesions']} true lesions are as small."
        )
    if thresholds.get("scan_threshold"):
        scans = point["scans"]
        remarks.append(
            f"**A scan without a lesion of score {_number(thresholds['scan_threshold'])} or more is reported without "
            f"any**: {scans['clean']} of {scans['without_lesions']} scans without lesions, and {scans['missed']} of "
            f"{scans['with_lesions']} with."
        )
    if report.get("failures"):
        remarks.append(f"**Failed**, see above: {', '.join(sorted(report['failures']))}.")
    return "\n".join(remarks)


def _thresholds(point: Mapping[str, Any]) -> str:
    plan, chosen = point["thresholds_of_the_plan"], point["thresholds"]
    rows = [
        (field.label_with_unit, _number(plan.get(field.name)), _number(chosen.get(field.name)))
        for field in THRESHOLD_FIELDS
    ]
    return markdown_table(("threshold", "plan", "chosen"), rows)


def _stages(attribution: Mapping[str, Any]) -> str:
    bins = [row for row in attribution["by_size"] if row["lesions"]]
    header = ("stage", "recall", *(row["bin"] for row in bins))
    rows = [
        (stage["stage"], _number(stage["recall"]), *(_number(row["stages"].get(stage["stage"])) for row in bins))
        for stage in attribution["stages"]
    ]
    outlines = attribution["stage2_true_boxes"]
    dice = {row["bin"]: row["dice"] for row in outlines["by_size"]}
    rows.append(
        ("Dice of Stage 2 in true boxes", _number(outlines["mean"]), *(_number(dice.get(row["bin"])) for row in bins))
    )
    rows.append(("lesions", str(sum(row["lesions"] for row in bins)), *(str(row["lesions"]) for row in bins)))
    return markdown_table(header, rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".rstrip("0").rstrip(".") if value else "0"
