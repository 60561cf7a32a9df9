from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.synthetic.shifts.intensity import (
    bias_field,
    gamma,
    inverted_contrast,
    monotone_curve,
    offset_and_scale,
)
from detseg3d.synthetic.shifts.intensity_scale import measure_channel
from detseg3d.synthetic.shifts.shift import Strength
from tests.synthetic.shifts.scans import make_scan

SCAN = make_scan()
SCALE = measure_channel(SCAN.images[0], False)


def test_the_scale_of_a_channel_is_that_of_its_tissue() -> None:
    # The body has 100 ± 5, its lesions 180, the air around it 3 ± 1.
    assert SCALE.air == pytest.approx(2, abs=2) and 85 < SCALE.low < 100 < SCALE.high < 190
    assert measure_channel(make_scan(ct=True).images[0], True).air == -1000


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from(list(Strength)), st.sampled_from([gamma, monotone_curve, offset_and_scale])
)
def test_curves_keep_the_order_of_the_intensities(seed: int, strength: Strength, change: object) -> None:
    changed = change(SCAN, strength, np.random.default_rng(seed)).images.ravel()  # type: ignore[operator]
    order = np.argsort(SCAN.images.ravel())
    steps = np.diff(changed[order])
    assert steps.min() >= -1e-4 * np.ptp(changed)


@pytest.mark.parametrize("change", [gamma, monotone_curve])
def test_curves_keep_air_and_the_brightest_tissue(change: object) -> None:
    for seed in range(5):
        changed = change(SCAN, Strength.STRONG, np.random.default_rng(seed)).images[0]  # type: ignore[operator]
        for level in (SCALE.air, SCALE.highest):
            near = np.unravel_index(np.abs(SCAN.images[0] - level).argmin(), changed.shape)
            # A steep curve magnifies the small distance of the nearest voxel.
            assert changed[near] == pytest.approx(level, abs=4)


def test_gamma_is_a_power_of_the_fraction_between_air_and_bright_tissue() -> None:
    span = SCALE.highest - SCALE.air
    exponents = set()
    for seed in range(8):
        changed = gamma(SCAN, Strength.MEDIUM, np.random.default_rng(seed)).images[0]
        half = np.unravel_index(np.abs(SCAN.images[0] - 100).argmin(), changed.shape)
        before, after = ((image[half] - SCALE.air) / span for image in (SCAN.images[0], changed))
        exponents.add(round(float(np.log(after) / np.log(before)), 3))
    assert exponents == {1.6, 0.625}


@pytest.mark.parametrize(("strength", "ratio"), [(Strength.MILD, 1.5), (Strength.MEDIUM, 2.0), (Strength.STRONG, 3.0)])
def test_the_bias_field_has_the_stated_ratio_and_is_smooth(strength: Strength, ratio: float) -> None:
    changed = bias_field(SCAN, strength, np.random.default_rng(0)).images[0]
    air = SCALE.air
    bright = SCAN.images[0] > 50
    field = np.where(bright, (changed - air) / np.where(bright, SCAN.images[0] - air, 1), np.nan)
    assert 1.1 < np.nanmax(field) / np.nanmin(field) <= ratio * 1.001
    steps = np.abs(np.diff(np.log(field), axis=2))
    assert np.nanmax(steps) < 0.1


def test_inversion_makes_lesions_darker_than_tissue_and_keeps_air_dark() -> None:
    for strength in Strength:
        changed = inverted_contrast(SCAN, strength, np.random.default_rng(0)).images[0]
        body = (SCAN.images[0] > 70) & (SCAN.instances == 0)
        assert np.median(changed[SCAN.instances == 1]) < np.percentile(changed[body], 5)
        assert np.median(changed[SCAN.images[0] < 6]) < 0.5 * np.median(changed[body])


def test_offset_and_scale_is_a_line() -> None:
    changed = offset_and_scale(SCAN, Strength.STRONG, np.random.default_rng(0)).images.ravel()
    before = SCAN.images.ravel()
    slope, offset = np.polyfit(before, changed, 1)
    np.testing.assert_allclose(changed, slope * before + offset, atol=1e-2)
    assert slope == pytest.approx(4, rel=1e-3) or slope == pytest.approx(0.25, rel=1e-3)


def test_offset_and_scale_of_ct_is_a_small_error_of_calibration() -> None:
    ct = make_scan(ct=True)
    for seed in range(6):
        changed = offset_and_scale(ct, Strength.STRONG, np.random.default_rng(seed)).images
        assert np.abs(changed - ct.images).max() < 40 + 0.04 * 1200 + 1
