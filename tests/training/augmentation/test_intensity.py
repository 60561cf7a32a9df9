from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.training.augmentation.intensity import (
    change_intensities,
    change_local_contrast,
    multiply_bias,
    random_curve,
)
from detseg3d.training.augmentation.table import AugmentationTable, Change

UNIT = (1.0, 1.0, 1.0)


def make_image(channels: int = 2, heavy_tail: bool = False) -> torch.Tensor:
    values = np.random.default_rng(0).normal(size=(channels, 12, 14, 16)).astype(np.float32)
    return torch.from_numpy(np.exp(2 * values) if heavy_tail else values)


def changed(image: torch.Tensor, seed: int = 0, **changes: Change) -> torch.Tensor:
    air = image.amin(dim=(1, 2, 3))
    return change_intensities(image, air, AugmentationTable(**changes), np.random.default_rng(seed))[0]


@given(st.integers(0, 10_000), st.floats(0.1, 1))
def test_random_curves_increase(seed: int, amount: float) -> None:
    random = np.random.default_rng(seed)
    points = np.linspace(-3, 9, 50)
    curve = random_curve(np.sort(random.normal(size=500)), points, amount, random)
    assert np.all(np.diff(curve) > 0) and curve[0] == points[0]


def test_a_random_curve_without_amount_is_the_identity() -> None:
    points = np.linspace(-3, 9, 50)
    np.testing.assert_allclose(random_curve(points, points, 0.0, np.random.default_rng(0)), points)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_curves_and_gamma_keep_the_order_of_the_intensities(seed: int, heavy_tail: bool) -> None:
    image = make_image(1, heavy_tail)
    result = changed(image, seed, curve=Change(1, 0.5, 0.5), gamma=Change(1, 0.6, 1.7))
    order = image.ravel().argsort()
    assert bool((result.ravel()[order].diff() >= -1e-3).all())


@pytest.mark.parametrize("name", ["curve", "gamma", "inversion"])
def test_the_form_of_the_curve_keeps_mean_and_standard_deviation(name: str) -> None:
    image = make_image()
    result = changed(image, 3, **{name: Change(1, 0.7, 0.7)})
    assert not torch.equal(result, image)
    np.testing.assert_allclose(result.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)), atol=0.02)
    np.testing.assert_allclose(result.std(dim=(1, 2, 3)), image.std(dim=(1, 2, 3)), rtol=0.02)


def test_scale_and_offset_change_mean_and_standard_deviation() -> None:
    image = make_image()
    result = changed(image, scale=Change(1, 0.5, 0.5), offset=Change(1, 2, 2))
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    np.testing.assert_allclose(result, (image - mean) / 2 + mean + 2, atol=1e-4)


def test_inversion_mirrors_the_intensities() -> None:
    image = make_image(1)
    result = changed(image, inversion=Change(1))
    assert np.corrcoef(image.ravel(), result.ravel())[0, 1] == pytest.approx(-1, abs=1e-5)


def test_each_channel_has_a_curve_of_its_own() -> None:
    image = make_image(1).expand(2, -1, -1, -1).clone()
    result = changed(image, curve=Change(1, 0.5, 0.5))
    assert (result[0] - result[1]).abs().max() > 0.05


def test_air_follows_the_curve() -> None:
    image = make_image(1)
    image[0, 0, 0, 0] = image.min() - 1
    table = AugmentationTable(curve=Change(1, 0.5, 0.5), scale=Change(1, 0.6, 1.6), offset=Change(1, -1, 1))
    result, air = change_intensities(image, image.amin(dim=(1, 2, 3)), table, np.random.default_rng(2))
    assert float(air) == pytest.approx(float(result[0, 0, 0, 0]), abs=1e-4)


@pytest.mark.parametrize("value", [0.0, -4.0])
def test_a_constant_image_stays_constant(value: float) -> None:
    image = torch.full((1, 4, 4, 4), value)
    assert torch.equal(changed(image, curve=Change(1, 0.5, 0.5), gamma=Change(1, 2, 2)), image)


def test_the_bias_field_multiplies_the_distance_from_air() -> None:
    image = make_image(2) + 10
    air = torch.tensor([1.0, 2.0])
    result = multiply_bias(image, air, UNIT, AugmentationTable(bias=Change(1, 0.2, 0.2)), np.random.default_rng(0))
    field = ((result - air[:, None, None, None]) / (image - air[:, None, None, None])).log()
    np.testing.assert_allclose(field.std(dim=(1, 2, 3)), 0.2, rtol=0.01)
    assert field.diff(dim=3).abs().max() < 0.15


def test_local_contrast_varies_between_regions() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 48, 48, 48)).astype(np.float32))
    table = AugmentationTable(local_contrast=Change(1, 0.5, 0.5))
    result = change_local_contrast(image, UNIT, table, np.random.default_rng(0))
    parts = [result[0, z : z + 12, y : y + 12].std() for z in (0, 12, 24, 36) for y in (0, 12, 24, 36)]
    assert max(parts) > 1.4 * min(parts)
    assert abs(float(result.mean() - image.mean())) < 0.05
