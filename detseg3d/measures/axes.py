"""Diameters of a lesion: RECIST axes in a slice, and the longest diameter in any direction.

A diameter runs between the centres of voxel faces. So a single voxel has the diameter of its edge, and a row of ``n``
voxels has the length of ``n`` voxels. The corners of the surface mesh of marching cubes are these points, and IBSI
measures the maximum 3D diameter between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from detseg3d.core.arrays import BoolArray, FloatArray

__all__ = ["Diameter", "SliceAxes", "maximum_diameter", "slice_axes"]

# Relative difference up to which two lengths are equal.
_TIE = 1e-9
# Up to this number of points, comparing all pairs is faster than a convex hull.
_MAX_PAIRED_POINTS = 60
# Number of directions in which widths are measured.
_DIRECTIONS = 8


@dataclass(frozen=True, eq=False)
class Diameter:
    """Measured diameter.

    Attributes
    ----------
    length_mm : float
    ends : ndarray of float64, shape ``(2, 3)``
        End points ``(z, y, x)`` in voxel edges.
    """

    length_mm: float
    ends: FloatArray


@dataclass(frozen=True, eq=False)
class SliceAxes:
    """RECIST axes of a lesion.

    Attributes
    ----------
    long, short : Diameter
        Both lie in one slice, at a right angle to each other.
    slice_index : int
        Index of the slice.
    """

    long: Diameter
    short: Diameter
    slice_index: int


def maximum_diameter(mask: BoolArray, matrix: FloatArray) -> Diameter:
    """Return the longest diameter of a mask in any direction.

    Parameters
    ----------
    mask : ndarray of bool, shape ``(Z, Y, X)``
        At least one voxel is true.
    matrix : ndarray of float64, shape ``(3, 3)``
        Column ``i`` is the step in mm from a voxel to the next voxel along array axis ``i``.

    Returns
    -------
    Diameter
        If several diameters have the same length, the ends are those of the first one in the order of the array.

    References
    ----------
    Zwanenburg et al. (2020), "The Image Biomarker Standardization Initiative", Radiology 295(2): maximum 3D diameter.

    Examples
    --------
    >>> maximum_diameter(np.ones((1, 1, 4), bool), np.eye(3)).length_mm
    4.0
    """
    points = _extreme_points(_row_ends(mask))
    first, second, length = _longest_pairs(points, matrix)
    pair = points[[first[0], second[0]]]
    return Diameter(length, pair)


def slice_axes(mask: BoolArray, matrix: FloatArray, axis: int) -> SliceAxes:
    """Return the RECIST axes of a mask: the long axis, and the short axis at a right angle in the same slice.

    The slice is the one with the longest axis. In a slice, each component (8 neighbours) is measured separately,
    because an axis must not bridge the gap between two parts. The short axis is the longest chord of the convex hull of
    the component at a right angle to the long axis.

    Parameters
    ----------
    mask : ndarray of bool, shape ``(Z, Y, X)``
        At least one voxel is true.
    matrix : ndarray of float64, shape ``(3, 3)``
        Column ``i`` is the step in mm from a voxel to the next voxel along array axis ``i``.
    axis : int
        Array axis at a right angle to the slices.

    Returns
    -------
    SliceAxes
        If several long axes are equal, the one with the longest short axis, in the slice nearest to the centroid.

    References
    ----------
    Eisenhauer et al. (2009), "New response evaluation criteria in solid tumours: revised RECIST guideline (version
    1.1)", European Journal of Cancer 45(2): longest diameter in the plane of measurement, and, for lymph nodes, the
    short axis at a right angle to it.

    Examples
    --------
    >>> axes = slice_axes(np.ones((2, 1, 4), bool), np.diag([5.0, 1.0, 1.0]), axis=0)
    >>> axes.long.length_mm, axes.short.length_mm, axes.slice_index
    (4.0, 1.0, 0)
    """
    slices = np.moveaxis(mask, axis, 0)
    plane = _plane_coordinates(np.delete(matrix, axis, axis=1))
    middle = float(np.average(np.arange(len(slices)), weights=np.count_nonzero(slices, axis=(1, 2))))
    best: list[_Candidate] = []
    longest = 0.0
    for index, offset, component in _long_components(slices, plane):
        points = _extreme_points(_row_ends(component))
        first, second, length = _longest_pairs(points, plane)
        if length < longest * (1 - _TIE):
            continue
        longest = max(longest, length)
        hull = points[ConvexHull(points).vertices]
        for start, end in zip(points[first], points[second], strict=True):
            short, chord = _longest_chord(hull, start, end, plane)
            best.append(_Candidate(length, short, index, np.stack([start, end]) + offset, chord + offset))
    best = [candidate for candidate in best if candidate.long_mm >= longest * (1 - _TIE)]
    widest = max(candidate.short_mm for candidate in best)
    best = [candidate for candidate in best if candidate.short_mm >= widest * (1 - _TIE)]
    chosen = min(best, key=lambda candidate: (abs(candidate.index - middle), candidate.index, candidate.order))
    position = chosen.index + 0.5
    return SliceAxes(
        Diameter(chosen.long_mm, np.insert(chosen.long_ends, axis, position, axis=1)),
        Diameter(chosen.short_mm, np.insert(chosen.short_ends, axis, position, axis=1)),
        chosen.index,
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Long axis of one component of a slice, with its short axis; ends in voxel edges of the slice."""

    long_mm: float
    short_mm: float
    index: int
    long_ends: FloatArray
    short_ends: FloatArray

    @property
    def order(self) -> tuple[float, ...]:
        """Key by which one of several equal axes is chosen, so that the result does not depend on the machine."""
        return tuple(self.long_ends.ravel().tolist())


