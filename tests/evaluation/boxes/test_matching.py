from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.evaluation.boxes import matching as box_matching
from detseg3d.evaluation.boxes.matching import scored_case_from_boxes
from detseg3d.evaluation.scores.froc import ScoredCase, average_precision, cpm, froc_curve

Box = tuple[int, int, int, int, int, int]
CRITERIA = [0.1, 0.5, None]


def boxes(limit: int) -> st.SearchStrategy[Box]:
    """Return a strategy for small boxes in a small space, so that many boxes overlap."""
    corner = st.tuples(*[st.integers(0, limit)] * 3)
    size = st.tuples(*[st.integers(1, 4)] * 3)
    return st.builds(lambda a, b: (*a, *(x + y for x, y in zip(a, b, strict=True))), corner, size)


cases = st.tuples(
    st.lists(st.tuples(boxes(6), st.integers(0, 1)), max_size=5),
    st.lists(st.tuples(boxes(6), st.integers(0, 1), st.integers(1, 99)), max_size=8, unique_by=lambda entry: entry[2]),
)
Case = tuple[list[tuple[Box, int]], list[tuple[Box, int, int]]]


def match(case: Case, minimum_iou: float | None, scale: float = 0.01) -> ScoredCase:
    truth, found = case
    return scored_case_from_boxes(
        "a",
        [box for box, _ in truth],
        [kind for _, kind in truth],
        [box for box, _, _ in found],
        [score * scale for _, _, score in found],
        [kind for _, kind, _ in found],
        minimum_iou,
    )


def iou(first: Box, second: Box) -> float:
    """Return the IoU from sets of voxels."""
    a, b = (
        {(z, y, x) for z in range(box[0], box[3]) for y in range(box[1], box[4]) for x in range(box[2], box[5])}
        for box in (first, second)
    )
    return len(a & b) / len(a | b)


def oracle(case: Case, minimum_iou: float | None) -> tuple[list[float], list[float], list[float]]:
    """Match one prediction after the other in plain loops, the highest score first."""
    truth, found = case
    taken: dict[int, float] = {}
    hits, misses = [], []
    for box, kind, score in sorted(found, key=lambda entry: -entry[2]):
        options = []
        for number, (true, true_kind) in enumerate(truth):
            if kind != true_kind:
                continue
            if minimum_iou is not None:
                quality = iou(true, box)
                if quality >= minimum_iou:
                    options.append((quality, -number))
            else:
                middle = [(box[axis] + box[axis + 3]) / 2 for axis in range(3)]
                if all(true[axis] <= middle[axis] < true[axis + 3] for axis in range(3)):
                    distance = sum(
                        ((middle[axis] - (true[axis] + true[axis + 3]) / 2) / (true[axis + 3] - true[axis])) ** 2
                        for axis in range(3)
                    )
                    options.append((-round(distance**0.5, 9), -number))
        free = [option for option in options if -option[1] not in taken]
        if free:
            taken[-max(free)[1]] = score
            hits.append(score)
        elif minimum_iou is not None or not options:
            misses.append(score)
    return [taken.get(number, -np.inf) for number in range(len(truth))], hits, misses


@pytest.mark.parametrize("minimum_iou", CRITERIA)
@given(case=cases)
def test_matching_equals_the_definition_box_by_box(case: Case, minimum_iou: float | None) -> None:
    record = match(case, minimum_iou, scale=1)
    found, hits, misses = oracle(case, minimum_iou)
    assert sorted(record.true_positive_scores.tolist()) == sorted(hits)
    assert sorted(record.false_positive_scores.tolist()) == sorted(misses)
    assert record.truth_scores.tolist() == found


@pytest.mark.parametrize("minimum_iou", CRITERIA)
@settings(max_examples=40)
@given(case=cases, data=st.data())
def test_the_order_of_the_predictions_does_not_matter(case: Case, minimum_iou: float | None, data: Any) -> None:
    truth, found = case
    first, second = match(case, minimum_iou), match((truth, data.draw(st.permutations(found))), minimum_iou)
    assert first.truth_scores.tolist() == second.truth_scores.tolist()
    for name in ("true_positive_scores", "false_positive_scores"):
        assert sorted(getattr(first, name)) == sorted(getattr(second, name))


