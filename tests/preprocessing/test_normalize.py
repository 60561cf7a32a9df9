from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.intensities import mean_and_std
from detseg3d.planning.sections import CtNormalization, NoNormalization, ZScoreNormalization
from detseg3d.preprocessing.normalize import normalize

ZSCORE = ZScoreNormalization()


@given(st.integers(0, 1000), st.floats(-1e4, 1e4), st.floats(0.1, 1e3))
def test_mean_and_std_agree_with_numpy(seed: int, mean: float, std: float) -> None:
    channel = np.random.default_rng(seed).normal(mean, std, (4, 3, 5)).astype(np.float32)
    mask = np.random.default_rng(seed + 1).random((4, 3, 5)) < 0.4
    mask[0, 0, 0] = True
    wanted = channel[mask].astype(np.float64)
    assert mean_and_std(channel, mask) == pytest.approx((wanted.mean(), wanted.std()), rel=1e-9, abs=1e-6)


def test_large_offset_loses_no_digits() -> None:
    channel = np.array([[[1e8, 1e8 + 2]], [[1e8, 1e8 + 2]]])
    assert mean_and_std(channel) == (1e8 + 1, 1.0)


def test_zscore_has_mean_0_and_std_1_inside_the_body() -> None:
    random = np.random.default_rng(0)
    images = np.zeros((1, 8, 8, 8), np.float32)
    images[0, 2:6, 2:6, 2:6] = random.normal(100, 10, (4, 4, 4))
    result = normalize(images, [ZSCORE], images[0] > 0)
    inside = result[0, 2:6, 2:6, 2:6]
    assert inside.mean() == pytest.approx(0, abs=1e-4)
    assert inside.std() == pytest.approx(1, abs=1e-4)


def test_zscore_does_not_depend_on_the_size_of_the_air_around() -> None:
    def scan(margin: int) -> np.ndarray:
        air = np.random.default_rng(0).uniform(0, 3, (1, *[8 + 2 * margin] * 3)).astype(np.float32)
        body = np.random.default_rng(1).uniform(60, 100, (8, 8, 8))
        air[0, margin : margin + 8, margin : margin + 8, margin : margin + 8] = body
        return normalize(air, [ZSCORE])[0, margin : margin + 8, margin : margin + 8, margin : margin + 8]

    assert np.allclose(scan(1), scan(4), atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 1000.0, -5.5])
def test_constant_channel_becomes_zero(value: float) -> None:
    assert not normalize(np.full((1, 3, 3, 3), value, np.float32), [ZSCORE]).any()


def test_rounding_noise_of_a_constant_channel_is_not_amplified() -> None:
    images = np.full((1, 4, 4, 4), 1000, np.float32)
    images[0, ::2] = np.nextafter(np.float32(1000), np.float32(2000))
    assert np.abs(normalize(images, [ZSCORE])).max() < 1e-3


def test_ct_is_clipped_and_scaled_by_the_plan() -> None:
    plan = CtNormalization(mean=50, std=10, lower=0, upper=100)
    result = normalize(np.array([[[[-1000.0, 40.0, 3000.0]]]]), [plan])
    assert result.ravel().tolist() == [-5.0, -1.0, 5.0]


def test_a_channel_without_normalisation_is_not_changed() -> None:
    images = np.array([[[[3, 7]]]], np.int16)
    assert normalize(images, [NoNormalization()]).ravel().tolist() == [3.0, 7.0]


@pytest.mark.parametrize("value", [-65505.0, 3e5])
def test_values_that_cannot_be_stored_are_not_left_as_they_are(value: float) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)too large to be stored.*expected: at most 65504"):
        normalize(np.array([[[[0.0, value]]]]), [NoNormalization()])


def test_each_channel_has_its_own_scheme_and_the_input_is_not_changed() -> None:
    images = np.random.default_rng(0).normal(50, 2, (2, 20, 20, 20)).astype(np.float32)
    before = images.copy()
    result = normalize(images, [ZSCORE, NoNormalization()])
    assert abs(result[0].mean()) < 1e-5
    assert np.array_equal(result[1], images[1])
    assert np.array_equal(images, before)
    assert result.dtype == np.float32


def test_wrong_number_of_channels() -> None:
    with pytest.raises(ValueError, match="1 normalisations for 2 channels"):
        normalize(np.zeros((2, 1, 1, 1)), [ZSCORE])
