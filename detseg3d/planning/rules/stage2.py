"""The planner's rules for Stage 2 and for the training windows. Axes are ``(z, y, x)``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import CurriculumPhase, RoiPlan, Stage2Plan, TrainingPlan
from detseg3d.planning.rules.stage1 import finest_spacing

__all__ = [
    "choose_curriculum",
    "choose_roi_batch",
    "choose_roi_edge",
    "choose_roi_size",
    "choose_min_rois_per_window",
    "requested_roi_size",
    "roi_plan",
    "rois_of_window",
    "smallest_lesion",
    "stage2_plan",
]


# Edge of the RoI for a 75th-percentile lesion of up to so many fine voxels; with the margin of 0.3 a side, one sample
# then stands for at most 1.25 voxels, of large lesions for 1.5: their masks are learned in half the time, and a voxel
# more or less at the rim matters little there (docs/research_log). Small lesions gain nothing from more samples than
# 24, and a step costs 1.7 times as much with 32. The few larger lesions are covered by several RoIs. Sized for the 95th
# percentile instead, the RoIs of a set of mostly small lesions would take most of the training's time (docs/concepts).
ROI_EDGES = ((12.0, 24), (25.0, 32), (45.0, 48), (math.inf, 64))
DEFAULT_ROI_EDGE = 32
SAME_SPACING = 4 / 3  # axes whose spacings differ by less count as equal
MINIMUM_VOXELS = 12
MINIMUM_SLICES = 3
MOST_ROI_SAMPLES = 32 * 24**3  # of a window's RoIs in all, unless the plan asks for more of them: they take memory
STAGE2_CHANNELS = (16, 32, 64, 160)
POOLING_RATIO = 2.0
SMALLEST_POOLED = 8
# Small windows first: twice as many of 48³ as of 64³ in the same time found more lesions of every size
# (docs/research_log).
WINDOW_EDGES = (48, 96)
SHARES = (0.6, 0.25, 0.15)
NEARLY_WHOLE = 0.8


def choose_roi_edge(longest_voxels: npt.ArrayLike) -> tuple[int, float]:
    """Edge of the RoI along the finest axis, and the 75th-percentile lesion edge (fine voxels) behind it.

    Examples
    --------
    >>> choose_roi_edge([5, 10, 20]), choose_roi_edge([30.0]), choose_roi_edge([]), choose_roi_edge([3, 3, 4, 5])
    ((32, 15.0), (48, 30.0), (32, 0.0), (24, 4.25))
    """
    edges = np.asarray(longest_voxels, dtype=np.float64)
    if edges.size == 0:
        return DEFAULT_ROI_EDGE, 0.0
    large = float(np.percentile(edges, 75))
    return next(edge for limit, edge in ROI_EDGES if large <= limit), large


def choose_roi_size(edge: int, fine_spacing: Spacing, shape: Triple) -> Triple:
    """Samples per axis: ``edge`` along the finest axis, fewer along coarse ones, multiples of 4, at least 8.

    An axis gets no more samples than the planned volume has voxels along it, but at least 4. The finest axis is sought
    among those with 8 voxels or more.

    Parameters
    ----------
    edge : int
    fine_spacing : 3 floats
    shape : 3 ints
        Planned volume in fine voxels.

    Examples
    --------
    >>> choose_roi_size(32, (1, 1, 1), (96, 160, 128)), choose_roi_size(32, (3, 0.72, 0.72), (56, 330, 330))
    ((32, 32, 32), (8, 32, 32))
    >>> choose_roi_size(64, (3.3, 5.5, 5.5), (300, 100, 100))
    (64, 40, 40)
    >>> choose_roi_size(32, (1, 1, 1), (1, 512, 512)), choose_roi_size(24, (1, 1, 1), (22, 22, 5))
    ((4, 32, 32), (20, 20, 5))
    """
    finest = finest_spacing(fine_spacing, shape)
    size = []
    for spacing, voxels in zip(fine_spacing, shape, strict=True):
        samples = edge if spacing < SAME_SPACING * finest else max(8, 4 * round(edge * finest / spacing / 4))
        # Stage 2 halves an even number of samples; an axis shorter than 8 is not halved.
        size.append(min(samples, max(4, voxels if voxels < SMALLEST_POOLED else voxels // 4 * 4)))
    z, y, x = size
    return z, y, x


def requested_roi_size(edge: int, fine_spacing: Spacing, shape: Triple) -> Triple:
    """Samples per axis for an edge that a user asks for: as planned, but in a small volume not fewer.

    Only an axis of few slices is limited to its voxels.

    Examples
    --------
    >>> requested_roi_size(32, (1, 1, 1), (20, 20, 20)), requested_roi_size(32, (1, 1, 1), (1, 512, 512))
    ((32, 32, 32), (4, 32, 32))
    """
    z, y, x = (voxels if voxels < SMALLEST_POOLED else max(voxels, edge) for voxels in shape)
    return choose_roi_size(edge, fine_spacing, (z, y, x))


def choose_min_rois_per_window(size: Triple) -> int:
    """RoIs a training step draws at least of each window: 4 of up to 32³ samples, fewer of larger ones, at least 3.

    Large RoIs mean large lesions, of which a scan holds few; four of 48³ would take far longer than the detector.

    Examples
    --------
    >>> [choose_min_rois_per_window(size) for size in ((32, 32, 32), (8, 32, 32), (48, 48, 48))]
    [4, 4, 3]
    """
    return int(min(4, max(3, round(4 * DEFAULT_ROI_EDGE**3 / math.prod(size)))))


def choose_roi_batch(size: Triple) -> int:
    """RoIs that Stage 2 reads at a time when it predicts: 16 of up to 32³ samples, fewer of larger ones.

    16 of 64³ take 1.4 GB in float32, measured on a CPU; 16 of 32³ take 0.18 GB.

    Examples
    --------
    >>> choose_roi_batch((24, 24, 24)), choose_roi_batch((48, 28, 28)), choose_roi_batch((64, 64, 64))
    (16, 13, 2)
    """
    return max(1, min(16, 16 * DEFAULT_ROI_EDGE**3 // math.prod(size)))


def rois_of_window(training: TrainingPlan, size: Triple, voxels: float) -> int:
    """RoIs that a training step draws of a window or a volume.

    At least ``min_rois_per_window``; more where the samples of all stay within ``roi_voxel_fraction`` of the voxels
    that Stage 1 sees, and are not more than 32 RoIs of 24³ have. Beside Stage 1's work on a large window they cost
    little, and they show more of its errors.

    Parameters
    ----------
    training : TrainingPlan
    size : 3 ints
        Samples of an RoI.
    voxels : float
        Of the window, on the detection grid.

    Examples
    --------
    >>> training = TrainingPlan(curriculum=(CurriculumPhase(fraction=1, window=None),))
    >>> [rois_of_window(training, (24, 24, 24), edge**3) for edge in (48, 96, 128, 512)]
    [4, 8, 19, 32]
    """
    samples = min(training.roi_voxel_fraction * voxels, MOST_ROI_SAMPLES)
    return max(training.min_rois_per_window, round(samples / math.prod(size)))


def roi_plan(size: Triple, fine_spacing: Spacing) -> RoiPlan:
    """The RoI with its minimum extent: 12 voxels of the finest axis in mm, and 3 voxels of each axis.

    Along an axis of few slices it is no more than a voxel for each sample. The finest axis is sought among those with
    8 samples or more.

    Examples
    --------
    >>> roi_plan((8, 32, 32), (5.0, 1.0, 1.0)).minimum_extent
    (15.0, 12.0, 12.0)
    >>> roi_plan((4, 32, 32), (1.0, 1.0, 1.0)).minimum_extent
    (4.0, 12.0, 12.0)
    """
    shortest = MINIMUM_VOXELS * finest_spacing(fine_spacing, size)
    z, y, x = (
        float(f"{min(max(shortest, MINIMUM_SLICES * spacing), samples * spacing):.5g}")
        for samples, spacing in zip(size, fine_spacing, strict=True)
    )
    return RoiPlan(size=size, margin=0.3, minimum_extent=(z, y, x))


def stage2_plan(size: Triple, fine_spacing: Spacing) -> Stage2Plan:
    """The RoI U-Net: an axis is pooled while it has at least 8 samples, an even number, and is not much coarser.

    An axis over 2 times coarser than the finest has kernel 1. The finest is sought among the axes that can be pooled.
    Scales that no axis would reach are dropped.

    Raises
    ------
    DetSeg3DError
        If no axis can be halved.

    Examples
    --------
    >>> stage2_plan((32, 32, 32), (1, 1, 1)).strides
    ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    >>> flat = stage2_plan((8, 32, 32), (3, 0.72, 0.72))
    >>> flat.strides, flat.kernels
    (((1, 2, 2), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)))
    """
    current, samples = list(fine_spacing), list(size)
    strides: list[Triple] = []
    kernels = [_kernel(current, samples)]
    for _ in STAGE2_CHANNELS[1:]:
        limit = _pooling_limit(current, samples)
        sz, sy, sx = (
            2 if _can_be_halved(n) and spacing <= limit else 1 for n, spacing in zip(samples, current, strict=True)
        )
        if max(sz, sy, sx) == 1:
            break
        strides.append((sz, sy, sx))
        samples = [n // stride for n, stride in zip(samples, strides[-1], strict=True)]
        current = [spacing * stride for spacing, stride in zip(current, strides[-1], strict=True)]
        kernels.append(_kernel(current, samples))
    if not strides:
        raise DetSeg3DError(
            "an RoI of this size cannot be halved along any axis",
            value=size,
            expected=f"an even number of samples, at least {SMALLEST_POOLED}, along the finest axis",
        )
    return Stage2Plan(channels=STAGE2_CHANNELS[: len(kernels)], strides=tuple(strides), kernels=tuple(kernels))


def _can_be_halved(samples: int) -> bool:
    return samples >= SMALLEST_POOLED and samples % 2 == 0


def _pooling_limit(spacing: Sequence[float], samples: Sequence[int]) -> float:
    """Spacing up to which axes go together: twice the finest of those that can be halved."""
    halved = [length for length, n in zip(spacing, samples, strict=True) if _can_be_halved(n)]
    return POOLING_RATIO * min(halved or spacing) * (1 + 1e-6)


def _kernel(spacing: Sequence[float], samples: Sequence[int]) -> Triple:
    limit = _pooling_limit(spacing, samples)
    z, y, x = (3 if length <= limit else 1 for length in spacing)
    return z, y, x


def choose_window(
    edge: int, detection_spacing: Spacing, scale: Sequence[float], total_stride: Sequence[int], largest: Triple
) -> Triple:
    """A window of about ``edge`` detection voxels of the finest axis, equal in mm on all axes, in fine voxels.

    The finest axis is sought among those with 8 voxels or more.

    Multiples of the total stride (on the detection grid), and never larger than the planned volume.

    Examples
    --------
    >>> choose_window(64, (1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 160, 128))
    (64, 64, 64)
    >>> choose_window(64, (3, 0.75, 0.75), (1, 1, 1), (8, 32, 32), (56, 330, 330))
    (16, 64, 64)
    """
    window = []
    finest = finest_spacing(detection_spacing, largest)
    for axis in range(3):
        cells = edge * finest / detection_spacing[axis] / total_stride[axis]
        limit = largest[axis] / scale[axis] / total_stride[axis]
        count = max(1, min(round(cells), math.floor(limit + 1e-6)))
        # Rounded down: a voxel more would be a cell more, and the window be padded by a whole stride.
        window.append(min(largest[axis], math.floor(count * total_stride[axis] * scale[axis] + 1e-6)))
    z, y, x = window
    return z, y, x


def choose_curriculum(
    detection_spacing: Spacing,
    scale: Sequence[float],
    total_stride: Sequence[int],
    largest: Triple,
    large_lesion: float = 0.0,
) -> tuple[CurriculumPhase, ...]:
    """Small windows, larger ones, whole volumes.

    Windows have about 48 and 96 detection voxels along the finest axis, and at least twice a large lesion. A window
    that is nearly the whole volume (80 % of its voxels), or no larger than the one before, joins its neighbours.

    Parameters
    ----------
    detection_spacing : 3 floats
    scale : 3 floats
        Fine voxels per detection voxel.
    total_stride : 3 ints
    largest : 3 ints
        Planned volume, fine voxels.
    large_lesion : float, optional
        Longest edge of a 95th-percentile lesion, mm.

    Examples
    --------
    >>> [phase.window for phase in choose_curriculum((1, 1, 1), (1, 1, 1), (16, 16, 16), (96, 160, 128))]
    [(48, 48, 48), (96, 96, 96), None]
    >>> [phase.fraction for phase in choose_curriculum((1, 1, 1), (1, 1, 1), (8, 8, 8), (40, 50, 40))]
    [1.0]
    """
    phases: list[tuple[float, Triple | None]] = []
    for base, share in zip(WINDOW_EDGES, SHARES, strict=False):
        edge = max(
            base, math.ceil(base / WINDOW_EDGES[0] * 2 * large_lesion / finest_spacing(detection_spacing, largest))
        )
        window = choose_window(edge, detection_spacing, scale, total_stride, largest)
        whole = math.prod(window) >= NEARLY_WHOLE * math.prod(largest)
        phases.append((share, None if whole else window))
    phases.append((SHARES[-1], None))
    (first, small), (second, larger) = phases[:2]
    if larger is None and small is not None:
        # No window between the small ones and whole volumes: both take half of its time.
        phases[:2] = [(first + second / 2, small), (second / 2, None)]
    merged: list[CurriculumPhase] = []
    for share, chosen in phases:
        if merged and merged[-1].window == chosen:
            merged[-1] = CurriculumPhase(fraction=round(merged[-1].fraction + share, 6), window=chosen)
        else:
            merged.append(CurriculumPhase(fraction=round(share, 6), window=chosen))
    return tuple(merged)


def smallest_lesion(volumes: npt.ArrayLike) -> float:
    """Volume that 99 % of the lesions reach, since one in a hundred may be a slip of the labels; 0 without any.

    Of up to a hundred lesions it is the smallest.

    Parameters
    ----------
    volumes : array_like, shape ``(N,)``
        In any unit.

    Examples
    --------
    >>> smallest_lesion([1.0] + [3.0] * 200), smallest_lesion([])
    (3.0, 0.0)
    """
    values = np.asarray(volumes, np.float64)
    return float(np.percentile(values, 1, method="lower")) if len(values) else 0.0
