from __future__ import annotations

import pytest

from benchmarks.shift.conditions import CLEAN, Condition
from benchmarks.shift.predicting import Choice, Count, ThresholdCounts, choose_thresholds
from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.shifts.catalogue import SHIFTS

CHANGED = Condition(SHIFTS[0])


def best_from(first: float, last: float) -> ThresholdCounts:
    """One lesion, which one prediction finds at thresholds from ``first`` to ``last``; nothing else is predicted."""
    thresholds = [round(0.05 * step, 2) for step in range(1, 20)]
    counts = [Count(1, int(first <= t <= last), int(first <= t <= last)) for t in thresholds]
    return ThresholdCounts(tuple(counts))


def test_a_threshold_is_chosen_on_the_other_scans() -> None:
    clean = {"a": best_from(0.1, 0.2), "b": best_from(0.6, 0.7), "c": best_from(0.6, 0.7)}
    chosen = choose_thresholds({CLEAN: clean}, ["a", "b", "c"], Choice.HOME)
    assert chosen["a"] == 0.65  # the middle of the best thresholds of b and c
    assert chosen["b"] in (0.1, 0.15, 0.2, 0.6, 0.65, 0.7)


def test_the_choice_for_home_does_not_see_changed_scans() -> None:
    clean = dict.fromkeys("ab", best_from(0.6, 0.6))
    changed = dict.fromkeys("ab", best_from(0.1, 0.1))
    counts = {CLEAN: clean, CHANGED: changed, Condition(SHIFTS[1]): changed}
    assert choose_thresholds(counts, ["a", "b"], Choice.HOME) == {"a": 0.6, "b": 0.6}
    # Two of three conditions are best at 0.1.
    assert choose_thresholds(counts, ["a", "b"], Choice.ROBUST) == {"a": 0.1, "b": 0.1}


def test_a_single_scan_has_no_others_to_choose_on() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        choose_thresholds({CLEAN: {"a": best_from(0.1, 0.2)}}, ["a"], Choice.HOME)
    assert caught.value.value == 1
