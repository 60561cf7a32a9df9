from __future__ import annotations

from itertools import cycle, product
from typing import Any

import numpy as np
import pytest

from detseg3d.consolidation.outcomes import CaseCounts, CaseOutcomes, CaseTruth, map_cases
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.labels import Lesions, lesions_from_semantic
from detseg3d.inference.candidates import Candidates
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.run import Run
from tests.consolidation.factory import (
    SHAPE,
    Blob,
    filled,
    make_candidates,
    make_truth,
    random_candidates,
    random_label,
)
from tests.evaluations import evaluate_maps

ONE = (1.0, 1.0, 1.0)
CALIBRATION = ((0.0, 0.0), (0.3, 0.05), (0.6, 0.7), (1.0, 1.0))


# -- Truth -------------------------------------------------------------------------------------------------------------


def test_true_lesions_are_numbered_by_their_values() -> None:
    instances = np.zeros((5, 6, 7), np.int64)
    instances[1, 1, 1:3], instances[4, 5, 6], instances[0, 0, 0] = 70_000, 3, 500
    truth = CaseTruth.of(Lesions(instances, {3: 1, 500: 0, 70_000: 2}), (3.0, 1.0, 0.5))
    assert (len(truth), truth.classes, truth.voxels) == (3, (1, 0, 2), (1, 1, 2))
    assert (truth.shape, truth.spacing) == ((5, 6, 7), (3.0, 1.0, 0.5))
    expected = np.zeros((5, 6, 7), int)
    expected[1, 1, 1:3], expected[4, 5, 6], expected[0, 0, 0] = 3, 1, 2
    np.testing.assert_array_equal(truth.instances(), expected)


def test_a_label_without_lesions_is_packed() -> None:
    truth = make_truth()
    assert (len(truth), truth.voxels) == (0, ()) and truth.instances().shape == SHAPE and not truth.instances().any()


def test_thousands_of_lesions_are_packed() -> None:
    instances = np.arange(70_000).reshape(1, 7, 10_000)
    truth = CaseTruth.of(Lesions(instances, dict.fromkeys(range(1, 70_000), 0)), ONE)
    np.testing.assert_array_equal(truth.instances(), instances)


# -- Outcomes ----------------------------------------------------------------------------------------------------------


def thresholds(plans: Plans) -> list[InferencePlan]:
    """Settings of all kinds."""
    grid = product((0.1, 0.4), (0.25, 1.0), (0.5, 0.3), (0.0, 0.3, 0.55, 0.7, 0.8), (0.0, 20.0))
    names = ("candidate_threshold", "suppression_distance", "mask_threshold", "score_threshold", "minimum_volume_mm3")
    settings = [dict(zip(names, values, strict=True)) for values in grid][::3]
    grown = [{**setting, "growth_threshold": growth} for setting, growth in zip(settings, cycle((0.2, 0.4, 0.6)))]
    certain = [{**setting, "scan_threshold": scan} for setting, scan in zip(grown, cycle((0.0, 0.0, 0.75)))]
    return [plans.inference.model_copy(update=setting) for setting in certain]


def count_whole_masks(candidates: Candidates, truth: Lesions, plans: Plans) -> CaseCounts:
    """The same by way of the masks of the whole volume and the evaluation of a case."""
    merged = candidates.admitted(plans.inference).merge(plans)
    metrics = evaluate_maps(
        "case",
        truth.instances,
        merged.instances,
        candidates.spacing,
        truth_classes=truth.classes,
        prediction_classes={lesion.id: lesion.class_index for lesion in merged.lesions},
    )
    found, outlined = metrics.overall.detection["any"], metrics.overall.detection["iou_0.1"].found
    return CaseCounts(found.truth, found.found, found.predictions, found.true_positives, outlined, metrics.dice)


