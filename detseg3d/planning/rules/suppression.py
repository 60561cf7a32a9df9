"""Choose how strict the suppression is: as strict as the true boxes of the training lesions allow.

Suppression takes close boxes for duplicates of one lesion. In some data sets, true boxes are close, too: boxes of
neighbouring vertebrae overlap by a third. The suppression must not remove them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detseg3d.core.arrays import IntArray
from detseg3d.core.nms import PairSimilarity, similar_pairs
from detseg3d.planning.recall_bound import CaseLesions, fine_boxes

__all__ = ["DISTANCES", "OVERLAPS", "Suppression", "choose_suppression"]


# Strictest first. No network can distinguish boxes that are closer than the last values.
DISTANCES: Final = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)
OVERLAPS: Final = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
# Fraction of the true lesions that each of the two criteria may take for duplicates.
_LOST: Final = 0.001
_MANY: Final = 500


@dataclass(frozen=True)
class Suppression:
    """The two criteria of :func:`detseg3d.core.nms.suppress`, and the number of true boxes that they remove.

    Attributes
    ----------
    distance, iou : float
        Two boxes count as duplicates if their distance in box sizes is below the first, or their IoU above the second.
    lesions : int
        Number of training lesions.
    lost, lost_by_default : int
        Number of these lesions that the chosen values suppress, and number that the strictest values would suppress.
    """

    distance: float
    iou: float
    lesions: int
    lost: int
    lost_by_default: int


@dataclass(frozen=True)
class _CasePairs:
    """The pairs of lesions of a case that the strictest criteria take for duplicates."""

    first: IntArray
    second: IntArray
    similarity: PairSimilarity

    def lost(self, distance: float, iou: float) -> int:
        """Count the lesions that are suppressed if the first lesion of each pair is kept."""
        similar = (self.similarity.distance < distance) | (self.similarity.iou > iou)
        suppressed: set[int] = set()
        for first, second in zip(self.first[similar].tolist(), self.second[similar].tolist(), strict=True):
            if first not in suppressed:
                suppressed.add(second)
        return len(suppressed)


def choose_suppression(cases: Sequence[CaseLesions], fine_spacing: Sequence[float]) -> Suppression:
    """Choose the strictest suppression under which the true boxes survive.

    Each of the two criteria may remove one lesion in a thousand. Equal boxes, which every suppression takes for
    duplicates, do not count against this limit.

    Parameters
    ----------
    cases : sequence of CaseLesions
    fine_spacing : 3 floats
        Edges ``(z, y, x)`` of a fine voxel in mm. The thinnest box spans one voxel.

    Returns
    -------
    Suppression

    Examples
    --------
    Eight vertebrae lie 24 mm apart and have boxes 48 mm high. Neighbours have an IoU of 1/3 and lie half a box apart:

    >>> import numpy as np
    >>> centers = np.array([[24.0 + 24 * index, 30, 30] for index in range(8)])
    >>> case = CaseLesions((250, 60, 60), centers, np.full((8, 3), 48.0), np.zeros(8, int), np.full(8, 9))
    >>> choose_suppression([case], (1, 1, 1))
    Suppression(distance=0.5, iou=0.35, lesions=8, lost=0, lost_by_default=4)
    """
    pairs = [_pairs_of(case, fine_spacing) for case in cases]
    lesions = sum(len(case) for case in cases)
    # In many lesions, a single pair may be chance.
    allowed = max(_LOST * lesions, float(lesions >= _MANY))

    def lost(distance: float, iou: float) -> int:
        return sum(case.lost(distance, iou) for case in pairs)

    unavoidable = lost(DISTANCES[-1], OVERLAPS[-1])
    iou = next(value for value in OVERLAPS if lost(DISTANCES[-1], value) <= unavoidable + allowed)
    by_overlap = lost(DISTANCES[-1], iou)
    distance = next(value for value in DISTANCES if lost(value, iou) <= by_overlap + allowed)
    return Suppression(distance, iou, lesions, lost(distance, iou), lost(DISTANCES[0], OVERLAPS[0]))


def _pairs_of(case: CaseLesions, fine_spacing: Sequence[float]) -> _CasePairs:
    boxes, _ = fine_boxes(case, fine_spacing)
    return _CasePairs(*similar_pairs(boxes, case.classes, distance=DISTANCES[0], iou=OVERLAPS[0]))
