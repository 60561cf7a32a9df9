"""How strict the suppression may be: as strict as the true boxes of the training allow.

Suppression takes boxes that are close for duplicates of one lesion. The true boxes of some data sets are as close:
those of neighbouring vertebrae overlap by a third. These must survive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detseg3d.core.arrays import IntArray
from detseg3d.core.nms import PairSimilarity, similar_pairs
from detseg3d.planning.recall_bound import CaseLesions, fine_boxes

__all__ = ["DISTANCES", "OVERLAPS", "Suppression", "choose_suppression"]


# Strictest first. No network tells boxes apart that are still closer than the last ones.
DISTANCES: Final = (0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1)
OVERLAPS: Final = (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75)
# Share of the true lesions that each of the two criteria may take for duplicates.
_LOST: Final = 0.001
_MANY: Final = 500


@dataclass(frozen=True)
class Suppression:
    """The two criteria of :func:`detseg3d.core.nms.suppress`, and what they do to the true boxes.

    Attributes
    ----------
    distance, iou : float
    lesions : int
        True lesions of the training.
    lost, lost_by_default : int
        So many of them would be suppressed by these values, and by the strictest.
    """

    distance: float
    iou: float
    lesions: int
    lost: int
    lost_by_default: int


@dataclass(frozen=True)
class _CasePairs:
    """The pairs of lesions of a case that the strictest values take for duplicates."""

    first: IntArray
    second: IntArray
    similarity: PairSimilarity

    def lost(self, distance: float, iou: float) -> int:
        """Lesions that go if those numbered lower are kept."""
        alike = (self.similarity.distance < distance) | (self.similarity.iou > iou)
        gone: set[int] = set()
        for first, second in zip(self.first[alike].tolist(), self.second[alike].tolist(), strict=True):
            if first not in gone:
                gone.add(second)
        return len(gone)


def choose_suppression(cases: Sequence[CaseLesions], fine_spacing: Sequence[float]) -> Suppression:
    """The strictest suppression under which the true boxes survive, but for one lesion in a thousand per criterion.

    Boxes that no suppression could leave apart, since they are the same, have no say.

    Parameters
    ----------
    cases : sequence of CaseLesions
    fine_spacing : 3 floats
        Edges ``(z, y, x)`` of a voxel of the fine grid in mm: the thinnest box spans a voxel.

    Examples
    --------
    Eight vertebrae, 24 mm apart, whose boxes are 48 mm high, have an IoU of 1/3 and lie half a box apart:

    >>> centers = np.array([[24.0 + 24 * index, 30, 30] for index in range(8)])
    >>> case = CaseLesions((250, 60, 60), centers, np.full((8, 3), 48.0), np.zeros(8, int), np.full(8, 9))
    >>> choose_suppression([case], (1, 1, 1))
    Suppression(distance=0.5, iou=0.35, lesions=8, lost=0, lost_by_default=4)
    """
    pairs = [_pairs_of(case, fine_spacing) for case in cases]
    lesions = sum(len(case) for case in cases)
    # A single pair of many lesions is chance.
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
