"""What an operating point is chosen for, and the pooled figures by which it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.consolidation.outcomes import CaseCounts

__all__ = ["Objective", "pooled"]


@dataclass(frozen=True)
class Objective:
    """What the operating point is chosen for: the highest F1, unless a recall or a number of false positives is given.

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
            return f"highest precision at a lesion recall of {self.target_recall:g} or more"
        if self.target_fp is not None:
            return f"highest lesion recall at {self.target_fp:g} false positives per scan or fewer"
        return "highest lesion F1"

    def reached(self, figures: Mapping[str, float]) -> bool:
        """Whether the pooled ``figures`` meet the target; the highest F1 is always met."""
        if self.target_recall is not None:
            return figures["recall"] >= self.target_recall
        if self.target_fp is not None:
            return figures["fp_per_scan"] <= self.target_fp and figures["recall"] > 0
        return True

    def value(self, figures: Mapping[str, float]) -> float:
        """How good the pooled ``figures`` are: comparable numbers; below 0, the nearer the better, off the target."""
        if self.target_recall is not None:
            return figures["precision"] if self.reached(figures) else figures["recall"] - self.target_recall
        if self.target_fp is not None:
            if figures["recall"] == 0:
                return -math.inf  # nothing found has no false positives, but it is not what was asked for
            return figures["recall"] if self.reached(figures) else self.target_fp - figures["fp_per_scan"]
        return figures["f1"]

    def rank(self, figures: Mapping[str, float]) -> tuple[float, float, float]:
        """The value; among equals the F1, then the Dice."""
        return self.value(figures), figures["f1"], figures["dice"]


def pooled(counts: Sequence[CaseCounts]) -> dict[str, float]:
    """F1, recall, precision and counts over the lesions of all cases, F1 at IoU ≥ 0.1, false positives per scan, Dice.

    Examples
    --------
    >>> pooled([CaseCounts(4, 3, 4, 3, 2, 0.75)])["f1"]
    0.75
    """
    truth, found = sum(c.truth for c in counts), sum(c.found for c in counts)
    predictions, hits = sum(c.predictions for c in counts), sum(c.true_positives for c in counts)
    recall = found / truth if truth else float(not predictions)
    precision = hits / predictions if predictions else float(not truth)
    return {
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "f1_iou_0.1": 2 * sum(c.outlined for c in counts) / (truth + predictions) if truth + predictions else 1.0,
        "recall": recall,
        "precision": precision,
        "fp_per_scan": (predictions - hits) / len(counts) if counts else 0.0,
        "dice": float(np.mean([c.dice for c in counts])) if counts else 0.0,
        "found": found,
        "predictions": predictions,
    }
