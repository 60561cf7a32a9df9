from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.models.merging.merge import merge_rois, roi_info
from detseg3d.models.merging.scores import candidate_roi_scores, combine_scores
from detseg3d.planning.plans import Plans
from tests.models.factory import line, make_detections, merge_lines, prediction

CUBE = (12, 12, 12)


def filled(shape: Sequence[int], box: Sequence[int]) -> np.ndarray:
    mask = np.zeros(tuple(shape))
    mask[tuple(slice(box[axis], box[axis + 3]) for axis in range(3))] = 1
    return mask


@pytest.fixture(scope="module")
def two_classes(tiny_plans: Plans) -> Plans:
    return tiny_plans.evolve(class_names=["cyst", "tumour"], class_labels=[2, 5])


# -- Scores ----------------------------------------------------------------------------------------------------


def test_the_score_is_the_geometric_mean() -> None:
    assert combine_scores(np.array([0.25, 0.9]), np.array([1.0, 0.0])).tolist() == [0.5, 0.0]


@pytest.mark.parametrize(("weight", "expected"), [(0, 0.04), (1, 0.25), (0.5, 0.1)])
def test_a_stage_may_weigh_more_in_the_score(weight: float, expected: float) -> None:
    combined = combine_scores(np.array([0.25]), np.array([0.04]), detection_weight=weight)
    assert combined == pytest.approx(expected)


def test_a_candidate_is_as_good_as_the_best_of_its_tiles() -> None:
    tiles = [line(0, 1, [0.0], 0.2), line(0, 1, [0.0], 0.7), line(0, 0, [0.0], 0.1)]
    assert candidate_roi_scores(3, tiles).tolist() == [0.1, 0.7, 0]


def test_candidates_below_the_threshold_stay_out_but_keep_their_score(tiny_plans: Plans) -> None:
    merged = merge_lines(tiny_plans, [0.15], [line(0, 0, [1.0] * 4)])
    assert not merged.semantic.any() and merged.lesions == []
    assert merged.scores == pytest.approx([0.15**0.5]) and merged.roi_scores.tolist() == [1]


# -- Averages --------------------------------------------------------------------------------------------------


def test_overlapping_rois_are_averaged_by_score_and_closeness(tiny_plans: Plans) -> None:
    # Closeness along x: 1 - 0.9 · distance / 2 = .325 .775 .775 .325; the second RoI's score is ½.
    rois = [line(0, 0, [0, 0, 1, 1]), line(2, 1, [0, 0, 0, 0])]
    merged = merge_lines(tiny_plans, [1.0, 0.25], rois, 8, keep_probabilities=True)
    assert merged.probabilities is not None
    wanted = [0, 0, 0.775 / (0.775 + 0.5 * 0.325), 0.325 / (0.325 + 0.5 * 0.775), 0, 0, 0, 0]
    assert np.allclose(merged.probabilities[0, 0, 0], wanted, atol=4e-3)
    assert merged.semantic[0, 0].tolist() == [0, 0, 1, 0, 0, 0, 0, 0]


def test_a_poor_roi_cannot_halve_the_probability_of_a_good_roi(tiny_plans: Plans) -> None:
    good, poor = line(2, 0, [0, 0, 1, 1, 1, 1, 0, 0]), line(0, 1, [0.0] * 12)
    merged = merge_lines(tiny_plans, [0.95, 0.2], [good, poor])
    assert merged.lesions[0].voxels == 4


def test_tiles_of_one_candidate_make_one_lesion(tiny_plans: Plans) -> None:
    merged = merge_lines(tiny_plans, [1.0], [line(0, 0, [0, 0] + [1] * 6), line(6, 0, [1] * 6 + [0, 0])])
    assert [(lesion.box, lesion.voxels) for lesion in merged.lesions] == [((0, 0, 2, 1, 1, 12), 10)]


