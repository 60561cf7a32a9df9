from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.matching import OverlapTable, overlap_table
from detseg3d.evaluation.scores.froc import (
    FROC_RATES,
    FrocPoint,
    ScoredCase,
    add_scored,
    average_precision,
    cpm,
    froc_curve,
    match_scored,
    precision_recall_curve,
    recall_at_rates,
    scored_case,
)
from tests.evaluation.scored import MISSED, record, some_cases, tenths

small_maps = arrays(np.int64, (1, 4, 5), elements=st.integers(0, 4))
scores_of_four = st.lists(st.integers(1, 5).map(lambda tenths: tenths / 10), min_size=4, max_size=4)


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


# Matching with scores


def test_at_any_overlap_a_lesion_is_found_at_its_highest_score_and_touching_predictions_are_true() -> None:
    table = overlap_table(line(1, 1, 1, 0, 2, 2, 0, 3, 0), line(1, 0, 2, 2, 2, 0, 0, 0, 3))
    case = scored_case("a", table, [0.3, 0.8, 0.5], None)
    assert case.truth_scores.tolist() == [0.8, 0.8, MISSED]
    assert sorted(case.true_positive_scores.tolist()) == [0.3, 0.8]
    assert case.false_positive_scores.tolist() == [0.5]


def test_one_to_one_the_higher_score_comes_first_even_if_another_prediction_fits_better() -> None:
    # IoU 1/4 with score .9 and 3/4 with score .5: the lesion is found at .9 and the other is a duplicate.
    table = overlap_table(line(1, 1, 1, 1), line(1, 2, 2, 2))
    case = scored_case("a", table, [0.9, 0.5], 0.1)
    assert (case.truth_scores.tolist(), case.true_positive_scores.tolist()) == ([0.9], [0.9])
    assert case.false_positive_scores.tolist() == [0.5]


def test_a_prediction_below_the_minimum_iou_leaves_the_lesion_to_a_lower_score() -> None:
    table = overlap_table(line(1, 1, 1, 1), line(1, 2, 2, 2))
    case = scored_case("a", table, [0.9, 0.5], 0.5)
    assert (case.truth_scores.tolist(), case.false_positive_scores.tolist()) == ([0.5], [0.9])


def test_a_prediction_takes_the_best_of_the_free_lesions() -> None:
    # Prediction 2 prefers lesion 2 (IoU 3/7 over 3/8) and takes lesion 1 when prediction 1 has that already.
    truth = line(1, 1, 1, 1, 1, 2, 2, 2, 2, 0)
    table = overlap_table(truth, line(0, 0, 2, 2, 2, 2, 2, 2, 1, 0))
    assert scored_case("a", table, [0.1, 0.9], 0.1).truth_scores.tolist() == [MISSED, 0.9]
    assert scored_case("a", table, [0.9, 0.1], 0.1).truth_scores.tolist() == [0.1, 0.9]


def test_the_better_overlap_comes_first_if_scores_are_equal() -> None:
    # Prediction 0 overlaps lesion 0 a little; prediction 1 overlaps it much, and lesion 1 as well.
    truth_index, prediction_index = np.array([0, 0, 1]), np.array([0, 1, 1])
    case = match_scored("a", np.array([0.5, 0.5]), 2, truth_index, prediction_index, np.array([0.2, 0.9, 0.3]))
    assert (case.truth_scores.tolist(), case.false_positive_scores.tolist()) == ([0.5, MISSED], [0.5])
    higher = match_scored("a", np.array([0.6, 0.5]), 2, truth_index, prediction_index, np.array([0.2, 0.9, 0.3]))
    assert (higher.truth_scores.tolist(), higher.false_positive_scores.tolist()) == ([0.6, 0.5], [])


def test_an_iou_equal_to_the_minimum_matches() -> None:
    table = overlap_table(line(*[1] * 30), line(*[1] * 3, *[0] * 27))
    assert scored_case("a", table, [0.7], 0.1).truth_scores.tolist() == [0.7]


def in_order_of_score(table: OverlapTable, scores: Sequence[float], minimum_iou: float) -> ScoredCase:
    """Match as COCO: in the order of scores, and the best pair first if scores are equal."""
    iou = np.zeros((len(table.truth), len(table.prediction)))
    iou[table.truth_index, table.prediction_index] = table.iou
    found = [MISSED] * len(table.truth)
    left = set(range(len(table.prediction)))
    for score in sorted(set(scores), reverse=True):
        while True:
            free = [
                (-iou[t, p], p, t)
                for p in left
                for t in range(len(table.truth))
                if scores[p] == score and found[t] == MISSED and iou[t, p] >= minimum_iou
            ]
            if not free:
                break
            _, prediction, truth = min(free)
            found[truth] = score
            left.remove(prediction)
    return record(found, [scores[prediction] for prediction in left])


