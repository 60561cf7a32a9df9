from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.intensities import (
    LARGEST_VALUE,
    IntensityScale,
    channel_scheme,
    degeneration,
    degeneration_of_scan,
    intensity_scale,
    is_image_of_label,
)

SHAPE = (24, 30, 28)


def scan(seed: int = 0, kind: str = "air") -> np.ndarray:
    """A body of mean 150 and standard deviation 40, in noisy air, in constant padding, or without surroundings."""
    random = np.random.default_rng(seed)
    body = random.normal(150, 40, SHAPE)
    surroundings = {"air": np.abs(random.normal(0, 3, SHAPE)), "padding": np.zeros(SHAPE), "none": body}[kind]
    image = surroundings.copy()
    image[4:20, 5:25, 5:24] = body[4:20, 5:25, 5:24]
    return image.astype(np.float32)


def normalized(channel: np.ndarray) -> np.ndarray:
    result = np.empty(channel.shape, np.float32)
    intensity_scale(channel).apply(channel, result)
    return result


BODY = (slice(6, 18), slice(8, 22), slice(8, 22))


@pytest.mark.parametrize("kind", ["air", "padding", "none"])
@pytest.mark.parametrize("gain", [1e-12, 1e-9, 1e-3, 1e6, 1e12])
def test_units_do_not_matter(kind: str, gain: float) -> None:
    channel = scan(1, kind)
    assert np.allclose(normalized(channel * np.float32(gain)), normalized(channel), atol=1e-4)


@pytest.mark.parametrize("kind", ["air", "padding", "none"])
@pytest.mark.parametrize("offset", [-1000.0, -150.0, 1000.0, 30000.0])
def test_an_offset_does_not_matter(kind: str, offset: float) -> None:
    channel = np.round(scan(1, kind))  # whole numbers, which the offset does not round
    assert np.allclose(normalized(channel + np.float32(offset)), normalized(channel), atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.floats(-9, 9), st.floats(-100, 100))
def test_gain_and_offset_together_do_not_matter(seed: int, exponent: float, shift: float) -> None:
    channel = scan(seed).astype(np.float64)
    changed = (channel + shift * 40) * 10.0**exponent
    assert np.allclose(normalized(changed), normalized(channel), atol=1e-3)


def test_a_spread_of_five_units_around_thirty_thousand_is_kept() -> None:
    channel = np.random.default_rng(0).normal(30000, 5, SHAPE).astype(np.float32)
    result = normalized(channel)
    assert abs(float(result.mean())) < 1e-3 and float(result.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("voxels", "value"),
    [(14, 1e6), (14, -1e6), (1, 1e9), (1, -32768.0), (25, 65535.0), (14, 1e30)],
    ids=["hot", "cold", "one hot voxel", "one of the type's least value", "saturated", "absurd"],
)
@pytest.mark.parametrize("kind", ["air", "padding", "none"])
def test_outliers_hardly_change_the_body(kind: str, voxels: int, value: float) -> None:
    channel = scan(2, kind)
    spoilt = channel.copy()
    inside = np.ravel_multi_index(np.indices(SHAPE)[:, 6:18, 8:22, 8:22].reshape(3, -1), SHAPE)
    where = np.random.default_rng(3).choice(inside, voxels, replace=False)
    spoilt.flat[where] = value
    untouched = np.ones(SHAPE, bool)
    untouched.flat[where] = False
    clean, dirty = normalized(channel), normalized(spoilt)
    assert np.abs(dirty - clean)[untouched].max() < 0.1
    assert np.abs(dirty).max() < 200, "outliers are cut off"


def test_values_of_an_ordinary_image_are_not_cut_off() -> None:
    channel = scan()
    channel[10:12, 10:12, 10:12] = 2000  # a vessel, or a lesion in PET
    assert float(normalized(channel).max()) == pytest.approx(
        (2000 - intensity_scale(channel).mean) / intensity_scale(channel).std, rel=1e-5
    )


