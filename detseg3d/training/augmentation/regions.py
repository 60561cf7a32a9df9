"""Replacement of regions without lesions: beyond the scan, boxes, and everything beyond a surface.

A region beyond a surface imitates a scan whose skull was removed, a scan masked to the body, or the end of the field of
view. No region contains or touches a lesion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.affine import AffineMap, source_region
from detseg3d.training.augmentation.operators import blur_widely, smooth_field, widen
from detseg3d.training.augmentation.table import AugmentationTable, Change

__all__ = ["Source", "air_of", "replace_regions"]

# Edge of the blocks in the corners of a scan. The lowest intensity in them is taken for air.
_CORNER = 8
# Fractions of the fillings: air, and blurred tissue. The other windows get a constant intensity of the window.
_AIR_FRACTION = 0.6
_BLURRED_FRACTION = 0.25
# Blur of the tissue in multiples of the finest voxel edge.
_TISSUE_BLUR = 5.0
# Fraction of surfaces that are ellipsoids around the middle of the scan.
_ELLIPSOID_FRACTION = 0.6
# Standard deviation of an irregular surface, as a fraction of half of the scan or window.
_ROUGHNESS = 0.06
_ROUGHNESS_LENGTH = 20.0
# Distance between lesions and a surface, as a fraction of half of the scan or window.
_DISTANCE = 0.05
_MAX_BOXES = 4


@dataclass(frozen=True)
class Source:
    """The stored scan of a window.

    Attributes
    ----------
    shape : tuple of 3 ints
        Shape of the scan, ``(z, y, x)``.
    spacing : tuple of 3 floats
        Voxel size of scan and window, ``(z, y, x)``.
    affine : AffineMap
        Map from the window to the scan.
    air : ndarray of float32, shape ``(C,)``
        Intensity of air in each channel, see :func:`air_of`.
    """

    shape: Sequence[int]
    spacing: Sequence[float]
    affine: AffineMap
    air: npt.NDArray[np.float32]

    def places(self, axis: int, window: Sequence[int]) -> torch.Tensor:
        """Return where each voxel of the window lies along an axis of the scan, in voxel edges.

        The result has the shape of the window, or one voxel along the axes on which it does not depend.
        """
        place = torch.full((1, 1, 1), float(self.affine.center[axis]))
        for other in range(3):
            step = self.affine.matrix[axis, other]
            if step:
                offsets = (np.arange(window[other]) + 0.5 - window[other] / 2) * step
                place = place + tensor_of(offsets, np.float32).reshape([-1 if k == other else 1 for k in range(3)])
        return place

    def distance_from_middle(self, window: Sequence[int]) -> torch.Tensor:
        """Return the distance of each voxel of the window from the middle of the scan.

        1 is the distance of the ellipsoid that touches the six sides of the scan.
        """
        total = torch.zeros(tuple(window))
        for axis in range(3):
            total += (self.places(axis, window) / (self.shape[axis] / 2) - 1).square()
        return total.sqrt_()

    def is_beyond(self, window: Sequence[int]) -> torch.Tensor | None:
        """Return the voxels of the window that lie outside the scan; ``None`` if there are none."""
        low, high = source_region(self.affine, window)
        if np.all(low >= -1) and np.all(high <= np.asarray(self.shape) + 1):
            return None
        beyond = torch.zeros(tuple(window), dtype=torch.bool)
        for axis in range(3):
            place = self.places(axis, window)
            beyond |= (place < 0) | (place > self.shape[axis])
        return beyond


def air_of(image: Any) -> npt.NDArray[np.float32]:
    """Return the lowest intensity of each channel in the eight corners of a scan: usually air or padding.

    Parameters
    ----------
    image : array-like, shape ``(C, Z, Y, X)``
        Anything that can be sliced; only blocks of 8 voxels are read.

    Returns
    -------
    ndarray of float32, shape ``(C,)``
    """
    ends = (slice(0, _CORNER), slice(-_CORNER, None))
    corners = [np.asarray(image[:, z, y, x]).min(axis=(1, 2, 3)) for z in ends for y in ends for x in ends]
    lowest: npt.NDArray[np.float32] = np.min(corners, axis=0).astype(np.float32)
    return lowest


def replace_regions(
    image: torch.Tensor,
    air: torch.Tensor,
    instances: npt.NDArray[np.int32],
    source: Source,
    table: AugmentationTable,
    random: np.random.Generator,
) -> torch.Tensor:
    """Fill the part beyond the scan, some boxes, or everything beyond a surface. Each happens in some windows.

    Parameters
    ----------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    air : Tensor of float32, shape ``(C,)``
        Intensity of air in the window.
    instances : ndarray of int32, shape ``(Z, Y, X)``
    source : Source
    table : AugmentationTable
    random : numpy Generator

    Returns
    -------
    Tensor of float32, shape ``(C, Z, Y, X)``
    """
    if table.beyond.happens(random):
        beyond = source.is_beyond(image.shape[1:])
        if beyond is not None:
            image = torch.where(beyond, air[:, None, None, None], image)
    if table.cut_outs.happens(random):
        filling = _filling(image, air, source.spacing, random).expand_as(image)
        image = image.clone()
        for z, y, x in _draw_boxes(instances, table.cut_outs, random):
            image[:, z, y, x] = filling[:, z, y, x]
    if table.outside.happens(random):
        distance = _draw_surface(source, image.shape[1:], random)
        limit = table.outside.size(random) if distance.is_ellipsoid else float(random.uniform(-0.5, 0.9))
        lesions = distance.values[widen(tensor_of(instances > 0, np.float32)[None])[0] > 0]
        if len(lesions):
            limit = max(limit, float(lesions.max()) + _DISTANCE)
        beyond = distance.values > limit
        if bool(beyond.any()):
            image = torch.where(beyond, _filling(image, air, source.spacing, random), image)
    return image


@dataclass(frozen=True)
class _Distance:
    """Distance of each voxel of a window, and whether it is measured from the middle of the scan."""

    values: torch.Tensor
    is_ellipsoid: bool


def _draw_surface(source: Source, window: Sequence[int], random: np.random.Generator) -> _Distance:
    """Draw an irregular surface, as the distance of each voxel along its normal."""
    is_ellipsoid = bool(random.random() < _ELLIPSOID_FRACTION)
    if is_ellipsoid:
        distance = source.distance_from_middle(window)
    else:
        # The end of the field of view lies across an axis; other cuts are oblique.
        normal = random.normal(size=3)
        if random.random() < 0.5:
            normal = np.eye(3)[int(random.integers(3))] * random.choice((-1, 1))
        normal /= np.abs(normal).sum()
        distance = torch.zeros(tuple(window))
        for axis in range(3):
            places = (2 * np.arange(window[axis]) + 1) / window[axis] - 1
            size = [-1 if k == axis else 1 for k in range(3)]
            distance += tensor_of(normal[axis] * places, np.float32).reshape(size)
    if is_ellipsoid or random.random() < 0.5:
        lengths = [_ROUGHNESS_LENGTH * min(source.spacing) / step for step in source.spacing]
        distance += _ROUGHNESS * smooth_field(window, lengths, random)[0]
    return _Distance(distance, is_ellipsoid)


def _filling(
    image: torch.Tensor, air: torch.Tensor, spacing: Sequence[float], random: np.random.Generator
) -> torch.Tensor:
    """Draw the filling of a region, with the shape of the image or ``(C, 1, 1, 1)``."""
    kind = random.random()
    if kind < _AIR_FRACTION:
        return air[:, None, None, None]
    if kind < _AIR_FRACTION + _BLURRED_FRACTION:
        return blur_widely(image, [_TISSUE_BLUR * min(spacing) / step for step in spacing])
    share = tensor_of(random.uniform(0, 1, len(image)), np.float32)
    return torch.lerp(air, image.amax(dim=(1, 2, 3)), share)[:, None, None, None]


def _draw_boxes(
    instances: npt.NDArray[np.int32], cut_outs: Change, random: np.random.Generator
) -> list[tuple[slice, slice, slice]]:
    """Draw boxes of the window that neither contain nor touch a lesion."""
    boxes = []
    for _ in range(int(random.integers(1, _MAX_BOXES + 1))):
        box = []
        for length in instances.shape:
            edge = max(1, round(cut_outs.size(random) * length))
            first = int(random.integers(1 - edge, length))
            box.append(slice(max(0, first), min(length, first + edge)))
        z, y, x = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
        if not instances[z, y, x].any():
            boxes.append((box[0], box[1], box[2]))
    return boxes
