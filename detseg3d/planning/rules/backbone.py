"""Rules for the detector: stages, strides and kernels of its backbone, and the whole plan of Stage 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detseg3d.core.arrays import AnyFloatArray, Spacing, Triple
from detseg3d.planning.rules.grids import MIN_CELLS, finest_spacing
from detseg3d.planning.rules.heads import LEVEL_CELLS, choose_levels, lesion_spans
from detseg3d.planning.sections import Stage1Plan

__all__ = [
    "DENSE_CHANNELS",
    "add_fine_stage",
    "add_full_head",
    "choose_stem",
    "choose_strides",
    "stage1_plan",
    "wants_fine_stage",
]


POOLING_RATIO = 2.0  # An axis is pooled while its spacing is at most twice the finest spacing.
MAX_COARSEST_MAP = 12  # Another stage follows while an axis has more cells.
MAX_STAGES = 5
TINY_VOLUME = 64
# Multiples of 32 fill the matrix units of CPUs and GPUs: 32 channels at the finest stage cost as much time as 24.
CHANNELS = (32, 64, 96, 128, 160)
BLOCKS = (1, 1, 2, 2, 2)
FPN_CHANNELS = 32
DENSE_CHANNELS = 24  # Width of the dense map. It is planned if it fits into the memory.
# Width of the stage at full resolution in front of the stem. It is added if the median lesion spans at most
# FINE_UP_TO_CELLS cells of the stem.
FINE_CHANNELS = 8
FULL_HEAD_CHANNELS = 16  # Width of this stage if it carries a head.
FINE_UP_TO_CELLS = 4.0


class Strides(NamedTuple):
    """Strides and kernels of the backbone stages, and shape and spacing of the coarsest feature map."""

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    shape: Triple
    spacing: Spacing


def choose_stem(spacing: Spacing, shape: Sequence[int], small_lesion: Sequence[float] | None) -> Triple:
    """Choose the stride of the stem: 2 along the axes to be pooled, or 1 in a tiny volume with tiny lesions.

    Parameters
    ----------
    spacing : 3 floats
        Spacing of the detection grid in mm.
    shape : 3 ints
        Planned volume in detection voxels.
    small_lesion : 3 floats or None
        5th percentile of the lesions' extents ``(z, y, x)`` in mm.

    Returns
    -------
    3 ints
        Stride ``(z, y, x)``.

    Examples
    --------
    >>> choose_stem((1, 1, 1), (40, 40, 40), (3, 3, 3)), choose_stem((1, 1, 1), (40, 40, 40), (20, 20, 20))
    ((1, 1, 1), (2, 2, 2))
    >>> choose_stem((3, 1, 1), (40, 200, 200), (3, 3, 3))
    (1, 2, 2)
    """
    pooled = _axes_to_pool(spacing, shape)
    z, y, x = (2 if pool else 1 for pool in pooled)
    if small_lesion is not None and max(shape) < TINY_VOLUME:
        cells = [length * stride for length, stride in zip(spacing, (z, y, x), strict=True)]
        if float(np.max(np.asarray(small_lesion) / cells)) < LEVEL_CELLS[0]:
            return 1, 1, 1
    return z, y, x


def _pooling_limit(spacing: Sequence[float], shape: Sequence[int]) -> float:
    """Return the largest spacing of an axis that is pooled: twice the finest spacing of the long axes."""
    return POOLING_RATIO * finest_spacing(spacing, shape) * (1 + 1e-6)


def _axes_to_pool(spacing: Sequence[float], shape: Sequence[int]) -> list[bool]:
    limit = _pooling_limit(spacing, shape)
    return [length <= limit and n >= 2 * MIN_CELLS for length, n in zip(spacing, shape, strict=True)]


def choose_strides(spacing: Spacing, shape: Sequence[int], stem: Triple) -> Strides:
    """Choose strides and kernels of the backbone stages, axis by axis.

    A stage pools an axis if its spacing is at most twice the finest spacing and if at least 4 cells remain. An axis
    that is over 2 times coarser than the finest axis has kernel 1. An axis with a single cell also has kernel 1. Only
    axes that are long enough to be pooled count for the finest spacing. Stages are added until no axis has more than 12
    cells, or no axis can be pooled. There are at most 5 stages.

    Parameters
    ----------
    spacing : 3 floats
        Spacing of the detection grid in mm.
    shape : 3 ints
        Planned volume in detection voxels.
    stem : 3 ints
        Stride of the first stage.

    Returns
    -------
    Strides

    Examples
    --------
    >>> choose_strides((1, 1, 1), (96, 160, 128), (2, 2, 2)).shape
    (6, 10, 8)
    >>> anisotropic = choose_strides((3, 0.7, 0.7), (56, 320, 320), (1, 2, 2))
    >>> anisotropic.strides[:3], anisotropic.kernels[:3]
    (((1, 2, 2), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3)))
    """
    strides: list[Triple] = []
    kernels: list[Triple] = []
    current, size = list(spacing), [int(n) for n in shape]
    while True:
        stride = list(stem) if not strides else [2 if pool else 1 for pool in _axes_to_pool(current, size)]
        if strides and max(stride) == 1:
            break
        limit = _pooling_limit(current, size)
        kz, ky, kx = (3 if length <= limit and n > 1 else 1 for length, n in zip(current, size, strict=True))
        sz, sy, sx = stride
        strides.append((sz, sy, sx))
        kernels.append((kz, ky, kx))
        current = [length * factor for length, factor in zip(current, stride, strict=True)]
        size = [math.ceil(n / factor) for n, factor in zip(size, stride, strict=True)]
        if len(strides) == MAX_STAGES or max(size) <= MAX_COARSEST_MAP:
            break
    return Strides(tuple(strides), tuple(kernels), (size[0], size[1], size[2]), (current[0], current[1], current[2]))


def stage1_plan(spacing: Spacing, shape: Sequence[int], extents: AnyFloatArray) -> Stage1Plan:
    """Plan the detector for a detection grid, a planned volume and the lesions of a data set.

    Parameters
    ----------
    spacing : 3 floats
        Spacing of the detection grid in mm.
    shape : 3 ints
        Planned volume in detection voxels.
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.

    Returns
    -------
    Stage1Plan
    """
    stages = choose_strides(spacing, shape, choose_stem(spacing, shape, small_lesion_extents(extents)))
    count = len(stages.strides)
    levels = choose_levels(extents, stages.strides, spacing)
    return Stage1Plan(
        channels=CHANNELS[:count],
        strides=stages.strides,
        kernels=stages.kernels,
        blocks=BLOCKS[:count],
        fpn_channels=FPN_CHANNELS,
        head_stages=levels.head_stages,
        level_max_sizes=levels.upper_sizes,
    )


def wants_fine_stage(plan: Stage1Plan, spacing: Spacing, extents: AnyFloatArray) -> bool:
    """Return True if the median lesion spans at most 4 cells of the stem, so that a fine stage helps.

    Parameters
    ----------
    plan : Stage1Plan
    spacing : 3 floats
        Spacing of the detection grid in mm.
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.

    Returns
    -------
    bool

    Examples
    --------
    >>> extents = np.full((3, 3), 5.0)
    >>> plan = stage1_plan((1, 1, 1), (96, 160, 128), extents)
    >>> wants_fine_stage(plan, (1, 1, 1), extents), wants_fine_stage(plan, (0.5, 0.5, 0.5), extents)
    (True, False)
    """
    if len(extents) == 0 or max(plan.strides[0]) == 1:
        return False
    cell = [stride * length for stride, length in zip(plan.strides[0], spacing, strict=True)]
    return float(np.median(lesion_spans(extents, cell, spacing))) <= FINE_UP_TO_CELLS


def add_fine_stage(plan: Stage1Plan, channels: int = FINE_CHANNELS) -> Stage1Plan:
    """Return the plan with a stage at full resolution in front of the stem.

    The stage has a convolution, a residual block and no head. The stem then reads the features of this stage instead of
    the voxels. The cells of the stem stay the same.

    Parameters
    ----------
    plan : Stage1Plan
    channels : int
        Width of the new stage.

    Returns
    -------
    Stage1Plan

    Examples
    --------
    >>> plan = add_fine_stage(stage1_plan((1, 1, 1), (96, 160, 128), np.full((3, 3), 5.0)))
    >>> plan.channels, plan.strides[:2], plan.head_stages
    ((8, 32, 64, 96, 128), ((1, 1, 1), (2, 2, 2)), (1,))
    """
    return plan.model_copy(
        update={
            "channels": (channels, *plan.channels),
            "strides": ((1, 1, 1), *plan.strides),
            "kernels": (plan.kernels[0], *plan.kernels),
            "blocks": (1, *plan.blocks),
            "head_stages": tuple(stage + 1 for stage in plan.head_stages),
        }
    )


def add_full_head(plan: Stage1Plan, spacing: Spacing, extents: AnyFloatArray) -> Stage1Plan:
    """Return the plan with a stage at full resolution that has a head: its cells are single voxels.

    Parameters
    ----------
    plan : Stage1Plan
        From :func:`stage1_plan`.
    spacing : 3 floats
        Spacing of the detection grid in mm.
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.

    Returns
    -------
    Stage1Plan

    Examples
    --------
    >>> extents = np.array([[1.0, 1, 1]] * 20 + [[12.0, 12, 12]] * 20)
    >>> plan = add_full_head(stage1_plan((1, 1, 1), (96, 160, 128), extents), (1, 1, 1), extents)
    >>> plan.channels[:2], plan.strides[:2], plan.head_stages, plan.level_max_sizes
    ((16, 32), ((1, 1, 1), (2, 2, 2)), (0, 1), ((8.0, 8.0, 8.0),))
    """
    fine = add_fine_stage(plan, FULL_HEAD_CHANNELS)
    levels = choose_levels(extents, fine.strides, spacing)
    stages, upper = levels.head_stages, levels.upper_sizes
    if stages[0] > 0:
        # `choose_levels` gave the smallest lesions to a coarser level, because they are few. Here they get their own
        # level.
        z, y, x = (float(f"{LEVEL_CELLS[1] * length:.6g}") for length in spacing)
        stages, upper = (0, *stages), ((z, y, x), *upper)
    return fine.model_copy(update={"head_stages": stages, "level_max_sizes": upper})


def small_lesion_extents(extents: AnyFloatArray) -> tuple[float, float, float] | None:
    """Return the 5th percentile of the lesions' extents in mm, axis by axis; ``None`` without lesions."""
    if len(extents) == 0:
        return None
    z, y, x = (float(value) for value in np.percentile(extents, 5, axis=0))
    return z, y, x
