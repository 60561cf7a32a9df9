from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.matching import (
    InstanceTable,
    OverlapTable,
    best_overlaps,
    match_any_overlap,
    match_by_sum,
    match_one_to_one,
    overlap_table,
)

small_maps = arrays(np.int64, (1, 4, 5), elements=st.integers(0, 4))


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def pairs_of(table: OverlapTable) -> dict[tuple[int, int], int]:
    true_ids, ids = table.truth.ids[table.truth_index], table.prediction.ids[table.prediction_index]
    return dict(zip(zip(true_ids.tolist(), ids.tolist(), strict=True), table.intersection.tolist(), strict=True))


@given(small_maps, small_maps)
def test_the_table_equals_a_count_pair_by_pair(truth: IntArray, prediction: IntArray) -> None:
    table = overlap_table(truth, prediction)
    expected = {
        (t, p): int(np.sum((truth == t) & (prediction == p)))
        for t in range(1, 5)
        for p in range(1, 5)
        if np.any((truth == t) & (prediction == p))
    }
    assert pairs_of(table) == expected
    assert table.truth.voxels.tolist() == [int((truth == number).sum()) for number in table.truth.ids]
    assert table.prediction.voxels.tolist() == [int((prediction == number).sum()) for number in table.prediction.ids]


@given(small_maps, small_maps)
def test_iou_and_dice_of_a_pair_equal_the_values_of_its_masks(truth: IntArray, prediction: IntArray) -> None:
    table = overlap_table(truth, prediction)
    for k in range(len(table.intersection)):
        first = truth == table.truth.ids[table.truth_index[k]]
        second = prediction == table.prediction.ids[table.prediction_index[k]]
        assert table.iou[k] == (first & second).sum() / (first | second).sum()
        assert table.dice[k] == 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("count", [300, 70_000])
def test_more_lesions_than_small_integers_can_count(count: int) -> None:
    truth = np.arange(1, count + 1).reshape(1, 1, -1)
    table = overlap_table(truth, truth)
    assert len(table.truth) == len(table.intersection) == count
    assert len(match_one_to_one(table, 0.5)) == count


def test_uint8_maps_do_not_overflow() -> None:
    truth, prediction = np.full((2, 1, 1, 3), 255, np.uint8)
    assert pairs_of(overlap_table(truth, prediction)) == {(255, 255): 3}


def test_empty_maps_have_no_lesions() -> None:
    table = overlap_table(line(0, 0), line(0, 0))
    assert len(table.truth) == len(table.prediction) == len(table.intersection) == 0


def test_the_centre_of_a_voxel_is_half_a_voxel_from_its_edge() -> None:
    volume = np.zeros((4, 4, 4), np.int64)
    volume[1, 2, 3] = 1
    assert overlap_table(volume, volume).truth.centers.tolist() == [[1.5, 2.5, 3.5]]


def test_flipped_views_are_read_in_their_own_order() -> None:
    truth = line(1, 1, 2, 0)[:, :, ::-1]
    assert pairs_of(overlap_table(truth, line(0, 5, 6, 6))) == {(2, 5): 1, (1, 6): 2}


def test_transposed_views_are_read_in_their_own_order() -> None:
    truth = np.array([[[1, 2], [3, 4]]])
    assert pairs_of(overlap_table(truth.transpose(0, 2, 1), truth)) == {(1, 1): 1, (3, 2): 1, (2, 3): 1, (4, 4): 1}


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="of one shape are needed"):
        overlap_table(line(1), line(1, 1))


def test_any_overlap_lets_one_prediction_find_two_lesions() -> None:
    found, hit = match_any_overlap(overlap_table(line(1, 1, 0, 2, 2, 3), line(0, 7, 7, 7, 0, 0)))
    assert found.tolist() == [True, True, False]
    assert hit.tolist() == [True]


