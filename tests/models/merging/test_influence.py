"""Lesions of the chosen candidates against lesions of all candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.influence import Influence
from detseg3d.models.merging.merge import Merged, merge_rois
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan

# Chains of RoIs along x: neighbours overlap, touch or lie apart, by chance.
RULE = InferencePlan(score_threshold=0.5, growth_threshold=0.3, join_touching=True)
SHAPE = (2, 2, 60)


def make_rois(starts: list[int], roi_scores: list[float]) -> list[RoiPrediction]:
    """RoIs of 4 voxels along x, with a mask in the middle or everywhere."""
    masks = [torch.tensor([1.0, 1.0, 1.0, 1.0] if start % 3 else [0.0, 1.0, 1.0, 0.0]) for start in starts]
    return [
        RoiPrediction(np.array([0, 0, start, 2, 2, start + 4.0]), index, mask.expand(2, 2, 4).half(), score)
        for index, (start, mask, score) in enumerate(zip(starts, masks, roi_scores, strict=True))
    ]


def make_influence(rois: list[RoiPrediction], scores: list[float], rule: InferencePlan = RULE) -> Influence:
    boxes = np.array([roi.roi for roi in rois], np.float32).reshape(-1, 6)
    found = Detections(boxes, np.array(scores, np.float32), np.zeros(len(rois), np.int64))
    owners = np.arange(len(rois))
    return Influence.of(found, boxes, owners, (1.0, 1.0, 1.0), rule)


def run_in_rounds(influence: Influence, rois: list[RoiPrediction]) -> list[int]:
    """Candidates in the order in which Stage 2 would outline them."""
    is_outlined = np.zeros(len(rois), np.bool_)
    chosen, order = influence.first(), []
    while len(chosen):
        is_outlined[chosen] = True
        order += chosen.tolist()
        chosen = influence.following(is_outlined, [rois[index] for index in order])
    return order


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.floats(0.0625, 1, width=32), st.floats(0, 1, width=32)),
        min_size=1,
        max_size=15,
    )
)
def test_the_chosen_candidates_give_the_lesions_of_all_candidates(
    tiny_plans: Plans, drawn: list[tuple[int, float, float]]
) -> None:
    starts, scores, roi_scores = (list(values) for values in zip(*drawn, strict=True))
    rois = make_rois(starts, roi_scores)
    influence = make_influence(rois, scores)
    order = run_in_rounds(influence, rois)
    assert len(order) == len(set(order))
    plans = tiny_plans.model_copy(update={"inference": RULE})

    def merge(taken: list[RoiPrediction]) -> Merged:
        return merge_rois(influence.candidates, taken, SHAPE, plans)

    chosen, whole = merge([rois[index] for index in sorted(order)]), merge(rois)
    assert np.array_equal(chosen.instances, whole.instances)
    assert chosen.lesions == whole.lesions


def test_a_weak_candidate_is_outlined_only_beside_a_lesion() -> None:
    # Candidate 1 overlaps the lesion of candidate 0. Candidate 2 is as weak and lies apart. Candidate 3 is too weak.
    rois = make_rois([0, 3, 30, 1], [0.9, 0.9, 0.9, 0.9])
    assert run_in_rounds(make_influence(rois, [0.8, 0.2, 0.2, 0.05]), rois) == [0, 1]


def test_a_weak_candidate_beside_a_rejected_candidate_is_left_out() -> None:
    rois = make_rois([0, 3], [0.1, 0.9])  # the score of candidate 0 becomes sqrt(.8 · .1) = .28
    assert run_in_rounds(make_influence(rois, [0.8, 0.2]), rois) == [0]


def test_a_chain_of_weak_candidates_is_followed_to_its_end() -> None:
    rois = make_rois([0, 4, 8, 12, 16], [0.9, 0.9, 0.9, 0.1, 0.9])
    # Candidate 3 gets the score sqrt(.2 · .1) = .14, takes no part, and ends the chain.
    assert run_in_rounds(make_influence(rois, [0.8, 0.2, 0.2, 0.2, 0.2]), rois) == [0, 1, 2, 3]


@pytest.mark.parametrize(("reach", "expected"), [(1.0, [0]), (3.0, [0, 1])])
def test_rois_touch_on_an_output_grid_with_larger_voxels(reach: float, expected: list[int]) -> None:
    rois = make_rois([0, 10], [0.9, 0.9])
    boxes = np.array([roi.roi for roi in rois])
    found = Detections(boxes, np.array([0.8, 0.2]), np.zeros(2, np.int64))
    influence = Influence.of(found, boxes, np.arange(2), (1.0, 1.0, reach), RULE)
    assert run_in_rounds(influence, rois) == expected


def test_without_growth_only_candidates_that_can_be_lesions_are_outlined() -> None:
    rois = make_rois([0, 3], [0.9, 0.9])
    rule = RULE.model_copy(update={"join_touching": False})
    assert run_in_rounds(make_influence(rois, [0.8, 0.2], rule), rois) == [0]


def test_the_calibration_decides_which_candidates_can_be_lesions() -> None:
    rule = RULE.model_copy(update={"calibration": ((0.0, 0.0), (0.8, 0.4), (1.0, 1.0))})
    rois = make_rois([0, 20], [1.0, 1.0])
    # With a score of 1 of Stage 2, candidate 1 gets sqrt(.64) = .8, calibrated .4.
    assert make_influence(rois, [0.9, 0.64], rule).first().tolist() == [0]


def test_a_volume_without_candidates_has_nothing_to_outline() -> None:
    influence = make_influence([], [])
    assert influence.first().tolist() == influence.following(np.zeros(0, np.bool_), []).tolist() == []
