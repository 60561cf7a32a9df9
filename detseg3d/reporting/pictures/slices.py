"""Slices of a turned volume: which one to show, which part of it, and the exact outlines of what is on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.boxes import box_slices
from detseg3d.core.orientation import StoredOrder
from detseg3d.reporting.pictures.findings import FOUND, Finding

__all__ = [
    "Region",
    "View",
    "best_slice",
    "busiest_slice",
    "clip_region",
    "in_plane",
    "intensity_window",
    "outline_segments",
    "take_slice",
    "tile_axis",
    "tile_region",
    "tile_window",
]

Region = tuple[tuple[float, float], tuple[float, float]]
"""Rows and columns of a slice, each from and to, in voxel edges."""

_TILE_VOXELS = 32
_TILE_FACTOR = 2.5
_NARROWEST_WINDOW = 0.3


@dataclass(frozen=True)
class View:
    """Image and instance maps as seen, with their spacing."""

    image: npt.NDArray[np.floating[Any]]
    spacing: tuple[float, float, float]
    truth: AnyIntArray | None
    predictions: AnyIntArray | None
    orientation: StoredOrder


def in_plane(axis: int) -> tuple[int, int]:
    """The axes that run along the rows (downwards or upwards) and the columns of a slice."""
    return ((1, 2), (0, 2), (0, 1))[axis]


def tile_axis(spacing: Sequence[float]) -> int:
    """Tiles are axial, but across the coarse axis of an anisotropic volume, where the slices are sharp."""
    coarsest = int(np.argmax(spacing))
    return coarsest if spacing[coarsest] > 1.5 * min(spacing) else 0


def take_slice(volume: npt.NDArray[Any], axis: int, index: int) -> npt.NDArray[Any]:
    """Slice ``index`` across ``axis``, shape ``(rows, columns)``, a view."""
    return volume[(slice(None),) * axis + (index,)]


def busiest_slice(seen: View, axis: int) -> int:
    """The slice that shows the most lesions, of several the one with the most voxels of them; else the middle."""
    size = seen.image.shape[axis]
    lesions, voxels = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for volume in (seen.truth, seen.predictions):
        if volume is None:
            continue
        where = np.nonzero(volume)
        pairs = np.unique(np.stack([where[axis], volume[where].astype(np.int64)]), axis=1)
        lesions += np.bincount(pairs[0], minlength=size)
        voxels += np.bincount(where[axis], minlength=size)
    if not voxels.any():
        return size // 2
    return int(np.lexsort((voxels, lesions))[-1])


def best_slice(seen: View, axis: int, finding: Finding) -> int:
    """Where the lesion is largest: the true one if there is one."""
    volume, number = (
        (seen.truth, finding.truth_id) if finding.truth_id is not None else (seen.predictions, finding.prediction_id)
    )
    assert volume is not None
    box = seen.orientation.box_to_canonical(finding.extent)
    inside = volume[box_slices(box)] == number
    areas = inside.sum(axis=tuple(other for other in range(3) if other != axis))
    if finding.status == FOUND:  # the slice on which both are seen, if any
        assert seen.predictions is not None
        other = seen.predictions[box_slices(box)]
        common = (inside & (other == finding.prediction_id)).sum(axis=tuple(i for i in range(3) if i != axis))
        areas = np.where(common > 0, areas + common, 0)
    middle = (len(areas) - 1) / 2
    candidates = np.flatnonzero(areas == areas.max())
    return int(box[axis]) + int(candidates[np.argmin(np.abs(candidates - middle))])


def tile_region(seen: View, axis: int, box: Sequence[float]) -> Region:
    """The part of a slice that a tile shows: square in mm, context around the lesion, inside the image if it fits."""
    axes = in_plane(axis)
    finest = min(seen.spacing[i] for i in axes)
    largest = max((box[i + 3] - box[i]) * seen.spacing[i] for i in axes)
    whole = max(seen.image.shape[i] * seen.spacing[i] for i in axes)
    side = min(max(_TILE_VOXELS * finest, _TILE_FACTOR * largest), whole)
    limits = []
    for i in axes:
        length, size = side / seen.spacing[i], seen.image.shape[i]
        low = (box[i] + box[i + 3]) / 2 - length / 2
        low = min(max(low, 0.0), size - length) if length <= size else (size - length) / 2
        limits.append((low, low + length))
    return limits[0], limits[1]


def intensity_window(image: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Intensities of a volume shown as black and white; the air around the body, a single value, takes no part."""
    sample = image[tuple(slice(None, None, max(1, size // 96)) for size in image.shape)]
    inside = sample[sample != sample.min()]
    if inside.size == 0:
        return float(sample.min()) - 0.5, float(sample.min()) + 0.5
    low, high = np.percentile(inside, (1.0, 99.7))
    return float(low), float(max(high, low + 1e-6))


def tile_window(part: npt.NDArray[np.floating[Any]], window: tuple[float, float]) -> tuple[float, float]:
    """The window of a tile: its own range, soft tissue in a CT is not grey in grey, yet noise is not blown up."""
    if part.size == 0:
        return window
    low, high = (float(value) for value in np.percentile(part, (0.5, 99.5)))
    missing = _NARROWEST_WINDOW * (window[1] - window[0]) - (high - low)
    return (low - missing / 2, high + missing / 2) if missing > 0 else (low, high)


def clip_region(shape: Sequence[int], region: Region | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and last pixel of the rows and columns of a region that lie in the slice; all without a region."""
    if region is None:
        return (0, shape[0]), (0, shape[1])
    first, second = (
        (max(0, math.floor(low)), min(size, math.ceil(high))) for (low, high), size in zip(region, shape, strict=True)
    )
    return first, second


def outline_segments(labels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """The exact outlines of the labels of a slice, along the edges of its pixels, also between touching labels.

    Parameters
    ----------
    labels : ndarray, shape ``(rows, columns)``
        0 is background.

    Returns
    -------
    ndarray of float64, shape ``(N, 2, 2)``
        Segments, each two points ``(column, row)`` in pixel edges.

    Examples
    --------
    >>> outline_segments(np.array([[1]])).tolist()
    [[[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]
    """
    padded = np.pad(labels, 1)
    row, column = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])
    upright = np.stack([np.stack([column, row], 1), np.stack([column, row + 1], 1)], axis=1)
    row, column = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])
    level = np.stack([np.stack([column, row], 1), np.stack([column + 1, row], 1)], axis=1)
    return np.concatenate([upright, level]).astype(np.float64)