def test_probabilities_are_kept_only_on_request(tiny_plans: Plans) -> None:
    assert merge_lines(tiny_plans, [1.0], [line(0, 0, [1.0])]).probabilities is None


# -- Which lesion has a voxel ----------------------------------------------------------------------------------


def test_touching_lesions_are_parted_by_their_claims(tiny_plans: Plans) -> None:
    # Each RoI also shows the other lesion. Each voxel goes to the RoI with the nearer centre.
    rois = [line(0, 0, [0, 0, 1, 1, 1, 1, 1, 1]), line(4, 1, [1, 1, 1, 1, 1, 1, 0, 0])]
    merged = merge_lines(tiny_plans, [1.0, 0.99], rois)
    assert merged.instances[0, 0, :12].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0]


def test_a_duplicate_is_dropped(tiny_plans: Plans) -> None:
    twice = [line(0, 0, [0, 1, 1, 0], 0.8), line(0, 1, [0, 1, 1, 0], 1.0)]
    merged = merge_lines(tiny_plans, [1.0, 1.0], twice)
    assert [(lesion.candidate, lesion.voxels) for lesion in merged.lesions] == [(1, 2)]


def test_dropping_a_duplicate_leaves_no_hole(tiny_plans: Plans) -> None:
    # The second RoI sees the end of the same lesion and claims its last voxel: 1 of its 5.
    first = line(0, 0, [0] * 3 + [1] * 10 + [0] * 3, 0.81)
    second = line(8, 1, [1] * 5 + [0] * 11, 0.64)
    merged = merge_lines(tiny_plans, [1.0, 1.0], [first, second])
    assert np.flatnonzero(merged.instances[0, 0] == 1).tolist() == list(range(3, 13))


def test_duplicates_that_share_a_lesion_evenly_do_not_lose_it(tiny_plans: Plans) -> None:
    rois = [line(start, index, [1.0] * 12) for index, start in enumerate((0, 3, 6, 9))]
    merged = merge_lines(tiny_plans, [1.0] * 4, [r._replace(probability=torch.ones(1, 1, 12).half()) for r in rois])
    assert (merged.semantic[0, 0, :21] == 1).all()


def test_a_lesion_at_the_border_is_not_a_duplicate(tiny_plans: Plans) -> None:
    # Three quarters of the RoI lie outside the volume, where the border is repeated and the mask with it.
    merged = merge_lines(tiny_plans, [1.0], [line(-9, 0, [1.0] * 10 + [0.0] * 2)])
    assert [(lesion.box, lesion.voxels) for lesion in merged.lesions] == [((0, 0, 0, 1, 1, 1), 1)]


def test_a_candidate_without_rivals_is_not_a_duplicate(tiny_plans: Plans) -> None:
    # Its box reaches out of the volume, so little of its mask is left. Without a neighbour it is not a duplicate.
    alone = line(-9, 0, [1.0] * 10 + [0.0] * 2)
    merged = merge_lines(tiny_plans, [1.0], [alone], boxes=[[0, 0, -9, 1, 1, 1]])
    assert [lesion.voxels for lesion in merged.lesions] == [1]


def test_a_small_lesion_beside_a_large_lesion_is_not_a_duplicate(tiny_plans: Plans) -> None:
    # Its RoI outlines the large lesion, too, as Stage 2 may: there its loss has no weight.
    large = line(0, 0, [0] * 2 + [1] * 12 + [0] * 2, 0.9)
    small = line(9, 1, [1] * 5 + [0, 1, 1] + [0] * 4, 0.25)
    boxes = [[0, 0, 2, 1, 1, 14], [0, 0, 15, 1, 1, 17]]
    merged = merge_lines(tiny_plans, [1.0, 1.0], [large, small], boxes=boxes)
    assert merged.instances[0, 0, 15:17].tolist() == [2, 2]


