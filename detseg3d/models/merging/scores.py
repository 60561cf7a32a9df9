"""The combined score of a candidate, and the lowest score of a candidate that takes part in the merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.sections import InferencePlan

__all__ = ["CandidateScores", "candidate_roi_scores", "combine_scores", "highest_possible_scores", "lowest_score"]


class CandidateScores(NamedTuple):
    """Scores of every candidate.

    Attributes
    ----------
    final : ndarray of float64, shape ``(N,)``
        Combined score of both stages, calibrated if the plan has a calibration.
    roi : ndarray of float64, shape ``(N,)``
        RoI score of Stage 2.
    """

    final: npt.NDArray[np.float64]
    roi: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls, candidates: Detections, predictions: Sequence[RoiPrediction], inference: InferencePlan
    ) -> CandidateScores:
        """Combine the scores of ``candidates`` with those of their RoIs, by the rule of ``inference``."""
        roi = candidate_roi_scores(len(candidates), predictions)
        return cls(combine_scores(candidates.scores, roi, inference.calibration, inference.detection_weight), roi)


def combine_scores(
    detection: npt.NDArray[np.floating[Any]],
    roi: npt.NDArray[np.floating[Any]],
    calibration: Sequence[tuple[float, float]] = (),
    detection_weight: float = 0.5,
) -> npt.NDArray[np.float64]:
    """Combine the scores of both stages: their weighted geometric mean, calibrated.

    Parameters
    ----------
    detection, roi : ndarray, shape ``(N,)``
        Scores of Stage 1 and Stage 2, from 0 to 1.
    calibration : sequence of (score, probability)
        Points in ascending order, joined by straight lines. Without any point, the score is not calibrated.
    detection_weight : float, optional
        Exponent of the detection score. The exponent of the RoI score is ``1 - detection_weight``.

    Returns
    -------
    ndarray of float64, shape ``(N,)``

    Examples
    --------
    >>> combine_scores(np.array([0.25]), np.array([1.0])).tolist()
    [0.5]
    >>> combine_scores(np.array([0.25]), np.array([1.0]), [(0, 0), (0.5, 0.9), (1, 1)]).tolist()
    [0.9]
    """
    scores: npt.NDArray[np.float64] = np.asarray(detection, np.float64) ** detection_weight * np.asarray(
        roi, np.float64
    ) ** (1 - detection_weight)
    if calibration:
        points, probabilities = zip(*calibration, strict=True)
        scores = np.interp(scores, points, probabilities)
    return scores


def candidate_roi_scores(count: int, predictions: Sequence[RoiPrediction]) -> npt.NDArray[np.float64]:
    """Return the RoI score of each of ``count`` candidates: the best score of its RoIs.

    The best RoI counts, because an RoI at the border of a large lesion may show little of the lesion.
    """
    scores = np.zeros(count)
    for prediction in predictions:
        scores[prediction.candidate] = max(scores[prediction.candidate], prediction.score)
    return scores


def highest_possible_scores(
    detection: npt.NDArray[np.floating[Any]], inference: InferencePlan
) -> npt.NDArray[np.float64]:
    """Return the combined scores that candidates would have if Stage 2 gave each of them the score 1.

    Parameters
    ----------
    detection : ndarray, shape ``(N,)``
        Scores of Stage 1.
    inference : InferencePlan

    Returns
    -------
    ndarray of float64, shape ``(N,)``

    Examples
    --------
    >>> highest_possible_scores(np.array([0.09, 0.25]), InferencePlan(detection_weight=0.5)).tolist()
    [0.3, 0.5]
    """
    return combine_scores(detection, np.ones(len(detection)), inference.calibration, inference.detection_weight)


def lowest_score(inference: InferencePlan) -> float:
    """Return the lowest score of a candidate that takes part in the merging.

    If masks are joined, candidates that reach the growth threshold take part: they extend the lesions that they touch.

    Examples
    --------
    >>> thresholds = {"score_threshold": 0.5, "growth_threshold": 0.3}
    >>> [lowest_score(InferencePlan(join_touching=joined, **thresholds)) for joined in (True, False)]
    [0.3, 0.5]
    """
    if not inference.join_touching:
        return inference.score_threshold
    return min(inference.score_threshold, inference.growth_threshold)
