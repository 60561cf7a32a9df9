from __future__ import annotations

import numpy as np
import pytest

from detseg3d.models.objectives.roi_sampling import RoiRule, RoiSample, jitter_boxes, match_proposals, sample_boxes
from tests.models.factory import make_detections, make_targets

EXTENT = (8.0, 8.0, 8.0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sample(
    lesions: list[list[int]],
    proposals: list[list[float]],
    scores: list[float],
    count: int = 8,
    classes: list[int] | None = None,
    num_classes: int = 1,
    seed: int = 0,
) -> RoiSample:
    targets = make_targets((32, 32, 32), lesions, classes)
    found = make_detections(proposals, scores)
    return sample_boxes(targets, found, RoiRule(count, 0.3, EXTENT, num_classes), generator(seed))


# -- Matching --------------------------------------------------------------------------------------------------


def test_a_proposal_on_a_lesion_is_meant_for_it() -> None:
    targets = make_targets((16, 16, 16), [[2, 2, 2, 5, 5, 5], [10, 10, 10, 14, 14, 14]])
    matched = match_proposals([[9, 9, 9, 13, 14, 14], [2, 2, 3, 6, 5, 5]], np.zeros(2, np.int64), targets)
    assert matched.tolist() == [2, 1]


def test_a_proposal_far_from_all_lesions_is_meant_for_none() -> None:
    targets = make_targets((16, 16, 16), [[2, 2, 2, 5, 5, 5]])
    assert match_proposals([[10, 10, 10, 13, 13, 13]], np.zeros(1, np.int64), targets).tolist() == [0]


@pytest.mark.parametrize(("shift", "wanted"), [(1.4, 1), (1.6, 0)])
def test_a_proposal_hits_a_lesion_of_one_voxel_up_to_one_voxel_outside_the_box(shift: float, wanted: int) -> None:
    targets = make_targets((16, 16, 16), [[5, 5, 5, 6, 6, 6]])
    proposal = [[5 + shift - 2, 4, 4, 6 + shift + 2, 7, 7]]
    assert match_proposals(proposal, np.zeros(1, np.int64), targets).tolist() == [wanted]


def test_a_proposal_of_another_class_is_meant_for_none() -> None:
    targets = make_targets((16, 16, 16), [[2, 2, 2, 5, 5, 5]], classes=[1])
    assert match_proposals([[2, 2, 2, 5, 5, 5]] * 2, np.array([0, 1]), targets).tolist() == [0, 1]


def test_between_two_lesions_the_nearer_lesion_counts() -> None:
    targets = make_targets((16, 16, 16), [[2, 2, 2, 6, 6, 6], [2, 2, 6, 6, 6, 10]])
    assert match_proposals([[2, 2, 4.5, 6, 6, 8.5]], np.zeros(1, np.int64), targets).tolist() == [2]


def test_a_tiny_proposal_at_the_rim_of_a_huge_lesion_is_meant_for_none() -> None:
    targets = make_targets((32, 32, 32), [[0, 0, 0, 30, 30, 30]])
    assert match_proposals([[0, 0, 0, 2, 2, 2]], np.zeros(1, np.int64), targets).tolist() == [0]


def test_labels_need_not_be_consecutive() -> None:
    targets = make_targets((16, 16, 16), [[0, 0, 0, 2, 2, 2], [0, 0, 0, 2, 2, 2], [8, 8, 8, 11, 11, 11]])
    assert targets.ids.tolist() == [2, 3]  # the second covers the first
    assert match_proposals([[8, 8, 8, 11, 11, 11]], np.zeros(1, np.int64), targets).tolist() == [3]


@pytest.mark.parametrize(("lesions", "proposals"), [([], [[0.0] * 3 + [2.0] * 3]), ([[0, 0, 0, 2, 2, 2]], [])])
def test_nothing_matches_if_there_are_no_lesions_or_no_proposals(
    lesions: list[list[int]], proposals: list[list[float]]
) -> None:
    targets = make_targets((8, 8, 8), lesions)
    matched = match_proposals(proposals, np.zeros(len(proposals), np.int64), targets)
    assert matched.tolist() == [0] * len(proposals)


# -- Jitter ----------------------------------------------------------------------------------------------------


def test_jitter_stays_within_its_bounds() -> None:
    boxes = np.tile([[10.0, 10, 10, 20, 12, 11]], (500, 1))
    jittered = jitter_boxes(boxes, generator())
    sizes = np.array([10, 2, 1])
    shift = (jittered[:, :3] + jittered[:, 3:]) / 2 - [15, 11, 10.5]
    scale = (jittered[:, 3:] - jittered[:, :3]) / sizes
    assert np.all(np.abs(shift) <= 0.15 * sizes + 0.5 + 1e-5)
    assert np.all(np.abs(np.log(scale)) <= 0.2 + 1e-4)


def test_jitter_has_no_preferred_direction() -> None:
    jittered = jitter_boxes(np.tile([[10.0, 10, 10, 20, 20, 20]], (4000, 1)), generator())
    assert np.abs((jittered[:, :3] + jittered[:, 3:]).mean(axis=0) / 2 - 15).max() < 0.1


def test_jitter_does_not_change_its_input() -> None:
    boxes = np.array([[1.0, 1, 1, 4, 4, 4]], np.float32)
    jitter_boxes(boxes, generator())
    assert boxes.tolist() == [[1, 1, 1, 4, 4, 4]]


# -- Sampling --------------------------------------------------------------------------------------------------

LESIONS = [[4, 4, 4, 8, 8, 8], [20, 20, 20, 26, 26, 26]]
HITS = [[4.0, 4, 4, 8, 8, 8], [20.0, 20, 20, 26, 26, 26], [5.0, 4, 4, 9, 8, 8]]
MISSES = [[4.0, 20, 4, 8, 24, 8], [20.0, 4, 4, 24, 8, 8], [28.0, 28, 4, 31, 31, 8], [12.0, 12, 12, 15, 15, 15]]


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("lesions", [[], LESIONS])
@pytest.mark.parametrize("proposals", [[], HITS + MISSES])
def test_the_requested_number_of_boxes_is_drawn(
    count: int, lesions: list[list[int]], proposals: list[list[float]]
) -> None:
    chosen = sample(lesions, proposals, [0.9] * len(proposals), count)
    assert chosen.boxes.shape == (count, 6) and len(chosen.classes) == len(chosen.ids) == count


def test_half_of_the_boxes_contain_a_lesion() -> None:
    assert (sample(LESIONS, HITS + MISSES, [0.9] * 7).ids > 0).sum() == 4


@pytest.mark.parametrize(("share", "positives"), [(0.0, 0), (0.25, 2), (0.3, 3), (1.0, 8)])
def test_another_fraction_of_the_boxes_may_contain_a_lesion(share: float, positives: int) -> None:
    targets = make_targets((32, 32, 32), LESIONS)
    chosen = sample_boxes(targets, make_detections([], []), RoiRule(8, 0.3, EXTENT, 1, share), generator())
    assert len(chosen) == 8 and (chosen.ids > 0).sum() == positives


def test_a_volume_without_lesions_gives_only_boxes_without_lesions() -> None:
    assert not sample([], MISSES, [0.9] * 4).ids.any()


def test_positives_are_half_proposals_that_hit() -> None:
    chosen = sample(LESIONS, HITS, [0.9] * 3)
    taken = {tuple(box) for box in chosen.boxes[chosen.ids > 0].tolist()} & {tuple(box) for box in HITS}
    assert len(taken) == 2


def test_proposals_carry_the_label_of_the_lesion_they_hit() -> None:
    chosen = sample(LESIONS, HITS, [0.9] * 3)
    of_box = {tuple(box): int(lesion) for box, lesion in zip(chosen.boxes.tolist(), chosen.ids, strict=True)}
    wanted = {tuple(HITS[0]): 1, tuple(HITS[1]): 2, tuple(HITS[2]): 1}
    assert all(wanted[box] == lesion for box, lesion in of_box.items() if box in wanted)


def test_confident_misses_come_before_the_others() -> None:
    # Of four negatives one is background; three places remain, two confident misses take theirs for sure.
    for seed in range(5):
        chosen = sample(LESIONS, MISSES, [0.9, 0.5, 0.2, 0.1], seed=seed)
        boxes = {tuple(box) for box in chosen.boxes[chosen.ids == 0].tolist()}
        assert {tuple(MISSES[0]), tuple(MISSES[1]), tuple(MISSES[2])} <= boxes
        assert tuple(MISSES[3]) not in boxes


def test_lesions_of_all_sizes_are_drawn_equally_often() -> None:
    lesions = [[0, 0, 0, 1, 1, 1], [4, 4, 4, 24, 24, 24], [28, 28, 28, 30, 30, 30]]
    chosen = sample(lesions, [], [], count=12)
    assert np.bincount(chosen.ids, minlength=4)[1:].tolist() == [2, 2, 2]


def test_truth_boxes_carry_the_class_of_their_lesion() -> None:
    chosen = sample(LESIONS, [], [], classes=[0, 2], num_classes=3)
    for label, lesion in zip(chosen.classes, chosen.ids, strict=True):
        assert lesion == 0 or label == (0, 2)[lesion - 1]


def test_background_boxes_have_background_in_their_middle() -> None:
    targets = make_targets((16, 16, 16), [[0, 0, 0, 16, 16, 8]])
    chosen = sample_boxes(targets, make_detections([], []), RoiRule(40, 0.3, EXTENT, 1), generator())
    centers = ((chosen.boxes[:, :3] + chosen.boxes[:, 3:]) / 2)[chosen.ids == 0]
    assert len(centers) == 20
    assert not targets.instances.numpy()[tuple(np.clip(centers.astype(int), 0, 15).T)].any()


def test_background_boxes_lie_in_the_volume_and_are_smaller_than_the_extent() -> None:
    chosen = sample([], [], [], count=50)
    centers = (chosen.boxes[:, :3] + chosen.boxes[:, 3:]) / 2
    sizes = chosen.boxes[:, 3:] - chosen.boxes[:, :3]
    assert centers.min() >= 0 and centers.max() <= 32
    assert sizes.min() >= 0.3 * 8 - 1e-3 and sizes.max() <= 0.8 * 8 + 1e-3


def test_background_boxes_have_every_class() -> None:
    assert set(sample([], [], [], count=60, num_classes=3).classes.tolist()) == {0, 1, 2}


def test_the_same_seed_gives_the_same_boxes() -> None:
    first, second = (sample(LESIONS, HITS + MISSES, [0.9] * 7, seed=3) for _ in range(2))
    assert np.array_equal(first.boxes, second.boxes) and np.array_equal(first.ids, second.ids)


def test_a_single_place_without_a_lesion_goes_to_an_error_or_to_background_at_random() -> None:
    lesion, wrong = [2, 2, 2, 6, 6, 6], [20.0, 20, 20, 24, 24, 24]
    confident = 0
    for seed in range(200):
        chosen = sample([lesion], [[float(edge) for edge in lesion], wrong], [0.9, 0.8], count=3, seed=seed)
        assert (chosen.ids > 0).sum() == 2
        confident += chosen.boxes[chosen.ids == 0].tolist() == [wrong]
    assert 70 < confident < 130
