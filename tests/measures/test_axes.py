from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from detseg3d.core.arrays import BoolArray, FloatArray, Spacing
from detseg3d.measures.axes import maximum_diameter, slice_axes
from tests.measures.shapes import ellipsoid

MM = (1.0, 1.0, 1.0)
SPACINGS = [MM, (3.0, 1.0, 0.5), (0.7, 2.0, 1.3)]
MASKS = arrays(bool, (3, 4, 5), elements=st.booleans()).filter(lambda mask: bool(mask.any()))


def face_centers(mask: BoolArray) -> FloatArray:
    """Return the centres of all voxel faces that lie between the mask and the background, one face at a time."""
    padded = np.pad(mask, 1)
    points = []
    for index in np.argwhere(padded).tolist():
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = list(index)
                other[axis] += step
                if not padded[tuple(other)]:
                    point = np.array(index, np.float64) - 0.5
                    point[axis] += step / 2
                    points.append(point)
    return np.array(points)


def longest(points: FloatArray, spacing: tuple[float, ...]) -> float:
    """Return the longest distance of two points, by comparing all of them."""
    places = points * spacing
    return max(float(np.linalg.norm(places - place, axis=1).max()) for place in places)


def brute_long_axis(mask: BoolArray, spacing: Spacing) -> float:
    lengths = []
    for plane in mask:
        labels, count = ndimage.label(plane, np.ones((3, 3)))
        lengths += [longest(face_centers(labels == number), spacing[1:]) for number in range(1, count + 1)]
    return max(lengths)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_single_voxel_has_the_diameter_of_its_edges(spacing: Spacing) -> None:
    mask, matrix = np.ones((1, 1, 1), bool), np.diag(spacing)
    axes = slice_axes(mask, matrix, 0)
    assert axes.long.length_mm == pytest.approx(max(spacing[1:]))
    assert axes.short.length_mm == pytest.approx(min(spacing[1:]))
    assert maximum_diameter(mask, matrix).length_mm == pytest.approx(max(spacing))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_row_of_voxels_has_the_length_of_the_row(spacing: Spacing) -> None:
    mask, matrix = np.ones((1, 1, 9), bool), np.diag(spacing)
    axes = slice_axes(mask, matrix, 0)
    assert axes.long.length_mm == pytest.approx(9 * spacing[2])
    assert axes.long.ends.tolist() == [[0.5, 0.5, 0.0], [0.5, 0.5, 9.0]]
    assert axes.short.length_mm == pytest.approx(spacing[1])
    # Thick slices: the upper face of the first voxel and the lower face of the last voxel may be further apart.
    expected = max(9 * spacing[2], math.hypot(spacing[0], 8 * spacing[2]))
    assert maximum_diameter(mask, matrix).length_mm == pytest.approx(expected)


def test_the_axes_of_a_cuboid_run_between_the_centres_of_faces() -> None:
    # In a slice of 4 by 8 voxels of 1 mm, faces on both short sides are 8 mm and 3 mm apart.
    axes = slice_axes(np.ones((6, 4, 8), bool), np.eye(3), 0)
    assert axes.long.length_mm == pytest.approx(math.hypot(8, 3))
    # In three dimensions, the faces at both ends of the longest edge are (5, 3, 8) mm apart.
    assert maximum_diameter(np.ones((6, 4, 8), bool), np.eye(3)).length_mm == pytest.approx(math.hypot(5, 3, 8))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_axes_lie_in_slices_at_a_right_angle_to_the_given_axis(axis: int) -> None:
    spacing = np.array([2.0, 1.5, 1.0])
    axes = slice_axes(np.ones((5, 4, 3), bool), np.diag(spacing), axis)
    counts = np.delete([5, 4, 3], axis)
    steps = np.delete(spacing, axis)
    choices = [np.linalg.norm((counts - off) * steps) for off in ([1, 0], [0, 1])]
    assert axes.long.length_mm == pytest.approx(max(choices))
    assert np.all(axes.long.ends[:, axis] == axes.slice_index + 0.5)
    assert np.all(axes.short.ends[:, axis] == axes.slice_index + 0.5)


