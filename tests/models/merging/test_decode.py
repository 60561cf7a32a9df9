from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.nms import Suppression
from detseg3d.models.merging.decode import DenseLevel, Detections, decode, dense_levels, peaks
from detseg3d.models.networks.detector import LevelOutput
from detseg3d.models.objectives.targets import level_targets
from tests.models.factory import make_detections

DEFAULTS: dict[str, Any] = {"threshold": 0.5, "suppression": Suppression(0.5, 0.3, limit=100)}


def ideal_level(
    boxes: np.ndarray,
    cell: Sequence[float],
    shape: Sequence[int],
    classes: Sequence[int] | None = None,
    num_classes: int = 1,
) -> DenseLevel:
    """Return the output of a perfect network: the targets."""
    labels = np.zeros(len(boxes), np.int64) if classes is None else np.asarray(classes, np.int64)
    targets = level_targets([boxes], [labels], num_classes, shape, cell)
    level = DenseLevel(targets.heatmap[0], torch.zeros(3, *shape), torch.zeros(3, *shape))
    for (_, z, y, x), log_size, offset in zip(targets.cells.tolist(), targets.log_size, targets.offset, strict=True):
        level.log_size[:, z, y, x], level.offset[:, z, y, x] = log_size, offset
    return level


def empty_level(cells: Sequence[int], num_classes: int = 1) -> DenseLevel:
    return DenseLevel(torch.zeros(num_classes, *cells), torch.zeros(3, *cells), torch.zeros(3, *cells))


def sort(boxes: np.ndarray) -> np.ndarray:
    return boxes[np.lexsort(boxes.T[::-1])]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1, 1), (2, 2, 2), (1, 2, 2), (1.0, 3.3, 2.5)]))
def test_ideal_maps_are_decoded_to_the_planted_boxes(seed: int, cell: tuple[float, float, float]) -> None:
    random = np.random.default_rng(seed)
    # One box in the middle of each chosen block of 12 voxels: apart from each other, whatever the cells.
    places = np.argwhere(random.random((2, 3, 2)) < 0.5) * 12
    sizes = random.integers(1, 7, (len(places), 3))
    low = places + random.integers(3, 6, (len(places), 3))
    boxes = np.concatenate([low, low + sizes], axis=1).astype(np.float32)
    shape = (24, 36, 24)
    cells = [int(np.ceil(n / c)) for n, c in zip(shape, cell, strict=True)]
    found = decode([ideal_level(boxes, cell, cells)], [cell], shape, **DEFAULTS)
    assert np.allclose(sort(found.boxes.round(3)), sort(boxes), atol=2e-3)
    assert np.all(found.scores == 1)


def test_a_centre_lies_at_most_one_cell_from_the_middle_of_its_peak() -> None:
    level = empty_level((8, 8, 8))
    level.probability[0, 2, 2, 2], level.offset[:, 2, 2, 2] = 0.9, 2.7
    [box] = decode([level], [(1, 1, 1)], (8, 8, 8), **DEFAULTS).boxes
    assert (box[:3] + box[3:]) / 2 == pytest.approx([3.5] * 3)


def test_levels_are_decoded_with_their_own_cells() -> None:
    small, large = np.array([[2, 2, 2, 4, 4, 4]], np.float32), np.array([[8, 8, 8, 20, 24, 22]], np.float32)
    levels = [ideal_level(small, (2, 2, 2), (16, 16, 16)), ideal_level(large, (4, 4, 4), (8, 8, 8))]
    found = decode(levels, [(2, 2, 2), (4, 4, 4)], (32, 32, 32), **DEFAULTS)
    assert np.allclose(sort(found.boxes), np.concatenate([small, large]), atol=1e-4)


def test_each_class_has_its_own_detections() -> None:
    boxes = np.array([[2, 2, 2, 4, 4, 4], [10, 10, 10, 12, 12, 12]], np.float32)
    level = ideal_level(boxes, (2, 2, 2), (8, 8, 8), classes=[1, 0], num_classes=2)
    found = decode([level], [(2, 2, 2)], (16, 16, 16), **DEFAULTS)
    assert {(int(c), float(b[0])) for c, b in zip(found.classes, found.boxes, strict=True)} == {(1, 2.0), (0, 10.0)}


