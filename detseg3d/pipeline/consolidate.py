"""Cross-validation pooled: calibration, operating point, stage attribution, and the predictions they give.

Each case counts once, as the fold predicted it that did not see it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from detseg3d.consolidation.attribution import attribute
from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.folds import load_validated_folds
from detseg3d.consolidation.gain import Gain
from detseg3d.consolidation.objective import Objective
from detseg3d.consolidation.outcomes import CaseCounts, CaseOutcomes, CaseTruth, for_every_case
from detseg3d.consolidation.search import Sweep, search
from detseg3d.core.arrays import BoolArray, FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.folders import EvaluationFolder, ModelFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry
from detseg3d.data.labels import (
    LabelFormat,
    read_label,
    true_lesions,
)
from detseg3d.evaluation.cross_validation import (
    CalibrationSummary,
    ConsolidationSummary,
    GainSummary,
    Reliability,
    ScanCounts,
    ThresholdChoice,
)
from detseg3d.evaluation.scores.calibration import (
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)
from detseg3d.evaluation.scores.ensemble_calibration import ScoreSpread
from detseg3d.inference.candidates import load_candidates
from detseg3d.inference.operating_point import OperatingPoint, save_operating_point
from detseg3d.inference.prediction_files import clear_cases, write_case
from detseg3d.inference.result import describe_case
from detseg3d.planning.label_format import label_format_of
from detseg3d.planning.plans import Plans
from detseg3d.system.files import remove_files
from detseg3d.system.json_files import write_json
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["Consolidated", "ScoredLesions", "consolidate", "describe_calibration", "threshold_on_scale"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScoredLesions:
    """Scores of predicted lesions, before calibration, and whether each overlaps a true lesion."""

    scores: FloatArray
    is_lesion: BoolArray
    folds: npt.NDArray[np.str_]


@dataclass(frozen=True)
class Consolidated:
    """What was found.

    Attributes
    ----------
    point : OperatingPoint
    summary : ConsolidationSummary
        The content of ``consolidation.json``.
    predictions : Path
        The cross-validated predictions, masks and boxes as ``detseg3d_predict`` would write them. The scans of each
        fold are predicted at the thresholds that the *other* folds choose; with a single fold at the operating point.
        The table of their lesions belongs to the evaluation.
    label_format : LabelFormat
        How the labels of the cases are to be read.
    cases : tuple of str
        The cases that were pooled.
    failures : dict of str to str
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
) -> Consolidated:
    """Calibrate the scores and choose the operating point on the pooled validation cases of the folds.

    Parameters
    ----------
    raw : path
        The raw data set, for its labels.
    model_folder : path
        ``results/DatasetXXX_Name``, with trained and validated folds.
    folds : sequence, optional
        By default all numbered folds that are there.
    objective : Objective, optional
        The highest lesion F1 by default.
    run : Run

    Returns
    -------
    Consolidated
        Also written: ``operating_point.json``, and ``cross_validation/`` with the predictions and
        ``consolidation.json``.

    Raises
    ------
    DetSeg3DError
        If the folds cannot be pooled (see :func:`~detseg3d.consolidation.folds.load_validated_folds`), or the
        label or the candidates of a case cannot be used.
    """
    raw, model_folder = Path(raw), Path(model_folder)
    dataset = load_raw_dataset(raw)
    found = load_validated_folds(dataset, model_folder, folds)
    form = label_format_of(found.plans, dataset)
    prepared, scored = _prepare(found.cases, found.plans, form, run)
    if len(scored.scores) == 0:
        raise DetSeg3DError(
            "no fold predicted any lesion, so there is nothing to calibrate or to choose",
            file=model_folder,
            remedy="train longer, and look at fold_*/progress.png",
        )
    knots = fit_calibration(scored.scores, scored.is_lesion)
    spread = ScoreSpread.of(scored.scores, scored.is_lesion)
    start = threshold_on_scale(found.plans, knots).evolve(
        inference={"calibration_base_rate": spread.base_rate, "calibration_variance": spread.variance}
    )
    sweep = search(prepared, start, objective or Objective(), run)
    chosen = start.evolve(inference=sweep.chosen.values())
    stages = attribute(prepared, chosen, found.true_boxes, run)
    folder = ModelFolder(model_folder).cross_validation.path
    failures = found.failures | _write_predictions(
        found.cases,
        {fold: start.evolve(inference=sweep.setting_for(fold).values()) for fold in found.folds},
        folder,
        dataset.file_ending,
        {case.case_id for case in dataset.cases},
        run,
    )
    summary = ConsolidationSummary(
        dataset=model_folder.name,
        folds=tuple(found.folds),
        cases=len(prepared),
        choice=_describe_choice(sweep, prepared),
        sweep=sweep.rows(),
        calibration=describe_calibration(scored),
        attribution=stages,
        failures=failures,
    )
    point = OperatingPoint(
        inference=chosen.inference,
        objective=str(sweep.objective),
        weights=found.weights,
        metrics=summary.choice.metrics,
        plan_kept=sweep.plan_kept,
    )
    write_json(summary.to_json(), EvaluationFolder(folder).consolidation)
    # Last: only a finished consolidation changes what is predicted.
    save_operating_point(point, model_folder)
    _tell(sweep, summary.choice, failures)
    return Consolidated(point, summary, folder, form, tuple(case.case_id for case in found.cases), failures)


