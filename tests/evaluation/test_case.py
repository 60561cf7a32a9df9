from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.case import panoptic_counts
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import CaseMetrics, Criterion, DetectionCounts
from tests.evaluations import evaluate_maps

SPACING = (2.0, 1.0, 0.5)
small_maps = arrays(np.int64, (2, 4, 4), elements=st.integers(0, 4))


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def evaluate(truth: IntArray, prediction: IntArray, **keywords: Any) -> CaseMetrics:
    return evaluate_maps("case", truth, prediction, SPACING, **keywords)


def test_recall_counts_truth_and_precision_counts_predictions() -> None:
    # Prediction 1 covers lesions 1 and 2, predictions 2 and 3 lie in lesion 3, prediction 4 in nothing; 4 is missed.
    truth = line(1, 0, 2, 0, 3, 3, 3, 0, 4, 0, 0)
    prediction = line(1, 1, 1, 0, 2, 0, 3, 0, 0, 0, 4)
    counts = evaluate(truth, prediction).overall.detection["any"]
    assert counts == DetectionCounts(truth=4, found=3, predictions=4, true_positives=3)
    assert (counts.recall, counts.precision, counts.f1, counts.missed, counts.false_positives) == (
        0.75,
        0.75,
        0.75,
        1,
        1,
    )


def test_f1_is_the_harmonic_mean() -> None:
    counts = DetectionCounts(truth=4, found=1, predictions=2, true_positives=1)
    assert counts.f1 == pytest.approx(2 * 0.25 * 0.5 / 0.75)


def test_one_to_one_counts_a_duplicate_as_false_positive() -> None:
    case = evaluate(line(1, 1, 1, 1), line(1, 1, 2, 2)).overall
    assert case.detection["any"].false_positives == 0
    assert case.detection["iou_0.1"].false_positives == 1
    assert case.detection["iou_0.5"].false_positives == 1


@pytest.mark.parametrize(
    ("truth", "prediction", "rates"),
    [
        ((0, 0), (0, 0), (1.0, 1.0, 1.0, 1.0, 1.0)),
        ((1, 0), (0, 0), (0.0, 0.0, 0.0, 0.0, 0.0)),
        ((0, 0), (0, 1), (0.0, 0.0, 0.0, 0.0, 0.0)),
        ((1, 0), (1, 0), (1.0, 1.0, 1.0, 1.0, 1.0)),
    ],
)
def test_empty_sides_have_defined_rates(
    truth: tuple[int, ...], prediction: tuple[int, ...], rates: tuple[float, ...]
) -> None:
    case = evaluate(line(*truth), line(*prediction))
    for criterion in Criterion:
        counts = case.overall.detection[criterion]
        assert (counts.recall, counts.precision, counts.f1, case.dice, case.overall.panoptic.pq) == rates


def test_only_a_case_without_any_lesion_is_empty() -> None:
    assert evaluate(line(0), line(0)).overall.is_empty
    assert not evaluate(line(0), line(1)).overall.is_empty


def test_panoptic_quality_by_hand() -> None:
    # IoU 3/4 matches; IoU exactly 1/2 does not; one miss, one false positive of their own.
    counts = panoptic_counts(overlap_table(line(1, 1, 1, 1, 0, 2, 2, 0, 3, 0), line(1, 1, 1, 0, 0, 2, 0, 0, 0, 4)))
    assert (counts.matches, counts.iou_sum) == (1, 0.75)
    assert counts.sq == 0.75
    assert counts.rq == pytest.approx(1 / (1 + 2 / 2 + 2 / 2))
    assert counts.pq == pytest.approx(counts.sq * counts.rq)


def test_a_lesion_of_the_wrong_class_is_missed_and_a_false_positive() -> None:
    case = evaluate(
        line(1, 1, 0, 2), line(1, 1, 0, 2), truth_classes=[0, 1], prediction_classes=[1, 1], class_names=["a", "b"]
    )
    assert case.classes["a"].detection["any"] == DetectionCounts(1, 0, 0, 0)
    assert case.classes["b"].detection["any"] == DetectionCounts(1, 1, 2, 1)
    assert case.overall.detection["any"] == DetectionCounts(2, 1, 2, 1)
    assert case.dice == pytest.approx(2 * 1 / 6)
    assert [lesion.partner for lesion in case.lesions] == [None, 2, None, 2]


def test_records_state_the_match_of_each_lesion() -> None:
    case = evaluate(line(1, 1, 0, 2, 0), line(0, 9, 9, 0, 5), prediction_scores={9: 0.75, 5: 0.25})
    found, missed, false_positive, true_positive = case.lesions
    assert (found.kind, found.id, found.voxels, found.volume_mm3, found.partner) == ("truth", 1, 2, 2.0, 9)
    assert (found.iou, found.dice, found.center) == (pytest.approx(1 / 3), 0.5, (0.5, 0.5, 1.0))
    assert found.matched == {"any": True, "iou_0.1": True, "iou_0.5": False}
    assert (missed.id, missed.partner, missed.iou, missed.matched["any"]) == (2, None, 0.0, False)
    assert (false_positive.id, false_positive.score, false_positive.matched["any"]) == (5, 0.25, False)
    assert (true_positive.id, true_positive.score, true_positive.partner) == (9, 0.75, 1)


def test_classes_are_given_by_id_and_may_be_a_sequence() -> None:
    case = evaluate(line(2, 0), line(3, 0), truth_classes=[0, 1], prediction_classes=np.array([0, 0, 1]))
    assert case.classes["class 1"].detection["any"].found == 1


def test_a_lesion_without_a_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 predicted lesion\(s\) of the instance map have no class: 2"):
        evaluate(line(1, 0), line(1, 2), prediction_classes=[0])


def test_a_class_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="class indices range from 0 to 3"):
        evaluate(line(1), line(1), truth_classes=[3], class_names=["a"])


@given(small_maps, small_maps, st.permutations(range(1, 5)))
def test_renumbering_lesions_changes_nothing(truth: IntArray, prediction: IntArray, order: list[int]) -> None:
    numbers = np.array([0, *(1000 * number for number in order)])
    assert evaluate(truth, prediction).classes == evaluate(truth, numbers[prediction]).classes


@given(small_maps, small_maps, st.sampled_from([(0,), (1,), (0, 2)]))
def test_flipping_both_changes_nothing(truth: IntArray, prediction: IntArray, axes: tuple[int, ...]) -> None:
    flipped = evaluate(np.flip(truth, axes), np.flip(prediction, axes))
    assert flipped.classes == evaluate(truth, prediction).classes


@given(small_maps, small_maps)
def test_swapping_truth_and_prediction_swaps_recall_and_precision(truth: IntArray, prediction: IntArray) -> None:
    there, back = evaluate(truth, prediction).overall, evaluate(prediction, truth).overall
    for criterion in Criterion:
        assert there.detection[criterion].recall == back.detection[criterion].precision
    assert there.dice == back.dice


@given(small_maps)
def test_a_perfect_prediction_is_perfect_everywhere(truth: IntArray) -> None:
    overall = evaluate(truth, truth).overall
    assert {counts.f1 for counts in overall.detection.values()} == {1.0}
    assert overall.dice == overall.panoptic.pq == 1.0


@given(small_maps, small_maps)
def test_stricter_criteria_never_find_more(truth: IntArray, prediction: IntArray) -> None:
    detection = evaluate(truth, prediction).overall.detection
    assert detection["any"].found >= detection["iou_0.1"].found >= detection["iou_0.5"].found
