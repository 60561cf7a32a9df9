"""One step of the search for thresholds: which of the variants it continues with."""

from __future__ import annotations

import pytest

from detseg3d.consolidation.gain import Gain
from detseg3d.consolidation.search_state import SearchState
from detseg3d.evaluation.cross_validation import PooledMetrics
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds

NOISE = 0.004
"""What a difference in F1 or Dice must exceed here to be more than noise."""


def make_metrics(f1: float, dice: float) -> PooledMetrics:
    return PooledMetrics(f1, f1, f1, 1.0, 1.0, 1.0, 1.0, 0.0, dice, 10, 5, 5, 10)


def state_of(plans: Plans, now: PooledMetrics, *others: PooledMetrics) -> tuple[SearchState, list[Thresholds]]:
    """A search whose current thresholds have the metrics ``now``, and variants with those of the ``others``."""
    start = plans.inference.thresholds
    variants = [start.evolve(mask_threshold=0.01 * index) for index in range(1, len(others) + 1)]
    known = dict(zip([start, *variants], [now, *others], strict=True))
    return make_state(start, known), variants


def make_state(start: Thresholds, known: dict[Thresholds, PooledMetrics]) -> SearchState:
    def gain(first: Thresholds, second: Thresholds) -> Gain:
        f1, dice = known[second].f1_iou_0_1 - known[first].f1_iou_0_1, known[second].dice - known[first].dice
        return Gain(f1, f1 - NOISE, dice, dice - NOISE)

    return SearchState(start, start, True, [], known.__getitem__, gain, False)


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (make_metrics(0.81, 0.70), True),
        (make_metrics(0.81, 0.90), True),
        (make_metrics(0.80, 0.90), False),  # Dice alone is no reason
        (make_metrics(0.803, 0.70), False),  # no more than noise
        (make_metrics(0.81, 0.695), True),  # half of the gain is left
        (make_metrics(0.81, 0.65), False),
    ],
)
def test_a_gain_must_exceed_noise_and_what_the_dice_loses(tiny_plans: Plans, other: PooledMetrics, moves: bool) -> None:
    state, [variant] = state_of(tiny_plans, make_metrics(0.80, 0.70), other)
    assert (state.best([variant]) == variant) == moves


def test_of_two_gains_the_one_that_costs_less_dice_is_chosen(tiny_plans: Plans) -> None:
    state, [dear, cheap] = state_of(
        tiny_plans, *(make_metrics(*pair) for pair in ((0.80, 0.70), (0.84, 0.67), (0.83, 0.70)))
    )
    assert state.best([dear, cheap]) == cheap


@pytest.mark.parametrize(("f1", "moves"), [(0.803, False), (0.805, True)])
def test_the_score_threshold_leaves_the_plan_only_for_more_than_noise(
    tiny_plans: Plans, f1: float, moves: bool
) -> None:
    start = tiny_plans.inference.thresholds
    other = start.evolve(score_threshold=0.9)
    state = make_state(start, {start: make_metrics(0.80, 0.7), other: make_metrics(f1, 0.7)})
    assert (state.best_score([other]) == other) == moves


@pytest.mark.parametrize(("f1", "moves"), [(0.8001, True), (0.80, False)])
def test_a_score_threshold_that_left_the_plan_goes_where_it_is_better(
    tiny_plans: Plans, f1: float, moves: bool
) -> None:
    plan = tiny_plans.inference.thresholds
    now, other = plan.evolve(score_threshold=0.8), plan.evolve(score_threshold=0.9)
    state = make_state(plan, {now: make_metrics(0.80, 0.7), other: make_metrics(f1, 0.7)})
    state.current = now
    assert (state.best_score([other]) == other) == moves


def test_nothing_tried_changes_nothing(tiny_plans: Plans) -> None:
    state, _ = state_of(tiny_plans, make_metrics(0.8, 0.7))
    choices = (state.best, state.best_score, state.best_outline, state.best_scan_threshold)
    for choose in (*choices, state.smallest_useful_volume):
        assert choose([]) == state.current


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (make_metrics(0.90, 0.60), True),  # finds more
        (make_metrics(0.797, 0.72), True),
        (make_metrics(0.79, 0.72), False),  # a better outline, of fewer lesions
        (make_metrics(0.80, 0.703), False),  # no more than noise
    ],
)
def test_an_outline_costs_no_lesion(tiny_plans: Plans, other: PooledMetrics, moves: bool) -> None:
    plan = tiny_plans.inference.thresholds.evolve(candidate_threshold=0.9)  # it finds less
    start, variant = tiny_plans.inference.thresholds, tiny_plans.inference.thresholds.evolve(mask_threshold=0.4)
    state = make_state(plan, {plan: make_metrics(0.5, 0.5), start: make_metrics(0.80, 0.70), variant: other})
    state.current = start
    assert (state.best_outline([variant]) == variant) == moves


def test_no_growth_stays_none_when_the_score_threshold_moves_on(tiny_plans: Plans) -> None:
    start = tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5}).inference.thresholds
    state = make_state(start, {})
    state.scores, tried = [0.2, 0.4], []
    known = {start: make_metrics(1, 0)}
    tried = state.growths()
    known |= {thresholds: make_metrics(1, float(thresholds.growth_threshold >= 0.5)) for thresholds in tried}
    state = make_state(start, known)
    chosen = state.best_outline(tried)
    assert chosen.growth_threshold >= chosen.evolve(score_threshold=0.9).score_threshold
