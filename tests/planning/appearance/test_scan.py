from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, zoom

from detseg3d.core.geometry import Geometry
from detseg3d.core.intensities import intensity_scale
from detseg3d.planning.appearance.scan import (
    LAYOUT_CELLS,
    QUANTILE_LEVELS,
    ChannelAppearance,
    ScanAppearance,
    measure_appearance,
    obliquity,
)


def noise(sigma: float = 5.0, mean: float = 100.0, shape: tuple[int, ...] = (40, 44, 48), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, sigma, shape).astype(np.float32)


def look(channel: np.ndarray, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> ChannelAppearance:
    return measure_appearance(channel[None], Geometry(channel.shape, spacing)).channels[0]


def test_the_grid_is_that_of_the_geometry_and_the_field_of_view_that_of_the_body() -> None:
    images = np.zeros((1, 10, 20, 30), np.float32)
    images[0, 2:8, 5:15, 10:20] = noise(shape=(6, 10, 10))
    scan = measure_appearance(images, Geometry((10, 20, 30), (3.0, 1.0, 0.5)))
    assert scan.spacing == (3.0, 1.0, 0.5)
    assert scan.field_of_view == (6 * 3.0, 10 * 1.0, 10 * 0.5)


@pytest.mark.parametrize("degrees", [0, 10, 30, 45, 60, 90])
def test_obliquity_is_the_angle_to_the_nearest_axis(degrees: int) -> None:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turned = Geometry((4, 4, 4), direction=(1, 0, 0, 0, c, -s, 0, s, c))
    assert obliquity(turned) == pytest.approx(min(degrees, 90 - degrees), abs=1e-3)


def test_flipped_and_permuted_axes_are_not_oblique() -> None:
    assert obliquity(Geometry((4, 4, 4), direction=(0, -1, 0, 0, 0, 1, -1, 0, 0))) == 0


@pytest.mark.parametrize("sigma", [1.0, 5.0, 20.0])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0, 5.0)])
def test_the_measured_noise_is_the_noise_that_was_added(sigma: float, spacing: tuple[float, float, float]) -> None:
    assert look(noise(sigma), spacing).noise == pytest.approx(sigma, rel=0.03)