def _long_components(slices: BoolArray, plane: FloatArray) -> Iterator[tuple[int, FloatArray, BoolArray]]:
    """Yield slice index, offset and mask of the components of slices that may have the longest diameter.

    The width of a component is measured in several directions. Its diameter is at least the largest width, and at most
    the largest width divided by the cosine of half the angle between two directions. Most components are left out by
    these limits.
    """
    structure = np.zeros((3, 3, 3), bool)
    structure[1] = True
    labels, _ = ndimage.label(slices, structure)
    where = np.nonzero(labels)
    numbers = labels[where]
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(1, numbers.max() + 1))
    angles = np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS
    directions = np.stack([np.cos(angles), np.sin(angles)]).T @ plane
    places = directions @ np.stack(where[1:])[:, order]
    widths = np.maximum.reduceat(places, starts, axis=1) - np.minimum.reduceat(places, starts, axis=1)
    # The centres of faces lie half a step beyond the centres of voxels.
    longest = (widths + np.abs(directions).max(axis=1, keepdims=True)).max(axis=0)
    largest = longest / np.cos(np.pi / (2 * _DIRECTIONS))
    boxes = ndimage.find_objects(labels)
    for number in np.flatnonzero(largest >= longest.max() * (1 - _TIE)).tolist():
        depth, rows, columns = boxes[number]
        component = labels[depth.start, rows, columns] == number + 1
        yield depth.start, np.array([rows.start, columns.start], np.float64), component


def _plane_coordinates(steps: FloatArray) -> FloatArray:
    """Return the matrix ``(2, 2)`` from index differences in a slice to mm along two axes at a right angle.

    ``steps`` has the steps in mm along both array axes of the slice as columns, shape ``(3, 2)``.
    """
    triangular = np.linalg.qr(steps, mode="r")
    coordinates = triangular * np.sign(np.diag(triangular))[:, None]
    # The steps of a grid that is not sheared are at a right angle, and rounding must not change the lengths.
    is_straight = abs(coordinates[0, 1]) <= _TIE * coordinates[1, 1]
    return np.diag(np.linalg.norm(steps, axis=0)) if is_straight else coordinates


def _row_ends(mask: BoolArray) -> FloatArray:
    """Return the centres of the first and the last voxel of each row along the last axis, in voxel edges.

    The other voxels of a row lie between these two, so that no diameter ends there.
    """
    rows = np.nonzero(mask.any(axis=-1))
    lines = mask[rows]
    first = lines.argmax(axis=-1)
    last = lines.shape[-1] - 1 - lines[:, ::-1].argmax(axis=-1)
    low, high = (np.column_stack([*rows, column]).astype(np.float64) for column in (first, last))
    return np.concatenate([low, high[first != last]]) + 0.5


def _extreme_points(centers: FloatArray) -> FloatArray:
    """Return the face centres of voxels that are corners of their convex hull, in the order of the array.

    The hull is computed in voxels. It has the same corners in mm, and very different spacings cause no rounding errors.
    """
    steps = np.eye(centers.shape[1]) / 2
    points = (centers[:, None] + np.concatenate([steps, -steps])).reshape(-1, centers.shape[1])
    if len(points) > _MAX_PAIRED_POINTS:
        points = points[ConvexHull(points).vertices]
    return np.unique(points, axis=0)


def _longest_pairs(points: FloatArray, matrix: FloatArray) -> tuple[list[int], list[int], float]:
    """Return the indices of both ends of each of the longest diameters, and their length in mm."""
    places = points @ matrix.T
    distances = np.triu(cdist(places, places))
    length = float(distances.max())
    first, second = np.nonzero(distances >= length * (1 - _TIE))
    return first.tolist(), second.tolist(), length


def _longest_chord(hull: FloatArray, start: FloatArray, end: FloatArray, plane: FloatArray) -> tuple[float, FloatArray]:
    """Return the longest chord of a convex polygon at a right angle to the diameter from ``start`` to ``end``.

    Between two corners, the length of the chord changes linearly, so the longest chord passes through a corner. Among
    equal chords, the one nearest to the middle of the diameter is taken.
    """
    corners = (hull - start) @ plane.T
    direction = (end - start) @ plane.T
    length = float(np.linalg.norm(direction))
    along = direction / length
    across = np.array([-along[1], along[0]])
    places, heights = corners @ along, corners @ across
    sides = []
    for sign in (1.0, -1.0):
        # The diameter divides the polygon into two chains of corners.
        chain = np.flatnonzero(sign * heights > _TIE * length)
        order = chain[np.argsort(places[chain], kind="stable")]
        sides.append(np.interp(places, [0.0, *places[order], length], [0.0, *heights[order], 0.0]))
    chords = sides[0] - sides[1]
    equal = np.flatnonzero(chords >= chords.max() * (1 - _TIE))
    chosen = equal[np.argmin(np.abs(places[equal] - length / 2))]
    ends_mm = places[chosen] * along + np.array([[sides[1][chosen]], [sides[0][chosen]]]) * across
    return float(chords[chosen]), np.linalg.solve(plane, ends_mm.T).T + start