def test_lesions_are_numbered_by_score(tiny_plans: Plans) -> None:
    rois = [line(0, 0, [1, 1], 0.5), line(8, 1, [1, 1, 1], 1.0)]
    merged = merge_lines(tiny_plans, [1.0, 1.0], rois)
    assert [(lesion.id, lesion.candidate) for lesion in merged.lesions] == [(1, 1), (2, 0)]
    assert merged.instances[0, 0, :12].tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]


def test_more_than_255_lesions_keep_their_own_numbers(tiny_plans: Plans) -> None:
    cube = filled((3, 3, 3), (1, 1, 1, 2, 2, 2))
    places = [3 * np.array(index) for index in np.ndindex(7, 7, 7)]
    rois = [prediction([*p, *(p + 3)], index, cube) for index, p in enumerate(places)]
    found = make_detections([[*p, *(p + 3)] for p in places], [1.0] * len(places))
    merged = merge_rois(found, rois, (21, 21, 21), tiny_plans)
    assert merged.instances.dtype == np.uint16 and merged.semantic.dtype == np.uint8
    assert np.array_equal(np.unique(merged.instances), np.arange(344))
    assert (merged.instances[1::3, 1::3, 1::3] > 0).all() and merged.semantic.sum() == 343


def test_box_and_voxels_describe_the_mask(tiny_plans: Plans) -> None:
    box = (3, 4, 5, 6, 8, 10)
    merged = merge_rois(
        make_detections([box], [0.64]), [prediction([0, 0, 0, *CUBE], 0, filled(CUBE, box), 0.81)], CUBE, tiny_plans
    )
    (lesion,) = merged.lesions
    assert lesion.box == box and lesion.voxels == 3 * 4 * 5
    assert (lesion.detection_score, lesion.roi_score, lesion.score) == pytest.approx((0.64, 0.81, 0.72))
    assert np.array_equal(merged.instances, filled(CUBE, box))


def test_magnified_rois_are_pasted_at_their_place(tiny_plans: Plans) -> None:
    cube = filled((16, 16, 16), (4, 4, 4, 12, 12, 12))  # 2 samples a voxel: voxels 2 to 6 of an RoI of 8
    merged = merge_rois(
        make_detections([[0] * 6], [1.0]), [prediction([2, 3, 4, 10, 11, 12], 0, cube)], CUBE, tiny_plans
    )
    assert np.array_equal(merged.instances, filled(CUBE, (4, 5, 6, 8, 9, 10)))


# -- Classes ---------------------------------------------------------------------------------------------------


def test_classes_get_the_values_of_the_label_files(two_classes: Plans) -> None:
    rois = [line(0, 0, [1, 1]), line(4, 1, [1, 1])]
    merged = merge_lines(two_classes, [1.0, 1.0], rois, 6, classes=[1, 0])
    assert merged.semantic[0, 0].tolist() == [5, 5, 0, 0, 2, 2]


def test_between_classes_the_stronger_claim_decides(two_classes: Plans) -> None:
    rois = [line(0, 0, [0, 0, 1, 1, 1, 1, 1, 1]), line(4, 1, [1, 1, 1, 1, 1, 1, 0, 0])]
    for classes, wanted in (([0, 1], [2] * 4 + [5] * 4), ([1, 0], [5] * 4 + [2] * 4)):
        merged = merge_lines(two_classes, [1.0, 1.0], rois, 12, classes=classes)
        assert merged.semantic[0, 0].tolist() == [0, 0, *wanted, 0, 0]


def test_rois_of_another_class_do_not_enter_the_average(two_classes: Plans) -> None:
    rois = [line(0, 0, [1, 1, 1, 1]), line(0, 1, [0, 0, 0, 0])]
    merged = merge_lines(two_classes, [1.0, 1.0], rois, 4, classes=[0, 1], keep_probabilities=True)
    assert merged.probabilities is not None
    assert np.allclose(merged.probabilities[:, 0, 0], [[1] * 4, [0] * 4], atol=2e-3)


