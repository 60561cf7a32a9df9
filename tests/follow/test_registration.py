from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.follow.registration import Registration, RegistrationMethod, register
from detseg3d.synthetic.follow_up import FollowUpOptions, SimulatedPair, simulate_pair


@cache
def pair() -> SimulatedPair:
    return simulate_pair(FollowUpOptions((40, 48, 48), (3.0, 3.0, 3.0), seed=1, max_degrees=15, max_mm=20))


@cache
def registration() -> Registration:
    return register(pair().earlier.image, pair().later.image)


def test_the_motion_is_found_within_a_third_of_a_voxel() -> None:
    centers = [change.center for change in pair().changes]
    assert pair().transform.angle_degrees > 7
    assert registration().transform.distances(pair().transform, centers).max() < 1.0


def test_the_quality_is_stated() -> None:
    quality = registration().quality
    assert registration().method is RegistrationMethod.RIGID
    assert quality is not None
    assert quality.mutual_information > 0.3
    assert 0.8 < quality.overlap <= 1
    assert 1 <= quality.agreeing_starts <= quality.starts == 3
    assert 0 < quality.uncertainty_mm < 3


def test_equal_scans_give_equal_results() -> None:
    assert register(pair().earlier.image, pair().later.image) == registration()


def test_unrelated_scans_fail_with_a_reason() -> None:
    random = np.random.default_rng(0)
    noise = Image(random.normal(100, 10, (40, 48, 48)).astype(np.float32), pair().earlier.image.geometry)
    with pytest.raises(DetSeg3DError) as error:
        register(pair().earlier.image, noise)
    assert error.value.expected == "two scans of the same part of one patient"
    assert error.value.remedy is not None


@pytest.mark.parametrize(
    ("array", "value"),
    [(np.full((8, 8, 8), 5.0), 5.0), (np.random.default_rng(0).normal(size=(3, 8, 8)), (3, 8, 8))],
    ids=["constant", "thin"],
)
def test_constant_and_thin_scans_are_refused(array: np.ndarray, value: object) -> None:
    depth, height, width = array.shape
    with pytest.raises(DetSeg3DError) as error:
        register(Image(array, Geometry((depth, height, width))), pair().later.image)
    assert error.value.value == value
