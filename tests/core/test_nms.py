from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.nms import suppress

CUBE = np.array([0, 0, 0, 4, 4, 4], float)


def moved(z: float = 0, y: float = 0, x: float = 0) -> np.ndarray:
    return CUBE + np.array([z, y, x] * 2)


def brute_force(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, distance: float, iou: float) -> list[int]:
    """Greedy suppression, one pair of boxes and one axis at a time."""
    kept: list[int] = []
    for candidate in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        duplicate = False
        for better in kept:
            if classes[better] != classes[candidate]:
                continue
            squared, inter, volumes = 0.0, 1.0, [1.0, 1.0]
            for axis in range(3):
                (a0, a1), (b0, b1) = ((boxes[i][axis], boxes[i][axis + 3]) for i in (better, candidate))
                squared += (((a0 + a1) - (b0 + b1)) / ((a1 - a0) + (b1 - b0))) ** 2
                inter *= max(0.0, min(a1, b1) - max(a0, b0))
                volumes = [volumes[0] * (a1 - a0), volumes[1] * (b1 - b0)]
            like = max(volumes) < 8 * min(volumes)
            if (like and squared**0.5 < distance) or inter / (sum(volumes) - inter) > iou:
                duplicate = True
        if not duplicate:
            kept.append(candidate)
    return kept


@st.composite
def box_sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = draw(st.integers(0, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, size = random.integers(0, 6, (count, 3)), random.integers(1, 6, (count, 3))
    # Few different scores, so that ties occur.
    return np.concatenate([low, low + size], axis=1), random.integers(0, 5, count) / 4, random.integers(0, 2, count)


@settings(max_examples=150, deadline=None)
@given(box_sets(), st.sampled_from([0.0, 0.37, 0.9]), st.sampled_from([0.0, 0.23, 1.0]))
def test_agrees_with_brute_force(sets: tuple[np.ndarray, np.ndarray, np.ndarray], distance: float, iou: float) -> None:
    boxes, scores, classes = sets
    kept = suppress(boxes, scores, classes, distance=distance, iou=iou)
    assert kept.tolist() == brute_force(boxes, scores, classes, distance, iou)


@settings(max_examples=50, deadline=None)
@given(box_sets())
def test_a_second_pass_changes_nothing(sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    boxes, scores, classes = sets
    kept = suppress(boxes, scores, classes, distance=0.5, iou=0.3)
    again = suppress(boxes[kept], scores[kept], classes[kept], distance=0.5, iou=0.3)
    assert again.tolist() == list(range(len(kept)))


def test_no_boxes_give_none() -> None:
    kept = suppress([], [], [], distance=0.5, iou=0.3)
    assert kept.dtype == np.int64 and kept.shape == (0,)


def test_the_best_of_two_equal_boxes_stays() -> None:
    assert suppress([CUBE, CUBE], [0.1, 0.2], [0, 0], distance=0.5, iou=0.3).tolist() == [1]


def test_equal_scores_keep_their_order() -> None:
    assert suppress([CUBE, moved(20), CUBE], [0.5] * 3, [0] * 3, distance=0.5, iou=0.3).tolist() == [0, 1]


def test_only_the_best_stay_where_their_number_is_limited() -> None:
    boxes = [[0, 0, 0, 3, 3, 3], [1, 0, 0, 4, 3, 3], [9, 9, 9, 12, 12, 12], [20, 9, 9, 23, 12, 12]]
    scores = [0.8, 0.9, 0.5, 0.6]  # the first is a duplicate of the second
    assert suppress(boxes, scores, [0, 0, 0, 0], distance=0.5, iou=0.3, most=2).tolist() == [1, 3]


def test_classes_do_not_suppress_each_other() -> None:
    assert suppress([CUBE, CUBE], [0.2, 0.9], [0, 1], distance=0.5, iou=0.3).tolist() == [1, 0]


def test_distance_merges_tiny_duplicates_that_iou_cannot() -> None:
    tiny = np.array([[0, 0, 0, 3, 3, 3], [1, 1, 1, 4, 4, 4]], float)  # IoU 8/46, distance √3/3 = 0.58
    assert len(suppress(tiny, [0.9, 0.8], [0, 0], distance=0.0, iou=0.3)) == 2
    assert len(suppress(tiny, [0.9, 0.8], [0, 0], distance=0.6, iou=0.3)) == 1


@pytest.mark.parametrize(("shift", "left"), [(1.9, 1), (2.0, 2)])
def test_distance_is_measured_in_mean_sizes_and_excludes_its_limit(shift: float, left: int) -> None:
    assert len(suppress([CUBE, moved(x=shift)], [0.9, 0.8], [0, 0], distance=0.5, iou=1.0)) == left


def test_each_axis_has_its_own_unit() -> None:
    flat = np.array([[0, 0, 0, 2, 20, 20], [0, 8, 0, 2, 28, 20], [2, 0, 0, 4, 20, 20]], float)
    # 8 of 20 voxels along y is near; 2 of 2 along z is another lesion.
    assert suppress(flat, [0.9, 0.8, 0.7], [0] * 3, distance=0.5, iou=1.0).tolist() == [0, 2]


@pytest.mark.parametrize(("iou", "left"), [(0.59, 1), (0.6, 2)])
def test_iou_must_exceed_its_limit(iou: float, left: int) -> None:
    # Shifted by 1 of 4 voxels: 48 of 80 voxels in common, 0.6.
    assert len(suppress([CUBE, moved(z=1)], [0.9, 0.8], [0, 0], distance=0.0, iou=iou)) == left


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [CUBE, moved(z=1.5), moved(z=3)]
    assert suppress(chain, [0.9, 0.8, 0.7], [0] * 3, distance=0.5, iou=1.0).tolist() == [0, 2]