def test_one_to_one_matches_maximises_the_number_before_the_iou() -> None:
    # Lesion 1 and prediction 8 have IoU 7/9, but lesion 2 then remains alone; crosswise both are found (1/8 and 1/9).
    truth = line(1, 1, 1, 1, 1, 1, 1, 1, 2, 2)
    prediction = line(9, 8, 8, 8, 8, 8, 8, 8, 8, 0)
    table = overlap_table(truth, prediction)
    matches = match_one_to_one(table, 0.1)
    ids = (table.truth.ids[matches.truth_index].tolist(), table.prediction.ids[matches.prediction_index].tolist())
    assert ids == ([1, 2], [9, 8])


@pytest.mark.parametrize(("minimum", "matched"), [(0.5, 1), (0.51, 0), (0.0, 1)])
def test_an_iou_equal_to_the_minimum_matches(minimum: float, matched: int) -> None:
    assert len(match_one_to_one(overlap_table(line(1, 1), line(1, 0)), minimum)) == matched


def test_iou_of_exactly_one_tenth_counts_at_one_tenth() -> None:
    assert len(match_one_to_one(overlap_table(line(*[1] * 30), line(*[1] * 3, *[0] * 27)), 0.1)) == 1


def brute_force(table: OverlapTable, minimum: float) -> tuple[int, float]:
    iou = np.zeros((len(table.truth), max(len(table.prediction), len(table.truth))))
    iou[table.truth_index, table.prediction_index] = np.where(table.iou >= minimum, table.iou, 0)
    best = (0, 0.0)
    for columns in permutations(range(iou.shape[1]), len(table.truth)):
        values = iou[np.arange(len(columns)), list(columns)]
        best = max(best, (int((values > 0).sum()), round(float(values.sum()), 9)))
    return best


@settings(max_examples=60)
@given(small_maps, small_maps, st.sampled_from([0.0, 0.1, 0.25, 0.5]))
def test_matching_is_the_best_of_all_assignments(truth: IntArray, prediction: IntArray, minimum: float) -> None:
    table = overlap_table(truth, prediction)
    matches = match_one_to_one(table, minimum)
    assert len(set(matches.truth_index.tolist())) == len(set(matches.prediction_index.tolist())) == len(matches)
    assert (len(matches), round(float(matches.iou.sum()), 9)) == brute_force(table, minimum)


def test_the_best_overlap_has_the_highest_iou() -> None:
    table = overlap_table(line(1, 1, 1, 2, 0, 3), line(5, 6, 6, 6, 6, 0))
    of_truth, of_prediction = best_overlaps(table)
    assert table.prediction.ids[table.prediction_index[of_truth[0]]] == 6
    assert of_truth[2] == -1
    assert table.truth.ids[table.truth_index[of_prediction[1]]] == 1


@given(small_maps, small_maps)
def test_selecting_lesions_equals_erasing_the_others(truth: IntArray, prediction: IntArray) -> None:
    table = overlap_table(truth, prediction)
    selected = table.select(table.truth.ids % 2 == 1, table.prediction.ids % 2 == 1)
    again = overlap_table(np.where(truth % 2 == 1, truth, 0), np.where(prediction % 2 == 1, prediction, 0))
    assert pairs_of(selected) == pairs_of(again)
    assert selected.truth.voxels.tolist() == again.truth.voxels.tolist()


def test_only_picai_eval_prefers_two_good_matches_to_three_poor_matches() -> None:
    """Two matches are very good (0-0, 1-1); three matches are poor (0-2, 1-0, 2-1; lesion-prediction)."""
    lesions = InstanceTable(np.arange(1, 4), np.full(3, 10), np.zeros((3, 3)))
    table = OverlapTable(lesions, lesions, np.array([0, 1, 0, 1, 2]), np.array([0, 1, 2, 0, 1]), np.ones(5, np.int64))
    quality = np.array([1.0, 1.0, 0.1, 0.1, 0.1])
    three, two = (match_by_sum(table, quality, 0.1, per_match) for per_match in (4.0, 1.0))
    assert (three.truth_index.tolist(), three.prediction_index.tolist()) == ([0, 1, 2], [2, 0, 1])
    assert (two.truth_index.tolist(), two.prediction_index.tolist()) == ([0, 1], [0, 1])
