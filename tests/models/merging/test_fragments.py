from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.components import instances_from_semantic
from detseg3d.models.merging.fragments import join_touching, split_parts

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
        crumbs = sorted(leader[main[n]] for n in np.unique(owner[components == components[voxel]]).tolist())
        result[voxel] = leader.get(components[voxel], max(crumbs, key=lambda n: scores[n - 1]))
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


# -- Parts that lie apart --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.uint16, (4, 5, 5), elements=st.sampled_from([0] * 6 + [1, 2, 4])),
    st.integers(0, 10**6),
)
def test_every_connected_part_gets_a_number_of_its_own(owner: np.ndarray, seed: int) -> None:
    probability = np.random.default_rng(seed).random(owner.shape).astype(np.float32)
    split, parts = split_parts(owner, probability, 7)
    for number in np.unique(owner[owner > 0]).tolist():
        components, _ = instances_from_semantic(owner == number, (1,))
        sizes = np.bincount(components.ravel())[1:]
        for component in range(1, len(sizes) + 1):
            inside = components == component
            [name] = np.unique(split[inside]).tolist()  # one number for the whole part
            assert (split == name).sum() == inside.sum()  # and for nothing else
            if name == number:
                assert sizes[component - 1] == sizes.max()
            else:
                assert parts[name - 7] == (number - 1, probability[inside].max())
        assert (split == number).any()  # one part keeps it
    assert ((split > 0) == (owner > 0)).all() and set(np.unique(split[split >= 7])) == set(range(7, 7 + len(parts)))


def test_many_parts_widen_the_numbers() -> None:
    owner = np.zeros((1, 1, 600), np.uint8)
    owner[0, 0, ::2] = 1
    split, parts = split_parts(owner, np.ones(owner.shape), 2)
    assert len(parts) == 299 and split.max() == 300


def test_whole_masks_have_no_loose_parts() -> None:
    owner = np.array([[[0, 1, 1, 2, 0]]], np.uint16)
    split, parts = split_parts(owner, np.ones(owner.shape), 3)
    assert parts == [] and split is not owner
    np.testing.assert_array_equal(split, owner)
    nothing = np.zeros((1, 2, 3), np.uint16)
    assert split_parts(nothing, np.zeros((1, 2, 3)), 1)[1] == []
