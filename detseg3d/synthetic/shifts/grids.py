"""Images and lesions on another grid, without loss of visible lesions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import AnyFloatArray, FloatArray, as_spacing, as_triple
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.scan import Scan

__all__ = ["AxisWeights", "Occupancy", "place_lesions", "regrid", "resample_axes"]


@dataclass(frozen=True)
class Occupancy:
    """The share of each voxel of a part of a grid that one lesion fills.

    Attributes
    ----------
    number : int
        Number of the lesion.
    corner : tuple of 3 ints
        First voxel of the part.
    share : ndarray of float, shape ``(Z, Y, X)``
        0 to 1.
    """

    number: int
    corner: tuple[int, int, int]
    share: AnyFloatArray


@dataclass(frozen=True)
class AxisWeights:
    """Linear maps from the voxels of an axis to the voxels of a new axis over the same length.

    Attributes
    ----------
    image : ndarray of float64, shape ``(new, old)``
        Weights for intensities.
    label : ndarray of float64, shape ``(new, old)``
        Non-negative weights for lesions. The rows of both arrays have the sum 1.
    """

    image: FloatArray
    label: FloatArray


def place_lesions(occupancies: Iterable[Occupancy], shape: Sequence[int]) -> npt.NDArray[np.int32]:
    """Return the instance map of lesions that fill shares of voxels.

    A voxel belongs to a lesion that fills at least half of it. Some lesions fill no voxel by half, for example lesions
    thinner than a slice. Such a lesion gets its fullest voxel and all voxels that it fills at least half as much.

    If two lesions claim a voxel, the lesion with the larger share gets it. A lesion that would lose all its voxels in
    this way keeps its fullest voxel that is not the only voxel of another lesion. Two lesions that share their only
    voxel become one lesion.

    Parameters
    ----------
    occupancies : iterable of Occupancy
    shape : 3 ints

    Returns
    -------
    ndarray of int32, shape ``(Z, Y, X)``
    """
    known = list(occupancies)
    instances = np.zeros(as_triple(shape), np.int32)
    best = np.zeros(instances.shape, np.float32)
    for lesion in known:
        highest = float(lesion.share.max(initial=0.0))
        if highest <= 0:
            continue
        window = _window(lesion)
        claims = (lesion.share >= 0.5 * min(1.0, highest)) & (lesion.share > best[window])
        instances[window][claims] = lesion.number
        best[window][claims] = lesion.share[claims]
    counts = np.bincount(instances.ravel(), minlength=1 + max((lesion.number for lesion in known), default=0))
    for lesion in known:
        if counts[lesion.number] == 0:
            _claim_a_voxel(lesion, instances, counts)
    return instances


def _window(lesion: Occupancy) -> tuple[slice, slice, slice]:
    z, y, x = (slice(first, first + length) for first, length in zip(lesion.corner, lesion.share.shape, strict=True))
    return z, y, x


def _claim_a_voxel(lesion: Occupancy, instances: npt.NDArray[np.int32], counts: npt.NDArray[np.intp]) -> None:
    """Give a lesion its fullest voxel that is not the only voxel of another lesion."""
    part = instances[_window(lesion)]
    for place in np.argsort(-lesion.share, axis=None):
        voxel = np.unravel_index(place, part.shape)
        if lesion.share[voxel] <= 0:
            return
        owner = int(part[voxel])
        if owner and counts[owner] < 2:
            continue
        counts[owner] -= 1
        counts[lesion.number] += 1
        part[voxel] = lesion.number
        return


def resample_axes(scan: Scan, weights: Sequence[AxisWeights | None]) -> Scan:
    """Return the scan on a grid with other voxels over the same field of view.

    Parameters
    ----------
    scan : Scan
    weights : 3 AxisWeights or None
        For the axes z, y, x; ``None`` keeps an axis.
    """
    images = scan.images
    for axis, change in enumerate(weights):
        if change is not None:
            images = np.moveaxis(np.tensordot(change.image.astype(np.float32), images, (1, axis + 1)), 0, axis + 1)
    limits = ((channel.min(), channel.max()) for channel in scan.images)
    images = np.stack([np.clip(channel, *pair) for channel, pair in zip(images, limits, strict=True)])
    shape = as_triple(images.shape[1:])
    lengths = np.array(scan.instances.shape) * scan.geometry.spacing
    geometry = regrid(scan.geometry, (0.0, 0.0, 0.0), shape, (lengths / shape).tolist())
    instances = place_lesions(_resampled_lesions(scan.instances, weights), shape)
    return replace(scan, images=images, instances=instances, geometry=geometry)


def _resampled_lesions(instances: npt.NDArray[np.int32], weights: Sequence[AxisWeights | None]) -> Iterable[Occupancy]:
    ids, boxes = boxes_from_instances(instances)
    for number, box in zip(ids.tolist(), boxes, strict=True):
        window = box_slices(box)
        share = (instances[window] == number).astype(np.float32)
        corner = [part.start for part in window]
        for axis, change in enumerate(weights):
            if change is None:
                continue
            part = change.label[:, window[axis]]
            rows = np.flatnonzero(part.any(axis=1))
            corner[axis] = int(rows[0])
            part = part[rows[0] : rows[-1] + 1].astype(np.float32)
            share = np.moveaxis(np.tensordot(part, share, (1, axis)), 0, axis)
        yield Occupancy(int(number), as_triple(corner), share)


def interpolation(old: int, new: int) -> AxisWeights:
    """Return weights that interpolate ``old`` voxels at ``new`` voxels over the same length: cubic B-splines."""

    def zoomed(order: int) -> FloatArray:
        return np.asarray(ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True))

    return AxisWeights(zoomed(3), zoomed(1))


def regrid(geometry: Geometry, start: Sequence[float], shape: Sequence[int], spacing: Sequence[float]) -> Geometry:
    """Return the geometry of a grid in the same directions.

    Parameters
    ----------
    geometry : Geometry
    start : 3 floats
        Low corner of the new grid in voxel edges of ``geometry``, ``(z, y, x)``.
    shape : 3 ints
    spacing : 3 floats
        Of the new grid in mm, ``(z, y, x)``.
    """
    factor = np.asarray(spacing, np.float64) / geometry.spacing
    origin = geometry.voxel_edges_to_world([np.asarray(start) + factor / 2])[0]
    affine = None
    if geometry.affine is not None:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = geometry.index_to_world()[0] * factor[::-1], origin
        affine = tuple(matrix.ravel().tolist())
    return Geometry(as_triple(shape), as_spacing(spacing), as_spacing(origin), geometry.direction, affine)