def test_edges_along_the_axes_are_not_taken_for_noise() -> None:
    steps = noise(1.0) + 50.0 * (np.indices((40, 44, 48)) // 12 % 2).sum(axis=0)
    assert look(steps.astype(np.float32)).noise == pytest.approx(1.0, rel=0.25)


def test_saturated_voxels_do_not_hide_the_noise() -> None:
    channel = noise(5.0)
    channel[:, 5:35] = channel.min()  # the corners stay, so it is not padding
    assert look(channel).noise == pytest.approx(5.0, rel=0.05)


def test_the_detail_of_noise_is_a_fixed_share_of_a_voxel() -> None:
    # Independent voxels: first differences have the deviation √2 σ, second differences √6 σ.
    assert look(noise(), (4.0, 2.0, 1.0)).detail_mm == pytest.approx([n / math.sqrt(3) for n in (4, 2, 1)], rel=0.02)


@pytest.mark.parametrize("wavelength", [6.283, 10.41, 16.19])  # no multiples of a voxel, so that all phases occur
def test_the_detail_of_a_wave_follows_from_its_length(wavelength: float) -> None:
    phase = 2 * math.pi * np.arange(480) / wavelength
    channel = np.broadcast_to(np.sin(phase)[:, None, None], (480, 8, 8)).astype(np.float32)
    channel[:4] = -20  # padding, by which the troughs are not the darkest of all
    # |second| / |first| = tan(half a step of the phase), for a wave at any place.
    assert look(channel).detail_mm[0] == pytest.approx(1 / math.tan(math.pi / wavelength), rel=0.05)


def test_slices_that_were_interpolated_are_as_coarse_as_they_were() -> None:
    thick = gaussian_filter(noise(shape=(10, 64, 64), seed=1), (0, 1, 1))
    thin = zoom(thick, (8, 1, 1), order=1, mode="nearest", grid_mode=True)
    native, resampled = look(thick, (8.0, 1.0, 1.0)), look(thin, (1.0, 1.0, 1.0))
    assert native.detail_mm[0] is not None and native.detail_mm[0] > 4
    assert resampled.detail_mm[0] is not None and resampled.detail_mm[0] > 4
    assert resampled.detail_mm[1] == pytest.approx(native.detail_mm[1], rel=0.3)


@given(sigma=st.floats(0.6, 3.0))
def test_blur_makes_the_detail_coarser_and_the_noise_less(sigma: float) -> None:
    sharp, blurred = look(noise()), look(gaussian_filter(noise(), sigma))
    assert all(a < b for a, b in zip(sharp.detail_mm, blurred.detail_mm, strict=True))  # type: ignore[operator]
    assert blurred.noise < sharp.noise  # type: ignore[operator]


@given(gain=st.floats(0.01, 100.0))
def test_a_gain_scales_intensities_and_noise_and_nothing_else(gain: float) -> None:
    channel = np.abs(noise(10.0))
    plain, scaled = look(channel), look(channel * np.float32(gain))
    assert scaled.noise == pytest.approx(plain.noise * gain, rel=1e-3)  # type: ignore[operator]
    assert scaled.tissue == pytest.approx([value * gain for value in plain.tissue], rel=1e-3)
    assert scaled.detail_mm == pytest.approx(plain.detail_mm, rel=1e-3)
    assert (scaled.background, scaled.commonest) == pytest.approx((plain.background, plain.commonest), abs=1e-3)


def test_shares_of_the_background() -> None:
    channel = np.abs(noise(1.0, 3.0))  # air
    channel[:, :22] = noise(5.0, 200.0)[:, :22]
    air = look(channel)
    assert air.background == pytest.approx(0.5, abs=0.02) and air.commonest < 0.001
    channel[:, 22:] = 0
    channel[:, -1] = 100  # no corner is 0, so the box is the whole
    assert look(channel).commonest == pytest.approx(21 / 42, abs=0.02)


@pytest.mark.parametrize("offset", [-1000.0, 30000.0])
def test_an_offset_moves_intensities_and_nothing_else(offset: float) -> None:
    channel = np.abs(noise(10.0))
    channel[:, :12] *= np.float32(0.01)  # air
    plain, moved = look(channel), look(channel + np.float32(offset))
    assert (moved.background, moved.std) == pytest.approx((plain.background, plain.std), rel=1e-2)
    assert moved.tissue == pytest.approx([value + offset for value in plain.tissue], abs=0.1)


@pytest.mark.parametrize("gain", [1e-9, 1e-6, 1e6])
def test_small_and_large_units_are_not_constant(gain: float) -> None:
    assert not look(np.abs(noise(10.0)) * np.float32(gain)).is_constant
    assert look(np.full((20, 20, 20), np.float32(gain))).is_constant


def test_mean_and_deviation_agree_with_the_normalisation() -> None:
    channel = np.abs(noise(10.0, 200.0))
    channel[:, :10] *= np.float32(0.01)
    channel[3, 20:30, 20] = 1e6
    scale, found = intensity_scale(channel), look(channel)
    assert (found.mean, found.std) == pytest.approx((scale.mean, scale.std), rel=0.02)
    assert found.tissue[-1] <= scale.high * 1.1


def test_quantiles_are_those_of_the_box_and_of_the_tissue() -> None:
    uniform = np.random.default_rng(0).uniform(0, 1000, (40, 40, 40)).astype(np.float32)
    found = look(uniform)
    assert found.voxels == pytest.approx([1000 * level for level in QUANTILE_LEVELS], abs=10)
    assert found.tissue[0] == pytest.approx(0.2 * found.mean, abs=2)  # below is air, as core/body.py tells it
    assert found.tissue[-1] == pytest.approx(1000, abs=1)


def test_the_layout_is_the_means_of_the_parts() -> None:
    channel = noise(0.1, 0.0, (16, 16, 16))
    channel[4:8, 8:12, 12:] += 50
    layout = np.array(look(channel).layout).reshape((LAYOUT_CELLS,) * 3)
    assert np.unravel_index(layout.argmax(), layout.shape) == (1, 2, 3)
    assert layout.max() > 30


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 40), (2, 30, 30), (3, 3, 3), (40, 1, 40), (5, 2, 2)])
def test_any_size_can_be_measured(shape: tuple[int, int, int]) -> None:
    scan = measure_appearance(noise(shape=shape)[None], Geometry(shape))
    assert [detail is None for detail in scan.channels[0].detail_mm] == [n < 3 for n in shape] or min(shape) < 2
    assert (scan.channels[0].noise is None) == (sum(n >= 3 for n in shape) < 2) or shape == (3, 3, 3)


@pytest.mark.parametrize("value", [0.0, 100.0, -1000.0])
def test_a_constant_channel_is_recognised(value: float) -> None:
    constant = look(np.full((10, 10, 10), value, np.float32))
    assert constant.is_constant and constant.commonest == 1 and constant.std == 0
    assert not look(noise()).is_constant


def test_values_near_the_limit_of_single_precision_do_not_overflow() -> None:
    huge = (noise(0.1, 1.0) * 2e38).astype(np.float32)
    assert look(huge).noise == pytest.approx(0.1 * 2e38, rel=0.1)


def test_the_record_is_short_and_is_read_as_it_was_written() -> None:
    scan = measure_appearance(np.stack([noise(), noise(seed=1)]), Geometry((40, 44, 48)))
    text = scan.model_dump_json()
    assert len(text) < 2 * 2500
    assert ScanAppearance.model_validate_json(text) == scan


def test_large_scans_are_measured_on_few_voxels_with_the_same_result() -> None:
    small, large = look(noise(shape=(40, 40, 40))), look(noise(shape=(160, 160, 160)))
    assert large.noise == pytest.approx(small.noise, rel=0.05)
    assert large.detail_mm == pytest.approx(small.detail_mm, rel=0.05)
    assert large.mean == pytest.approx(small.mean, rel=0.01)
