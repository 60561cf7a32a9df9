from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.consolidation.stages import PERFECT_STAGE_1, STAGES, TracedLesion, attribute_losses, trace_lesions
from detseg3d.consolidation.true_boxes import TrueBoxLesion
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run
from tests.consolidation.factory import Blob, Box, make_candidates, make_truth, prepare_case, random_candidates

FOUND: Box = (4, 4, 4, 7, 7, 7)
NEVER_SEEN: Box = (18, 2, 2, 20, 4, 4)
SUPPRESSED: Box = (4, 18, 4, 7, 20, 7)
DOUBTED: Box = (18, 18, 18, 22, 22, 22)
BADLY_OUTLINED: Box = (4, 4, 20, 6, 6, 21)
TRUTH = (FOUND, NEVER_SEEN, SUPPRESSED, DOUBTED, BADLY_OUTLINED)

BLOBS = [
    Blob(FOUND, 0.9, 0.9),
    Blob(SUPPRESSED, 0.6, 0.9),
    # A better candidate beside it, at less than half a size: meant for nothing, since its centre lies too far out.
    Blob((4, 21, 4, 7, 23, 7), 0.8, 0.9, mask=(4, 22, 4, 7, 23, 7)),
    Blob(DOUBTED, 0.9, 0.1),  # √0.09 = 0.3 is less than 0.4
    Blob(BADLY_OUTLINED, 0.9, 0.9, mask=(4, 8, 20, 6, 9, 21)),
]


def test_a_lesion_is_lost_at_every_stage(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"suppression_distance": 1.6})
    traced = trace_lesions("a", make_truth(*TRUTH), make_candidates(BLOBS), plans)
    assert traced == [
        TracedLesion("a", 27, (True, True, True, True)),
        TracedLesion("a", 8, (False, False, False, False)),
        TracedLesion("a", 18, (True, False, False, False)),
        TracedLesion("a", 64, (True, True, False, False)),
        TracedLesion("a", 4, (True, True, True, False)),
    ]


def test_the_detection_threshold_belongs_to_the_second_stage(tiny_plans: Plans) -> None:
    [lesion] = trace_lesions("a", make_truth(FOUND), make_candidates([Blob(FOUND, 0.15, 1.0)]), tiny_plans)
    assert lesion.kept == (True, True, False, False)
    plans = tiny_plans.evolve(inference={"candidate_threshold": 0.2})
    [lesion] = trace_lesions("a", make_truth(FOUND), make_candidates([Blob(FOUND, 0.15, 1.0)]), plans)
    assert lesion.kept == (True, False, False, False)


def test_the_score_is_the_calibrated_one(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"calibration": ((0, 0), (0.9, 0.3), (1, 1))})
    [lesion] = trace_lesions("a", make_truth(FOUND), make_candidates([Blob(FOUND, 0.8, 0.8)]), plans)
    assert lesion.kept == (True, True, False, False)


def test_a_lesion_too_small_for_the_mask_is_lost_last(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 30})
    [lesion] = trace_lesions("a", make_truth(FOUND), make_candidates([Blob(FOUND, 0.9, 0.9)]), plans)
    assert lesion.kept == (True, True, True, False)


