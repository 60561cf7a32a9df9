from __future__ import annotations

import pytest

from benchmarks.shift.conditions import CLEAN, Condition
from benchmarks.shift.judging import ScanResult, Scores
from benchmarks.shift.predicting import Choice, choose_thresholds
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import DetectionCounts
from detseg3d.synthetic.shifts.catalogue import SHIFTS

CHANGED = Condition(SHIFTS[0])


def best_from(case_id: str, first: float, last: float) -> ScanResult:
    """One lesion, found with the score ``last``, beside a false positive just below ``first``."""
    scores = Scores((last,), (last,), (first - 0.01,))
    return ScanResult(case_id, DetectionCounts(1, 1, 2, 1), 1.0, (), scores, scores)


def test_a_threshold_is_chosen_on_the_other_scans() -> None:
    clean = [best_from("a", 0.1, 0.2), best_from("b", 0.6, 0.7), best_from("c", 0.6, 0.7)]
    chosen = choose_thresholds({CLEAN: clean}, ["a", "b", "c"], Choice.HOME)
    assert chosen["a"] == 0.65  # the middle of the best thresholds of b and c
    # On a and c, both lesions with one false positive (F1 0.8) are better than one lesion without any (F1 0.67).
    assert chosen["b"] == chosen["c"] == 0.15


def test_the_choice_for_home_does_not_see_changed_scans() -> None:
    clean = [best_from(case_id, 0.6, 0.6) for case_id in "ab"]
    changed = [best_from(case_id, 0.1, 0.1) for case_id in "ab"]
    counts = {CLEAN: clean, CHANGED: changed, Condition(SHIFTS[1]): changed}
    assert choose_thresholds(counts, ["a", "b"], Choice.HOME) == {"a": 0.6, "b": 0.6}
    # Two of three conditions are best at 0.1.
    assert choose_thresholds(counts, ["a", "b"], Choice.ROBUST) == {"a": 0.1, "b": 0.1}


def test_a_single_scan_has_no_others_to_choose_on() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        choose_thresholds({CLEAN: [best_from("a", 0.1, 0.2)]}, ["a"], Choice.HOME)
    assert caught.value.value == 1
