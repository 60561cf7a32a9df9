from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.geometry import Geometry
from detseg3d.synthetic.shifts.grids import Occupancy, interpolation, place_lesions, regrid


def occupancy(number: int, shares: list[float], first: int = 0) -> Occupancy:
    """A lesion along x."""
    return Occupancy(number, (0, 0, first), np.array(shares, np.float32)[None, None])


def placed(*lesions: Occupancy, length: int = 6) -> list[int]:
    return place_lesions(lesions, (1, 1, length))[0, 0].tolist()


def test_a_voxel_belongs_to_a_lesion_that_fills_half_of_it() -> None:
    assert placed(occupancy(4, [0.2, 0.5, 1.0, 0.49], first=1)) == [0, 0, 4, 4, 0, 0]


def test_a_lesion_that_fills_no_voxel_by_half_gets_its_fullest_voxels() -> None:
    assert placed(occupancy(1, [0.3, 0.2, 0.1])) == [1, 1, 0, 0, 0, 0]


def test_the_lesion_with_the_larger_share_gets_a_voxel() -> None:
    assert placed(occupancy(1, [1.0, 0.5]), occupancy(2, [0.4, 1.0], first=1)) == [1, 1, 2, 0, 0, 0]
    assert placed(occupancy(1, [1.0, 0.4]), occupancy(2, [0.6, 1.0], first=1)) == [1, 2, 2, 0, 0, 0]


def test_a_small_lesion_beside_a_large_one_keeps_a_voxel() -> None:
    assert placed(occupancy(1, [1.0, 0.9, 0.8]), occupancy(2, [0.1], first=1)) == [1, 2, 1, 0, 0, 0]


def test_a_small_lesion_takes_its_next_voxel_if_the_fullest_is_all_that_another_lesion_has() -> None:
    assert placed(occupancy(1, [0.4]), occupancy(2, [0.3, 0.1])) == [1, 2, 0, 0, 0, 0]


def test_two_lesions_that_share_their_only_voxel_become_one() -> None:
    assert placed(occupancy(1, [0.4]), occupancy(2, [0.3])) == [1, 0, 0, 0, 0, 0]


def test_a_lesion_without_a_share_is_absent() -> None:
    assert placed(occupancy(1, [0.0, 0.0])) == [0] * 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=4), min_size=1, max_size=3))
def test_no_lesion_with_enough_room_is_lost(shares: list[list[float]]) -> None:
    # Lesions that begin at every second voxel have at least one voxel each that no third lesion reaches.
    lesions = [occupancy(number, share, first=2 * number) for number, share in enumerate(shares, start=1)]
    result = placed(*lesions, length=12)
    assert set(result) - {0} == set(range(1, len(shares) + 1))


def test_interpolation_keeps_constants_and_lines() -> None:
    weights = interpolation(10, 16)
    np.testing.assert_allclose(weights.image.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(weights.label.sum(axis=1), 1, atol=1e-6)
    places = (np.arange(16) + 0.5) * 10 / 16 - 0.5
    np.testing.assert_allclose((weights.label @ np.arange(10.0))[2:-2], places[2:-2], atol=1e-6)


def test_a_new_grid_has_its_corners_at_the_same_place_in_the_world() -> None:
    oblique = Geometry((10, 20, 30), (3.0, 1.0, 0.5), (5.0, -7.0, 11.0), (0.8, 0.6, 0, -0.6, 0.8, 0, 0, 0, 1))
    matrix, offset = oblique.index_to_world()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix + np.eye(3, k=1) * 0.1, offset
    sheared = Geometry(oblique.shape, oblique.spacing, oblique.origin, oblique.direction, tuple(affine.ravel()))
    for geometry in (oblique, sheared):
        new = regrid(geometry, (2.0, -4.0, 10.0), (4, 7, 10), (6.0, 2.0, 1.0))
        expected = geometry.voxel_edges_to_world([[2.0, -4.0, 10.0], [10.0, 10.0, 30.0]])
        np.testing.assert_allclose(new.voxel_edges_to_world([[0, 0, 0], [4, 7, 10]]), expected, atol=1e-9)
