"""The planner's rules for grids and networks: figures in, choice out.

Each rule is a pure function of measured figures. Axes are ``(z, y, x)``, lengths millimetres unless stated otherwise.
:mod:`detseg3d.planning.planner` applies them in order and writes down why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyFloatArray, Spacing, Triple
from detseg3d.planning.plans import Stage1Plan

__all__ = [
    "SPARE_VOLUME",
    "CandidateLimit",
    "LevelChoice",
    "PlannedVolume",
    "Strides",
    "add_fine_stage",
    "add_full_head",
    "assign_levels",
    "choose_candidate_limit",
    "choose_fine_spacing",
    "choose_levels",
    "choose_stem",
    "choose_strides",
    "coarser_spacings",
    "finest_spacing",
    "lesion_spans",
    "long_axes",
    "planned_volumes",
    "stage1_plan",
    "wants_fine_stage",
]


ANISOTROPY = 3.0  # an axis this many times coarser than the next takes its 10th percentile
POOLING_RATIO = 2.0  # an axis is pooled while its spacing is at most this many times the finest
SMALLEST_MAP = 4  # no axis is pooled below this many cells
LARGEST_COARSEST_MAP = 12  # another stage follows while an axis has more cells than this
MAX_STAGES = 5
LEVEL_CELLS = (2.0, 8.0)  # a level takes lesions that span so many of its cells
TINY_VOLUME = 64
SPARE_VOLUME = 1.1  # a scan of so many times the planned voxels is still trained whole
OUTLIER_VOLUME = 3.0  # a scan of more than so many times the 90th percentile's voxels is not planned for
SCANS_WITH_OUTLIERS = 10  # the least number of scans among which one may be called an outlier
PERCENTILES = (90, 75, 50)  # smaller volumes to plan for, if the largest would cost lesions
# Multiples of 32 fill the matrix units of CPUs and GPUs: 32 channels at the finest stage cost what 24 do.
CHANNELS = (32, 64, 96, 128, 160)
BLOCKS = (1, 1, 2, 2, 2)
FPN_CHANNELS = 32
# A narrow stage at full resolution in front of the stem, where the median lesion spans no more of the stem's cells.
FINE_CHANNELS = 8
FULL_HEAD_CHANNELS = 16  # of that stage if it carries a head
FINE_UP_TO_CELLS = 4.0
# A head needs examples: a level that would get fewer (or a smaller share) leaves them to its neighbour.
LESIONS_PER_LEVEL = 5
SHARE_PER_LEVEL = 0.005
CANDIDATES_PER_LESION = 4
# So many candidates any scan may have. The floor covers training cases of up to so many lesions by itself.
MIN_CANDIDATES = 100
_COVERED_BY_FLOOR = MIN_CANDIDATES // CANDIDATES_PER_LESION
# The masks of all candidates of a scan stay in memory until they are merged.
CANDIDATE_MASKS_BYTES = 1e9
_MOST_CANDIDATES = (1000, 20_000)
_MOST_IN_PLANS = 100_000


def choose_fine_spacing(spacings: npt.ArrayLike, shapes: npt.ArrayLike | None = None) -> Spacing:
    """Per-axis median; an axis over 3 times coarser than the next takes its 10th percentile (but not below the next).

    An axis along which every scan has a single voxel takes the coarsest spacing: no scan gets a second one.

    Parameters
    ----------
    spacings : array_like, shape ``(cases, 3)``
    shapes : array_like, shape ``(cases, 3)``, optional
        Voxels of the scans.

    Examples
    --------
    >>> choose_fine_spacing([[1, 1, 1], [1, 1, 1], [2, 1, 1]])
    (1.0, 1.0, 1.0)
    >>> choose_fine_spacing([[5, 1, 1]] * 8 + [[2, 1, 1]] * 2)
    (2.0, 1.0, 1.0)
    >>> choose_fine_spacing([[5, 1, 1]] * 8 + [[2, 1, 1]] * 2, [[1, 512, 512]] * 10)
    (5.0, 1.0, 1.0)
    """
    array = np.asarray(spacings, dtype=np.float64).reshape(-1, 3)
    median = np.median(array, axis=0)
    coarsest = int(median.argmax())
    following = float(np.sort(median)[1])
    if median[coarsest] > ANISOTROPY * following:
        median[coarsest] = max(float(np.percentile(array[:, coarsest], 10, method="inverted_cdf")), following)
    if shapes is not None:
        single = np.asarray(shapes).reshape(-1, 3).max(axis=0) == 1
        median[single] = array.max(axis=0)[single]
    # Headers carry noise of single precision; 5 digits are a hundredth of a voxel over a whole volume.
    z, y, x = (float(f"{value:.5g}") for value in median)
    return z, y, x


@dataclass(frozen=True)
class PlannedVolume:
    """A volume that memory is planned for, in fine voxels, and the percentile of the scans that it holds.

    ``outliers`` is the number of scans left out before, each far larger than all others.
    """

    shape: Triple
    percentile: int = 100
    outliers: int = 0

    @property
    def voxels(self) -> int:
        """Number of fine voxels."""
        return math.prod(self.shape)

    def cuts(self, shape: Sequence[int]) -> bool:
        """Whether training cuts a scan of ``shape`` fine voxels into parts: it has over a tenth more voxels."""
        return math.prod(shape) > SPARE_VOLUME * self.voxels


def planned_volumes(shapes: npt.ArrayLike) -> list[PlannedVolume]:
    """Volumes to plan for, the largest first: percentiles 100, 90, 75 and 50 of the scans' edges, axis by axis.

    Of the first a scan is left out that has over 3 times the voxels of the 90th percentile, of 10 scans or more: one
    body among heads does not decide for all. Of the others, the 99th percentile counts as the largest, so that of a
    hundred scans the largest counts.

    Parameters
    ----------
    shapes : array_like of int, shape ``(cases, 3)``
        Fine voxels.

    Examples
    --------
    >>> planned_volumes([[24, 20, 20], [24, 18, 20]])[0]
    PlannedVolume(shape=(24, 20, 20), percentile=100, outliers=0)
    >>> planned_volumes([[180, 220, 200]] * 19 + [[1800, 500, 500]])
    [PlannedVolume(shape=(180, 220, 200), percentile=100, outliers=1)]
    """
    edges = np.asarray(shapes, dtype=np.int64).reshape(-1, 3)
    voxels = edges.astype(np.float64).prod(axis=1)
    usual = np.ones(len(edges), bool)
    if len(edges) >= SCANS_WITH_OUTLIERS:
        usual = voxels <= OUTLIER_VOLUME * float(np.percentile(voxels, 90, method="lower"))
    outliers = int((~usual).sum())
    z, y, x = (int(n) for n in np.percentile(edges[usual], 99, axis=0, method="higher"))
    volumes = [PlannedVolume((z, y, x), 100, outliers)]
    for percentile in PERCENTILES:
        z, y, x = (int(n) for n in np.percentile(edges[usual], percentile, axis=0, method="lower"))
        if (z, y, x) != volumes[-1].shape:
            volumes.append(PlannedVolume((z, y, x), percentile, outliers))
    return volumes


def long_axes(shape: Sequence[int]) -> list[int]:
    """Axes of a volume that are long enough to be pooled, 8 voxels or more; all three if there is none.

    A volume of a few slices must not be held back by an axis along which nothing happens, whatever its spacing.

    Examples
    --------
    >>> long_axes((3, 384, 384)), long_axes((448, 448, 15)), long_axes((4, 4, 4))
    ([1, 2], [0, 1, 2], [0, 1, 2])
    """
    return [axis for axis, n in enumerate(shape) if n >= 2 * SMALLEST_MAP] or [0, 1, 2]


def finest_spacing(spacing: Sequence[float], shape: Sequence[int]) -> float:
    """The finest spacing among the axes that are long enough to be pooled.

    Examples
    --------
    >>> finest_spacing((0.1, 1.0, 1.5), (1, 256, 256)), finest_spacing((0.1, 1.0, 1.5), (100, 256, 256))
    (1.0, 0.1)
    """
    return min(spacing[axis] for axis in long_axes(shape))


def coarser_spacings(fine_spacing: Spacing, shape: Sequence[int], step: float = 1.05) -> list[Spacing]:
    """Detection spacings to try, finest first: the finest axes give way until all are equal, then all together.

    An axis too short to be pooled keeps its spacing.

    Parameters
    ----------
    fine_spacing : 3 floats
    shape : 3 ints
        Planned volume in fine voxels.
    step : float, optional

    Examples
    --------
    >>> spacings = coarser_spacings((2.0, 1.0, 1.0), (100, 200, 200))
    >>> spacings[0], [round(s, 3) for s in spacings[1]], len({s for s in spacings[-1]})
    ((2.0, 1.0, 1.0), [2.0, 1.05, 1.05], 1)
    >>> coarser_spacings((2.0, 1.0, 1.0), (1, 200, 200))[-1][0]
    2.0
    """
    long = long_axes(shape)
    finest = finest_spacing(fine_spacing, shape)
    spacings = [fine_spacing]
    for power in range(1, 60):
        length = float(f"{finest * step**power:.5g}")
        z, y, x = (max(edge, length) if axis in long else edge for axis, edge in enumerate(fine_spacing))
        spacings.append((z, y, x))
    return spacings


class Strides(NamedTuple):
    """Backbone stages: strides, kernels, and the shape and spacing of the coarsest map."""

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]
    shape: Triple
    spacing: Spacing


def choose_stem(spacing: Spacing, shape: Sequence[int], small_lesion: Sequence[float] | None) -> Triple:
    """Stride of the stem: 2 along the axes to be pooled; 1 for a tiny volume with tiny lesions.

    Parameters
    ----------
    spacing : 3 floats
        Detection grid.
    shape : 3 ints
        Planned volume in detection voxels.
    small_lesion : 3 floats or None
        Extents in mm of a 5th-percentile lesion.

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
    """Spacing up to which axes go together: twice the finest of those that are long enough to be pooled."""
    return POOLING_RATIO * finest_spacing(spacing, shape) * (1 + 1e-6)


