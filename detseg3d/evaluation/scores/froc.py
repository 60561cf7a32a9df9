"""Curves over the score threshold: FROC, precision and recall, and the numbers read off them.

One record per case says at which score each true lesion is first found and what score each true and each false
prediction has. From this every threshold follows, whatever the criterion was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.matching import OverlapTable

__all__ = [
    "FROC_RATES",
    "FrocCurve",
    "ScoredCase",
    "add_scored",
    "average_precision",
    "cpm",
    "froc_curve",
    "match_scored",
    "precision_recall_curve",
    "recall_at_rates",
    "score_summary",
    "scored_case",
]


FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which LUNA16 reads the recall."""

_CURVE_POINTS = 200


@dataclass(frozen=True)
class ScoredCase:
    """What the scores of one case's predictions are worth.

    Attributes
    ----------
    case_id : str
    truth_scores : ndarray of float64, shape ``(T,)``
        For each true lesion the highest score at which it is found; ``-inf`` if it never is.
    true_positive_scores, false_positive_scores : ndarray of float64
        Scores of the predicted lesions.
    """

    case_id: str
    truth_scores: FloatArray
    true_positive_scores: FloatArray
    false_positive_scores: FloatArray


def scored_case(case_id: str, table: OverlapTable, scores: npt.ArrayLike, minimum_iou: float | None) -> ScoredCase:
    """The record of one case from its overlaps.

    Parameters
    ----------
    case_id : str
    table : OverlapTable
        Pairs of equal class only.
    scores : array_like of float, shape ``(P,)``
        Of the predicted lesions, in the table's order.
    minimum_iou : float or None
        ``None``: any overlap; a prediction may find several lesions and a lesion be found by several predictions.
        A number: in descending order of score each prediction takes, of the true lesions still free, the one of
        highest IoU, at least this (as COCO does; of equal scores the pair of higher IoU comes first).

    Examples
    --------
    >>> from detseg3d.evaluation.matching import overlap_table
    >>> truth, prediction = np.zeros((2, 1, 1, 8), np.int32)
    >>> truth[0, 0, 0:2], prediction[0, 0, 1:3], prediction[0, 0, 6] = 1, 1, 2
    >>> case = scored_case("a", overlap_table(truth, prediction), [0.9, 0.4], None)
    >>> case.truth_scores.tolist(), case.false_positive_scores.tolist()
    ([0.9], [0.4])
    """
    values = np.asarray(scores, np.float64)
    if minimum_iou is None:
        found = np.full(len(table.truth), -np.inf)
        np.maximum.at(found, table.truth_index, values[table.prediction_index])
        hit = np.zeros(len(table.prediction), np.bool_)
        hit[table.prediction_index] = True
        return ScoredCase(case_id, found, values[hit], values[~hit])
    pairs = np.flatnonzero(table.iou >= minimum_iou)
    return match_scored(
        case_id,
        values,
        len(table.truth),
        table.truth_index[pairs],
        table.prediction_index[pairs],
        table.iou[pairs],
    )


def match_scored(
    case_id: str,
    scores: FloatArray,
    truths: int,
    truth_index: npt.NDArray[np.int64],
    prediction_index: npt.NDArray[np.int64],
    quality: FloatArray,
) -> ScoredCase:
    """Predictions in descending order of score take the best free lesion among their pairs."""
    found = np.full(truths, -np.inf)
    hit = np.zeros(len(scores), np.bool_)
    # Scores that saturate tie often: then the best overlap goes first, not the lowest number.
    order = np.lexsort((truth_index, prediction_index, -quality, -scores[prediction_index]))
    for pair in order.tolist():
        truth, prediction = int(truth_index[pair]), int(prediction_index[pair])
        if not hit[prediction] and found[truth] == -np.inf:
            found[truth] = scores[prediction]
            hit[prediction] = True
    return ScoredCase(case_id, found, scores[hit], scores[~hit])


def add_scored(parts: Sequence[ScoredCase]) -> ScoredCase:
    """Several classes of one case as one record; classes have been matched apart."""
    return ScoredCase(
        parts[0].case_id if parts else "",
        *(
            np.concatenate([np.zeros(0), *(getattr(part, name) for part in parts)])
            for name in ("truth_scores", "true_positive_scores", "false_positive_scores")
        ),
    )


@dataclass(frozen=True)
class FrocCurve:
    """Recall against false positives per scan; one point per distinct score, highest threshold first.

    Attributes
    ----------
    thresholds, false_positives_per_scan, recall : ndarray of float64, shape ``(N,)``
        All predictions with a score of at least the threshold count. Without any prediction the arrays are empty.
    empty_recall : float
        Recall of no prediction at all: 0, or 1 if there is no true lesion either.
    """

    thresholds: FloatArray
    false_positives_per_scan: FloatArray
    recall: FloatArray
    empty_recall: float


def froc_curve(cases: Sequence[ScoredCase]) -> FrocCurve:
    """Free-response ROC, pooled over all lesions of all cases.

    Bunch et al. (1977), "A free-response approach to the measurement and characterization of radiographic-observer
    performance", SPIE 127. Predictions of equal score come and go together. Lesion-free cases count as scans.

    Parameters
    ----------
    cases : sequence of ScoredCase
        At least one.
    """
    if not cases:
        raise ValueError("a FROC curve needs at least one case")
    truth, hits, misses = _pool(cases)
    thresholds = np.unique(np.concatenate([hits, misses]))[::-1]
    recall = _at_least(truth, thresholds) / len(truth) if len(truth) else np.ones(len(thresholds))
    return FrocCurve(thresholds, _at_least(misses, thresholds) / len(cases), recall, float(len(truth) == 0))


