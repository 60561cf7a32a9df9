"""Compute bootstrap intervals of the metrics of FROC and precision–recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.evaluation.scores.bootstrap import Interval, Scale, bootstrap_weights, contributions, interval
from detseg3d.evaluation.scores.froc import FROC_RATES, ScoredCase
from detseg3d.system.json_records import JsonRecord

__all__ = ["ScoreIntervals", "score_intervals", "weighted_scores"]


_PARTS = ("truth_scores", "true_positive_scores", "false_positive_scores")
# Maximum number of array elements per block of resamples. Without blocks, the memory would grow with the product of
# predictions and resamples.
_MAX_NUMBERS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class WeightedScores:
    """Metrics of the curves for each row of weights. A row without a true lesion has NaN in all metrics.

    Attributes
    ----------
    average_precision, cpm : ndarray of float64, shape ``(S,)``
        Value for each row of weights.
    recall : ndarray of float64, shape ``(S, 7)``
        Recall at each of :data:`~detseg3d.evaluation.scores.froc.FROC_RATES`.
    """

    average_precision: FloatArray
    cpm: FloatArray
    recall: FloatArray


def weighted_scores(cases: Sequence[ScoredCase], weights: FloatArray) -> WeightedScores:
    """Return average precision, CPM and the recalls of a FROC curve for each row of weights.

    If all weights are whole numbers, the result equals the result of :mod:`detseg3d.evaluation.scores.froc` for a list
    that repeats each case as many times as its weight.

    Parameters
    ----------
    cases : sequence of ScoredCase
        Records of the cases.
    weights : ndarray of float64, shape ``(S, N)``
        Weight of each case. In a bootstrap, the weight is the number of times that the case was drawn.
    """
    lengths = [[len(getattr(case, name)) for case in cases] for name in _PARTS]
    scores = [np.concatenate([np.zeros(0), *(getattr(case, name) for case in cases)]) for name in _PARTS]
    owners = [np.repeat(np.arange(len(cases)), length) for length in lengths]
    thresholds = np.unique(np.concatenate(scores[1:]))[::-1]
    orders = [np.argsort(-part, kind="stable") for part in scores]
    # Number of scores of each kind at or above each threshold, highest threshold first. These numbers are the positions
    # at which the cumulative sums of the weights are read.
    reached = [
        np.searchsorted(-part[order], -thresholds, side="right") for part, order in zip(scores, orders, strict=True)
    ]
    members = [owner[order] for owner, order in zip(owners, orders, strict=True)]
    truths = weights @ np.asarray(lengths[0], np.float64)
    precision_area = np.zeros(len(weights))
    recall_at = np.zeros((len(weights), len(FROC_RATES)))
    step = max(1, _MAX_NUMBERS_AT_ONCE // max(len(thresholds), *(len(part) for part in scores), 1))
    for start in range(0, len(weights) if len(thresholds) else 0, step):
        rows = slice(start, start + step)
        found, hits, misses = (_sums(weights[rows], owner, ends) for owner, ends in zip(members, reached, strict=True))
        recall = found / np.maximum(truths[rows], 1e-300)[:, None]
        precision = hits / np.maximum(hits + misses, 1e-300)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        precision_area[rows] = np.sum(np.diff(recall, prepend=0.0, axis=1) * envelope, axis=1)
        per_scan = misses / np.maximum(weights[rows].sum(axis=1), 1e-300)[:, None]
        for place, rate in enumerate(FROC_RATES):
            # False positives and recall only grow along the curve, so the last point within the rate has the best
            # recall.
            allowed = np.count_nonzero(per_scan <= rate + 1e-12, axis=1)
            last = np.take_along_axis(recall, np.maximum(allowed - 1, 0)[:, None], axis=1)[:, 0]
            recall_at[rows, place] = np.where(allowed > 0, last, 0.0)
    undefined = truths <= 0
    precision_area[undefined], recall_at[undefined] = np.nan, np.nan
    return WeightedScores(precision_area, recall_at.mean(axis=1), recall_at)


def _sums(weights: FloatArray, owner: IntArray, ends: IntArray) -> FloatArray:
    """Return the sum of the weights of the first ``ends`` members, shape ``(S, len(ends))``."""
    total = np.zeros((len(weights), len(owner) + 1))
    np.cumsum(weights[:, owner], axis=1, out=total[:, 1:])
    return total[:, ends]


@dataclass(frozen=True)
class ScoreIntervals(JsonRecord):
    """Intervals of the metrics of the curves over the score threshold.

    Attributes
    ----------
    average_precision, cpm : Interval
        Intervals of both metrics.
    froc : tuple of Interval
        Intervals of the recall at each of :data:`~detseg3d.evaluation.scores.froc.FROC_RATES`.
    """

    average_precision: Interval
    cpm: Interval
    froc: tuple[Interval, ...]


def score_intervals(
    cases: Sequence[ScoredCase],
    samples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> ScoreIntervals:
    """Return patient-level bootstrap intervals of average precision, CPM and the recalls of a FROC curve.

    Parameters
    ----------
    cases : sequence of ScoredCase
        Records of the cases.
    samples : int, optional
        Number of resamples; 0 gives no intervals (``None``).
    seed : int, optional
        Seed of the bootstrap.
    groups : sequence of str, optional
        Patient of each case. By default each case is a patient.
    level : float, optional
        Confidence level, 0 to 1.

    Returns
    -------
    ScoreIntervals
        In each interval, ``left_out`` is the number of resamples without a true lesion, and ``patients`` is the number
        of patients with lesions.

    Examples
    --------
    >>> case = ScoredCase("a", np.array([0.9]), np.array([0.9]), np.array([0.5]))
    >>> around = score_intervals([case, case]).average_precision
    >>> round(around.low, 3), around.high
    (0.158, 1.0)
    """
    weights = np.vstack([np.ones((1, len(cases))), bootstrap_weights(len(cases), samples, seed, groups)])
    drawn = weighted_scores(cases, weights)
    rests_on = contributions([len(case.truth_scores) for case in cases], groups)

    def around(values: FloatArray) -> Interval:
        return interval(values[1:], values[0], rests_on, Scale.SHARE, level)

    return ScoreIntervals(
        around(drawn.average_precision), around(drawn.cpm), tuple(around(recall) for recall in drawn.recall.T)
    )
