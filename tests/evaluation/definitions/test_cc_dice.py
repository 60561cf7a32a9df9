from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.evaluation.definitions.cc_dice import cc_dice, cc_dice_by_lesion

SPACING = (3.0, 1.0, 0.7)
maps = arrays(np.int64, (2, 4, 5), elements=st.sampled_from([0, 0, 0, 0, 2, 5, 300]))
masks = arrays(np.bool_, (2, 4, 5))


def brute_force(truth: npt.NDArray[Any], prediction: npt.NDArray[Any]) -> list[float]:
    """Compare every predicted voxel with every lesion voxel."""
    scale = np.array(SPACING)
    ids = [int(value) for value in np.unique(truth) if value]
    shares = dict.fromkeys(ids, 0.0)
    for voxel in np.argwhere(prediction):
        distance = {
            number: min(float(np.linalg.norm((voxel - other) * scale)) for other in np.argwhere(truth == number))
            for number in ids
        }
        nearest = [number for number in ids if distance[number] <= min(distance.values()) + 1e-9]
        for number in nearest:
            shares[number] += 1 / len(nearest)
    return [
        2 * np.count_nonzero((truth == number) & prediction) / (np.count_nonzero(truth == number) + shares[number])
        for number in ids
    ]


@given(maps, masks)
@settings(deadline=None, max_examples=60)
def test_the_result_equals_brute_force(truth: npt.NDArray[np.int64], prediction: npt.NDArray[np.bool_]) -> None:
    assert cc_dice_by_lesion(truth, prediction, SPACING).tolist() == pytest.approx(brute_force(truth, prediction))


@given(maps, masks)
@settings(deadline=None, max_examples=60)
def test_numbers_and_directions_do_not_matter(truth: npt.NDArray[np.int64], prediction: npt.NDArray[np.bool_]) -> None:
    flipped = cc_dice((truth * 7)[:, ::-1, ::-1], prediction[:, ::-1, ::-1], SPACING)
    assert cc_dice(truth, prediction, SPACING) == pytest.approx(flipped)


def test_a_voxel_between_two_lesions_counts_half_for_each() -> None:
    truth = np.array([[[1, 0, 2]]])
    assert cc_dice_by_lesion(truth, np.array([[[1, 1, 1]]]), SPACING).tolist() == pytest.approx([2 / 2.5, 2 / 2.5])


def test_ties_between_more_lesions_than_one_query_returns_are_shared_by_all() -> None:
    # Twelve lesions on a circle of radius 5 around the predicted voxel: its share of each is a twelfth.
    truth = np.zeros((1, 11, 11), np.int64)
    corners = [(y, x) for y in range(-5, 6) for x in range(-5, 6) if y * y + x * x == 25]
    assert len(corners) == 12
    for number, (y, x) in enumerate(corners, start=1):
        truth[0, 5 + y, 5 + x] = number
    prediction = truth > 0
    prediction[0, 5, 5] = True
    values = cc_dice_by_lesion(truth, prediction, (1.0, 1.0, 1.0))
    assert values.tolist() == pytest.approx([2 / (2 + 1 / 12)] * 12)


def test_without_lesions_only_an_empty_prediction_is_correct() -> None:
    empty, some = np.zeros((1, 2, 2), np.int64), np.ones((1, 2, 2), np.int64)
    assert (cc_dice(empty, empty, SPACING), cc_dice(empty, some, SPACING), cc_dice(some, empty, SPACING)) == (1, 0, 0)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        cc_dice(np.zeros((1, 1, 1), np.int64), np.zeros((1, 1, 2)), SPACING)
