from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.rules.grids import PlannedVolume, choose_fine_spacing, coarser_spacings, planned_volumes

SPACINGS = st.tuples(*[st.floats(0.3, 6)] * 3)


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


def test_a_scan_of_three_times_the_voxels_is_not_an_outlier() -> None:
    assert planned_volumes([[10, 10, 10]] * 59 + [[30, 10, 10]])[0].shape == (30, 10, 10)


def test_many_large_scans_are_not_outliers() -> None:
    volumes = planned_volumes([[10, 10, 10]] * 30 + [[100, 20, 20]] * 30)
    assert [(volume.percentile, volume.shape) for volume in volumes] == [(100, (100, 20, 20)), (50, (10, 10, 10))]


def test_a_scan_is_cut_that_has_over_a_tenth_more_voxels() -> None:
    volume = PlannedVolume((10, 10, 10))
    assert not volume.cuts((11, 10, 10)) and volume.cuts((12, 10, 10))


@given(SPACINGS)
def test_coarser_spacings_are_never_below_the_fine_spacing(fine: tuple[float, float, float]) -> None:
    spacings = coarser_spacings(fine, (100, 100, 100))
    assert spacings[0] == fine
    assert all(d >= f for spacing in spacings for d, f in zip(spacing, fine, strict=True))
    voxels = [1 / math.prod(spacing) for spacing in spacings]
    assert voxels == sorted(voxels, reverse=True)


def test_fine_axes_become_coarser_before_coarse_axes() -> None:
    spacing = next(s for s in coarser_spacings((3, 0.7, 0.7), (100, 400, 400)) if s[1] > 1.4)
    assert spacing[0] == 3
    assert spacing[1] == spacing[2]


@pytest.mark.parametrize("slices", [1, 7])
def test_slices_are_never_made_thicker(slices: int) -> None:
    assert {spacing[0] for spacing in coarser_spacings((0.1, 1, 1), (slices, 400, 400))} == {0.1}
    assert coarser_spacings((0.1, 1, 1), (slices, 400, 400))[1] == (0.1, 1.05, 1.05)
