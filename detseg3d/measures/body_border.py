"""Distance from a lesion to the border of the patient's body."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from detseg3d.core.arrays import Array, BoolArray, FloatArray
from detseg3d.core.body import channel_mask, drawn_values, plausible_range

__all__ = ["BodyBorder", "body_region"]

# The distances to the border are measured for this many points at a time.
_BATCH = 8
# Edge length in voxels of a corner of the volume, and the number of corners that air fills at least.
_CORNER = 3
_MIN_AIR_CORNERS = 2


@dataclass(frozen=True, eq=False)
class BodyBorder:
    """Border between the body and the space around it.

    Attributes
    ----------
    outside : ndarray of bool, shape ``(Z, Y, X)``
        Voxels around the body.
    matrix : ndarray of float64, shape ``(3, 3)``
        Column ``i`` is the step in mm from a voxel to the next voxel along array axis ``i``.
    tree : cKDTree
        Corners of voxels, in mm, at which the body and the space around it meet.
    """

    outside: BoolArray
    matrix: FloatArray
    tree: cKDTree

    @classmethod
    def of_scan(cls, images: Array, matrix: FloatArray) -> BodyBorder | None:
        """Return the border of the body in a scan, or ``None`` if the body fills the whole volume.

        Parameters
        ----------
        images : ndarray, shape ``(C, Z, Y, X)``
            Intensities in canonical order: z towards Superior.
        matrix : ndarray of float64, shape ``(3, 3)``
            Steps of the voxel grid in mm.
        """
        body = body_region(images)
        if body is None or body.all():
            return None
        places = np.argwhere(_meeting_corners(body)) @ matrix.T
        # Without compact nodes and balancing, searches from points deep in the body take an eighth of the time. The
        # distances are the same.
        return cls(~body, matrix, cKDTree(places, compact_nodes=False, balanced_tree=False))

    def distance_mm(self, mask: BoolArray, offset: tuple[int, int, int]) -> float:
        """Return the smallest distance from a lesion to the border of the body.

        The faces of voxels are exact borders: the distance is 0 if a voxel of the lesion touches a voxel outside the
        body, and if the lesion lies partly outside.

        Parameters
        ----------
        mask : ndarray of bool
            Box around the lesion.
        offset : tuple of 3 ints
            Index of the first voxel of the box in the volume.
        """
        box = tuple(slice(start, start + size) for start, size in zip(offset, mask.shape, strict=True))
        if np.any(self.outside[box] & mask):
            return 0.0
        # Of two voxels in one grid, the nearest points are corners, also if the voxels are shifted along one axis only.
        corners = np.argwhere(_border_corners(mask)) + offset
        return self._smallest_distance(corners @ self.matrix.T)

    def _smallest_distance(self, places: FloatArray) -> float:
        """Return the smallest distance of the points ``places`` to the border.

        The distance to the border changes by at most the length of a step. So each measured distance is a lower limit
        of the distance of all other points, and only few points need a search in the tree.
        """
        lower = np.zeros(len(places))
        smallest = np.inf
        while True:
            nearest = np.flatnonzero(lower < smallest)
            if len(nearest) == 0:
                return float(smallest)
            if len(nearest) > _BATCH:
                nearest = nearest[np.argpartition(lower[nearest], _BATCH)[:_BATCH]]
            distances, _ = self.tree.query(places[nearest])
            smallest = min(smallest, float(distances.min()))
            limits = distances[:, None] - cdist(places[nearest], places)
            lower = np.maximum(lower, limits.max(axis=0))
            lower[nearest] = np.inf


def body_region(images: Array) -> BoolArray | None:
    """Return an estimate of the voxels of the body, with air and fluid inside the body.

    Padding is outside the body. Air is separated from tissue by a threshold of Otsu's method in each channel that shows
    air. The tissue of all channels is combined. Channels without padding and air are ignored. The largest component of
    the tissue (6 neighbours) is the body, so noise, a table and clothes are left out if they do not touch the body.
    Dark regions that the body encloses in an axial slice belong to the body, for example lungs and bowel gas.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
        Intensities in canonical order: z towards Superior.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None`` if the scan has no padding, and no channel shows air.

    References
    ----------
    Otsu (1979), "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9(1).
    """
    tissue: BoolArray | None = None
    for channel in images:
        inside = channel_mask(channel)
        threshold = _air_threshold(channel, inside)
        brighter = inside if threshold is None else np.asarray(channel > threshold)
        if brighter is None:
            continue
        if inside is not None:
            brighter = brighter & inside
        tissue = brighter if tissue is None else np.logical_or(tissue, brighter, out=tissue)
    if tissue is None or not tissue.any():
        return None
    body: BoolArray = np.asarray(cc3d.largest_k(tissue, k=1, connectivity=6) != 0)
    # In three dimensions the lungs would be connected to the air outside through the windpipe.
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = ndimage.generate_binary_structure(2, 1)
    dark, count = ndimage.label(~body, structure)
    is_outside = np.zeros(count + 1, bool)
    for edge in (dark[:, 0], dark[:, -1], dark[:, :, 0], dark[:, :, -1]):
        is_outside[edge] = True
    is_outside[0] = False
    return np.asarray(~is_outside[dark])


def _air_threshold(channel: Array, inside: BoolArray | None) -> float | None:
    """Return the intensity between air and tissue, or ``None`` if a channel shows no air.

    A threshold of Otsu's method exists in every channel. The channel shows air only if the outermost voxels are clearly
    below the threshold: two corners of the volume, or most voxels beside the padding.
    """
    from skimage.filters import threshold_otsu  # slow to import

    values = drawn_values(channel, inside).astype(np.float64)
    values = np.clip(values, *plausible_range(values))
    if values.size == 0 or values.min() == values.max():
        return None
    threshold = float(threshold_otsu(values))
    limit = (threshold + float(values[values <= threshold].mean())) / 2
    if inside is None:
        ends = (slice(None, _CORNER), slice(-_CORNER, None))
        corners = [float(channel[corner].mean(dtype=np.float64)) for corner in product(ends, repeat=3)]
        shows_air = sum(mean < limit for mean in corners) >= _MIN_AIR_CORNERS
    else:
        rim = inside & ~ndimage.binary_erosion(inside, border_value=1)
        shows_air = bool(rim.any()) and float(np.median(channel[rim])) < limit
    return threshold if shows_air else None


def _meeting_corners(body: BoolArray) -> BoolArray:
    """Return the corners of voxels that touch both a voxel of the body and a voxel outside, one more along each axis.

    The border of the volume is not a border of the body, because the scan ends there and not the body.
    """
    return _touching_corners(body) & _touching_corners(~body)


def _border_corners(mask: BoolArray) -> BoolArray:
    """Return the corners of voxels on the border of a mask, also at the border of the array."""
    padded = np.pad(mask, 1)
    return (_touching_corners(padded) & _touching_corners(~padded))[1:-1, 1:-1, 1:-1]


def _touching_corners(mask: BoolArray) -> BoolArray:
    """Return the corners of voxels that touch at least one true voxel."""
    corners = np.zeros(np.add(mask.shape, 1), bool)
    for z, y, x in product((0, 1), repeat=3):
        corners[z : z + mask.shape[0], y : y + mask.shape[1], x : x + mask.shape[2]] |= mask
    return corners