@pytest.mark.parametrize("gain", [1e-9, 1.0, 1e6])
def test_a_binary_image_keeps_its_contrast(gain: float) -> None:
    channel = np.zeros(SHAPE, np.float32)
    channel[8:14, 8:14, 8:14] = gain
    result = normalized(channel)
    assert float(result.max() - result.min()) > 1


@pytest.mark.parametrize("value", [0.0, 7.0, 1e-9, -3e4, 1e9])
def test_a_constant_channel_becomes_zero(value: float) -> None:
    assert intensity_scale(np.full(SHAPE, value, np.float32)).std == 0
    assert not normalized(np.full(SHAPE, value, np.float32)).any()


@pytest.mark.parametrize("padding", [0.0, -1024.0, -1.0, 255.0, 65535.0])
def test_padding_of_any_value_does_not_count(padding: float) -> None:
    channel = scan(4, "none")
    scale = intensity_scale(channel[4:20, 5:25, 5:24])
    padded = np.full(SHAPE, padding, np.float32)
    padded[4:20, 5:25, 5:24] = channel[4:20, 5:25, 5:24]
    found = intensity_scale(padded)
    assert (found.mean, found.std) == pytest.approx((scale.mean, scale.std), rel=0.02)


def test_a_scale_is_applied_plane_by_plane_in_double_precision() -> None:
    channel = np.array([[[1e6, 1e6 + 0.5, 1e6 + 1]]], np.float32)
    out = np.empty(channel.shape, np.float32)
    IntensityScale(1e6 + 0.3, 0.5, -np.inf, np.inf).apply(channel, out)
    assert out.ravel().tolist() == pytest.approx([-0.6, 0.4, 1.4], abs=1e-6)


@pytest.mark.parametrize(("name", "scheme"), [("CT", "ct"), (" ct ", "ct"), ("noNorm", "none"), ("CTA", "zscore")])
def test_the_whole_name_of_a_channel_decides_its_normalisation(name: str, scheme: str) -> None:
    assert channel_scheme(name) == scheme


def test_a_normalised_scan_is_not_degenerate() -> None:
    for kind in ("air", "padding", "none"):
        assert degeneration_of_scan(scan(0, kind), "zscore") is None
        assert degeneration(normalized(scan(0, kind))) is None


def test_the_reason_of_a_degenerate_channel_is_returned() -> None:
    noise = np.random.default_rng(0).normal(size=SHAPE)
    assert "constant" in str(degeneration(np.zeros(SHAPE)))
    assert "standard deviation" in str(degeneration(noise * 1e-9))
    noise[0, :2] = LARGEST_VALUE
    assert "limit" in str(degeneration(noise))


def test_a_scan_ruled_by_more_extreme_values_than_can_be_cut_off_is_degenerate() -> None:
    channel = scan(0, "none")
    channel[:, :1] = 1e7
    assert "extreme" in str(degeneration_of_scan(channel, "zscore"))


def test_a_binary_scan_is_constant_outside_the_padding() -> None:
    channel = np.zeros(SHAPE, np.float32)
    channel[8:14, 8:14, 8:14] = 1
    assert "outside the padding" in str(degeneration_of_scan(channel, "zscore"))


def test_without_plans_only_a_constant_ct_is_degenerate() -> None:
    assert degeneration_of_scan(np.full(SHAPE, -1000.0), "ct") is not None
    assert degeneration_of_scan(scan() * 1e-9, "ct") is None
    assert degeneration_of_scan(scan() * 1e-9, "none") is not None


def test_an_image_that_is_the_label_in_another_form_is_recognised() -> None:
    label = np.zeros(SHAPE, np.int32)
    label[3:5, 4:8, 4:8], label[10:12, 4:8, 4:8] = 1, 2
    assert is_image_of_label(label * 50.0, label)
    assert is_image_of_label(label > 0, label)
    assert is_image_of_label(7.0 - (label == 2), label)
    assert not is_image_of_label(np.zeros(SHAPE), label), "a constant image says nothing at all"
    assert not is_image_of_label(scan(), label)
    assert not is_image_of_label(label * 1.0, np.zeros(SHAPE, np.int32))
    partly = label * 50.0
    partly[3, 4, 4] = 49
    assert not is_image_of_label(partly, label)