def test_detections_are_sorted_by_score() -> None:
    level = empty_level((8, 8, 8))
    level.probability[0, 1, 1, 1], level.probability[0, 5, 5, 5] = 0.6, 0.9
    assert decode([level], [(2, 2, 2)], (16, 16, 16), **DEFAULTS).scores.tolist() == pytest.approx([0.9, 0.6])


def test_peaks_in_the_padding_are_dropped() -> None:
    level = empty_level((4, 4, 4))
    level.probability[0, 3, 1, 1] = 0.9  # voxels 6 and 7 of a volume that ends at 6
    assert len(decode([level], [(2, 2, 2)], (6, 8, 8), **DEFAULTS)) == 0


@pytest.mark.parametrize(
    ("length", "cell", "offset", "box"),
    [
        (15, 7, 0.0, (13.5, 15)),  # the last cell is half padding: its middle is the volume's end
        (16, 7, 0.6, (14.5, 16)),  # a regression that leaves the volume
        (16, 0, -0.8, (0, 1.5)),
        (1, 0, 0.0, (0, 1)),  # a single slice in a cell of two
    ],
)
def test_a_peak_inside_is_kept_if_its_centre_is_regressed_to_the_border(
    length: int, cell: int, offset: float, box: tuple[float, float]
) -> None:
    level = empty_level((8, 8, 8))
    level.probability[0, cell, 4, 4] = 0.9
    level.offset[0] = offset  # in cells of 2 voxels
    found = decode([level], [(2, 2, 2)], (length, 16, 16), **DEFAULTS)
    assert found.boxes.shape == (1, 6)
    assert (found.boxes[0, 0], found.boxes[0, 3]) == pytest.approx(box)


def test_boxes_are_clipped_to_the_volume() -> None:
    level = empty_level((4, 4, 4))
    level.probability[0, 0, 3, 1] = 0.9
    level.log_size[:] = np.log(3)
    found = decode([level], [(2, 2, 2)], (8, 8, 8), **DEFAULTS)
    assert np.allclose(found.boxes, [[0, 4, 0, 4, 8, 6]], atol=1e-5)


def test_only_the_best_candidates_are_kept() -> None:
    level = empty_level((4, 4, 16))
    for index in range(5):
        level.probability[0, 2, 2, 3 * index + 1] = 0.5 + 0.1 * index
    found = decode([level], [(2, 2, 2)], (8, 8, 32), **{**DEFAULTS, "suppression": Suppression(0.5, 0.3, limit=2)})
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_duplicates_take_no_place_of_a_weak_lesion_elsewhere() -> None:
    level = empty_level((4, 4, 32))
    for index, score in enumerate([0.9, 0.89, 0.88]):
        level.probability[0, 2, 2, 2 * index + 1] = score
    level.probability[0, 2, 2, 30] = 0.5
    level.log_size[:, 2, 2, :10] = np.log(12.0)
    found = decode([level], [(2, 2, 2)], (8, 8, 64), **{**DEFAULTS, "suppression": Suppression(0.5, 0.3, limit=2)})
    assert found.scores.tolist() == pytest.approx([0.9, 0.5])


def test_neighbouring_duplicates_are_suppressed() -> None:
    level = empty_level((8, 8, 8))
    level.probability[0, 4, 4, 4], level.probability[0, 4, 4, 6] = 0.9, 0.8
    level.log_size[:] = np.log(6.0)  # a third of the size apart
    assert decode([level], [(2, 2, 2)], (16, 16, 16), **DEFAULTS).scores.tolist() == pytest.approx([0.9])


def test_a_wild_regression_gives_a_finite_box() -> None:
    level = empty_level((4, 4, 4))
    level.probability[0, 1, 1, 1] = 0.9
    level.log_size[:], level.offset[:] = 1000, 50
    found = decode([level], [(2, 2, 2)], (8, 8, 8), **DEFAULTS)
    assert np.allclose(found.boxes, [[0, 0, 0, 8, 8, 8]])


