from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.backbone import (
    BLOCKS,
    MAX_STAGES,
    add_fine_stage,
    choose_stem,
    choose_strides,
    stage1_plan,
    wants_fine_stage,
)

SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)


SHAPES = st.tuples(*[st.integers(1, 400)] * 3)


def finest(spacing: np.ndarray, size: np.ndarray) -> float:
    """Return the finest spacing of the axes that can be pooled, or of all axes if no axis can be pooled."""
    return float((spacing[size >= 8] if (size >= 8).any() else spacing).min())


@given(SPACINGS, SHAPES)
def test_strides_follow_the_rule(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> None:
    result = choose_strides(spacing, shape, choose_stem(spacing, shape, None))
    current, size = np.array(spacing), np.array(shape)
    assert 1 <= len(result.strides) <= MAX_STAGES
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
        len(result.strides) == MAX_STAGES
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


def test_stage1_of_a_head_scan() -> None:
    plan = stage1_plan((1, 1, 1), (96, 160, 128), np.array([[3.0, 3, 3]] * 50 + [[20.0, 20, 20]] * 10))
    assert plan.channels == (32, 64, 96, 128)
    assert plan.blocks == BLOCKS[:4]
    assert plan.head_stages == (0, 1)
    assert plan.level_max_sizes == ((16.0, 16.0, 16.0),)


def test_half_of_the_lesions_decide_on_a_fine_stage() -> None:
    large = np.full((50, 3), 20.0)
    for count, wanted in ((51, True), (49, False)):
        extents = np.concatenate([large, np.full((count, 3), 3.0)])
        plan = stage1_plan((1, 1, 1), (96, 160, 128), extents)
        assert wants_fine_stage(plan, (1, 1, 1), extents) is wanted


def test_lesions_that_span_many_cells_along_one_axis_need_no_fine_stage() -> None:
    extents = np.tile([3.0, 3.0, 9.0], (10, 1))
    plan = stage1_plan((3, 1, 1), (40, 160, 128), extents)
    assert plan.strides[0] == (1, 2, 2)
    assert not wants_fine_stage(plan, (3, 1, 1), extents)


def test_a_fine_stage_leaves_the_cells_of_every_head_as_they_were() -> None:
    plan = stage1_plan((1, 1, 1), (96, 160, 128), np.array([[3.0, 3, 3]] * 50 + [[20.0, 20, 20]] * 10))
    fine = add_fine_stage(plan)
    assert [fine.cumulative_stride(stage) for stage in fine.head_stages] == [(2, 2, 2), (4, 4, 4)]
    assert fine.level_max_sizes == plan.level_max_sizes
    assert fine.cumulative_stride(4) == plan.cumulative_stride(3)
