from __future__ import annotations

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.data.image import Image
from detseg3d.follow.resampling import image_on_grid, instances_on_grid
from tests.follow.maps import SHAPE, time_point

SHIFT = RigidTransform(IDENTITY.rotation, (3.0, -2.0, 1.0))  # x, y, z


def test_a_shift_by_whole_voxels_moves_the_array() -> None:
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    moved = image_on_grid(Image(array, Geometry(SHAPE)), Geometry(SHAPE), SHIFT)
    # A place on the grid shows the intensity of the place 1 further along z, -2 along y and 3 along x.
    assert np.allclose(moved[:-1, 2:, :-3], array[1:, :-2, 3:], atol=1e-6)


def test_labels_move_with_the_image() -> None:
    moved = instances_on_grid(time_point({7: (5, 5, 5, 9, 9, 9)}), Geometry(SHAPE), SHIFT)
    assert np.argwhere(moved == 7).min(axis=0).tolist() == [4, 7, 2]
    assert int((moved == 7).sum()) == 64


def test_a_single_voxel_survives_a_coarse_grid() -> None:
    coarse = Geometry((5, 8, 8), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5))
    assert int((instances_on_grid(time_point({2: (6, 6, 6, 7, 7, 7)}), coarse, IDENTITY) == 2).sum()) == 1
