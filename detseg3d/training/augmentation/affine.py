"""Read one window through a single affine map, so that each voxel is interpolated once.

The affine map is composed into the grid at which the stored volume is read; image and instance map go through the
same grid. Boxes are never augmented: they are derived from the augmented instance map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from torch.nn import functional

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.table import AugmentationTable

__all__ = ["AffineMap", "draw_affine", "read_window", "source_region"]

# Two axes whose spacings differ by more than this factor are not rotated into each other.
_ROTATION_ANISOTROPY = 2.0
# Larger windows are only flipped: interpolating a whole CT takes longer than the training step.
_MAX_INTERPOLATED_VOXELS = 8_000_000


@dataclass(frozen=True)
class AffineMap:
    """Map from a window to the stored volume, around the centre of the window.

    Attributes
    ----------
    center : ndarray of float64, shape ``(3,)``
        Centre of the window in the volume, in voxel edges ``(z, y, x)``.
    matrix : ndarray of float64, shape ``(3, 3)``
        Maps offsets in the window to offsets in the volume, in voxels ``(z, y, x)``.
    interpolate : bool
        False if the map only shifts by whole voxels and flips. The voxels are then copied.
    """

    center: npt.NDArray[np.float64]
    matrix: npt.NDArray[np.float64]
    interpolate: bool


def draw_affine(
    center: npt.ArrayLike,
    spacing: Sequence[float],
    voxels: int,
    table: AugmentationTable,
    random: np.random.Generator,
    mirror_axes: Sequence[int] = (0, 1, 2),
) -> AffineMap:
    """Draw flips, and for some windows a rotation and a scaling.

    Parameters
    ----------
    center : array_like, shape ``(3,)``
        In voxel edges of the volume.
    spacing : sequence of 3 floats
        In mm, ``(z, y, x)``. Rotations are rigid in mm. If an axis is coarse, they stay in the plane of the others.
    voxels : int
        Number of voxels of the window.
    table : AugmentationTable
    random : numpy Generator
    mirror_axes : sequence of int, optional
        Axes along which half of the windows are flipped.
    """
    middle = np.asarray(center, np.float64)
    flips = np.diag(np.where((random.random(3) < 0.5) & np.isin(range(3), mirror_axes), -1.0, 1.0))
    if not table.zoom.happens(random) or voxels > _MAX_INTERPOLATED_VOXELS:
        return AffineMap(middle, flips, False)
    unit = np.asarray(spacing, np.float64)
    rotation = np.eye(3)
    for axis in range(3):
        first, second = (other for other in range(3) if other != axis)
        if max(unit[first], unit[second]) > _ROTATION_ANISOTROPY * min(unit[first], unit[second]):
            continue
        angle = np.deg2rad(random.uniform(-table.rotation, table.rotation))
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    scale = table.zoom.factor(random) * np.exp(random.uniform(-1, 1, 3) * np.log(table.stretch))
    matrix = np.diag(scale / unit) @ rotation @ np.diag(unit)
    return AffineMap(middle, matrix @ flips, True)


def source_region(affine: AffineMap, window: Sequence[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first voxel and the end, ``(3,)``, of the region that a window reads. It may exceed the volume."""
    half = np.asarray(window) / 2
    reach = np.abs(affine.matrix) @ half
    margin = 1 if affine.interpolate else 0
    low = np.floor(affine.center - reach + 1e-6).astype(np.int64) - margin
    high = np.ceil(affine.center + reach - 1e-6).astype(np.int64) + margin
    return low, high


