"""An axis has a direction if two classes keep an order along it."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.planning.mirroring import ClassOrder, find_class_orders, undirected_axes

ANTERIOR, POSTERIOR = [5.0, 2.0, 8.0], [5.0, 9.0, 8.0]


def scans(*orders: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A scan for each entry: class 0 before class 1 along y (1), behind it (-1), or at the same place (0)."""
    places = {1: [ANTERIOR, POSTERIOR], -1: [POSTERIOR, ANTERIOR], 0: [ANTERIOR, ANTERIOR]}
    return [np.array(places[order]) for order in orders], [np.array([0, 1])] * len(orders)


def test_classes_in_a_fixed_order_give_their_axis_a_direction() -> None:
    assert find_class_orders(*scans(*[1] * 12)) == [ClassOrder(axis=1, first=0, second=1, scans=12, agreeing=12)]


def test_the_class_with_the_lower_coordinate_is_named_first() -> None:
    [order] = find_class_orders(*scans(*[-1] * 10))
    assert (order.first, order.second) == (1, 0)


@pytest.mark.parametrize(
    ("orders", "directed"),
    [
        ([1] * 9, False),  # too few to tell
        ([1] * 10, True),
        ([1] * 9 + [-1], False),
        ([1] * 19 + [-1], True),  # 95 %
        ([1] * 18 + [-1] * 2, False),
        ([1] * 18 + [0] * 2, False),  # one that says nothing does not agree
        ([0] * 20, False),
    ],
)
def test_scans_needed_for_an_order(orders: list[int], directed: bool) -> None:
    assert bool(find_class_orders(*scans(*orders))) == directed


def test_a_class_lies_at_the_mean_of_its_lesions() -> None:
    # Most lesions of class 0 lie before class 1, the mean of all of them behind.
    centers = np.array([[0.0, 0, 1], [0, 0, 2], [0, 0, 90], [0, 0, 10]])
    [order] = find_class_orders([centers] * 10, [np.array([0, 0, 0, 1])] * 10)
    assert (order.axis, order.first) == (2, 1)


def test_scans_with_one_of_the_classes_do_not_count() -> None:
    centers, classes = scans(*[1] * 10)
    alone = [np.array([POSTERIOR])] * 30 + [np.zeros((0, 3))]
    assert find_class_orders(centers + alone, [*classes, *[np.array([0])] * 30, np.zeros(0, np.int64)])[0].scans == 10


def test_one_class_has_no_order() -> None:
    assert find_class_orders([np.array([ANTERIOR, POSTERIOR])] * 50, [np.array([0, 0])] * 50) == []
    assert find_class_orders([], []) == []


def test_of_several_pairs_of_classes_the_pair_in_most_scans_is_named() -> None:
    centers, classes = scans(*[1] * 10)
    more = [np.array([[5.0, 1.0, 8.0], [5.0, 3.0, 8.0]])] * 15
    [order] = find_class_orders(centers + more, [*classes, *[np.array([2, 0])] * 15])
    assert order == ClassOrder(1, 2, 0, 15, 15)


def test_axes_without_an_order_may_be_mirrored() -> None:
    assert undirected_axes([]) == (0, 1, 2)
    assert undirected_axes([ClassOrder(1, 0, 1, 10, 10)]) == (0, 2)
    assert undirected_axes([ClassOrder(axis, 0, 1, 10, 10) for axis in range(3)]) == ()


@given(seed=st.integers(0, 10**6), axes=st.sampled_from(list(permutations(range(3)))))
def test_turning_the_scans_turns_the_directed_axes(seed: int, axes: tuple[int, ...]) -> None:
    random = np.random.default_rng(seed)
    middle = np.array([[0, 0, 0], [0, 3, 0], [1, 0, 3]])
    centers = [middle + random.normal(0, 1, (3, 3)) for _ in range(12)]
    classes = [np.arange(3)] * 12
    turned = find_class_orders([case[:, axes] for case in centers], classes)
    assert {axes[order.axis] for order in turned} == {order.axis for order in find_class_orders(centers, classes)}


@given(seed=st.integers(0, 10**6))
def test_mirroring_half_of_the_scans_leaves_no_order(seed: int) -> None:
    random = np.random.default_rng(seed)
    centers = [random.normal(0, 1, (2, 3)) for _ in range(10)]
    assert find_class_orders(centers + [-case for case in centers], [np.array([0, 1])] * 20) == []
