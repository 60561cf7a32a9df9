"""One step of the search for thresholds: which of the settings that were tried it goes on with."""

from __future__ import annotations

import pytest

from detseg3d.consolidation.gain import Gain
from detseg3d.consolidation.search import _Path
from detseg3d.evaluation.cross_validation import PooledMetrics
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds

NOISE = 0.004
"""What a difference in F1 or Dice must exceed here to be more than noise."""


def figures(f1: float, dice: float) -> PooledMetrics:
    return PooledMetrics(f1, f1, f1, 1.0, 1.0, 1.0, 1.0, 0.0, dice, 10, 5, 5, 10)


def path_of(plans: Plans, now: PooledMetrics, *others: PooledMetrics) -> tuple[_Path, list[Thresholds]]:
    """A search that holds a setting with the figures ``now``, and settings with those of the ``others``."""
    start = plans.inference.thresholds
    variants = [start.evolve(mask_threshold=0.01 * index) for index in range(1, len(others) + 1)]
    known = dict(zip([start, *variants], [now, *others], strict=True))
    return make_path(start, known), variants


def make_path(start: Thresholds, known: dict[Thresholds, PooledMetrics]) -> _Path:
    def gain(first: Thresholds, second: Thresholds) -> Gain:
        f1, dice = known[second].f1_iou_0_1 - known[first].f1_iou_0_1, known[second].dice - known[first].dice
        return Gain(f1, f1 - NOISE, dice, dice - NOISE)

    return _Path(start, start, True, [], known.__getitem__, gain, False)


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (figures(0.81, 0.70), True),
        (figures(0.81, 0.90), True),
        (figures(0.80, 0.90), False),  # Dice alone is no reason
        (figures(0.803, 0.70), False),  # no more than noise
        (figures(0.81, 0.695), True),  # half of the gain is left
        (figures(0.81, 0.65), False),
    ],
)
def test_a_gain_must_exceed_noise_and_what_the_dice_loses(tiny_plans: Plans, other: PooledMetrics, moves: bool) -> None:
    path, [variant] = path_of(tiny_plans, figures(0.80, 0.70), other)
    assert (path.best([variant]) == variant) == moves


def test_of_two_gains_the_one_that_costs_less_dice_is_chosen(tiny_plans: Plans) -> None:
    path, [dear, cheap] = path_of(tiny_plans, figures(0.80, 0.70), figures(0.84, 0.67), figures(0.83, 0.70))
    assert path.best([dear, cheap]) == cheap


@pytest.mark.parametrize(("f1", "moves"), [(0.803, False), (0.805, True)])
def test_the_score_threshold_leaves_the_plan_only_for_more_than_noise(
    tiny_plans: Plans, f1: float, moves: bool
) -> None:
    start = tiny_plans.inference.thresholds
    other = start.evolve(score_threshold=0.9)
    path = make_path(start, {start: figures(0.80, 0.7), other: figures(f1, 0.7)})
    assert (path.best_score([other]) == other) == moves


@pytest.mark.parametrize(("f1", "moves"), [(0.8001, True), (0.80, False)])
def test_a_score_threshold_that_left_the_plan_goes_where_it_is_better(
    tiny_plans: Plans, f1: float, moves: bool
) -> None:
    plan = tiny_plans.inference.thresholds
    now, other = plan.evolve(score_threshold=0.8), plan.evolve(score_threshold=0.9)
    path = make_path(plan, {now: figures(0.80, 0.7), other: figures(f1, 0.7)})
    path.current = now
    assert (path.best_score([other]) == other) == moves


def test_nothing_tried_changes_nothing(tiny_plans: Plans) -> None:
    path, _ = path_of(tiny_plans, figures(0.8, 0.7))
    for choose in (path.best, path.best_score, path.best_outline, path.best_scans, path.smallest_that_pays):
        assert choose([]) == path.current


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (figures(0.90, 0.60), True),  # finds more
        (figures(0.797, 0.72), True),
        (figures(0.79, 0.72), False),  # a better outline, of fewer lesions
        (figures(0.80, 0.703), False),  # no more than noise
    ],
)
def test_an_outline_costs_no_lesion(tiny_plans: Plans, other: PooledMetrics, moves: bool) -> None:
    plan = tiny_plans.inference.thresholds.evolve(candidate_threshold=0.9)  # it finds less
    start, variant = tiny_plans.inference.thresholds, tiny_plans.inference.thresholds.evolve(mask_threshold=0.4)
    path = make_path(plan, {plan: figures(0.5, 0.5), start: figures(0.80, 0.70), variant: other})
    path.current = start
    assert (path.best_outline([variant]) == variant) == moves


def test_no_growth_stays_none_when_the_score_threshold_moves_on(tiny_plans: Plans) -> None:
    start = tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5}).inference.thresholds
    path = make_path(start, {})
    path.scores, tried = [0.2, 0.4], []
    known = {start: figures(1, 0)}
    tried = path.growths()
    known |= {setting: figures(1, float(setting.growth_threshold >= 0.5)) for setting in tried}
    path = make_path(start, known)
    chosen = path.best_outline(tried)
    assert chosen.growth_threshold >= chosen.evolve(score_threshold=0.9).score_threshold
