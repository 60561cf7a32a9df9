from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import BoolArray, Spacing
from detseg3d.measures.surface import measure_surface
from tests.measures.shapes import ellipsoid

MM = (1.0, 1.0, 1.0)
SPACINGS = [MM, (3.0, 1.0, 0.5), (0.7, 2.0, 1.3)]
MASKS = arrays(bool, (3, 4, 5), elements=st.booleans()).filter(lambda mask: bool(mask.any()))


def test_the_mesh_of_a_voxel_is_an_octahedron() -> None:
    # Eight triangles with the corners at half a voxel: area √3, volume 1/6.
    surface = measure_surface(np.ones((1, 1, 1), bool), np.eye(3))
    assert surface.area_mm2 == pytest.approx(math.sqrt(3))
    assert surface.sphericity == pytest.approx((36 * math.pi / 36) ** (1 / 3) / math.sqrt(3))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_large_cuboid_has_the_surface_of_its_faces_except_for_the_edges(spacing: Spacing) -> None:
    # Marching cubes bevels the edges: each face loses half a voxel on every side.
    surface = measure_surface(np.ones((20, 30, 40), bool), np.diag(spacing))
    z, y, x = (count * step for count, step in zip((20, 30, 40), spacing, strict=True))
    faces = 2 * (z * y + z * x + y * x)
    assert faces * 0.965 < surface.area_mm2 < faces


@pytest.mark.parametrize(
    ("radius", "spacing", "excess"),
    [(20.0, MM, 1.10), (6.0, MM, 1.12), (2.0, MM, 1.12), (20.0, (3.0, 1.0, 1.0), 1.17), (20.0, (5.0, 1.0, 1.0), 1.25)],
)
def test_the_surface_of_a_ball_is_too_large_by_the_stated_error(radius: float, spacing: Spacing, excess: float) -> None:
    surface = measure_surface(ellipsoid((radius,) * 3, spacing), np.diag(spacing))
    exact = 4 * math.pi * radius**2
    assert exact * 0.9 < surface.area_mm2 < exact * excess


def test_a_long_lesion_has_a_lower_sphericity_than_a_compact_lesion() -> None:
    line, cube = (measure_surface(np.ones(shape, bool), np.eye(3)) for shape in ((1, 1, 27), (3, 3, 3)))
    assert line.sphericity < 0.5 < cube.sphericity


def test_the_surfaces_of_two_parts_are_added() -> None:
    mask = np.zeros((1, 1, 9), bool)
    mask[0, 0, [0, 8]] = True
    assert measure_surface(mask, np.eye(3)).area_mm2 == pytest.approx(2 * math.sqrt(3))


@given(MASKS, st.sampled_from(SPACINGS))
def test_the_sphericity_lies_between_0_and_1(mask: BoolArray, spacing: Spacing) -> None:
    surface = measure_surface(mask, np.diag(spacing))
    assert 0 < surface.sphericity <= 1 and math.isfinite(surface.area_mm2)


@given(MASKS, st.floats(1e-3, 1e3))
def test_the_area_grows_with_the_square_of_the_spacing(mask: BoolArray, scale: float) -> None:
    here, there = (measure_surface(mask, np.eye(3) * factor) for factor in (1.0, scale))
    assert there.area_mm2 == pytest.approx(scale**2 * here.area_mm2)
    assert there.sphericity == pytest.approx(here.sphericity)


def test_a_sheared_mesh_has_the_volume_of_the_sheared_voxels() -> None:
    # Shear keeps the volume of a cuboid and enlarges its surface, so that the sphericity falls.
    sheared = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    mask = np.ones((9, 9, 9), bool)
    assert measure_surface(mask, sheared).area_mm2 > measure_surface(mask, np.eye(3)).area_mm2
    assert measure_surface(mask, sheared).sphericity < measure_surface(mask, np.eye(3)).sphericity
