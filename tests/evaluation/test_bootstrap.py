from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.evaluation.bootstrap import bootstrap_weights, interval


@given(st.integers(1, 30), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_each_resample_draws_as_many_cases_as_there_are(cases: int, samples: int, seed: int) -> None:
    weights = bootstrap_weights(cases, samples, seed)
    assert weights.shape == (samples, cases)
    assert np.all(weights == np.round(weights))
    assert np.all(weights >= 0)
    assert np.all(weights.sum(axis=1) == cases)


def test_cases_are_drawn_with_replacement_and_equally_often() -> None:
    weights = bootstrap_weights(20, 4000)
    # Binomial(20, 1/20): mean 1, variance .95, and a share of (19/20)^20 = .358 is left out.
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.07)
    assert weights.var() == pytest.approx(0.95, abs=0.03)
    assert np.mean(weights == 0) == pytest.approx(0.358, abs=0.01)


def test_the_seed_determines_the_resamples() -> None:
    assert np.array_equal(bootstrap_weights(7, 50, seed=3), bootstrap_weights(7, 50, seed=3))
    assert not np.array_equal(bootstrap_weights(7, 50, seed=3), bootstrap_weights(7, 50, seed=4))


def test_cases_of_one_patient_are_drawn_together() -> None:
    groups = ["b", "a", "b", "c", "b", "a"]
    weights = bootstrap_weights(6, 500, groups=groups)
    assert np.array_equal(weights[:, 0], weights[:, 2])
    assert np.array_equal(weights[:, 0], weights[:, 4])
    assert np.array_equal(weights[:, 1], weights[:, 5])
    assert not np.array_equal(weights[:, 0], weights[:, 1])
    # Three patients are drawn, however many cases they have.
    assert np.all(weights[:, [0, 1, 3]].sum(axis=1) == 3)


def test_patients_are_drawn_equally_often_whatever_their_number_of_cases() -> None:
    weights = bootstrap_weights(5, 4000, groups=["a", "a", "a", "a", "b"])
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)


def test_a_wrong_number_of_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 cases"):
        bootstrap_weights(3, groups=["a", "b"])


@pytest.mark.parametrize("groups", [None, []])
def test_no_cases_have_empty_resamples(groups: list[str] | None) -> None:
    assert bootstrap_weights(0, 5, groups=groups).shape == (5, 0)


def test_the_interval_leaves_out_equal_shares_on_both_sides() -> None:
    assert interval(np.arange(201.0), level=0.95) == pytest.approx((5.0, 195.0))
    assert interval(np.arange(201.0)[::-1], level=0.5) == pytest.approx((50.0, 150.0))


def test_undefined_values_do_not_count() -> None:
    values = np.concatenate([np.arange(101.0), np.full(50, np.nan)])
    assert interval(values, level=0.9) == pytest.approx((5.0, 95.0))


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_without_defined_values_there_is_no_interval(values: list[float]) -> None:
    assert interval(np.array(values)) == (None, None)


def test_equal_values_have_an_interval_without_width() -> None:
    assert interval(np.full(10, 0.25)) == (0.25, 0.25)


def covered(same: int, grouped: bool) -> float:
    """Share of 600 studies of 40 scans whose interval holds the true mean; ``same`` scans of a patient are alike."""
    random = np.random.default_rng(0)
    groups = [str(index // same) for index in range(40)] if grouped else None
    hits = 0
    for study in range(600):
        values = np.repeat(random.normal(size=40 // same), same)
        weights = bootstrap_weights(40, 300, study, groups)
        low, high = interval(weights @ values / weights.sum(axis=1))
        assert low is not None
        assert high is not None
        hits += low <= 0 <= high
    return hits / 600


# Percentile intervals are a little short for few patients: .935 for 40 and .92 for 20 instead of .95.


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    assert covered(same=1, grouped=False) == pytest.approx(0.935, abs=0.04)


def test_drawing_patients_keeps_the_coverage_that_drawing_their_scans_loses() -> None:
    assert covered(same=2, grouped=True) == pytest.approx(0.92, abs=0.05)
    assert covered(same=2, grouped=False) < 0.85
