"""Calibrated scores: of the lesions with a score of 0.8, four in five should be lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from detseg3d.core.arrays import FloatArray

__all__ = ["apply_calibration", "expected_calibration_error", "fit_calibration", "reliability_bins"]


_MOST_KNOTS = 64
_GAP = 1e-9  # between neighbouring knots: what was in order stays in order


def fit_calibration(
    scores: npt.ArrayLike, is_lesion: npt.ArrayLike, most_knots: int = _MOST_KNOTS
) -> tuple[tuple[float, float], ...]:
    """Isotonic regression of "is a lesion" on the score, as points to be joined by straight lines.

    Zadrozny and Elkan (2002), "Transforming classifier scores into accurate multiclass probability estimates", KDD.
    Each block of the isotonic fit becomes one point, at the mean score of its members and at (lesions + 1/2) / (members
    + 1): a few members are no certainty. The line from (0, 0) through these to (1, 1) ascends everywhere, so a
    calibrated score ranks lesions as the raw one does.

    Parameters
    ----------
    scores : array_like of float, shape ``(N,)``
        Between 0 and 1.
    is_lesion : array_like of bool, shape ``(N,)``
    most_knots : int, optional
        Neighbouring blocks are joined until there are no more than this, ends included.

    Returns
    -------
    tuple of (score, probability)
        Ascending in both, from (0, 0) to (1, 1); only these two without any scores.

    Examples
    --------
    >>> fit_calibration([0.3, 0.5, 0.5, 0.7], [0, 1, 0, 1])
    ((0.0, 0.0), (0.3, 0.25), (0.5, 0.5), (0.7, 0.75), (1.0, 1.0))
    """
    values = np.asarray(scores, np.float64)
    truth = np.asarray(is_lesion, np.float64)
    if values.shape != truth.shape or values.ndim != 1:
        raise ValueError(f"{values.shape} scores do not go with {truth.shape} outcomes")
    if len(values) == 0:
        return (0.0, 0.0), (1.0, 1.0)
    # Equal scores are one observation; the fit must not depend on their order.
    unique, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    share = np.bincount(inverse, weights=truth) / counts
    blocks = isotonic_regression(share, weights=counts.astype(np.float64)).blocks
    weight = np.add.reduceat(counts, blocks[:-1]).astype(np.float64)
    place = np.add.reduceat(unique * counts, blocks[:-1]) / weight
    height = np.add.reduceat(share * counts, blocks[:-1]) / weight
    while len(place) > most_knots - 2:
        # The two neighbours whose outcomes differ least lose least by being joined.
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
        # Blocks of few members may have lost their order; and where scores end at 0 or 1, the ends speak for them.
        if points[-1][0] + _GAP < x < 1 - _GAP:
            points.append((x, max(y, points[-1][1] + _GAP)))
    return (*points, (1.0, 1.0))


def apply_calibration(knots: Sequence[tuple[float, float]], scores: npt.ArrayLike) -> FloatArray:
    """Calibrated scores.

    Parameters
    ----------
    knots : sequence of (score, probability)
        From :func:`fit_calibration`.
    scores : array_like of float, shape ``(N,)``

    Examples
    --------
    >>> apply_calibration([(0, 0), (0.5, 0.8), (1, 1)], [0.25, 0.5]).tolist()
    [0.4, 0.8]
    """
    points, probabilities = zip(*knots, strict=True)
    result: FloatArray = np.interp(np.asarray(scores, np.float64), points, probabilities)
    return np.clip(result, 0.0, 1.0)  # just below the last knot, rounding may exceed it


def reliability_bins(scores: npt.ArrayLike, is_lesion: npt.ArrayLike, bins: int = 10) -> list[dict[str, Any]]:
    """Mean score and observed share of lesions in bins of equal width: what a reliability diagram shows.

    Parameters
    ----------
    scores : array_like of float, shape ``(N,)``
        Between 0 and 1; 1 belongs to the last bin.
    is_lesion : array_like of bool, shape ``(N,)``
    bins : int, optional

    Returns
    -------
    list of dict
        ``from``, ``to``, ``count``, ``mean_score`` and ``observed`` (``None`` in an empty bin).
    """
    values, truth = np.asarray(scores, np.float64), np.asarray(is_lesion, np.float64)
    number = np.clip((values * bins).astype(np.int64), 0, bins - 1)
    rows = []
    for index in range(bins):
        inside = number == index
        count = int(inside.sum())
        rows.append(
            {
                "from": index / bins,
                "to": (index + 1) / bins,
                "count": count,
                "mean_score": float(values[inside].mean()) if count else None,
                "observed": float(truth[inside].mean()) if count else None,
            }
        )
    return rows


def expected_calibration_error(scores: npt.ArrayLike, is_lesion: npt.ArrayLike, bins: int = 10) -> float:
    """Mean distance between score and observed share over the bins, weighted by their counts; 0 without any scores.

    Naeini, Cooper and Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", AAAI.

    Examples
    --------
    >>> round(expected_calibration_error([0.9, 0.9, 0.1], [1, 0, 0]), 3)
    0.3
    """
    rows = [row for row in reliability_bins(scores, is_lesion, bins) if row["count"]]
    total = sum(row["count"] for row in rows)
    return sum(row["count"] * abs(row["mean_score"] - row["observed"]) for row in rows) / total if total else 0.0
