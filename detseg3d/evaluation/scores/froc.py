"""Compute FROC and precision–recall curves over the score threshold, and the metrics of these curves.

One record per case states the score at which each true lesion is first found, and the score of each true positive and
of each false positive. The counts at any threshold are computed from these records, for every criterion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.matching import OverlapTable
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "FROC_RATES",
    "ClassScores",
    "FrocCurve",
    "FrocCurvePoints",
    "FrocPoint",
    "ScoreSummary",
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
"""False positives per scan at which the challenge LUNA16 reads the recall."""

_MAX_CURVE_POINTS = 200


@dataclass(frozen=True)
class ScoredCase(JsonRecord):
    """Scores of the found lesions and of the predictions of one case, under one criterion.

    Attributes
    ----------
    case_id : str
        Name of the case.
    truth_scores : ndarray of float64, shape ``(T,)``
        Highest score threshold at which each true lesion is found; ``-inf`` if the lesion is never found.
    true_positive_scores, false_positive_scores : ndarray of float64
        Scores of the predicted lesions of each kind.
    """

    case_id: str
    truth_scores: FloatArray
    true_positive_scores: FloatArray
    false_positive_scores: FloatArray

    @classmethod
    def empty(cls, case_id: str) -> ScoredCase:
        """Return the record of a case without true and predicted lesions."""
        return cls(case_id, np.zeros(0), np.zeros(0), np.zeros(0))


def scored_case(case_id: str, table: OverlapTable, scores: npt.ArrayLike, minimum_iou: float | None) -> ScoredCase:
    """Return the record of one case from its overlaps.

    Parameters
    ----------
    case_id : str
        Name of the case.
    table : OverlapTable
        Overlaps; only pairs of equal class.
    scores : array_like of float, shape ``(P,)``
        Scores of the predicted lesions, in the order of the table.
    minimum_iou : float or None
        ``None`` means any overlap. A prediction may find several lesions, and several predictions may find one lesion.

        A number is the minimum IoU of one-to-one matches, as in COCO. In descending order of score, each prediction
        takes the true lesion with the highest IoU that is not yet taken. If scores are equal, the pair with the higher
        IoU comes first.

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
    num_truths: int,
    truth_index: IntArray,
    prediction_index: IntArray,
    quality: FloatArray,
) -> ScoredCase:
    """Match predictions and true lesions greedily, one-to-one, in descending order of score.

    Parameters
    ----------
    case_id : str
        Name of the case.
    scores : ndarray of float64, shape ``(P,)``
        Score of each prediction.
    num_truths : int
        Number of true lesions.
    truth_index, prediction_index : ndarray of int64, shape ``(K,)``
        The pairs that may match.
    quality : ndarray of float64, shape ``(K,)``
        Quality of each pair; higher is better. Each prediction takes the best lesion that is not yet taken.
    """
    found = np.full(num_truths, -np.inf)
    hit = np.zeros(len(scores), np.bool_)
    # Saturated scores are often equal. In this case, the pair with the best overlap comes first.
    order = np.lexsort((truth_index, prediction_index, -quality, -scores[prediction_index]))
    for pair in order.tolist():
        truth, prediction = int(truth_index[pair]), int(prediction_index[pair])
        if not hit[prediction] and found[truth] == -np.inf:
            found[truth] = scores[prediction]
            hit[prediction] = True
    return ScoredCase(case_id, found, scores[hit], scores[~hit])


def add_scored(parts: Sequence[ScoredCase]) -> ScoredCase:
    """Concatenate records, for example the records of the classes of one case."""
    return ScoredCase(
        parts[0].case_id if parts else "",
        *(
            np.concatenate([np.zeros(0), *(getattr(part, name) for part in parts)])
            for name in ("truth_scores", "true_positive_scores", "false_positive_scores")
        ),
    )


