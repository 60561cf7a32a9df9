"""Calibrated scores of several networks together, from a calibration that was learnt on one network at a time.

A cross-validation shows each case to one network only, so its calibration belongs to the scores of single networks.
These are noisy readings of how much a place looks like a lesion. Averaged over several networks the noise is less, and
the same score is worth more: a mean of calibrated probabilities is too timid (Ranjan and Gneiting 2010, "Combining
probability forecasts", J. R. Stat. Soc. B).

The model is that of linear discriminant analysis with errors of measurement (Carroll et al. 2006, "Measurement error in
nonlinear models", chapter 3). On the scale of log-odds, the scores of lesions and of false positives scatter around two
means, with the variance ``V`` within either kind. A part ``s`` of this variance is a single network's own. The mean of
``n`` networks has the variance ``V - s (1 - 1/n)``, and the slope of the log-odds of being a lesion is inverse to the
variance. It turns around the place where a score says nothing, where the probability is the base rate.

A mean of probabilities is nearer to 1/2 than the mean on the scale of log-odds, by the factor ``1 / sqrt(1 + π s / 8)``
of the log-odds (MacKay 1992, "The evidence framework applied to classification networks"). Where scores were averaged
as probabilities, the map undoes that first.
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


_LARGEST_SLOPE = 4.0
_STEPS = 48  # points at which the new map is evaluated beside the old ones
_GAP = 1e-9


@dataclass(frozen=True)
class ScoreSpread:
    """What a cross-validation knows of the scores of single networks.

    Attributes
    ----------
    base_rate : float
        Share of the predicted lesions that are lesions, whatever their score.
    variance : float
        Variance of the log-odds of the raw score within lesions and within false positives, pooled; 0: not known.
    """

    base_rate: float = 0.5
    variance: float = 0.0

    @classmethod
    def of(cls, scores: npt.ArrayLike, is_lesion: npt.ArrayLike) -> ScoreSpread:
        """Measure it on raw scores and whether each is a lesion, both of shape ``(N,)``."""
        odds, truth = log_odds(np.asarray(scores, np.float64)), np.asarray(is_lesion, np.bool_)
        kinds = [odds[truth], odds[~truth]]
        if min(map(len, kinds)) < 2:
            return cls()
        within = sum(float(((kind - kind.mean()) ** 2).sum()) for kind in kinds)
        return cls(float(truth.mean()), within / (len(odds) - 2))


def variance_between(scores: FloatArray) -> float:
    """Variance between networks of the log-odds of a score, mean over candidates.

    Parameters
    ----------
    scores : ndarray of float64, shape ``(M, N)``
        Raw score of each of M networks for each of N candidates.

    Returns
    -------
    float
        0 for a single network, and without candidates.
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
    """The calibration for the mean of the scores of several networks.

    Parameters
    ----------
    knots : sequence of (score, probability)
        The calibration of single networks.
    spread : ScoreSpread
    between : float
        From :func:`variance_between`.
    networks : int
    as_probability : float, optional
        Share of the score that was averaged as a probability, and not by log-odds: the weight of Stage 1, whose
        heatmaps are averaged.

    Returns
    -------
    tuple of (score, probability)
        ``knots`` themselves if nothing is known of the spread, or for a single network.

    Examples
    --------
    >>> knots = ((0.0, 0.0), (0.5, 0.5), (0.8, 0.8), (1.0, 1.0))
    >>> dict(calibration_of_several(knots, ScoreSpread(0.5, 1.0), 0.625, 5))[0.8]  # slope 2: odds of 4 become 16
    0.941176470588...
    """
    if networks < 2 or spread.variance < _GAP or between <= 0 or len(knots) < 2:
        return tuple(knots)
    left = max(spread.variance - between * (1 - 1 / networks), spread.variance / _LARGEST_SLOPE)
    slope = spread.variance / left
    places = np.unique([*(score for score, _ in knots), *np.linspace(0, 1, _STEPS + 1)])
    places = places[(places > _GAP) & (places < 1 - _GAP)]
    centre = log_odds(np.array([spread.base_rate]))[0]
    stretch = (1 + math.pi * between * (1 - 1 / networks) / 8) ** (as_probability / 2)
    by_log_odds = from_log_odds(stretch * log_odds(places))
    odds = centre + slope * (log_odds(apply_calibration(knots, by_log_odds)) - centre)
    points = [(0.0, 0.0)]
    for place, probability in zip(places.tolist(), from_log_odds(odds).tolist(), strict=True):
        # The scale of log-odds ends: beyond, what was in order stays in order.
        height = max(probability, points[-1][1] + _GAP)
        if place > points[-1][0] + _GAP and height < 1 - _GAP:
            points.append((place, height))
    return (*points, (1.0, 1.0))
