from __future__ import annotations

import datetime as dt
import json
import logging
from dataclasses import replace

import numpy as np
import pytest

from detseg3d.core.arrays import Box
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.data.image import Image
from detseg3d.follow.compare import FollowOptions, follow_time_points
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.follow.result import FollowUp, LesionChange
from detseg3d.follow.time_point import LesionFacts, RejectedCandidate, TimePoint
from tests.follow.maps import instance_map, time_point

ALIGNED = FollowOptions(RegistrationMethod.NONE)
CUBE: Box = (6, 6, 6, 12, 12, 12)


def change_of(earlier: TimePoint, later: TimePoint, options: FollowOptions = ALIGNED) -> LesionChange:
    (change,) = follow_time_points([earlier, later], options).comparisons[0].changes
    return change


def shifted(x: float) -> FollowOptions:
    return FollowOptions(RegistrationMethod.FILE, (RigidTransform(IDENTITY.rotation, (x, 0.0, 0.0)),))


def test_growth_is_stated_in_percent_and_mm() -> None:
    change = change_of(time_point({1: CUBE}), time_point({2: (6, 6, 6, 12, 12, 18)}))
    assert (change.state, change.earlier, change.later) == (LesionState.ENLARGED, (1,), (2,))
    assert (change.volume_change_mm3, change.volume_change_percent) == (216.0, 100.0)
    assert change.long_axis_change_mm is not None and change.long_axis_change_mm > 0


@pytest.mark.parametrize(
    ("earlier", "later", "state"),
    [
        ({1: CUBE}, {1: CUBE}, LesionState.STABLE),
        ({1: CUBE}, {1: (6, 6, 6, 12, 12, 9)}, LesionState.SHRUNK),
        ({1: CUBE}, {}, LesionState.DISAPPEARED),
        ({}, {1: CUBE}, LesionState.NEW),
        ({1: (6, 6, 6, 12, 12, 8), 2: (6, 6, 10, 12, 12, 12)}, {1: CUBE}, LesionState.MERGED),
        ({1: CUBE}, {1: (6, 6, 6, 12, 12, 8), 2: (6, 6, 10, 12, 12, 12)}, LesionState.SPLIT),
    ],
)
def test_each_change_has_its_state(earlier: dict[int, Box], later: dict[int, Box], state: LesionState) -> None:
    assert change_of(time_point(earlier), time_point(later)).state is state


def test_the_size_of_a_group_is_the_sum_of_its_parts() -> None:
    change = change_of(time_point({1: CUBE}), time_point({1: (6, 6, 6, 12, 12, 8), 2: (6, 6, 10, 12, 12, 12)}))
    assert change.size_later is not None
    assert change.size_later.volume_mm3 == 72 + 72
    assert change.trend is LesionState.SHRUNK
    parts = time_point({1: (6, 6, 6, 12, 12, 8), 2: (6, 6, 10, 12, 12, 12)}).lesions
    assert change.size_later.long_axis_mm == pytest.approx(sum(part.measures.long_axis_mm for part in parts))


@pytest.mark.parametrize("shift", [-20.0, -8.0])
def test_a_lesion_outside_the_other_scan_has_not_disappeared(shift: float) -> None:
    # Columns 6 to 12 lie at -20 + 6 (outside), or at -2 to 4 (half outside) in the later scan.
    change = change_of(time_point({1: CUBE}), time_point({}), shifted(shift))
    assert change.state is LesionState.OUT_OF_VIEW
    assert change.cut


def test_a_lesion_that_the_earlier_scan_did_not_cover_is_not_new() -> None:
    change = change_of(time_point({}), time_point({1: CUBE}), shifted(20.0))
    assert change.state is LesionState.OUT_OF_VIEW


def test_a_lesion_in_the_padding_of_the_other_scan_has_not_disappeared() -> None:
    later = instance_map({})
    array = np.full(later.shape, 50, np.int16)
    array[:, :, :14] = 0
    image = Image(array, later.geometry)
    change = change_of(time_point({1: CUBE}), TimePoint.of_instances("scan", later, None, image))
    assert change.state is LesionState.OUT_OF_VIEW


@pytest.mark.parametrize(("box", "notes"), [((6, 6, 0, 12, 12, 6), 1), ((6, 6, 1, 12, 12, 6), 0)])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_lesion_that_the_edge_of_its_own_scan_cuts_has_a_note(box: Box, notes: int, is_new: bool) -> None:
    scans = [time_point({}), time_point({1: box})]
    change = change_of(*(scans if is_new else scans[::-1]))
    assert (len(change.notes), change.cut) == (notes, notes > 0)


def test_volumes_are_compared_in_the_common_field_of_view() -> None:
    # The later scan begins 9 columns later: it shows the right half of the cube, which did not change.
    earlier, later = time_point({1: CUBE}), time_point({1: (6, 6, 0, 12, 12, 3)})
    change = change_of(earlier, later, shifted(-9.0))
    assert change.size_earlier is not None and change.size_earlier.volume_mm3 == 216
    assert (change.compared_earlier_mm3, change.compared_later_mm3) == (108.0, 108.0)
    assert (change.state, change.cut, len(change.notes)) == (LesionState.STABLE, True, 1)


def scored(score: float | None, name: str = "lesion") -> dict[int, LesionFacts]:
    return {1: LesionFacts(name, score)}


