"""Non-maximum suppression of 3D boxes: by centre distance, then by intersection over union.

Overlap alone cannot merge duplicates of a tiny lesion: two boxes of 3 voxels shifted by 2 voxels along each axis have
an IoU of 0.02. The distance between the centres, measured in box sizes, can.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, box_volumes

__all__ = ["suppress"]


def suppress(
    boxes: npt.ArrayLike,
    scores: npt.ArrayLike,
    classes: npt.ArrayLike,
    *,
    distance: float,
    iou: float,
    most: int | None = None,
) -> npt.NDArray[np.int64]:
    """Greedy suppression within each class: the best box stays, its duplicates go, and so on.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        In voxel edges.
    scores : array_like, shape ``(N,)``
    classes : array_like of int, shape ``(N,)``
        Boxes of different classes never suppress each other.
    distance : float
        A box goes if its centre is closer than this to a better one's. Each axis is measured in units of the mean
        size of the two boxes along it; 0 switches the criterion off.
    iou : float
        A box goes if its intersection over union with a better one exceeds this.
    most : int, optional
        So many stay at most, the best ones.

    Returns
    -------
    ndarray of int64
        Indices of the boxes that stay, best score first; equal scores keep their order.

    Examples
    --------
    >>> boxes = [[0, 0, 0, 3, 3, 3], [1, 0, 0, 4, 3, 3], [9, 9, 9, 12, 12, 12]]
    >>> suppress(boxes, [0.8, 0.9, 0.5], [0, 0, 0], distance=0.5, iou=0.3).tolist()
    [1, 2]
    """
    array = as_boxes(boxes).astype(np.float64)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    labels = np.asarray(classes)
    centers, sizes, volumes = box_centers(array), box_sizes(array), box_volumes(array)
    alive = np.ones(len(array), bool)
    kept: list[int] = []
    for index in order:
        if most is not None and len(kept) >= most:
            break
        if not alive[index]:
            continue
        kept.append(int(index))
        rivals = np.flatnonzero(alive & (labels == labels[index]))
        rivals = rivals[rivals != index]
        if len(rivals):
            close = _normalized_distance(centers, sizes, index, rivals) < distance
            overlapping = _iou(array, volumes, index, rivals) > iou
            alive[rivals[close | overlapping]] = False
        alive[index] = False
    return np.asarray(kept, np.int64)


def _normalized_distance(
    centers: npt.NDArray[np.floating[Any]],
    sizes: npt.NDArray[np.floating[Any]],
    index: int,
    rivals: npt.NDArray[np.int64],
) -> npt.NDArray[np.floating[Any]]:
    unit = np.maximum((sizes[rivals] + sizes[index]) / 2, 1e-6)
    distances: npt.NDArray[np.floating[Any]] = np.sqrt((((centers[rivals] - centers[index]) / unit) ** 2).sum(axis=1))
    return distances


def _iou(
    boxes: npt.NDArray[np.floating[Any]],
    volumes: npt.NDArray[np.floating[Any]],
    index: int,
    rivals: npt.NDArray[np.int64],
) -> npt.NDArray[np.floating[Any]]:
    low = np.maximum(boxes[rivals, :3], boxes[index, :3])
    high = np.minimum(boxes[rivals, 3:], boxes[index, 3:])
    inter = np.clip(high - low, 0, None).prod(axis=1)
    union = volumes[rivals] + volumes[index] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
