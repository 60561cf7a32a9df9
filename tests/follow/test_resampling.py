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
    # The centres of the coarse grid lie at 1.5, 5.5, 9.5, …: none of them is in the voxel around 7.
    coarse = Geometry((5, 8, 8), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5))
    moved = instances_on_grid(time_point({2: (7, 7, 7, 8, 8, 8)}), coarse, IDENTITY)
    assert np.argwhere(moved == 2).tolist() == [[1, 1, 1]]


def test_between_two_lesions_no_other_number_appears() -> None:
    shift = RigidTransform(IDENTITY.rotation, (0.4, 0.3, 0.2))
    point = time_point({2: (5, 5, 5, 9, 9, 9), 8: (5, 5, 9, 9, 9, 13)})
    assert np.unique(instances_on_grid(point, Geometry(SHAPE), shift)).tolist() == [0, 2, 8]
