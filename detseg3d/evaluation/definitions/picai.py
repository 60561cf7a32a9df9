"""Metrics of the PI-CAI challenge, as in its package picai_eval 1.4.13.

Saha et al. (2022), https://github.com/DIAGNijmegen/picai_eval, ``eval.py`` and ``metrics.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.matching import OverlapTable, match_by_sum
from detseg3d.system.json_records import JsonRecord

__all__ = ["PicaiCase", "picai_case", "picai_scores"]


MINIMUM_IOU = 0.1
_PER_MATCH = 1.0


@dataclass(frozen=True)
class PicaiCase(JsonRecord):
    """One class of one case. The default is a case without lesions on either side.

    Attributes
    ----------
    lesions : int
        Number of true lesions.
    true_positives, false_positives : tuple of float
        Scores of the counted predictions. A prediction without a match does not count if its IoU with a lesion is 0.1
        or more.
    highest : float
        Score of the case: the highest score of its predictions; 0 without predictions.
    """

    lesions: int = 0
    true_positives: tuple[float, ...] = ()
    false_positives: tuple[float, ...] = ()
    highest: float = 0.0


@dataclass(frozen=True)
class PicaiScores:
    """Metrics of a set of cases.

    Attributes
    ----------
    average_precision : float or None
        Area under the step-shaped precision–recall curve of the lesions; ``None`` without a true lesion.
    auroc : float or None
        Area under the ROC curve of the scores of the cases, for cases with lesions against cases without lesions;
        ``None`` if there is only one kind of case.
    """

    average_precision: float | None
    auroc: float | None

    @property
    def ranking(self) -> float | None:
        """Mean of both metrics. The challenge ranks systems by this mean."""
        if self.average_precision is None or self.auroc is None:
            return None
        return (self.average_precision + self.auroc) / 2


def picai_case(table: OverlapTable, scores: FloatArray | None) -> PicaiCase:
    """Match predictions and lesions of one class.

    A match has an IoU of 0.1 or more. The matching has the highest sum of 1 + IoU.

    Parameters
    ----------
    table : OverlapTable
        Lesions of the class and their overlaps.
    scores : ndarray of float64, shape ``(P,)``, or None
        Scores of the predicted lesions. ``None`` means that all scores are 1, as in picai_eval for a mask.
    """
    values = np.ones(len(table.prediction)) if scores is None else scores
    matched = np.zeros(len(table.prediction), np.bool_)
    matched[match_by_sum(table, table.iou, MINIMUM_IOU, _PER_MATCH).prediction_index] = True
    near = np.zeros(len(table.prediction), np.bool_)
    near[table.prediction_index[table.iou >= MINIMUM_IOU]] = True
    return PicaiCase(
        len(table.truth),
        tuple(values[matched].tolist()),
        tuple(values[~matched & ~near].tolist()),
        float(values.max(initial=0.0)),
    )


def picai_scores(cases: Sequence[PicaiCase]) -> PicaiScores:
    """Return the average precision of the lesions and the AUROC of the cases.

    Examples
    --------
    >>> scores = picai_scores([PicaiCase(2, (0.9,), (), 0.9), PicaiCase(0, (), (0.3,), 0.3)])
    >>> scores.average_precision, scores.auroc, scores.ranking
    (0.5, 1.0, 0.75)
    """
    highest = np.array([case.highest for case in cases])
    positive = np.array([case.lesions > 0 for case in cases], np.bool_)
    auroc = None
    if positive.any() and not positive.all():
        difference = highest[positive][:, None] - highest[~positive][None]
        auroc = float(np.mean((difference > 0) + 0.5 * (difference == 0)))
    return PicaiScores(_average_precision(cases), auroc)


def _average_precision(cases: Sequence[PicaiCase]) -> float | None:
    lesions = sum(case.lesions for case in cases)
    if lesions == 0:
        return None
    hits, misses = (
        np.array([score for case in cases for score in getattr(case, name)], np.float64)
        for name in ("true_positives", "false_positives")
    )
    thresholds = np.unique(np.concatenate([hits, misses]))[::-1]
    thresholds = thresholds[thresholds > 0]  # a prediction with score 0 does not count
    found, false = (np.array([np.count_nonzero(part >= value) for value in thresholds]) for part in (hits, misses))
    if len(thresholds) == 0:
        return 0.0
    precision = found / (found + false)
    return float(np.sum(np.diff(found / lesions, prepend=0.0) * precision))
