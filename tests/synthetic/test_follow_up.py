from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.synthetic.follow_up import FollowUpOptions, SimulatedChange, SimulatedPair, simulate_pair

OPTIONS = FollowUpOptions((48, 64, 64), (2.0, 2.0, 2.0), seed=2, max_degrees=12, max_mm=10)


@cache
def pair() -> SimulatedPair:
    return simulate_pair(OPTIONS)


def complete(state: LesionState) -> list[SimulatedChange]:
    changes = [change for change in pair().changes if change.state is state and not change.cut]
    assert changes
    return changes


def test_the_truth_names_every_lesion_once() -> None:
    for side, scan in (("earlier", pair().earlier), ("later", pair().later)):
        named = sorted(number for change in pair().changes for number in getattr(change, side))
        assert named == list(range(1, int(scan.instances.max()) + 1))


def test_each_state_has_the_right_number_of_lesions() -> None:
    counts = {
        LesionState.NEW: (0, 1),
        LesionState.DISAPPEARED: (1, 0),
        LesionState.ENLARGED: (1, 1),
        LesionState.MERGED: (2, 1),
        LesionState.SPLIT: (1, 2),
    }
    for state, expected in counts.items():
        for change in complete(state):
            assert (len(change.earlier), len(change.later)) == expected


def test_the_volumes_in_the_maps_follow_the_stated_ratio() -> None:
    for change in [*complete(LesionState.ENLARGED), *complete(LesionState.SHRUNK), *complete(LesionState.STABLE)]:
        before = np.isin(pair().earlier.instances, change.earlier).sum()
        after = np.isin(pair().later.instances, change.later).sum()
        # Lesions of some dozen voxels have a volume within 20 %.
        assert after / before == pytest.approx(change.volume_ratio, rel=0.2)


def test_the_stated_motion_moves_each_lesion_to_its_place_in_the_second_scan() -> None:
    for change in complete(LesionState.STABLE):
        voxels = np.argwhere(np.isin(pair().later.instances, change.later))
        center = pair().later.image.geometry.voxel_edges_to_world(voxels + 0.5).mean(axis=0)
        assert np.linalg.norm(pair().transform.apply([change.center])[0] - center) < 1.0


def test_lesions_are_brighter_than_their_surroundings_in_both_scans() -> None:
    for scan in (pair().earlier, pair().later):
        inside = scan.image.array[scan.instances > 0]
        assert inside.mean() > 1.2 * scan.image.array[scan.image.array > np.median(scan.image.array)].mean()


def test_the_motion_has_the_size_of_the_options() -> None:
    assert 6 <= pair().transform.angle_degrees <= 12
    assert 5 <= np.linalg.norm(pair().transform.translation) <= 10


def test_the_seed_decides_everything() -> None:
    again = simulate_pair(OPTIONS)
    assert np.array_equal(again.later.image.array, pair().later.image.array)
    assert again.to_json() == pair().to_json()


def test_the_truth_survives_json_without_the_scans() -> None:
    data = pair().to_json()
    assert set(data) == {"transform", "changes"}
    assert SimulatedChange.from_json(data["changes"][0]) == pair().changes[0]


def test_a_smaller_field_of_view_leaves_lesions_outside() -> None:
    options = FollowUpOptions((48, 64, 64), (2.0, 2.0, 2.0), seed=2, max_degrees=5, max_mm=5, coverage=0.6)
    small = simulate_pair(options)
    assert small.later.image.shape[0] == 29  # 0.6 · 48 = 28.8
    outside = [change for change in small.changes if change.state is LesionState.OUT_OF_VIEW]
    assert outside
    assert all(not (change.earlier and change.later) for change in outside)


@pytest.mark.parametrize("options", [{"shape": (16, 64, 64)}, {"coverage": 0.2}, {"spacing": (0.0, 1.0, 1.0)}])
def test_impossible_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(DetSeg3DError) as error:
        FollowUpOptions(**options)  # type: ignore[arg-type]
    assert error.value.value is not None