@pytest.mark.parametrize("join", [False, True])
@pytest.mark.parametrize(("seed", "classes", "calibration"), [(0, 1, ()), (1, 1, CALIBRATION), (2, 2, ())])
def test_counts_are_those_of_the_whole_mask(
    tiny_plans: Plans, seed: int, classes: int, calibration: Any, join: bool
) -> None:
    plans = tiny_plans.evolve(
        class_names=["cyst", "tumour"][:classes],
        class_labels=[1, 2][:classes],
        inference={"calibration": calibration, "join_touching": join},
    )
    candidates = random_candidates(seed, classes=classes)
    label = random_label(seed, candidates, classes)
    truth = lesions_from_semantic(label, plans.class_labels, None)  # type: ignore[arg-type]
    outcomes = CaseOutcomes(candidates, CaseTruth.of(truth, ONE), plans)
    counts = [outcomes.count(inference) for inference in thresholds(plans)]
    wanted = [
        count_whole_masks(candidates, truth, plans.model_copy(update={"inference": inference}))
        for inference in thresholds(plans)
    ]
    assert counts == wanted
    assert len(set(counts)) > 5  # the settings do make a difference


def test_what_was_learnt_before_changes_nothing(tiny_plans: Plans) -> None:
    """Groups merged under one setting and taken for another are those that the other would have made."""
    truth = make_truth((3, 3, 3, 6, 6, 6))
    shared = CaseOutcomes(random_candidates(3), truth, tiny_plans)
    for inference in thresholds(tiny_plans):
        assert shared.lesions(inference) == CaseOutcomes(random_candidates(3), truth, tiny_plans).lesions(inference)


