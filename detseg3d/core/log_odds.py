"""Probabilities on the scale of log-odds."""

from __future__ import annotations

import numpy as np

from detseg3d.core.arrays import FloatArray

__all__ = ["from_log_odds", "log_odds", "mean_by_log_odds"]

# Odds beyond 1 to 1000 differ only by rounding.
_MIN_PROBABILITY = 1e-3


def log_odds(probability: FloatArray) -> FloatArray:
    """Return the natural logarithm of the odds ``p / (1 - p)``.

    Probabilities below 0.001 count as 0.001, and probabilities above 0.999 as 0.999.

    Examples
    --------
    >>> log_odds(np.array([0.5, 0.8, 1.0])).round(3).tolist()
    [0.0, 1.386, 6.907]
    """
    clipped = np.clip(probability, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    odds: FloatArray = np.log(clipped / (1 - clipped))
    return odds


def from_log_odds(odds: FloatArray) -> FloatArray:
    """Return the probabilities of log-odds; the inverse of :func:`log_odds`.

    Examples
    --------
    >>> from_log_odds(np.array([0.0])).tolist()
    [0.5]
    """
    result: FloatArray = 1 / (1 + np.exp(-odds))
    return result


def mean_by_log_odds(probability: FloatArray) -> FloatArray:
    """Average probabilities over the first axis on the scale of log-odds.

    A single probability near 0 does not outweigh all others, because :func:`log_odds` bounds the odds. If all
    probabilities lie beyond the bounds on the same side, their plain mean is returned.

    Parameters
    ----------
    probability : ndarray of float, shape ``(N, …)``

    Returns
    -------
    ndarray of float, shape ``(…)``

    Examples
    --------
    >>> mean_by_log_odds(np.array([[0.5, 0.8, 1e-5], [0.5, 0.2, 3e-5]])).tolist()
    [0.5, 0.5, 2e-05]
    """
    beyond = (probability < _MIN_PROBABILITY).all(axis=0) | (probability > 1 - _MIN_PROBABILITY).all(axis=0)
    mean: FloatArray = np.where(beyond, probability.mean(axis=0), from_log_odds(log_odds(probability).mean(axis=0)))
    return mean
