"""Measures of one scan under one condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.shift.scans import LabelledScan
from detseg3d.data.labels import Lesions
from detseg3d.evaluation.case import evaluate_case
from detseg3d.evaluation.metrics import CaseMetrics, Criterion, DetectionCounts
from detseg3d.evaluation.scores.froc import ScoredCase
from detseg3d.inference.candidates import Candidates
from detseg3d.models.merging.merge import Merged
from detseg3d.planning.plans import Plans
from detseg3d.system.json_records import JsonRecord

__all__ = ["LOWEST_SCORE", "FoundLesion", "ScanResult", "judge_candidates", "judge_mask"]

LOWEST_SCORE = 0.05
"""Curves over the score, average precision and calibration error see all lesions with this score or more."""


@dataclass(frozen=True)
class FoundLesion(JsonRecord):
    """A true lesion that is in the field of view, and whether it was found with an IoU of 0.1 or more."""

    number: int
    found: bool


@dataclass(frozen=True)
class Scores(JsonRecord):
    """Scores of the lesions of a scan, as in :class:`~detseg3d.evaluation.scores.froc.ScoredCase`."""

    truth: tuple[float | None, ...]
    true_positive: tuple[float, ...]
    false_positive: tuple[float, ...]

    @classmethod
    def of(cls, case: ScoredCase) -> Scores:
        """Return the scores of a case; ``None`` for a lesion that is never found."""
        truth = tuple(score if np.isfinite(score) else None for score in case.truth_scores.tolist())
        return cls(truth, tuple(case.true_positive_scores.tolist()), tuple(case.false_positive_scores.tolist()))

    def scored_case(self, case_id: str) -> ScoredCase:
        """Return the record for curves over the score."""
        truth = np.array([-np.inf if score is None else score for score in self.truth], np.float64)
        return ScoredCase(case_id, truth, np.array(self.true_positive), np.array(self.false_positive))


@dataclass(frozen=True)
class ScanResult(JsonRecord):
    """Measures of one scan under one condition at one operating point.

    Attributes
    ----------
    case_id : str
    counts : DetectionCounts
        Lesions matched one to one with an IoU of 0.1 or more.
    dice : float
    lesions : tuple of FoundLesion
    scores, scores_any : Scores or None
        All lesions with a score of 0.05 or more, with the criterion IoU 0.1 and at any overlap. ``None`` for
        masks without scores.
    """

    case_id: str
    counts: DetectionCounts
    dice: float
    lesions: tuple[FoundLesion, ...]
    scores: Scores | None = None
    scores_any: Scores | None = None


def judge_candidates(
    scan: LabelledScan, candidates: Candidates, plans: Plans, class_names: Sequence[str]
) -> ScanResult:
    """Measure the lesions that candidates give with the thresholds of the plans."""
    final = _evaluate(scan, _predicted(candidates.merge(plans)), class_names)
    low = plans.evolve(inference={"score_threshold": LOWEST_SCORE, "scan_threshold": 0.0})
    return _result(scan, final, _evaluate(scan, _predicted(candidates.merge(low)), class_names))


def judge_mask(scan: LabelledScan, prediction: Lesions, class_names: Sequence[str]) -> ScanResult:
    """Measure the lesions of a mask of another system; curves over the score need scores of its lesions."""
    case = _evaluate(scan, prediction, class_names)
    return _result(scan, case, case)


def _predicted(merged: Merged) -> Lesions:
    classes = {lesion.id: lesion.class_index for lesion in merged.lesions}
    scores = {lesion.id: lesion.score for lesion in merged.lesions}
    return Lesions(merged.instances.astype(np.int32), classes, scores)


def _evaluate(scan: LabelledScan, prediction: Lesions, class_names: Sequence[str]) -> CaseMetrics:
    return evaluate_case(
        scan.case_id,
        scan.lesions,
        prediction,
        scan.geometry.spacing,
        class_names=class_names,
        voxel_volume_mm3=scan.geometry.voxel_volume,
    )


def _result(scan: LabelledScan, case: CaseMetrics, scored: CaseMetrics) -> ScanResult:
    """Return the measures of a case, with the curves of the same or of more lesions."""
    lesions = tuple(
        FoundLesion(lesion.id, lesion.matched[Criterion.IOU_01]) for lesion in case.lesions if lesion.is_true
    )
    curves = {} if scored.scored is None else scored.scored.overall
    scores, scores_any = (
        Scores.of(curves[criterion]) if criterion in curves else None for criterion in (Criterion.IOU_01, Criterion.ANY)
    )
    return ScanResult(scan.case_id, case.overall.detection[Criterion.IOU_01], case.dice, lesions, scores, scores_any)
