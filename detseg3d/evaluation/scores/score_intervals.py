"""Bootstrap intervals of what is read off FROC and precision–recall curves, for any number of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.evaluation.scores.bootstrap import Scale, bootstrap_weights, contributions, interval
from detseg3d.evaluation.scores.froc import FROC_RATES, ScoredCase

__all__ = ["score_intervals", "weighted_scores"]


_PARTS = ("truth_scores", "true_positive_scores", "false_positive_scores")
_NUMBERS_AT_ONCE = 2_000_000


def weighted_scores(cases: Sequence[ScoredCase], weights: FloatArray) -> dict[str, FloatArray]:
    """Average precision, CPM and recall at each of :data:`~detseg3d.evaluation.scores.froc.FROC_RATES`, under weights.

    With whole weights the figures are those that :mod:`detseg3d.evaluation.scores.froc` gives for the cases repeated
    so often.
    Memory does not grow with predictions times resamples.

    Parameters
    ----------
    cases : sequence of ScoredCase
    weights : ndarray of float64, shape ``(S, N)``
        How often each case counts.

    Returns
    -------
    dict of str to ndarray of float64
        ``average_precision`` and ``cpm``, shape ``(S,)``; ``recall``, shape ``(S, 7)``. NaN where no true lesion was
        drawn.
    """
    lengths = [[len(getattr(case, name)) for case in cases] for name in _PARTS]
    scores = [np.concatenate([np.zeros(0), *(getattr(case, name) for case in cases)]) for name in _PARTS]
    owners = [np.repeat(np.arange(len(cases)), length) for length in lengths]
    thresholds = np.unique(np.concatenate(scores[1:]))[::-1]
    orders = [np.argsort(-part, kind="stable") for part in scores]
    # How many of each kind reach each threshold, highest threshold first: where to read the sums of their weights.
    reached = [
        np.searchsorted(-part[order], -thresholds, side="right") for part, order in zip(scores, orders, strict=True)
    ]
    members = [owner[order] for owner, order in zip(owners, orders, strict=True)]
    truths = weights @ np.asarray(lengths[0], np.float64)
    precision_area = np.zeros(len(weights))
    recall_at = np.zeros((len(weights), len(FROC_RATES)))
    step = max(1, _NUMBERS_AT_ONCE // max(len(thresholds), *(len(part) for part in scores), 1))
    for start in range(0, len(weights) if len(thresholds) else 0, step):
        rows = slice(start, start + step)
        found, hits, misses = (_sums(weights[rows], owner, ends) for owner, ends in zip(members, reached, strict=True))
        recall = found / np.maximum(truths[rows], 1e-300)[:, None]
        precision = hits / np.maximum(hits + misses, 1e-300)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        precision_area[rows] = np.sum(np.diff(recall, prepend=0.0, axis=1) * envelope, axis=1)
        per_scan = misses / np.maximum(weights[rows].sum(axis=1), 1e-300)[:, None]
        for place, rate in enumerate(FROC_RATES):
            # Both only grow along the curve, so the last point within the rate has the highest recall.
            allowed = np.count_nonzero(per_scan <= rate + 1e-12, axis=1)
            last = np.take_along_axis(recall, np.maximum(allowed - 1, 0)[:, None], axis=1)[:, 0]
            recall_at[rows, place] = np.where(allowed > 0, last, 0.0)
    undefined = truths <= 0
    precision_area[undefined], recall_at[undefined] = np.nan, np.nan
    return {"average_precision": precision_area, "cpm": recall_at.mean(axis=1), "recall": recall_at}


def _sums(weights: FloatArray, owner: IntArray, ends: IntArray) -> FloatArray:
    """Sum of the weights of the first ``ends`` members, shape ``(S, len(ends))``."""
    total = np.zeros((len(weights), len(owner) + 1))
    np.cumsum(weights[:, owner], axis=1, out=total[:, 1:])
    return total[:, ends]


def score_intervals(
    cases: Sequence[ScoredCase],
    samples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Patient-level bootstrap intervals of average precision, CPM and the recalls of a FROC curve.

    Parameters
    ----------
    cases : sequence of ScoredCase
    samples : int, optional
        Resamples; 0 gives no intervals (``None``).
    seed : int, optional
    groups : sequence of str, optional
        Patient of each case.
    level : float, optional

    Returns
    -------
    dict
        ``average_precision`` and ``cpm``: ``low``, ``high``, ``left_out`` (resamples without any true lesion) and
        ``patients`` (those with lesions), see :func:`~detseg3d.evaluation.scores.bootstrap.interval`; ``froc``: the
        same with
        ``fp_per_scan`` for each of :data:`~detseg3d.evaluation.scores.froc.FROC_RATES`.

    Examples
    --------
    >>> case = ScoredCase("a", np.array([0.9]), np.array([0.9]), np.array([0.5]))
    >>> ends = score_intervals([case, case])["average_precision"]
    >>> round(ends["low"], 3), ends["high"]
    (0.158, 1.0)
    """
    weights = np.vstack([np.ones((1, len(cases))), bootstrap_weights(len(cases), samples, seed, groups)])
    drawn = weighted_scores(cases, weights)
    rests_on = contributions([len(case.truth_scores) for case in cases], groups)

    def ends(values: FloatArray) -> dict[str, float | None]:
        return interval(values[1:], values[0], rests_on, Scale.SHARE, level).to_dict()

    return {
        "average_precision": ends(drawn["average_precision"]),
        "cpm": ends(drawn["cpm"]),
        "froc": [{"fp_per_scan": rate, **ends(drawn["recall"][:, place])} for place, rate in enumerate(FROC_RATES)],
    }
