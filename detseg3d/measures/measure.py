"""Measurement of all lesions of an instance map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from detseg3d.core.arrays import AnyFloatArray, AnyIntArray, BoolArray, FloatArray, IntArray
from detseg3d.core.geometry import Geometry
from detseg3d.measures.axes import Diameter, maximum_diameter, slice_axes
from detseg3d.measures.body_border import BodyBorder
from detseg3d.measures.lesion import ChannelIntensities, LesionMeasures, LineEnds, Point
from detseg3d.measures.surface import measure_surface

__all__ = ["MeasuredScan", "acquisition_axis", "measure_lesions"]

# Minimum ratio of the largest spacing to the second largest spacing of a scan that was acquired in slices. Spacings in
# files are rounded.
_MIN_SLICE_RATIO = 1.01


@dataclass(frozen=True, eq=False)
class MeasuredScan:
    """Scan in which lesions are measured.

    Attributes
    ----------
    images : ndarray of float, shape ``(C, Z, Y, X)``
        Intensities as they were read, in canonical order.
    channel_names : tuple of str
        Name of each channel.
    """

    images: AnyFloatArray
    channel_names: tuple[str, ...]


def acquisition_axis(geometry: Geometry) -> int:
    """Return the axis of a volume in canonical order at a right angle to the slices of the acquisition.

    The slices of a DICOM series are known. Other formats do not state the plane of the acquisition. Here the axis with
    the largest spacing is taken, because the distance of slices is usually larger than the pixels. If no single axis
    has the largest spacing (within 1 %), the slices are axial.

    Parameters
    ----------
    geometry : Geometry
        In canonical order.

    Returns
    -------
    int
        0 for axial, 1 for coronal, 2 for sagittal slices.

    Examples
    --------
    >>> acquisition_axis(Geometry((9, 9, 9), (1.0, 1.0, 1.0))), acquisition_axis(Geometry((9, 9, 9), (1.0, 4.0, 1.0)))
    (0, 1)
    """
    if geometry.dicom and geometry.dicom[0] is not None:
        # The first stored axis of a DICOM series runs along its slices.
        return geometry.stored_order.permutation.index(0)
    _, second, largest = sorted(geometry.spacing)
    return geometry.spacing.index(largest) if largest > second * _MIN_SLICE_RATIO else 0


def measure_lesions(
    instances: AnyIntArray, ids: Sequence[int] | IntArray, geometry: Geometry, scan: MeasuredScan | None = None
) -> list[LesionMeasures]:
    """Measure each lesion of an instance map.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map in canonical order: 0 is background, every other value is one lesion, even if the lesion has
        several components.
    ids : sequence of int
        Numbers of the lesions to measure.
    geometry : Geometry
        Of the instance map, in canonical order.
    scan : MeasuredScan, optional
        On the same grid. Without it, intensities and the distance to the border of the body are left out.

    Returns
    -------
    list of LesionMeasures
        In the order of ``ids``, with positions in voxels of canonical order.

    Raises
    ------
    ValueError
        If a number of ``ids`` has no voxel, or the scan has another shape.
    """
    if len(ids) == 0:
        return []
    if scan is not None and scan.images.shape[1:] != instances.shape:
        raise ValueError(f"the scan {scan.images.shape[1:]} and the instance map {instances.shape} differ in shape")
    grid = _Grid(geometry, _step_matrix(geometry), acquisition_axis(geometry))
    border = None if scan is None else BodyBorder.of_scan(scan.images, grid.matrix)
    # Many small lesions have the same voxels at different places. Each pattern is measured only once.
    patterns: dict[tuple[tuple[int, ...], bytes], _Pattern] = {}
    measured: list[_Measured] = []
    for number, place in zip(ids, _places(instances, ids), strict=True):
        mask = np.asarray(instances[place] == number)
        key = (mask.shape, np.packbits(mask).tobytes())
        if key not in patterns:
            patterns[key] = _Pattern.of(mask, grid)
        offset = (place[0].start, place[1].start, place[2].start)
        intensities = () if scan is None else _intensities(scan, place, mask)
        distance = None if border is None else border.distance_mm(mask, offset)
        measured.append(_Measured(patterns[key], offset, intensities, distance))
    # All points are converted together, because one conversion for each point of thousands of lesions takes long.
    points = np.stack([lesion.pattern.points + lesion.offset for lesion in measured])
    world: FloatArray = geometry.voxel_edges_to_world(points.reshape(-1, 3)).reshape(points.shape)
    return [
        lesion.measures(grid, _Points.of(own), _Points.of(own_world))
        for lesion, own, own_world in zip(measured, points, world, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class _Grid:
    """Voxel grid: its geometry, the steps in mm along the array axes, and the axis of the slices."""

    geometry: Geometry
    matrix: FloatArray
    slice_axis: int


@dataclass(frozen=True, eq=False)
class _Pattern:
    """Measures of a lesion that depend on its own voxels only, with positions relative to its box."""

    voxels: int
    centroid: FloatArray
    long: Diameter
    short: Diameter
    slice_index: int
    maximum: Diameter
    surface_mm2: float
    sphericity: float

    @classmethod
    def of(cls, mask: BoolArray, grid: _Grid) -> _Pattern:
        axes = slice_axes(mask, grid.matrix, grid.slice_axis)
        surface = measure_surface(mask, grid.matrix)
        indices = np.argwhere(mask)
        return cls(
            voxels=len(indices),
            centroid=indices.mean(axis=0) + 0.5,
            long=axes.long,
            short=axes.short,
            slice_index=axes.slice_index,
            maximum=maximum_diameter(mask, grid.matrix),
            surface_mm2=surface.area_mm2,
            sphericity=surface.sphericity,
        )

    @property
    def points(self) -> FloatArray:
        """Centroid and ends of the three diameters, in the order of :class:`_Points`; shape ``(7, 3)``."""
        return np.concatenate([self.centroid[None], self.long.ends, self.short.ends, self.maximum.ends])


class _Points(NamedTuple):
    """Points of a lesion, in voxel edges or in mm."""

    centroid: Point
    long: tuple[Point, Point]
    short: tuple[Point, Point]
    maximum: tuple[Point, Point]

    @classmethod
    def of(cls, rows: FloatArray) -> _Points:
        centroid, *ends = (_point(row) for row in rows.tolist())
        return cls(centroid, (ends[0], ends[1]), (ends[2], ends[3]), (ends[4], ends[5]))


@dataclass(frozen=True, eq=False)
class _Measured:
    """Pattern of a lesion, the first voxel of its box, and the measures of this place in the scan."""

    pattern: _Pattern
    offset: tuple[int, int, int]
    intensities: tuple[ChannelIntensities, ...]
    border_distance_mm: float | None

    def measures(self, grid: _Grid, points: _Points, world: _Points) -> LesionMeasures:
        pattern = self.pattern
        volume = pattern.voxels * grid.geometry.voxel_volume
        return LesionMeasures(
            voxels=pattern.voxels,
            volume_mm3=volume,
            diameter_mm=(6 * volume / math.pi) ** (1 / 3),
            centroid=points.centroid,
            centroid_world=world.centroid,
            long_axis_mm=pattern.long.length_mm,
            short_axis_mm=pattern.short.length_mm,
            long_axis_ends=LineEnds(points.long, world.long),
            short_axis_ends=LineEnds(points.short, world.short),
            slice_axis="zyx"[grid.slice_axis],
            slice_index=pattern.slice_index + self.offset[grid.slice_axis],
            maximum_diameter_mm=pattern.maximum.length_mm,
            maximum_diameter_ends=LineEnds(points.maximum, world.maximum),
            surface_mm2=pattern.surface_mm2,
            sphericity=pattern.sphericity,
            intensities=self.intensities,
            border_distance_mm=self.border_distance_mm,
        )


def _step_matrix(geometry: Geometry) -> FloatArray:
    """Return the steps in mm along the array axes as columns.

    Lengths do not depend on the direction of the volume. A direction in a file is rounded, so only a sheared grid uses
    the direction.
    """
    if geometry.affine is None:
        return np.diag(geometry.spacing)
    matrix, _ = geometry.index_to_world()
    return np.asarray(matrix[:, ::-1])


def _places(instances: AnyIntArray, ids: Sequence[int] | IntArray) -> list[tuple[slice, slice, slice]]:
    """Return the box of voxels around each lesion."""
    # find_objects visits every number up to the largest number, so the lesions are first numbered without gaps.
    numbers = np.asarray(ids, np.int64)
    order = np.argsort(numbers, kind="stable")
    ascending = numbers[order]
    foreground = np.nonzero(instances)
    values = instances[foreground].astype(np.int64)
    positions = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    numbered = np.zeros(instances.shape, np.int32)
    numbered[foreground] = np.where(ascending[positions] == values, positions + 1, 0)
    boxes = ndimage.find_objects(numbered, max_label=len(ascending))
    missing = [int(number) for number, box in zip(ascending, boxes, strict=True) if box is None]
    if missing:
        raise ValueError(f"the instance map has no voxel with the numbers {missing}")
    places: list[tuple[slice, slice, slice]] = [boxes[0]] * len(boxes)
    for position, box in zip(order.tolist(), boxes, strict=True):
        places[position] = box
    return places


def _intensities(
    scan: MeasuredScan, place: tuple[slice, slice, slice], mask: BoolArray
) -> tuple[ChannelIntensities, ...]:
    z, y, x = place
    values = scan.images[:, z, y, x][:, mask].astype(np.float64)
    return tuple(
        ChannelIntensities(name, float(row.mean()), float(row.std()), float(row.min()), float(row.max()))
        for name, row in zip(scan.channel_names, values, strict=True)
    )


def _point(values: Sequence[float]) -> Point:
    z, y, x = values
    return z, y, x
