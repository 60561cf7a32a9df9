from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.geometry import IDENTITY_DIRECTION, Geometry
from detseg3d.core.orientation import StoredOrder

DIRECTIONS = [
    tuple((np.eye(3)[:, list(order)] * signs).ravel())
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_axes_run_to_the_head_the_back_and_the_left(direction: tuple[float, ...]) -> None:
    geometry = Geometry((4, 5, 6), (3.0, 2.0, 1.0), direction=direction)
    index = np.indices(geometry.shape).reshape(3, -1).T + 0.5
    world = geometry.voxel_edges_to_world(index).reshape(*geometry.shape, 3)
    orientation = StoredOrder.of_direction(direction, geometry.shape)
    spacing = orientation.triple_to_canonical(geometry.spacing)
    for axis, coordinate in enumerate((2, 1, 0)):  # world is x y z
        steps = np.diff(orientation.to_canonical(world[..., coordinate]), axis=axis)
        assert np.allclose(steps, spacing[axis])


@pytest.mark.parametrize("direction", DIRECTIONS[::5])
def test_boxes_and_slice_numbers_turn_with_the_volume(direction: tuple[float, ...]) -> None:
    volume = np.zeros((4, 5, 6), np.uint8)
    volume[1:3, 0:2, 4] = 1
    orientation = StoredOrder.of_direction(direction, volume.shape)
    turned = boxes_from_instances(orientation.to_canonical(volume))[1][0]
    assert orientation.box_to_canonical(boxes_from_instances(volume)[1][0]) == tuple(turned)
    for axis in range(3):
        name, number = orientation.stored_slice(axis, int(turned[axis]))
        assert np.take(volume, number, "zyx".index(name)).any()


def test_a_standard_volume_stays_as_it_is() -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    assert (StoredOrder.of_direction(IDENTITY_DIRECTION, volume.shape).to_canonical(volume) == volume).all()


def test_an_oblique_volume_uses_each_axis_once() -> None:
    c = np.sqrt(0.5)
    orientation = StoredOrder.of_direction((c, -c, 0, c, c, 0, 0, 0, 1), (2, 3, 4))
    assert sorted(orientation.permutation) == [0, 1, 2]
