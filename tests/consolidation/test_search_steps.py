"""One step of the search for thresholds: which of the settings that were tried it goes on with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.consolidation.sweep import Setting, _Path
from detseg3d.planning.plans import Plans

Rank = tuple[float, float, float]


def path_between(plans: Plans, now: Rank, other: Rank) -> tuple[_Path, Setting]:
    """A search that holds a setting of rank ``now``, and another setting, of rank ``other``."""
    start = Setting.of(plans)
    variant = replace(start, suppression_distance=2 * start.suppression_distance)
    ranks = {start: now, variant: other}
    return _Path(start, start, True, [], ranks.__getitem__, False), variant


@pytest.mark.parametrize(
    ("now", "other", "moves"),
    [
        ((0.80, 0.80, 0.70), (0.81, 0.81, 0.70), True),
        ((0.80, 0.80, 0.70), (0.81, 0.81, 0.90), True),
        ((0.80, 0.80, 0.70), (0.80, 0.80, 0.90), False),  # Dice alone is no reason
        ((0.80, 0.80, 0.70), (0.801, 0.801, 0.70), False),  # less than the price
        ((0.80, 0.80, 0.70), (0.81, 0.81, 0.695), True),  # half of the gain is left
        ((0.80, 0.80, 0.70), (0.81, 0.81, 0.65), False),
        ((-float("inf"), 0.0, 0.10), (0.80, 0.80, 0.05), True),
        ((-float("inf"), 0.0, 0.10), (-float("inf"), 0.0, 0.20), False),
    ],
)
def test_a_gain_with_a_price_must_exceed_what_the_dice_loses(
    tiny_plans: Plans, now: Rank, other: Rank, moves: bool
) -> None:
    path, variant = path_between(tiny_plans, now, other)
    assert (path.best([variant], pays=0.002) == variant) == moves


def test_of_two_gains_the_one_that_costs_less_dice_is_chosen(tiny_plans: Plans) -> None:
    path, dear = path_between(tiny_plans, (0.80, 0.80, 0.70), (0.84, 0.84, 0.67))
    cheap, known = replace(dear, suppression_iou=0.9), path.rank
    path.rank = lambda setting: (0.83, 0.83, 0.70) if setting == cheap else known(setting)
    assert path.best([dear, cheap], pays=0.002) == cheap


def test_without_a_price_any_better_rank_will_do(tiny_plans: Plans) -> None:
    path, variant = path_between(tiny_plans, (0.80, 0.80, 0.70), (0.8001, 0.8001, 0.50))
    assert path.best([variant], pays=0.0) == variant
    path, variant = path_between(tiny_plans, (0.80, 0.80, 0.70), (0.80, 0.80, 0.70))
    assert path.best([variant], pays=0.0) == path.current


def test_nothing_tried_changes_nothing(tiny_plans: Plans) -> None:
    path, _ = path_between(tiny_plans, (0.8, 0.8, 0.7), (0.9, 0.9, 0.9))
    assert path.best([], pays=0.002) == path.best([], pays=0.0) == path.current
