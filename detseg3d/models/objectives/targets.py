"""What Stage 1 is asked to predict: centre heatmaps and box regressions, from the boxes of the instance map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.arrays import AnyFloatArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, box_volumes, boxes_from_instances
from detseg3d.core.tensors import tensor_of
from detseg3d.planning.rules import stage1 as rules

__all__ = ["LevelTargets", "TargetRules", "VolumeTargets", "assign_levels", "level_targets", "volume_targets"]


# The Gaussian ends where it has fallen to exp(-4.5) = 0.01: beyond, a cell is plain background.
_REACH = 3.0
# The focal loss discounts a negative by (1 - target)^4: so near to 1 it does not count.
_IGNORED = 0.999


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
    boxes: AnyFloatArray
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
    return VolumeTargets(tensor_of(instances, np.int32), ids, boxes, class_of_id[ids])


@dataclass(frozen=True)
class TargetRules:
    """Which cells of a level learn what.

    Attributes
    ----------
    nearest_cells : int
        If more than 0, the heatmap is 1 at so many cells nearest to the centre instead of the Gaussian, and a ring of
        about as many again around them does not count (Song et al. 2020, CPM-Net).
    reach : int
        Cells around that of the centre, along each axis, that learn the box as well, weighted with the Gaussian.
    boxes_per_class : bool
        Each class has a box of its own in a cell, so that only lesions of one class compete for it.
    """

    nearest_cells: int = 0
    reach: int = 0
    boxes_per_class: bool = False


@dataclass(frozen=True)
class LevelTargets:
    """The targets of one head level for a batch.

    Attributes
    ----------
    heatmap : Tensor of float32, shape ``(B, K, z, y, x)``
        1 at the cell that holds a centre (or at those nearest to it), less around it.
    cells : Tensor of int64, shape ``(P, 4)``
        Index (volume, z, y, x) of every cell that learns a box.
    log_size, offset : Tensor of float32, shape ``(P, 3)``
        Regression targets at these cells, in cells.
    weight : Tensor of float32, shape ``(P,)``
        Of each of these cells; those of a lesion sum to 1.
    box : Tensor of int64, shape ``(P,)``
        Which box of its cell each is: the class if classes have boxes of their own, else 0.
    """

    heatmap: torch.Tensor
    cells: torch.Tensor
    log_size: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor
    box: torch.Tensor


_USUAL_RULES = TargetRules()


def assign_levels(
    boxes: npt.ArrayLike, spacing: Sequence[float], level_upper_sizes: Sequence[tuple[float, float, float]]
) -> npt.NDArray[np.int64]:
    """Head level of each box: the finest whose upper size (mm) no edge of the box exceeds.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        Fine voxels.
    spacing : 3 floats
        Edges ``(z, y, x)`` of a fine voxel in mm.
    level_upper_sizes : sequence of 3 floats
        As in the plan: edges ``(z, y, x)`` in mm, one entry less than there are levels.

    Examples
    --------
    >>> assign_levels([[0, 0, 0, 4, 4, 4], [0, 0, 0, 4, 4, 40]], (1, 1, 1), [(16, 16, 16)]).tolist()
    [0, 1]
    """
    return rules.assign_levels(box_sizes(boxes) * np.asarray(spacing, dtype=np.float64), level_upper_sizes)


def level_targets(
    boxes: Sequence[npt.ArrayLike],
    classes: Sequence[npt.NDArray[np.int64]],
    num_classes: int,
    shape: Sequence[int],
    cell_size: Sequence[float],
    target_rules: TargetRules = _USUAL_RULES,
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
    target_rules : TargetRules, optional

    Returns
    -------
    LevelTargets
    """
    heatmap = np.zeros((len(boxes), num_classes, *shape), np.float32)
    unit = np.asarray(cell_size, dtype=np.float64)
    centers, sizes, claims = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros((0, 7))]
    count = 0
    for volume, (volume_boxes, volume_classes) in enumerate(zip(boxes, classes, strict=True)):
        array = as_boxes(volume_boxes)
        order = np.argsort(-box_volumes(array), kind="stable")  # the smaller lesion is written last and so wins
        centers.append(box_centers(array)[order] / unit)
        sizes.append(box_sizes(array)[order] / unit)
        labels = np.asarray(volume_classes)[order]
        for center, size, label in zip(centers[-1], sizes[-1], labels, strict=True):
            cell = np.clip(np.floor(center).astype(np.int64), 0, np.asarray(shape) - 1)
            sigma = np.maximum(size / 6, 0.5)
            if target_rules.nearest_cells:
                _draw_nearest(heatmap[volume, label], center, cell, target_rules.nearest_cells, unit)
            else:
                _draw_gaussian(heatmap[volume, label], cell, sigma)
            where, value = _gaussian(cell, sigma, np.full(3, target_rules.reach), shape)
            around = np.argwhere(np.ones(value.shape, np.bool_)) + [part.start for part in where]
            record = np.empty((len(around), 7))
            record[:, 0], record[:, 1:4] = volume, around
            record[:, 4] = label if target_rules.boxes_per_class else 0
            record[:, 5], record[:, 6] = value.ravel(), count
            claims.append(record)
            count += 1
    return _as_targets(heatmap, np.concatenate(claims), np.concatenate(centers), np.concatenate(sizes))


