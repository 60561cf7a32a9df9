from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.components import instances_from_semantic
from detseg3d.models.join import join_touching

CLASSES = np.array([0, 1, 0, 0, 1])


def join(owner: np.ndarray, classes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, dict[int, tuple[int, ...]]]:
    owner = owner.copy()
    return owner, join_touching(owner, *boxes_from_instances(owner), classes, scores)


def join_voxel_by_voxel(
    owner: np.ndarray, classes: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, dict[int, set[int]]]:
    """The rule as it reads, over the whole volume at once."""
    of_class = np.where(owner > 0, classes[np.maximum(owner, 1) - 1] + 1, 0)
    components, _ = instances_from_semantic(of_class, (1, 2))
    main = {n: np.bincount(components[owner == n]).argmax() for n in np.unique(owner[owner > 0]).tolist()}
    leader = {}
    for component in set(main.values()):
        leader[component] = max((n for n in main if main[n] == component), key=lambda n: (scores[n - 1], -n))
    result = np.zeros_like(owner)
    for place in np.argwhere(owner > 0):
        voxel = tuple(place)
        result[voxel] = leader.get(components[voxel], leader[main[owner[voxel]]])
    followers: dict[int, set[int]] = {}
    for n, component in main.items():
        if leader[component] != n:
            followers.setdefault(leader[component] - 1, set()).add(n - 1)
    return result, followers


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.uint16, (4, 5, 5), elements=st.sampled_from([0] * 12 + [1, 2, 3, 4, 5])),
    st.permutations([0.1, 0.3, 0.5, 0.7, 0.9]),
)
def test_joining_follows_its_rule(owner: np.ndarray, scores: list[float]) -> None:
    after, joined = join(owner, CLASSES, np.array(scores))
    expected, followers = join_voxel_by_voxel(owner, CLASSES, np.array(scores))
    np.testing.assert_array_equal(after, expected)
    assert {leader: set(others) for leader, others in joined.items()} == followers


def test_a_lesion_in_the_window_of_others_is_left_alone() -> None:
    owner = np.zeros((1, 9, 9), np.uint16)
    owner[0, 0, :], owner[0, 1:, 0] = 1, 2  # two arms that touch, around a third that does not
    owner[0, 4:6, 4:6] = 3
    after, joined = join(owner, np.zeros(3, np.int64), np.array([0.5, 0.9, 0.7]))
    assert joined == {1: (0,)} and np.unique(after).tolist() == [0, 2, 3]
    assert (after == 3).sum() == 4 and (after == 2).sum() == 17


def test_of_equal_scores_the_first_leads() -> None:
    assert join(np.array([[[1, 2]]], np.uint16), np.zeros(2, np.int64), np.array([0.5, 0.5]))[1] == {0: (1,)}


def test_nothing_joins_nothing() -> None:
    owner, joined = join(np.zeros((2, 2, 2), np.uint16), np.zeros(0, np.int64), np.zeros(0))
    assert not owner.any() and joined == {}
