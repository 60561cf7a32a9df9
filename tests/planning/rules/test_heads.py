from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.backbone import (
    stage1_plan,
)
from detseg3d.planning.rules.heads import LevelChoice, assign_levels, choose_levels


def levels(edges: list[float]) -> LevelChoice:
    """Return the levels of cubic lesions, for cells of 2, 4 and 8 mm and voxels of 1 mm."""
    return choose_levels([(edge,) * 3 for edge in edges], [(2, 2, 2)] * 3, (1, 1, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("slices", "thickness"), [(1, 1.0), (1, 50.0), (1, 0.01), (3, 8.0), (5, 1.0), (8, 1.0)])
def test_the_levels_of_a_thin_volume_follow_from_its_plane(axis: int, slices: int, thickness: float) -> None:
    edges = np.array([6.0] * 20 + [24.0] * 20 + [60.0] * 20)
    shape, spacing, extents = [320, 320, 320], [1.0, 1.0, 1.0], np.tile(edges[:, None], 3)
    shape[axis], spacing[axis], extents[:, axis] = slices, thickness, slices * thickness
    plan = stage1_plan(tuple(spacing), shape, extents)
    plane = [other for other in range(3) if other != axis]
    for stage in plan.head_stages:
        cell = np.array(plan.cumulative_stride(stage)) * spacing
        assert cell[plane[0]] == cell[plane[1]]
    taken = np.bincount(assign_levels(extents, plan.level_max_sizes), minlength=len(plan.head_stages))
    assert taken.tolist() == [20, 20, 20]
    assert [plan.cumulative_stride(stage)[plane[0]] for stage in plan.head_stages] == [2, 4, 8]


def test_each_level_takes_the_lesions_that_the_finer_level_leaves() -> None:
    choice = levels([3] * 100 + [16] * 10 + [17] * 10 + [33] * 10)
    assert choice == LevelChoice((0, 1, 2), ((16.0,) * 3, (32.0,) * 3), (110, 10, 10))


def test_level_without_lesions_is_dropped() -> None:
    choice = levels([3] * 100 + [40] * 10)
    assert choice == LevelChoice((0, 2), ((16.0,) * 3,), (100, 10))


def test_a_coarse_level_with_hardly_any_lesion_leaves_its_lesions_to_the_finer_level() -> None:
    assert levels([3] * 100 + [40] * 4) == LevelChoice((0,), (), (104,))
    assert levels([3] * 2000 + [40] * 9).head_stages == (0,)


def test_few_small_lesions_keep_their_level() -> None:
    assert levels([3] + [20] * 100).head_stages == (0, 1)


def test_few_lesions_that_suit_the_next_level_join_it() -> None:
    assert levels([15] + [20] * 100) == LevelChoice((1,), (), (101,))


def test_huge_lesions_belong_to_the_coarsest_level() -> None:
    assert levels([500] * 10).head_stages == (2,)


def test_without_lesions_there_is_one_level() -> None:
    assert levels([]) == LevelChoice((0,), (), (0,))


@given(st.lists(st.floats(0.5, 300), max_size=60), st.floats(0.5, 6))
def test_levels_take_every_lesion_and_no_lesion_falls_below_two_cells_but_on_the_finest_needed(
    edges: list[float], cell: float
) -> None:
    cells = [cell, 2 * cell, 4 * cell, 8 * cell]
    choice = choose_levels([(edge,) * 3 for edge in edges], [(2, 2, 2)] * 4, (cell / 2,) * 3)
    assert sum(choice.lesions) == len(edges)
    assert list(choice.upper_sizes) == sorted(choice.upper_sizes)
    if edges and choice.head_stages[0] > 0:
        first = cells[choice.head_stages[0] - 1]
        assert min(edges) >= 2 * cells[choice.head_stages[0]] * (1 - 1e-6) or min(edges) > 8 * first * (1 - 1e-6)


def test_bounds_agree_with_the_levels_that_training_assigns() -> None:
    from detseg3d.models.objectives.targets import assign_levels

    edges = np.array([2.0, 15.9, 16.0, 16.1, 32.0, 33.0] * 5)
    boxes = np.column_stack([np.zeros((len(edges), 3)), edges, edges / 2, edges / 3])
    choice = choose_levels(boxes[:, 3:], [(2, 2, 2)] * 3, (1, 1, 1))
    counts = np.bincount(assign_levels(boxes, (1, 1, 1), choice.upper_sizes), minlength=len(choice.head_stages))
    assert tuple(counts) == choice.lesions
