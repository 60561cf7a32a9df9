from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from detseg3d.core.components import instances_from_semantic
from detseg3d.models.merging.connected import connected_lesions
from detseg3d.planning.plans import Plans
from tests.models.factory import line, merge_lines

CLASSES = np.array([0, 1, 0, 0, 1])


def connected_lesions_by_the_words(
    owner: np.ndarray, scores: np.ndarray
) -> set[tuple[frozenset[tuple[int, ...]], int, frozenset[int]]]:
    """The voxels, the candidate and the joined candidates of every lesion, component by component."""
    class_map = np.where(owner > 0, CLASSES[np.maximum(owner, 1) - 1] + 1, 0)
    components, _ = instances_from_semantic(class_map, (1, 2))
    names = np.unique(owner[owner > 0]).tolist()
    main = {name: int(np.bincount(components[owner == name]).argmax()) for name in names}
    lesions = set()
    for component in set(main.values()):
        members = [name for name in names if main[name] == component]
        best = max(members, key=lambda name: (scores[name - 1], -name))
        voxels = frozenset(map(tuple, np.argwhere(components == component).tolist()))
        lesions.add((voxels, best - 1, frozenset(name - 1 for name in members if name != best)))
    return lesions


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.uint16, (4, 5, 5), elements=st.sampled_from([0] * 12 + [1, 2, 3, 4, 5])),
    st.permutations([0.1, 0.3, 0.5, 0.7, 0.9]),
)
def test_lesions_are_the_components_in_which_a_candidate_mainly_lies(owner: np.ndarray, scores: list[float]) -> None:
    lesions, drafts = connected_lesions(owner, CLASSES, np.array(scores))
    found = {
        (frozenset(map(tuple, np.argwhere(lesions == number).tolist())), draft.candidate, frozenset(draft.joined))
        for number, draft in enumerate(drafts, start=1)
    }
    assert found == connected_lesions_by_the_words(owner, np.array(scores))
    assert [draft.score for draft in drafts] == [scores[draft.candidate] for draft in drafts]
    assert lesions.max(initial=0) == len(drafts)


def test_the_first_of_equal_scores_gives_its_score() -> None:
    _, [draft] = connected_lesions(np.array([[[1, 2]]], np.uint16), np.zeros(2, np.int64), np.array([0.5, 0.5]))
    assert (draft.candidate, draft.joined) == (0, (1,))


def test_an_empty_map_has_no_lesions() -> None:
    lesions, drafts = connected_lesions(np.zeros((2, 2, 2), np.uint16), np.zeros(0, np.int64), np.zeros(0))
    assert not lesions.any() and drafts == []


# -- Detached parts of a mask, through the merging ---------------------------------------------------------------------

# A mask of three voxels in its box, and one detached voxel that its RoI shows as well.
DETACHED = line(0, 0, [1, 1, 1, 0, 0, 0, 0.75, 0], 0.64)


@pytest.fixture(scope="module")
def connected(tiny_plans: Plans) -> Plans:
    return tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5, "growth_threshold": 0.3})


def test_a_detached_part_is_background(connected: Plans) -> None:
    merged = merge_lines(connected, [1.0], [DETACHED], 10)
    assert merged.instances[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert not merged.semantic[0, 0, 3:].any()


def test_a_detached_part_stays_with_its_lesion_if_labels_number_the_lesions(connected: Plans) -> None:
    numbered = connected.evolve(inference={"join_touching": False})
    assert [lesion.voxels for lesion in merge_lines(numbered, [1.0], [DETACHED], 10).lesions] == [4]


def test_a_fragment_that_touches_a_lesion_belongs_to_that_lesion(connected: Plans) -> None:
    beside = line(7, 1, [1, 1, 1], 1.0)
    merged = merge_lines(connected, [1.0, 1.0], [DETACHED, beside], 12)
    assert [(lesion.candidate, lesion.voxels, lesion.joined) for lesion in merged.lesions] == [(1, 4, ()), (0, 3, ())]


def test_detached_parts_of_two_lesions_that_touch_are_background(connected: Plans) -> None:
    left, right = line(0, 0, [1, 1, 1, 0, 0, 0, 1, 1], 1.0), line(8, 1, [1, 0, 1, 1, 1], 0.64)
    merged = merge_lines(connected, [1.0, 1.0], [left, right], 14)
    assert merged.instances[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 0]
