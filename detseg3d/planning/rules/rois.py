"""Rules for the RoIs: their size, their smallest extent, and their number in training and inference."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.planning.rules.grids import finest_spacing
from detseg3d.planning.sections import RoiPlan, TrainingPlan

__all__ = [
    "MIN_POOLED_SAMPLES",
    "choose_min_rois_per_window",
    "choose_roi_batch",
    "choose_roi_edge",
    "choose_roi_size",
    "requested_roi_size",
    "roi_plan",
    "rois_of_window",
]


# Edge of the RoI for a 75th-percentile lesion of up to so many fine voxels; with the margin of 0.3 a side, one sample
# then stands for at most 1.25 voxels, of large lesions for 1.5: their masks are learned in half the time, and a voxel
# more or less at the rim matters little there (docs/research_log). Small lesions gain nothing from more samples than
# 24, and a step costs 1.7 times as much with 32. The few larger lesions are covered by several RoIs. Sized for the 95th
# percentile instead, the RoIs of a set of mostly small lesions would take most of the training's time (docs/concepts).
ROI_EDGES = ((12.0, 24), (25.0, 32), (45.0, 48), (math.inf, 64))
DEFAULT_ROI_EDGE = 32
SAME_SPACING = 4 / 3  # axes whose spacings differ by less count as equal
MIN_EXTENT_VOXELS = 12
MIN_EXTENT_SLICES = 3
MAX_ROI_SAMPLES = 32 * 24**3  # of a window's RoIs in all, unless the plan asks for more of them: they take memory
MIN_POOLED_SAMPLES = 8


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
        size.append(min(samples, max(4, voxels if voxels < MIN_POOLED_SAMPLES else voxels // 4 * 4)))
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
    z, y, x = (voxels if voxels < MIN_POOLED_SAMPLES else max(voxels, edge) for voxels in shape)
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
    >>> training = TrainingPlan(curriculum=({"fraction": 1, "window": None},))
    >>> [rois_of_window(training, (24, 24, 24), edge**3) for edge in (48, 96, 128, 512)]
    [4, 8, 19, 32]
    """
    samples = min(training.roi_voxel_fraction * voxels, MAX_ROI_SAMPLES)
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
    shortest = MIN_EXTENT_VOXELS * finest_spacing(fine_spacing, size)
    z, y, x = (
        float(f"{min(max(shortest, MIN_EXTENT_SLICES * spacing), samples * spacing):.5g}")
        for samples, spacing in zip(size, fine_spacing, strict=True)
    )
    return RoiPlan(size=size, margin=0.3, minimum_extent=(z, y, x))
