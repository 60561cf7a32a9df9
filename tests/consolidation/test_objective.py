from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from detseg3d.consolidation.cases import CandidateCase
from detseg3d.consolidation.objective import Objective, pool_counts
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.search import SearchResult
from detseg3d.evaluation.cross_validation import PooledMetrics, SettingMetrics
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.thresholds import Thresholds

F1 = Objective()
NO_LESIONS = CaseCounts(0, 0, 0, 0, 0, 1.0)


def test_lesions_of_all_cases_are_pooled() -> None:
    metrics = pool_counts([CaseCounts(4, 3, 2, 2, 1, 0.5), CaseCounts(0, 0, 3, 0, 0, 0.0), NO_LESIONS])
    assert asdict(metrics) == {
        "f1_iou_0_1": pytest.approx(2 / 9),
        "recall_iou_0_1": 0.25,
        "precision_iou_0_1": 0.2,
        "fp_per_scan_iou_0_1": pytest.approx(4 / 3),
        "f1_any": pytest.approx(2 * 0.75 * 0.4 / 1.15),
        "recall_any": 0.75,
        "precision_any": 0.4,
        "fp_per_scan_any": 1.0,
        "dice": 0.5,
        "lesions": 4,
        "found_iou_0_1": 1,
        "found_any": 3,
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
    metrics = pool_counts([CaseCounts(*counts, 0, 0.0)])
    assert (metrics.recall_any, metrics.precision_any, metrics.f1_any) == expected
    assert (metrics.recall_iou_0_1, metrics.precision_iou_0_1, metrics.f1_iou_0_1) == expected


def test_without_cases_there_are_no_false_positives() -> None:
    assert pool_counts([]).fp_per_scan_any == pool_counts([]).fp_per_scan_iou_0_1 == 0.0


def make_metrics(recall: float = 0.5, precision: float = 0.5, fp: float = 1.0, f1: float = 0.5) -> PooledMetrics:
    """At any overlap nothing is ever wrong: an objective that looked there would not tell any two apart."""
    return PooledMetrics(f1, recall, precision, fp, 1.0, 1.0, 1.0, 0.0, 0.5, 10, 5, 5, 5)


def test_the_highest_f1_is_that_at_an_iou_of_a_tenth() -> None:
    assert F1.value(make_metrics(f1=0.7)) == 0.7


def test_a_recall_that_is_reached_beats_every_one_that_is_not() -> None:
    objective = Objective(target_recall=0.8)
    order = [make_metrics(*pair) for pair in ((0.1, 1.0), (0.79, 1.0), (0.8, 0.0), (0.9, 0.1), (0.81, 0.3))]
    values = [objective.value(entry) for entry in order]
    assert values == sorted(values) and len(set(values)) == 5
    assert [objective.is_reached(entry) for entry in order] == [False, False, True, True, True]


def test_false_positives_within_the_target_beat_all_others() -> None:
    objective = Objective(target_fp=2.0)
    order = [make_metrics(recall, fp=fp) for recall, fp in ((0, 0.0), (0.9, 9), (0.9, 2.1), (0.1, 2), (0.2, 1))]
    values = [objective.value(entry) for entry in order]
    assert values == sorted(values) and len(set(values)) == 5
    assert [objective.is_reached(entry) for entry in order] == [False, False, False, True, True]


def test_among_equals_the_better_f1_counts() -> None:
    objective = Objective(target_fp=2.0)
    assert objective.rank(make_metrics(0.9, fp=1.0, f1=0.8)) > objective.rank(make_metrics(0.9, fp=1.9, f1=0.7))


def test_there_is_one_target() -> None:
    with pytest.raises(ValueError, match="not both"):
        Objective(0.9, 2.0)


@pytest.mark.parametrize(
    ("objective", "text"),
    [
        (F1, "highest lesion F1 (IoU ≥ 0.1)"),
        (Objective(target_recall=0.9), "highest precision at a lesion recall of 0.9 or more (IoU ≥ 0.1)"),
        (Objective(target_fp=0.5), "highest lesion recall at 0.5 false positives per scan or fewer (IoU ≥ 0.1)"),
    ],
)
def test_an_objective_says_what_it_is(objective: Objective, text: str) -> None:
    assert str(objective) == text
    assert objective.has_target == (objective != F1)


# -- Cross-fitting -----------------------------------------------------------------------------------------------------

LOW, HIGH = (Thresholds(score_threshold=score, growth_threshold=0.1) for score in (0.2, 0.6))


def two_folds() -> SearchResult:
    """Four cases. Fold 0 at the high threshold misses one of two, fold 1 at the low one too, with 5 false positives."""
    cases = tuple(CandidateCase(f"c{fold}{n}", fold, Path(), Path()) for fold in "01" for n in range(2))
    right, nothing, wrong = CaseCounts(1, 1, 1, 1, 1, 1.0), CaseCounts(1, 0, 0, 0, 0, 0.0), CaseCounts(1, 0, 5, 0, 0, 0)
    counts = {LOW: (right, right, wrong, right), HIGH: (nothing, right, right, right)}
    return SearchResult(cases, counts, LOW, HIGH, F1, {"0": HIGH, "1": LOW})


def test_each_fold_is_judged_by_the_choice_of_the_others() -> None:
    result = two_folds()
    fitted = result.cross_fitted()
    assert fitted is not None and result.origin is ThresholdOrigin.OTHER_FOLDS
    assert (fitted.recall_iou_0_1, fitted.precision_iou_0_1) == (0.5, pytest.approx(2 / 7))
    assert (fitted.f1_iou_0_1, fitted.fp_per_scan_iou_0_1, fitted.dice) == (pytest.approx(4 / 11), 5 / 4, 0.5)
    assert (fitted.found_iou_0_1, fitted.predictions) == (2, 7)
    metrics = result.choice_metrics()
    assert (metrics.cross_fitted, metrics.plan) == (fitted, result.metrics(LOW))
    assert metrics.chosen_on_the_same_scans == result.metrics(HIGH) and result.metrics(HIGH).recall_any == 0.75
    assert metrics.cross_fitted_f1_interval is not None
    low, high = metrics.cross_fitted_f1_interval
    assert low <= fitted.f1_iou_0_1 <= high
    assert result.tried()[1] == SettingMetrics(HIGH, result.metrics(HIGH))


def test_a_choice_on_a_single_fold_has_no_cross_fitted_figure() -> None:
    several = two_folds()
    result = SearchResult(several.cases, several.counts, LOW, HIGH, F1)
    assert result.origin is ThresholdOrigin.SAME_SCANS and not result.plan_kept
    metrics = result.choice_metrics()
    assert (metrics.cross_fitted, metrics.cross_fitted_f1_interval) == (None, None)


def test_the_metrics_of_a_plan_that_is_kept_were_chosen_on_no_scan() -> None:
    several = two_folds()
    result = SearchResult(several.cases, several.counts, LOW, LOW, F1)
    assert result.origin is ThresholdOrigin.PLAN and result.plan_kept
    assert result.cross_fitted() == result.metrics(LOW)
