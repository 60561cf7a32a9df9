from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage.measure import marching_cubes, mesh_surface_area

from detseg3d.core.arrays import BoolArray
from detseg3d.evaluation.definitions.surface_elements import area_surface_metrics, element_areas, surface_elements

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 2.0, 1.0), (0.7, 1.1, 2.3)]
masks = arrays(np.bool_, (4, 5, 6))
spacings = st.sampled_from(SPACINGS)


def corners(pattern: int) -> BoolArray:
    return np.reshape([bool(pattern >> (7 - corner) & 1) for corner in range(8)], (2, 2, 2))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_patterns_by_hand(spacing: tuple[float, float, float]) -> None:
    z, y, x = spacing
    areas = element_areas(spacing)
    assert areas[0] == areas[255] == 0.0
    triangle = math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2) / 8
    assert areas[0b00000001] == pytest.approx(triangle)  # one voxel: a triangle between the middles of three edges
    assert areas[0b10000001] == pytest.approx(2 * triangle)  # two that meet in a corner only
    assert areas[0b11000000] == pytest.approx(x * math.hypot(z, y) / 2)  # a row along x: a slope
    assert areas[0b11110000] == pytest.approx(y * x)  # planes
    assert areas[0b11001100] == pytest.approx(z * x)
    assert areas[0b10101010] == pytest.approx(z * y)
    assert areas[0b10010110] == pytest.approx(4 * triangle)  # no two of these four voxels share a face


@pytest.mark.parametrize("spacing", SPACINGS)
def test_inside_and_outside_have_the_same_surface(spacing: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(element_areas(spacing), element_areas(spacing)[::-1], rtol=1e-12)


def test_rotation_and_reflection_do_not_change_the_area() -> None:
    areas = element_areas((1.0, 1.0, 1.0))
    weights = 2 ** np.arange(7, -1, -1)
    for pattern, axes in itertools.product(range(256), itertools.permutations(range(3))):
        turned = corners(pattern).transpose(axes)[::-1]
        assert areas[int(turned.ravel() @ weights)] == pytest.approx(areas[pattern])


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_area_of_a_smooth_mask_equals_the_area_of_its_mesh(spacing: tuple[float, float, float]) -> None:
    z, y, x = np.indices((20, 20, 20)) - 9.5
    mask = np.pad(z**2 + y**2 + x**2 <= 60, 1)
    vertices, faces, _, _ = marching_cubes(mask.astype(float), 0.5, spacing=spacing, method="lorensen")
    assert surface_elements(mask, spacing).areas.sum() == pytest.approx(mesh_surface_area(vertices, faces), rel=1e-5)


def by_hand(truth: BoolArray, prediction: BoolArray, spacing: tuple[float, float, float], tolerance: float) -> float:
    """Compute the surface Dice from distance maps of the corners, with the area of each corner."""
    areas, sides = element_areas(spacing), []
    for mask in (truth, prediction):
        padded = np.pad(mask, 1)
        pattern = np.zeros(np.array(padded.shape) - 1, int)
        for place in np.ndindex(*pattern.shape):
            block = padded[tuple(slice(at, at + 2) for at in place)]
            pattern[place] = int("".join(str(int(value)) for value in block.ravel()), 2)
        sides.append((pattern, (pattern > 0) & (pattern < 255)))
    near = total = 0.0
    for (pattern, border), (_, other) in (sides, sides[::-1]):
        distance = ndimage.distance_transform_edt(~other, sampling=spacing)
        near += areas[pattern[border & (distance <= tolerance + 1e-9)]].sum()
        total += areas[pattern[border]].sum()
    return float(near / total)


@settings(max_examples=40, deadline=None)
@given(masks.filter(np.any), masks.filter(np.any), spacings, st.sampled_from([0.5, 1.0, 2.2]))
def test_surface_dice_equals_surface_dice_from_distance_maps(
    truth: BoolArray, prediction: BoolArray, spacing: tuple[float, float, float], tolerance: float
) -> None:
    found = area_surface_metrics(truth, prediction, spacing, tolerance)
    assert found.nsd == pytest.approx(by_hand(truth, prediction, spacing, tolerance))
    back = area_surface_metrics(prediction, truth, spacing, tolerance)
    assert (back.nsd, back.hd95_mm) == (pytest.approx(found.nsd), found.hd95_mm)


def test_single_voxels_two_millimetres_apart_share_half_of_their_surface() -> None:
    """The library surface-distance gives the same value. Between voxel centres, no distance is 1 mm or less."""
    truth, prediction = np.zeros((2, 8, 8, 8), np.uint8)
    truth[4, 4, 2], prediction[4, 4, 4] = 1, 1
    assert area_surface_metrics(truth, prediction, (3.0, 2.0, 1.0), 1.0).nsd == pytest.approx(0.5)


def test_95_percent_of_the_area_decide_not_95_percent_of_the_corners() -> None:
    """A plate with a thin spike: the spike has many corners but a small area."""
    truth = np.zeros((12, 30, 30), np.uint8)
    truth[0, :, :] = 1
    prediction = truth.copy()
    prediction[1:11, 15, 15] = 1
    assert area_surface_metrics(truth, prediction, (0.1, 5.0, 5.0)).hd95_mm == 0.0
    assert area_surface_metrics(truth, prediction, (30.0, 0.1, 0.1)).hd95_mm > 200


def test_empty_masks_are_defined() -> None:
    nothing, something = np.zeros((2, 3, 4, 12), np.uint8)
    something[0, 0, 0] = 1
    both = area_surface_metrics(nothing, nothing, (1.0, 1.0, 1.0))
    assert (both.nsd, both.hd95_mm) == (1.0, 0.0)
    one = area_surface_metrics(something, nothing, (1.0, 1.0, 1.0))
    assert (one.nsd, one.hd95_mm) == (0.0, 13.0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        area_surface_metrics(np.zeros((1, 2, 3)), np.zeros((1, 2, 4)), (1.0, 1.0, 1.0))
