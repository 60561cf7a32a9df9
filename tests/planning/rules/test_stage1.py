from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules import stage1 as rules
from detseg3d.planning.rules.stage1 import (
    choose_fine_spacing,
    choose_levels,
    choose_stem,
    choose_strides,
    coarser_spacings,
    planned_volumes,
    stage1_plan,
)

SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)
SHAPES = st.tuples(*[st.integers(1, 400)] * 3)


def test_fine_spacing_is_the_median_of_each_axis() -> None:
    assert choose_fine_spacing([[1, 2, 2], [2, 1, 3], [3, 3, 1]]) == (2, 2, 2)


def test_axis_over_three_times_coarser_takes_its_10th_percentile() -> None:
    assert choose_fine_spacing([[6, 1, 1]] * 8 + [[2, 1, 1]] * 2) == (2, 1, 1)


def test_axis_up_to_three_times_coarser_keeps_its_median() -> None:
    assert choose_fine_spacing([[3, 1, 1]] * 8 + [[2, 1, 1]] * 2) == (3, 1, 1)


def test_10th_percentile_is_a_spacing_that_occurs() -> None:
    assert choose_fine_spacing([[6, 1, 1]] * 9 + [[2, 1, 1]]) == (2, 1, 1)


def test_10th_percentile_does_not_go_below_the_next_axis() -> None:
    assert choose_fine_spacing([[6, 1, 1]] * 8 + [[0.5, 1, 1]] * 2) == (1, 1, 1)


def test_noise_of_single_precision_is_rounded_away() -> None:
    assert choose_fine_spacing([[3.0000020265579224, 0.71875, 0.71875]]) == (3.0, 0.71875, 0.71875)


def test_single_slices_of_any_thickness_stay_single() -> None:
    spacings, shapes = [[1, 1, 1], [5, 1, 1], [5, 1, 1], [50, 1, 1]], [[1, 300, 300]] * 4
    assert choose_fine_spacing(spacings, shapes) == (50, 1, 1)
    assert choose_fine_spacing(spacings, [[2, 300, 300], *shapes[1:]]) == (1, 1, 1)


def test_the_planned_volume_holds_the_largest_of_few_scans() -> None:
    assert planned_volumes([[24, 100, 50], [20, 120, 50]])[0].shape == (24, 120, 50)


def test_the_planned_volume_is_the_99th_percentile() -> None:
    assert planned_volumes([[10, 10, 10]] * 97 + [[20, 10, 10]] * 3)[0].shape == (20, 10, 10)


def test_the_planned_volume_ignores_one_in_three_hundred() -> None:
    assert planned_volumes([[10, 10, 10]] * 299 + [[20, 10, 10]])[0].shape == (10, 10, 10)


@pytest.mark.parametrize(("scans", "outliers"), [(9, 0), (10, 1), (60, 1)])
def test_one_scan_far_larger_than_nine_others_is_not_planned_for(scans: int, outliers: int) -> None:
    largest = planned_volumes([[10, 10, 10]] * (scans - 1) + [[31, 10, 10]])[0]
    assert (largest.shape, largest.outliers) == ((10 if outliers else 31, 10, 10), outliers)


def test_a_scan_of_three_times_the_voxels_is_no_outlier() -> None:
    assert planned_volumes([[10, 10, 10]] * 59 + [[30, 10, 10]])[0].shape == (30, 10, 10)


def test_many_large_scans_are_no_outliers() -> None:
    volumes = planned_volumes([[10, 10, 10]] * 30 + [[100, 20, 20]] * 30)
    assert [(volume.percentile, volume.shape) for volume in volumes] == [(100, (100, 20, 20)), (50, (10, 10, 10))]


def test_a_scan_is_cut_that_has_over_a_tenth_more_voxels() -> None:
    volume = rules.PlannedVolume((10, 10, 10))
    assert not volume.cuts((11, 10, 10)) and volume.cuts((12, 10, 10))


@given(SPACINGS)
def test_coarser_spacings_never_fall_below_the_fine_one(fine: tuple[float, float, float]) -> None:
    spacings = coarser_spacings(fine, (100, 100, 100))
    assert spacings[0] == fine
    assert all(d >= f for spacing in spacings for d, f in zip(spacing, fine, strict=True))
    voxels = [1 / math.prod(spacing) for spacing in spacings]
    assert voxels == sorted(voxels, reverse=True)


