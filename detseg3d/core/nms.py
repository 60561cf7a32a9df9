"""Non-maximum suppression of 3D boxes: by the distance of the centres and by intersection over union.

Overlap alone cannot merge duplicates of a tiny lesion: two boxes of 3 voxels that are shifted by 2 voxels along each
axis have an IoU of 0.02. The distance between their centres, measured in box sizes, shows that they are duplicates.

The distance compares boxes of like size only. A box of 3 voxels inside a box of 40 voxels is another lesion, even at
the same centre: two boxes that differ in volume by a factor of 8 have an IoU of at most 1/8.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from detseg3d.core.arrays import AnyFloatArray, IntArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, box_volumes

__all__ = ["PairSimilarity", "Suppression", "similar_pairs", "suppress"]


LIKE_VOLUMES: Final = 8.0
"""Two boxes are duplicates by distance only if their volumes differ by less than this factor."""

_MIN_SIZE = 1e-6  # voxels; gives an empty box a unit of distance
# Number of pairs of boxes that are compared together. They need a few hundred megabytes at most.
_PAIRS_AT_ONCE = 4_000_000
_MAX_BLOCK = 1024
_FIRST_BLOCK = 16
# A spatial index is faster from about this many boxes on.
_MIN_BOXES_FOR_INDEX = 256


class PairSimilarity(NamedTuple):
    """Similarity of pairs of boxes.

    Attributes
    ----------
    distance : ndarray of float64, shape ``(P,)``
        Distance between the centres. Each axis is measured in units of the mean size of the two boxes along that axis.
        The distance is infinite if the volumes differ by a factor of :data:`LIKE_VOLUMES` or more.
    iou : ndarray of float64, shape ``(P,)``
    """

    distance: AnyFloatArray
    iou: AnyFloatArray


@dataclass(frozen=True)
class Suppression:
    """Criteria by which duplicate boxes of a lesion are dropped.

    Parameters
    ----------
    distance : float
        A box is dropped if the distance between its centre and the centre of a better box of like size (see
        :data:`LIKE_VOLUMES`) is below this value. Each axis is measured in units of the mean size of the two boxes
        along that axis. 0 switches this criterion off.
    iou : float
        A box is dropped if its intersection over union with a better box exceeds this value.
    limit : int or None
        Largest number of boxes that are kept, best first. ``None`` sets no limit.
    """

    distance: float
    iou: float
    limit: int | None = None


def suppress(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: npt.ArrayLike,
    suppression: Suppression,
) -> IntArray:
    """Drop duplicates within each class: keep the best box, drop its duplicates, then go on with the next best box.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    scores : array_like, shape ``(N,)``
    classes : array_like of int, shape ``(N,)``
        Boxes of different classes never suppress each other.
    suppression : Suppression

    Returns
    -------
    ndarray of int64
        Indices of the boxes that are kept, best score first. Equal scores keep their order.

    Examples
    --------
    >>> boxes = [[0, 0, 0, 3, 3, 3], [1, 0, 0, 4, 3, 3], [9, 9, 9, 12, 12, 12]]
    >>> suppress(boxes, [0.8, 0.9, 0.5], [0, 0, 0], Suppression(distance=0.5, iou=0.3)).tolist()
    [1, 2]

    A small box in the middle of a large box is another lesion:

    >>> boxes = [[0, 0, 0, 40, 40, 40], [18, 18, 18, 22, 22, 22]]
    >>> suppress(boxes, [0.9, 0.8], [0, 0], Suppression(distance=0.5, iou=0.3)).tolist()
    [0, 1]
    """
    distance, iou, limit = suppression.distance, suppression.iou, suppression.limit
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    ranked = _Boxes.of(as_boxes(boxes)[order], np.asarray(classes)[order])
    alive = np.ones(len(order), np.bool_)
    kept: list[int] = []
    start, length = 0, _FIRST_BLOCK
    index = _Index(ranked, np.arange(len(order)), distance)
    while start < len(order) and (limit is None or len(kept) < limit):
        # Suppressed boxes slow down the search, so rebuild the index without them.
        if len(index) >= 2 * max(int(alive[start:].sum()), 1):
            index = _Index(ranked, start + np.flatnonzero(alive[start:]), distance)
        end = min(start + min(length, index.block), len(order))
        block = start + np.flatnonzero(alive[start:end])
        first, second = _duplicates(ranked, *index.near(block), distance, iou)
        begin, stop = np.searchsorted(first, block, "left"), np.searchsorted(first, block, "right")
        for rank, a, b in zip(block.tolist(), begin.tolist(), stop.tolist(), strict=True):
            if alive[rank]:
                kept.append(rank)
                alive[second[a:b]] = False
        # The best boxes may suppress most others. Short blocks at first avoid comparisons of suppressed boxes.
        start, length = end, 2 * length
    return order[np.asarray(kept[:limit], np.int64)]


def similar_pairs(
    boxes: npt.ArrayLike, classes: npt.ArrayLike, *, distance: float, iou: float
) -> tuple[IntArray, IntArray, PairSimilarity]:
    """Return all pairs of boxes of the same class in which one box could suppress the other.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
    classes : array_like of int, shape ``(N,)``
    distance, iou : float
        As in :class:`Suppression`.

    Returns
    -------
    first, second : ndarray of int64, shape ``(P,)``
        Indices of the two boxes, ``first < second``; ascending.
    similarity : PairSimilarity

    Examples
    --------
    >>> boxes = [[0, 0, 0, 4, 4, 4], [1, 0, 0, 5, 4, 4], [9, 9, 9, 12, 12, 12]]
    >>> first, second, similarity = similar_pairs(boxes, [0, 0, 0], distance=0.5, iou=0.3)
    >>> first.tolist(), second.tolist(), similarity.distance.tolist(), similarity.iou.tolist()
    ([0], [1], [0.25], [0.6])
    """
    ranked = _Boxes.of(as_boxes(boxes), np.asarray(classes))
    index = _Index(ranked, np.arange(len(ranked)), distance)
    found = [
        _duplicates(ranked, *index.near(np.arange(start, min(start + index.block, len(ranked)))), distance, iou)
        for start in range(0, len(ranked), index.block)
    ]
    first = np.concatenate([np.zeros(0, np.int64), *(pair[0] for pair in found)])
    second = np.concatenate([np.zeros(0, np.int64), *(pair[1] for pair in found)])
    return first, second, _similarity(ranked, first, second)


@dataclass(frozen=True)
class _Boxes:
    """Boxes with the derived arrays that the comparison needs, in the same order."""

    boxes: AnyFloatArray
    centers: AnyFloatArray
    sizes: AnyFloatArray
    volumes: AnyFloatArray
    solid: AnyFloatArray  # volumes, above 0 even for empty boxes
    classes: npt.NDArray[Any]

    @classmethod
    def of(cls, boxes: AnyFloatArray, classes: npt.NDArray[Any]) -> _Boxes:
        array = boxes.astype(np.float64)
        sizes = box_sizes(array)
        solid = np.maximum(sizes, _MIN_SIZE).prod(axis=1)
        return cls(array, box_centers(array), sizes, box_volumes(array), solid, classes)

    def __len__(self) -> int:
        return len(self.boxes)


class _Index:
    """Spatial index that finds boxes near enough to be duplicates, with one tree for each octave of box sizes.

    With a single tree, one large box would widen the search around every small box.
    """

    def __init__(self, ranked: _Boxes, members: IntArray, distance: float) -> None:
        self._ranked, self._members = ranked, members
        self._factor = max(distance, 1.0)
        self.block = int(np.clip(_PAIRS_AT_ONCE // max(len(members), 1), 16, _MAX_BLOCK))
        self._longest = ranked.sizes.max(axis=1, initial=_MIN_SIZE)
        self._octave = np.ceil(np.log2(self._longest)).astype(np.int64)
        self._trees: list[tuple[float, IntArray, cKDTree]] = []
        if len(members) >= _MIN_BOXES_FOR_INDEX:
            for octave in np.unique(self._octave[members]):
                own = members[self._octave[members] == octave]
                self._trees.append((float(2.0**octave), own, cKDTree(ranked.centers[own])))

    def __len__(self) -> int:
        return len(self._members)

    def near(self, block: IntArray) -> tuple[IntArray, IntArray]:
        """Return candidate pairs of a box in ``block`` and a later member, ordered by the first box."""
        if not self._trees:
            first, second = np.meshgrid(block, self._members, indexing="ij")
            pairs = [(first.ravel(), second.ravel())]
        else:
            pairs = list(self._near_by_octave(block))
        first = np.concatenate([np.zeros(0, np.int64), *(pair[0] for pair in pairs)])
        second = np.concatenate([np.zeros(0, np.int64), *(pair[1] for pair in pairs)])
        later = second > first
        first, second = first[later], second[later]
        order = np.lexsort((second, first))
        return first[order], second[order]

    def _near_by_octave(self, block: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        for octave in np.unique(self._octave[block]):
            own = block[self._octave[block] == octave]
            tree = cKDTree(self._ranked.centers[own])
            for upper, members, other in self._trees:
                # Two boxes can overlap, or lie within ``distance`` mean sizes, only if their centres differ by at most
                # ``reach`` along each axis.
                reach = self._factor * (2.0**octave + upper) / 2 * (1 + 1e-9)
                found = tree.sparse_distance_matrix(other, reach, p=np.inf, output_type="ndarray")
                yield own[found["i"]], members[found["j"]]


def _duplicates(
    ranked: _Boxes, first: IntArray, second: IntArray, distance: float, iou: float
) -> tuple[IntArray, IntArray]:
    """Return the pairs in which one box suppresses the other."""
    same = ranked.classes[first] == ranked.classes[second]
    first, second = first[same], second[same]
    similarity = _similarity(ranked, first, second)
    is_duplicate = (similarity.distance < distance) | (similarity.iou > iou)
    return first[is_duplicate], second[is_duplicate]


def _similarity(ranked: _Boxes, first: IntArray, second: IntArray) -> PairSimilarity:
    sizes, volumes, solid = ranked.sizes, ranked.volumes, ranked.solid
    unit = np.maximum((sizes[first] + sizes[second]) / 2, _MIN_SIZE)
    distance = np.sqrt((((ranked.centers[first] - ranked.centers[second]) / unit) ** 2).sum(axis=1))
    smaller, larger = np.minimum(solid[first], solid[second]), np.maximum(solid[first], solid[second])
    distance = np.where(larger < LIKE_VOLUMES * smaller, distance, np.inf)
    low = np.maximum(ranked.boxes[first, :3], ranked.boxes[second, :3])
    high = np.minimum(ranked.boxes[first, 3:], ranked.boxes[second, 3:])
    inter = np.clip(high - low, 0, None).prod(axis=1)
    union = volumes[first] + volumes[second] - inter
    return PairSimilarity(distance, np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))