def test_labels_beyond_255_widen_the_segmentation(tiny_plans: Plans) -> None:
    merged = merge_lines(tiny_plans.evolve(class_labels=[300]), [1.0], [line(0, 0, [1])], 2)
    assert merged.semantic.dtype == np.uint16 and merged.semantic[0, 0].tolist() == [300, 0]


# -- Lesions that touch ----------------------------------------------------------------------------------------


NEIGHBOURS = [line(0, 0, [0, 0, 1, 1, 1, 1, 1, 1]), line(4, 1, [1, 1, 1, 1, 1, 1, 0, 0]), line(14, 2, [0, 1, 1, 0])]


def test_touching_masks_are_one_lesion_if_the_plan_joins_masks(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"join_touching": True})
    merged = merge_lines(plans, [0.9, 1.0, 0.5], NEIGHBOURS)
    assert merged.instances[0, 0, :18].tolist() == [0, 0] + [1] * 8 + [0] * 5 + [2, 2, 0]
    first, second = merged.lesions
    assert (first.candidate, first.joined, first.score, first.voxels, first.box) == (
        1,
        (0,),
        1.0,
        8,
        (0, 0, 2, 1, 1, 10),
    )
    assert (second.candidate, second.joined) == (2, ())


def test_touching_masks_stay_apart_if_the_plan_does_not_join_masks(tiny_plans: Plans) -> None:
    merged = merge_lines(tiny_plans, [0.9, 1.0, 0.5], NEIGHBOURS)
    assert [(lesion.candidate, lesion.joined) for lesion in merged.lesions] == [(1, ()), (0, ()), (2, ())]


def test_touching_masks_of_two_classes_stay_apart(two_classes: Plans) -> None:
    plans = two_classes.evolve(inference={"join_touching": True})
    merged = merge_lines(plans, [0.9, 1.0, 0.5], NEIGHBOURS, classes=[0, 1, 1])
    assert [lesion.joined for lesion in merged.lesions] == [(), (), ()]


def test_a_fragment_does_not_join_lesions_that_are_far_apart(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"join_touching": True})
    near = line(4, 0, [0, 1, 1, 1], 1.0)
    far = line(
        8, 1, [1, 0, 0, 0, 0, 0, 1, 1, 1, 0], 0.81
    )  # the first voxel is a fragment that touches the other lesion
    merged = merge_lines(plans, [1.0, 0.9], [near, far])
    assert merged.instances[0, 0, :17].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2, 2, 2]
    assert [lesion.joined for lesion in merged.lesions] == [(), ()]


def test_a_joined_lesion_is_as_large_as_its_parts_together(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"join_touching": True, "minimum_volume_mm3": 5.0})
    assert [lesion.voxels for lesion in merge_lines(plans, [0.9, 1.0, 0.5], NEIGHBOURS).lesions] == [8]


# -- Candidates that extend lesions ----------------------------------------------------------------------------

# A lesion of which the strong candidate outlines the first half, a weak one the whole; and a weak one by itself.
EXTENDED = [
    line(0, 0, [0, 1, 1, 1], 0.64),
    line(0, 1, [0, 1, 1, 1, 1, 1, 1, 0], 0.16),
    line(12, 2, [0, 1, 1, 0], 0.16),
]


def grown(plans: Plans, **inference: Any) -> Plans:
    return plans.evolve(inference={"join_touching": True, "score_threshold": 0.5, "growth_threshold": 0.3, **inference})


def test_a_weak_candidate_extends_the_lesion_that_it_touches_and_is_not_a_lesion(tiny_plans: Plans) -> None:
    merged = merge_lines(grown(tiny_plans), [1.0, 1.0, 1.0], EXTENDED, 16)
    assert merged.instances[0, 0].tolist() == [0] + [1] * 6 + [0] * 9
    [lesion] = merged.lesions
    assert (lesion.candidate, lesion.joined, lesion.score, lesion.voxels) == (0, (1,), 0.8, 6)


