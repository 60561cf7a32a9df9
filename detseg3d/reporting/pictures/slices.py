"""Choose slices for the picture of a case, crop them, choose their intensity windows, and outline their lesions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyFloatArray, AnyIntArray, Array, FloatArray, Spacing
from detseg3d.core.boxes import box_slices
from detseg3d.core.orientation import StoredOrder
from detseg3d.reporting.pictures.case_view import CaseView
from detseg3d.reporting.pictures.findings import Finding, Outcome

__all__ = [
    "SlicePlane",
    "TurnedCase",
    "best_slice",
    "busiest_slice",
    "in_plane",
    "intensity_window",
    "outline_segments",
    "tile_axis",
    "tile_region",
    "tile_window",
]

Region = tuple[tuple[float, float], tuple[float, float]]
"""Part of a slice: first and last edge of the rows, then of the columns, in voxel edges."""

_TILE_VOXELS = 32  # smallest side of a tile, in voxels of the finest axis
_TILE_FACTOR = 2.5  # ratio of the side of a tile to the size of its lesion, so that the surroundings are visible
_MIN_WINDOW_FRACTION = 0.3  # smallest width of the window of a tile, as a fraction of the window of the volume
_MAX_INTENSITY = 1e30  # matplotlib can still compute with this value in float32


@dataclass(frozen=True)
class TurnedCase:
    """Image and instance maps in the radiological view, with the order in which the file stores its axes."""

    image: AnyFloatArray
    spacing: Spacing
    truth: AnyIntArray | None
    prediction: AnyIntArray | None
    order: StoredOrder

    @classmethod
    def of(cls, case: CaseView) -> TurnedCase:
        """Return a case turned to the radiological view, if its direction is known."""
        if case.direction is None:
            order = StoredOrder((case.image.shape[0], case.image.shape[1], case.image.shape[2]))
        else:
            order = StoredOrder.of_direction(case.direction, case.image.shape)
        # NaN becomes 0, and infinity becomes much brighter than every real intensity.
        with np.errstate(over="ignore"):
            finite = np.nan_to_num(case.image.astype(np.float32), posinf=_MAX_INTENSITY, neginf=-_MAX_INTENSITY)
        return cls(
            order.to_canonical(finite),
            order.triple_to_canonical(case.spacing),
            None if case.truth is None else order.to_canonical(case.truth.instances),
            None if case.prediction is None else order.to_canonical(case.prediction.instances),
            order,
        )

    def lesion_of(self, finding: Finding) -> tuple[AnyIntArray, int]:
        """Return instance map and number of the true lesion, or of the predicted lesion if there is no true lesion."""
        true, predicted = (self.truth, finding.truth_id), (self.prediction, finding.prediction_id)
        for instances, number in (true, predicted):
            if instances is not None and number is not None:
                return instances, number
        raise ValueError("the finding has neither a true nor a predicted lesion")


def in_plane(axis: int) -> tuple[int, int]:
    """Return the axes of the rows and of the columns of a slice across ``axis``."""
    return ((1, 2), (0, 2), (0, 1))[axis]


@dataclass(frozen=True)
class SlicePlane:
    """A slice of a case, or a part of a slice.

    Attributes
    ----------
    case : TurnedCase
        Case in the radiological view.
    axis : int
        Axis across which the slice is cut: 0 axial, 1 coronal, 2 sagittal.
    index : int
        Number of the slice along ``axis``.
    region : Region or None
        Part of the slice; ``None`` is the whole slice.
    """

    case: TurnedCase
    axis: int
    index: int
    region: Region | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """Millimetres per row and per column."""
        rows, columns = in_plane(self.axis)
        return self.case.spacing[rows], self.case.spacing[columns]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole slice."""
        rows, columns = in_plane(self.axis)
        return self.case.image.shape[rows], self.case.image.shape[columns]

    @property
    def limits(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Half-open range of the rows, then of the columns, of the part of the region inside the slice, in pixels."""
        if self.region is None:
            return (0, self.shape[0]), (0, self.shape[1])
        rows, columns = (
            (max(0, math.floor(low)), min(size, math.ceil(high)))
            for (low, high), size in zip(self.region, self.shape, strict=True)
        )
        return rows, columns

    def take(self, volume: Array) -> Array:
        """Return a view of the part of a volume that the plane shows, with shape ``(rows, columns)``."""
        (top, bottom), (left, right) = self.limits
        plane: Array = volume[(slice(None),) * self.axis + (self.index,)]
        return plane[top:bottom, left:right]


def tile_axis(spacing: Spacing) -> int:
    """Return the axis across which tiles are cut.

    In an anisotropic volume, the result is the coarsest axis, because slices across this axis are the sharpest. In all
    other volumes, the result is 0 (axial slices).
    """
    coarsest = int(np.argmax(spacing))
    return coarsest if spacing[coarsest] > 1.5 * min(spacing) else 0


def busiest_slice(case: TurnedCase, axis: int) -> int:
    """Return the slice that shows the most lesions.

    The number of lesion voxels decides between slices with equal numbers of lesions. If the case has no lesion, the
    middle slice is returned.
    """
    size = case.image.shape[axis]
    lesions, voxels = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for volume in (case.truth, case.prediction):
        if volume is None:
            continue
        where = np.nonzero(volume)
        pairs = np.unique(np.stack([where[axis], volume[where].astype(np.int64)]), axis=1)
        lesions += np.bincount(pairs[0], minlength=size)
        voxels += np.bincount(where[axis], minlength=size)
    if not voxels.any():
        return size // 2
    return int(np.lexsort((voxels, lesions))[-1])


def best_slice(case: TurnedCase, axis: int, finding: Finding) -> int:
    """Return the slice on which a lesion is largest.

    The true lesion decides if there is one. A found lesion is shown on a slice on which truth and prediction meet.
    """
    volume, number = case.lesion_of(finding)
    box = case.order.box_to_canonical(finding.extent)
    others = tuple(other for other in range(3) if other != axis)
    inside = volume[box_slices(box)] == number
    areas = inside.sum(axis=others)
    if finding.outcome is Outcome.FOUND:
        assert case.prediction is not None
        common = (inside & (case.prediction[box_slices(box)] == finding.prediction_id)).sum(axis=others)
        areas = np.where(common > 0, areas + common, 0)
    # Between slices with equal areas, the slice nearest to the middle of the lesion is taken.
    middle = (len(areas) - 1) / 2
    candidates = np.flatnonzero(areas == areas.max())
    return int(box[axis]) + int(candidates[np.argmin(np.abs(candidates - middle))])


def tile_region(case: TurnedCase, axis: int, box: Sequence[float]) -> Region:
    """Return the part of a slice that a tile shows.

    The part is square in millimetres and shows the surroundings of the lesion. It lies inside the image if the image is
    large enough.

    Parameters
    ----------
    case : TurnedCase
        Case in the radiological view.
    axis : int
        Axis across which the tile is cut.
    box : 6 floats
        Box of the lesion in voxel edges of the turned volume.
    """
    axes = in_plane(axis)
    finest = min(case.spacing[i] for i in axes)
    largest = max((box[i + 3] - box[i]) * case.spacing[i] for i in axes)
    whole = max(case.image.shape[i] * case.spacing[i] for i in axes)
    side = min(max(_TILE_VOXELS * finest, _TILE_FACTOR * largest), whole)
    limits = []
    for i in axes:
        length, size = side / case.spacing[i], case.image.shape[i]
        low = (box[i] + box[i + 3]) / 2 - length / 2
        low = min(max(low, 0.0), size - length) if length <= size else (size - length) / 2
        limits.append((low, low + length))
    return limits[0], limits[1]


def intensity_window(image: AnyFloatArray) -> tuple[float, float]:
    """Return the intensities of a volume that are shown as black and as white.

    The lowest intensity is ignored, because it is usually the air around the body.
    """
    sample = image[tuple(slice(None, None, max(1, size // 96)) for size in image.shape)]
    inside = sample[sample != sample.min()]
    if inside.size == 0:
        return float(sample.min()) - 0.5, float(sample.min()) + 0.5
    low, high = np.percentile(inside, (1.0, 99.7))
    return float(low), float(max(high, low + 1e-6))


def tile_window(part: AnyFloatArray, window: tuple[float, float]) -> tuple[float, float]:
    """Return the window of a tile.

    The window is the range of the intensities in the tile, so that soft tissue of a CT has enough contrast. The window
    has a minimum width, so that a tile without structure does not show amplified noise.

    Parameters
    ----------
    part : ndarray of float
        Intensities of the tile.
    window : 2 floats
        Window of the volume.
    """
    if part.size == 0:
        return window
    low, high = (float(value) for value in np.percentile(part, (0.5, 99.5)))
    missing = _MIN_WINDOW_FRACTION * (window[1] - window[0]) - (high - low)
    return (low - missing / 2, high + missing / 2) if missing > 0 else (low, high)


def outline_segments(labels: Array) -> FloatArray:
    """Return the outlines of the labels of a slice.

    The outlines follow the edges of the pixels, also between labels that touch.

    Parameters
    ----------
    labels : ndarray, shape ``(rows, columns)``
        0 is background.

    Returns
    -------
    ndarray of float64, shape ``(N, 2, 2)``
        Segments, each with two points ``(column, row)`` in pixel edges.

    Examples
    --------
    >>> outline_segments(np.array([[1]])).tolist()
    [[[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]
    """
    padded = np.pad(labels, 1)
    row, column = np.nonzero(padded[1:-1, :-1] != padded[1:-1, 1:])
    vertical = np.stack([np.stack([column, row], 1), np.stack([column, row + 1], 1)], axis=1)
    row, column = np.nonzero(padded[:-1, 1:-1] != padded[1:, 1:-1])
    horizontal = np.stack([np.stack([column, row], 1), np.stack([column + 1, row], 1)], axis=1)
    return np.concatenate([vertical, horizontal]).astype(np.float64)
