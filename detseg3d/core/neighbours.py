"""Which boxes have voxels in common or side by side, found without comparing every box with every other one.

A sorted sweep (Cohen et al. 1995, "I-COLLIDE") along one axis compares a box only with those that begin before it ends.
Nothing here needs memory for all pairs of boxes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from detseg3d.core.arrays import IntArray
from detseg3d.core.boxes import as_boxes

__all__ = ["neighbour_groups", "neighbour_matrix", "split_groups"]


# Pairs that are held at a time.
_MAX_PAIRS = 2**17


def neighbour_groups(boxes: npt.ArrayLike) -> list[IntArray]:
    """Groups of boxes that hang together through neighbours.

    Two boxes are neighbours if their voxels have a face, an edge or a corner in common, or are the same. A voxel that a
    box reaches into counts as one of its own.

    Parameters
    ----------
    boxes : array-like, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.

    Returns
    -------
    list of ndarray of int64
        Indices of the boxes of each group, ascending; the groups are in the order of their first boxes.

    Examples
    --------
    >>> groups = neighbour_groups([[0, 0, 0, 2, 2, 2], [7, 7, 7, 9, 9, 9], [2, 2, 2, 3, 3, 3]])
    >>> [group.tolist() for group in groups]
    [[0, 2], [1]]
    """
    array = as_boxes(boxes)
    label = np.arange(len(array))
    pairs: list[IntArray] = []
    held = 0
    for index, others in _sweep(array):
        # A pair is skipped if both boxes are in one group already: a crowd of N boxes gives far fewer than N² pairs.
        others = others[label[others] != label[index]]
        pairs.append(np.stack([np.full(len(others), index), others]))
        held += len(others)
        if held > _MAX_PAIRS:
            label = _merge_labels(label, pairs)
            pairs, held = [], 0
    return _by_label(_merge_labels(label, pairs))


def neighbour_matrix(boxes: npt.ArrayLike, owners: IntArray, count: int) -> csr_array:
    """Which owners have boxes that are neighbours, in the sense of :func:`neighbour_groups`.

    Parameters
    ----------
    boxes : array-like, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    owners : ndarray of int64, shape ``(N,)``
        To whom each box belongs, from 0.
    count : int
        Owners, also those without a box.

    Returns
    -------
    csr_array of bool, shape ``(count, count)``
        Symmetric; every owner neighbours itself.

    Examples
    --------
    >>> boxes = [[0, 0, 0, 2, 2, 2], [8, 8, 8, 9, 9, 9], [2, 2, 2, 3, 3, 3]]
    >>> neighbour_matrix(boxes, np.array([0, 0, 1]), 3).toarray().tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """
    known = np.arange(count) * (count + 1)  # every owner and itself; a pair (a, b) has the number a · count + b
    fresh: list[IntArray] = []
    held = 0
    named = np.zeros(count, np.bool_)
    for index, others in _sweep(as_boxes(boxes)):
        named[:] = False
        named[owners[others]] = True  # many boxes may be of few owners
        fresh.append(owners[index] * count + np.flatnonzero(named))
        held += len(fresh[-1])
        if held > _MAX_PAIRS:
            known = np.unique(np.concatenate([known, *fresh]))
            fresh, held = [], 0
    first, second = np.divmod(np.unique(np.concatenate([known, *fresh])), max(count, 1))
    rows, columns = np.concatenate([first, second]), np.concatenate([second, first])
    pairs = coo_array((np.ones(len(rows), np.bool_), (rows, columns)), shape=(count, count))
    return csr_array(pairs)


def split_groups(indices: IntArray, near: csr_array) -> list[IntArray]:
    """Some of ``N`` things in groups that hang together; within a group they keep their order.

    Parameters
    ----------
    indices : ndarray of int64, shape ``(M,)``
    near : csr_array of bool, shape ``(N, N)``
        Which of all things belong together directly; symmetric.

    Returns
    -------
    list of ndarray of int64

    Examples
    --------
    >>> near = csr_array(([True, True], ([0, 3], [3, 0])), shape=(4, 4))
    >>> [part.tolist() for part in split_groups(np.array([3, 1, 0]), near)]
    [[3, 0], [1]]
    """
    if len(indices) == 0:
        return []
    _, label = connected_components(near[indices][:, indices], directed=False)
    return [indices[places] for places in _by_label(label)]


def _sweep(array: npt.NDArray[np.floating]) -> Iterator[tuple[int, IntArray]]:
    """Every box that has neighbours, with those of its neighbours that no earlier box of the sweep has named it for."""
    low, high = np.floor(array[:, :3]), np.ceil(array[:, 3:])
    # The axis along which the fewest boxes begin before another one ends.
    sorted_low = np.sort(low, axis=0)
    begun = [int(np.searchsorted(sorted_low[:, axis], high[:, axis], side="right").sum()) for axis in range(3)]
    axis = int(np.argmin(begun))
    order = np.argsort(low[:, axis], kind="stable")
    low, high = low[order], high[order]
    ends = np.searchsorted(low[:, axis], high[:, axis], side="right")
    others = [other for other in range(3) if other != axis]
    columns = [(np.ascontiguousarray(low[:, other]), np.ascontiguousarray(high[:, other])) for other in others]
    for place, end in enumerate(ends.tolist()):
        if end <= place + 1:
            continue
        near = np.ones(end - place - 1, np.bool_)
        for lows, highs in columns:
            near &= (lows[place + 1 : end] <= highs[place]) & (highs[place + 1 : end] >= lows[place])
        found = np.flatnonzero(near)
        if len(found):
            yield int(order[place]), order[place + 1 + found]


def _merge_labels(label: IntArray, pairs: list[IntArray]) -> IntArray:
    """One label for all that a pair connects."""
    if not pairs:
        return label
    first, second = label[np.concatenate(pairs, axis=1)]
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(len(label), len(label)))
    merged: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)[label]
    return merged


def _by_label(label: npt.NDArray[np.integer]) -> list[IntArray]:
    """Places of each label, ascending; labels in the order of their first places."""
    if len(label) == 0:
        return []
    order = np.argsort(label, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(label[order])) + 1
    return sorted(np.split(order, starts), key=lambda places: int(places[0]))
