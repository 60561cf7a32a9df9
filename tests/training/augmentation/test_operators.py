from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from detseg3d.training.augmentation.operators import (
    apply_along_axes,
    blur_widely,
    fill_from_surroundings,
    gaussian_matrix,
    interpolation_matrix,
    sampling_matrix,
    slice_positions,
    smooth,
    smooth_field,
    widen,
)


def make_image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@given(st.integers(1, 40), st.floats(1, 12), st.floats(0, 1), st.floats(0.3, 1.5))
def test_slices_of_a_constant_image_are_constant(length: int, distance: float, phase: float, width: float) -> None:
    slices = slice_positions(length, distance, phase)
    matrix = interpolation_matrix(slices, length) @ sampling_matrix(slices, length, width * distance)
    assert matrix.shape == (length, length)
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    assert matrix.min() >= 0


def test_slices_at_the_voxels_change_nothing() -> None:
    slices = slice_positions(9, 1, 0.5)
    np.testing.assert_allclose(interpolation_matrix(slices, 9) @ sampling_matrix(slices, 9, 0.01), np.eye(9), atol=1e-9)


def test_no_voxel_is_farther_from_a_slice_than_their_distance() -> None:
    for phase in np.linspace(0, 1, 11):
        slices = slice_positions(20, 6, float(phase))
        assert np.abs(np.arange(20)[:, None] - slices).min(axis=1).max() <= 6


def test_gaussian_equals_scipy_inside() -> None:
    image = make_image(1, 32, 24, 20)
    blurred = apply_along_axes(image, [gaussian_matrix(n, 1.1) for n in image.shape[1:]])
    expected = ndimage.gaussian_filter(image[0].numpy(), 1.1, truncate=8)
    np.testing.assert_allclose(blurred[0, 8:-8, 8:-8, 8:-8], expected[8:-8, 8:-8, 8:-8], atol=1e-3)


def test_matrices_act_along_their_axis() -> None:
    image, random = make_image(2, 3, 4, 5), np.random.default_rng(1)
    z, y, x = (random.normal(size=(n, n - 1)).T for n in (3, 4, 5))
    result = apply_along_axes(image, [z, y, x])
    expected = np.einsum("czyx,az,by,dx->cabd", image.numpy(), z, y, x)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)
    assert apply_along_axes(image, [None, None, None]) is image


def test_a_wide_blur_is_close_to_a_gaussian() -> None:
    image = torch.from_numpy(ndimage.gaussian_filter(make_image(40, 40, 40).numpy(), 2)[None] * 10)
    blurred = blur_widely(image, (4.0, 4.0, 4.0))[0, 12:-12, 12:-12, 12:-12].numpy()
    expected = ndimage.gaussian_filter(image[0].numpy(), 4)[12:-12, 12:-12, 12:-12]
    assert np.corrcoef(blurred.ravel(), expected.ravel())[0, 1] > 0.97
    assert blurred.std() == pytest.approx(expected.std(), rel=0.15)


@pytest.mark.parametrize("shape", [(20, 30, 40), (1, 16, 16), (8, 8, 8)])
def test_smooth_fields_are_smooth_and_standardised(shape: tuple[int, int, int]) -> None:
    field = smooth_field(shape, (10, 10, 10), np.random.default_rng(0), 2)
    assert field.shape == (2, *shape)
    np.testing.assert_allclose(field.mean(dim=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(field.std(dim=(1, 2, 3), correction=0), 1, atol=1e-4)
    assert field.diff(dim=3).abs().max() < 1
    assert not torch.equal(field[0], field[1])


@pytest.mark.parametrize("shape", [(1, 7, 6, 5), (2, 1, 6, 1), (1, 2, 2, 2)])
def test_smoothing_equals_a_convolution_with_repeated_border(shape: tuple[int, ...]) -> None:
    image = make_image(*shape)
    expected = image.numpy()
    for axis in (1, 2, 3):
        expected = ndimage.convolve1d(expected, [0.25, 0.5, 0.25], axis=axis, mode="nearest")
    np.testing.assert_allclose(smooth(image), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 7, 6, 5), (2, 1, 6, 1), (1, 2, 2, 2)])
def test_widening_equals_a_maximum_filter(shape: tuple[int, ...]) -> None:
    image = make_image(*shape)
    np.testing.assert_array_equal(widen(image), ndimage.maximum_filter(image.numpy(), (1, 3, 3, 3)))
    assert torch.equal(image, make_image(*shape))


def hole(shape: tuple[int, int, int], *region: slice) -> torch.Tensor:
    known = torch.ones((1, *shape))
    known[(0, *region)] = 0
    return known


@pytest.mark.parametrize("shape", [(24, 24, 24), (1, 30, 17), (9, 8, 11), (2, 2, 2)])
def test_a_hole_in_a_constant_image_gets_the_constant(shape: tuple[int, int, int]) -> None:
    middle = slice(0, 1), slice(0, 8), slice(1, 9)
    image = torch.full((2, *shape), 3.0)
    image[(slice(None), *middle)] = 100
    filled = fill_from_surroundings(image, hole(shape, *middle), (1, 1, 1))
    np.testing.assert_allclose(filled, 3, atol=1e-4)


def test_a_hole_in_a_ramp_is_filled_with_values_from_its_surroundings() -> None:
    ramp = torch.arange(32.0).expand(1, 32, 32, 32).clone()
    part = slice(10, 18)
    known = hole((32, 32, 32), part, part, part)
    filled = fill_from_surroundings(ramp * known, known, (1, 1, 1))
    assert torch.equal(filled[known == 1], ramp[known == 1])
    assert (filled - ramp).abs().max() < 4


def test_a_hole_is_filled_within_its_slices_first_if_they_are_thick() -> None:
    image = torch.arange(6.0)[None, :, None, None].expand(1, 6, 16, 16).clone()
    known = hole((6, 16, 16), slice(0, 6), slice(6, 9), slice(6, 9))
    filled = fill_from_surroundings(image * known, known, (8, 1, 1))
    np.testing.assert_allclose(filled, image, atol=1e-4)
