from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.models.objectives.targets import LevelTargets, assign_levels, level_targets, volume_targets


def one_level(
    boxes: list[list[float]],
    cell: tuple[float, float, float] = (2, 2, 2),
    shape: tuple[int, int, int] = (8, 8, 8),
) -> LevelTargets:
    classes = np.zeros(len(boxes), np.int64)
    return level_targets([boxes], [classes], 1, shape, cell)


def test_volume_targets_come_from_the_instance_map() -> None:
    instances = np.zeros((4, 5, 6), np.uint16)
    instances[1, 2, 3:5] = 7
    instances[0, 0, 0] = 2
    targets = volume_targets(instances, np.array([0, 0, 1, 0, 0, 0, 0, 2]))
    assert targets.ids.tolist() == [2, 7] and targets.classes.tolist() == [1, 2]
    assert targets.boxes.tolist() == [[0, 0, 0, 1, 1, 1], [1, 2, 3, 2, 3, 5]]
    assert np.array_equal(targets.instances.numpy(), instances)


def test_a_volume_without_lesions_has_empty_targets() -> None:
    targets = volume_targets(np.zeros((4, 4, 4), np.uint8), np.zeros(1, np.int64))
    assert targets.ids.shape == (0,) and targets.boxes.shape == (0, 6) and targets.classes.shape == (0,)


def test_a_box_belongs_to_the_finest_level_whose_limits_in_millimetres_no_edge_exceeds() -> None:
    boxes = [[0, 0, 0, 2, 4, 4], [0, 0, 0, 3, 4, 4], [0, 0, 0, 1, 40, 1], [0, 0, 0, 1, 41, 1]]
    assert assign_levels(boxes, (5, 1, 1), [(10, 10, 10), (40, 40, 40)]).tolist() == [0, 1, 1, 2]
    assert assign_levels(boxes, (5, 1, 1), [(15, 4, 4), (15, 40, 40)]).tolist() == [0, 0, 1, 2]


def test_no_boxes_have_no_levels() -> None:
    assert assign_levels([], (1, 1, 1), [(10, 10, 10)]).shape == (0,)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_heatmap_is_exactly_one_at_the_cell_of_each_centre_and_nowhere_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.integers(0, 10, (4, 3))
    boxes = np.concatenate([low, low + random.integers(1, 7, (4, 3))], axis=1)
    cell = (1.0, 2.0, 2.7)
    targets = level_targets([boxes], [np.zeros(4, np.int64)], 1, (16, 8, 6), cell)
    expected = {tuple(math.floor((b[a] + b[a + 3]) / 2 / cell[a]) for a in range(3)) for b in boxes.tolist()}
    assert {tuple(index) for index in np.argwhere(targets.heatmap[0, 0].numpy() == 1).tolist()} == expected
    assert {tuple(row[1:]) for row in targets.cells.tolist()} == expected


def test_the_gaussian_has_a_sixth_of_the_size_as_its_standard_deviation_on_each_axis() -> None:
    # 12, 24 and 36 voxels in cells of 2: 6, 12 and 18 cells, so 1, 2 and 3 cells.
    heatmap = one_level([[10, 4, 2, 22, 28, 38]], shape=(16, 16, 20)).heatmap[0, 0]
    for sigma, (dz, dy, dx) in {1: (1, 0, 0), 2: (0, 1, 0), 3: (0, 0, 1)}.items():
        assert heatmap[8 + dz, 8 + dy, 10 + dx].item() == pytest.approx(math.exp(-0.5 / sigma**2))
    assert heatmap[9, 9, 11].item() == pytest.approx(math.exp(-0.5 * (1 + 1 / 4 + 1 / 9)))


def test_the_standard_deviation_is_at_least_half_a_cell() -> None:
    heatmap = one_level([[8, 8, 8, 9, 9, 9]]).heatmap[0, 0]
    assert heatmap[5, 4, 4].item() == pytest.approx(math.exp(-2))


def test_beyond_three_standard_deviations_is_background() -> None:
    heatmap = one_level([[8, 8, 8, 9, 9, 9]]).heatmap[0, 0]
    assert heatmap[6, 4, 4].item() > 0 and heatmap[7, 4, 4].item() == 0


def test_the_larger_value_counts_if_gaussians_overlap() -> None:
    both = one_level([[4, 4, 0, 10, 10, 6], [4, 4, 6, 10, 10, 12]]).heatmap
    first, second = (one_level([box]).heatmap for box in ([4, 4, 0, 10, 10, 6], [4, 4, 6, 10, 10, 12]))
    assert np.array_equal(both.numpy(), np.maximum(first.numpy(), second.numpy()))


@pytest.mark.parametrize("turn", [False, True])
def test_the_smaller_of_two_lesions_with_centres_in_one_cell_gets_the_cell(turn: bool) -> None:
    boxes = [[8, 8, 8, 9, 9, 9], [6, 6, 6, 11, 11, 11]]
    targets = one_level(boxes[::-1] if turn else boxes)
    assert targets.cells.tolist() == [[0, 4, 4, 4]]
    assert np.allclose(targets.log_size.numpy(), math.log(0.5))


def test_sizes_and_offsets_are_in_cells_per_axis() -> None:
    targets = one_level([[2, 4, 3, 5, 8, 9]], cell=(1, 2, 4))
    assert targets.cells.tolist() == [[0, 3, 3, 1]]
    assert np.allclose(targets.log_size.numpy(), [[math.log(3), math.log(2), math.log(1.5)]])
    assert np.allclose(targets.offset.numpy(), [[0, -0.5, 0]])


def test_each_class_and_each_volume_has_its_own_map() -> None:
    boxes = [[[0, 0, 0, 2, 2, 2]], [[4, 4, 4, 6, 6, 6]]]
    targets = level_targets(boxes, [np.array([1]), np.array([0])], 2, (4, 4, 4), (2, 2, 2))
    assert np.argwhere(targets.heatmap.numpy() == 1).tolist() == [[0, 1, 0, 0, 0], [1, 0, 2, 2, 2]]
    assert targets.cells.tolist() == [[0, 0, 0, 0], [1, 2, 2, 2]]


def test_a_batch_without_lesions_has_no_cells_and_an_empty_map() -> None:
    targets = level_targets([[], []], [np.zeros(0, np.int64)] * 2, 1, (4, 4, 4), (2, 2, 2))
    assert targets.cells.shape == (0, 4) and targets.log_size.shape == (0, 3) and targets.offset.shape == (0, 3)
    assert targets.heatmap.shape == (2, 1, 4, 4, 4) and not targets.heatmap.any()
