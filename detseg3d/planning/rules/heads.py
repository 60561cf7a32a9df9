"""Rules for the detection heads: which stages carry one, and which lesions each head takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyFloatArray, Spacing, Triple

__all__ = ["LEVEL_CELLS", "LevelChoice", "assign_levels", "choose_levels", "lesion_spans"]


LEVEL_CELLS = (2.0, 8.0)  # A level takes lesions that span from 2 to 8 of its cells.
# A head needs examples. A level that would get fewer lesions, or a smaller fraction, leaves them to its neighbour.
LESIONS_PER_LEVEL = 5
FRACTION_PER_LEVEL = 0.005


class LevelChoice(NamedTuple):
    """The detection levels of a data set.

    Attributes
    ----------
    head_stages : tuple of int
        Backbone stages with a head, finest first.
    upper_sizes : tuple of 3 floats each
        For each pair of neighbouring levels, the longest edges ``(z, y, x)`` in mm that the finer level takes.
    lesions : tuple of int
        Number of lesions of each level.
    """

    head_stages: tuple[int, ...]
    upper_sizes: tuple[Spacing, ...]
    lesions: tuple[int, ...]


def assign_levels(extents: AnyFloatArray, upper_sizes: Sequence[Spacing]) -> npt.NDArray[np.int64]:
    """Return the level of each lesion: the finest level whose upper size no edge of the lesion exceeds.

    Parameters
    ----------
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.
    upper_sizes : sequence of 3 floats
        For each pair of neighbouring levels, finest first: the longest edges ``(z, y, x)`` in mm that the finer level
        takes. Along each axis, the edges never decrease from one entry to the next.

    Returns
    -------
    ndarray of int64, shape ``(N,)``
        0 is the finest level.

    Examples
    --------
    >>> assign_levels(np.array([[8.0, 4, 4], [9, 4, 4], [8, 33, 4]]), [(8, 16, 16), (16, 32, 32)]).tolist()
    [0, 1, 2]
    """
    edges = np.asarray(extents, dtype=np.float64).reshape(-1, 1, 3)
    upper = np.asarray(upper_sizes, dtype=np.float64).reshape(1, -1, 3)
    too_large = (edges > upper * (1 + 1e-6)).any(axis=2)
    level: npt.NDArray[np.int64] = too_large.sum(axis=1, dtype=np.int64)
    return level


def choose_levels(extents: npt.ArrayLike, strides: Sequence[Triple], voxel: Spacing) -> LevelChoice:
    """Choose the detection levels from the sizes of the lesions.

    A level takes lesions that span up to 8 of its cells. The finest level also takes all smaller lesions, and the
    coarsest level takes all larger lesions. Along the axes that the stage pools, the longest edge of a lesion is
    compared with the shortest edge of a cell. An axis that the stage does not pool (too coarse or too short) is
    compared separately, because a lesion of any size in the plane spans few cells along this axis.

    A level that would get no lesion, or hardly any, is dropped. The next finer level takes its lesions. If the finest
    level is dropped, the next coarser level takes its lesions. The finest level is not dropped if one of its lesions
    would span less than 2 cells of the next coarser level.

    Parameters
    ----------
    extents : array_like, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.
    strides : sequence of 3 ints
        Stride of each backbone stage.
    voxel : 3 floats
        Edges ``(z, y, x)`` in mm of a voxel of the detection grid.

    Returns
    -------
    LevelChoice

    Examples
    --------
    >>> strides = [(2, 2, 2), (2, 2, 2), (2, 2, 2)]
    >>> choose_levels([[3, 3, 3]] * 50 + [[20, 20, 20]] * 10, strides, (1, 1, 1))
    LevelChoice(head_stages=(0, 1), upper_sizes=((16.0, 16.0, 16.0),), lesions=(50, 10))
    >>> choose_levels([[40, 40, 40]] * 50, strides, (1, 1, 1)).head_stages
    (2,)

    One slice of 1 mm:

    >>> choose_levels([[1, 12, 12]] * 50 + [[1, 30, 30]] * 10, [(1, 2, 2)] * 3, (1, 1, 1)).upper_sizes
    ((8.0, 16.0, 16.0),)
    """
    edges = np.asarray(extents, dtype=np.float64).reshape(-1, 3)
    if len(edges) == 0:
        return LevelChoice((0,), (), (0,))
    cells = np.cumprod(np.asarray(strides), axis=0) * np.asarray(voxel, dtype=np.float64)
    upper = [_upper_size(cell, stride) for cell, stride in zip(cells, strides, strict=True)]
    stages = assign_levels(edges, upper[:-1])
    counts = np.bincount(stages, minlength=len(cells))
    wanted = max(LESIONS_PER_LEVEL, FRACTION_PER_LEVEL * len(edges))
    kept = [stage for stage in range(len(cells)) if counts[stage] >= wanted] or [int(counts.argmax())]
    small = edges[stages < kept[0]]
    if len(small):
        pooled = _pooled(strides[kept[0]])
        if small[:, pooled].max(axis=1).min() < LEVEL_CELLS[0] * cells[kept[0]][pooled].min():
            kept.insert(0, int(stages.min()))
    bounds = tuple(upper[stage] for stage in kept[:-1])
    counts = np.bincount(assign_levels(edges, bounds), minlength=len(kept))
    return LevelChoice(tuple(kept), bounds, tuple(counts.tolist()))


def _upper_size(cell: AnyFloatArray, stride: Triple) -> Spacing:
    """Return the edges in mm of the largest lesion for the cells of a stage, see :func:`choose_levels`."""
    pooled = _pooled(stride)
    z, y, x = (float(f"{LEVEL_CELLS[1] * edge:.6g}") for edge in np.where(pooled, cell[pooled].min(), cell))
    return z, y, x


def _pooled(stride: Triple) -> npt.NDArray[np.bool_]:
    """Return the axes that a stage pools, as three booleans; all axes if the stage does not pool any axis."""
    pooled = np.asarray(stride) > 1
    return pooled if pooled.any() else np.ones(3, bool)


def lesion_spans(extents: AnyFloatArray, cell: Sequence[float], voxel: Sequence[float]) -> AnyFloatArray:
    """Count the cells that each lesion spans along the axis with the most cells.

    An axis counts only if a cell is longer than a voxel along this axis. Along the other axes, every lesion spans at
    least one cell. If a cell is as large as a voxel, all axes count.

    Parameters
    ----------
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.
    cell, voxel : 3 floats
        Edges ``(z, y, x)`` of a cell and of a voxel in mm.

    Returns
    -------
    ndarray of float, shape ``(N,)``

    Examples
    --------
    >>> lesion_spans(np.array([[3.0, 1.0, 1.0]]), (3, 2, 2), (3, 1, 1)).tolist()
    [0.5]
    >>> lesion_spans(np.array([[3.0, 1.0, 1.0]]), (3, 1, 1), (3, 1, 1)).tolist()
    [1.0]
    """
    lengths = np.asarray(cell, dtype=np.float64)
    longer = lengths > np.asarray(voxel, dtype=np.float64) * (1 + 1e-6)
    axes = np.flatnonzero(longer) if longer.any() else np.arange(3)
    spans: AnyFloatArray = (np.asarray(extents, dtype=np.float64).reshape(-1, 3)[:, axes] / lengths[axes]).max(axis=1)
    return spans
