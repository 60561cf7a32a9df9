from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.nms import Suppression, similar_pairs, suppress

CUBE = np.array([0, 0, 0, 4, 4, 4], float)


def moved(z: float = 0, y: float = 0, x: float = 0) -> np.ndarray:
    return CUBE + np.array([z, y, x] * 2)


def brute_force(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, distance: float, iou: float) -> list[int]:
    """Suppress boxes with a simple loop over pairs of boxes and axes."""
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
    kept = suppress(boxes, scores, classes, Suppression(distance=distance, iou=iou))
    assert kept.tolist() == brute_force(boxes, scores, classes, distance, iou)


@settings(max_examples=50, deadline=None)
@given(box_sets())
def test_a_second_suppression_changes_nothing(sets: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    boxes, scores, classes = sets
    kept = suppress(boxes, scores, classes, Suppression(distance=0.5, iou=0.3))
    again = suppress(boxes[kept], scores[kept], classes[kept], Suppression(distance=0.5, iou=0.3))
    assert again.tolist() == list(range(len(kept)))


def test_no_boxes_give_no_groups() -> None:
    kept = suppress([], [], [], Suppression(distance=0.5, iou=0.3))
    assert kept.dtype == np.int64 and kept.shape == (0,)


def test_the_best_of_two_equal_boxes_stays() -> None:
    assert suppress([CUBE, CUBE], [0.1, 0.2], [0, 0], Suppression(distance=0.5, iou=0.3)).tolist() == [1]


def test_equal_scores_keep_their_order() -> None:
    assert suppress([CUBE, moved(20), CUBE], [0.5] * 3, [0] * 3, Suppression(distance=0.5, iou=0.3)).tolist() == [0, 1]


def test_a_limit_keeps_the_best_boxes() -> None:
    boxes = [[0, 0, 0, 3, 3, 3], [1, 0, 0, 4, 3, 3], [9, 9, 9, 12, 12, 12], [20, 9, 9, 23, 12, 12]]
    scores = [0.8, 0.9, 0.5, 0.6]  # the first is a duplicate of the second
    assert suppress(boxes, scores, [0, 0, 0, 0], Suppression(distance=0.5, iou=0.3, limit=2)).tolist() == [1, 3]


def test_classes_do_not_suppress_each_other() -> None:
    assert suppress([CUBE, CUBE], [0.2, 0.9], [0, 1], Suppression(distance=0.5, iou=0.3)).tolist() == [1, 0]


def test_distance_merges_tiny_duplicates_that_iou_cannot() -> None:
    tiny = np.array([[0, 0, 0, 3, 3, 3], [1, 1, 1, 4, 4, 4]], float)  # IoU 8/46, distance √3/3 = 0.58
    assert len(suppress(tiny, [0.9, 0.8], [0, 0], Suppression(distance=0.0, iou=0.3))) == 2
    assert len(suppress(tiny, [0.9, 0.8], [0, 0], Suppression(distance=0.6, iou=0.3))) == 1


@pytest.mark.parametrize(("shift", "left"), [(1.9, 1), (2.0, 2)])
def test_distance_is_measured_in_mean_sizes_and_excludes_its_limit(shift: float, left: int) -> None:
    assert len(suppress([CUBE, moved(x=shift)], [0.9, 0.8], [0, 0], Suppression(distance=0.5, iou=1.0))) == left


def test_each_axis_has_its_own_unit() -> None:
    flat = np.array([[0, 0, 0, 2, 20, 20], [0, 8, 0, 2, 28, 20], [2, 0, 0, 4, 20, 20]], float)
    # 8 of 20 voxels along y is near; 2 of 2 along z is another lesion.
    assert suppress(flat, [0.9, 0.8, 0.7], [0] * 3, Suppression(distance=0.5, iou=1.0)).tolist() == [0, 2]


@pytest.mark.parametrize(("iou", "left"), [(0.59, 1), (0.6, 2)])
def test_iou_must_exceed_its_limit(iou: float, left: int) -> None:
    # Shifted by 1 of 4 voxels: 48 of 80 voxels in common, 0.6.
    assert len(suppress([CUBE, moved(z=1)], [0.9, 0.8], [0, 0], Suppression(distance=0.0, iou=iou))) == left


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = [CUBE, moved(z=1.5), moved(z=3)]
    assert suppress(chain, [0.9, 0.8, 0.7], [0] * 3, Suppression(distance=0.5, iou=1.0)).tolist() == [0, 2]


@pytest.mark.parametrize(("count", "most"), [(255, None), (300, None), (900, None), (900, 100)])
def test_many_boxes_agree_with_brute_force(count: int, most: int | None) -> None:
    # Enough boxes for the spatial index, of all sizes and crowded; a few span the whole volume.
    random = np.random.default_rng(count)
    sizes = np.exp(random.uniform(0, 3, (count, 3)))
    sizes[:3] = 60
    centers = random.uniform(0, 60, (count, 3))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1)
    scores, classes = random.integers(0, 50, count) / 50, random.integers(0, 2, count)
    kept = suppress(boxes, scores, classes, Suppression(distance=0.5, iou=0.3, limit=most))
    assert kept.tolist() == brute_force(boxes, scores, classes, 0.5, 0.3)[:most]


@pytest.mark.parametrize(("edge", "left"), [(4, 1), (2.1, 1), (1.9, 2), (0.5, 2)])
def test_only_boxes_of_like_volume_are_duplicates_by_distance(edge: float, left: int) -> None:
    inside = [2 - edge / 2] * 3 + [2 + edge / 2] * 3
    assert len(suppress([CUBE, inside], [0.9, 0.8], [0, 0], Suppression(distance=0.5, iou=1.0))) == left


@pytest.mark.parametrize("count", [20, 400])
def test_similar_pairs_are_the_pairs_in_which_one_box_suppresses_the_other(count: int) -> None:
    random = np.random.default_rng(count)
    low, size = random.uniform(0, 20, (count, 3)), np.exp(random.uniform(0, 2, (count, 3)))
    boxes, classes = np.concatenate([low, low + size], axis=1), random.integers(0, 2, count)
    first, second, similarity = similar_pairs(boxes, classes, distance=0.5, iou=0.3)
    found = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(first) == len(similarity.iou)
    assert np.all((similarity.distance < 0.5) | (similarity.iou > 0.3))
    for a in range(count):
        for b in range(a + 1, count) if count < 100 else random.integers(a + 1, count + 1, 5):
            if b < count:
                alone = suppress(boxes[[a, b]], [1, 1], classes[[a, b]], Suppression(distance=0.5, iou=0.3))
                assert ((a, b) in found) == (len(alone) == 1)