def test_nothing_is_merged_twice(tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, candidates = make_truth((3, 3, 3, 6, 6, 6)), random_candidates(3)
    first = CaseOutcomes(candidates, truth, tiny_plans)
    counts = [first.count(inference) for inference in thresholds(tiny_plans)]
    merged = []
    monkeypatch.setattr(Candidates, "merge_group", lambda *arguments: merged.append(arguments))
    assert [first.count(inference) for inference in thresholds(tiny_plans)] == counts
    second = CaseOutcomes(candidates, truth, tiny_plans, first.new)
    assert [second.count(inference) for inference in thresholds(tiny_plans)] == counts
    assert merged == [] and second.new == {}


def test_a_group_that_gives_nothing_is_remembered_too(tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = make_candidates([Blob((60, 60, 60, 62, 62, 62), 0.9, 0.9)])
    outcomes = CaseOutcomes(candidates, make_truth(), tiny_plans)
    assert outcomes.lesions(tiny_plans.inference) == []
    monkeypatch.setattr(Candidates, "merge_group", lambda *_: pytest.fail("merged again"))
    assert outcomes.lesions(tiny_plans.inference) == []
    assert CaseOutcomes(candidates, make_truth(), tiny_plans, outcomes.new).lesions(tiny_plans.inference) == []


def test_the_score_threshold_cannot_be_applied_to_a_finished_mask(tiny_plans: Plans) -> None:
    """Why groups are merged again: a weaker candidate's RoI outvotes a stronger one's where that ends."""
    # In the last slice of the strong one, .495 of weight for against .77 against.
    box = (8, 8, 8, 12, 12, 14)
    strong = Blob(box, 0.9, 0.9)
    weak = Blob((8, 8, 13, 12, 12, 16), 0.85, 0.85, mask=(8, 8, 14, 12, 12, 16))
    candidates = make_candidates([strong, weak])
    outcomes = CaseOutcomes(candidates, make_truth(box), tiny_plans)
    plan = tiny_plans.inference
    [first, _] = outcomes.lesions(plan.model_copy(update={"score_threshold": 0.0}))
    [alone] = outcomes.lesions(plan.model_copy(update={"score_threshold": 0.87}))
    assert (first.candidate, alone.candidate) == (0, 0)
    assert (first.voxels, alone.voxels) == (5 * 16, 6 * 16)


def test_hits_are_counted_within_the_class(tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(class_names=["cyst", "tumour"], class_labels=[1, 2])
    truth = make_truth((3, 3, 3, 6, 6, 6), (3, 3, 6, 6, 6, 7), (15, 15, 15, 17, 17, 17), classes=[0, 1, 0])
    blobs = [Blob((3, 3, 3, 6, 6, 7), 0.9, 0.9, 1), Blob((15, 15, 15, 17, 17, 17), 0.8, 0.8)]
    outcomes = CaseOutcomes(make_candidates(blobs), truth, plans)
    lesions = outcomes.lesions(plans.inference)
    assert [(lesion.candidate, lesion.hits, lesion.shared, lesion.voxels) for lesion in lesions] == [
        (0, (2,), (9,), 36),
        (1, (3,), (8,), 8),
    ]
    # True: 27 + 9 + 8 voxels; predicted: 36 + 8; common and of the same class: 9 + 8.
    assert outcomes.count(plans.inference) == CaseCounts(3, 2, 2, 2, 2, 2 * 17 / (44 + 44))


@pytest.mark.parametrize(("blobs", "dice"), [([], 1.0), ([Blob((3, 3, 3, 5, 5, 5), 0.9, 0.9)], 0.0)])
def test_a_healthy_scan_is_counted(tiny_plans: Plans, blobs: list[Blob], dice: float) -> None:
    counts = CaseOutcomes(make_candidates(blobs), make_truth(), tiny_plans).count(tiny_plans.inference)
    assert counts == CaseCounts(0, 0, len(blobs), 0, 0, dice)


def test_the_smallest_volume_is_one_of_millimetres(tiny_plans: Plans) -> None:
    spacing = (2.0, 1.0, 0.25)
    candidates = make_candidates([Blob((3, 3, 3, 5, 5, 5), 0.9, 0.9)], spacing=spacing)  # 8 voxels, 4 mm³
    outcomes = CaseOutcomes(candidates, CaseTruth.of(Lesions(filled(), {}), spacing), tiny_plans)
    for smallest, left in ((4.0, 1), (4.1, 0)):
        inference = tiny_plans.inference.model_copy(update={"minimum_volume_mm3": smallest})
        assert outcomes.count(inference).predictions == left


def test_a_lesion_of_exactly_the_smallest_volume_stays_whatever_is_rounded(tiny_plans: Plans) -> None:
    spacing = (3.0, 0.7, 0.7)
    candidates = make_candidates([Blob((3, 3, 3, 5, 5, 5), 0.9, 0.9)], spacing=spacing)
    outcomes = CaseOutcomes(candidates, CaseTruth.of(Lesions(filled(), {}), spacing), tiny_plans)
    inference = tiny_plans.inference.model_copy(update={"minimum_volume_mm3": 11.76})  # 8 voxels
    assert outcomes.count(inference).predictions == 1


# -- All cases ---------------------------------------------------------------------------------------------------------


def invert(number: int) -> float:
    if number < 0:
        raise DetSeg3DError("negative", value=number)
    return 1 / number


def test_values_come_in_the_order_of_the_cases() -> None:
    assert map_cases(invert, [2, 1], str, "inverting", run=Run(show_progress=False)) == [0.5, 1.0]


def test_the_error_of_a_single_case_is_its_own() -> None:
    with pytest.raises(DetSeg3DError, match=r"^negative\n  found:    -4$"):
        map_cases(invert, [2, -4], str, "inverting", run=Run(show_progress=False))


def test_all_cases_that_fail_are_named() -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)2 case\(s\) cannot be used:\n  case 0: ZeroDivision.*case -4: nega"):
        map_cases(invert, [0, 2, -4], lambda number: f"case {number}", "inverting", run=Run(show_progress=False))


def test_an_error_that_nobody_foresaw_names_its_case() -> None:
    with pytest.raises(DetSeg3DError, match=r"1 case\(s\) cannot be used:\n  0: ZeroDivisionError"):
        map_cases(invert, [0, 2], str, "inverting", run=Run(show_progress=False))
