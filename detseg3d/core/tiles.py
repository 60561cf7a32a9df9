"""RoIs around boxes: one RoI with context, or several overlapping RoIs (tiles) for a large box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyFloatArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, boxes_from_centers_and_sizes
from detseg3d.core.errors import DetSeg3DError

__all__ = ["rois_from_boxes", "tile_boxes"]


MAX_TILES = 200_000
"""Maximum number of RoIs of one volume. Stage 2 would need hours for more."""


def rois_from_boxes(boxes: npt.ArrayLike, margin: float, minimum_extent: Sequence[float]) -> AnyFloatArray:
    """Return one RoI per box: the box with a margin, and with a minimum extent.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        In voxel edges.
    margin : float
        Context on each side, as a fraction of the size of the box.
    minimum_extent : sequence of 3 floats
        Smallest extent ``(z, y, x)`` of an RoI in voxels. It gives small lesions enough context.

    Returns
    -------
    ndarray of float, shape ``(N, 6)``
        In voxel edges. RoIs may reach beyond the volume.

    Examples
    --------
    >>> rois_from_boxes([[4, 4, 0, 6, 6, 10]], 0.3, (8, 8, 8)).round(4).tolist()
    [[1.0, 1.0, -3.0, 9.0, 9.0, 13.0]]
    """
    array = as_boxes(boxes)
    extents = np.maximum(box_sizes(array) * (1 + 2 * margin), np.asarray(minimum_extent, dtype=array.dtype))
    return boxes_from_centers_and_sizes(box_centers(array), extents)


def tile_boxes(
    boxes: npt.ArrayLike, margin: float, minimum_extent: Sequence[float], size: Sequence[int], max_scale: float
) -> tuple[AnyFloatArray, npt.NDArray[np.int64]]:
    """Return RoIs of boxes; several overlapping RoIs cover a box that is too large for one RoI.

    An axis is divided until one sample of an RoI covers at most ``max_scale`` voxels. Neighbouring tiles overlap by a
    quarter of their extent, so a voxel near the edge of one tile lies well inside another tile.

    Parameters
    ----------
    boxes, margin, minimum_extent
        As in :func:`rois_from_boxes`.
    size : sequence of 3 ints
        Samples of an RoI, ``(z, y, x)``.
    max_scale : float
        Maximum number of voxels per sample along an axis.

    Returns
    -------
    rois : ndarray of float, shape ``(M, 6)``, ``M >= N``
    parents : ndarray of int64, shape ``(M,)``
        Index of the box of each RoI.

    Raises
    ------
    DetSeg3DError
        If more than :data:`MAX_TILES` RoIs are needed. So many RoIs would fill the memory.

    Examples
    --------
    >>> rois, parents = tile_boxes([[0, 0, 0, 10, 10, 100]], 0.0, (8, 8, 8), (32, 32, 32), 1.5)
    >>> len(rois), parents.tolist(), rois[:, 2].tolist(), rois[:, 5].tolist()
    (3, [0, 0, 0], [0.0, 30.0, 60.0], [40.0, 70.0, 100.0])
    """
    whole = rois_from_boxes(boxes, margin, minimum_extent)
    tiles: list[AnyFloatArray] = []
    parents: list[int] = []
    for index, roi in enumerate(whole):
        starts_and_ends = []
        counts = _tile_counts(roi, size, max_scale)
        if len(tiles) + math.prod(counts) > MAX_TILES:
            raise DetSeg3DError(
                "the boxes need too many RoIs",
                value=f"{len(tiles) + math.prod(counts)} for {index + 1} of {len(whole)} boxes",
                expected=f"at most {MAX_TILES}",
                remedy="raise the detection threshold, or roi.max_scale or roi.size in plans.json",
            )
        for axis, count in enumerate(counts):
            low, high = float(roi[axis]), float(roi[axis + 3])
            extent = (high - low) / (1 + 0.75 * (count - 1))
            starts_and_ends.append([(low + 0.75 * extent * k, low + extent * (0.75 * k + 1)) for k in range(count)])
        for axes in product(*starts_and_ends):
            tiles.append(np.array(axes, whole.dtype).T.ravel())
            parents.append(index)
    if not tiles:
        return whole, np.zeros(0, np.int64)
    return np.stack(tiles), np.asarray(parents, np.int64)


def _tile_counts(roi: AnyFloatArray, size: Sequence[int], max_scale: float) -> list[int]:
    """Return the number of tiles along each axis."""
    shares = [(float(roi[axis + 3]) - float(roi[axis])) / (size[axis] * max_scale) for axis in range(3)]
    return [1 if share <= 1 else math.ceil((share - 0.25) / 0.75) for share in shares]
