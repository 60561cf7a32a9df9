"""Measure the distances between the surfaces of two masks, in millimetres.

The surface of a mask consists of the voxels that have a face neighbour outside the mask. All voxels outside the volume
are outside the mask. Distances are measured between voxel centres. They are computed with nearest-neighbour trees of
the surface voxels, so the computing time depends on the size of the lesions, not on the size of the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.evaluation.limits import within

__all__ = ["common_bounds", "directed_distances", "surface_metrics", "surface_voxels"]


@dataclass(frozen=True)
class SurfaceMetrics:
    """Agreement of two surfaces.

    Attributes
    ----------
    nsd : float
        Normalised surface Dice, 0 to 1: share of both surfaces that lies within the tolerance of the other surface.
    hd95_mm : float
        95th percentile of the Hausdorff distance: the larger of the percentiles of both directions.
    assd_mm : float
        Average symmetric surface distance: mean over the surface voxels of both masks together.
    masd_mm : float
        Mean average surface distance: mean over the surface voxels of each mask, then the mean of both.
    """

    nsd: float
    hd95_mm: float
    assd_mm: float
    masd_mm: float


def surface_voxels(mask: npt.NDArray[Any]) -> IntArray:
    """Return the indices of the voxels of a mask that have a face neighbour outside it.

    Parameters
    ----------
    mask : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.

    Returns
    -------
    ndarray of int64, shape ``(N, 3)``
        Indices ``(z, y, x)``, in the order of the array.

    Examples
    --------
    The surface of a cube of 3³ voxels has all voxels except the middle voxel:

    >>> len(surface_voxels(np.ones((3, 3, 3))))
    26
    """
    inside = np.pad(mask != 0, 1)
    middle = (slice(1, -1),) * 3
    enclosed = inside[middle].copy()
    for axis in range(3):
        for shift in (slice(None, -2), slice(2, None)):
            shifted = (*middle[:axis], shift, *middle[axis + 1 :])
            enclosed &= inside[shifted]
    return np.argwhere(inside[middle] & ~enclosed)


def surface_metrics(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], spacing: Sequence[float], tolerance_mm: float = 1.0
) -> SurfaceMetrics:
    """Return surface Dice, 95th percentile Hausdorff distance and average surface distances of two masks.

    If both masks are empty, NSD is 1 and the distances are 0. If only one mask is empty, NSD is 0 and the distances are
    the diagonal of the volume, so that an empty prediction has no advantage.

    Parameters
    ----------
    truth, prediction : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    tolerance_mm : float, optional
        Distance up to which two surfaces agree.

    Raises
    ------
    ValueError
        If the shapes differ.

    Notes
    -----
    Each surface voxel counts equally. Nikolov et al. weight surface elements by their area, see
    :func:`~detseg3d.evaluation.definitions.surface_elements.area_surface_metrics`. HD95 is the larger of the
    percentiles of both directions, with linear interpolation between ranks. The symmetric average distance of MONAI is
    the ASSD. The distance that medpy and panoptica call ASSD is the MASD.

    References
    ----------
    NSD: Nikolov et al. (2021), "Clinically applicable segmentation of head and neck anatomy for radiotherapy", JMIR
    23(7). HD95: Huttenlocher et al. (1993), "Comparing images using the Hausdorff distance", TPAMI 15(9). Percentile,
    ASSD and MASD: Maier-Hein et al. (2024), "Metrics reloaded", Nature Methods 21.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 8))
    >>> truth[0, 0, 0:4], prediction[0, 0, 2:6] = 1, 1
    >>> metrics = surface_metrics(truth, prediction, (1.0, 1.0, 2.0), tolerance_mm=2.0)
    >>> metrics.nsd, round(metrics.hd95_mm, 3)
    (0.75, 3.7)
    """
    to_prediction, to_truth = directed_distances(truth, prediction, spacing)
    if len(to_prediction) == 0 and len(to_truth) == 0:
        return SurfaceMetrics(1.0, 0.0, 0.0, 0.0)
    if not np.isfinite(to_prediction).all() or not np.isfinite(to_truth).all():
        diagonal = float(np.linalg.norm(np.asarray(truth.shape) * np.asarray(spacing, np.float64)))
        return SurfaceMetrics(0.0, diagonal, diagonal, diagonal)
    near = sum(np.count_nonzero(within(distances, tolerance_mm)) for distances in (to_prediction, to_truth))
    return SurfaceMetrics(
        nsd=float(near / (len(to_prediction) + len(to_truth))),
        hd95_mm=float(max(np.percentile(to_prediction, 95), np.percentile(to_truth, 95))),
        assd_mm=float(np.concatenate([to_prediction, to_truth]).mean()),
        masd_mm=float((to_prediction.mean() + to_truth.mean()) / 2),
    )


def directed_distances(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], spacing: Sequence[float]
) -> tuple[FloatArray, FloatArray]:
    """Return the distance in mm of each surface voxel to the nearest surface voxel of the other mask.

    Parameters
    ----------
    truth, prediction : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Returns
    -------
    from_truth, from_prediction : ndarray of float64, shape ``(T,)`` and ``(P,)``
        Distances; infinite if the other mask is empty.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} have different shapes")
    scale = np.asarray(spacing, np.float64)
    region = common_bounds(truth, prediction)
    first, second = (surface_voxels(mask[region]) * scale for mask in (truth, prediction))
    if len(first) == 0 or len(second) == 0:
        return np.full(len(first), np.inf), np.full(len(second), np.inf)
    return cKDTree(second).query(first)[0], cKDTree(first).query(second)[0]


def common_bounds(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> tuple[slice, slice, slice]:
    """Return the smallest box that contains both masks. Cropping to this box keeps the surfaces."""
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(first.any(axis=others) | second.any(axis=others))
        slices.append(slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 0))
    z, y, x = slices
    return z, y, x
