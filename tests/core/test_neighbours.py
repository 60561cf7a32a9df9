from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from detseg3d.core import neighbours
from detseg3d.core.neighbours import neighbour_groups, neighbour_matrix, split_groups

seeds = st.integers(0, 2**32 - 1)


def by_voxels(boxes: npt.NDArray[np.floating]) -> list[list[bool]]:
    """Find neighbouring boxes by comparing all their voxels."""
    everywhere = np.argwhere(np.ones((9, 9, 9)))
    voxels = [
        everywhere[[bool(np.all((voxel < box[3:]) & (voxel + 1 > box[:3]))) for voxel in everywhere]] for box in boxes
    ]
    return [[bool((np.abs(a[:, None] - b[None]).max(axis=2) <= 1).any()) for b in voxels] for a in voxels]


def by_comparing_all(boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    low, high = np.floor(boxes[:, :3]), np.ceil(boxes[:, 3:])
    return np.all((low[:, None] <= high[None]) & (high[:, None] >= low[None]), axis=2)


def crowd(random: np.random.Generator, count: int, extent: float, largest: float) -> npt.NDArray[np.floating]:
    low = random.uniform(-5, extent, (count, 3))
    return np.concatenate([low, low + random.uniform(0.1, largest, (count, 3))], axis=1)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_boxes_with_voxels_at_most_one_apart_are_neighbours(seed: int) -> None:
    random = np.random.default_rng(seed)
    low = random.integers(0, 12, (5, 3)) / 2
    boxes = np.concatenate([low, low + random.integers(1, 5, (5, 3)) / 2], axis=1)
    assert neighbour_matrix(boxes, np.arange(5), 5).toarray().tolist() == by_voxels(boxes)


@settings(max_examples=60, deadline=None)
@given(seeds, st.integers(0, 60), st.sampled_from([5.0, 40.0, 200.0]), st.sampled_from([3.0, 30.0]))
def test_groups_and_owners_agree_with_a_comparison_of_all_pairs(
    seed: int, count: int, extent: float, largest: float
) -> None:
    random = np.random.default_rng(seed)
    boxes = crowd(random, count, extent, largest)
    near = by_comparing_all(boxes)
    number, label = connected_components(csr_array(near), directed=False) if count else (0, np.zeros(0))
    expected = {tuple(np.flatnonzero(label == index).tolist()) for index in range(number)}
    groups = [tuple(group.tolist()) for group in neighbour_groups(boxes)]
    assert set(groups) == expected and groups == sorted(groups)
    owners = random.integers(0, 7, count)
    wanted = np.eye(8, dtype=bool)
    for first, second in np.argwhere(near):
        wanted[owners[first], owners[second]] = True
    np.testing.assert_array_equal(neighbour_matrix(boxes, owners, 8).toarray(), wanted)


def test_the_number_of_pairs_in_memory_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    boxes, owners = crowd(random, 300, 60, 9), random.integers(0, 40, 300)
    groups, near = neighbour_groups(boxes), neighbour_matrix(boxes, owners, 40).toarray()
    monkeypatch.setattr(neighbours, "_MAX_PAIRS", 3)
    assert [group.tolist() for group in neighbour_groups(boxes)] == [group.tolist() for group in groups]
    np.testing.assert_array_equal(neighbour_matrix(boxes, owners, 40).toarray(), near)


def test_no_boxes_have_no_neighbours() -> None:
    assert neighbour_groups([]) == []
    assert neighbour_matrix([], np.zeros(0, np.int64), 0).shape == (0, 0)
    np.testing.assert_array_equal(neighbour_matrix([], np.zeros(0, np.int64), 2).toarray(), np.eye(2, dtype=bool))


@pytest.mark.parametrize("extent", [20.0, 400.0], ids=["all in one place", "all over a volume"])
def test_memory_does_not_grow_with_the_square_of_the_boxes(extent: float) -> None:
    boxes = crowd(np.random.default_rng(1), 4000, extent, 25)
    tracemalloc.start()
    neighbour_groups(boxes)
    neighbour_matrix(boxes, np.arange(len(boxes)) // 100, 40)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # less than a matrix of booleans for all pairs of boxes


# -- Groups of some ----------------------------------------------------------------------------------------------------


def test_members_of_a_group_may_be_connected_through_other_members() -> None:
    dense = np.eye(5, dtype=bool)
    for a, b in ((0, 2), (2, 4)):
        dense[a, b] = dense[b, a] = True
    near = csr_array(dense)
    assert [group.tolist() for group in split_groups(np.array([4, 3, 2, 0]), near)] == [[4, 2, 0], [3]]
    assert [group.tolist() for group in split_groups(np.array([0, 3, 4]), near)] == [[0], [3], [4]]  # without 2
    assert split_groups(np.zeros(0, np.int64), near) == []


@given(seeds)
def test_groups_of_some_agree_with_the_connected_components_of_their_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    count = int(random.integers(1, 30))
    dense = random.random((count, count)) < random.random() * 0.2
    dense |= dense.T
    some = random.permutation(count)[: int(random.integers(0, count + 1))]
    label = connected_components(csr_array(dense[np.ix_(some, some)]), directed=False)[1] if len(some) else []
    expected = [some[label == name].tolist() for name in dict.fromkeys(np.asarray(label).tolist())]
    assert [group.tolist() for group in split_groups(some, csr_array(dense))] == expected