@pytest.mark.parametrize("minimum_iou", CRITERIA)
@settings(max_examples=40)
@given(case=cases)
def test_scaling_the_scores_monotonically_changes_no_metric(case: Case, minimum_iou: float | None) -> None:
    truth, found = case
    curved = truth, [(box, kind, score**3) for box, kind, score in found]
    first, second = [match(case, minimum_iou)], [match(curved, minimum_iou)]
    assert average_precision(first) == average_precision(second)
    assert cpm(froc_curve(first)) == cpm(froc_curve(second))


@pytest.mark.parametrize("minimum_iou", CRITERIA)
@settings(max_examples=40)
@given(case=cases)
def test_a_lesion_free_case_without_boxes_only_lowers_false_positives_per_scan(
    case: Case, minimum_iou: float | None
) -> None:
    alone, both = [match(case, minimum_iou)], [match(case, minimum_iou), match(([], []), minimum_iou)]
    assert average_precision(both) == average_precision(alone)
    np.testing.assert_array_equal(froc_curve(both).recall, froc_curve(alone).recall)
    np.testing.assert_array_equal(
        froc_curve(both).false_positives_per_scan, froc_curve(alone).false_positives_per_scan / 2
    )


@given(found=st.lists(st.tuples(boxes(6), st.integers(0, 0), st.integers(1, 99)), max_size=8))
def test_in_separate_lesions_the_surest_centre_counts_as_in_luna16(
    found: list[tuple[Box, int, int]],
) -> None:
    truth: list[Box] = [(0, 0, 0, 3, 9, 9), (3, 0, 0, 6, 4, 9), (3, 5, 0, 9, 9, 4)]
    record = match(([(box, 0) for box in truth], found), None, scale=1)
    inside: list[list[int]] = [[], [], []]
    outside = []
    for box, _, score in found:
        middle = [(box[axis] + box[axis + 3]) / 2 for axis in range(3)]
        homes = [k for k, b in enumerate(truth) if all(b[a] <= middle[a] < b[a + 3] for a in range(3))]
        (inside[homes[0]] if homes else outside).append(score)
    assert record.truth_scores.tolist() == [max(scores, default=-np.inf) for scores in inside]
    assert sorted(record.false_positive_scores) == sorted(outside)


CUBE = (0, 0, 0, 4, 4, 4)


def test_a_second_box_on_a_lesion_is_a_false_positive_by_iou_and_ignored_by_centre() -> None:
    case: Case = [(CUBE, 0)], [(CUBE, 0, 90), (CUBE, 0, 50)]
    by_iou, by_center = match(case, 0.5, 1), match(case, None, 1)
    assert by_iou.false_positive_scores.tolist() == [50]
    assert by_center.false_positive_scores.tolist() == []
    assert by_center.true_positive_scores.tolist() == [90]


def test_a_box_of_another_class_finds_nothing() -> None:
    for minimum_iou in CRITERIA:
        record = match(([(CUBE, 0)], [(CUBE, 1, 90)]), minimum_iou, 1)
        assert record.truth_scores.tolist() == [-np.inf]
        assert record.false_positive_scores.tolist() == [90]


def test_a_centre_on_the_upper_face_is_outside_and_on_the_lower_one_inside() -> None:
    assert match(([(CUBE, 0)], [((3, 0, 0, 5, 4, 4), 0, 9)]), None, 1).truth_scores.tolist() == [-np.inf]
    assert match(([(CUBE, 0)], [((-1, 0, 0, 1, 4, 4), 0, 9)]), None, 1).truth_scores.tolist() == [9]


def test_a_centre_in_two_lesions_finds_the_nearer_lesion_and_the_next_box_the_other_lesion() -> None:
    large, small = (0, 0, 0, 20, 4, 4), (8, 0, 0, 12, 4, 4)
    middle = (8, 0, 0, 13, 4, 4)  # centre at 10.5: 0.025 sizes from the large one's, 0.125 from the small one's
    record = match(([(large, 0), (small, 0)], [(middle, 0, 90), (middle, 0, 80)]), None, 1)
    assert record.truth_scores.tolist() == [90, 80]
    assert match(([(small, 0), (large, 0)], [(middle, 0, 90)]), None, 1).truth_scores.tolist() == [-np.inf, 90]


