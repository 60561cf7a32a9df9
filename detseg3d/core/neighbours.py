"""Search for boxes that overlap or touch, without comparing all pairs of boxes.

A sorted sweep along one axis (Cohen et al. 1995, "I-COLLIDE") compares a box only with the boxes that begin before it
ends. The memory does not grow with the number of all pairs.
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


# Number of pairs that are kept before they are merged.
_MAX_PAIRS = 2**17


def neighbour_groups(boxes: npt.ArrayLike) -> list[IntArray]:
    """Return groups of boxes that are connected through neighbours.

    Two boxes are neighbours if they share a voxel, or if voxels of both share a face, an edge or a corner. A voxel that
    is partly inside a box belongs to the box.

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
        # Skip pairs within a group, so that N overlapping boxes give far fewer than N² pairs.
        others = others[label[others] != label[index]]
        pairs.append(np.stack([np.full(len(others), index), others]))
        held += len(others)
        if held > _MAX_PAIRS:
            label = _merge_labels(label, pairs)
            pairs, held = [], 0
    return _by_label(_merge_labels(label, pairs))


def neighbour_matrix(boxes: npt.ArrayLike, owners: IntArray, count: int) -> csr_array:
    """Return the pairs of owners with neighbouring boxes (see :func:`neighbour_groups`).

    Parameters
    ----------
    boxes : array-like, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    owners : ndarray of int64, shape ``(N,)``
        Owner of each box, from 0.
    count : int
        Number of owners, including owners without a box.

    Returns
    -------
    csr_array of bool, shape ``(count, count)``
        Symmetric. Every owner is a neighbour of itself.

    Examples
    --------
    >>> boxes = [[0, 0, 0, 2, 2, 2], [8, 8, 8, 9, 9, 9], [2, 2, 2, 3, 3, 3]]
    >>> neighbour_matrix(boxes, np.array([0, 0, 1]), 3).toarray().tolist()
    [[True, True, False], [True, True, False], [False, False, True]]
    """
    known = np.arange(count) * (count + 1)  # pairs of each owner with itself; the pair (a, b) is coded as a · count + b
    fresh: list[IntArray] = []
    held = 0
    named = np.zeros(count, np.bool_)
    for index, others in _sweep(as_boxes(boxes)):
        named[:] = False
        named[owners[others]] = True  # removes duplicates, because an owner may have many boxes
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
    """Split some of ``N`` objects into connected groups; the objects of a group keep their order.

    Parameters
    ----------
    indices : ndarray of int64, shape ``(M,)``
    near : csr_array of bool, shape ``(N, N)``
        Direct connections between all objects; symmetric.

    Returns
    -------
    list of ndarray of int64

    Examples
    --------
    >>> near = csr_array(([True, True], ([0, 3], [3, 0])), shape=(4, 4))
    >>> [part.tolist() for part in split_groups(np.array([3, 1, 0]), near)]
    [[3, 0], [1]]
    """
    # The index arrays are read directly: to index a sparse array takes a millisecond, even for a few objects.
    starts, counts = near.indptr[indices], np.diff(near.indptr)[indices]
    entries = np.arange(counts.sum()) + np.repeat(starts - np.cumsum(counts) + counts, counts)
    place = np.full(near.shape[0], -1)
    place[indices] = np.arange(len(indices))
    rows, columns = np.repeat(place[indices], counts), place[near.indices[entries]]
    is_pair = columns > rows  # each pair once; objects outside have the place -1
    if not is_pair.any():
        return [indices[index : index + 1] for index in range(len(indices))]
    label = _merge_labels(np.arange(len(indices)), [np.stack([rows[is_pair], columns[is_pair]])])
    return [indices[places] for places in _by_label(label)]


def _sweep(array: npt.NDArray[np.floating]) -> Iterator[tuple[int, IntArray]]:
    """Yield the index of a box and the indices of its neighbours; every pair of neighbours occurs once."""
    low, high = np.floor(array[:, :3]), np.ceil(array[:, 3:])
    # Sweep along the axis with the fewest overlaps, which needs the fewest comparisons.
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
    """Give one label to all boxes that are connected by pairs."""
    if not pairs:
        return label
    first, second = label[np.concatenate(pairs, axis=1)]
    graph = coo_array((np.ones(len(first), np.bool_), (first, second)), shape=(len(label), len(label)))
    merged: IntArray = connected_components(graph, directed=False)[1].astype(np.int64)[label]
    return merged


def _by_label(label: npt.NDArray[np.integer]) -> list[IntArray]:
    """Return the indices of each label, ascending; labels are in the order of their first index."""
    if len(label) == 0:
        return []
    order = np.argsort(label, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.diff(label[order])) + 1
    return sorted(np.split(order, starts), key=lambda places: int(places[0]))
