from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.probabilities.components import (
    SCORES,
    ComponentRule,
    find_components,
    lesions_from_probabilities,
    reaches_volume,
)
from detseg3d.evaluation.probabilities.maps import ProbabilityMap

SHAPE = (2, 4, 4)
levels = arrays(np.int64, SHAPE, elements=st.integers(0, 10))
kinds = arrays(np.uint8, SHAPE, elements=st.integers(0, 1))


def line(*values: float) -> ProbabilityMap:
    return ProbabilityMap(np.array(values, np.float32).reshape(1, 1, -1), None, (1,))


def flooded(inside: npt.NDArray[np.bool_]) -> list[set[tuple[int, ...]]]:
    """Find components by flooding, voxel by voxel, over all 26 neighbours."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(inside)), strict=True))
    result = []
    while left:
        component, edge = set(), [left.pop()]
        while edge:
            voxel = edge.pop()
            component.add(voxel)
            for step in product((-1, 0, 1), repeat=3):
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    edge.append(neighbour)
        result.append(component)
    return result


def by_hand(
    probability: npt.NDArray[np.float32], classes: npt.NDArray[np.uint8], threshold: float, minimum: int, score: str
) -> dict[frozenset[tuple[int, ...]], tuple[int, float]]:
    """Return the class and score of each lesion, by the voxels of the lesion."""
    result = {}
    for kind in (0, 1):
        for component in flooded((probability >= np.float32(threshold)) & (classes == kind)):
            values = np.array([probability[voxel] for voxel in component], np.float64)
            metric = {"max": values.max(), "mean": values.mean(), "p95": np.percentile(values, 95)}[score]
            if len(component) >= minimum:
                result[frozenset(component)] = kind, pytest.approx(metric, abs=1e-6)
    return result


def described(lesions: Any) -> dict[frozenset[tuple[int, ...]], tuple[int, float]]:
    ids = sorted(lesions.classes)
    assert ids == list(range(1, len(ids) + 1)) == np.unique(lesions.instances[lesions.instances > 0]).tolist()
    voxels = {
        i: frozenset(zip(*(axis.tolist() for axis in np.nonzero(lesions.instances == i)), strict=True)) for i in ids
    }
    return {voxels[i]: (lesions.classes[i], lesions.scores[i]) for i in ids}


@given(levels, kinds, st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]), st.integers(0, 4), st.sampled_from(SCORES))
def test_lesions_equal_a_flood_fill(
    level: npt.NDArray[np.int64], classes: npt.NDArray[np.uint8], threshold: float, minimum: int, score: str
) -> None:
    probability = (level / 10).astype(np.float32)
    lesions = lesions_from_probabilities(
        ProbabilityMap(probability, classes, (3, 5)), (2.0, 0.5, 0.5), ComponentRule(threshold, minimum * 0.5, score)
    )
    assert described(lesions) == by_hand(probability, classes, threshold, minimum, score)


@given(levels, st.sampled_from([0.1, 0.5, 0.9]))
def test_one_class_needs_no_map_of_classes(level: npt.NDArray[np.int64], threshold: float) -> None:
    probability = (level / 10).astype(np.float32)
    without = lesions_from_probabilities(ProbabilityMap(probability, None, (1,)), (1, 1, 1), ComponentRule(threshold))
    zeros = np.zeros(SHAPE, np.uint8)
    explicit = lesions_from_probabilities(ProbabilityMap(probability, zeros, (1,)), (1, 1, 1), ComponentRule(threshold))
    np.testing.assert_array_equal(without.instances, explicit.instances)
    assert (without.classes, without.scores) == (explicit.classes, explicit.scores)


def test_the_percentile_lies_between_voxels() -> None:
    # Of 5 values the 95th percentile is at position 3.8: a fifth of the fourth and four fifths of the fifth.
    components = find_components(line(0.9, 0.5, 0.6, 0.8, 0.7), 0.5)
    assert components.scores["p95"].tolist() == pytest.approx([0.2 * 0.8 + 0.8 * 0.9])
    assert components.scores["mean"].tolist() == pytest.approx([0.7])


def test_only_the_voxels_of_the_lesion_determine_its_score() -> None:
    components = find_components(line(0.2, 0.6, 0, 0.9, 0.7), 0.5)
    assert components.scores["mean"].tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_voxel_of_exactly_the_threshold_is_lesion(value: float) -> None:
    assert len(lesions_from_probabilities(line(value), (1, 1, 1), ComponentRule(np.float64(value))).classes) == 1


def test_touching_lesions_of_two_classes_stay_apart() -> None:
    classes = np.array([[[0, 0, 1]]], np.uint8)
    map_ = ProbabilityMap(np.ones((1, 1, 3), np.float32), classes, (1, 2))
    assert lesions_from_probabilities(map_, (1, 1, 1)).classes == {1: 0, 2: 1}


def test_classes_can_be_indices_into_another_list_of_labels() -> None:
    classes = np.array([[[0, 0, 1]]], np.uint8)
    map_ = ProbabilityMap(np.ones((1, 1, 3), np.float32), classes, (1, 4))
    assert lesions_from_probabilities(map_, (1, 1, 1), class_values=[4, 2, 1]).classes == {1: 2, 2: 0}


def test_lesions_below_the_minimum_volume_are_removed_and_the_others_renumbered() -> None:
    map_ = line(0.9, 0, 0.8, 0.8, 0, 0.7, 0.7, 0.7)
    lesions = lesions_from_probabilities(map_, (3.0, 1.0, 1.0), ComponentRule(0.5, 6.0))
    assert lesions.instances[0, 0].tolist() == [0, 0, 1, 1, 0, 2, 2, 2]
    assert lesions.scores == {1: pytest.approx(0.8), 2: pytest.approx(0.7)}


@given(st.integers(1, 500), st.floats(0.01, 30))
def test_a_lesion_of_exactly_the_minimum_volume_stays(voxels: int, voxel_volume: float) -> None:
    count = np.array([voxels - 1, voxels, voxels + 1])
    added_up = sum([voxel_volume] * voxels)  # with all the rounding errors
    assert reaches_volume(count, voxel_volume, added_up).tolist() == [False, True, True]


def test_an_empty_map_has_no_lesions() -> None:
    lesions = lesions_from_probabilities(line(0, 0.1), (1, 1, 1))
    assert (lesions.classes, lesions.scores, lesions.instances.any()) == ({}, {}, False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threshold": 0.0}, "threshold"),
        ({"threshold": 50}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"minimum_volume_mm3": -1.0}, "minimum volume"),
        ({"minimum_volume_mm3": float("nan")}, "minimum volume"),
        ({"score": "median"}, "max, mean, p95"),
    ],
)
def test_invalid_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DetSeg3DError, match=message):
        ComponentRule(**values)
