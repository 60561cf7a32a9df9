"""Where a lesion is what is connected: the parts of a mask that lie apart are lesions of their own, or none."""

from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.components import instances_from_semantic
from detseg3d.models.merging.merge import merge_pasted, merge_rois
from detseg3d.models.merging.paste import paste_predictions
from detseg3d.planning.plans import Plans
from tests.models.factory import line, make_detections, merge_lines, prediction

# The lesion of three voxels that its box means, and one voxel of another that the RoI shows, too: less sure of itself.
PARTS = line(0, 0, [1, 1, 1, 0, 0, 0, 0.75, 0], 0.64)  # scores 0.8 with a detection score of 1


@pytest.fixture(scope="module")
def connected(tiny_plans: Plans) -> Plans:
    return tiny_plans.evolve(inference={"join_touching": True, "score_threshold": 0.5, "growth_threshold": 0.3})


def test_a_part_that_lies_apart_is_a_lesion_of_its_own(connected: Plans) -> None:
    merged = merge_lines(connected, [1.0], [PARTS], 10)
    assert merged.instances[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 2, 0, 0, 0]
    assert [(lesion.candidate, lesion.voxels) for lesion in merged.lesions] == [(0, 3), (0, 1)]
    assert merged.lesions[1].box == (0, 0, 6, 1, 1, 7)


def test_its_score_is_that_of_the_candidate_times_its_highest_probability(connected: Plans) -> None:
    first, second = merge_lines(connected, [1.0], [PARTS], 10).lesions
    assert (first.score, second.score) == pytest.approx((0.8, 0.6), abs=1e-3)
    assert (second.detection_score, second.roi_score) == (first.detection_score, first.roi_score)


@pytest.mark.parametrize(("threshold", "left"), [(0.59, [1, 2]), (0.61, [1])])
def test_a_part_below_the_score_threshold_is_left_out(connected: Plans, threshold: float, left: list[int]) -> None:
    merged = merge_lines(connected.evolve(inference={"score_threshold": threshold}), [1.0], [PARTS], 10)
    assert np.unique(merged.instances[merged.instances > 0]).tolist() == left
    assert (merged.semantic[0, 0, 6] > 0) == (2 in left)


@pytest.mark.parametrize(("smallest", "left"), [(2.0, 2), (2.1, 1), (8.0, 1)])
def test_a_part_smaller_than_lesions_are_is_left_out(connected: Plans, smallest: float, left: int) -> None:
    # But not the lesion that it was a part of, however small.
    plans = connected.evolve(inference={"minimum_detached_part_mm3": smallest})
    merged = merge_lines(plans, [1.0], [PARTS], 10, spacing=(1, 1, 2))
    assert len(merged.lesions) == left and merged.lesions[0].voxels == 3


def test_the_score_is_calibrated_after_that(connected: Plans) -> None:
    calibration = ((0.0, 0.0), (0.6, 0.9), (1.0, 1.0))
    first, second = merge_lines(connected.evolve(inference={"calibration": calibration}), [1.0], [PARTS], 10).lesions
    assert (first.score, second.score) == pytest.approx((0.95, 0.9), abs=1e-3)


def test_the_largest_part_is_the_lesion_whatever_its_probability(connected: Plans) -> None:
    unsure = line(0, 0, [0.6, 0.6, 0, 0, 1, 0], 0.64)
    assert [(lesion.score, lesion.voxels) for lesion in merge_lines(connected, [1.0], [unsure], 8).lesions] == [
        (pytest.approx(0.8), 2),
        (pytest.approx(0.8, abs=1e-3), 1),
    ]


def test_parts_of_one_instance_stay_together_where_labels_number_lesions(connected: Plans) -> None:
    numbered = connected.evolve(inference={"join_touching": False})
    assert [lesion.voxels for lesion in merge_lines(numbered, [1.0], [PARTS], 10).lesions] == [4]


def test_a_part_that_touches_a_lesion_belongs_to_it(connected: Plans) -> None:
    beside = line(7, 1, [1, 1, 1], 1.0)
    merged = merge_lines(connected, [1.0, 1.0], [PARTS, beside], 12)
    assert [(lesion.candidate, lesion.voxels) for lesion in merged.lesions] == [(1, 4), (0, 3)]


def test_crumbs_of_two_lesions_that_touch_are_one_lesion(connected: Plans) -> None:
    # Both outline what lies between them, each a part of it.
    left, right = line(0, 0, [1, 1, 1, 0, 0, 0, 1, 1], 1.0), line(8, 1, [1, 0, 1, 1, 1], 0.64)
    merged = merge_lines(connected, [1.0, 1.0], [left, right], 14)
    assert merged.instances[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2, 0, 3, 3, 3, 0]
    assert [(lesion.candidate, lesion.voxels) for lesion in merged.lesions] == [(0, 3), (0, 3), (1, 3)]


@pytest.mark.parametrize("growth", [0.5, 0.3])
@pytest.mark.parametrize("seed", range(20))
def test_the_lesions_are_the_connected_parts_of_the_mask(connected: Plans, seed: int, growth: float) -> None:
    random = np.random.default_rng(seed)
    boxes = [[int(z), int(y), int(x), int(z) + 7, int(y) + 7, int(x) + 7] for z, y, x in random.integers(0, 14, (8, 3))]
    rois = [prediction(box, index, random.random((7, 7, 7)) ** 8, 1.0) for index, box in enumerate(boxes)]
    plans = connected.evolve(inference={"score_threshold": 0.5, "growth_threshold": growth})
    found = make_detections(boxes, random.uniform(0.1, 1, 8).tolist(), None)
    pasted = paste_predictions(rois, (21, 21, 21))
    merged = merge_pasted(found, pasted, (21, 21, 21), plans, all_parts=True)
    components, _ = instances_from_semantic(merged.semantic > 0, (1,))
    pairs = {(a, b) for a, b in zip(components.ravel().tolist(), merged.instances.ravel().tolist(), strict=True) if a}
    assert len(pairs) == int(components.max()) == len(merged.lesions) > 8


def test_all_parts_are_kept_for_who_asks_for_them(connected: Plans) -> None:
    strict = connected.evolve(inference={"score_threshold": 0.7})
    found = make_detections([[0, 0, 0, 1, 1, 3]], [1.0], None)
    pasted = paste_predictions([PARTS], (1, 1, 10))
    for all_parts, voxels in ((False, [3]), (True, [3, 1])):
        merged = merge_pasted(found, pasted, (1, 1, 10), strict, all_parts=all_parts)
        assert [lesion.voxels for lesion in merged.lesions] == voxels


def test_numbers_widen_for_many_parts(connected: Plans) -> None:
    mask = np.zeros((82, 82, 82))
    mask[::2, ::2, ::2] = 1
    found = make_detections([[0, 0, 0, 82, 82, 82]], [1.0], None)
    merged = merge_rois(found, [prediction([0, 0, 0, 82, 82, 82], 0, mask)], (82, 82, 82), connected)
    assert len(merged.lesions) == int(merged.instances.max()) == 41**3 > 65_535
