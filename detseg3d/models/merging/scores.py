"""The score of a candidate: what both stages say of it, and from where on it counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.sections import InferencePlan

__all__ = ["candidate_roi_scores", "combine_scores", "lowest_score"]


def combine_scores(
    detection: npt.NDArray[np.floating[Any]],
    roi: npt.NDArray[np.floating[Any]],
    calibration: Sequence[tuple[float, float]] = (),
    detection_weight: float = 0.5,
    certainty: npt.NDArray[np.floating[Any]] | float = 1.0,
) -> npt.NDArray[np.float64]:
    """One score per candidate: the weighted geometric mean of what both stages say, calibrated if the plan can.

    Parameters
    ----------
    detection, roi : ndarray, shape ``(N,)``
    calibration : sequence of (score, probability)
        Ascending points, joined by straight lines; without any the score stays as it is.
    detection_weight : float, optional
        Exponent of the detection score; that of the RoI score is the rest up to 1.
    certainty : ndarray, shape ``(N,)``, or float, optional
        Factor before the calibration.

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
    scores = scores * certainty
    if calibration:
        points, probabilities = zip(*calibration, strict=True)
        scores = np.interp(scores, points, probabilities)
    return scores


def candidate_roi_scores(count: int, predictions: Sequence[RoiPrediction]) -> npt.NDArray[np.float64]:
    """RoI score of each candidate: the best of its RoIs, since a tile at the rim of a large lesion may show little."""
    scores = np.zeros(count)
    for prediction in predictions:
        scores[prediction.candidate] = max(scores[prediction.candidate], prediction.score)
    return scores


def lowest_score(inference: InferencePlan) -> float:
    """Score from which candidates take part in the merging: as lesions or, where masks join, to extend lesions.

    Examples
    --------
    >>> thresholds = {"score_threshold": 0.5, "growth_threshold": 0.3}
    >>> [lowest_score(InferencePlan(join_touching=joined, **thresholds)) for joined in (True, False)]
    [0.3, 0.5]
    """
    if not inference.join_touching:
        return inference.score_threshold
    return min(inference.score_threshold, inference.growth_threshold)
