from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.rigid import IDENTITY, RigidTransform

QUARTER_TURN = RigidTransform.of_matrix([[0, -1, 0], [1, 0, 0], [0, 0, 1]], [10, 0, 5])


def test_a_quarter_turn_about_z_moves_x_to_y() -> None:
    assert QUARTER_TURN.apply([[1.0, 0.0, 0.0]]).tolist() == [[10.0, 1.0, 5.0]]
    assert QUARTER_TURN.angle_degrees == pytest.approx(90)


def test_the_inverse_returns_every_point() -> None:
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 0.5, 7.0]])
    assert QUARTER_TURN.inverse().apply(QUARTER_TURN.apply(points)) == pytest.approx(points)


def test_the_distance_of_two_motions_is_measured_at_each_point() -> None:
    assert IDENTITY.distances(RigidTransform(IDENTITY.rotation, (3.0, 4.0, 0.0)), [[7, 7, 7]]).tolist() == [5.0]