@dataclass(frozen=True)
class FrocPoint(JsonRecord):
    """The recall at a number of false positives per scan.

    Attributes
    ----------
    fp_per_scan : float
        Highest allowed number of false positives per scan.
    recall : float
        Highest recall at this number of false positives per scan or fewer.
    threshold : float or None
        Score threshold with this recall; ``None`` if every threshold gives more false positives.
    """

    fp_per_scan: float
    recall: float
    threshold: float | None


@dataclass(frozen=True)
class FrocCurve:
    """Recall against false positives per scan, one point per distinct score, highest threshold first.

    Attributes
    ----------
    thresholds, false_positives_per_scan, recall : ndarray of float64, shape ``(N,)``
        Each point counts all predictions with a score of at least the threshold. Without predictions the arrays are
        empty.
    empty_recall : float
        Recall of an empty prediction: 0, or 1 if there is no true lesion.
    """

    thresholds: FloatArray
    false_positives_per_scan: FloatArray
    recall: FloatArray
    empty_recall: float


def froc_curve(cases: Sequence[ScoredCase]) -> FrocCurve:
    """Return the free-response ROC curve, pooled over the lesions of all cases.

    Predictions of equal score enter at the same point of the curve. Cases without lesions count as scans.

    Parameters
    ----------
    cases : sequence of ScoredCase
        At least one.

    Raises
    ------
    ValueError
        If there is no case.

    References
    ----------
    Bunch et al. (1977), "A free-response approach to the measurement and characterization of radiographic-observer
    performance", SPIE 127.
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
    """Return the number of scores at or above each threshold."""
    ascending = np.sort(scores)
    return (len(scores) - np.searchsorted(ascending, thresholds, side="left")).astype(np.float64)


def recall_at_rates(curve: FrocCurve, rates: Sequence[float] = FROC_RATES) -> tuple[FrocPoint, ...]:
    """Return the highest recall with at most each number of false positives per scan.

    The curve is a step function and is not interpolated. If the curve ends below a rate, the recall
    at this rate is the recall of the last point, so that a detector with few false positives is not penalised.

    Parameters
    ----------
    curve : FrocCurve
        Curve from :func:`froc_curve`.
    rates : sequence of float, optional
        False positives per scan.

    Returns
    -------
    tuple of FrocPoint
        One point per rate.
    """
    points = []
    for rate in rates:
        allowed = np.flatnonzero(curve.false_positives_per_scan <= rate + 1e-12)
        if len(allowed) == 0:
            points.append(FrocPoint(float(rate), curve.empty_recall, None))
            continue
        last = int(allowed[-1])
        # The highest threshold with this recall has the fewest false positives.
        first = int(np.searchsorted(curve.recall, curve.recall[last]))
        points.append(FrocPoint(float(rate), float(curve.recall[last]), float(curve.thresholds[first])))
    return tuple(points)


def cpm(curve: FrocCurve) -> float:
    """Return the competition performance metric: the mean recall at :data:`FROC_RATES`.

    References
    ----------
    Setio et al. (2017), "Validation, comparison, and combination of algorithms for automatic detection of pulmonary
    nodules in computed tomography images: the LUNA16 challenge", Medical Image Analysis 42.
    """
    return float(np.mean([point.recall for point in recall_at_rates(curve)]))


def precision_recall_curve(cases: Sequence[ScoredCase]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return recall, precision and threshold, one point per distinct score, highest threshold first.

    Returns
    -------
    recall, precision, thresholds : ndarray of float64, shape ``(N,)``
        Recall is counted over true lesions, precision over predictions.
    """
    truth, hits, misses = _pool(cases)
    thresholds = np.unique(np.concatenate([hits, misses]))[::-1]
    positives = _at_least(hits, thresholds)
    precision = positives / (positives + _at_least(misses, thresholds))
    recall = _at_least(truth, thresholds) / len(truth) if len(truth) else np.ones(len(thresholds))
    return recall, precision, thresholds


