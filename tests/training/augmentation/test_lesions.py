from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from detseg3d.training.augmentation.lesions import change_lesions
from detseg3d.training.augmentation.table import AugmentationTable, Change

UNIT = (1.0, 1.0, 1.0)


def make_window(contrast: float = 4.0, noise: float = 0.0) -> tuple[torch.Tensor, np.ndarray]:
    """A window with two channels, of brightness 1 and -2, and three lesions of different size."""
    instances = np.zeros((24, 28, 32), np.int32)
    instances[4:12, 4:12, 4:12] = 5
    instances[18, 20, 20] = 900
    instances[14:17, 4:7, 20:26] = 2
    image = np.stack([np.full(instances.shape, level, np.float32) for level in (1, -2)])
    image += np.random.default_rng(0).normal(0, noise, image.shape) if noise else 0
    image[:, instances > 0] += contrast
    return torch.from_numpy(image.astype(np.float32)), instances


def fade(factor: float, image: torch.Tensor, instances: np.ndarray, seed: int = 0) -> np.ndarray:
    table = AugmentationTable(fading=Change(1, factor, factor))
    result = image.clone()
    change_lesions(result, instances, UNIT, table, np.random.default_rng(seed))
    return result.numpy()


@pytest.mark.parametrize("contrast", [4.0, -3.0])
@pytest.mark.parametrize("factor", [0.3, 0.6, 1.0])
def test_the_contrast_of_each_lesion_is_multiplied(factor: float, contrast: float) -> None:
    image, instances = make_window(contrast)
    faded = fade(factor, image, instances)
    for channel, level in enumerate((1, -2)):
        for lesion in (2, 5, 900):
            left = (faded[channel][instances == lesion] - level) / contrast
            assert np.ptp(left) < 0.05
            assert max(factor / 1.26, 0.149) <= left.mean() <= min(factor * 1.26, 1.201)


def test_lesions_and_channels_get_different_factors() -> None:
    image, instances = make_window()
    faded = fade(0.5, image, instances)
    means = {float(faded[c][instances == lesion].mean() - level) for c, level in ((0, 1), (1, -2)) for lesion in (2, 5)}
    assert len({round(mean, 3) for mean in means}) == 4


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 1.1))
def test_only_lesions_and_the_voxels_that_touch_them_change(seed: int, factor: float) -> None:
    image, instances = make_window(noise=1.0)
    faded = fade(factor, image, instances, seed)
    near = ndimage.binary_dilation(instances > 0, np.ones((3, 3, 3)))
    np.testing.assert_array_equal(faded[:, ~near], image.numpy()[:, ~near])
    assert not np.array_equal(faded[:, instances > 0], image.numpy()[:, instances > 0])


def test_surroundings_without_a_trace_of_the_lesion_keep_their_values() -> None:
    image, instances = make_window()
    faded = fade(0.2, image, instances)
    np.testing.assert_allclose(faded[:, instances == 0], image.numpy()[:, instances == 0], atol=1e-4)


def test_a_blurred_border_is_faded_too() -> None:
    image, instances = make_window()
    blurred = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 0.7, 0.7, 0.7)))
    rim = ndimage.binary_dilation(instances == 5) & (instances == 0)
    before, after = blurred.numpy()[0, rim].mean() - 1, fade(0.3, blurred, instances)[0, rim].mean() - 1
    assert 0.3 * before < after < 0.75 * before


def test_noise_in_a_faded_lesion_stays() -> None:
    image, instances = make_window(noise=0.5)
    faded = fade(0.3, image, instances)
    large = instances == 5
    assert faded[0][large].std() > 0.6 * image.numpy()[0][large].std()


def test_no_voxel_falls_to_the_other_side_of_its_background() -> None:
    image, instances = make_window(contrast=4)
    blurred = torch.from_numpy(ndimage.gaussian_filter(image.numpy(), (0, 1.0, 1.0, 1.0)))
    assert fade(0.2, blurred, instances)[0].min() > 0.95


def test_a_window_that_is_all_lesion_does_not_change() -> None:
    image = torch.randn(1, 6, 6, 6)
    np.testing.assert_array_equal(fade(0.2, image, np.ones((6, 6, 6), np.int32)), image)


def test_a_window_without_lesions_does_not_change() -> None:
    image = torch.randn(1, 6, 6, 6)
    np.testing.assert_array_equal(fade(0.2, image, np.zeros((6, 6, 6), np.int32)), image)


def test_texture_varies_within_lesions_and_keeps_their_mean() -> None:
    image, instances = make_window()
    change_lesions(
        image, instances, UNIT, AugmentationTable(lesion_texture=Change(1, 0.3, 0.3)), np.random.default_rng(0)
    )
    large = image.numpy()[0][instances == 5]
    assert 0.3 < large.std() < 2.5
    assert abs(large.mean() - 5) < 0.5


def test_softening_lowers_the_steepest_slope_at_a_lesion() -> None:
    image, instances = make_window()
    before = image.diff(dim=3).abs().max()
    change_lesions(image, instances, UNIT, AugmentationTable(softening=Change(1, 1, 1)), np.random.default_rng(0))
    assert image.diff(dim=3).abs().max() < 0.7 * before
