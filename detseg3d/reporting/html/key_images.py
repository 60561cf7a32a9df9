"""Draw the key images of a patient report: slices through a lesion, and maps of all lesions, as SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.image import imsave

from detseg3d.core.arrays import AnyIntArray, Box
from detseg3d.core.body import body_box
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import SLICE_SIDES, StoredOrder
from detseg3d.exports.colors import lesion_color
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.pictures.slices import (
    Region,
    SlicePlane,
    TurnedCase,
    in_plane,
    intensity_window,
    outline_segments,
    tile_window,
)

__all__ = ["KeyImage", "KeyImages", "css_color", "tilt_degrees"]

_PLANES = ("axial", "coronal", "sagittal")
_MIN_SIDE_MM = 80.0  # a smaller picture does not show where in the body a lesion lies
_SIDE_FACTOR = 2.5  # ratio of the side of a picture to the size of its lesion
_SCALE_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)  # millimetres
_MAX_SCALE_FRACTION = 0.35  # largest length of the scale bar as a fraction of the width of the picture
_MAX_PIXELS = 512  # along a side of a picture; printed pictures are 3 to 6 cm wide
_MAX_NUMBERS = 6  # in a picture with more lesions, only the lesion of the picture has its number
_MAP_LEVEL = 170  # brightest grey level of a map, so that the outlines remain visible


@dataclass(frozen=True)
class KeyImage:
    """One picture.

    Attributes
    ----------
    plane : str
        ``axial``, ``coronal`` or ``sagittal``.
    svg : Markup
    position : int or None
        Index of the slice along its axis in canonical order, from 0; ``None`` for a map of the whole scan.
    """

    plane: str
    svg: Markup
    position: int | None = None


@dataclass(frozen=True)
class _Label:
    """The number of a lesion in a picture, at a place in mm."""

    number: int
    color: str
    x: float
    y: float
    is_main: bool


@dataclass(frozen=True)
class _Outline:
    """Path of the outline of a lesion, in mm."""

    path: str
    color: str
    is_main: bool


@dataclass(frozen=True)
class _Frame:
    """Part of a slice that a picture shows, in mm. The rows of pictures across y and x run from the head downwards."""

    axis: int
    region: Region
    scale: tuple[float, float]

    @property
    def height(self) -> float:
        (low, high), _ = self.region
        return (high - low) * self.scale[0]

    @property
    def width(self) -> float:
        _, (low, high) = self.region
        return (high - low) * self.scale[1]

    def point(self, row: float, column: float) -> tuple[float, float]:
        """Return the place ``(x, y)`` in mm of a position in voxel edges of the slice."""
        (top, bottom), (left, _) = self.region
        down = row - top if self.axis == 0 else bottom - row
        return (column - left) * self.scale[1], down * self.scale[0]


def css_color(number: int) -> str:
    """Return the colour of a lesion for CSS and SVG, the same colour as in all files.

    Examples
    --------
    >>> css_color(1)
    '#f23d3d'
    """
    return "#{:02x}{:02x}{:02x}".format(*lesion_color(number))


class KeyImages:
    """Pictures of the lesions of one scan.

    Parameters
    ----------
    image : ndarray, shape ``(Z, Y, X)``
        One channel of the scan in canonical order.
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map in canonical order.
    geometry : Geometry
        Of both arrays.
    """

    def __init__(self, image: npt.NDArray[Any], instances: AnyIntArray, geometry: Geometry) -> None:
        with np.errstate(over="ignore"):
            finite = np.nan_to_num(np.asarray(image, np.float32), posinf=1e30, neginf=-1e30)
        self.case = TurnedCase(finite, geometry.spacing, None, instances, StoredOrder(geometry.shape))
        self.window = intensity_window(finite)

    @property
    def instances(self) -> AnyIntArray:
        """The instance map."""
        assert self.case.prediction is not None
        return self.case.prediction

    @cached_property
    def boxes(self) -> Mapping[int, Box]:
        """Box of each lesion in voxel edges, by its number."""
        numbers, boxes = boxes_from_instances(self.instances)
        result: dict[int, Box] = {}
        for number, (z0, y0, x0, z1, y1, x1) in zip(numbers.tolist(), boxes.tolist(), strict=True):
            result[int(number)] = (z0, y0, x0, z1, y1, x1)
        return result

    def of_lesion(self, number: int) -> tuple[KeyImage, ...]:
        """Return an axial, a coronal and a sagittal picture at the largest section of a lesion, all at one scale."""
        box = self.boxes[number]
        spacing, shape = self.case.spacing, self.case.image.shape
        largest = max((box[axis + 3] - box[axis]) * spacing[axis] for axis in range(3))
        whole = max(size * step for size, step in zip(shape, spacing, strict=True))
        side = min(max(_MIN_SIDE_MM, _SIDE_FACTOR * largest), whole)
        low = [int(edge) for edge in box[:3]]
        part = tuple(slice(int(box[axis]), int(box[axis + 3])) for axis in range(3))
        mask = self.instances[part] == number
        pictures = []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            index = low[axis] + int(np.argmax(mask.sum(axis=others)))
            region = tuple(_centred(box, other, side, self.case) for other in in_plane(axis))
            plane = SlicePlane(self.case, axis, index, (region[0], region[1]))
            pictures.append(KeyImage(_PLANES[axis], self._slice(plane, number), index))
        return tuple(pictures)

    def maps(self, labelled: Sequence[int]) -> tuple[KeyImage, ...]:
        """Return pictures of the whole scan from three sides: mean intensity, and the outlines of all lesions.

        Parameters
        ----------
        labelled : sequence of int
            Numbers of the lesions that have their number written into the pictures.
        """
        body = self._body
        pictures = []
        for axis in range(3):
            shown = self.case.image[body].mean(axis=axis)
            rows, columns = in_plane(axis)
            first = (float(body[rows].start), float(body[columns].start))
            frame = _Frame(
                axis,
                ((first[0], float(body[rows].stop)), (first[1], float(body[columns].stop))),
                (self.case.spacing[rows], self.case.spacing[columns]),
            )
            levels = _grey(shown, (float(shown.min()), float(shown.max())), _MAP_LEVEL)
            outlines, labels = [], []
            for number, box in self.boxes.items():
                part = tuple(slice(int(box[side]), int(box[side + 3])) for side in range(3))
                mask = (self.instances[part] == number).any(axis=axis)
                corner = (box[rows], box[columns])
                outlines.append(_Outline(_path(mask, corner, frame), css_color(number), False))
                if number in labelled:
                    labels.append(_label(mask, corner, frame, number, True))
            svg = _draw(frame, levels, first, outlines, labels)
            pictures.append(KeyImage(_PLANES[axis], svg))
        return tuple(pictures)

    @cached_property
    def _body(self) -> tuple[slice, slice, slice]:
        """The box around the body and all lesions."""
        boxes = np.array([body_box(self.case.image[None]), *self.boxes.values()], np.float64)
        return box_slices([*boxes[:, :3].min(axis=0).tolist(), *boxes[:, 3:].max(axis=0).tolist()])

    def _slice(self, plane: SlicePlane, number: int) -> Markup:
        assert plane.region is not None
        frame = _Frame(plane.axis, plane.region, plane.scale)
        (top, _), (left, _) = plane.limits
        part = plane.take(self.case.image)
        levels = _grey(part, tile_window(part, self.window), 255)
        labels = plane.take(self.instances)
        outlines, texts = [], []
        # The lesion itself is drawn last, above its neighbours.
        others = sorted(np.unique(labels[labels > 0]).tolist(), key=lambda entry: entry == number)
        for other in others:
            mask = labels == other
            outlines.append(_Outline(_path(mask, (top, left), frame), css_color(other), other == number))
            if other == number or len(others) <= _MAX_NUMBERS:
                texts.append(_label(mask, (top, left), frame, other, other == number))
        return _draw(frame, levels, (float(top), float(left)), outlines, texts)


def tilt_degrees(geometry: Geometry) -> float:
    """Return the largest angle between an axis of a volume in canonical order and the axis of the body."""
    cosines = np.abs(np.diag(np.reshape(geometry.direction, (3, 3))))
    return math.degrees(math.acos(min(float(cosines.min()), 1.0)))


def _centred(box: Box, axis: int, side: float, case: TurnedCase) -> tuple[float, float]:
    """Return the limits of a picture along an axis: around the lesion, and inside the scan if it is large enough."""
    length, size = side / case.spacing[axis], case.image.shape[axis]
    low = (box[axis] + box[axis + 3]) / 2 - length / 2
    low = min(max(low, 0.0), size - length) if length <= size else (size - length) / 2
    return low, low + length


def _grey(values: npt.NDArray[np.floating[Any]], window: tuple[float, float], brightest: int) -> npt.NDArray[np.uint8]:
    """Return grey levels from 0 (black) to ``brightest``."""
    low, high = window
    levels = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * brightest
    return np.asarray(np.rint(levels), np.uint8)


def _path(mask: npt.NDArray[np.bool_], corner: tuple[float, float], frame: _Frame) -> str:
    """Return the outline of a mask as a path in mm; ``corner`` is the position of the first pixel."""
    parts = []
    for (x0, y0), (x1, y1) in outline_segments(mask.astype(np.uint8)).tolist():
        first, last = (frame.point(corner[0] + y, corner[1] + x) for x, y in ((x0, y0), (x1, y1)))
        parts.append("M{:.4g} {:.4g}L{:.4g} {:.4g}".format(*first, *last))
    return "".join(parts)


def _label(
    mask: npt.NDArray[np.bool_], corner: tuple[float, float], frame: _Frame, number: int, is_main: bool
) -> _Label:
    """Return the number of a lesion, to the right of its outline; to the left at the edge of the picture."""
    rows, columns = np.nonzero(mask)
    x, y = frame.point(corner[0] + rows.mean() + 0.5, corner[1] + columns.max() + 1)
    if x > 0.86 * frame.width:
        x = max(frame.point(0.0, corner[1] + columns.min())[0] - 0.1 * frame.width, 0.05 * frame.width)
    return _Label(number, css_color(number), round(x, 2), round(min(max(y, 0.0), frame.height), 2), is_main)


def _draw(
    frame: _Frame,
    levels: npt.NDArray[np.uint8],
    corner: tuple[float, float],
    outlines: Sequence[_Outline],
    labels: Sequence[_Label],
) -> Markup:
    """Return the SVG of a picture; ``corner`` is the position of the first pixel of ``levels``."""
    rows, columns = levels.shape
    upper = corner[0] if frame.axis == 0 else corner[0] + rows
    x, y = frame.point(upper, corner[1])
    fitting = [length for length in _SCALE_LENGTHS if length <= _MAX_SCALE_FRACTION * frame.width]
    left, right, top, bottom = SLICE_SIDES[frame.axis]
    return render(
        "key_image",
        plane=_PLANES[frame.axis],
        width=round(frame.width, 3),
        height=round(frame.height, 3),
        unit=max(frame.width, frame.height) / 100,
        png=_png(levels if frame.axis == 0 else levels[::-1]),
        place=(round(x, 3), round(y, 3)),
        size=(round(columns * frame.scale[1], 3), round(rows * frame.scale[0], 3)),
        outlines=outlines,
        labels=labels,
        letters=(left, right, top, bottom),
        bar=fitting[-1] if fitting else 1,
    )


def _png(levels: npt.NDArray[np.uint8]) -> str:
    """Return grey levels as a PNG in base64. Pixels are left out if there are more than a print can show."""
    step = tuple(max(1, math.ceil(size / _MAX_PIXELS)) for size in levels.shape)
    buffer = io.BytesIO()
    shown = levels[:: step[0], :: step[1]]
    if shown.size:
        without_version: Any = {"Software": None}
        imsave(buffer, shown, format="png", cmap="gray", vmin=0, vmax=255, metadata=without_version)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