@pytest.mark.parametrize(
    "further",
    [{"growth_threshold": 0.41}, {"growth_threshold": 0.5}, {"growth_threshold": 1.0}, {"join_touching": False}],
)
def test_no_candidate_extends_a_lesion_without_a_growth_threshold(tiny_plans: Plans, further: dict[str, Any]) -> None:
    merged = merge_lines(grown(tiny_plans, **further), [1.0, 1.0, 1.0], EXTENDED, 16)
    assert merged.instances[0, 0].tolist() == [0, 1, 1, 1] + [0] * 12


def test_weak_candidates_alone_are_not_a_lesion(tiny_plans: Plans) -> None:
    weak = [line(0, 0, [1, 1, 1], 0.16), line(2, 1, [1, 1, 1], 0.16)]
    assert merge_lines(grown(tiny_plans), [1.0, 1.0], weak, 8).lesions == []


def test_weak_candidates_between_two_lesions_join_the_lesions(tiny_plans: Plans) -> None:
    rois = [line(0, 0, [0, 1, 1, 1], 1.0), line(8, 1, [1, 1, 1, 0], 0.64), line(1, 2, [0, 0, *[1] * 6, 0, 0], 0.16)]
    merged = merge_lines(grown(tiny_plans), [1.0, 1.0, 1.0], rois, 16)
    assert [(lesion.candidate, lesion.joined, lesion.voxels) for lesion in merged.lesions] == [(0, (1, 2), 10)]


def test_the_probabilities_reach_as_far_as_the_extended_lesion(tiny_plans: Plans) -> None:
    merged = merge_lines(grown(tiny_plans), [1.0, 1.0, 1.0], EXTENDED, 16, keep_probabilities=True)
    assert merged.probabilities is not None
    assert ((merged.probabilities[0, 0, 0] >= 0.5) == (merged.semantic[0, 0] > 0)).all()


def test_a_weak_candidate_of_another_class_extends_nothing(two_classes: Plans) -> None:
    rois = [line(0, 0, [0, 1, 1, 1, 0, 0], 0.64), line(4, 1, [1, 1, 1, 1], 0.16)]
    merged = merge_lines(grown(two_classes), [1.0, 1.0], rois, 16, classes=[0, 1])
    assert merged.semantic[0, 0].tolist() == [0, 2, 2, 2] + [0] * 12


# -- Nothing ---------------------------------------------------------------------------------------------------


def test_without_candidates_the_result_is_empty(tiny_plans: Plans) -> None:
    merged = merge_rois(make_detections([], []), [], CUBE, tiny_plans, keep_probabilities=True)
    assert merged.semantic.shape == merged.instances.shape == CUBE
    assert not merged.semantic.any() and not merged.instances.any() and merged.lesions == []
    assert merged.probabilities is not None and merged.probabilities.shape == (1, *CUBE)
    assert merged.scores.shape == (0,)


def test_an_roi_outside_the_volume_gives_nothing(tiny_plans: Plans) -> None:
    outside = prediction([20, 20, 20, 28, 28, 28], 0, np.ones((4, 4, 4)))
    assert merge_rois(make_detections([[0] * 6], [1.0]), [outside], CUBE, tiny_plans).lesions == []


def test_an_empty_mask_gives_no_lesion(tiny_plans: Plans) -> None:
    assert merge_lines(tiny_plans, [1.0], [line(0, 0, [0.0] * 4)]).lesions == []


# -- For people ------------------------------------------------------------------------------------------------


def test_roi_info_names_class_and_label(two_classes: Plans) -> None:
    merged = merge_lines(two_classes, [0.25], [line(2, 0, [1, 1])], 6, classes=[1])
    (info,) = roi_info(merged, two_classes)
    assert info["class"] == "tumour" and info["label"] == 5 and info["id"] == 1
    assert info["box"] == [0, 0, 2, 1, 1, 4] and info["voxels"] == 2 and info["score"] == pytest.approx(0.5)
