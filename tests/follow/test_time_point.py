from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image import Image
from detseg3d.follow.time_point import LesionFacts, TimePoint
from tests.follow.maps import SHAPE, instance_map, time_point


def test_every_lesion_is_measured_under_its_number() -> None:
    point = time_point({3: (2, 2, 2, 4, 5, 6), 7: (10, 10, 10, 11, 11, 11)})
    assert [lesion.number for lesion in point.lesions] == [3, 7]
    assert [lesion.measures.volume_mm3 for lesion in point.lesions] == [24.0, 1.0]


def test_a_lesion_without_an_entry_in_the_record_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as error:
        time_point({1: (2, 2, 2, 4, 5, 6), 2: (10, 10, 10, 12, 12, 12)}, {1: LesionFacts("a", 0.5)})
    assert error.value.value == [2]


def test_distances_are_zero_inside_and_infinite_beyond_the_reach() -> None:
    map_ = instance_map({1: (5, 5, 5, 6, 6, 6)}, spacing=(2.0, 1.0, 1.0))
    point = TimePoint.of_instances("scan", map_)
    # Voxel (5, 5, 5), its neighbour along z at 2 mm, along x at 1 mm, and one at 3 mm along x.
    world = map_.geometry.voxel_edges_to_world(np.array([[5, 5, 5], [6, 5, 5], [5, 5, 6], [5, 5, 8]]) + 0.5)
    assert point.clouds[1].distances(world, 2.0).tolist() == [0.0, 2.0, 1.0, np.inf]


def test_places_outside_the_grid_are_not_shown() -> None:
    point = time_point({})
    world = point.geometry.voxel_edges_to_world([[0.5, 0.5, 0.5], [-0.5, 5, 5], [5, 5, 30.5]])
    assert point.shows(world).tolist() == [True, False, False]


def test_padding_is_not_shown_but_air_of_the_same_value_inside_the_body_is() -> None:
    array = np.full(SHAPE, 100, np.int16)
    array[:, :, :8] = array[:, :, 27:] = 0  # padding on both sides
    array[9, 15, 15] = 0  # air inside
    map_ = instance_map({})
    point = TimePoint.of_instances("scan", map_, None, Image(array, map_.geometry))
    world = map_.geometry.voxel_edges_to_world(np.array([[9, 15, 3], [9, 15, 15], [9, 15, 20]]) + 0.5)
    assert point.shows(world).tolist() == [False, True, True]