@given(small_maps, small_maps, scores_of_four, st.sampled_from([0.1, 0.25, 0.5]))
def test_matching_in_order_of_score_by_brute_force(
    truth: IntArray, prediction: IntArray, scores: list[float], minimum_iou: float
) -> None:
    table = overlap_table(truth, prediction)
    own = scores[: len(table.prediction)]
    ours, expected = scored_case("a", table, own, minimum_iou), in_order_of_score(table, own, minimum_iou)
    assert ours.truth_scores.tolist() == expected.truth_scores.tolist()
    assert sorted(ours.true_positive_scores) == sorted(expected.true_positive_scores)
    assert sorted(ours.false_positive_scores) == sorted(expected.false_positive_scores)


@given(small_maps, small_maps, scores_of_four, st.sampled_from([None, 0.1, 0.5]), tenths)
def test_a_record_equals_an_evaluation_of_the_predictions_above_a_threshold(
    truth: IntArray, prediction: IntArray, scores: list[float], minimum_iou: float | None, threshold: float
) -> None:
    # One matching serves all thresholds: a prediction of lower score never takes a lesion from one of higher score.
    table = overlap_table(truth, prediction)
    own = np.array(scores[: len(table.prediction)])
    whole = scored_case("a", table, own, minimum_iou)
    kept = table.select(np.ones(len(table.truth), bool), own >= threshold)
    part = scored_case("a", kept, own[own >= threshold], minimum_iou)
    assert np.array_equal(np.isfinite(part.truth_scores), whole.truth_scores >= threshold)
    assert len(part.false_positive_scores) == np.count_nonzero(whole.false_positive_scores >= threshold)


def test_classes_are_added_up() -> None:
    total = add_scored([record([0.9, MISSED], [0.4]), record([0.2], [])])
    assert (total.truth_scores.tolist(), total.false_positive_scores.tolist()) == ([0.9, MISSED, 0.2], [0.4])
    assert total.true_positive_scores.tolist() == [0.9, 0.2]


def test_no_classes_give_an_empty_record() -> None:
    total = add_scored([])
    assert len(total.truth_scores) == len(total.true_positive_scores) == len(total.false_positive_scores) == 0


# FROC


def test_a_froc_curve_by_hand() -> None:
    # Two scans, four lesions. From the top: hit .9, false .8, hits .6 and false .6 at once, hit .3 the lowest of all.
    curve = froc_curve([record([0.9, 0.6], [0.8]), record([0.3, MISSED], [0.6])])
    assert curve.thresholds.tolist() == [0.9, 0.8, 0.6, 0.3]
    assert curve.false_positives_per_scan.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert curve.recall.tolist() == [0.25, 0.25, 0.5, 0.75]
    assert curve.empty_recall == 0.0


def test_recall_at_rates_by_hand() -> None:
    curve = froc_curve([record([0.9, 0.6], [0.8]), record([0.3, MISSED], [0.6])])
    rows = recall_at_rates(curve, (0.25, 0.5, 1.0, 8.0))
    assert [row.recall for row in rows] == [0.25, 0.25, 0.75, 0.75]
    # At half a false positive .9 gives the same recall with none.
    assert [row.threshold for row in rows] == [0.9, 0.9, 0.3, 0.3]
    assert cpm(curve) == pytest.approx((0.25 + 0.25 + 0.25 + 4 * 0.75) / 7)


def test_cpm_is_read_at_the_rates_of_luna16() -> None:
    assert FROC_RATES == (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)


def test_a_rate_is_reached_even_if_its_division_is_not_exact() -> None:
    # 3 false positives in 30 scans are .1 per scan.
    cases = [record([0.5], [0.9] if index < 3 else []) for index in range(30)]
    assert recall_at_rates(froc_curve(cases), (0.1,))[0].recall == 1.0


def test_false_positives_above_all_hits_leave_no_threshold() -> None:
    curve = froc_curve([record([0.5], [0.9, 0.8])])
    assert recall_at_rates(curve, (1.0,)) == (FrocPoint(1.0, 0.0, 0.9),)
    assert recall_at_rates(curve, (0.5,)) == (FrocPoint(0.5, 0.0, None),)


def test_a_hit_and_a_false_positive_of_equal_score_are_one_point() -> None:
    curve = froc_curve([record([0.5], [0.5])])
    assert (curve.false_positives_per_scan.tolist(), curve.recall.tolist()) == ([1.0], [1.0])
    assert recall_at_rates(curve, (0.5, 1.0))[0].recall == 0.0
    assert recall_at_rates(curve, (0.5, 1.0))[1].recall == 1.0


@pytest.mark.parametrize(
    ("cases", "recall", "precision"),
    [
        ([record([])], 1.0, 1.0),  # nothing was there and nothing was claimed
        ([record([], [0.5])], 1.0, 0.0),
        ([record([MISSED])], 0.0, 0.0),
        ([record([MISSED], [0.5])], 0.0, 0.0),
        ([record([0.5])], 1.0, 1.0),
    ],
)
def test_cases_with_an_empty_side_have_values(cases: list[ScoredCase], recall: float, precision: float) -> None:
    assert cpm(froc_curve(cases)) == recall
    assert average_precision(cases) == precision


