from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from detseg3d.evaluation.scores.calibration import (
    ReliabilityBin,
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)
from detseg3d.planning.sections import InferencePlan

ENDS = ((0.0, 0.0), (1.0, 1.0))
# Few different values: ties, and 0 and 1 themselves, are the interesting part.
SCORED = st.lists(
    st.tuples(st.one_of(st.sampled_from([0.0, 1e-10, 0.2, 0.5, 1 - 1e-10, 1.0]), st.floats(0, 1)), st.booleans()),
    max_size=60,
)


def split(scored: Sequence[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in scored], [hit for _, hit in scored]


# -- The fit -----------------------------------------------------------------------------------------------------------


def test_blocks_of_the_isotonic_fit_by_hand() -> None:
    """The shares are 0, 1, 0, 1, 1. The second and the third share are not ascending and become 1/2 each."""
    knots = fit_calibration([0.1, 0.3, 0.4, 0.6, 0.8], [0, 1, 0, 1, 1])
    # (lesions + 1/2) / (members + 1): 0.5 / 2, 1.5 / 3 at the mean score 0.35, 2.5 / 3 at 0.7.
    expected = [(0, 0), (0.1, 0.25), (0.35, 0.5), (0.7, 2.5 / 3), (1, 1)]
    assert np.allclose(knots, expected)


def test_equal_scores_are_one_observation() -> None:
    knots = fit_calibration([0.4] * 4, [True, False, True, True])
    assert np.allclose(knots, [(0, 0), (0.4, 3.5 / 5), (1, 1)])


def test_a_score_that_occurs_often_weighs_more() -> None:
    """The shares are 3/4 (of 4), 0 (of 1) and 1/2 (of 2). The first two give 3/5 > 1/2, so all three are joined."""
    knots = fit_calibration([0.2] * 4 + [0.4] + [0.6] * 2, [1, 1, 1, 0, 0, 1, 0])
    assert np.allclose(knots, [(0, 0), (2.4 / 7, 4.5 / 8), (1, 1)])


def test_a_later_block_never_has_a_lower_value() -> None:
    """The block with 8 lesions of 10 has the value 8.5 / 11; the last block would have only 1.5 / 2."""
    knots = fit_calibration([0.4] * 10 + [0.9], [1] * 8 + [0] * 2 + [1])
    assert knots[1][1] == pytest.approx(8.5 / 11) and knots[1][1] < knots[2][1] < knots[1][1] + 1e-6


def test_a_calibration_without_scores_changes_no_score() -> None:
    assert fit_calibration([], []) == ENDS


@pytest.mark.parametrize(("scores", "hits"), [([0.5], [1, 0]), ([[0.5]], [[1]])])
def test_every_score_needs_an_outcome(scores: list, hits: list) -> None:
    with pytest.raises(ValueError, match="not two lists of equal length"):
        fit_calibration(scores, hits)


@given(SCORED)
def test_knots_ascend_from_0_to_1_as_plans_demand(scored: list[tuple[float, bool]]) -> None:
    knots = fit_calibration(*split(scored))
    assert knots[0] == (0, 0) and knots[-1] == (1, 1)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(knots))
    assert InferencePlan(calibration=knots).calibration == knots


