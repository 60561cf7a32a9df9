from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry, check_spacing

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.2, 8)] * 3)
ORIGINS = st.tuples(*[st.floats(-500, 500)] * 3)


def oblique(angles: tuple[float, ...], spacing: tuple[float, ...], origin: tuple[float, ...]) -> Geometry:
    direction = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    return Geometry((5, 6, 7), spacing, origin, tuple(direction.ravel()))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=50)
@given(ANGLES, SPACINGS, ORIGINS)
def test_world_position_of_a_voxel_centre_is_that_of_simpleitk(angles, spacing, origin) -> None:  # type: ignore[no-untyped-def]
    geometry = oblique(angles, spacing, origin)
    image = SimpleITK.Image(7, 6, 5, SimpleITK.sitkUInt8)
    image.SetSpacing(geometry.spacing[::-1])
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction)
    expected = image.TransformIndexToPhysicalPoint((3, 2, 1))
    np.testing.assert_allclose(geometry.voxel_edges_to_world([[1.5, 2.5, 3.5]])[0], expected, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(ANGLES, SPACINGS, ORIGINS)
def test_to_world_and_back_is_the_identity(angles, spacing, origin) -> None:  # type: ignore[no-untyped-def]
    geometry = oblique(angles, spacing, origin)
    points = np.array([[0, 0, 0], [5, 6, 7], [0.5, 2.25, -3]])
    np.testing.assert_allclose(geometry.world_to_voxel_edges(geometry.voxel_edges_to_world(points)), points, atol=1e-8)


def test_sheared_affine_moves_points_and_back() -> None:
    affine = (2.0, 0.5, 0.0, 10.0, 0.0, 1.0, 0.0, 20.0, 0.0, 0.0, 3.0, 30.0, 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry((4, 4, 4), (3.0, 1.1, 2.0), affine=affine)
    # Index x=1, y=2, z=0: x = 2*1 + 0.5*2 + 10, y = 2 + 20, z = 30.
    world = geometry.voxel_edges_to_world([[0.5, 2.5, 1.5]])
    np.testing.assert_allclose(world, [[13, 22, 30]])
    np.testing.assert_allclose(geometry.world_to_voxel_edges(world), [[0.5, 2.5, 1.5]])
    assert geometry.voxel_volume == pytest.approx(6)


def test_no_points_give_no_points() -> None:
    assert Geometry((1, 1, 1)).voxel_edges_to_world([]).shape == (0, 3)
    assert Geometry((1, 1, 1)).world_to_voxel_edges(np.zeros((0, 3))).shape == (0, 3)


def test_points_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(N, 3\)"):
        Geometry((1, 1, 1)).voxel_edges_to_world([1, 2, 3])


def test_voxel_volume_is_the_product_of_the_spacing() -> None:
    assert oblique((10, 20, 30), (2.0, 0.5, 3.0), (0, 0, 0)).voxel_volume == pytest.approx(3)


def test_a_rounded_direction_does_not_change_the_voxel_volume() -> None:
    rounded = (1.0, 1e-4, 0.0, 1e-4, 0.9997, 0.0, 0.0, 0.0, 1.0)
    assert Geometry((1, 1, 1), (2.0, 1.0, 0.5), direction=rounded).voxel_volume == 1.0


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_impossible_spacing_is_refused(spacing: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="spacing must be positive and finite"):
        Geometry((1, 1, 1), spacing)


@pytest.mark.parametrize("name", ["origin", "direction", "affine"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_position_that_is_not_finite_is_refused(name: str, value: float) -> None:
    count = {"origin": 3, "direction": 9, "affine": 16}[name]
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        Geometry((1, 1, 1), **{name: (0.5,) * (count - 1) + (value,)})


@pytest.mark.parametrize(
    "wrong", [{"shape": (1, 1)}, {"origin": (0.0,)}, {"direction": (1.0, 0.0)}, {"affine": (1.0, 2.0)}]
)
def test_wrong_number_of_elements_is_refused(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match=r"needs \d+ numbers"):
        Geometry(**{"shape": (1, 1, 1), **wrong})  # type: ignore[arg-type]


BASE = oblique((0, 0, 20), (3.0, 0.5, 0.5), (-1020.5, 99.25, 7.0))


@pytest.mark.parametrize("offset", [1e-8, 1e-6, 1e-5])
def test_differences_by_rounding_are_accepted(offset: float) -> None:
    # nnU-Net rejected data sets for differences of 1e-8.
    other = Geometry(
        BASE.shape,
        tuple(s * (1 + offset) for s in BASE.spacing),  # type: ignore[arg-type]
        tuple(o + offset for o in BASE.origin),  # type: ignore[arg-type]
        tuple(d + offset for d in BASE.direction),
    )
    assert BASE.difference(other) == []


def test_origin_and_direction_stored_in_single_precision_are_accepted() -> None:
    single = [tuple(float(np.float32(v)) for v in values) for values in (BASE.origin, BASE.direction)]
    assert BASE.difference(Geometry(BASE.shape, BASE.spacing, *single)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (5, 6, 8)}, r"size \(z, y, x\) 5 6 7 against 5 6 8 voxels"),
        ({"spacing": (3.0, 0.5, 0.501)}, r"spacing \(z, y, x\) 3 0.5 0.5 against 3 0.5 0.501 mm"),
        ({"origin": (-1020.5, 99.35, 7.0)}, "origin .* against -1020.5 99.35 7 mm"),
        ({"direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, "direction .* against 1 0 0 0 1 0 0 0 1"),
    ],
)
def test_each_difference_is_found_and_described(change: dict[str, tuple[float, ...]], message: str) -> None:
    (found,) = BASE.difference(dataclasses.replace(BASE, **change))  # type: ignore[arg-type]
    assert re.search(message, found)


def test_all_differences_are_described_together() -> None:
    other = dataclasses.replace(BASE, shape=(1, 1, 1), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))
    assert [text.split()[0] for text in BASE.difference(other)] == ["size", "spacing", "origin"]


def test_a_shear_alone_is_a_difference() -> None:
    affine = (0.5, 0.3, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    plain = Geometry((2, 2, 2), (3.0, 0.5, 0.5))
    (found,) = plain.difference(dataclasses.replace(plain, affine=affine))
    assert found.startswith("shear")


def test_the_native_header_takes_no_part_in_equality() -> None:
    assert dataclasses.replace(BASE, native_header=("nrrd", b"x")) == BASE


@pytest.mark.parametrize("spacing", [(1e-6, 1, 1), (float(np.float32(1e-6)), 1, 1), (1e6, 1e6, 1e6), (1, 1e-6, 1e6)])
def test_lengths_from_a_nanometre_to_a_kilometre_are_spacings(spacing: tuple[float, ...]) -> None:
    check_spacing(spacing)


@pytest.mark.parametrize("spacing", [(9e-7, 1, 1), (1, 1, 1.1e6), (0, 1, 1), (-1, 1, 1), (float("nan"), 1, 1), (1, 1)])
def test_other_spacings_are_refused_with_the_case(spacing: tuple[float, ...]) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        check_spacing(spacing, "case_7")
    assert "case_7" in caught.value.problem
    assert repr(caught.value.value) == repr(spacing)
