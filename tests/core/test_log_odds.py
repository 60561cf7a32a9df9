from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logit

from detseg3d.core.log_odds import from_log_odds, log_odds, mean_by_log_odds

PROBABILITIES = np.array([0.01, 0.3, 0.5, 0.77, 0.99])


def test_log_odds_are_the_logit() -> None:
    assert log_odds(PROBABILITIES) == pytest.approx(logit(PROBABILITIES))


def test_probabilities_come_back_from_their_log_odds() -> None:
    assert from_log_odds(log_odds(PROBABILITIES)) == pytest.approx(PROBABILITIES)
    assert from_log_odds(np.array([-2.0, 3.0])) == pytest.approx(expit([-2, 3]))


def test_log_odds_are_bounded_at_1_to_1000() -> None:
    assert log_odds(np.array([0.0, 1e-5, 1e-3])) == pytest.approx([np.log(0.001 / 0.999)] * 3)
    assert np.isfinite(log_odds(np.array([1.0]))).all()


def test_the_mean_is_taken_on_the_scale_of_log_odds() -> None:
    scores = np.array([[0.2, 0.9], [0.6, 0.5]])
    assert mean_by_log_odds(scores) == pytest.approx(expit(logit(scores).mean(axis=0)))


def test_scores_that_are_all_near_0_keep_their_plain_mean() -> None:
    assert mean_by_log_odds(np.array([[1e-5], [3e-5]])) == pytest.approx([2e-5])