def _pool(cases: Sequence[ScoredCase]) -> tuple[FloatArray, FloatArray, FloatArray]:
    pooled = add_scored(cases)
    return pooled.truth_scores, pooled.true_positive_scores, pooled.false_positive_scores


def _at_least(scores: FloatArray, thresholds: FloatArray) -> FloatArray:
    """How many scores reach each threshold."""
    ascending = np.sort(scores)
    return (len(scores) - np.searchsorted(ascending, thresholds, side="left")).astype(np.float64)


def recall_at_rates(curve: FrocCurve, rates: Sequence[float] = FROC_RATES) -> list[dict[str, float | None]]:
    """The highest recall with no more than each number of false positives per scan, and the threshold that gives it.

    The curve is a step function and is not interpolated. Where it ends before a rate is reached, its last point holds:
    a detector with few false positives is not punished for having no more.

    Returns
    -------
    list of dict
        ``fp_per_scan``, ``recall``, and ``threshold``, ``None`` where no threshold gives so few false positives.
    """
    rows: list[dict[str, float | None]] = []
    for rate in rates:
        allowed = np.flatnonzero(curve.false_positives_per_scan <= rate + 1e-12)
        if len(allowed) == 0:
            rows.append({"fp_per_scan": float(rate), "recall": curve.empty_recall, "threshold": None})
            continue
        last = int(allowed[-1])
        # The highest threshold among those of equal recall: no false positive more than needed.
        first = int(np.searchsorted(curve.recall, curve.recall[last]))
        rows.append(
            {
                "fp_per_scan": float(rate),
                "recall": float(curve.recall[last]),
                "threshold": float(curve.thresholds[first]),
            }
        )
    return rows


def cpm(curve: FrocCurve) -> float:
    """Competition performance metric: mean recall at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per scan.

    Setio et al. (2017), "Validation, comparison, and combination of algorithms for automatic detection of pulmonary
    nodules in computed tomography images: the LUNA16 challenge", Medical Image Analysis 42.
    """
    return float(np.mean([row["recall"] for row in recall_at_rates(curve)]))


def precision_recall_curve(cases: Sequence[ScoredCase]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Recall, precision and threshold, one point per distinct score, highest threshold first.

    Returns
    -------
    recall, precision, thresholds : ndarray of float64, shape ``(N,)``
        Recall over true lesions, precision over predictions.
    """
    truth, hits, misses = _pool(cases)
    thresholds = np.unique(np.concatenate([hits, misses]))[::-1]
    positives = _at_least(hits, thresholds)
    precision = positives / (positives + _at_least(misses, thresholds))
    recall = _at_least(truth, thresholds) / len(truth) if len(truth) else np.ones(len(thresholds))
    return recall, precision, thresholds


def average_precision(cases: Sequence[ScoredCase]) -> float:
    """Area under the precision–recall curve, with precision made non-increasing; every point counts.

    Everingham et al. (2010), "The PASCAL Visual Object Classes Challenge", IJCV 88, as revised that year: all points
    instead of eleven (or COCO's 101). 1.0 if there is neither a true lesion nor a prediction, 0.0 if only predictions.

    Examples
    --------
    >>> case = ScoredCase("a", np.array([0.9, 0.2]), np.array([0.9, 0.2]), np.array([0.5]))
    >>> round(average_precision([case]), 4)
    0.8333
    """
    truth, _, misses = _pool(cases)
    if len(truth) == 0:
        return 0.0 if len(misses) else 1.0
    _, precision, thresholds = precision_recall_curve(cases)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Whole lesions are added up, not shares, so that a perfect detector has 1.0 and not 0.9999999999999999.
    return float(np.sum(np.diff(_at_least(truth, thresholds), prepend=0.0) * envelope) / len(truth))


def score_summary(scored: Mapping[str, Mapping[str, Sequence[ScoredCase]]]) -> dict[str, Any]:
    """FROC, CPM and AP for every criterion, ready for JSON.

    Parameters
    ----------
    scored : dict
        Class name, or ``all`` for all classes added up, to criterion to the records of all cases.

    Returns
    -------
    dict
        Per criterion: ``average_precision``, ``cpm``, ``froc`` (recall and threshold at the rates of
        :data:`FROC_RATES`), ``froc_curve`` and ``pr_curve`` (thinned to 200 points), ``classes`` (the first two for
        each class) and ``map``, the mean average precision of the classes that occur in the truth; ``None`` if none
        does. A class without any true lesion says nothing about recall and is not averaged in.
    """
    result = {}
    for criterion, cases in scored["all"].items():
        curve = froc_curve(cases)
        recall, precision, thresholds = precision_recall_curve(cases)
        classes = {name: of_class[criterion] for name, of_class in scored.items() if name != "all"}
        of_truth = [
            average_precision(parts) for parts in classes.values() if any(len(part.truth_scores) for part in parts)
        ]
        kept = _thin(len(curve.thresholds))
        result[criterion] = {
            "average_precision": average_precision(cases),
            "cpm": cpm(curve),
            "map": float(np.mean(of_truth)) if of_truth else None,
            "classes": {
                name: {"average_precision": average_precision(parts), "cpm": cpm(froc_curve(parts))}
                for name, parts in classes.items()
            },
            "froc": recall_at_rates(curve),
            "froc_curve": {
                "fp_per_scan": curve.false_positives_per_scan[kept].tolist(),
                "recall": curve.recall[kept].tolist(),
                "threshold": curve.thresholds[kept].tolist(),
            },
            "pr_curve": {
                "recall": recall[kept].tolist(),
                "precision": precision[kept].tolist(),
                "threshold": thresholds[kept].tolist(),
            },
        }
    return result


def _thin(count: int) -> npt.NDArray[np.int64]:
    """At most 200 of ``count`` points, both ends among them."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, _CURVE_POINTS)).round().astype(np.int64))
