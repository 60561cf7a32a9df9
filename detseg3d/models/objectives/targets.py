"""Targets of Stage 1: centre heatmaps and box regressions, from the boxes of the lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.arrays import AnyFloatArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, box_volumes, boxes_from_instances
from detseg3d.core.tensors import tensor_of
from detseg3d.planning.rules import heads

__all__ = ["LevelTargets", "VolumeTargets", "assign_levels", "level_targets", "volume_targets"]


# The Gaussian is cut off after 3 standard deviations. There its value is exp(-4.5) = 0.01. Cells farther away are
# background.
_REACH = 3.0


@dataclass(frozen=True)
class VolumeTargets:
    """The true lesions of one volume or window, on the fine grid.

    Attributes
    ----------
    instances : Tensor of int32, shape ``(Z, Y, X)``
    ids : ndarray of int64, shape ``(N,)``
        Labels that occur in ``instances``, ascending.
    boxes : ndarray of float32, shape ``(N, 6)``
        Boxes of the lesions, in voxel edges.
    classes : ndarray of int64, shape ``(N,)``
        Classes of the lesions, from 0.
    """

    instances: torch.Tensor
    ids: npt.NDArray[np.int64]
    boxes: AnyFloatArray
    classes: npt.NDArray[np.int64]


def volume_targets(instances: npt.NDArray[np.integer[Any]], class_of_id: npt.NDArray[np.int64]) -> VolumeTargets:
    """Derive the true lesions of a volume from its instance map.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
    class_of_id : ndarray of int64
        Class of each label of the case, indexed by label (entry 0 is unused).

    Returns
    -------
    VolumeTargets
    """
    ids, boxes = boxes_from_instances(instances)
    return VolumeTargets(tensor_of(instances, np.int32), ids, boxes, class_of_id[ids])


@dataclass(frozen=True)
class LevelTargets:
    """The targets of one head level for a batch.

    Attributes
    ----------
    heatmap : Tensor of float32, shape ``(B, K, z, y, x)``
        1 at the cell that holds a centre, less around it.
    cells : Tensor of int64, shape ``(P, 4)``
        Volume, z, y and x of every cell that learns a box.
    log_size, offset : Tensor of float32, shape ``(P, 3)``
        Logarithm of the box size, and offset of the box centre from the cell's centre, both in cells.
    box : Tensor of int64, shape ``(P,)``
        Index of the box that learns in its cell: the class if each class has its own box, else 0.
    """

    heatmap: torch.Tensor
    cells: torch.Tensor
    log_size: torch.Tensor
    offset: torch.Tensor
    box: torch.Tensor


def assign_levels(
    boxes: npt.ArrayLike, spacing: Sequence[float], level_max_sizes: Sequence[tuple[float, float, float]]
) -> npt.NDArray[np.int64]:
    """Return the level of each box: the finest level whose maximum size no edge of the box exceeds.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        In fine voxel edges.
    spacing : sequence of 3 floats
        Fine spacing ``(z, y, x)`` in mm.
    level_max_sizes : sequence of 3 floats each
        Maximum edges ``(z, y, x)`` in mm of all levels but the last, from the plan.

    Returns
    -------
    ndarray of int64, shape ``(N,)``
        0 is the finest level.

    Examples
    --------
    >>> assign_levels([[0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 40]], (1, 1, 1), [(16, 16, 16)]).tolist()
    [0, 1]
    """
    return heads.assign_levels(box_sizes(boxes) * np.asarray(spacing, dtype=np.float64), level_max_sizes)


def level_targets(
    boxes: Sequence[npt.ArrayLike],
    classes: Sequence[npt.NDArray[np.int64]],
    num_classes: int,
    shape: Sequence[int],
    cell_size: Sequence[float],
    boxes_per_class: bool = False,
) -> LevelTargets:
    """Make the targets of one level for a batch of volumes.

    The heatmap of a lesion is a Gaussian. Along each axis its standard deviation is a sixth of the box, at least half a
    cell. It is centred on the cell that holds the centre, so this cell is exactly 1. If two Gaussians overlap, the
    larger value counts. If two centres share a cell, the smaller lesion gets the cell.

    The radius rule of CenterNet is not used: its published formula is wrong, and a correct one degenerates in 3D.

    Parameters
    ----------
    boxes, classes : sequences with one entry per volume
        Lesions of this level: boxes ``(N, 6)`` in fine voxel edges, and class indices ``(N,)``.
    num_classes : int
    shape : sequence of 3 ints
        Number of cells ``(z, y, x)`` of the level.
    cell_size : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)``.
    boxes_per_class : bool, optional
        Each class has its own box in a cell, so that only lesions of the same class compete for a box.

    Returns
    -------
    LevelTargets
    """
    heatmap = np.zeros((len(boxes), num_classes, *shape), np.float32)
    unit = np.asarray(cell_size, dtype=np.float64)
    learned: dict[tuple[int, ...], tuple[AnyFloatArray, AnyFloatArray]] = {}  # (volume, z, y, x, box): centre and size
    for volume, (volume_boxes, volume_classes) in enumerate(zip(boxes, classes, strict=True)):
        array = as_boxes(volume_boxes)
        order = np.argsort(-box_volumes(array), kind="stable")  # the smaller lesion is written last and so wins
        centers, sizes = box_centers(array)[order] / unit, box_sizes(array)[order] / unit
        for center, size, label in zip(centers, sizes, np.asarray(volume_classes)[order], strict=True):
            cell = np.clip(np.floor(center).astype(np.int64), 0, np.asarray(shape) - 1)
            _draw_gaussian(heatmap[volume, label], cell, np.maximum(size / 6, 0.5))
            place = (volume, *cell.tolist(), int(label) if boxes_per_class else 0)
            learned[place] = center, size
    keys = sorted(learned)
    index = np.array(keys, np.int64).reshape(-1, 5)
    center = np.array([learned[key][0] for key in keys]).reshape(-1, 3)
    size = np.maximum(np.array([learned[key][1] for key in keys]).reshape(-1, 3), 1e-3)
    return LevelTargets(
        torch.from_numpy(heatmap),
        torch.from_numpy(index[:, :4].copy()),
        torch.from_numpy(np.log(size).astype(np.float32)),
        torch.from_numpy((center - index[:, 1:4] - 0.5).astype(np.float32)),
        torch.from_numpy(index[:, 4].copy()),
    )


def _draw_gaussian(heatmap: AnyFloatArray, cell: npt.NDArray[np.int64], sigma: AnyFloatArray) -> None:
    """Raise ``heatmap`` (z, y, x) to a Gaussian around ``cell``, in place."""
    reach = np.ceil(_REACH * sigma).astype(np.int64)
    profiles, region = [], []
    for axis in range(3):
        first, end = max(cell[axis] - reach[axis], 0), min(cell[axis] + reach[axis] + 1, heatmap.shape[axis])
        profiles.append(np.exp(-0.5 * ((np.arange(first, end) - cell[axis]) / sigma[axis]) ** 2))
        region.append(slice(int(first), int(end)))
    value = (profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]).astype(np.float32)
    np.maximum(heatmap[tuple(region)], value, out=heatmap[tuple(region)])
