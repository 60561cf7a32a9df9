from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.evaluation.calibration import (
    apply_calibration,
    expected_calibration_error,
    fit_calibration,
    reliability_bins,
)

observations = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def split(pairs: list[tuple[float, bool]]) -> tuple[list[float], list[bool]]:
    return [score for score, _ in pairs], [hit for _, hit in pairs]


def test_blocks_that_violate_the_order_are_joined() -> None:
    # 0.4 (a lesion) and 0.6 (none) become one block at 0.5 with a share of (1 + 1/2) / (2 + 1).
    assert fit_calibration([0.2, 0.4, 0.6], [0, 1, 0]) == ((0.0, 0.0), (0.2, 0.25), (0.5, 0.5), (1.0, 1.0))


def test_a_few_members_are_no_certainty() -> None:
    (_, (_, of_one), _), (_, (_, of_many), _) = fit_calibration([0.5], [1]), fit_calibration([0.5] * 99, [1] * 99)
    assert (of_one, of_many) == (0.75, 0.995)


def test_without_scores_nothing_is_changed() -> None:
    assert fit_calibration([], []) == ((0.0, 0.0), (1.0, 1.0))


@given(observations)
def test_the_map_ascends_strictly_from_0_to_1(pairs: list[tuple[float, bool]]) -> None:
    knots = fit_calibration(*split(pairs))
    assert knots[0] == (0.0, 0.0) and knots[-1] == (1.0, 1.0)
    for axis in range(2):
        assert np.all(np.diff([knot[axis] for knot in knots]) > 0)


@given(observations)
def test_ranking_is_kept(pairs: list[tuple[float, bool]]) -> None:
    scores, hits = split(pairs)
    calibrated = apply_calibration(fit_calibration(scores, hits), scores)
    assert np.all((calibrated >= 0) & (calibrated <= 1))
    order = np.argsort(scores, kind="stable")
    assert np.all(np.diff(calibrated[order]) >= 0)


@given(observations, st.integers(3, 6))
def test_there_are_no_more_knots_than_asked_for(pairs: list[tuple[float, bool]], most: int) -> None:
    assert len(fit_calibration(*split(pairs), most_knots=most)) <= most


@given(observations)
def test_the_order_of_the_observations_does_not_matter(pairs: list[tuple[float, bool]]) -> None:
    first, second = fit_calibration(*split(pairs)), fit_calibration(*split(pairs[::-1]))
    assert np.allclose(first, second)


def test_overconfident_scores_become_calibrated() -> None:
    random = np.random.default_rng(0)
    scores = random.uniform(size=4000)
    hits = random.uniform(size=4000) < scores**3
    knots = fit_calibration(scores[:2000], hits[:2000])
    before = expected_calibration_error(scores[2000:], hits[2000:])
    after = expected_calibration_error(apply_calibration(knots, scores[2000:]), hits[2000:])
    assert before > 0.2 and after < 0.05


def test_scores_and_outcomes_must_go_together() -> None:
    with pytest.raises(ValueError, match="do not go with"):
        fit_calibration([0.1, 0.2], [1])


def test_bins_count_what_lies_in_them() -> None:
    rows = reliability_bins([0.0, 0.04, 0.5, 1.0], [0, 1, 1, 1], bins=2)
    assert [(row["from"], row["to"], row["count"]) for row in rows] == [(0.0, 0.5, 2), (0.5, 1.0, 2)]
    assert [row["observed"] for row in rows] == [0.5, 1.0]
    assert rows[0]["mean_score"] == pytest.approx(0.02)
    assert reliability_bins([], [], bins=1) == [
        {"from": 0.0, "to": 1.0, "count": 0, "mean_score": None, "observed": None}
    ]


def test_the_error_weighs_bins_by_their_counts() -> None:
    # Three scores of 0.9, two of them right: |0.9 - 2/3|; one of 0.1, wrong: 0.1.
    error = expected_calibration_error([0.9, 0.9, 0.9, 0.1], [1, 1, 0, 0])
    assert error == pytest.approx((3 * abs(0.9 - 2 / 3) + 0.1) / 4)
    assert expected_calibration_error([], []) == 0.0
