from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.scores.bootstrap import (
    Contributions,
    Interval,
    Scale,
    bootstrap_weights,
    contributions,
    interval,
    pooled_share_interval,
)


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


def test_patients_are_drawn_equally_often_with_any_number_of_cases() -> None:
    weights = bootstrap_weights(5, 4000, groups=["a", "a", "a", "a", "b"])
    assert weights.mean(axis=0) == pytest.approx(np.ones(5), abs=0.05)


def test_a_wrong_number_of_groups_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 groups for 3 cases"):
        bootstrap_weights(3, groups=["a", "b"])


@pytest.mark.parametrize("groups", [None, []])
def test_no_cases_have_empty_resamples(groups: list[str] | None) -> None:
    assert bootstrap_weights(0, 5, groups=groups).shape == (5, 0)


def test_the_counts_of_the_cases_of_a_patient_are_added_up() -> None:
    found = contributions([1, 2, 0, 3, 0], ["a", "b", "c", "a", "c"])
    assert (found.patients, found.effective) == (2, pytest.approx(36 / (16 + 4)))
    assert found.leverage == pytest.approx((64 + 8) / ((16 + 4) * 6))


@given(st.integers(2, 40))
def test_the_effective_number_of_equal_patients_is_their_number(count: int) -> None:
    found = contributions(np.full(count, 3.0))
    assert (found.patients, found.effective, found.leverage) == (count, pytest.approx(count), pytest.approx(1 / count))


def test_without_lesions_no_patient_contributes() -> None:
    assert contributions([0, 0]) == Contributions(0, 0.0, 1.0)
    assert contributions([]) == Contributions(0, 0.0, 1.0)


def resample(values: FloatArray, samples: int = 4000) -> FloatArray:
    """Return the mean of the values in each resample."""
    return bootstrap_weights(len(values), samples) @ values / len(values)


def test_the_interval_of_a_mean_equals_the_t_interval() -> None:
    values = np.array([0.1, -0.3, 0.2, 0.5, -0.1, 0.4, 0.0, 0.3])
    found = interval(resample(values, 20_000), values.mean(), contributions(np.ones(8)), Scale.DIFFERENCE)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.03)


def test_the_standard_error_equals_the_standard_error_of_another_library() -> None:
    random = np.random.default_rng(1)
    truth = random.integers(1, 20, 15)
    found = random.binomial(truth, random.beta(8, 2, 15))
    weights = bootstrap_weights(15, 4000)
    shares = (weights @ found) / (weights @ truth)
    theirs = stats.bootstrap(
        (found, truth),
        lambda a, b, axis: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        rng=np.random.default_rng(2),
    )
    rests_on, point = contributions(truth), found.sum() / truth.sum()
    around = interval(shares, point, rests_on, Scale.SHARE)
    reach = stats.t.ppf(0.975, rests_on.effective - 1) * theirs.standard_error / np.sqrt(1 - rests_on.leverage)
    ends = special.expit(special.logit(point) + np.array([-1, 1]) * reach / (point * (1 - point)))
    assert (around.low, around.high) == pytest.approx(tuple(ends), rel=0.02)


@given(
    st.sampled_from([Scale.SHARE, Scale.COUNT, Scale.AMOUNT]),
    st.lists(st.floats(0.01, 0.99), min_size=3, max_size=12, unique=True),
)
def test_an_interval_contains_the_value_and_stays_within_its_scale(scale: Scale, values: list[float]) -> None:
    numbers = np.array(values)
    found = interval(resample(numbers, 200), float(numbers.mean()), contributions(np.ones(len(values))), scale)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= numbers.mean() <= found.high
    if scale is Scale.SHARE:
        assert found.high <= 1


def test_undefined_resamples_do_not_count_and_are_reported() -> None:
    values, rests_on = resample(np.arange(10) / 10), contributions(np.ones(10))
    alone = interval(values, 0.45, rests_on, Scale.SHARE)
    among = interval(np.concatenate([values, np.full(50, np.nan)]), 0.45, rests_on, Scale.SHARE)
    assert (among.low, among.high, among.left_out) == (alone.low, alone.high, 50)
    assert alone.left_out == 0


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_without_defined_values_the_interval_is_undefined(values: list[float]) -> None:
    found = interval(np.array(values), 0.5, contributions(np.ones(5)), Scale.SHARE)
    assert found == Interval(None, None, len(values), 5)


def test_a_value_of_one_patient_has_no_interval() -> None:
    # Other patients change it, but it is about this one alone.
    assert interval(np.array([0.4, 0.6]), 0.5, contributions([3, 0]), Scale.SHARE).low is None


