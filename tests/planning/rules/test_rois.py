from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.curriculum import choose_curriculum
from detseg3d.planning.rules.rois import (
    choose_min_rois_per_window,
    choose_roi_edge,
    choose_roi_size,
    roi_plan,
    rois_of_window,
)
from detseg3d.planning.rules.segmenter import stage2_plan
from detseg3d.planning.sections import CurriculumPhase, TrainingPlan

LARGE = (400, 400, 400)


SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)


@pytest.mark.parametrize(
    ("large", "edge"), [(1, 24), (12, 24), (12.1, 32), (25, 32), (25.1, 48), (45, 48), (45.1, 64), (500, 64)]
)
def test_roi_edge_follows_the_75th_percentile(large: float, edge: int) -> None:
    assert choose_roi_edge([large]) == (edge, large)


def test_large_rois_are_drawn_less_often() -> None:
    assert [choose_min_rois_per_window((edge,) * 3) for edge in (24, 32, 40, 48, 64)] == [4, 4, 3, 3, 3]


def drawing(least: int, share: float) -> TrainingPlan:
    curriculum = (CurriculumPhase(fraction=1, window=None),)
    return TrainingPlan(curriculum=curriculum, min_rois_per_window=least, roi_voxel_fraction=share)


def test_a_large_window_shows_more_rois() -> None:
    # An eighth of 96³ voxels is 8 RoIs of 24³ samples, of 96 × 160 × 128 it is 17.8.
    windows = [48**3, 96**3, 96 * 160 * 128]
    assert [rois_of_window(drawing(4, 0.125), (24, 24, 24), voxels) for voxels in windows] == [4, 8, 18]


def test_the_number_of_rois_of_a_volume_is_limited_except_by_min_rois_per_window() -> None:
    assert rois_of_window(drawing(4, 0.125), (24, 24, 24), 512**3) == 32
    assert rois_of_window(drawing(40, 0.125), (24, 24, 24), 512**3) == 40


def test_large_rois_are_not_more_numerous_in_a_large_volume() -> None:
    # Their samples take memory: 32 of 64³ would be gigabytes, which no coarser detection grid saves.
    assert rois_of_window(drawing(3, 0.125), (64, 64, 64), 512**3) == 3


def test_without_roi_voxel_fraction_every_window_has_the_same_number_of_rois() -> None:
    assert rois_of_window(drawing(4, 0.0), (24, 24, 24), 512**3) == 4


def test_a_fifth_of_large_lesions_does_not_enlarge_all_rois() -> None:
    assert choose_roi_edge([3] * 80 + [50] * 20)[0] == 24
    assert choose_roi_edge([3] * 70 + [50] * 30)[0] == 64


def test_one_large_lesion_in_a_hundred_does_not_decide_the_roi_size() -> None:
    assert choose_roi_edge([14] * 99 + [200])[0] == 32


def test_coarse_axis_gets_fewer_samples() -> None:
    assert choose_roi_size(32, (3, 0.72, 0.72), LARGE) == (8, 32, 32)
    assert choose_roi_size(48, (3, 0.72, 0.72), LARGE) == (12, 48, 48)
    assert choose_roi_size(32, (1.3, 1, 1), LARGE) == (32, 32, 32)
    assert choose_roi_size(32, (2, 1, 1), LARGE) == (16, 32, 32)
    assert choose_roi_size(32, (50, 1, 1), LARGE) == (8, 32, 32)


@given(SPACINGS, st.sampled_from([16, 24, 32, 48, 64]))
def test_stage2_can_run_on_every_planned_roi(spacing: tuple[float, float, float], edge: int) -> None:
    size = choose_roi_size(edge, spacing, LARGE)
    assert all((n % 4 == 0 and 8 <= n <= edge) or n == edge for n in size)
    plan = stage2_plan(size, spacing)
    current = list(size)
    for stride in plan.strides:
        assert max(stride) == 2
        assert all(n % s == 0 and (s == 1 or n >= 8) for n, s in zip(current, stride, strict=True))
        current = [n // s for n, s in zip(current, stride, strict=True)]
    assert len(plan.channels) == len(plan.kernels) == len(plan.strides) + 1


@given(st.tuples(*[st.integers(1, 60)] * 3), st.sampled_from([24, 32, 48, 64]))
def test_an_roi_has_no_more_samples_than_the_volume_has_voxels_but_at_least_four(
    shape: tuple[int, int, int], edge: int
) -> None:
    size = choose_roi_size(edge, (1, 1, 1), shape)
    assert all(4 <= samples <= max(4, voxels) for samples, voxels in zip(size, shape, strict=True))
    if max(shape) >= 8:
        stage2 = stage2_plan(size, (1, 1, 1))
        pooled = [math.prod(stride[axis] for stride in stage2.strides) for axis in range(3)]
        assert all(samples % factor == 0 for samples, factor in zip(size, pooled, strict=True))


@pytest.mark.parametrize("thickness", [0.01, 1.0, 50.0])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slices_get_rois_of_their_plane(axis: int, thickness: float) -> None:
    def flat(along: int, elsewhere: int) -> tuple[int, int, int]:
        values = [elsewhere] * 3
        values[axis] = along
        return (values[0], values[1], values[2])

    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = thickness
    fine = (spacing[0], spacing[1], spacing[2])
    size = choose_roi_size(32, fine, flat(1, 512))
    assert size == flat(4, 32)
    assert stage2_plan(size, fine).strides == (flat(1, 2),) * 3
    extent = roi_plan(size, fine).minimum_extent
    assert [extent[other] for other in range(3) if other != axis] == [12, 12]
    assert extent[axis] <= 4 * thickness
    windows = [phase.window for phase in choose_curriculum(fine, (1, 1, 1), flat(1, 16), flat(1, 512))]
    assert windows == [flat(1, 48), flat(1, 96), None]


def test_small_boxes_are_seen_with_twelve_voxels_of_the_finest_axis() -> None:
    assert roi_plan((32, 32, 32), (1, 1, 1)).minimum_extent == (12, 12, 12)
    assert roi_plan((8, 32, 32), (3, 0.72, 0.72)).minimum_extent == pytest.approx((9, 8.64, 8.64))
