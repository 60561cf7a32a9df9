"""Convert the calibration of single networks to a calibration of the mean score of several networks.

In a cross-validation, only one network predicts each case, so the calibration is fitted to the scores of single
networks. The score of one network is a noisy measurement of the similarity of a candidate to lesions. The mean over
several networks has less noise, so the same mean score is stronger evidence. A mean of calibrated probabilities is
therefore too near to the base rate (Ranjan and Gneiting 2010, "Combining probability forecasts", J. R. Stat. Soc. B).

The model is linear discriminant analysis with measurement errors (Carroll et al. 2006, "Measurement error in nonlinear
models", chapter 3). On the scale of log-odds, the scores of lesions and of false positives scatter around two means,
with the variance ``V`` within each kind. A part ``s`` of this variance differs from network to network. The mean of
``n`` networks has the variance ``V - s (1 - 1/n)``. The slope of the log-odds of being a lesion is inverse to the
variance. The line is rotated around the point at which the probability is the base rate, because a score at this point
carries no information.

A mean of probabilities is nearer to 1/2 than the mean on the scale of log-odds, by the factor ``1 / sqrt(1 + π s / 8)``
of the log-odds (MacKay 1992, "The evidence framework applied to classification networks"). If scores were averaged as
probabilities, the calibration undoes this first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.core.log_odds import from_log_odds, log_odds
from detseg3d.evaluation.scores.calibration import apply_calibration

__all__ = ["ScoreSpread", "calibration_of_several", "variance_between"]


_MAX_SLOPE = 4.0
_STEPS = 48  # number of additional, evenly spaced knots of the new calibration
_GAP = 1e-9  # minimum between neighbouring knots, so that calibration keeps the order of the scores


@dataclass(frozen=True)
class ScoreSpread:
    """Spread of the scores of single networks, measured in a cross-validation.

    Attributes
    ----------
    base_rate : float
        Share of lesions among the predicted lesions of any score.
    variance : float
        Variance of the log-odds of the raw score within lesions and within false positives, pooled; 0 if unknown.
    """

    base_rate: float = 0.5
    variance: float = 0.0

    @classmethod
    def of(cls, scores: npt.ArrayLike, is_lesion: npt.ArrayLike) -> ScoreSpread:
        """Return the spread of ``N`` raw scores; ``is_lesion`` is True for the scores of lesions."""
        odds, truth = log_odds(np.asarray(scores, np.float64)), np.asarray(is_lesion, np.bool_)
        kinds = [odds[truth], odds[~truth]]
        if min(map(len, kinds)) < 2:
            return cls()
        within = sum(float(((kind - kind.mean()) ** 2).sum()) for kind in kinds)
        return cls(float(truth.mean()), within / (len(odds) - 2))


def variance_between(scores: FloatArray) -> float:
    """Return the variance of the log-odds of a score between networks, averaged over candidates.

    Parameters
    ----------
    scores : ndarray of float64, shape ``(M, N)``
        Raw scores of M networks for N candidates.

    Returns
    -------
    float
        The variance; 0 if there is only one network or no candidate.
    """
    networks, candidates = scores.shape
    if networks < 2 or candidates == 0:
        return 0.0
    return float(log_odds(scores).var(axis=0, ddof=1).mean())


def calibration_of_several(
    knots: Sequence[tuple[float, float]],
    spread: ScoreSpread,
    between: float,
    networks: int,
    as_probability: float = 0.0,
) -> tuple[tuple[float, float], ...]:
    """Return the calibration for the mean score of several networks.

    Parameters
    ----------
    knots : sequence of (score, probability)
        Calibration of single networks.
    spread : ScoreSpread
        Spread of the scores of single networks.
    between : float
        Variance between networks, from :func:`variance_between`.
    networks : int
        Number of networks.
    as_probability : float, optional
        Weight of the part of the score that was averaged as a probability, not as log-odds. This is the weight of the
        Stage 1 score, because the heatmaps are averaged.

    Returns
    -------
    tuple of (score, probability)
        ``knots`` unchanged for a single network or if the spread is unknown.

    Examples
    --------
    >>> knots = ((0.0, 0.0), (0.5, 0.5), (0.8, 0.8), (1.0, 1.0))
    >>> dict(calibration_of_several(knots, ScoreSpread(0.5, 1.0), 0.625, 5))[0.8]  # slope 2: odds of 4 become 16
    0.941176470588...
    """
    if networks < 2 or spread.variance < _GAP or between <= 0 or len(knots) < 2:
        return tuple(knots)
    left = max(spread.variance - between * (1 - 1 / networks), spread.variance / _MAX_SLOPE)
    slope = spread.variance / left
    places = np.unique([*(score for score, _ in knots), *np.linspace(0, 1, _STEPS + 1)])
    places = places[(places > _GAP) & (places < 1 - _GAP)]
    centre = log_odds(np.array([spread.base_rate]))[0]
    stretch = (1 + math.pi * between * (1 - 1 / networks) / 8) ** (as_probability / 2)
    by_log_odds = from_log_odds(stretch * log_odds(places))
    odds = centre + slope * (log_odds(apply_calibration(knots, by_log_odds)) - centre)
    points = [(0.0, 0.0)]
    for place, probability in zip(places.tolist(), from_log_odds(odds).tolist(), strict=True):
        # Log-odds are limited at both ends. Outside the limits, the knots rise by the minimum gap to keep the order.
        height = max(probability, points[-1][1] + _GAP)
        if place > points[-1][0] + _GAP and height < 1 - _GAP:
            points.append((place, height))
    return (*points, (1.0, 1.0))