def test_fine_axes_give_way_before_coarse_ones() -> None:
    spacing = next(s for s in coarser_spacings((3, 0.7, 0.7), (100, 400, 400)) if s[1] > 1.4)
    assert spacing[0] == 3
    assert spacing[1] == spacing[2]


@pytest.mark.parametrize("slices", [1, 7])
def test_slices_are_never_made_thicker(slices: int) -> None:
    assert {spacing[0] for spacing in coarser_spacings((0.1, 1, 1), (slices, 400, 400))} == {0.1}
    assert coarser_spacings((0.1, 1, 1), (slices, 400, 400))[1] == (0.1, 1.05, 1.05)


def finest(spacing: np.ndarray, size: np.ndarray) -> float:
    """Of the axes that can be pooled; of all, where none can."""
    return float((spacing[size >= 8] if (size >= 8).any() else spacing).min())


@given(SPACINGS, SHAPES)
def test_strides_follow_the_rule(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    result = choose_strides(spacing, shape, choose_stem(spacing, shape, None))
    current, size = np.array(spacing), np.array(shape)
    assert 1 <= len(result.strides) <= rules.MAX_STAGES
    for stride, kernel in zip(result.strides, result.kernels, strict=True):
        ratio = current / finest(current, size)
        for axis in range(3):
            assert kernel[axis] == (3 if ratio[axis] <= 2 * (1 + 1e-6) and size[axis] > 1 else 1)
            if stride[axis] == 2:
                assert ratio[axis] <= 2 * (1 + 1e-6)
                assert size[axis] >= 8
        current, size = current * stride, -(-size // np.array(stride))
    assert tuple(size) == result.shape
    assert (
        len(result.strides) == rules.MAX_STAGES
        or max(size) <= 12
        or not any(r <= 2 * (1 + 1e-6) and n >= 8 for r, n in zip(current / finest(current, size), size, strict=True))
    )


def test_isotropic_head_scan_gets_four_stages() -> None:
    assert choose_strides((1, 1, 1), (96, 160, 128), (2, 2, 2)).strides == ((2, 2, 2),) * 4


def test_whole_ct_gets_five_stages() -> None:
    assert len(choose_strides((1, 1, 1), (300, 512, 512), (2, 2, 2)).strides) == 5


def test_single_slice_is_never_pooled_across() -> None:
    result = choose_strides((1, 1, 1), (1, 200, 200), choose_stem((1, 1, 1), (1, 200, 200), None))
    assert all(stride[0] == 1 for stride in result.strides)


def test_a_thin_volume_has_as_many_stages_as_its_plane_asks_for() -> None:
    for depth in (1, 4, 7):
        shape = (depth, 256, 256)
        result = choose_strides((1, 1, 1), shape, choose_stem((1, 1, 1), shape, None))
        assert result.strides == ((1, 2, 2),) * 5
        assert all(kernel[1:] == (3, 3) for kernel in result.kernels)


def test_stem_is_1_only_for_tiny_volumes_with_tiny_lesions() -> None:
    assert choose_stem((1, 1, 1), (60, 60, 60), (3, 3, 3)) == (1, 1, 1)
    assert choose_stem((1, 1, 1), (64, 60, 60), (3, 3, 3)) == (2, 2, 2)
    assert choose_stem((1, 1, 1), (60, 60, 60), (4, 3, 3)) == (2, 2, 2)
    assert choose_stem((1, 1, 1), (60, 60, 60), None) == (2, 2, 2)


def levels(edges: list[float]) -> rules.LevelChoice:
    """Of cubic lesions, for cells of 2, 4 and 8 mm and voxels of 1 mm."""
    return choose_levels([(edge,) * 3 for edge in edges], [(2, 2, 2)] * 3, (1, 1, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("slices", "thickness"), [(1, 1.0), (1, 50.0), (1, 0.01), (3, 8.0), (5, 1.0), (8, 1.0)])
def test_levels_of_a_thin_volume_are_those_of_its_plane(axis: int, slices: int, thickness: float) -> None:
    edges = np.array([6.0] * 20 + [24.0] * 20 + [60.0] * 20)
    shape, spacing, extents = [320, 320, 320], [1.0, 1.0, 1.0], np.tile(edges[:, None], 3)
    shape[axis], spacing[axis], extents[:, axis] = slices, thickness, slices * thickness
    plan = stage1_plan(tuple(spacing), shape, extents)
    plane = [other for other in range(3) if other != axis]
    for stage in plan.head_stages:
        cell = np.array(plan.cumulative_stride(stage)) * spacing
        assert cell[plane[0]] == cell[plane[1]]
    taken = np.bincount(rules.assign_levels(extents, plan.level_max_sizes), minlength=len(plan.head_stages))
    assert taken.tolist() == [20, 20, 20]
    assert [plan.cumulative_stride(stage)[plane[0]] for stage in plan.head_stages] == [2, 4, 8]


def test_each_level_takes_what_the_finer_one_leaves() -> None:
    choice = levels([3] * 100 + [16] * 10 + [17] * 10 + [33] * 10)
    assert choice == rules.LevelChoice((0, 1, 2), ((16.0,) * 3, (32.0,) * 3), (110, 10, 10))


def test_level_without_lesions_is_dropped() -> None:
    choice = levels([3] * 100 + [40] * 10)
    assert choice == rules.LevelChoice((0, 2), ((16.0,) * 3,), (100, 10))


def test_coarse_level_with_hardly_any_lesion_leaves_them_to_the_finer_one() -> None:
    assert levels([3] * 100 + [40] * 4) == rules.LevelChoice((0,), (), (104,))
    assert levels([3] * 2000 + [40] * 9).head_stages == (0,)


def test_few_small_lesions_keep_their_level() -> None:
    assert levels([3] + [20] * 100).head_stages == (0, 1)


def test_few_lesions_that_suit_the_next_level_join_it() -> None:
    assert levels([15] + [20] * 100) == rules.LevelChoice((1,), (), (101,))


def test_huge_lesions_belong_to_the_coarsest_level() -> None:
    assert levels([500] * 10).head_stages == (2,)


def test_without_lesions_there_is_one_level() -> None:
    assert levels([]) == rules.LevelChoice((0,), (), (0,))


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


def test_stage1_of_a_head_scan() -> None:
    plan = stage1_plan((1, 1, 1), (96, 160, 128), np.array([[3.0, 3, 3]] * 50 + [[20.0, 20, 20]] * 10))
    assert plan.channels == (32, 64, 96, 128)
    assert plan.blocks == rules.BLOCKS[:4]
    assert plan.head_stages == (0, 1)
    assert plan.level_max_sizes == ((16.0, 16.0, 16.0),)


def test_half_of_the_lesions_decide_on_a_fine_stage() -> None:
    large = np.full((50, 3), 20.0)
    for count, wanted in ((51, True), (49, False)):
        extents = np.concatenate([large, np.full((count, 3), 3.0)])
        plan = stage1_plan((1, 1, 1), (96, 160, 128), extents)
        assert rules.wants_fine_stage(plan, (1, 1, 1), extents) is wanted


def test_lesions_that_span_many_cells_along_one_axis_do_without_a_fine_stage() -> None:
    extents = np.tile([3.0, 3.0, 9.0], (10, 1))
    plan = stage1_plan((3, 1, 1), (40, 160, 128), extents)
    assert plan.strides[0] == (1, 2, 2)
    assert not rules.wants_fine_stage(plan, (3, 1, 1), extents)


def test_a_fine_stage_leaves_the_cells_of_every_head_as_they_were() -> None:
    plan = stage1_plan((1, 1, 1), (96, 160, 128), np.array([[3.0, 3, 3]] * 50 + [[20.0, 20, 20]] * 10))
    fine = rules.add_fine_stage(plan)
    assert [fine.cumulative_stride(stage) for stage in fine.head_stages] == [(2, 2, 2), (4, 4, 4)]
    assert fine.level_max_sizes == plan.level_max_sizes
    assert fine.cumulative_stride(4) == plan.cumulative_stride(3)
