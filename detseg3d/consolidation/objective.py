"""What an operating point is chosen for, and the pooled figures by which it is chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.evaluation.cross_validation import PooledMetrics

__all__ = ["Objective", "pooled"]


@dataclass(frozen=True)
class Objective:
    """What the operating point is chosen for: the highest F1, unless a recall or a number of false positives is given.

    A lesion is found if it is matched one to one with an IoU of 0.1 or more. At any overlap, larger masks would find
    more lesions, however poor they are.

    Attributes
    ----------
    target_recall : float, optional
        The highest precision at this recall or more.
    target_fp : float, optional
        The highest recall at this number of false positives per scan or fewer.
    """

    target_recall: float | None = None
    target_fp: float | None = None

    def __post_init__(self) -> None:
        if self.target_recall is not None and self.target_fp is not None:
            raise ValueError("the target is either a recall or a number of false positives, not both")

    def __str__(self) -> str:
        if self.target_recall is not None:
            return f"highest precision at a lesion recall of {self.target_recall:g} or more (IoU ≥ 0.1)"
        if self.target_fp is not None:
            return f"highest lesion recall at {self.target_fp:g} false positives per scan or fewer (IoU ≥ 0.1)"
        return "highest lesion F1 (IoU ≥ 0.1)"

    @property
    def has_target(self) -> bool:
        """Whether the user asked for a recall or a number of false positives."""
        return self.target_recall is not None or self.target_fp is not None

    def reached(self, figures: PooledMetrics) -> bool:
        """Whether the pooled ``figures`` meet the target; the highest F1 is always met."""
        if self.target_recall is not None:
            return figures.recall_iou_0_1 >= self.target_recall
        if self.target_fp is not None:
            return figures.fp_per_scan_iou_0_1 <= self.target_fp and figures.recall_iou_0_1 > 0
        return True

    def value(self, figures: PooledMetrics) -> float:
        """How good the pooled ``figures`` are: comparable numbers; below 0, the nearer the better, off the target."""
        recall = figures.recall_iou_0_1
        if self.target_recall is not None:
            return figures.precision_iou_0_1 if self.reached(figures) else recall - self.target_recall
        if self.target_fp is not None:
            if recall == 0:
                return -math.inf  # nothing found has no false positives, but it is not what was asked for
            return recall if self.reached(figures) else self.target_fp - figures.fp_per_scan_iou_0_1
        return figures.f1_iou_0_1

    def rank(self, figures: PooledMetrics) -> tuple[float, float, float]:
        """The value; among equals the F1 at IoU ≥ 0.1, then the Dice."""
        return self.value(figures), figures.f1_iou_0_1, figures.dice


def pooled(counts: Sequence[CaseCounts]) -> PooledMetrics:
    """Figures over the lesions of all cases: pooled counts, and the mean Dice.

    Without any lesion on either side a rate is 1, and a rate over nothing is 0 otherwise, as in the evaluation.

    Examples
    --------
    >>> figures = pooled([CaseCounts(4, 3, 4, 3, 2, 0.75)])
    >>> figures.f1_any, figures.f1_iou_0_1
    (0.75, 0.5)
    """
    truth, found = sum(c.truth for c in counts), sum(c.found for c in counts)
    predictions, hits = sum(c.predictions for c in counts), sum(c.true_positives for c in counts)
    matched = sum(c.outlined for c in counts)
    recall, precision = _rate(found, truth, predictions), _rate(hits, predictions, truth)
    return PooledMetrics(
        f1_iou_0_1=2 * matched / (truth + predictions) if truth + predictions else 1.0,
        recall_iou_0_1=_rate(matched, truth, predictions),
        precision_iou_0_1=_rate(matched, predictions, truth),
        fp_per_scan_iou_0_1=(predictions - matched) / len(counts) if counts else 0.0,
        f1_any=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        recall_any=recall,
        precision_any=precision,
        fp_per_scan_any=(predictions - hits) / len(counts) if counts else 0.0,
        dice=float(np.mean([c.dice for c in counts])) if counts else 0.0,
        lesions=truth,
        found_iou_0_1=matched,
        found_any=found,
        predictions=predictions,
    )


def _rate(part: int, whole: int, other: int) -> float:
    return part / whole if whole else float(not other)
