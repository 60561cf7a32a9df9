"""Objective of the choice of an operating point, and the pooled metrics that it judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.evaluation.cross_validation import PooledMetrics

__all__ = ["Objective", "mean_metrics", "pool_counts"]


@dataclass(frozen=True)
class Objective:
    """What the thresholds are chosen for. By default this is the highest F1.

    A lesion is found if it is matched one to one with an IoU of 0.1 or more. If any overlap counted, larger masks would
    find more lesions, however poor they are.

    Attributes
    ----------
    target_recall : float, optional
        Choose the highest precision with at least this recall.
    target_fp : float, optional
        Choose the highest recall with at most this number of false positives per scan.
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
        """Whether a recall or a number of false positives is requested."""
        return self.target_recall is not None or self.target_fp is not None

    def is_reached(self, metrics: PooledMetrics) -> bool:
        """Return whether the metrics reach the target. Without a target this is true."""
        if self.target_recall is not None:
            return metrics.recall_iou_0_1 >= self.target_recall
        if self.target_fp is not None:
            return metrics.fp_per_scan_iou_0_1 <= self.target_fp and metrics.recall_iou_0_1 > 0
        return True

    def value(self, metrics: PooledMetrics) -> float:
        """Return how good the metrics are; a larger value is better.

        If the target is not reached, the value is negative: minus the distance from the target.
        """
        recall = metrics.recall_iou_0_1
        if self.target_recall is not None:
            return metrics.precision_iou_0_1 if self.is_reached(metrics) else recall - self.target_recall
        if self.target_fp is not None:
            if recall == 0:
                return -math.inf  # a model that finds nothing has no false positives, but is useless
            return recall if self.is_reached(metrics) else self.target_fp - metrics.fp_per_scan_iou_0_1
        return metrics.f1_iou_0_1

    def rank(self, metrics: PooledMetrics) -> tuple[float, float, float]:
        """Return the value, then the F1 at IoU ≥ 0.1 and the Dice, which decide between equal values."""
        return self.value(metrics), metrics.f1_iou_0_1, metrics.dice


def pool_counts(counts: Sequence[CaseCounts]) -> PooledMetrics:
    """Return the metrics over the lesions of all cases, and the mean Dice of the cases.

    If there are neither true nor predicted lesions, recall, precision and F1 are 1. A rate with denominator 0 is 0
    otherwise. The evaluation has the same conventions.

    Examples
    --------
    >>> metrics = pool_counts([CaseCounts(4, 3, 4, 3, 2, 0.75)])
    >>> metrics.f1_any, metrics.f1_iou_0_1
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


def mean_metrics(first: PooledMetrics, second: PooledMetrics) -> PooledMetrics:
    """Return the mean of each metric of two sets of scans. Numbers of lesions are summed.

    Both sets count equally, even if one set has more scans.
    """
    values = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(first)}
    return PooledMetrics(**{name: a + b if isinstance(a, int) else (a + b) / 2 for name, (a, b) in values.items()})


def _rate(part: int, whole: int, other: int) -> float:
    """Return ``part / whole``. If ``whole`` is 0, return 1 if ``other`` is 0 as well, and 0 otherwise."""
    return part / whole if whole else float(not other)