def test_of_equal_slices_the_middle_one_is_taken() -> None:
    assert slice_axes(np.ones((7, 2, 5), bool), np.eye(3), 0).slice_index == 3


@pytest.mark.parametrize("spacing", [MM, (5.0, 1.0, 1.0), (1.0, 0.6, 0.6)])
def test_the_axes_of_an_ellipsoid_are_its_diameters(spacing: Spacing) -> None:
    mask = ellipsoid((12.0, 15.0, 25.0), spacing)
    axes = slice_axes(mask, np.diag(spacing), 0)
    assert axes.long.length_mm == pytest.approx(50, abs=spacing[2])
    assert axes.short.length_mm == pytest.approx(30, abs=spacing[1])
    assert maximum_diameter(mask, np.diag(spacing)).length_mm == pytest.approx(50, abs=spacing[2])


@pytest.mark.parametrize("radius", [3.0, 6.5, 15.0])
@pytest.mark.parametrize("spacing", [MM, (3.0, 0.8, 0.8)])
def test_the_axes_of_a_ball_are_its_diameter(radius: float, spacing: Spacing) -> None:
    mask = ellipsoid((radius, radius, radius), spacing)
    axes = slice_axes(mask, np.diag(spacing), 0)
    assert axes.long.length_mm == pytest.approx(2 * radius, abs=spacing[1])
    assert axes.short.length_mm == pytest.approx(2 * radius, abs=1.5 * spacing[1])


def test_a_tilted_rectangle_has_the_length_of_its_diagonal() -> None:
    # A rectangle of 40 by 10 mm, turned by 30 degrees in the plane. Its longest diameter is the diagonal, and the
    # longest chord at a right angle to the diagonal is its short side divided by the cosine of the diagonal's angle.
    y, x = np.mgrid[-30:31, -30:31].astype(float)
    cosine, sine = math.cos(math.pi / 6), math.sin(math.pi / 6)
    mask = (np.abs(x * cosine + y * sine) <= 20) & (np.abs(y * cosine - x * sine) <= 5)
    axes = slice_axes(mask[None], np.eye(3), 0)
    assert axes.long.length_mm == pytest.approx(math.hypot(40, 10), abs=1.0)
    assert axes.short.length_mm == pytest.approx(10 / math.cos(math.atan2(10, 40)), abs=1.0)


def test_an_axis_does_not_bridge_two_parts_of_a_slice() -> None:
    mask = np.zeros((1, 3, 20), bool)
    mask[0, 1, :4] = mask[0, 1, 14:20] = True
    assert slice_axes(mask, np.eye(3), 0).long.length_mm == 6
    assert maximum_diameter(mask, np.eye(3)).length_mm == 20


def test_parts_that_touch_at_a_corner_are_one_component() -> None:
    mask = np.eye(4, dtype=bool)[None]
    assert slice_axes(mask, np.eye(3), 0).long.length_mm == pytest.approx(math.hypot(4, 3))


def test_a_sheared_grid_is_measured_in_mm() -> None:
    # A step along y also moves 1 mm along x: from (0, 0) to (3, 3) are 3 mm along y and 3 + 3 mm along x.
    matrix = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    mask = np.eye(4, dtype=bool)[None]
    centers = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5], [-0.5, 0.0], [0.0, -0.5]])
    points = np.concatenate([centers + index for index in range(4)]) @ matrix[1:, 1:].T
    expected = max(float(np.linalg.norm(first - second)) for first in points for second in points)
    axes = slice_axes(mask, matrix, 0)
    assert axes.long.length_mm == pytest.approx(expected)
    for axis in (axes.long, axes.short):
        assert np.linalg.norm((axis.ends[1] - axis.ends[0]) @ matrix.T) == pytest.approx(axis.length_mm)
    long, short = ((axis.ends[1] - axis.ends[0]) @ matrix.T for axis in (axes.long, axes.short))
    assert long @ short == pytest.approx(0, abs=1e-9)