def read_window(
    image: Any, instances: Any, affine: AffineMap, window: Sequence[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Read a window of a stored case through an affine map.

    Parameters
    ----------
    image, instances : array-like, shapes ``(C, Z, Y, X)`` and ``(Z, Y, X)``
        Anything that can be sliced; only the part needed is read.
    affine : AffineMap
    window : sequence of 3 ints

    Returns
    -------
    image : ndarray of float32, shape ``(C, *window)``
        Beyond the volume its border is repeated.
    instances : ndarray of int32, shape ``window``
        Beyond the volume there is background. No lesion vanishes that has the centre of a voxel in the window: a
        lesion of one slice can fall between the samples of the nearest neighbour, and then has its nearest voxels.
    """
    low, high = source_region(affine, window)
    if affine.interpolate:
        # The interpolation repeats the border itself. Padding a window that is scaled down would need much memory.
        shape = np.asarray(instances.shape)
        low = np.clip(low, 0, shape - 1)
        high = np.clip(high, low + 1, shape)
    region = [[int(first), int(end)] for first, end in zip(low, high, strict=True)]
    picture = np.asarray(crop_and_pad_nd(image, region, pad_mode="replicate"), dtype=np.float32)
    labels = np.asarray(crop_and_pad_nd(instances, region)).astype(np.int32)
    if affine.interpolate:
        return _interpolate(picture, labels, affine, low, window)
    flipped = tuple(slice(None, None, -1 if affine.matrix[axis, axis] < 0 else 1) for axis in range(3))
    # A copy has positive strides along axes of one voxel, too, which numpy.ascontiguousarray would leave negative.
    all_channels = (slice(None), *flipped)
    return picture[all_channels].copy(), labels[flipped].copy()


def _interpolate(
    picture: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int32],
    affine: AffineMap,
    first: npt.NDArray[np.int64],
    window: Sequence[int],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Sample a block that begins at voxel ``first`` of the volume: linear for the image, nearest for the labels."""
    shape = np.asarray(labels.shape, np.float64)
    half = np.asarray(window) / 2
    # grid_sample counts from -1 to 1 over the block and from 0 at the middle of the window, x before y before z.
    scale = 2 / shape
    theta = np.concatenate(
        [
            scale[:, None] * affine.matrix * half[None, :],
            (scale * (affine.center - first) - 1)[:, None],
        ],
        axis=1,
    )
    theta = np.concatenate([theta[::-1, 2::-1], theta[::-1, 3:]], axis=1)
    grid = functional.affine_grid(
        tensor_of(theta, np.float32)[None],
        [1, 1, *window],
        align_corners=False,
    )
    image = functional.grid_sample(
        tensor_of(picture)[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    instances = functional.grid_sample(
        tensor_of(labels)[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )
    result = instances[0, 0].numpy().astype(np.int32)
    for lesion in _vanished(labels, result, affine, first):
        cover = functional.grid_sample(
            tensor_of(labels == lesion)[None, None].float(),
            grid,
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )
        _restore(result, lesion, cover[0, 0].numpy())
    return image[0].numpy(), result


def _vanished(
    labels: npt.NDArray[np.int32], result: npt.NDArray[np.int32], affine: AffineMap, first: npt.NDArray[np.int64]
) -> list[int]:
    """Return the lesions of ``labels`` with a voxel centre in the window that are missing in the window ``result``.

    The largest lesion comes first. If two lesions need the same voxel, the smaller one then gets it.
    """
    # Sorting only the voxels of lesions takes much less time than sorting whole windows.
    missing = np.setdiff1d(labels[labels > 0], result[result > 0])
    if len(missing) == 0:
        return []
    voxels = np.argwhere(np.isin(labels, missing))
    owner = labels[tuple(voxels.T)]
    window = np.asarray(result.shape)
    places = (voxels + 0.5 + first - affine.center) @ np.linalg.inv(affine.matrix).T + window / 2
    seen, counts = np.unique(owner[np.all((places >= 0) & (places < window), axis=1)], return_counts=True)
    return [int(lesion) for lesion in seen[np.argsort(-counts, kind="stable")]]


def _restore(result: npt.NDArray[np.int32], lesion: int, cover: npt.NDArray[np.float32]) -> None:
    """Assign the voxels that a lesion covers most to the lesion, in place.

    ``cover`` is the fraction of the lesion in each voxel, by linear interpolation. The lesion gets the background
    voxels with at least half of the largest fraction. If there are none, it takes the voxel with the largest fraction
    from a lesion that has other voxels.
    """
    chosen = (cover >= max(0.5 * float(cover.max()), 1e-6)) & (result == 0)
    if chosen.any():
        result[chosen] = lesion
        return
    voxels = np.bincount(result[result > 0])
    for place in np.argsort(-cover, axis=None, kind="stable"):
        owner = int(result.flat[place])
        if owner == 0 or voxels[owner] > 1:
            result.flat[place] = lesion
            return