def _as_targets(
    heatmap: AnyFloatArray, claims: AnyFloatArray, centers: AnyFloatArray, sizes: AnyFloatArray
) -> LevelTargets:
    """Aligned tensors of the cells that learn a box; every lesion weighs 1 over its cells.

    A claim ``(volume, z, y, x, box, closeness, lesion)`` asks for a box of a cell. The closest lesion has it, of
    several the last.
    """
    order = np.lexsort((claims[:, 6], claims[:, 5], *claims[:, 4::-1].T))
    claims = claims[order]
    last = np.any(claims[1:, :5] != claims[:-1, :5], axis=1)
    claims = claims[np.append(last, True)[: len(claims)]]
    cells, owner, closeness = claims[:, :4].astype(np.int64), claims[:, 6].astype(np.int64), claims[:, 5]
    center, size = centers[owner], np.maximum(sizes[owner], 1e-3)
    total = np.bincount(owner, closeness)
    return LevelTargets(
        torch.from_numpy(heatmap),
        torch.from_numpy(cells),
        torch.from_numpy(np.log(size).astype(np.float32)),
        torch.from_numpy((center - cells[:, 1:] - 0.5).astype(np.float32)),
        torch.from_numpy((closeness / total[owner]).astype(np.float32)),
        torch.from_numpy(claims[:, 4].astype(np.int64)),
    )


def _gaussian(
    cell: npt.NDArray[np.int64], sigma: AnyFloatArray, reach: npt.NDArray[np.int64], shape: Sequence[int]
) -> tuple[tuple[slice, ...], npt.NDArray[np.float32]]:
    """The region of cells up to ``reach`` from ``cell`` along each axis, and a Gaussian around ``cell`` in it."""
    profiles, region = [], []
    for axis in range(3):
        first, end = max(cell[axis] - reach[axis], 0), min(cell[axis] + reach[axis] + 1, shape[axis])
        profiles.append(np.exp(-0.5 * ((np.arange(first, end) - cell[axis]) / sigma[axis]) ** 2))
        region.append(slice(int(first), int(end)))
    value = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
    return tuple(region), value.astype(np.float32)


def _draw_gaussian(heatmap: AnyFloatArray, cell: npt.NDArray[np.int64], sigma: AnyFloatArray) -> None:
    """Raise ``heatmap`` (z, y, x) to a Gaussian around ``cell``, in place."""
    where, value = _gaussian(cell, sigma, np.ceil(_REACH * sigma).astype(np.int64), heatmap.shape)
    np.maximum(heatmap[where], value, out=heatmap[where])


def _draw_nearest(
    heatmap: AnyFloatArray, center: AnyFloatArray, cell: npt.NDArray[np.int64], count: int, unit: AnyFloatArray
) -> None:
    """Set the ``count`` cells of ``heatmap`` nearest to ``center`` to 1 and those behind them aside, in place."""
    reach = math.ceil(count ** (1 / 3)) + 1
    first, end = np.maximum(cell - reach, 0), np.minimum(cell + reach + 1, heatmap.shape)
    region = tuple(slice(a, b) for a, b in zip(first, end, strict=True))
    axes = [(np.arange(a, b) + 0.5 - c) * u for a, b, c, u in zip(first, end, center, unit, strict=True)]
    distance = axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2
    distance[tuple(cell - first)] = -1  # the cell that holds the centre is always one of them
    rank = distance.ravel().argsort(kind="stable").argsort(kind="stable").reshape(distance.shape)
    value = np.where(rank < count, 1.0, np.where(rank < 2 * count, _IGNORED, 0.0)).astype(np.float32)
    np.maximum(heatmap[region], value, out=heatmap[region])
