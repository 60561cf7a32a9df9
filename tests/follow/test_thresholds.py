from __future__ import annotations

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.follow.thresholds import ChangeThresholds, LesionSize, SizeCriterion


def by_volume(before: float, after: float, voxel_mm: float = 0.1) -> str:
    return ChangeThresholds.volumetric().state(LesionSize(before, 1), LesionSize(after, 1), voxel_mm).value


def by_diameter(before: float, after: float) -> str:
    return ChangeThresholds.recist().state(LesionSize(1, before), LesionSize(1, after), 1.0).value


@pytest.mark.parametrize(
    ("after", "state"), [(125, "enlarged"), (124, "stable"), (100, "stable"), (76, "stable"), (75, "shrunk")]
)
def test_a_volume_changes_at_25_percent(after: float, state: str) -> None:
    assert by_volume(100, after) == state


def test_a_change_of_a_few_voxels_at_the_surface_is_stable() -> None:
    # A ball of mean volume 10 mm³ has the radius 1.337 mm. A quarter of a voxel of 1 mm at its surface has 5.6 mm³.
    assert by_volume(8, 12, voxel_mm=1.0) == "stable"
    assert by_volume(7, 13, voxel_mm=1.0) == "enlarged"


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (25, 30, "enlarged"),  # exactly 20 % and 5 mm
        (25.1, 30.12, "enlarged"),  # 20 %, but 19.999999999999996 % in floating-point numbers
        (20, 24.9, "stable"),  # 24.5 %, but less than 5 mm
        (30, 35.9, "stable"),  # 5.9 mm, but less than 20 %
        (20, 14, "shrunk"),  # exactly 30 %
        (25.2, 17.64, "shrunk"),  # 30 %, but 29.999999999999996 % in floating-point numbers
        (20, 14.1, "stable"),
    ],
)
def test_recist_needs_20_percent_and_5_mm_or_minus_30_percent(before: float, after: float, state: str) -> None:
    assert by_diameter(before, after) == state


def test_thresholds_of_the_user_count() -> None:
    own = ChangeThresholds(SizeCriterion.VOLUME, 50, 10, 0, 0)
    assert own.state(LesionSize(100, 1), LesionSize(149, 1), 1.0) is LesionState.STABLE
    assert own.state(LesionSize(100, 1), LesionSize(90, 1), 1.0) is LesionState.SHRUNK


@pytest.mark.parametrize("values", [(-1, 25, 0), (25, 101, 0), (25, 25, float("nan"))])
def test_impossible_thresholds_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(DetSeg3DError) as error:
        ChangeThresholds(SizeCriterion.DIAMETER, *values)
    assert error.value.value is not None


def test_thresholds_survive_json() -> None:
    assert ChangeThresholds.from_json(ChangeThresholds.recist().to_json()) == ChangeThresholds.recist()