def test_nothing_found_gives_empty_detections() -> None:
    found = decode([empty_level((4, 4, 4)), empty_level((2, 2, 2))], [(2,) * 3, (4,) * 3], (8, 8, 8), **DEFAULTS)
    assert found.boxes.shape == (0, 6) and len(found) == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipped_maps_give_flipped_boxes(axis: int) -> None:
    boxes = np.array([[1, 3, 5, 4, 5, 9], [10, 9, 8, 12, 14, 11]], np.float32)
    level = ideal_level(boxes, (2, 2, 2), (8, 8, 8))
    offset = level.offset.flip(axis + 1)
    offset[axis] *= -1
    flipped = DenseLevel(level.probability.flip(axis + 1), level.log_size.flip(axis + 1), offset)
    wanted = boxes.copy()
    wanted[:, axis], wanted[:, axis + 3] = 16 - boxes[:, axis + 3], 16 - boxes[:, axis]
    found = decode([flipped], [(2, 2, 2)], (16, 16, 16), **DEFAULTS)
    assert np.allclose(sort(found.boxes.round(3)), sort(wanted), atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_peaks_agree_with_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    probability = random.integers(0, 6, (2, 4, 3, 5)) / 5
    wanted = []
    for k, *cell in np.ndindex(probability.shape):
        value = probability[(k, *cell)]
        beside = [
            probability[(k, *other)]
            for other in np.ndindex(probability.shape[1:])
            if sum(abs(a - b) for a, b in zip(cell, other, strict=True)) == 1
        ]
        if value >= 0.6 and value >= max(beside):
            wanted.append([k, *cell])
    assert peaks(torch.from_numpy(probability), 0.6).tolist() == wanted


def test_a_weak_lesion_is_found_diagonally_beside_a_strong_lesion() -> None:
    probability = torch.zeros(1, 6, 6, 6)
    probability[0, 2, 2, 2], probability[0, 2, 3, 3] = 0.9, 0.4
    level = DenseLevel(probability, torch.zeros(3, 6, 6, 6), torch.zeros(3, 6, 6, 6))
    found = decode([level], [(2, 2, 2)], (12, 12, 12), **{**DEFAULTS, "threshold": 0.3})
    assert found.boxes.tolist() == [[4, 4, 4, 6, 6, 6], [4, 6, 6, 6, 8, 8]]


def test_dense_levels_are_detached_probabilities_of_one_volume() -> None:
    logits = torch.zeros(2, 1, 2, 2, 2, requires_grad=True)
    output = LevelOutput(logits, torch.ones(2, 3, 2, 2, 2), torch.ones(2, 3, 2, 2, 2))
    level = dense_levels([output], 1)[0]
    assert level.probability.shape == (1, 2, 2, 2) and not level.probability.requires_grad
    assert level.probability.unique().tolist() == [0.5]


def test_indexing_keeps_detections_aligned() -> None:
    found = make_detections([[0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3]], [0.1, 0.9], [0, 1])[np.array([1])]
    assert (found.boxes[0, 0], found.scores.tolist(), found.classes.tolist()) == (2, pytest.approx([0.9]), [1])


def test_detections_refuse_to_be_iterated() -> None:
    with pytest.raises(TypeError, match=r"iterate over \.boxes"):
        list(make_detections([], []))


def test_detections_of_unequal_length_are_refused() -> None:
    with pytest.raises(AssertionError):
        Detections(np.zeros((2, 6), np.float32), np.zeros(1, np.float32), np.zeros(2, np.int64))


def test_two_classes_in_one_cell_have_one_box_each() -> None:
    boxes = np.array([[6, 6, 6, 10, 10, 10], [2, 3, 4, 14, 13, 12]], np.float32)  # a core within its oedema
    targets = level_targets([boxes], [np.array([1, 0])], 2, (4, 4, 4), (4, 4, 4), boxes_per_class=True)
    sizes, offsets = torch.zeros(2, 3, 4, 4, 4), torch.zeros(2, 3, 4, 4, 4)
    z, y, x = targets.cells[:, 1:].T
    sizes[targets.box, :, z, y, x], offsets[targets.box, :, z, y, x] = targets.log_size, targets.offset
    level = DenseLevel(targets.heatmap[0], sizes.flatten(0, 1), offsets.flatten(0, 1))
    found = decode([level], [(4, 4, 4)], (16, 16, 16), **DEFAULTS)
    for label, box in ((1, boxes[0]), (0, boxes[1])):
        np.testing.assert_allclose(found.boxes[found.classes == label], box[None], atol=1e-4)
