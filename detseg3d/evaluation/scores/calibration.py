"""Calibrate scores, so that four of five predictions with a calibrated score of 0.8 are lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "ReliabilityBin",
    "apply_calibration",
    "expected_calibration_error",
    "fit_calibration",
    "reliability_bins",
]


_MAX_KNOTS = 64
_GAP = 1e-9  # minimum between neighbouring knots, so that calibration keeps the order of the scores


def fit_calibration(
    scores: npt.ArrayLike, is_lesion: npt.ArrayLike, max_knots: int = _MAX_KNOTS
) -> tuple[tuple[float, float], ...]:
    """Fit a piecewise linear calibration by isotonic regression of "is a lesion" on the score.

    Each block of the isotonic fit becomes one knot, at the mean score of its members. The probability of the knot is
    (lesions + 1/2) / (members + 1), because a few members cannot prove a probability of 0 or 1. The line from (0, 0)
    through the knots to (1, 1) ascends everywhere, so calibrated scores have the same order as raw scores.

    Parameters
    ----------
    scores : array_like of float, shape ``(N,)``
        Scores between 0 and 1.
    is_lesion : array_like of bool, shape ``(N,)``
        True for each score of a lesion.
    max_knots : int, optional
        Neighbouring blocks are joined until there are at most this many knots, ends included.

    Returns
    -------
    tuple of (score, probability)
        The knots, ascending in both numbers, from (0, 0) to (1, 1). If there are no scores, only these two knots.

    Raises
    ------
    ValueError
        If the shapes differ or are not one-dimensional.

    References
    ----------
    Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates", KDD.

    Examples
    --------
    >>> fit_calibration([0.3, 0.5, 0.5, 0.7], [0, 1, 0, 1])
    ((0.0, 0.0), (0.3, 0.25), (0.5, 0.5), (0.7, 0.75), (1.0, 1.0))
    """
    values = np.asarray(scores, np.float64)
    truth = np.asarray(is_lesion, np.float64)
    if values.shape != truth.shape or values.ndim != 1:
        raise ValueError(f"{values.shape} scores and {truth.shape} outcomes are not two lists of equal length")
    if len(values) == 0:
        return (0.0, 0.0), (1.0, 1.0)
    # Equal scores are one observation, so that the order of the scores does not change the fit.
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    share = np.bincount(inverse, weights=truth) / counts
    from scipy.optimize import isotonic_regression  # imported here, because predictions apply curves and fit none

    blocks = isotonic_regression(share, weights=counts.astype(np.float64)).blocks
    weight = np.add.reduceat(counts, blocks[:-1]).astype(np.float64)
    place = np.add.reduceat(unique * counts, blocks[:-1]) / weight
    height = np.add.reduceat(share * counts, blocks[:-1]) / weight
    while len(place) > max_knots - 2:
        # Join the two neighbours with the most similar outcomes, because this changes the fit least.
        first = int(np.argmin(np.diff(height)))
        pair = slice(first, first + 2)
        total = weight[pair].sum()
        for array in (place, height):
            array[first] = (array[pair] * weight[pair]).sum() / total
        weight[first] = total
        place, height, weight = (np.delete(array, first + 1) for array in (place, height, weight))
    height = (height * weight + 0.5) / (weight + 1)
    points = [(0.0, 0.0)]
    for x, y in zip(place.tolist(), height.tolist(), strict=True):
        # The correction of small blocks may have broken the order. Blocks at 0 or 1 are replaced by the end knots.
        if points[-1][0] + _GAP < x < 1 - _GAP:
            points.append((x, max(y, points[-1][1] + _GAP)))
    return (*points, (1.0, 1.0))


def apply_calibration(knots: Sequence[tuple[float, float]], scores: npt.ArrayLike) -> FloatArray:
    """Return calibrated scores.

    Parameters
    ----------
    knots : sequence of (score, probability)
        Knots from :func:`fit_calibration`.
    scores : array_like of float, shape ``(N,)``
        Raw scores, between 0 and 1.

    Examples
    --------
    >>> apply_calibration([(0, 0), (0.5, 0.8), (1, 1)], [0.25, 0.5]).tolist()
    [0.4, 0.8]
    """
    points, probabilities = zip(*knots, strict=True)
    result: FloatArray = np.interp(np.asarray(scores, np.float64), points, probabilities)
    return np.clip(result, 0.0, 1.0)  # just below the last knot, interpolation may exceed 1 by rounding


@dataclass(frozen=True)
class ReliabilityBin(JsonRecord):
    """One bin of a reliability diagram.

    Attributes
    ----------
    low, high : float
        Limits of the score.
    count : int
        Number of scores in the bin.
    mean_score : float or None
        Mean score of the bin; ``None`` if the bin is empty.
    observed : float or None
        Observed share of lesions; ``None`` if the bin is empty.
    """

    low: float
    high: float
    count: int
    mean_score: float | None
    observed: float | None


def reliability_bins(scores: npt.ArrayLike, is_lesion: npt.ArrayLike, bins: int = 10) -> tuple[ReliabilityBin, ...]:
    """Return a reliability diagram: the mean score and the observed share of lesions in bins of equal width.

    Parameters
    ----------
    scores : array_like of float, shape ``(N,)``
        Scores between 0 and 1; 1 belongs to the last bin.
    is_lesion : array_like of bool, shape ``(N,)``
        True for each score of a lesion.
    bins : int, optional
        Number of bins.
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(is_lesion, np.float64)
    number = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    rows = []
    for index in range(bins):
        inside = number == index
        count = int(inside.sum())
        mean_score, observed = (float(part[inside].mean()) if count else None for part in (values, truth))
        rows.append(ReliabilityBin(index / bins, (index + 1) / bins, count, mean_score, observed))
    return tuple(rows)


def expected_calibration_error(scores: npt.ArrayLike, is_lesion: npt.ArrayLike, bins: int = 10) -> float:
    """Return the mean distance between score and observed share over the bins, weighted by their counts.

    If there are no scores, the error is 0.

    Parameters
    ----------
    scores : array_like of float, shape ``(N,)``
        Between 0 and 1.
    is_lesion : array_like of bool, shape ``(N,)``
        True for each score of a lesion.
    bins : int, optional
        Number of bins.

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", AAAI.

    Examples
    --------
    >>> round(expected_calibration_error([0.9, 0.9, 0.1], [1, 0, 0]), 3)
    0.3
    """
    total, error = 0, 0.0
    for row in reliability_bins(scores, is_lesion, bins):
        if row.mean_score is not None and row.observed is not None:
            error += row.count * abs(row.mean_score - row.observed)
            total += row.count
    return error / total if total else 0.0
