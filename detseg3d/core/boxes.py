"""Axis-aligned 3D boxes: ``z0 y0 x0 z1 y1 x1``, half-open, in voxel edges.

Voxel ``i`` covers ``[i, i + 1)``, so a one-voxel lesion has size 1 and the centre of voxel ``i`` lies at ``i + 0.5``.
Every function takes and returns arrays of shape ``(N, 6)`` (or ``(N, 3)`` for centres and sizes) and keeps the dtype of
floating-point input; integers become float32. :mod:`detseg3d.core.geometry` converts to world coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyFloatArray

__all__ = [
    "as_boxes",
    "box_centers",
    "box_sizes",
    "box_slices",
    "box_volumes",
    "boxes_from_centers_and_sizes",
    "boxes_from_instances",
    "clip_boxes",
    "intersection_volumes",
    "iou_matrix",
    "scale_boxes",
    "translate_boxes",
]


def as_boxes(boxes: npt.ArrayLike) -> AnyFloatArray:
    """Return boxes as a float array of shape ``(N, 6)``; an empty sequence becomes ``(0, 6)``.

    Raises
    ------
    ValueError
        If the shape is not ``(N, 6)`` or a box ends before it begins.

    Examples
    --------
    >>> as_boxes([[0, 0, 0, 1, 2, 3]]).shape
    (1, 6)
    >>> as_boxes([]).shape
    (0, 6)
    """
    array = np.asarray(boxes)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
    if array.size == 0:
        return array.reshape(0, 6)
    if array.ndim != 2 or array.shape[1] != 6:
        raise ValueError(f"boxes must have shape (N, 6), found {array.shape}")
    if np.any(array[:, 3:] < array[:, :3]):
        raise ValueError("a box ends before it begins: z1 y1 x1 must not be less than z0 y0 x0")
    return array


def box_centers(boxes: npt.ArrayLike) -> AnyFloatArray:
    """Return the centres ``(N, 3)`` of boxes ``(N, 6)``, in voxel edges.

    Examples
    --------
    >>> box_centers([[0, 0, 0, 1, 2, 3]]).tolist()
    [[0.5, 1.0, 1.5]]
    """
    array = as_boxes(boxes)
    return (array[:, :3] + array[:, 3:]) / 2


def box_sizes(boxes: npt.ArrayLike) -> AnyFloatArray:
    """Return the edge lengths ``(N, 3)`` of boxes ``(N, 6)``, in voxels.

    Examples
    --------
    >>> box_sizes([[0, 0, 0, 1, 2, 3]]).tolist()
    [[1.0, 2.0, 3.0]]
    """
    array = as_boxes(boxes)
    return array[:, 3:] - array[:, :3]


def box_slices(box: Sequence[float] | npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """Return the slices ``(z, y, x)`` that cut a box out of a volume.

    Parameters
    ----------
    box : 6 numbers
        One box ``z0 y0 x0 z1 y1 x1``. The edges must be whole numbers of voxels.

    Examples
    --------
    >>> box_slices((0, 1, 2, 3, 4, 5))
    (slice(0, 3, None), slice(1, 4, None), slice(2, 5, None))
    """
    z0, y0, x0, z1, y1, x1 = (int(edge) for edge in box)
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)


def box_volumes(boxes: npt.ArrayLike) -> AnyFloatArray:
    """Return the volumes ``(N,)`` of boxes ``(N, 6)``, in voxels.

    Examples
    --------
    >>> box_volumes([[0, 0, 0, 1, 2, 3]]).tolist()
    [6.0]
    """
    volumes: AnyFloatArray = box_sizes(boxes).prod(axis=1)
    return volumes


def boxes_from_centers_and_sizes(centers: npt.ArrayLike, sizes: npt.ArrayLike) -> AnyFloatArray:
    """Return boxes from their centres and edge lengths, both ``(N, 3)``.

    Examples
    --------
    >>> boxes_from_centers_and_sizes([[0.5, 1.0, 1.5]], [[1.0, 2.0, 3.0]]).tolist()
    [[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]
    """
    middle, half = np.asarray(centers).reshape(-1, 3), np.asarray(sizes).reshape(-1, 3) / 2
    return as_boxes(np.concatenate([middle - half, middle + half], axis=1))


def boxes_from_instances(instances: npt.NDArray[np.integer[Any]]) -> tuple[npt.NDArray[np.int64], AnyFloatArray]:
    """Return the tight box of every lesion of an instance map.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        0 is background; every other value is one lesion. The values need not be consecutive.

    Returns
    -------
    ids : ndarray of int64, shape ``(N,)``
        Numbers of the lesions, ascending.
    boxes : ndarray of float32, shape ``(N, 6)``
        Half-open boxes in voxel edges: a lesion of one voxel has size 1.

    Raises
    ------
    ValueError
        If ``instances`` does not have three axes.

    Examples
    --------
    >>> instances = np.zeros((4, 4, 4), np.uint16)
    >>> instances[1, 2, 3] = 7
    >>> ids, boxes = boxes_from_instances(instances)
    >>> ids.tolist(), boxes.tolist()
    ([7], [[1.0, 2.0, 3.0, 2.0, 3.0, 4.0]])
    """
    if instances.ndim != 3:
        raise ValueError(f"instances must have shape (Z, Y, X), found {instances.shape}")
    where = np.nonzero(instances)
    if len(where[0]) == 0:
        return np.zeros(0, np.int64), np.zeros((0, 6), np.float32)
    # Only the foreground voxels are visited, so sparse maps of large volumes are fast.
    ids, inverse = np.unique(instances[where], return_inverse=True)
    boxes = np.empty((len(ids), 6), np.float32)
    for axis, index in enumerate(where):
        low = np.full(len(ids), np.iinfo(np.int64).max)
        high = np.full(len(ids), -1)
        np.minimum.at(low, inverse, index)
        np.maximum.at(high, inverse, index)
        boxes[:, axis], boxes[:, axis + 3] = low, high + 1
    return ids.astype(np.int64), boxes


def scale_boxes(boxes: npt.ArrayLike, factors: npt.ArrayLike) -> AnyFloatArray:
    """Return boxes in the voxel edges of another grid with the same first corner.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
    factors : array_like, shape ``(3,)``
        Old spacing divided by new spacing, ``(z, y, x)``.

    Examples
    --------
    >>> scale_boxes([[1, 1, 1, 2, 2, 2]], (2, 1, 0.5)).tolist()
    [[2.0, 1.0, 0.5, 4.0, 2.0, 1.0]]
    """
    array = as_boxes(boxes)
    return (array * np.tile(np.asarray(factors, dtype=array.dtype), 2)).astype(array.dtype)


def translate_boxes(boxes: npt.ArrayLike, offset: npt.ArrayLike) -> AnyFloatArray:
    """Return boxes moved by ``offset`` voxels ``(z, y, x)``.

    Examples
    --------
    >>> translate_boxes([[0, 0, 0, 1, 1, 1]], (5, 0, -1)).tolist()
    [[5.0, 0.0, -1.0, 6.0, 1.0, 0.0]]
    """
    array = as_boxes(boxes)
    return array + np.tile(np.asarray(offset, dtype=array.dtype), 2)


def clip_boxes(boxes: npt.ArrayLike, shape: npt.ArrayLike) -> AnyFloatArray:
    """Return boxes cut to a volume. A box outside the volume gets size 0 at the border.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
    shape : array_like, shape ``(3,)``
        Voxels ``(z, y, x)`` of the volume.

    Examples
    --------
    >>> clip_boxes([[-1, 0, 0, 2, 9, 1]], (4, 4, 4)).tolist()
    [[0.0, 0.0, 0.0, 2.0, 4.0, 1.0]]
    """
    array = as_boxes(boxes)
    limit = np.tile(np.asarray(shape, dtype=array.dtype), 2)
    clipped: AnyFloatArray = np.clip(array, 0, limit)
    return clipped


def intersection_volumes(first: npt.ArrayLike, second: npt.ArrayLike) -> AnyFloatArray:
    """Return the pairwise intersection volumes ``(N, M)`` of boxes ``(N, 6)`` and ``(M, 6)``, in voxels.

    Examples
    --------
    >>> intersection_volumes([[0, 0, 0, 2, 2, 2]], [[1, 1, 1, 3, 3, 3]]).tolist()
    [[1.0]]
    """
    a, b = as_boxes(first), as_boxes(second)
    low = np.maximum(a[:, None, :3], b[None, :, :3])
    high = np.minimum(a[:, None, 3:], b[None, :, 3:])
    volumes: AnyFloatArray = np.clip(high - low, 0, None).prod(axis=2)
    return volumes


def iou_matrix(first: npt.ArrayLike, second: npt.ArrayLike) -> AnyFloatArray:
    """Return the pairwise intersection over union ``(N, M)``; 0 for two empty boxes.

    Examples
    --------
    A cube of 3×3×3 voxels and its copy, moved by one voxel along all axes, share 8 of 46 voxels:

    >>> round(float(iou_matrix([[0, 0, 0, 3, 3, 3]], [[1, 1, 1, 4, 4, 4]])[0, 0]), 3)
    0.174
    """
    inter = intersection_volumes(first, second)
    union = box_volumes(first)[:, None] + box_volumes(second)[None, :] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