def test_no_cases_have_no_curve() -> None:
    with pytest.raises(ValueError, match="needs at least one case"):
        froc_curve([])


def test_the_true_positive_of_lowest_score_counts() -> None:
    cases = [record([0.9, 0.1], [0.5])]
    assert froc_curve(cases).recall[-1] == 1.0
    assert average_precision(cases) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_more_than_eight_false_positives_per_scan_are_on_the_curve() -> None:
    curve = froc_curve([record([0.05], [index / 100 for index in range(10, 40)])])
    assert (curve.false_positives_per_scan[-1], curve.recall[-1]) == (30.0, 1.0)
    assert cpm(curve) == 0.0


# Precision and recall


def test_average_precision_by_hand() -> None:
    # Hit, false, hit, false, hit; one lesion is missed. Precision 1, 2/3, 3/5 from each hit on, none is higher later.
    cases = [record([0.9, 0.5, MISSED], [0.7]), record([0.2], [0.4])]
    assert average_precision(cases) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)


def test_average_precision_uses_the_best_precision_at_no_less_recall() -> None:
    # False, hit, hit: the precision is 1/2 at the first hit and 2/3 at the second. The higher one counts for both.
    assert average_precision([record([0.5, 0.4], [0.9])]) == pytest.approx(2 / 3)


def test_precision_counts_predictions_and_recall_lesions() -> None:
    # At any overlap: one prediction finds both lesions, another one lies in the first.
    recall, precision, thresholds = precision_recall_curve([record([0.9, 0.9], [0.5], true=[0.9, 0.5])])
    assert (thresholds.tolist(), recall.tolist(), precision.tolist()) == ([0.9, 0.5], [1.0, 1.0], [1.0, 2 / 3])


def at_threshold(cases: Sequence[ScoredCase], threshold: float) -> tuple[float, float, float]:
    """Count recall, precision and false positives per scan at one threshold."""
    lesions = [score for case in cases for score in case.truth_scores]
    hits = sum(1 for case in cases for score in case.true_positive_scores if score >= threshold)
    false = sum(1 for case in cases for score in case.false_positive_scores if score >= threshold)
    found = sum(1 for score in lesions if score >= threshold)
    recall = found / len(lesions) if lesions else 1.0
    return recall, hits / (hits + false), false / len(cases)


def all_thresholds(cases: Sequence[ScoredCase]) -> list[float]:
    scores = {s for case in cases for s in (*case.true_positive_scores, *case.false_positive_scores)}
    return sorted(scores, reverse=True)


@given(some_cases)
def test_curves_by_brute_force(cases: list[ScoredCase]) -> None:
    thresholds = all_thresholds(cases)
    expected = [at_threshold(cases, threshold) for threshold in thresholds]
    curve, (recall, precision, same) = froc_curve(cases), precision_recall_curve(cases)
    assert curve.thresholds.tolist() == same.tolist() == thresholds
    assert curve.recall.tolist() == recall.tolist() == [entry[0] for entry in expected]
    assert precision.tolist() == [entry[1] for entry in expected]
    assert curve.false_positives_per_scan.tolist() == [entry[2] for entry in expected]


def brute_force_cpm(cases: Sequence[ScoredCase]) -> float:
    nothing = 0.0 if any(len(case.truth_scores) for case in cases) else 1.0
    points = [at_threshold(cases, threshold) for threshold in all_thresholds(cases)]
    best = [max([r for r, _, rate in points if rate <= allowed] + [nothing]) for allowed in FROC_RATES]
    return float(np.mean(best))


def brute_force_average_precision(cases: Sequence[ScoredCase]) -> float:
    """Return the mean over the lesions of the best precision at which each lesion is found."""
    lesions = [score for case in cases for score in case.truth_scores]
    if not lesions:
        return 0.0 if all_thresholds(cases) else 1.0
    points = [at_threshold(cases, threshold) for threshold in all_thresholds(cases)]
    total = 0.0
    for lesion in lesions:
        recall_with_it = sum(1 for other in lesions if other >= lesion) / len(lesions)
        if lesion > MISSED:
            total += max(precision for recall, precision, _ in points if recall >= recall_with_it)
    return total / len(lesions)


@given(some_cases)
def test_cpm_and_average_precision_by_brute_force(cases: list[ScoredCase]) -> None:
    assert cpm(froc_curve(cases)) == pytest.approx(brute_force_cpm(cases), abs=1e-12)
    assert average_precision(cases) == pytest.approx(brute_force_average_precision(cases), abs=1e-12)


@given(some_cases)
def test_the_threshold_of_a_rate_gives_its_recall(cases: list[ScoredCase]) -> None:
    for row in recall_at_rates(froc_curve(cases)):
        if row.threshold is not None and row.fp_per_scan is not None:
            recall, _, rate = at_threshold(cases, row.threshold)
            assert recall == row.recall
            assert rate <= row.fp_per_scan
            higher = [t for t in all_thresholds(cases) if t > row.threshold]
            assert all(at_threshold(cases, t)[0] < recall for t in higher)
