"""Merging leaves out lesions that are too small, and all lesions of a scan without a certain lesion."""

from __future__ import annotations

import numpy as np
import pytest

from detseg3d.planning.plans import Plans
from tests.models.factory import line, merge_lines

# -- Small lesions ---------------------------------------------------------------------------------------------


def test_a_single_voxel_survives_by_default(tiny_plans: Plans) -> None:
    assert merge_lines(tiny_plans, [1.0], [line(4, 0, [0, 0, 1, 0, 0])]).lesions[0].voxels == 1


@pytest.mark.parametrize(("minimum", "left"), [(6.0, 1), (6.1, 0)])
def test_the_minimum_volume_is_in_cubic_millimetres(tiny_plans: Plans, minimum: float, left: int) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": minimum})
    merged = merge_lines(plans, [1.0], [line(0, 0, [1, 1])], spacing=(1, 1, 3))
    assert len(merged.lesions) == left and int(merged.semantic.sum()) == 2 * left


def test_rounding_does_not_remove_a_lesion_of_exactly_the_minimum_volume(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 2.94})  # divided by 3 · 0.7 · 0.7: 2.0000000000000004
    assert len(merge_lines(plans, [1.0], [line(0, 0, [1, 1])], spacing=(3, 0.7, 0.7)).lesions) == 1


def test_removing_small_lesions_is_logged(tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 3.0})
    with caplog.at_level("INFO", logger="detseg3d"):
        merge_lines(plans, [1.0, 1.0], [line(0, 0, [1, 1]), line(8, 1, [1, 1, 1])])
    assert "1 lesion(s) smaller than 3 mm³ left out" in caplog.text


# -- Scans without lesions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threshold", "left"), [(0.0, 2), (0.89, 2), (0.9, 0)])
def test_a_scan_is_without_lesions_if_its_best_is_not_certain(tiny_plans: Plans, threshold: float, left: int) -> None:
    plans = tiny_plans.evolve(inference={"scan_threshold": threshold})  # the scores are 0.894 and 0.775
    merged = merge_lines(plans, [0.8, 0.6], [line(0, 0, [1, 1]), line(8, 1, [1, 1, 1])])
    assert len(merged.lesions) == left and len(np.unique(merged.instances)) == left + 1


def test_a_lesion_that_is_too_small_does_not_count_for_the_scan_threshold(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"scan_threshold": 0.8, "minimum_volume_mm3": 3.0})
    assert merge_lines(plans, [0.8, 0.6], [line(0, 0, [1, 1]), line(8, 1, [1, 1, 1])]).lesions == []


def test_leaving_out_all_lesions_of_a_scan_is_reported(tiny_plans: Plans, caplog: pytest.LogCaptureFixture) -> None:
    plans = tiny_plans.evolve(inference={"scan_threshold": 0.9})
    with caplog.at_level("INFO", logger="detseg3d"):
        merge_lines(plans, [0.8], [line(0, 0, [1, 1])])
    assert "1 lesion(s) left out, none of them with a score of 0.9 or more" in caplog.text