@given(MASKS, st.sampled_from(SPACINGS))
def test_both_diameters_agree_with_a_comparison_of_all_points(mask: BoolArray, spacing: Spacing) -> None:
    axes = slice_axes(mask, np.diag(spacing), 0)
    assert axes.long.length_mm == pytest.approx(brute_long_axis(mask, spacing))
    assert maximum_diameter(mask, np.diag(spacing)).length_mm == pytest.approx(longest(face_centers(mask), spacing))


@given(MASKS, st.sampled_from(SPACINGS))
def test_the_ends_belong_to_the_lengths_and_the_axes_are_at_a_right_angle(mask: BoolArray, spacing: Spacing) -> None:
    axes = slice_axes(mask, np.diag(spacing), 0)
    for diameter in (axes.long, axes.short, maximum_diameter(mask, np.diag(spacing))):
        ends = diameter.ends * spacing
        assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(diameter.length_mm)
    long, short = ((axis.ends[1] - axis.ends[0]) * spacing for axis in (axes.long, axes.short))
    assert long @ short == pytest.approx(0, abs=1e-9)
    assert 0 < axes.short.length_mm <= axes.long.length_mm * (1 + 1e-9)


@given(MASKS, st.sampled_from([(0,), (1,), (2,), (0, 1, 2)]))
def test_flips_do_not_change_the_lengths(mask: BoolArray, flipped: tuple[int, ...]) -> None:
    matrix = np.diag((3.0, 1.0, 0.5))
    here, there = slice_axes(mask, matrix, 0), slice_axes(np.flip(mask, flipped), matrix, 0)
    assert there.long.length_mm == pytest.approx(here.long.length_mm)
    assert there.short.length_mm == pytest.approx(here.short.length_mm)


@given(MASKS, st.integers(1, 3))
def test_quarter_turns_in_the_slice_do_not_change_the_lengths(mask: BoolArray, turns: int) -> None:
    here = slice_axes(mask, np.diag((3.0, 0.8, 0.8)), 0)
    there = slice_axes(np.rot90(mask, turns, (1, 2)), np.diag((3.0, 0.8, 0.8)), 0)
    assert there.long.length_mm == pytest.approx(here.long.length_mm)
    assert there.short.length_mm == pytest.approx(here.short.length_mm)


@given(MASKS, st.floats(1e-3, 1e3))
def test_the_lengths_grow_with_the_spacing(mask: BoolArray, scale: float) -> None:
    here, there = slice_axes(mask, np.eye(3), 0), slice_axes(mask, np.eye(3) * scale, 0)
    assert there.long.length_mm == pytest.approx(scale * here.long.length_mm)
    assert there.short.length_mm == pytest.approx(scale * here.short.length_mm)


def test_the_short_axis_is_the_longest_chord_of_many() -> None:
    rng = np.random.default_rng(1)
    blurred = ndimage.gaussian_filter(rng.normal(size=(40, 40)), 3)
    labels, _ = ndimage.label(blurred > 0.02, np.ones((3, 3)))
    mask = (labels == np.bincount(labels.ravel())[1:].argmax() + 1)[None]
    axes = slice_axes(mask, np.eye(3), 0)
    points = face_centers(mask[0])
    start, end = axes.long.ends[:, 1:]
    along = (end - start) / axes.long.length_mm
    across = np.array([-along[1], along[0]])
    t, w = (points - start) @ along, (points - start) @ across
    # Widths of the hull at many places: between each two points, the line at this place.
    best = 0.0
    for place in np.linspace(0, axes.long.length_mm, 801)[1:-1]:
        left, right = np.flatnonzero(t <= place), np.flatnonzero(t >= place)
        gap = t[right][None] - t[left][:, None]
        share = np.divide(place - t[left][:, None], gap, out=np.zeros_like(gap), where=gap > 0)
        heights = w[left][:, None] + share * (w[right][None] - w[left][:, None])
        best = max(best, float(heights.max() - heights.min()))
    assert axes.short.length_mm == pytest.approx(best, abs=0.06)