@given(SCORED, st.randoms())
def test_the_order_of_the_lesions_does_not_matter(scored: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(scored)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert np.allclose(fit_calibration(*split(shuffled)), fit_calibration(*split(scored)), atol=1e-12)


@given(SCORED, st.lists(st.floats(0, 1), min_size=2, max_size=30))
@example([(0.0, False), (0.2, False), (0.7, False), (0.469398564771491, False)], [0.0, 0.9999999999999999])
def test_calibrated_scores_are_probabilities_in_the_same_order(
    scored: list[tuple[float, bool]], scores: list[float]
) -> None:
    calibrated = apply_calibration(fit_calibration(*split(scored)), sorted(scores))
    assert calibrated.min() >= 0 and calibrated.max() <= 1
    assert np.all(np.diff(calibrated) >= -1e-15)  # one rounding


@given(SCORED, st.floats(0, 0.999))
def test_scores_that_differ_still_differ(scored: list[tuple[float, bool]], score: float) -> None:
    low, high = apply_calibration(fit_calibration(*split(scored)), [score, score + 1e-3])
    assert low < high


def test_the_blocks_that_differ_least_are_joined_when_there_are_too_many() -> None:
    scores = [0.2] * 4 + [0.3] * 4 + [0.8] * 4
    hits = [0] * 4 + [1, 0, 0, 0] + [1] * 4
    assert len(fit_calibration(scores, hits)) == 5
    knots = fit_calibration(scores, hits, max_knots=4)  # shares of 0 and 1/4 become 1/8, not 1/4 and 1 become 5/8
    assert np.allclose(knots, [(0, 0), (0.25, 1.5 / 9), (0.8, 4.5 / 5), (1, 1)])


def test_there_are_64_knots_at_most() -> None:
    scores = np.linspace(0.01, 0.99, 20_000)
    hits = np.random.default_rng(0).random(20_000) < scores
    assert len(fit_calibration(scores, hits, max_knots=1000)) > 64 == len(fit_calibration(scores, hits))


# -- Effect on data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power", [0.4, 1.0, 3.0])
def test_the_calibrated_scores_equal_the_true_shares(seed: int, power: float) -> None:
    """A share of s^power of the predictions of score s is made true. The calibrated score must equal this share."""
    random = np.random.default_rng(seed)
    scores = random.random(4000)
    hits = random.random(4000) < scores**power
    places = np.linspace(0.1, 0.9, 9)
    assert np.abs(apply_calibration(fit_calibration(scores, hits), places) - places**power).max() < 0.1


@given(st.integers(0, 10_000), st.floats(0.3, 4), st.integers(30, 300))
def test_the_error_on_the_fitted_scores_does_not_grow(seed: int, power: float, count: int) -> None:
    """Allow for the half lesion of every block, at most 1/2 per block, and for rounding to bins."""
    random = np.random.default_rng(seed)
    scores = random.random(count)
    hits = random.random(count) < scores**power
    knots = fit_calibration(scores, hits)
    before = expected_calibration_error(scores, hits)
    assert (
        expected_calibration_error(apply_calibration(knots, scores), hits) <= before + 0.5 * len(knots) / count + 0.02
    )


def test_overconfident_scores_are_corrected_on_other_data() -> None:
    random = np.random.default_rng(1)
    scores = random.beta(4, 2, 4000)
    hits = random.random(4000) < scores**3
    knots = fit_calibration(scores[:2000], hits[:2000])
    assert expected_calibration_error(scores[2000:], hits[2000:]) > 0.2
    assert expected_calibration_error(apply_calibration(knots, scores[2000:]), hits[2000:]) < 0.04


# -- Its error ---------------------------------------------------------------------------------------------------------


def test_bins_by_hand() -> None:
    lower, upper = reliability_bins([0.0, 0.1, 0.5, 0.6, 1.0], [0, 1, 1, 0, 1], bins=2)
    assert lower == ReliabilityBin(0.0, 0.5, 2, pytest.approx(0.05), 0.5)
    assert upper == ReliabilityBin(0.5, 1.0, 3, pytest.approx(0.7), pytest.approx(2 / 3))


def test_an_empty_bin_has_no_values() -> None:
    assert reliability_bins([0.9], [1])[0] == ReliabilityBin(0.0, 0.1, 0, None, None)


def test_every_score_is_in_one_bin() -> None:
    scores = np.arange(101) / 100
    assert [row.count for row in reliability_bins(scores, np.ones(101))] == [10] * 9 + [11]


def test_the_error_by_hand() -> None:
    # |0.05 - 0.5| over two, |0.7 - 2/3| over three.
    error = expected_calibration_error([0.0, 0.1, 0.5, 0.6, 1.0], [0, 1, 1, 0, 1], bins=2)
    assert error == pytest.approx((2 * 0.45 + 3 * (0.7 - 2 / 3)) / 5)


def test_no_scores_have_no_error() -> None:
    assert expected_calibration_error([], []) == 0.0


@given(SCORED)
def test_the_error_lies_between_0_and_1(scored: list[tuple[float, bool]]) -> None:
    assert 0 <= expected_calibration_error(*split(scored)) <= 1
