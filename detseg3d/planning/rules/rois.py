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


# Each pair is a limit in fine voxels and the edge of the RoI in samples. The edge is used if the 75th percentile of the
# lesions' longest edges is at most the limit. With a margin of 0.3 on each side, one sample then represents at most
# 1.25 voxels, or 1.5 voxels of large lesions. Masks of large lesions are learned in half the time this way, and a voxel
# at the rim of a large lesion matters little (docs/research_log). Small lesions gain nothing from more than 24 samples,
# and a step with 32 samples costs 1.7 times as much. The few larger lesions are covered by several RoIs. If RoIs were
# sized for the 95th percentile, they would take most of the training time of a data set with mostly small lesions
# (docs/concepts).
ROI_EDGES = ((12.0, 24), (25.0, 32), (45.0, 48), (math.inf, 64))
DEFAULT_ROI_EDGE = 32
SAME_SPACING = 4 / 3  # Spacings with a smaller ratio count as equal.
MIN_EXTENT_VOXELS = 12
MIN_EXTENT_SLICES = 3
MAX_ROI_SAMPLES = 32 * 24**3  # Samples of all RoIs of a window, because they need memory.
MIN_POOLED_SAMPLES = 8


def choose_roi_edge(longest_voxels: npt.ArrayLike) -> tuple[int, float]:
    """Choose the edge of the RoI along the finest axis.

    Parameters
    ----------
    longest_voxels : array_like, shape ``(N,)``
        Longest edge of each lesion in fine voxels.

    Returns
    -------
    edge : int
        Samples.
    large : float
        The 75th percentile of ``longest_voxels``, which decides the edge.

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
    """Return the samples of an RoI along each axis.

    The finest axis has ``edge`` samples. Coarser axes have fewer samples, a multiple of 4 and at least 8. No axis has
    more samples than the planned volume has voxels, but every axis has at least 4. Only an axis with 8 voxels or more
    can be the finest axis.

    Parameters
    ----------
    edge : int
        Samples along the finest axis.
    fine_spacing : 3 floats
        In mm.
    shape : 3 ints
        Planned volume in fine voxels.

    Returns
    -------
    3 ints
        ``(z, y, x)``.

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
    """Return the samples along each axis for an edge that the user requests.

    The rule of :func:`choose_roi_size` holds, but only an axis of fewer than 8 voxels limits the samples.

    Examples
    --------
    >>> requested_roi_size(32, (1, 1, 1), (20, 20, 20)), requested_roi_size(32, (1, 1, 1), (1, 512, 512))
    ((32, 32, 32), (4, 32, 32))
    """
    z, y, x = (voxels if voxels < MIN_POOLED_SAMPLES else max(voxels, edge) for voxels in shape)
    return choose_roi_size(edge, fine_spacing, (z, y, x))


def choose_min_rois_per_window(size: Triple) -> int:
    """Choose the smallest number of RoIs that a training step draws from a window: 4, or 3 if RoIs are large.

    If RoIs are large, lesions are large and a scan has few of them. Four RoIs of 48³ samples would take far longer than
    the detector.

    Examples
    --------
    >>> [choose_min_rois_per_window(size) for size in ((32, 32, 32), (8, 32, 32), (48, 48, 48))]
    [4, 4, 3]
    """
    return int(min(4, max(3, round(4 * DEFAULT_ROI_EDGE**3 / math.prod(size)))))


def choose_roi_batch(size: Triple) -> int:
    """Choose the number of RoIs that Stage 2 predicts together: 16, or fewer if an RoI has over 32³ samples.

    16 RoIs of 64³ samples need 1.4 GB in float32 (measured on a CPU), 16 RoIs of 32³ samples need 0.18 GB.

    Examples
    --------
    >>> choose_roi_batch((24, 24, 24)), choose_roi_batch((48, 28, 28)), choose_roi_batch((64, 64, 64))
    (16, 13, 2)
    """
    return max(1, min(16, 16 * DEFAULT_ROI_EDGE**3 // math.prod(size)))


def rois_of_window(training: TrainingPlan, size: Triple, voxels: float) -> int:
    """Return the number of RoIs that a training step draws from a window or a volume.

    The number is at least ``min_rois_per_window``. A large window gets more RoIs, until their samples add up to
    ``roi_voxel_fraction`` of the voxels that Stage 1 sees, but at most to 32 · 24³ samples. In a large window, more
    RoIs cost little time compared with Stage 1 and show more errors of Stage 1.

    Parameters
    ----------
    training : TrainingPlan
    size : 3 ints
        Samples of an RoI.
    voxels : float
        Voxels of the window on the detection grid.

    Returns
    -------
    int

    Examples
    --------
    >>> training = TrainingPlan(curriculum=({"fraction": 1, "window": None},))
    >>> [rois_of_window(training, (24, 24, 24), edge**3) for edge in (48, 96, 128, 512)]
    [4, 8, 19, 32]
    """
    samples = min(training.roi_voxel_fraction * voxels, MAX_ROI_SAMPLES)
    return max(training.min_rois_per_window, round(samples / math.prod(size)))


def roi_plan(size: Triple, fine_spacing: Spacing) -> RoiPlan:
    """Plan the RoI with its minimum extent.

    The minimum extent is 12 voxels of the finest axis in mm, and at least 3 voxels of each axis. The minimum extent is
    never more than one voxel per sample, which matters along an axis with few slices. Only an axis with 8 samples or
    more can be the finest axis.

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
