from __future__ import annotations

import numpy as np
import pytest

from detseg3d.planning.fingerprint import ChannelIntensities, IntensityStatistics, percentiles
from detseg3d.planning.rules.ct_window import clipped_fraction, ct_window
from detseg3d.planning.sections import CtNormalization


def statistics(values: np.ndarray) -> IntensityStatistics:
    return IntensityStatistics(mean=float(values.mean()), std=float(values.std()), percentiles=percentiles(values))


def window_of(lesions: np.ndarray | None, body: np.ndarray) -> CtNormalization:
    return ct_window(
        ChannelIntensities(lesions=None if lesions is None else statistics(lesions), body=statistics(body))
    )


RANDOM = np.random.default_rng(0)
BODY = np.concatenate([RANDOM.normal(-100, 20, 3000), RANDOM.normal(40, 30, 5000), RANDOM.normal(300, 100, 500)])


def test_a_window_that_holds_most_of_the_body_is_that_of_the_lesions() -> None:
    lesions = RANDOM.normal(20, 100, 5000)
    window = window_of(lesions, BODY)
    low, high = np.percentile(lesions, (0.5, 99.5))
    assert (window.lower, window.upper) == pytest.approx((low, high))
    assert (window.mean, window.std) == pytest.approx((lesions.mean(), lesions.std()))


@pytest.mark.parametrize(("center", "spread"), [(108, 14), (700, 150), (-160, 8)], ids=["bright", "bone", "fat"])
def test_a_window_that_clips_most_of_the_body_is_widened_to_its_quartiles(center: float, spread: float) -> None:
    lesions = RANDOM.normal(center, spread, 5000)
    low, high = np.percentile(lesions, (0.5, 99.5))
    assert clipped_fraction(statistics(BODY), low, high) > 0.5
    window = window_of(lesions, BODY)
    first, third = np.percentile(BODY, (25, 75))
    assert (window.lower, window.upper) == pytest.approx((min(low, first), max(high, third)))
    assert clipped_fraction(statistics(BODY), window.lower, window.upper) <= 0.51
    both = np.concatenate([lesions, RANDOM.choice(BODY, 5000)]).clip(window.lower, window.upper)
    assert (window.mean, window.std) == pytest.approx((both.mean(), both.std()), rel=0.05, abs=3)


@pytest.mark.parametrize("lesions", [None, np.full(50, 35.0)])
def test_without_usable_lesions_the_window_is_that_of_the_body(lesions: np.ndarray | None) -> None:
    window = window_of(lesions, BODY)
    assert (window.lower, window.upper) == pytest.approx(tuple(np.percentile(BODY, (0.5, 99.5))))


def test_a_set_of_one_intensity_has_a_window() -> None:
    window = window_of(None, np.full(50, -1000.0))
    assert window.lower < -1000 < window.upper


def test_the_clipped_fraction_is_that_of_the_voxels() -> None:
    for low, high in ((-50, 100), (75, 141), (-2000, 2000), (400, 500)):
        assert clipped_fraction(statistics(BODY), low, high) == pytest.approx(
            np.mean((low > BODY) | (high < BODY)), abs=0.03
        )