def _tell(sweep: Sweep, choice: ThresholdChoice, failures: Mapping[str, str]) -> None:
    """Log the chosen thresholds, and warn if they suppress whole scans or small lesions."""
    figures = sweep.figures(sweep.chosen)
    if sweep.plan_kept:
        logger.info("the plan's thresholds are kept: no others gain more than noise (%s)", choice.objective)
    else:
        logger.info("operating point (%s): %s", choice.objective, sweep.chosen.describe())
    if not choice.target_reached:
        logger.warning(
            "no threshold gives the %s: the nearest was chosen, recall %.3f at %.2f false positives per scan",
            choice.objective,
            figures.recall_iou_0_1,
            figures.fp_per_scan_iou_0_1,
        )
    smallest = sweep.chosen.minimum_volume_mm3
    if smallest:
        logger.warning(
            "lesions under %g mm³ will be left out of every prediction: on these scans the F1 is %.3f with this rule "
            "and %.3f without it; %d of %d true lesions are as small",
            smallest,
            figures.f1_iou_0_1,
            choice.f1_without_minimum,
            choice.true_lesions_below_minimum,
            choice.true_lesions,
        )
    if sweep.chosen.scan_threshold:
        scans = choice.scans
        logger.warning(
            "a scan without a lesion of score %.3g or more will be reported without any: on these folds %d of %d scans "
            "without lesions, and %d of %d with",
            sweep.chosen.scan_threshold,
            scans.clean,
            scans.without_lesions,
            scans.missed,
            scans.with_lesions,
        )
    for case_id, message in failures.items():
        logger.error("%s failed: %s", case_id, message)


def threshold_on_scale(plans: Plans, knots: Sequence[tuple[float, float]]) -> Plans:
    """The plans with the calibration, and their thresholds of the score where the calibration puts them."""
    inference = plans.inference
    thresholds = np.array([inference.score_threshold, inference.growth_threshold, inference.scan_threshold])
    if plans.inference.calibration:  # a plan may have one of its own: back to the raw score first
        raw, calibrated = zip(*plans.inference.calibration, strict=True)
        thresholds = np.interp(thresholds, calibrated, raw)
    score, growth, scan = apply_calibration(knots, thresholds).tolist()
    changes = {"calibration": tuple(knots), "score_threshold": score, "growth_threshold": growth}
    if inference.scan_threshold:  # where there is none, the calibrated scale has none either
        changes["scan_threshold"] = scan
    return plans.evolve(inference=changes)


# -- Scores ------------------------------------------------------------------------------------------------------------


def _prepare(
    cases: Sequence[CandidateCase], plans: Plans, form: LabelFormat, run: Run
) -> tuple[list[PreparedCase], ScoredLesions]:
    """Truth of every case, and which of all its predicted lesions, whatever their score, are lesions."""
    nothing_left_out = {"score_threshold": 0.0, "minimum_volume_mm3": 0.0, "scan_threshold": 0.0, "calibration": ()}
    everything = plans.evolve(inference=nothing_left_out)
    done = for_every_case(
        partial(_prepare_case, everything, form),
        cases,
        lambda case: case.case_id,
        "calibration",
        run,
    )
    pairs = [(case.stored.fold, score, hit) for case, lesions in done for score, hit in lesions]
    folds, scores, hits = zip(*pairs, strict=True) if pairs else ((), (), ())
    scored = ScoredLesions(np.array(scores, np.float64), np.array(hits, np.bool_), np.array(folds, np.str_))
    return [case for case, _ in done], scored


def _prepare_case(
    plans: Plans, form: LabelFormat, case: CandidateCase
) -> tuple[PreparedCase, list[tuple[float, bool]]]:
    label, geometry = read_label(case.label, form)
    candidates = load_candidates(case.candidates)
    close = all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(geometry.spacing, candidates.spacing, strict=True))
    if geometry.shape != candidates.shape or not close:
        raise DetSeg3DError(
            "the stored candidates do not lie on the grid of the label",
            file=case.candidates,
            value=f"size {candidates.shape}, spacing {candidates.spacing}",
            expected=f"size {geometry.shape}, spacing {geometry.spacing} as {case.label}",
            remedy="write them again with detseg3d_train DATASET FOLD --val",
        )
    classes = candidates.found.classes
    if len(classes) and not 0 <= classes.min() <= classes.max() < plans.num_classes:
        raise DetSeg3DError(
            "the stored candidates are of a class that the plans do not have",
            file=case.candidates,
            value=int(classes.max()),
            expected=f"one of {', '.join(plans.class_names)} (0 to {plans.num_classes - 1})",
        )
    lesions = true_lesions(label, case.label, form, case_id=case.case_id)
    truth = CaseTruth.of(lesions, candidates.spacing)
    outcomes = CaseOutcomes(candidates, truth, plans).lesions(plans.inference)
    return PreparedCase(case, truth), [(lesion.score, bool(lesion.hits)) for lesion in outcomes]