def average_precision(cases: Sequence[ScoredCase]) -> float:
    """Return the area under the precision–recall curve.

    The precision is first made non-increasing, and every point of the curve counts. The value is 1.0 if there is
    neither a true lesion nor a prediction, and 0.0 if there are only predictions.

    References
    ----------
    Everingham et al. (2010), "The PASCAL Visual Object Classes Challenge", IJCV 88, in the version of
    2010, which uses all points of the curve instead of eleven points (COCO uses 101 points).

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
    # The sum is over numbers of lesions instead of shares, so that a perfect detector gets exactly 1.0.
    return float(np.sum(np.diff(_at_least(truth, thresholds), prepend=0.0) * envelope) / len(truth))


@dataclass(frozen=True)
class FrocCurvePoints(JsonRecord):
    """Points of a FROC curve for drawing, highest threshold first; at most 200."""

    fp_per_scan: tuple[float, ...]
    recall: tuple[float, ...]
    threshold: tuple[float, ...]


@dataclass(frozen=True)
class PrecisionRecallPoints(JsonRecord):
    """Points of a precision–recall curve for drawing, highest threshold first; at most 200."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    threshold: tuple[float, ...]


@dataclass(frozen=True)
class ClassScores(JsonRecord):
    """Average precision and CPM of one class."""

    average_precision: float
    cpm: float


@dataclass(frozen=True)
class ScoreSummary(JsonRecord):
    """Metrics and curves over the score threshold, under one criterion.

    Attributes
    ----------
    average_precision, cpm : float
        Metrics of all classes together.
    mean_average_precision : float or None
        Mean over the classes that occur in the truth; ``None`` if the truth has no lesion. A class without true lesions
        is left out, because its recall is undefined.
    classes : dict of str to ClassScores
        Metrics of each class, by the name of the class.
    froc : tuple of FrocPoint
        Recall and threshold at :data:`FROC_RATES`.
    froc_curve : FrocCurvePoints
        Points of the FROC curve.
    pr_curve : PrecisionRecallPoints
        Points of the precision–recall curve.
    """

    average_precision: float
    cpm: float
    mean_average_precision: float | None
    classes: Mapping[str, ClassScores]
    froc: tuple[FrocPoint, ...]
    froc_curve: FrocCurvePoints
    pr_curve: PrecisionRecallPoints


def score_summary(scored: ByClass[Sequence[ScoredCase]]) -> ScoreSummary:
    """Return FROC, CPM and average precision under one criterion.

    Parameters
    ----------
    scored : ByClass of sequence of ScoredCase
        The records of all cases, for all classes together and for each class.
    """
    cases = scored.overall
    curve = froc_curve(cases)
    recall, precision, thresholds = precision_recall_curve(cases)
    of_class = {name: average_precision(parts) for name, parts in scored.classes.items()}
    of_truth = [of_class[name] for name, parts in scored.classes.items() if any(len(p.truth_scores) for p in parts)]
    kept = _thin(len(curve.thresholds))
    return ScoreSummary(
        average_precision=average_precision(cases),
        cpm=cpm(curve),
        mean_average_precision=float(np.mean(of_truth)) if of_truth else None,
        classes={name: ClassScores(of_class[name], cpm(froc_curve(parts))) for name, parts in scored.classes.items()},
        froc=recall_at_rates(curve),
        froc_curve=FrocCurvePoints(
            tuple(curve.false_positives_per_scan[kept].tolist()),
            tuple(curve.recall[kept].tolist()),
            tuple(curve.thresholds[kept].tolist()),
        ),
        pr_curve=PrecisionRecallPoints(
            tuple(recall[kept].tolist()), tuple(precision[kept].tolist()), tuple(thresholds[kept].tolist())
        ),
    )


def _thin(count: int) -> IntArray:
    """Return at most 200 of ``count`` indices, evenly spread, with both ends."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, _MAX_CURVE_POINTS)).round().astype(np.int64))
