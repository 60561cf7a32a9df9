from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from detseg3d.consolidation.objective import Objective, pooled
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.setting import Setting, StoredCase
from detseg3d.consolidation.sweep import Sweep

F1 = Objective()


def test_lesions_of_all_cases_are_pooled() -> None:
    figures = pooled([CaseCounts(4, 3, 2, 2, 1, 0.5), CaseCounts(0, 0, 3, 0, 0, 0.0), CaseCounts(0, 0, 0, 0, 0, 1.0)])
    assert figures == {
        "f1": pytest.approx(2 * 0.75 * 0.4 / 1.15),
        "f1_iou_0.1": pytest.approx(2 / 9),
        "recall": 0.75,
        "precision": 0.4,
        "fp_per_scan": 1.0,
        "dice": 0.5,
        "found": 3,
        "predictions": 5,
    }


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 0, 0, 0), (1.0, 1.0, 1.0)),  # nothing there and nothing claimed
        ((0, 0, 2, 0), (0.0, 0.0, 0.0)),
        ((3, 0, 0, 0), (0.0, 0.0, 0.0)),
    ],
)
def test_rates_over_nothing_are_defined(counts: tuple[int, int, int, int], expected: tuple[float, ...]) -> None:
    figures = pooled([CaseCounts(*counts, 0, 0.0)])
    assert (figures["recall"], figures["precision"], figures["f1"]) == expected


def test_no_case_has_figures_of_zero() -> None:
    assert pooled([])["fp_per_scan"] == 0.0


def figures(recall: float = 0.5, precision: float = 0.5, fp: float = 1.0, f1: float = 0.5) -> dict[str, float]:
    return {"recall": recall, "precision": precision, "fp_per_scan": fp, "f1": f1, "dice": 0.5}


def test_a_recall_that_is_reached_beats_every_one_that_is_not() -> None:
    objective = Objective(target_recall=0.8)
    order = [figures(0.1, 1.0), figures(0.79, 1.0), figures(0.8, 0.0), figures(0.9, 0.1), figures(0.81, 0.3)]
    values = [objective.value(entry) for entry in order]
    assert values == sorted(values) and len(set(values)) == 5
    assert [objective.reached(entry) for entry in order] == [False, False, True, True, True]


def test_false_positives_within_the_target_beat_all_others() -> None:
    objective = Objective(target_fp=2.0)
    order = [figures(0.0, fp=0.0), figures(0.9, fp=9.0), figures(0.9, fp=2.1), figures(0.1, fp=2.0), figures(0.2, fp=1)]
    values = [objective.value(entry) for entry in order]
    assert values == sorted(values) and len(set(values)) == 5
    assert [objective.reached(entry) for entry in order] == [False, False, False, True, True]


def test_among_equals_the_better_f1_counts() -> None:
    objective = Objective(target_fp=2.0)
    assert objective.rank(figures(0.9, fp=1.0, f1=0.8)) > objective.rank(figures(0.9, fp=1.9, f1=0.7))


def test_there_is_one_target() -> None:
    with pytest.raises(ValueError, match="not both"):
        Objective(0.9, 2.0)


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (F1, "highest lesion F1"),
        (Objective(target_recall=0.9), "highest precision at a lesion recall of 0.9 or more"),
        (Objective(target_fp=0.5), "highest lesion recall at 0.5 false positives per scan or fewer"),
    ],
)
def test_an_objective_says_what_it_is(objective: Objective, text: str) -> None:
    assert str(objective) == text


def test_each_fold_is_judged_by_the_choice_of_the_others() -> None:
    low, high = (Setting(score, 0.1, 0.1, 0.5, 0.3, 0.5, 0.0, 0.0) for score in (0.2, 0.6))
    cases = tuple(StoredCase(f"c{fold}{n}", fold, Path(), Path()) for fold in "01" for n in range(2))
    counts = {
        low: (
            CaseCounts(1, 1, 1, 1, 1, 1.0),
            CaseCounts(1, 1, 1, 1, 1, 1.0),
            CaseCounts(1, 0, 5, 0, 0, 0.0),
            CaseCounts(1, 1, 1, 1, 1, 1),
        ),
        high: (
            CaseCounts(1, 0, 0, 0, 0, 0.0),
            CaseCounts(1, 1, 1, 1, 1, 1.0),
            CaseCounts(1, 1, 1, 1, 1, 1.0),
            CaseCounts(1, 1, 1, 1, 1, 1),
        ),
    }
    sweep = Sweep(cases, counts, low, low, F1, {"0": high, "1": low})
    # Fold 0 at the high threshold misses one of two, fold 1 at the low one misses one and has 5 false positives.
    assert sweep.without_own_fold() == {
        "recall": 0.5, "precision": pytest.approx(2 / 7), "f1": pytest.approx(4 / 11), "fp_per_scan": 5 / 4,
        "dice": 0.5, "f1_iou_0.1": pytest.approx(4 / 11), "found": 2, "predictions": 7,
    }  # fmt: skip
    assert sweep.figures(high)["recall"] == 0.75
    assert sweep.rows()[1] == {"setting": asdict(high), **sweep.figures(high)}