def test_a_candidate_of_another_class_is_not_meant_for_it(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(class_names=["cyst", "tumour"], class_labels=[1, 2])
    truth = make_truth(FOUND, DOUBTED, classes=[1, 0])
    blobs = [Blob(FOUND, 0.9, 0.9, of_class=0), Blob(DOUBTED, 0.9, 0.9, of_class=0)]
    assert [lesion.kept for lesion in trace_lesions("a", truth, make_candidates(blobs), plans)] == [
        (False,) * 4,
        (True,) * 4,
    ]


def test_the_mask_of_a_neighbour_may_bring_a_lesion_back(tiny_plans: Plans) -> None:
    beside: Box = (4, 4, 8, 7, 7, 9)
    blobs = [Blob(FOUND, 0.9, 0.9, mask=(4, 4, 4, 7, 7, 9))]
    traced = trace_lesions("a", make_truth(FOUND, beside), make_candidates(blobs), tiny_plans)
    assert traced[1].kept == (False, False, False, True)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_lost_before_the_mask_stays_lost(tiny_plans: Plans, seed: int) -> None:
    candidates = random_candidates(seed)
    boxes: list[Box] = [tuple(int(n) for n in box) for box in candidates.detections.boxes.clip(0, 23)[::2]]  # type: ignore[misc]
    plans = tiny_plans.evolve(
        inference={"candidate_threshold": 0.3, "score_threshold": 0.6, "suppression_distance": 0.9}
    )
    traced = trace_lesions("a", make_truth(*boxes), candidates, plans)
    assert traced
    for lesion in traced:
        assert list(lesion.kept[:3]) == sorted(lesion.kept[:3], reverse=True)


def test_healthy_scans_have_no_lesions_to_follow(tiny_plans: Plans) -> None:
    assert trace_lesions("a", make_truth(), make_candidates(BLOBS), tiny_plans) == []


def test_scans_without_candidates_lose_all_at_once(tiny_plans: Plans) -> None:
    assert [lesion.kept for lesion in trace_lesions("a", make_truth(FOUND), make_candidates([]), tiny_plans)] == [
        (False,) * 4
    ]


# -- All cases ---------------------------------------------------------------------------------------------------------


def test_lesions_of_all_cases_are_added_up_by_size(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"suppression_distance": 1.6})
    cases = [
        prepare_case(tmp_path, "a", make_truth(*TRUTH), BLOBS),
        prepare_case(tmp_path, "b", make_truth(FOUND), [Blob(FOUND, 0.9, 0.9)]),
        prepare_case(tmp_path, "healthy", make_truth(), [Blob(FOUND, 0.9, 0.9)]),
    ]
    boxes = [TrueBoxLesion("a", 1, voxels, dice) for voxels, dice in ((10, 0.4), (14, 0.8), (15, 0.9))]
    report = attribute_losses(cases, plans, boxes, run=Run(show_progress=False))
    assert [(row.stage, row.found, row.lesions) for row in report.stages] == [
        (PERFECT_STAGE_1, 6, 6),
        (STAGES[0], 5, 6),
        (STAGES[1], 4, 6),
        (STAGES[2], 3, 6),
        (STAGES[3], 2, 6),
    ]
    assert [row.recall for row in report.stages] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6])
    small, middle, larger, *empty = report.by_size
    assert (small.name, small.lesions) == ("under 15 voxels", 2)  # one never seen, one badly outlined
    assert list(small.recalls) == [1.0, 0.5, 0.5, 0.5, 0.0]
    assert (middle.name, middle.lesions) == ("15 to under 50 voxels", 3)  # two found, one suppressed
    assert list(middle.recalls) == pytest.approx([1, 1, 2 / 3, 2 / 3, 2 / 3])
    assert (larger.lesions, larger.recalls[3]) == (1, 0.0)
    assert [row.lesions for row in empty] == [0, 0] and set(empty[0].recalls) == {None}
    assert report.dice_in_true_boxes == pytest.approx(0.7)
    assert [(row.outlined, row.dice) for row in report.by_size][:3] == [
        (2, pytest.approx(0.6)),
        (1, 0.9),
        (0, None),
    ]


def test_a_lesion_as_large_as_a_limit_belongs_to_the_larger_ones(tmp_path: Path, tiny_plans: Plans) -> None:
    truth = make_truth((4, 4, 4, 9, 7, 5), (16, 16, 16, 18, 23, 17))  # 15 and 14 voxels
    report = attribute_losses([prepare_case(tmp_path, "a", truth, [])], tiny_plans, [], run=Run(show_progress=False))
    assert [row.lesions for row in report.by_size] == [1, 1, 0, 0, 0]


def test_healthy_scans_alone_have_no_recall(tmp_path: Path, tiny_plans: Plans) -> None:
    report = attribute_losses(
        [prepare_case(tmp_path, "a", make_truth(), [])], tiny_plans, [], run=Run(show_progress=False)
    )
    assert [row.recall for row in report.stages] == [None] * 5
    assert report.dice_in_true_boxes is None


def test_the_bound_is_that_of_the_lesions_which_are_traced(tmp_path: Path, tiny_plans: Plans) -> None:
    # Two lesions of a voxel, side by side: of a cell of two voxels only one can be the centre.
    twins: tuple[Box, Box] = ((4, 4, 4, 5, 5, 5), (5, 5, 5, 6, 6, 6))
    assert max(tiny_plans.cell_sizes()[0]) >= 2
    traced = trace_lesions("a", make_truth(*twins, DOUBTED), make_candidates([]), tiny_plans)
    assert [lesion.reachable for lesion in traced].count(False) == 1 and traced[2].reachable
    report = attribute_losses(
        [prepare_case(tmp_path, "a", make_truth(*twins, DOUBTED), [])], tiny_plans, [], run=Run(show_progress=False)
    )
    assert (report.stages[0].found, report.stages[0].lesions) == (2, 3)
    assert report.by_size[0].recalls[0] == 0.5
