"""What Stage 1 is asked to predict: centre heatmaps and box regressions, from the boxes of the instance map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, box_volumes, boxes_from_instances

__all__ = ["LevelTargets", "VolumeTargets", "assign_levels", "level_targets", "volume_targets"]

FloatArray = npt.NDArray[np.floating[Any]]

# The Gaussian ends where it has fallen to exp(-4.5) = 0.01: beyond, a cell is plain background.
_REACH = 3.0


@dataclass(frozen=True)
class VolumeTargets:
    """The truth of one volume or window, on the fine grid.

    Attributes
    ----------
    instances : Tensor of int32, shape ``(Z, Y, X)``
    ids : ndarray of int64, shape ``(N,)``
        Labels that occur in ``instances``, ascending.
    boxes : ndarray of float32, shape ``(N, 6)``
        Their boxes, in voxel edges.
    classes : ndarray of int64, shape ``(N,)``
        Their classes, from 0.
    """

    instances: torch.Tensor
    ids: npt.NDArray[np.int64]
    boxes: FloatArray
    classes: npt.NDArray[np.int64]


def volume_targets(instances: npt.NDArray[np.integer[Any]], class_of_id: npt.NDArray[np.int64]) -> VolumeTargets:
    """Derive the targets of a volume from its instance map, the only truth there is.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
    class_of_id : ndarray of int64
        Class of each label of the case, indexed by label (entry 0 is unused).
    """
    ids, boxes = boxes_from_instances(instances)
    return VolumeTargets(
        torch.from_numpy(np.ascontiguousarray(instances, dtype=np.int32)), ids, boxes, class_of_id[ids]
    )


@dataclass(frozen=True)
class LevelTargets:
    """The targets of one head level for a batch.

    Attributes
    ----------
    heatmap : Tensor of float32, shape ``(B, K, z, y, x)``
        1 at the cell that holds a centre, a Gaussian around it.
    cells : Tensor of int64, shape ``(P, 4)``
        Index (volume, z, y, x) of every cell that holds a centre.
    log_size, offset : Tensor of float32, shape ``(P, 3)``
        Regression targets at these cells, in cells.
    """

    heatmap: torch.Tensor
    cells: torch.Tensor
    log_size: torch.Tensor
    offset: torch.Tensor


def assign_levels(
    boxes: npt.ArrayLike, spacing: Sequence[float], level_upper_sizes: Sequence[float]
) -> npt.NDArray[np.int64]:
    """Head level of each box: the finest whose upper size (mm) the longest edge does not exceed.

    Examples
    --------
    >>> assign_levels([[0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 40]], (1, 1, 1), (16,)).tolist()
    [0, 1]
    """
    longest = (box_sizes(boxes) * np.asarray(spacing)).max(axis=1, initial=0)
    return np.searchsorted(np.asarray(level_upper_sizes, dtype=np.float64), longest, side="left").astype(np.int64)


def level_targets(
    boxes: Sequence[npt.ArrayLike],
    classes: Sequence[npt.NDArray[np.int64]],
    num_classes: int,
    shape: Sequence[int],
    cell_size: Sequence[float],
) -> LevelTargets:
    """Targets of one level for a batch of volumes.

    The heatmap is an anisotropic Gaussian with a standard deviation of a sixth of the box along each axis, at least
    half a cell, centred on the *cell* that holds the centre, so that this cell is exactly 1 (CenterNet's radius rule
    is not used: its published formula is wrong and a correct one degenerates in 3D). Where two Gaussians meet, the
    larger value counts; where two centres share a cell, the smaller lesion has it.

    Parameters
    ----------
    boxes, classes : sequences with one entry per volume
        The lesions assigned to this level, ``(N, 6)`` in fine voxel edges and ``(N,)``.
    num_classes : int
    shape : sequence of 3 ints
        Cells ``(z, y, x)`` of the level.
    cell_size : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)``.
    """
    heatmap = np.zeros((len(boxes), num_classes, *shape), np.float32)
    unit = np.asarray(cell_size, dtype=np.float64)
    cells: dict[tuple[int, int, int, int], tuple[FloatArray, FloatArray]] = {}
    for volume, (volume_boxes, volume_classes) in enumerate(zip(boxes, classes, strict=True)):
        array = as_boxes(volume_boxes)
        order = np.argsort(-box_volumes(array), kind="stable")  # the smaller lesion is written last and so wins
        centers, sizes = box_centers(array)[order] / unit, box_sizes(array)[order] / unit
        for center, size, label in zip(centers, sizes, np.asarray(volume_classes)[order], strict=True):
            cell = np.clip(np.floor(center).astype(np.int64), 0, np.asarray(shape) - 1)
            _draw_gaussian(heatmap[volume, label], cell, np.maximum(size / 6, 0.5))
            key = (volume, int(cell[0]), int(cell[1]), int(cell[2]))
            cells[key] = (np.log(np.maximum(size, 1e-3)), center - cell - 0.5)
    count = len(cells)
    index = torch.tensor(list(cells), dtype=torch.int64).reshape(count, 4)
    values = [torch.tensor(np.array([pair[i] for pair in cells.values()]), dtype=torch.float32) for i in (0, 1)]
    return LevelTargets(torch.from_numpy(heatmap), index, values[0].reshape(count, 3), values[1].reshape(count, 3))


def _draw_gaussian(heatmap: FloatArray, cell: npt.NDArray[np.int64], sigma: FloatArray) -> None:
    """Raise ``heatmap`` (z, y, x) to a Gaussian around ``cell``, in place."""
    profiles, region = [], []
    for axis in range(3):
        reach = int(np.ceil(_REACH * sigma[axis]))
        first, end = max(cell[axis] - reach, 0), min(cell[axis] + reach + 1, heatmap.shape[axis])
        profiles.append(np.exp(-0.5 * ((np.arange(first, end) - cell[axis]) / sigma[axis]) ** 2))
        region.append(slice(first, end))
    value = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
    where = tuple(region)
    np.maximum(heatmap[where], value.astype(np.float32), out=heatmap[where])