def _axes_to_pool(spacing: Sequence[float], shape: Sequence[int]) -> list[bool]:
    limit = _pooling_limit(spacing, shape)
    return [length <= limit and n >= 2 * SMALLEST_MAP for length, n in zip(spacing, shape, strict=True)]


def choose_strides(spacing: Spacing, shape: Sequence[int], stem: Triple) -> Strides:
    """Stages of the backbone, axis by axis.

    An axis is pooled while its spacing is within 2 times the finest at that point and it keeps 4 cells. An axis still
    over 2 times coarser than the finest gets kernel 1, and so does an axis of a single cell. The finest is sought among
    the axes long enough to be pooled. Stages end when no axis has more than 12 cells, or after 5.

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
        if len(strides) == MAX_STAGES or max(size) <= LARGEST_COARSEST_MAP:
            break
    return Strides(tuple(strides), tuple(kernels), (size[0], size[1], size[2]), (current[0], current[1], current[2]))


class LevelChoice(NamedTuple):
    """Stages with a head, the upper lesion edges (mm) between neighbours, and the lesions each level gets."""

    head_stages: tuple[int, ...]
    upper_sizes: tuple[Spacing, ...]
    lesions: tuple[int, ...]


def assign_levels(extents: AnyFloatArray, upper_sizes: Sequence[Spacing]) -> npt.NDArray[np.int64]:
    """Level of each lesion: the finest level whose upper size no edge of the lesion exceeds.

    Parameters
    ----------
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.
    upper_sizes : sequence of 3 floats
        Between neighbouring levels, finest first: the longest edges ``(z, y, x)`` in mm that the finer level takes. No
        axis descends from one entry to the next.

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
    """Detection levels from the lesion sizes.

    A level takes lesions that span up to 8 of its cells. The finest level also takes everything smaller, the coarsest
    everything larger. The longest edge of a lesion is compared with the shortest edge of the cell among the axes that
    the level's stage pools. An axis that the stage does not pool, because it is too coarse or too short, is compared
    by itself: of the cells along it a lesion spans few, whatever its size in the plane.

    A level that would get no lesion, or hardly any, is dropped. The next finer level takes its lesions. If the dropped
    level is the finest, the next coarser level takes them, provided that they span at least 2 cells there.

    Parameters
    ----------
    extents : array_like, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the lesions' boxes in mm.
    strides : sequence of 3 ints
        Of each backbone stage.
    voxel : 3 floats
        Edges ``(z, y, x)`` in mm of a voxel of the detection grid.

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
    wanted = max(LESIONS_PER_LEVEL, SHARE_PER_LEVEL * len(edges))
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
    """Edges in mm of the largest lesion for the cells of a stage; see :func:`choose_levels`."""
    pooled = _pooled(stride)
    z, y, x = (float(f"{LEVEL_CELLS[1] * edge:.6g}") for edge in np.where(pooled, cell[pooled].min(), cell))
    return z, y, x


def _pooled(stride: Triple) -> npt.NDArray[np.bool_]:
    """Axes that a stage pools; all axes if it pools none."""
    pooled = np.asarray(stride) > 1
    return pooled if pooled.any() else np.ones(3, bool)


def stage1_plan(spacing: Spacing, shape: Sequence[int], extents: AnyFloatArray) -> Stage1Plan:
    """The detector for a detection grid of ``spacing``, a planned volume of ``shape`` and lesions of ``extents``.

    Parameters
    ----------
    spacing, shape : detection grid
    extents : ndarray, shape ``(N, 3)``
        Lesion boxes' edges in mm.
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
    """Whether small lesions ask for a stage at full resolution: half of all span up to 4 cells of the stem.

    Parameters
    ----------
    plan : Stage1Plan
    spacing : 3 floats
        Detection grid.
    extents : ndarray, shape ``(N, 3)``
        Lesion boxes' edges in mm.

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
    """The plan with a stage at full resolution in front: a convolution and a residual block, no head.

    The stem then reads what this stage saw, not the bare voxels, in the same cells.

    Parameters
    ----------
    plan : Stage1Plan
    channels : int

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
    """The plan with a stage at full resolution in front which carries a head: its cells are voxels.

    Parameters
    ----------
    plan : Stage1Plan
        From :func:`stage1_plan`.
    spacing : 3 floats
        Detection grid.
    extents : ndarray, shape ``(N, 3)``
        Lesion boxes' edges in mm.

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
        # Few lesions are so small, or `choose_levels` would not have left them to a coarser level. Here they count.
        z, y, x = (float(f"{LEVEL_CELLS[1] * length:.6g}") for length in spacing)
        stages, upper = (0, *stages), ((z, y, x), *upper)
    return fine.model_copy(update={"head_stages": stages, "level_max_sizes": upper})


def small_lesion_extents(extents: AnyFloatArray) -> tuple[float, float, float] | None:
    """Extents (mm) of a 5th-percentile lesion, axis by axis, or ``None`` without lesions."""
    if len(extents) == 0:
        return None
    z, y, x = (float(value) for value in np.percentile(extents, 5, axis=0))
    return z, y, x


def lesion_spans(extents: AnyFloatArray, cell: Sequence[float], voxel: Sequence[float]) -> AnyFloatArray:
    """How many cells each lesion spans along the axis where it spans most.

    Only axes count along which a cell is longer than a voxel: along the others every lesion spans a cell, however
    small it is. If a cell is a voxel, all axes count.

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


