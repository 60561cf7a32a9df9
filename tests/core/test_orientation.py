from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.geometry import IDENTITY_DIRECTION, Geometry
from detseg3d.core.orientation import StoredOrder

ORDERS = [(list(order), signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
DIRECTIONS = [tuple((np.eye(3)[:, order] * signs).ravel()) for order, signs in ORDERS]
SHAPE = (4, 5, 6)


def stored_as(
    volume: np.ndarray, matrix: np.ndarray, order: list[int], signs: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Return a volume ``(z, y, x)`` and its matrix (columns x, y, z) with the axes in another order."""
    array_axes = [2 - column for column in order][::-1]
    turned = volume.transpose(array_axes)
    steps = tuple(slice(None, None, sign) for sign in signs[::-1])
    return turned[steps], matrix[:, order] * signs


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_canonical_axes_run_towards_superior_posterior_and_left(direction: tuple[float, ...]) -> None:
    geometry = Geometry(SHAPE, (3.0, 2.0, 1.0), direction=direction)
    index = np.indices(geometry.shape).reshape(3, -1).T + 0.5
    world = geometry.voxel_edges_to_world(index).reshape(*geometry.shape, 3)
    order = StoredOrder.of_direction(direction, geometry.shape)
    spacing = order.triple_to_canonical(geometry.spacing)
    for axis, coordinate in enumerate((2, 1, 0)):  # world is x y z
        steps = np.diff(order.to_canonical(world[..., coordinate]), axis=axis)
        assert np.allclose(steps, spacing[axis])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_volumes_boxes_and_slice_numbers_are_reordered_together_and_back(direction: tuple[float, ...]) -> None:
    volume = np.zeros(SHAPE, np.uint8)
    volume[1:3, 0:2, 4] = 1
    order = StoredOrder.of_direction(direction, volume.shape)
    turned = order.to_canonical(volume)
    box = boxes_from_instances(turned)[1][0].tolist()
    stored = boxes_from_instances(volume)[1][0].tolist()
    assert list(order.box_to_canonical(stored)) == box and list(order.box_to_stored(box)) == stored
    first = [order.flipped[order.permutation.index(axis)] for axis in range(3)]  # the last voxel of the file's axis
    expected = [size - 0.5 if flip else 0.5 for flip, size in zip(first, SHAPE, strict=True)]
    assert list(order.point_to_stored([0.5, 0.5, 0.5])) == expected
    np.testing.assert_array_equal(order.to_stored(turned), volume)
    np.testing.assert_array_equal(order.to_stored(np.stack([turned] * 2)), np.stack([volume] * 2))
    assert order.triple_to_stored(order.triple_to_canonical((3, 2, 1))) == (3, 2, 1)
    for axis in range(3):
        name, number = order.stored_slice(axis, int(box[axis]))
        assert np.take(volume, number, "zyx".index(name)).any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_letters_of_the_axes_identify_the_order(direction: tuple[float, ...]) -> None:
    order = StoredOrder.of_direction(direction, SHAPE)
    assert StoredOrder.from_axes(order.axes, SHAPE) == order


def test_the_letters_of_axes_agree_with_examples_by_hand() -> None:
    assert StoredOrder.of_direction(IDENTITY_DIRECTION, SHAPE).axes == "SPL"
    # NIfTI's RAS: x towards Right, y towards Anterior.
    assert StoredOrder.of_direction((-1, 0, 0, 0, -1, 0, 0, 0, 1), SHAPE).axes == "SAR"
    # Sagittal slices from left to right: rows run backwards, columns downwards.
    assert StoredOrder.of_direction((0, 0, -1, 1, 0, 0, 0, -1, 0), SHAPE).axes == "RIP"


@pytest.mark.parametrize("axes", ["", "SP", "SPP", "SPR?", "xyz", "SIL"])
def test_letters_that_do_not_name_an_order_are_refused(axes: str) -> None:
    with pytest.raises(ValueError, match="three directions"):
        StoredOrder.from_axes(axes, SHAPE)


HALF = np.sqrt(0.5)
TIES = {
    "45 degrees about x": Rotation.from_euler("x", 45, degrees=True).as_matrix(),
    "45 degrees about y": Rotation.from_euler("y", 45, degrees=True).as_matrix(),
    "135 degrees about z": Rotation.from_euler("z", 135, degrees=True).as_matrix(),
    "45 degrees about two axes": Rotation.from_euler("xy", [45, 45], degrees=True).as_matrix(),
    "45 degrees about three axes": Rotation.from_euler("xyz", [45, 45, 45], degrees=True).as_matrix(),
    "60 degrees about the diagonal": Rotation.from_rotvec(np.full(3, np.pi / 3 / np.sqrt(3))).as_matrix(),
    "a mirror": np.eye(3) - 2 / 3,
    "45 degrees, tilted": Rotation.from_euler("xz", [45, 10], degrees=True).as_matrix(),
}


@pytest.mark.parametrize("name", TIES)
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4])
def test_all_48_orders_lead_to_one_volume_even_between_two_axes(name: str, noise: float) -> None:
    check_all_orders(TIES[name], noise)


@given(st.integers(0, 2**32 - 1))
def test_all_48_orders_of_any_oblique_scan_lead_to_one_volume(seed: int) -> None:
    check_all_orders(Rotation.random(rng=np.random.default_rng(seed)).as_matrix(), 0.0)


def check_all_orders(matrix: np.ndarray, noise: float) -> None:
    """``noise`` stands for the different rounding of the direction in each file."""
    volume = np.arange(4 * 5 * 6).reshape(SHAPE)
    random = np.random.default_rng(0)
    found = set()
    for order, signs in ORDERS:
        array, direction = stored_as(volume, matrix, order, signs)
        direction = direction + noise * random.uniform(-1, 1, (3, 3))
        stored = Geometry(array.shape, (1.0, 1.0, 1.0), direction=tuple(direction.ravel()))
        canonical = stored.canonical()
        found.add(canonical.stored_order.to_canonical(array).tobytes())
        matrix_found = np.reshape(canonical.direction, (3, 3))
        assert np.trace(matrix_found) >= np.trace(np.abs(matrix[:, [0, 1, 2]])) - 2e-3
        assert canonical.as_stored() is stored
    assert len(found) == 1


def test_the_nearest_axes_have_the_highest_sum_of_cosines() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        matrix = Rotation.random(rng=random).as_matrix()
        best = max(np.trace(matrix[:, order] * signs) for order, signs in ORDERS)
        canonical = Geometry(SHAPE, direction=tuple(matrix.ravel())).canonical()
        assert np.trace(np.reshape(canonical.direction, (3, 3))) >= best - 1e-3


def test_a_volume_in_canonical_order_stays_unchanged() -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    assert StoredOrder.of_direction(IDENTITY_DIRECTION, volume.shape).to_canonical(volume) is volume


def test_an_oblique_volume_uses_each_axis_once() -> None:
    order = StoredOrder.of_direction((HALF, -HALF, 0, HALF, HALF, 0, 0, 0, 1), (2, 3, 4))
    assert sorted(order.permutation) == [0, 1, 2]
