"""Measure the agreement of two surfaces, with a weight of each piece of surface by its area.

A surface runs between the voxels. Eight voxels lie around each corner of the voxel grid. If some of them are inside the
mask and others outside, a piece of the surface passes between these voxels. The piece consists of the triangles of
marching cubes for this pattern. Each corner represents its piece, with the area of the triangles. Distances are
measured from corner to corner.

This is the definition of Nikolov et al. (2021), "Clinically applicable segmentation of head and neck anatomy for
radiotherapy", JMIR 23(7), and of their library surface-distance, https://github.com/google-deepmind/surface-distance.
The library is not used because it stores distances of the whole volume, while this module measures surface points only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.definitions.surfaces import common_bounds
from detseg3d.evaluation.limits import within

__all__ = ["area_surface_metrics", "element_areas", "surface_elements"]


_PATTERNS = 256
_SHARE = 0.95


@dataclass(frozen=True)
class SurfaceElements:
    """Surface of a mask in pieces.

    Attributes
    ----------
    points : ndarray of float64, shape ``(N, 3)``
        Corners of the voxel grid ``(z, y, x)`` in millimetres.
    areas : ndarray of float64, shape ``(N,)``
        Area of the piece of surface around each corner in mm².
    """

    points: FloatArray
    areas: FloatArray


@dataclass(frozen=True)
class AreaSurfaceMetrics:
    """Agreement of two surfaces, weighted by area.

    Attributes
    ----------
    nsd : float
        Share of the area of both surfaces that lies within the tolerance of the other surface, 0 to 1.
    hd95_mm : float
        The larger of two distances, one for each surface. 95 % of the area of a surface lies within its distance of the
        other surface.
    """

    nsd: float
    hd95_mm: float


@cache
def _triangle_normals() -> tuple[FloatArray, ...]:
    """Return the normal vectors of the triangles of each pattern of eight voxels. Their length is the area."""
    from skimage.measure import marching_cubes

    nothing = np.zeros((0, 3))
    normals = []
    for pattern in range(_PATTERNS):
        inside = [pattern >> (7 - corner) & 1 for corner in range(8)]
        # Treat the side with fewer voxels as inside. Voxels of this side that meet only in an edge or corner are not
        # connected, as in the library.
        few = inside if sum(inside) <= 4 else [1 - value for value in inside]
        if not any(few):
            normals.append(nothing)
            continue
        cube = np.reshape(few, (2, 2, 2)).astype(np.float64)
        vertices, faces, _, _ = marching_cubes(cube, 0.5, method="lorensen")
        triangles = vertices[faces].astype(np.float64)
        normals.append(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]) / 2)
    return tuple(normals)


def element_areas(spacing: Sequence[float]) -> FloatArray:
    """Return the area of the piece of surface around a corner, for each pattern of eight voxels.

    Parameters
    ----------
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Returns
    -------
    ndarray of float64, shape ``(256,)``
        Areas in mm². A pattern is a number of eight bits, one for each voxel. The highest bit belongs to the voxel
        before the corner on all axes, the lowest bit to the voxel behind the corner; x runs fastest.

    Examples
    --------
    A plane that separates four voxels from four voxels has the area of one side of a voxel:

    >>> float(element_areas((3.0, 2.0, 1.0))[0b11110000])
    2.0
    """
    z, y, x = (float(value) for value in spacing)
    scale = np.array([y * x, z * x, z * y])
    return np.array([np.linalg.norm(normals * scale, axis=1).sum() for normals in _triangle_normals()])


def surface_elements(mask: npt.NDArray[Any], spacing: Sequence[float]) -> SurfaceElements:
    """Return the surface of a mask in pieces. All points outside the volume are outside the mask.

    Parameters
    ----------
    mask : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Examples
    --------
    A single voxel has eight corners, each with one triangle:

    >>> elements = surface_elements(np.ones((1, 1, 1)), (1.0, 1.0, 1.0))
    >>> len(elements.points), round(float(elements.areas.sum()), 3)
    (8, 1.732)
    """
    padded = np.pad(mask != 0, 1).astype(np.uint8)
    pattern = np.zeros([size - 1 for size in padded.shape], np.uint8)
    for corner in range(8):
        start = (corner >> 2 & 1, corner >> 1 & 1, corner & 1)
        part = tuple(slice(first, first + size) for first, size in zip(start, pattern.shape, strict=True))
        pattern |= padded[part] << np.uint8(7 - corner)
    places = np.argwhere((pattern != 0) & (pattern != _PATTERNS - 1))
    areas = element_areas(spacing)[pattern[tuple(places.T)]]
    return SurfaceElements(places.astype(np.float64) * np.asarray(spacing, np.float64), areas)


def area_surface_metrics(
    truth: npt.NDArray[Any], prediction: npt.NDArray[Any], spacing: Sequence[float], tolerance_mm: float = 1.0
) -> AreaSurfaceMetrics:
    """Return surface Dice and 95th percentile Hausdorff distance, weighted by area.

    Empty masks are treated as in :func:`~detseg3d.evaluation.definitions.surfaces.surface_metrics`.

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

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 8))
    >>> truth[0, 0, 0:4], prediction[0, 0, 2:6] = 1, 1
    >>> metrics = area_surface_metrics(truth, prediction, (1.0, 1.0, 2.0), tolerance_mm=2.0)
    >>> round(metrics.nsd, 3), metrics.hd95_mm
    (0.925, 4.0)
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} have different shapes")
    region = common_bounds(truth, prediction)
    first, second = (surface_elements(mask[region], spacing) for mask in (truth, prediction))
    if len(first.points) == 0 and len(second.points) == 0:
        return AreaSurfaceMetrics(1.0, 0.0)
    if len(first.points) == 0 or len(second.points) == 0:
        diagonal = np.linalg.norm(np.asarray(truth.shape) * np.asarray(spacing, np.float64))
        return AreaSurfaceMetrics(0.0, float(diagonal))
    near, total, farthest = 0.0, 0.0, 0.0
    for own, other in ((first, second), (second, first)):
        distances = cKDTree(other.points).query(own.points)[0]
        near += float(own.areas[within(distances, tolerance_mm)].sum())
        total += float(own.areas.sum())
        farthest = max(farthest, _distance_of_share(distances, own.areas))
    return AreaSurfaceMetrics(near / total, farthest)


def _distance_of_share(distances: FloatArray, areas: FloatArray) -> float:
    """Return the smallest distance within which 95 % of the area lies.

    The areas are summed in the order of the library surface-distance, so that a share of exactly 95 % is rounded as in
    the library.
    """
    order = np.lexsort((areas, distances))
    reached = np.searchsorted(np.cumsum(areas[order]) / np.sum(areas[order]), _SHARE)
    return float(distances[order][min(int(reached), len(order) - 1)])
