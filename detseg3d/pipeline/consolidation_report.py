"""Evaluate the pooled predictions of a cross-validation, and write metrics and report beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import EvaluationFolder, PredictionFolder
from detseg3d.evaluation.cross_validation import ChoiceMetrics
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.options import EvaluationInput
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.pipeline.consolidate import ConsolidationResult
from detseg3d.reporting.html.case_files import find_case_files
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.text.consolidation import format_cross_validation
from detseg3d.reporting.text.evaluation_files import write_evaluation
from detseg3d.system.files import write_text
from detseg3d.system.json_records import plain
from detseg3d.system.run import Run

__all__ = ["report_consolidation"]


@dataclass(frozen=True)
class CrossValidationRecord:
    """Entry ``cross_validation`` of metrics.json, beside the evaluation of the pooled predictions.

    Attributes
    ----------
    predicted_at_thresholds_of : ThresholdOrigin
        Origin of the thresholds of the evaluated predictions.
    remark : str
        The meaning of the origin in words.
    headline : dict of str to MetricEstimate, or None
        Main metrics of the evaluation; ``None`` if the thresholds were chosen on the same scans.
    metrics : ChoiceMetrics or None
        Metrics at the chosen thresholds and at the thresholds of the plan.
    """

    predicted_at_thresholds_of: ThresholdOrigin
    remark: str
    headline: Mapping[str, MetricEstimate] | None
    metrics: ChoiceMetrics | None


def report_consolidation(consolidated: ConsolidationResult, raw: str | Path, run: Run = Run()) -> EvaluationResult:
    """Evaluate the pooled predictions and write the metrics and ``report.html`` beside them.

    Parameters
    ----------
    consolidated : ConsolidationResult
    raw : path
        The raw data set.
    run : Run

    Returns
    -------
    EvaluationResult
        The file ``metrics.json`` also has ``cross_validation``, see :class:`CrossValidationRecord`.
    """
    raw, written = Path(raw), EvaluationFolder(consolidated.predictions)
    dataset = load_raw_dataset(raw)
    # A pooled case without masks counts as missing. Cases of folds that were not pooled do not.
    cases = consolidated.cases or sorted(
        path.stem for path in PredictionFolder(consolidated.predictions).records_folder.glob("[!.]*.json")
    )
    inputs = EvaluationInput(raw, consolidated.predictions, consolidated.label_format, cases, dataset.label_files)
    evaluation = evaluate_folders(inputs, run=run)
    origin = consolidated.summary.choice.predicted_at_thresholds_of
    record = CrossValidationRecord(
        origin, origin.remark, evaluation.estimates if origin.is_honest else None, consolidated.point.metrics
    )
    write_evaluation(evaluation, consolidated.predictions, {"cross_validation": plain(record)})
    write_text(
        format_cross_validation(consolidated.summary, evaluation) + "\n",
        written.text,
    )
    files = find_case_files(
        {case.case_id: case.images[0] for case in dataset.cases},
        dataset.label_files,
        {"predictions": consolidated.predictions},
    )
    title = f"{consolidated.summary.dataset}: cross-validation"
    write_report(
        written.report,
        ReportInput(evaluation, consolidated.summary, tuple(files), title),
    )
    return evaluation