@pytest.mark.parametrize("patients", [1, 5, 10, 20, 200])
def test_patients_without_a_failure_have_the_exact_bound_of_the_binomial(patients: int) -> None:
    found = interval(np.ones(100), 1.0, contributions(np.ones(patients)), Scale.SHARE)
    exact = stats.binomtest(patients, patients).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    none = interval(np.zeros(100), 0.0, contributions(np.ones(patients)), Scale.SHARE)
    assert (none.low, none.high) == pytest.approx((1 - exact.high, 1 - exact.low))


def test_the_exact_bound_counts_patients_and_not_lesions() -> None:
    groups = [str(index // 5) for index in range(50)]
    found = interval(np.ones(100), 1.0, contributions(np.full(50, 7), groups), Scale.SHARE)
    assert found.low == pytest.approx(0.025 ** (1 / 10))


def test_patients_with_the_same_value_inside_the_scale_have_an_interval_on_both_sides() -> None:
    found = interval(np.full(100, 0.8), 0.8, contributions(np.ones(10)), Scale.SHARE)
    agreeing = 0.025 ** (1 / 10)
    assert (found.low, found.high) == pytest.approx((0.8 * agreeing, 0.8 * agreeing + 1 - agreeing))


def test_scans_without_any_false_positive_have_the_exact_bound_of_a_poisson_count() -> None:
    found = interval(np.zeros(100), 0.0, contributions(np.ones(20)), Scale.COUNT)
    assert (found.low, found.high) == (0.0, pytest.approx(-np.log(0.025) / 20))
    one = interval(np.ones(100), 1.0, contributions(np.ones(20)), Scale.COUNT)
    assert (one.low, one.high) == pytest.approx((stats.chi2.ppf(0.025, 40) / 40, stats.chi2.ppf(0.975, 42) / 40))


def test_distances_that_all_agree_have_no_interval() -> None:
    assert interval(np.zeros(100), 0.0, contributions(np.ones(20)), Scale.AMOUNT) == Interval(None, None, 0, 20)


@pytest.mark.parametrize(("patients", "certain"), [(5, False), (6, True)])
def test_a_difference_in_every_patient_agrees_with_the_sign_test(patients: int, certain: bool) -> None:
    found = interval(np.ones(100), 1.0, contributions(np.ones(patients)), Scale.DIFFERENCE_OF_SHARES)
    assert found.low is not None
    assert (found.low > 0) == certain
    assert (stats.binomtest(patients, patients).pvalue < 0.05) == certain


def test_a_pooled_share_has_the_interval_of_very_many_resamples() -> None:
    random = np.random.default_rng(3)
    groups = [str(index // 2) for index in range(40)]
    truth = random.integers(1, 9, 40)
    found = random.binomial(truth, np.repeat(random.beta(8, 4, 20), 2))
    weights = bootstrap_weights(40, 20_000, groups=groups)
    drawn = (weights @ found) / (weights @ truth)
    expected = interval(drawn, found.sum() / truth.sum(), contributions(truth, groups), Scale.SHARE)
    around = pooled_share_interval(found, truth, groups)
    assert (around.low, around.high) == pytest.approx((expected.low, expected.high), abs=0.01)
    assert around.patients == 20


def test_an_empty_pooled_share_has_no_interval_and_a_share_without_failures_the_exact_interval() -> None:
    assert pooled_share_interval([], []) == Interval(None, None, 0, 0)
    around = pooled_share_interval([3, 4, 1], [3, 4, 1], ["a", "b", "b"])
    assert (around.low, around.high) == (pytest.approx(0.025 ** (1 / 2)), 1.0)


def covered(same: int, grouped: bool) -> float:
    """Return the share of 600 studies of 40 scans with the true mean in the interval (``same`` scans per patient)."""
    random = np.random.default_rng(0)
    groups = [str(index // same) for index in range(40)] if grouped else None
    hits = 0
    for study in range(600):
        values = np.repeat(random.normal(size=40 // same), same)
        weights = bootstrap_weights(40, 300, study, groups)
        rests_on = contributions(np.ones(40), groups)
        found = interval(weights @ values / weights.sum(axis=1), float(values.mean()), rests_on, Scale.DIFFERENCE)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0 <= found.high
    return hits / 600


def test_the_interval_covers_the_true_mean_about_as_often_as_stated() -> None:
    assert covered(same=1, grouped=False) == pytest.approx(0.95, abs=0.025)


def test_drawing_patients_keeps_the_coverage_that_drawing_their_scans_loses() -> None:
    assert covered(same=2, grouped=True) == pytest.approx(0.95, abs=0.025)
    assert covered(same=2, grouped=False) < 0.87
