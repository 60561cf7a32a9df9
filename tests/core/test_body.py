from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.body import body_box, body_mask, padding_value, plausible_range, tissue_mask


def padded(value: float, inside: float = 50.0, channels: int = 1) -> np.ndarray:
    images = np.full((channels, 10, 12, 14), value, np.float32)
    images[:, 2:8, 3:9, 4:13] = inside
    return images


@pytest.mark.parametrize("value", [0.0, -1024.0, -3024.0])
def test_constant_surroundings_are_padding(value: float) -> None:
    assert padding_value(padded(value)[0]) == value
    assert body_box(padded(value)) == (2, 3, 4, 8, 9, 13)


def test_zero_around_a_normalised_brain_is_padding_though_not_the_smallest_value() -> None:
    images = padded(0.0)
    images[0, 4, 4, 5:9] = -2.0
    assert padding_value(images[0]) == 0.0


@pytest.mark.parametrize("value", [900.0, -3.0, 65535.0])
def test_constant_surroundings_of_any_value_are_padding(value: float) -> None:
    images = padded(value)
    images[0, 4, 4, 4:8] = -50.0, 0.0, 1e5, 7.0
    assert padding_value(images[0]) == value
    assert body_box(images) == (2, 3, 4, 8, 9, 13)


def test_equal_values_in_four_corners_are_not_padding_if_their_neighbours_differ() -> None:
    channel = np.random.default_rng(0).integers(3, 9, (10, 12, 14)).astype(np.float32)
    channel[[0, 0, 0, -1], [0, 0, -1, 0], [0, -1, 0, 0]] = 5
    assert padding_value(channel) is None


@pytest.mark.parametrize("outlier", [-1e6, -70000.0])
def test_padding_is_found_below_which_an_outlier_lies(outlier: float) -> None:
    images = padded(-1024.0)
    images[0, 4, 4, 4] = outlier
    assert padding_value(images[0]) == -1024


def test_noise_in_the_corners_is_not_padding() -> None:
    images = np.random.default_rng(0).normal(5, 1, (1, 6, 6, 6))
    assert body_mask(images) is None
    assert body_box(images) == (0, 0, 0, 6, 6, 6)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_body_everywhere(value: float) -> None:
    images = np.full((2, 3, 4, 5), value)
    assert body_mask(images) is None
    assert body_box(images) == (0, 0, 0, 3, 4, 5)


def test_a_voxel_belongs_to_the_body_if_any_channel_is_not_padding() -> None:
    images = padded(0.0, channels=2)
    images[1] = 0
    images[1, 0:3, 5, 5] = 1
    assert body_box(images) == (0, 3, 4, 8, 9, 13)


def test_a_channel_without_padding_keeps_the_volume_whole() -> None:
    images = padded(0.0, channels=2)
    images[1] = np.random.default_rng(0).normal(5, 1, images[1].shape)
    assert body_mask(images) is None


def test_a_lone_voxel_is_a_body() -> None:
    images = np.zeros((1, 5, 5, 5))
    images[0, 2, 3, 1] = 1
    assert body_box(images) == (2, 3, 1, 3, 4, 2)


def test_air_of_a_magnitude_image_is_not_tissue() -> None:
    channel = np.random.default_rng(0).uniform(0, 3, (10, 10, 10))
    channel[2:8, 2:8, 2:8] = 100
    tissue = tissue_mask(channel)
    assert tissue is not None
    assert np.array_equal(tissue, channel == 100)


def test_padding_does_not_lower_the_threshold_of_air() -> None:
    small = np.array([[[0.0] * 90 + [10.0, 10.0, 10.0, 1.5]]])
    tissue = tissue_mask(small, small > 0)
    assert tissue is not None
    assert int(tissue.sum()) == 3


@pytest.mark.parametrize("offset", [0.0, -1000.0, 30000.0])
def test_air_is_found_for_any_offset_of_the_intensities(offset: float) -> None:
    channel = np.random.default_rng(0).uniform(0, 3, (10, 10, 10))
    channel[2:8, 2:8, 2:8] = 100
    tissue = tissue_mask(channel + offset)
    assert tissue is not None
    assert np.array_equal(tissue, channel == 100)


def test_a_body_without_air_keeps_all_voxels() -> None:
    channel, mask = np.random.default_rng(0).normal(0, 1, (20, 20, 20)), np.ones((20, 20, 20), bool)
    assert tissue_mask(channel, mask) is mask


@pytest.mark.parametrize("outlier", [1e6, -1e6, 1e30])
def test_a_few_outliers_do_not_hide_the_body(outlier: float) -> None:
    channel = np.random.default_rng(0).uniform(0, 3, (20, 20, 20))
    channel[4:16, 4:16, 4:16] = 100
    channel.flat[[5, 1000, 4210]] = outlier
    tissue = tissue_mask(channel)
    assert tissue is not None
    assert tissue[channel == 100].all()
    assert tissue.sum() <= (channel == 100).sum() + 3


def test_the_plausible_range_holds_all_of_ordinary_images() -> None:
    random = np.random.default_rng(0)
    for values in (random.normal(0, 1, 10**5), random.exponential(1, 10**5), random.lognormal(0, 1, 10**5)):
        low, high = plausible_range(values)
        assert low < values.min() and values.max() < high


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_outliers_lie_outside_the_plausible_range(value: float) -> None:
    values = np.random.default_rng(0).normal(150, 40, 10**5)
    values[:400] = value
    low, high = plausible_range(values)
    assert not low <= value <= high


def test_equal_values_have_no_outliers() -> None:
    assert plausible_range(np.full(100, 3.0)) == (-np.inf, np.inf)
