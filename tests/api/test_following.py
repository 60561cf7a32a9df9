from __future__ import annotations

import datetime as dt

import numpy as np
import pytest

from detseg3d.api.following import follow_lesions
from detseg3d.core.errors import DetSeg3DError
from detseg3d.follow.compare import FollowOptions
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.synthetic.follow_up import FollowUpOptions, simulate_pair

ALIGNED = FollowOptions(RegistrationMethod.NONE)


def test_simulated_scans_are_registered_and_every_state_is_right() -> None:
    pair = simulate_pair(FollowUpOptions((40, 48, 48), (3.0, 3.0, 3.0), seed=1, max_degrees=10, max_mm=10))
    maps = [type(scan.image)(scan.instances, scan.image.geometry) for scan in (pair.earlier, pair.later)]
    result = follow_lesions(maps, [pair.earlier.image, pair.later.image])
    found = {(change.earlier, change.later): change.state for change in result.comparisons[0].changes}
    expected = {(change.earlier, change.later): change.state for change in pair.changes}
    assert found == expected


def test_dates_give_the_interval() -> None:
    dates = [dt.date(2024, 1, 31), dt.date(2024, 3, 1)]
    result = follow_lesions([np.zeros((8, 8, 8), int)] * 2, options=ALIGNED, dates=dates, spacing=(1, 1, 1))
    assert result.comparisons[0].interval_days == 30


def test_a_map_with_fractions_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_lesions([np.full((8, 8, 8), 0.5), np.zeros((8, 8, 8))], options=ALIGNED, spacing=(1, 1, 1))
    assert error.value.expected is not None


def test_the_numbers_of_scans_and_images_must_agree() -> None:
    with pytest.raises(DetSeg3DError) as error:
        follow_lesions([np.zeros((8, 8, 8))] * 2, [np.zeros((8, 8, 8))], options=ALIGNED, spacing=(1, 1, 1))
    assert error.value.value == (2, 1)
