"""A later scan on the grid of an earlier scan, for pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import FloatArray
from detseg3d.core.geometry import Geometry
from detseg3d.core.rigid import RigidTransform
from detseg3d.data.image import Image
from detseg3d.follow.time_point import TimePoint

__all__ = ["image_on_grid", "instances_on_grid"]


def image_on_grid(image: Image, grid: Geometry, transform: RigidTransform) -> npt.NDArray[np.float32]:
    """Return the intensities of a scan on another grid by linear interpolation.

    Parameters
    ----------
    image : Image
    grid : Geometry
        Grid of the result.
    transform : RigidTransform
        Maps places on ``grid`` to places of ``image``.

    Returns
    -------
    ndarray of float32, shape ``grid.shape``
        Places outside the image have its lowest intensity.
    """
    array = np.nan_to_num(image.array.astype(np.float32))
    matrix, offset = _index_map(grid, image.geometry, transform)
    result: npt.NDArray[np.float32] = ndimage.affine_transform(
        array, matrix, offset, output_shape=grid.shape, order=1, mode="constant", cval=float(array.min())
    )
    return result


def instances_on_grid(point: TimePoint, grid: Geometry, transform: RigidTransform) -> npt.NDArray[Any]:
    """Return the instance map of a scan on another grid. A lesion keeps a voxel if its centre lies on that grid.

    Parameters
    ----------
    point : TimePoint
    grid : Geometry
        Grid of the result.
    transform : RigidTransform
        Maps places on ``grid`` to places of the instance map.

    Returns
    -------
    ndarray of int, shape ``grid.shape``
    """
    source = point.instances
    matrix, offset = _index_map(grid, source.geometry, transform)
    result: npt.NDArray[Any] = ndimage.affine_transform(
        source.array, matrix, offset, output_shape=grid.shape, order=0, mode="constant", cval=0
    )
    # Nearest neighbours may miss a small lesion.
    present = set(np.unique(result).tolist())
    back = transform.inverse()
    for number, cloud in point.clouds.items():
        if number not in present:
            centers = grid.world_to_voxel_edges(back.apply(cloud.world))
            voxels = np.floor(centers).astype(np.int64)
            inside = ((voxels >= 0) & (voxels < grid.shape)).all(axis=1)
            result[tuple(voxels[inside].T)] = number
    return result


def _index_map(grid: Geometry, source: Geometry, transform: RigidTransform) -> tuple[FloatArray, FloatArray]:
    """Return matrix and offset from voxel indices ``(z, y, x)`` of a grid to those of the source."""
    corners = np.concatenate([np.zeros((1, 3)), np.eye(3)]) + 0.5
    places = source.world_to_voxel_edges(transform.apply(grid.voxel_edges_to_world(corners))) - 0.5
    return np.stack([places[axis + 1] - places[0] for axis in range(3)], axis=1), places[0]
