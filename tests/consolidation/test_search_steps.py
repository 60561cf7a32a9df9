"""One step of the search for thresholds: which of the settings that were tried it goes on with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detseg3d.consolidation.setting import Setting
from detseg3d.consolidation.sweep import _Path
from detseg3d.planning.plans import Plans


def figures(f1: float, dice: float, outlined: float = 0.6) -> dict[str, float]:
    return {"f1": f1, "dice": dice, "f1_iou_0.1": outlined}


def path_of(plans: Plans, now: dict[str, float], *others: dict[str, float]) -> tuple[_Path, list[Setting]]:
    """A search that holds a setting with the figures ``now``, and settings with those of the ``others``."""
    start = Setting.of(plans)
    variants = [replace(start, mask_threshold=0.01 * index) for index in range(1, len(others) + 1)]
    known = dict(zip([start, *variants], [now, *others], strict=True))
    return _Path(start, start, True, [], known.__getitem__, False), variants


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (figures(0.81, 0.70), True),
        (figures(0.81, 0.90), True),
        (figures(0.80, 0.90), False),  # Dice alone is no reason
        (figures(0.801, 0.70), False),  # less than the price
        (figures(0.81, 0.695), True),  # half of the gain is left
        (figures(0.81, 0.65), False),
    ],
)
def test_a_gain_with_a_price_must_exceed_what_the_dice_loses(
    tiny_plans: Plans, other: dict[str, float], moves: bool
) -> None:
    path, [variant] = path_of(tiny_plans, figures(0.80, 0.70), other)
    assert (path.best([variant], pays=0.002) == variant) == moves


def test_of_two_gains_the_one_that_costs_less_dice_is_chosen(tiny_plans: Plans) -> None:
    path, [dear, cheap] = path_of(tiny_plans, figures(0.80, 0.70), figures(0.84, 0.67), figures(0.83, 0.70))
    assert path.best([dear, cheap], pays=0.002) == cheap


@pytest.mark.parametrize(("f1", "moves"), [(0.8001, True), (0.80, False)])
def test_without_a_price_any_better_rank_will_do(tiny_plans: Plans, f1: float, moves: bool) -> None:
    path, [variant] = path_of(tiny_plans, figures(0.80, 0.70), figures(f1, 0.70))
    assert (path.best([variant], pays=0.0) == variant) == moves


def test_nothing_tried_changes_nothing(tiny_plans: Plans) -> None:
    path, _ = path_of(tiny_plans, figures(0.8, 0.7))
    assert path.best([], pays=0.002) == path.best([], pays=0.0) == path.current


@pytest.mark.parametrize(
    ("other", "moves"),
    [
        (figures(0.90, 0.60, 0.60), True),  # finds more
        (figures(0.90, 0.72, 0.59), False),  # finds more by touching more: fewer are outlined
        (figures(0.797, 0.72, 0.60), True),
        (figures(0.79, 0.72, 0.60), False),  # a better outline, of fewer lesions
        (figures(0.80, 0.701, 0.60), False),  # no more than noise
    ],
)
def test_an_outline_costs_no_lesion_found_or_outlined(tiny_plans: Plans, other: dict[str, float], moves: bool) -> None:
    path, [variant] = path_of(tiny_plans, figures(0.80, 0.70, 0.60), other)
    path.default = replace(path.default, det_threshold=0.9)  # the plan, which finds less
    known = path.figures
    path.figures = lambda setting: figures(0.5, 0.5, 0.5) if setting == path.default else known(setting)
    assert (path.best_outline([path.default, variant]) == variant) == moves


def test_no_growth_stays_none_when_the_score_threshold_moves_on(tiny_plans: Plans) -> None:
    start = Setting.of(tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5}))
    path = _Path(start, start, True, [0.2, 0.4], lambda it: figures(1, it.growth_threshold >= 0.5), False)
    chosen = path.best_outline(path.growths())
    assert chosen.growth_threshold >= replace(chosen, score_threshold=0.9).score_threshold
