"""Calibration of the scores from the validation cases of all folds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.outcomes import CaseOutcomes, CaseTruth, map_cases
from detseg3d.consolidation.shifted_scans import load_truth
from detseg3d.core.arrays import BoolArray, FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.labels import LabelFormat, read_label, true_lesions
from detseg3d.evaluation.cross_validation import CalibrationSummary, Reliability
from detseg3d.evaluation.scores.calibration import (
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)
from detseg3d.evaluation.scores.ensemble_calibration import ScoreSpread
from detseg3d.inference.candidates import Candidates, load_candidates
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run

__all__ = [
    "ScoredLesions",
    "calibrate",
    "calibration_errors",
    "prepare_cases",
    "rescale_thresholds",
    "summarize_calibration",
]


@dataclass(frozen=True)
class ScoredLesions:
    """Predicted lesions of all validation cases, before calibration.

    Attributes
    ----------
    scores : ndarray of float64, shape ``(N,)``
    is_lesion : ndarray of bool, shape ``(N,)``
        Whether the predicted lesion overlaps a true lesion of its class.
    folds : ndarray of str, shape ``(N,)``
        Fold that predicted the lesion.
    patients : ndarray of str, shape ``(N,)``
    """

    scores: FloatArray
    is_lesion: BoolArray
    folds: npt.NDArray[np.str_]
    patients: npt.NDArray[np.str_]


def prepare_cases(
    cases: Sequence[CandidateCase], plans: Plans, label_format: LabelFormat, run: Run = Run()
) -> tuple[list[PreparedCase], ScoredLesions]:
    """Read the true lesions of every case, and determine which of its predicted lesions are true.

    Parameters
    ----------
    cases : sequence of CandidateCase
    plans : Plans
    label_format : LabelFormat
    run : Run

    Returns
    -------
    prepared : list of PreparedCase
    scored : ScoredLesions
        All lesions that the stored candidates give, with any score.

    Raises
    ------
    DetSeg3DError
        If the label or the candidates of a case cannot be used.
    """
    no_thresholds = {"score_threshold": 0.0, "minimum_volume_mm3": 0.0, "scan_threshold": 0.0, "calibration": ()}
    results = map_cases(
        partial(_prepare_case, plans.evolve(inference=no_thresholds), label_format),
        cases,
        lambda case: case.case_id,
        "calibration",
        run,
    )
    scored = [(case.stored.fold, case.stored.group, score, hit) for case, lesions in results for score, hit in lesions]
    folds, patients, scores, hits = zip(*scored, strict=True) if scored else ((), (), (), ())
    return [case for case, _ in results], ScoredLesions(
        np.array(scores, np.float64), np.array(hits, np.bool_), np.array(folds, np.str_), np.array(patients, np.str_)
    )


def _prepare_case(
    plans: Plans, label_format: LabelFormat, case: CandidateCase
) -> tuple[PreparedCase, list[tuple[float, bool]]]:
    """Return a case with its true lesions, and the score of each predicted lesion with whether it is true."""
    candidates = load_candidates(case.candidates)
    truth = load_truth(case.label) if case.shift else _read_truth(case, candidates, label_format)
    classes = candidates.detections.classes
    if len(classes) and not 0 <= classes.min() <= classes.max() < plans.num_classes:
        raise DetSeg3DError(
            "the stored candidates have a class that the plans do not have",
            file=case.candidates,
            value=int(classes.max()),
            expected=f"one of {', '.join(plans.class_names)} (0 to {plans.num_classes - 1})",
        )
    outcomes = CaseOutcomes(candidates, truth, plans).lesions(plans.inference)
    return PreparedCase(case, truth), [(lesion.score, bool(lesion.hits)) for lesion in outcomes]


def _read_truth(case: CandidateCase, candidates: Candidates, label_format: LabelFormat) -> CaseTruth:
    """Read the true lesions of an unchanged scan from its label."""
    label, geometry = read_label(case.label, label_format)
    is_close = all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(geometry.spacing, candidates.spacing, strict=True))
    if geometry.shape != candidates.shape or not is_close:
        raise DetSeg3DError(
            "the stored candidates do not lie on the grid of the label",
            file=case.candidates,
            value=f"size {candidates.shape}, spacing {candidates.spacing}",
            expected=f"size {geometry.shape}, spacing {geometry.spacing} as {case.label}",
            remedy="write them again with detseg3d_train DATASET FOLD --val",
        )
    lesions = true_lesions(label, case.label, label_format, case_id=case.case_id)
    return CaseTruth.of(lesions, candidates.spacing)


def calibrate(plans: Plans, scored: ScoredLesions) -> Plans:
    """Return the plans with a calibration fitted to all predicted lesions, and with thresholds on its scale."""
    spread = ScoreSpread.of(scored.scores, scored.is_lesion)
    knots = fit_calibration(scored.scores, scored.is_lesion)
    return rescale_thresholds(plans, knots).evolve(
        inference={"calibration_base_rate": spread.base_rate, "calibration_variance": spread.variance}
    )


def rescale_thresholds(plans: Plans, knots: Sequence[tuple[float, float]]) -> Plans:
    """Return the plans with another calibration, and with the thresholds of the score moved to its scale.

    Parameters
    ----------
    plans : Plans
        Its thresholds refer to its own calibration, or to the raw score if it has none.
    knots : sequence of (float, float)
        Raw and calibrated scores, see :func:`~detseg3d.evaluation.scores.calibration.fit_calibration`.
    """
    inference = plans.inference
    thresholds = np.array([inference.score_threshold, inference.growth_threshold, inference.scan_threshold])
    if inference.calibration:  # undo the calibration of the plans first
        raw, calibrated = zip(*inference.calibration, strict=True)
        thresholds = np.interp(thresholds, calibrated, raw)
    score, growth, scan = apply_calibration(knots, thresholds).tolist()
    changes = {"calibration": tuple(knots), "score_threshold": score, "growth_threshold": growth}
    if inference.scan_threshold:  # 0 stands for no threshold on every scale
        changes["scan_threshold"] = scan
    return plans.evolve(inference=changes)


def summarize_calibration(scored: ScoredLesions) -> CalibrationSummary:
    """Return the calibration errors of the raw and of the calibrated scores.

    With several folds, the scores of each fold are calibrated with the other folds, as for new scans.
    """
    calibrated = np.empty_like(scored.scores)
    names = np.unique(scored.folds)
    for fold in names:
        own = scored.folds == fold
        others = ~own if len(names) > 1 else own
        calibrated[own] = apply_calibration(
            fit_calibration(scored.scores[others], scored.is_lesion[others]), scored.scores[own]
        )
    return CalibrationSummary(_reliability(scored.scores, scored.is_lesion), _reliability(calibrated, scored.is_lesion))


def calibration_errors(scored: ScoredLesions, shifted: ScoredLesions) -> tuple[float, float]:
    """Return the calibration errors of the calibrated scores on unchanged and on shifted scans.

    The scores of each patient are calibrated with the unchanged scans of the other patients.
    """
    errors = []
    for judged in (scored, shifted):
        calibrated = np.empty_like(judged.scores)
        for patient in np.unique(judged.patients):
            own, others = judged.patients == patient, scored.patients != patient
            knots = fit_calibration(scored.scores[others], scored.is_lesion[others])
            calibrated[own] = apply_calibration(knots, judged.scores[own])
        errors.append(expected_calibration_error(calibrated, judged.is_lesion))
    return errors[0], errors[1]


def _reliability(scores: FloatArray, is_lesion: BoolArray) -> Reliability:
    return Reliability(expected_calibration_error(scores, is_lesion), reliability_bins(scores, is_lesion))