def test_the_confidence_is_the_product_of_both_scores() -> None:
    change = change_of(time_point({1: CUBE}, scored(0.8)), time_point({1: CUBE}, scored(0.5)))
    assert change.confidence == 0.4


def test_a_rejected_candidate_at_the_place_makes_a_new_lesion_less_certain() -> None:
    earlier = replace(time_point({}), candidates=(RejectedCandidate((5, 5, 5, 13, 13, 13), 0.25),))
    assert change_of(earlier, time_point({1: CUBE}, scored(0.8))).confidence == pytest.approx(0.6)
    elsewhere = replace(time_point({}), candidates=(RejectedCandidate((0, 0, 0, 3, 3, 3), 0.25),))
    assert change_of(elsewhere, time_point({1: CUBE}, scored(0.8))).confidence == pytest.approx(0.8)


def test_without_scores_there_is_no_confidence() -> None:
    assert change_of(time_point({1: CUBE}), time_point({1: CUBE}, scored(0.5))).confidence is None


def test_a_change_of_the_class_is_noted() -> None:
    change = change_of(time_point({1: CUBE}, scored(1.0, "a")), time_point({1: CUBE}, scored(1.0, "b")))
    assert change.class_name == "b"
    assert "from a to b" in change.notes[0]


def follow_three() -> FollowUp:
    # One lesion splits and one part grows. Another lesion appears in the last scan.
    scans = [
        time_point({1: CUBE}),
        time_point({1: (6, 6, 6, 12, 12, 8), 2: (6, 6, 10, 12, 12, 12)}),
        time_point({3: (6, 6, 6, 12, 12, 8), 4: (6, 6, 10, 12, 12, 14), 5: (2, 20, 20, 4, 24, 24)}),
    ]
    return follow_time_points(scans, ALIGNED, "case")


def test_lesions_are_followed_over_several_scans() -> None:
    result = follow_three()
    assert [track.numbers for track in result.tracks] == [((1,), (1, 2), (3, 4)), ((), (), (5,))]
    assert result.tracks[0].volumes_mm3 == (216.0, 144.0, 216.0)
    assert (result.tracks[0].change_from_first_percent, result.tracks[0].change_from_smallest_percent) == (0.0, 50.0)
    assert result.tracks[1].change_from_first_percent is None
    assert [change.track for change in result.comparisons[1].changes] == [1, 1, 2]


def test_the_result_survives_json() -> None:
    scans = [dated(scan, 2024, 1, day) for scan, day in zip(follow_three().scans, (1, 9, 20), strict=True)]
    result = follow_time_points(scans, ALIGNED, "case")
    read = FollowUp.from_json(json.loads(json.dumps(result.to_json())))
    assert read.time_points == result.time_points
    assert read.comparisons == result.comparisons
    assert read.tracks == result.tracks
    assert read.scans == ()


def dated(point: TimePoint, *day: int) -> TimePoint:
    return replace(point, date=dt.date(*day))


def test_dates_give_the_interval_and_the_doubling_time() -> None:
    # The volume doubles in the 366 days from 1 March 2023 to 1 March 2024.
    before, after = dated(time_point({1: CUBE}), 2023, 3, 1), dated(time_point({1: (6, 6, 6, 12, 12, 18)}), 2024, 3, 1)
    comparison = follow_time_points([before, after], ALIGNED).comparisons[0]
    assert comparison.interval_days == 366
    assert comparison.changes[0].doubling_time_days == 366.0


def test_a_lesion_that_is_not_enlarged_has_no_doubling_time() -> None:
    before, after = dated(time_point({1: CUBE}), 2023, 3, 1), dated(time_point({1: (6, 6, 6, 12, 12, 13)}), 2024, 3, 1)
    change = change_of(before, after)  # 17 % more
    assert (change.state, change.doubling_time_days) == (LesionState.STABLE, None)


def test_without_dates_there_is_no_growth_per_time() -> None:
    comparison = follow_time_points([time_point({1: CUBE}), time_point({1: (6, 6, 6, 12, 12, 18)})], ALIGNED)
    assert comparison.comparisons[0].interval_days is None
    assert comparison.comparisons[0].changes[0].doubling_time_days is None


def test_scans_that_are_not_in_the_order_of_time_are_refused() -> None:
    empty = time_point({})
    with pytest.raises(DetSeg3DError) as error:
        follow_time_points([dated(empty, 2024, 3, 1), empty, dated(empty, 2024, 2, 29)], ALIGNED)
    assert "2024-03-01" in str(error.value.value) and "2024-02-29" in str(error.value.value)


def test_scans_of_one_day_are_compared_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    points = [dated(time_point({1: CUBE}), 2024, 3, 1), dated(time_point({1: (6, 6, 6, 12, 12, 18)}), 2024, 3, 1)]
    comparison = follow_time_points(points, ALIGNED).comparisons[0]
    assert (comparison.interval_days, comparison.changes[0].doubling_time_days) == (0, None)
    assert len(caplog.records) == 1


def test_a_single_scan_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_time_points([time_point({})], ALIGNED)
    assert error.value.value == 1


def test_a_registration_without_images_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_time_points([time_point({}), time_point({})])
    assert error.value.expected == "one channel of each scan"


def test_a_missing_transform_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_time_points([time_point({}), time_point({})], FollowOptions(RegistrationMethod.FILE))
    assert error.value.value == 0


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        FollowOptions(tolerance_mm=-1.0)
    assert error.value.value == -1.0
