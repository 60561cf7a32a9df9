"""Consolidate a cross-validation: pool the folds, calibrate the scores, choose the thresholds, write the predictions.

Each case counts once, as predicted by the fold that did not train on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from detseg3d.consolidation.calibration import (
    calibrate,
    calibration_errors,
    prepare_cases,
    summarize_calibration,
)
from detseg3d.consolidation.cases import CandidateCase
from detseg3d.consolidation.folds import load_validated_folds
from detseg3d.consolidation.objective import Objective
from detseg3d.consolidation.search import SearchInput, search
from detseg3d.consolidation.shift_summary import summarize_shifts
from detseg3d.consolidation.stages import attribute_losses
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.data.dataset import RawDataset, load_raw_dataset
from detseg3d.data.folders import EvaluationFolder, ModelFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry
from detseg3d.data.labels import LabelFormat
from detseg3d.evaluation.cross_validation import ConsolidationSummary
from detseg3d.inference.candidates import load_candidates
from detseg3d.inference.operating_point import OperatingPoint, save_operating_point
from detseg3d.inference.prediction_files import clear_cases, write_case
from detseg3d.inference.result import describe_case
from detseg3d.planning.label_format import label_format_of
from detseg3d.planning.plans import Plans
from detseg3d.reporting.text.consolidation import describe_consolidation
from detseg3d.system.files import remove_files
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["ConsolidationResult", "consolidate", "write_pooled_case"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConsolidationResult:
    """Result of a consolidation.

    Attributes
    ----------
    point : OperatingPoint
    summary : ConsolidationSummary
        Content of ``consolidation.json``.
    predictions : Path
        Folder of the cross-validated predictions: masks and boxes in the layout of ``detseg3d_predict``. The scans of
        each fold are predicted with the thresholds that the *other* folds choose, with a single fold with the chosen
        thresholds. The evaluation writes the table of their lesions.
    label_format : LabelFormat
        Format of the labels of the cases.
    cases : tuple of str
        Cases that were pooled.
    failures : mapping of str to str
        Validation cases that could not be pooled, and pooled cases whose masks could not be written, and why.
    """

    point: OperatingPoint
    summary: ConsolidationSummary
    predictions: Path
    label_format: LabelFormat
    cases: tuple[str, ...] = ()
    failures: Mapping[str, str] = field(default_factory=dict)


def consolidate(
    raw: str | Path,
    model_folder: str | Path,
    folds: Sequence[str | int] | None = None,
    objective: Objective | None = None,
    run: Run = Run(),
    goal: OperatingGoal | None = None,
) -> ConsolidationResult:
    """Calibrate the scores and choose the thresholds on the pooled validation cases of the folds.

    Writes ``operating_point.json``, and ``cross_validation/`` with the predictions and ``consolidation.json``.

    Parameters
    ----------
    raw : path
        The raw data set, for its labels.
    model_folder : path
        ``results/DatasetXXX_Name``, with trained and validated folds.
    folds : sequence, optional
        Names of folds. By default all numbered folds of the folder.
    objective : Objective, optional
        By default the highest lesion F1.
    run : Run
    goal : OperatingGoal, optional
        Whether the thresholds are best for scans like the training scans, or also for shifted scans. By default robust.
        If the objective has a target, or if a fold has no shifted scans, the default is home.

    Returns
    -------
    ConsolidationResult

    Raises
    ------
    DetSeg3DError
        If the folds cannot be pooled (:func:`~detseg3d.consolidation.folds.load_validated_folds`), or the label or the
        candidates of a case cannot be used. Also if the goal is robust and a fold has no shifted scans.
    """
    model = ModelFolder(Path(model_folder))
    dataset = load_raw_dataset(Path(raw))
    validated = load_validated_folds(dataset, model.path, folds)
    objective = objective or Objective()
    if goal is None:
        # A target holds for the scans that the user has, which are usually like the training scans.
        is_robust = bool(validated.shifted) and not objective.has_target
        goal = OperatingGoal.ROBUST if is_robust else OperatingGoal.HOME
    if goal is OperatingGoal.ROBUST and not validated.shifted:
        raise DetSeg3DError(
            "robust thresholds need shifted validation scans of every fold",
            file=model.path,
            expected="fold_N/validation/shifted_scans.json, for the present weights of each fold",
            remedy="run detseg3d_train DATASET FOLD --val for each fold, without --shifted_scans 0",
        )
    label_format = label_format_of(validated.plans, dataset)
    prepared, scored = prepare_cases(validated.cases, validated.plans, label_format, run)
    if len(scored.scores) == 0:
        raise DetSeg3DError(
            "the folds have predicted no lesion, so the scores cannot be calibrated",
            file=model.path,
            remedy="train longer, and look at fold_*/progress.png",
        )
    calibrated = calibrate(validated.plans, scored)
    shifted, scored_shifted = prepare_cases(tuple(validated.shifted), validated.plans, label_format, run)
    result = search(SearchInput(prepared, calibrated, shifted), objective, goal, run)
    chosen = calibrated.evolve(inference=result.chosen.values())
    stages = attribute_losses(prepared, chosen, validated.true_boxes, run)
    plans_of_fold = {
        fold: calibrated.evolve(inference=result.thresholds_for(fold).values()) for fold in validated.folds
    }
    failures = dict(validated.failures) | _write_predictions(validated.cases, plans_of_fold, model, dataset, run)
    summary = ConsolidationSummary(
        dataset=model.path.name,
        folds=validated.folds,
        cases=len(prepared),
        choice=result.describe(prepared),
        sweep=result.tried(),
        calibration=summarize_calibration(scored),
        attribution=stages,
        failures=failures,
        shifts=summarize_shifts(result, validated.shifted, calibration_errors(scored, scored_shifted)),
    )
    write_json(summary.to_json(), model.cross_validation_evaluation.consolidation)
    point = OperatingPoint(
        inference=chosen.inference,
        objective=result.description,
        weights=validated.weights,
        metrics=summary.choice.metrics,
        plan_kept=result.plan_kept,
        shifts=summary.shifts,
    )
    # Written last: an incomplete consolidation must not change predictions.
    save_operating_point(point, model.path)
    _log_choice(summary, result.plan_kept)
    cases = tuple(case.case_id for case in validated.cases)
    return ConsolidationResult(point, summary, model.cross_validation.path, label_format, cases, failures)


def _log_choice(summary: ConsolidationSummary, plan_kept: bool) -> None:
    """Log the chosen thresholds, and warn if they suppress small lesions or whole scans."""
    choice = summary.choice
    if plan_kept:
        logger.info("the thresholds of the plan are kept: no gain exceeds noise (%s)", choice.objective)
    else:
        logger.info("operating point (%s): %s", choice.objective, choice.thresholds.describe())
    if not choice.target_reached:
        metrics = choice.metrics.chosen_on_the_same_scans
        logger.warning(
            "the nearest thresholds have recall %.3f with %.2f false positives per scan",
            metrics.recall_iou_0_1,
            metrics.fp_per_scan_iou_0_1,
        )
    if summary.shifts is not None:
        chosen = summary.shifts.chosen
        logger.info(
            "goal %s: F1 %.3f on unchanged and %.3f on shifted validation scans (recall %.3f and %.3f)",
            chosen.goal,
            chosen.home.f1_iou_0_1,
            chosen.shifted.f1_iou_0_1,
            chosen.home.recall_iou_0_1,
            chosen.shifted.recall_iou_0_1,
        )
    for remark in describe_consolidation(summary):
        logger.warning("%s", remark)
    for case_id, message in summary.failures.items():
        logger.error("%s failed: %s", case_id, message)


def _write_predictions(
    cases: Sequence[CandidateCase],
    plans_of_fold: Mapping[str, Plans],
    model: ModelFolder,
    dataset: RawDataset,
    run: Run,
) -> dict[str, str]:
    """Write the masks of all cases, and return the problems of the cases that failed."""
    folder = model.cross_validation.path
    # Files of an earlier consolidation, which may have pooled other folds, must not remain beside the new ones.
    clear_cases(folder, {case.case_id for case in dataset.cases})
    written = EvaluationFolder(folder)
    remove_files(
        written.consolidation,
        written.metrics,
        written.case_table,
        written.text,
        written.lesion_table,
        written.report,
    )
    failures = {}
    task = partial(write_pooled_case, plans_of_fold, folder, dataset.file_ending)
    for result in run_cases(task, cases, run, "masks"):
        if result.error is not None:
            logger.debug("%s failed:\n%s", result.item.case_id, result.traceback)
            kind = "" if isinstance(result.error, DetSeg3DError) else f"{type(result.error).__name__}: "
            failures[result.item.case_id] = f"{kind}{result.error}"
    with suppress(DetSeg3DError):
        clear_cases(folder, failures)  # removes incomplete results
    return failures


def write_pooled_case(plans_of_fold: Mapping[str, Plans], folder: Path, ending: str, case: CandidateCase) -> None:
    """Write the masks of a case with the thresholds for its fold.

    Parameters
    ----------
    plans_of_fold : mapping of str to Plans
        Plans with the thresholds, by fold.
    folder : Path
    ending : str
        Format of the masks.
    case : CandidateCase

    Raises
    ------
    DetSeg3DError
        If the candidates or the label cannot be read, or a file cannot be written.
    """
    plans = plans_of_fold[case.fold]
    candidates = load_candidates(case.candidates)
    geometry = read_geometry(ImageSource(case.label, candidates.spacing))
    admitted = candidates.admitted(plans.inference)
    result = describe_case(admitted.merge(plans), admitted, geometry, plans)
    write_case(result, case.case_id, folder, ending)