def describe_calibration(scored: ScoredLesions) -> CalibrationSummary:
    """Calibration error and reliability of the raw and of the calibrated score.

    ``after`` is honest: each fold's scores are calibrated by what the *other* folds showed.
    """
    calibrated = np.empty_like(scored.scores)
    names = np.unique(scored.folds)
    for fold in names:
        own = scored.folds == fold
        others = ~own if len(names) > 1 and not own.all() else own
        calibrated[own] = apply_calibration(
            fit_calibration(scored.scores[others], scored.is_lesion[others]), scored.scores[own]
        )
    return CalibrationSummary(*(_reliability(scores, scored.is_lesion) for scores in (scored.scores, calibrated)))


def _reliability(scores: FloatArray, is_lesion: BoolArray) -> Reliability:
    return Reliability(expected_calibration_error(scores, is_lesion), tuple(reliability_bins(scores, is_lesion)))


# -- Results -----------------------------------------------------------------------------------------------------------


def _describe_choice(sweep: Sweep, cases: Sequence[PreparedCase]) -> ThresholdChoice:
    """Return the choice with its metrics."""
    smallest = sweep.chosen.minimum_volume_mm3
    volumes = [n * math.prod(case.truth.spacing) for case in cases for n in case.truth.voxels]
    whole = sweep.chosen.evolve(minimum_volume_mm3=0.0)
    return ThresholdChoice(
        objective=str(sweep.objective),
        target_reached=sweep.objective.reached(sweep.figures(sweep.chosen)),
        predicted_at_thresholds_of=sweep.origin,
        thresholds=sweep.chosen,
        thresholds_of_the_plan=sweep.default,
        thresholds_chosen_without_each_fold=sweep.chosen_without,
        metrics=sweep.choice_metrics(),
        gain_on_other_folds=None if sweep.gain is None else _describe_gain(sweep.gain),
        f1_without_minimum=sweep.figures(whole).f1_iou_0_1,
        true_lesions=len(volumes),
        true_lesions_below_minimum=sum(volume < smallest for volume in volumes),
        scans=_count_scans(sweep.counts[sweep.chosen]),
        settings_tried=len(sweep.counts),
    )


def _describe_gain(gain: Gain) -> GainSummary:
    """Return a gain for JSON, in which ``None`` stands for infinity."""
    return GainSummary(**{name: value if math.isfinite(value) else None for name, value in asdict(gain).items()})


def _count_scans(counts: Sequence[CaseCounts]) -> ScanCounts:
    silent = [case for case in counts if not case.predictions]
    return ScanCounts(
        with_lesions=sum(case.truth > 0 for case in counts),
        missed=sum(case.truth > 0 for case in silent),
        without_lesions=sum(case.truth == 0 for case in counts),
        clean=sum(case.truth == 0 for case in silent),
    )


def _write_predictions(
    cases: Sequence[CandidateCase],
    plans_of_fold: Mapping[str, Plans],
    folder: Path,
    ending: str,
    known: set[str],
    run: Run,
) -> dict[str, str]:
    """Write the masks of all cases in the place of those of an earlier consolidation; what failed, by case."""
    # An earlier consolidation may have pooled other folds.
    clear_cases(folder, known)
    written = EvaluationFolder(folder)
    remove_files(
        written.consolidation,
        written.metrics,
        written.case_table,
        written.lesion_table,
        written.text,
        written.report,
    )
    failures = {}
    for result in run_cases(partial(_write_prediction, plans_of_fold, folder, ending), cases, run, "masks"):
        if result.error is not None:
            logger.debug("%s failed:\n%s", result.item.case_id, result.traceback)
            kind = "" if isinstance(result.error, DetSeg3DError) else f"{type(result.error).__name__}: "
            failures[result.item.case_id] = f"{kind}{result.error}"
    with suppress(DetSeg3DError):
        clear_cases(folder, failures)  # half of a result is none
    return failures


def _write_prediction(plans_of_fold: Mapping[str, Plans], folder: Path, ending: str, case: CandidateCase) -> None:
    plans = plans_of_fold[case.fold]
    candidates = load_candidates(case.candidates)
    geometry = read_geometry(ImageSource(case.label, candidates.spacing))
    admitted = candidates.admitted(plans.inference)
    result = describe_case(admitted.merge(plans), admitted.found, geometry, plans, candidate_limit=admitted.limit)
    write_case(result, case.case_id, folder, ending)
