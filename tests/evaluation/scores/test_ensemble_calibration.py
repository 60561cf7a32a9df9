from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.log_odds import mean_by_log_odds
from detseg3d.evaluation.scores.calibration import apply_calibration, expected_calibration_error, fit_calibration
from detseg3d.evaluation.scores.ensemble_calibration import (
    ScoreSpread,
    calibration_of_several,
    variance_between,
)

KNOTS = ((0.0, 0.0), (0.2, 0.1), (0.5, 0.4), (0.8, 0.9), (1.0, 1.0))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_the_spread_is_measured_within_lesions_and_within_false_positives() -> None:
    odds = np.array([1.0, 3.0, -2.0, -1.0, 0.0, 1.0])
    truth = np.array([1, 1, 0, 0, 0, 0])
    spread = ScoreSpread.of(sigmoid(odds), truth)
    assert spread.base_rate == pytest.approx(1 / 3)
    assert spread.variance == pytest.approx((2.0 + 5.0) / 4)  # squares around 2 and -1/2, four degrees of freedom


@pytest.mark.parametrize("truth", [[1, 1, 1], [0, 0, 0], [1, 0, 0]])
def test_too_few_candidates_give_no_variance(truth: list[int]) -> None:
    assert ScoreSpread.of([0.2, 0.5, 0.7], truth) == ScoreSpread()


def test_the_variance_between_networks_is_a_mean_over_candidates() -> None:
    scores = sigmoid(np.array([[1.0, 0.0], [3.0, 0.0]]))
    assert variance_between(scores) == pytest.approx(1.0)  # 2 and 0
    assert variance_between(scores[:1]) == 0.0 == variance_between(np.zeros((5, 0)))


def test_a_single_network_and_an_unknown_spread_change_nothing() -> None:
    known = ScoreSpread(0.3, 1.0)
    assert calibration_of_several(KNOTS, known, 0.5, 1) == KNOTS
    assert calibration_of_several(KNOTS, known, 0.0, 5) == KNOTS
    assert calibration_of_several(KNOTS, ScoreSpread(), 0.5, 5) == KNOTS
    assert calibration_of_several((), known, 0.5, 5) == ()


@given(
    between=st.floats(0, 10),
    networks=st.integers(1, 10),
    base=st.floats(0, 1),
    variance=st.floats(0, 10),
    scores=st.lists(st.floats(0, 1), min_size=2, max_size=20),
)
def test_the_map_ascends_from_0_to_1(
    between: float, networks: int, base: float, variance: float, scores: list[float]
) -> None:
    knots = calibration_of_several(KNOTS, ScoreSpread(base, variance), between, networks)
    places, heights = zip(*knots, strict=True)
    assert knots[0] == (0.0, 0.0) and knots[-1] == (1.0, 1.0)
    assert (np.diff(places) > 0).all() and (np.diff(heights) > 0).all()
    calibrated = apply_calibration(knots, np.sort(scores))
    assert (np.diff(calibrated) >= 0).all()


def test_the_calibration_is_stronger_the_more_the_networks_disagree() -> None:
    spread = ScoreSpread(0.4, 1.0)
    sure = [apply_calibration(calibration_of_several(KNOTS, spread, s, 5), [0.8])[0] for s in (0.0, 0.2, 0.5, 0.9)]
    unsure = [apply_calibration(calibration_of_several(KNOTS, spread, s, 5), [0.2])[0] for s in (0.0, 0.2, 0.5, 0.9)]
    assert sure == sorted(set(sure)) and unsure == sorted(set(unsure), reverse=True)
    at_the_base_rate = apply_calibration(calibration_of_several(KNOTS, spread, 0.9, 5), [0.5])[0]
    assert at_the_base_rate == pytest.approx(0.4)


@pytest.mark.parametrize("as_probability", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("networks", [1, 2, 5])
def test_the_stated_probability_is_the_observed_rate(networks: int, as_probability: float) -> None:
    """The simulation follows the model: a difficulty that all networks share, and separate noise of each network."""
    random = np.random.default_rng(0)

    def draw(count: int, members: int) -> tuple[np.ndarray, np.ndarray]:
        lesion = random.random(count) < 0.4
        looks = np.where(lesion, 1.0, -1.0) + random.normal(0, 0.8, count)
        return lesion, sigmoid(looks + random.normal(0, 1.2, (members, count)))

    lesion, seen = draw(4000, 1)
    knots, spread = fit_calibration(seen[0], lesion), ScoreSpread.of(seen[0], lesion)
    truth, scores = draw(20_000, networks)
    several = calibration_of_several(knots, spread, variance_between(scores), networks, as_probability)
    averaged = scores.mean(axis=0) ** as_probability * mean_by_log_odds(scores) ** (1 - as_probability)
    stated = apply_calibration(several, averaged)
    plain = apply_calibration(knots, scores.mean(axis=0))
    reported = stated >= 0.4
    assert stated[reported].mean() == pytest.approx(truth[reported].mean(), abs=0.03)
    assert expected_calibration_error(stated, truth) < 0.03
    if networks == 5:
        reported = plain >= 0.4
        assert truth[reported].mean() - plain[reported].mean() > 0.08, "the map of one network is too timid"