class CandidateLimit(NamedTuple):
    """How many candidates a scan may have: ``density`` for each mm³, but from ``fewest`` to ``most``."""

    density: float
    fewest: int
    most: int


def choose_candidate_limit(
    lesions_per_case: Sequence[int], volumes: Sequence[float], roi_size: Sequence[int]
) -> CandidateLimit:
    """Candidates grow with the scan: several for each lesion that a scan as full as the fullest case would hold.

    A limit that is a number would cut a field of view that is larger than those of the training. Without any limit a
    network that has learned little, and is sure of nothing, would send Stage 2 to thousands of places.

    Parameters
    ----------
    lesions_per_case : sequence of int
    volumes : sequence of float
        Of the same cases, cropped to the body, in mm³.
    roi_size : 3 ints
        Samples of an RoI: the masks of the candidates take memory.

    Examples
    --------
    >>> choose_candidate_limit([0, 1, 1], [1e6] * 3, (32, 32, 32))
    CandidateLimit(density=4e-06, fewest=100, most=15258)
    >>> choose_candidate_limit([75, 60], [1e4, 1e4], (24, 24, 24))
    CandidateLimit(density=0.03, fewest=100, most=20000)
    """
    counts, sizes = np.asarray(lesions_per_case, np.float64), np.asarray(volumes, np.float64)
    # A lesion or two in a scan that is small by accident say nothing about how dense lesions are.
    usual = np.where(counts > _COVERED_BY_FLOOR, sizes, np.maximum(sizes, np.median(sizes))) if len(sizes) else sizes
    density = CANDIDATES_PER_LESION * float((counts / usual).max(initial=0))
    fullest = int(counts.max(initial=0))
    affordable = int(CANDIDATE_MASKS_BYTES / (2 * math.prod(roi_size)))
    most = max(min(max(affordable, _MOST_CANDIDATES[0]), _MOST_CANDIDATES[1]), 2 * fullest)
    # An organ that is full of lesions may fill a smaller scan than those of the training.
    fewest = max(MIN_CANDIDATES, fullest)
    return CandidateLimit(float(f"{density:.6g}"), min(fewest, _MOST_IN_PLANS), min(most, _MOST_IN_PLANS))
