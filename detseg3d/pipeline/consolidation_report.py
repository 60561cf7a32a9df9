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
from detseg3d.pipeline.consolidate import Consolidated
from detseg3d.reporting.html.case_files import find_case_files
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.text.consolidation import format_cross_validation
from detseg3d.reporting.text.evaluation_files import write_evaluation
from detseg3d.system.files import write_text
from detseg3d.system.json_records import plain
from detseg3d.system.run import Run

__all__ = ["CrossValidationRecord", "report_consolidation"]


@dataclass(frozen=True)
class CrossValidationRecord:
    """What metrics.json states beside the evaluation of the pooled predictions, under ``cross_validation``.

    Attributes
    ----------
    predicted_at_thresholds_of : ThresholdOrigin
        Where the thresholds come from at which the evaluated predictions were made.
    remark : str
        The same in words.
    headline : dict of str to MetricEstimate, or None
        Main metrics of the evaluation; ``None`` if the thresholds were chosen on the same scans.
    metrics : ChoiceMetrics or None
        Metrics at the chosen thresholds and at the thresholds of the plan.
    """

    predicted_at_thresholds_of: ThresholdOrigin
    remark: str
    headline: Mapping[str, MetricEstimate] | None
    metrics: ChoiceMetrics | None


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
        The file ``metrics.json`` also has ``cross_validation``, see :class:`CrossValidationRecord`.
    """
    raw = Path(raw)
    dataset = load_raw_dataset(raw)
    # Cases of folds that were not pooled are not missing; a pooled case without masks is.
    cases = done.cases or sorted(
        path.stem for path in PredictionFolder(done.predictions).records_folder.glob("[!.]*.json")
    )
    given = EvaluationInput(raw, done.predictions, done.label_format, cases, dataset.label_files)
    result = evaluate_folders(given, run=run)
    origin = done.summary.choice.predicted_at_thresholds_of
    record = CrossValidationRecord(
        origin, origin.remark, result.estimates if origin.is_honest else None, done.point.metrics
    )
    write_evaluation(result, done.predictions, {"cross_validation": plain(record)})
    write_text(format_cross_validation(done.summary, result) + "\n", EvaluationFolder(done.predictions).text)
    files = find_case_files(
        {case.case_id: case.images[0] for case in dataset.cases},
        dataset.label_files,
        {"predictions": done.predictions},
    )
    title = f"{done.summary.dataset}: cross-validation"
    write_report(EvaluationFolder(done.predictions).report, ReportInput(result, done.summary, tuple(files), title))
    return result
