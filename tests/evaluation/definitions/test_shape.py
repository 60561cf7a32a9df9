from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import AnyIntArray, Spacing
from detseg3d.evaluation.definitions.shape import LesionShape, lesion_shapes

MM = (1.0, 1.0, 1.0)
SPACINGS = [MM, (3.0, 1.0, 0.5), (0.7, 2.0, 1.3)]

# A solid cuboid of edge L has the variance L² / 12, and an ellipsoid of axis 2 √(5 L² / 12).
AXIS_OF_EDGE = 2 * math.sqrt(5 / 12)


def shape_of(mask: AnyIntArray, spacing: Spacing = MM) -> LesionShape:
    """Measure a single lesion; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (shape,) = lesion_shapes(mask.astype(np.int64), np.array([1]), spacing)
    return shape


def ellipsoid(semi_axes: tuple[float, float, float], spacing: Spacing) -> AnyIntArray:
    """Return the mask of the voxels with their centre in an ellipsoid; the semi-axes are in mm."""
    sides = [
        np.arange(-math.ceil(a / s) - 1, math.ceil(a / s) + 2) * s for a, s in zip(semi_axes, spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*sides, indexing="ij")
    a, b, c = semi_axes
    return ((z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 <= 1).astype(np.int64)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 9), (1, 5, 7), (4, 6, 8)])
def test_the_axes_of_a_cuboid_are_exact_also_for_a_point_a_line_and_a_plane(
    size: tuple[int, int, int], spacing: Spacing
) -> None:
    edges = [count * step for count, step in zip(size, spacing, strict=True)]
    shape = shape_of(np.ones(size, np.int64), spacing)
    assert shape.long_axis_mm == pytest.approx(AXIS_OF_EDGE * max(edges))
    assert shape.short_axis_mm == pytest.approx(AXIS_OF_EDGE * min(edges))


@pytest.mark.parametrize("spacing", [MM, (2.0, 1.0, 0.7)])
def test_the_axes_of_an_ellipsoid_are_its_diameters(spacing: Spacing) -> None:
    shape = shape_of(ellipsoid((20.0, 25.0, 12.0), spacing), spacing)
    assert shape.long_axis_mm == pytest.approx(50, rel=0.01)
    assert shape.short_axis_mm == pytest.approx(24, rel=0.01)


def test_the_axes_of_an_oblique_lesion_follow_the_lesion() -> None:
    # A diagonal of 9 voxels in the plane: centres on a line of 8 √2 mm.
    shape = shape_of(np.eye(9, dtype=np.int64)[None])
    assert shape.long_axis_mm == pytest.approx(2 * math.sqrt(5 * (2 * 60 / 9 + 1 / 12)))
    assert shape.short_axis_mm == pytest.approx(AXIS_OF_EDGE)


def test_the_sphericity_of_a_digital_sphere_is_near_its_limit() -> None:
    shape = shape_of(ellipsoid((20.0, 20.0, 20.0), MM))
    # The steps between voxels make the mesh of a digital sphere about 9 % larger than the sphere.
    assert shape.surface_mm2 == pytest.approx(4 * math.pi * 400, rel=0.1)
    assert 0.88 < shape.sphericity < 1


def test_the_mesh_of_a_voxel_is_an_octahedron() -> None:
    # Eight triangles with the corners at half a voxel: area √3, volume 1/6.
    shape = shape_of(np.ones((1, 1, 1), np.int64))
    assert shape.surface_mm2 == pytest.approx(math.sqrt(3))
    assert shape.sphericity == pytest.approx((36 * math.pi / 36) ** (1 / 3) / math.sqrt(3))


def test_a_large_cuboid_has_the_surface_of_its_faces_except_for_the_edges() -> None:
    # Marching cubes bevels the edges: each face loses half a voxel on every side.
    shape = shape_of(np.ones((20, 30, 40), np.int64))
    faces = 2 * (20 * 30 + 20 * 40 + 30 * 40)
    assert faces * 0.97 < shape.surface_mm2 < faces


def test_a_long_lesion_has_a_lower_sphericity_than_a_compact_lesion() -> None:
    line, cube = shape_of(np.ones((1, 1, 27), np.int64)), shape_of(np.ones((3, 3, 3), np.int64))
    assert line.sphericity < 0.5 < cube.sphericity


def test_lesions_are_measured_separately_and_by_their_values() -> None:
    instances = np.zeros((3, 4, 20), np.int64)
    instances[0, 0, :2], instances[0, 1, :7], instances[2, 2, 5:8] = 70_000, 3, 900
    axes = [shape.long_axis_mm for shape in lesion_shapes(instances, np.array([3, 900, 70_000]), MM)]
    assert axes == pytest.approx([AXIS_OF_EDGE * 7, AXIS_OF_EDGE * 3, AXIS_OF_EDGE * 2])


def test_a_lesion_of_two_pieces_is_one_shape() -> None:
    instances = np.zeros((1, 1, 9), np.int64)
    instances[0, 0, [0, 8]] = 1
    shape = shape_of(instances)
    assert shape.long_axis_mm == pytest.approx(2 * math.sqrt(5 * (16 + 1 / 12)))
    assert shape.surface_mm2 == pytest.approx(2 * math.sqrt(3))


def test_no_lesions_have_no_shapes() -> None:
    assert lesion_shapes(np.zeros((2, 2, 2), np.int64), np.zeros(0, np.int64), MM) == []


@given(arrays(np.int64, (3, 4, 5), elements=st.integers(0, 1)), st.sampled_from(SPACINGS))
def test_every_lesion_has_finite_measures(mask: AnyIntArray, spacing: Spacing) -> None:
    if not mask.any():
        return
    shape = shape_of(mask, spacing)
    values = [shape.long_axis_mm, shape.short_axis_mm, shape.surface_mm2, shape.sphericity]
    assert np.all(np.isfinite(values)) and min(values) > 0
    assert shape.short_axis_mm <= shape.long_axis_mm and shape.sphericity <= 1


@given(arrays(np.int64, (3, 4, 5), elements=st.integers(0, 1)), st.sampled_from([(0,), (1,), (0, 2)]))
def test_flipping_a_lesion_does_not_change_its_shape(mask: AnyIntArray, axes: tuple[int, ...]) -> None:
    if not mask.any():
        return
    here, there = shape_of(mask), shape_of(np.flip(mask, axes))
    assert there.long_axis_mm == pytest.approx(here.long_axis_mm)
    assert there.short_axis_mm == pytest.approx(here.short_axis_mm)


def test_lesions_with_the_same_voxels_have_the_same_shape() -> None:
    instances = np.zeros((9, 9, 9), np.int64)
    instances[0, 0:2, 0:3], instances[5, 6:8, 6:9], instances[7:9, 0:3, 0] = 1, 2, 3
    first, second, other = lesion_shapes(instances, np.array([1, 2, 3]), (3.0, 1.0, 0.5))
    assert first == second != other
