from __future__ import annotations

import numpy as np
import pytest
import torch

from detseg3d.training.augmentation.resolution import change_resolution
from detseg3d.training.augmentation.table import AugmentationTable, Change

UNIT = (1.0, 1.0, 1.0)
AIR = torch.tensor([-3.0])


def make_image(size: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(1, size, size, size)).astype(np.float32))


def change(image: torch.Tensor, seed: int = 0, spacing: tuple[float, ...] = UNIT, **changes: Change) -> torch.Tensor:
    return change_resolution(image, AIR, spacing, AugmentationTable(**changes), np.random.default_rng(seed))


def roughness(image: torch.Tensor) -> np.ndarray:
    """Mean difference of neighbours along z, y and x."""
    return np.array([float(image.diff(dim=axis).abs().mean()) for axis in (1, 2, 3)])


def test_thick_slices_smooth_one_axis_only() -> None:
    image = make_image()
    axes = set()
    for seed in range(12):
        ratio = roughness(change(image, seed, thick_slices=Change(1, 5, 5))) / roughness(image)
        axis = int(ratio.argmin())
        axes.add(axis)
        assert ratio[axis] < 0.2 and np.delete(ratio, axis).min() > 1.5 * ratio[axis]
    assert axes == {0, 1, 2}


@pytest.mark.parametrize("name", ["blur", "low_resolution"])
def test_blur_and_low_resolution_smooth_all_axes(name: str) -> None:
    image = make_image()
    assert np.all(roughness(change(image, **{name: Change(1, 2, 2)})) < 0.5 * roughness(image))


@pytest.mark.parametrize("name", ["blur", "low_resolution", "thick_slices"])
def test_brightness_stays(name: str) -> None:
    image = torch.full((1, 9, 20, 13), 2.5)
    np.testing.assert_allclose(change(image, **{name: Change(1, 3, 3)}), 2.5, atol=1e-5)


def test_an_axis_that_is_coarse_already_keeps_its_slices() -> None:
    image = make_image(12)
    for seed in range(10):
        ratio = roughness(change(image, seed, (5.0, 1.0, 1.0), thick_slices=Change(1, 4, 4))) / roughness(image)
        assert ratio[0] > 0.2


def test_slices_are_at_most_ten_millimetres_thick() -> None:
    image = make_image(60)
    # Slices of 8 voxels would be 32 mm. With 10 mm, a half of the variance of the mean over 2.5 voxels is left.
    for seed in range(4):
        assert change(image, seed, (4.0, 4.0, 4.0), thick_slices=Change(1, 8, 8)).std() > 0.35


def test_tiny_windows_keep_three_slices() -> None:
    image = torch.arange(8.0).expand(1, 8, 8, 8).clone()
    for seed in range(20):
        result = change(image, seed, thick_slices=Change(1, 8, 8))
        assert float(result[..., -1].mean() - result[..., 0].mean()) > 2


def test_noise_has_the_size_of_the_table() -> None:
    image = torch.zeros(1, 24, 24, 24)
    sizes = [float(change(image, seed, noise=Change(1, 0.3, 0.3)).std()) for seed in range(20)]
    np.testing.assert_allclose(sizes, 0.3, rtol=0.05)


def test_a_part_of_the_noise_is_correlated() -> None:
    image = torch.zeros(1, 24, 24, 24)
    ratios = []
    for seed in range(40):
        noise = change(image, seed, noise=Change(1, 1, 1))
        ratios.append(float(noise.diff(dim=3).std() / noise.std()))
    uncorrelated = np.isclose(ratios, np.sqrt(2), rtol=0.05)
    assert 8 < uncorrelated.sum() < 36


def test_noise_of_magnitude_images_never_falls_below_air() -> None:
    image = torch.full((1, 16, 16, 16), -3.0)
    lowest = [float(change(image, seed, noise=Change(1, 0.5, 0.5)).min()) for seed in range(40)]
    magnitude = np.array(lowest) >= -3
    assert 4 < magnitude.sum() < 25


def test_noise_of_thick_slices_is_interpolated_between_them() -> None:
    image = torch.zeros(1, 24, 24, 24)
    noise = change(image, 1, thick_slices=Change(1, 6, 6), noise=Change(1, 1, 1))
    assert roughness(noise).min() < 0.4 * roughness(noise).max()