@settings(max_examples=40)
@given(case=cases)
def test_centres_find_the_same_lesions_with_any_spacing(case: Case) -> None:
    def stretched(box: Box) -> Box:
        return box[0] * 8, box[1], box[2] * 2, box[3] * 8, box[4], box[5] * 2

    truth, found = case
    other = [(stretched(box), kind) for box, kind in truth], [(stretched(b), kind, score) for b, kind, score in found]
    assert match(case, None).truth_scores.tolist() == match(other, None).truth_scores.tolist()


def test_half_a_box_of_overlap_is_enough_at_one_half() -> None:
    record = match(([((0, 0, 0, 1, 1, 4), 0)], [((0, 0, 0, 1, 1, 2), 0, 9)]), 0.5, 1)
    assert record.true_positive_scores.tolist() == [9]


def test_small_cubes_one_voxel_apart_have_the_overlap_of_half_open_boxes() -> None:
    case: Case = [((0, 0, 0, 3, 3, 3), 0)], [((1, 1, 1, 4, 4, 4), 0, 9)]
    assert match(case, 8 / 46, 1).true_positive_scores.tolist() == [9]
    assert match(case, 8 / 46 + 1e-9, 1).true_positive_scores.tolist() == []


@pytest.mark.parametrize("minimum_iou", CRITERIA)
def test_many_boxes_are_matched_in_parts(minimum_iou: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 30, (60, 3))
    many = np.concatenate([corners, corners + random.uniform(1, 9, (60, 3))], axis=1)
    classes = random.integers(0, 2, 60)

    def run() -> ScoredCase:
        return scored_case_from_boxes(
            "a", many[:20], classes[:20], many[10:], random.permutation(50) / 50, classes[10:], minimum_iou
        )

    random = np.random.default_rng(1)
    whole = run()
    monkeypatch.setattr(box_matching, "_MAX_PAIRS", 70)
    random = np.random.default_rng(1)
    np.testing.assert_array_equal(run().truth_scores, whole.truth_scores)
    assert np.isfinite(whole.truth_scores).sum() > 5


def test_no_boxes_on_either_side_are_allowed() -> None:
    empty: npt.NDArray[np.float64] = np.zeros((0, 6))
    record = scored_case_from_boxes("a", empty, [], empty, [], [], None)
    assert len(record.truth_scores) == len(record.false_positive_scores) == 0


@pytest.mark.parametrize(
    ("scores", "classes", "minimum_iou", "message"),
    [
        ([0.5, 0.5], [0], 0.1, "1 boxes have 2 scores and 1 classes"),
        ([0.5], [], 0.1, "1 boxes have 1 scores and 0 classes"),
        ([np.nan], [0], 0.1, "NaN"),
        ([0.5], [0], 0.0, "minimum_iou"),
        ([0.5], [0], np.nan, "minimum_iou"),
    ],
)
def test_invalid_boxes_are_refused(scores: list[float], classes: list[int], minimum_iou: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored_case_from_boxes("a", [CUBE], [0], [CUBE], scores, classes, minimum_iou)


def test_of_boxes_with_equal_scores_the_pair_of_higher_iou_comes_first() -> None:
    truth = [[0, 0, 0, 1, 1, 10], [0, 0, 10, 1, 1, 20]]
    boxes = [
        [0, 0, 0, 1, 1, 3],
        [0, 0, 5, 1, 1, 14],
    ]  # IoU 0.3 with the first; 5/14 with the first, 4/15 with the second
    case = scored_case_from_boxes("a", truth, [0, 0], boxes, [0.5, 0.5], [0, 0], 0.1)
    assert case.truth_scores.tolist() == [0.5, -np.inf]
    assert case.false_positive_scores.tolist() == [0.5]


def test_a_minimum_iou_is_met_despite_rounding() -> None:
    truth, box = [[0, 0, 0, 1, 1, 3 * 0.4]], [[0, 0, 0, 1, 1, 0.12]]  # one tenth
    assert len(scored_case_from_boxes("a", truth, [0], box, [0.5], [0], 0.1).true_positive_scores) == 1
