from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.objective import Objective
from detseg3d.consolidation.search import SearchInput, SearchResult, search
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run
from tests.consolidation.factory import Blob, Box, make_candidates, make_truth, prepare_case, random_candidates

F1 = Objective()

A: Box = (4, 4, 4, 7, 7, 7)
B: Box = (16, 4, 4, 19, 7, 7)
C: Box = (4, 18, 4, 7, 21, 7)
D: Box = (16, 18, 18, 19, 21, 21)


def choose(cases: Sequence[PreparedCase], plans: Plans, objective: Objective = F1) -> SearchResult:
    """The choice where nothing is left to chance: three patients with the same scans."""
    repeated = [
        replace(case, stored=replace(case.stored, case_id=f"{case.stored.case_id}_{n}", patient=f"patient {n}"))
        for n in range(3)
        for case in cases
    ]
    return search(SearchInput(repeated, plans), objective, run=Run(show_progress=False))


def choose_once(cases: Sequence[PreparedCase], plans: Plans, objective: Objective = F1) -> SearchResult:
    """The choice where every case is a patient of its own."""
    return search(SearchInput(cases, plans), objective, run=Run(show_progress=False))


def blob(box: Box, score: float, **more: Any) -> Blob:
    """Both stages are equally sure."""
    return Blob(box, score, score, **more)


# -- The search --------------------------------------------------------------------------------------------------------


def test_a_false_positive_is_cut_off_by_the_score(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [
        prepare_case(tmp_path, "a", make_truth(A, B), [blob(A, 0.8), blob(B, 0.9), blob(C, 0.5)]),
        prepare_case(tmp_path, "healthy", make_truth(), [blob(D, 0.6)]),
    ]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.default).f1_iou_0_1 == pytest.approx(2 / 3)  # 2 of 4 predictions
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0 and 0.6 < result.chosen.score_threshold <= 0.8
    assert result.chosen.evolve(score_threshold=0.4) == result.default


def test_a_lesion_is_won_by_a_lower_score(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A, B), [blob(A, 0.9), blob(B, 0.22), blob(C, 0.18)])]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0 and 0.18 < result.chosen.score_threshold <= 0.22


def test_scores_that_lie_close_are_told_apart(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A, B), [blob(A, 0.9), blob(B, 0.627), blob(C, 0.622)])]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0


def test_the_plan_stays_where_nothing_is_better(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.9)])]
    result = choose(cases, tiny_plans)
    assert result.chosen == result.default == tiny_plans.inference.thresholds


def test_scores_are_tried_on_the_calibrated_scale(tmp_path: Path, tiny_plans: Plans) -> None:
    knots = ((0.0, 0.0), (0.5, 0.01), (1.0, 1.0))  # 0.5 becomes 0.01, 0.55 becomes 0.109
    plans = tiny_plans.evolve(inference={"calibration": knots, "score_threshold": 0.008})
    cases = [prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.57), blob(C, 0.53)])]
    result = choose(cases, plans)
    tried = [setting.score_threshold for setting in result.counts]
    for calibrated in (0.002, 0.01, 0.109, 0.505):  # of 0.1, 0.5, 0.55 and 0.75
        assert any(score == pytest.approx(calibrated) for score in tried)
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0 and 0.0694 < result.chosen.score_threshold < 0.149


def test_duplicates_beside_a_lesion_are_suppressed(tmp_path: Path, tiny_plans: Plans) -> None:
    """Its centre lies 3/4 of a size away: only a larger distance than the plan's 1/2 takes it for a duplicate."""
    beside = Blob((4, 4, 8, 8, 8, 12), 0.8, 1.0, mask=(4, 4, 10, 8, 8, 12))
    truth = make_truth((4, 4, 4, 8, 8, 8))
    lesion = Blob((4, 4, 5, 8, 8, 9), 0.9, 0.9, mask=(4, 4, 4, 8, 8, 8))
    cases = [prepare_case(tmp_path, "a", truth, [lesion, beside])]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.default).f1_iou_0_1 == pytest.approx(2 / 3)
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0
    assert result.chosen.suppression_distance == 1.0  # the beside one has the better score of the two


def test_the_outline_of_the_highest_dice_is_chosen(tmp_path: Path, tiny_plans: Plans) -> None:
    outer: Box = (3, 3, 3, 8, 8, 8)
    soft = [Blob(box, 0.9, 0.9, mask=outer, probability=0.55) for box in (A,)]
    inner = [Blob(D, 0.9, 0.9, probability=0.65)]
    cases = [prepare_case(tmp_path, "a", make_truth(A, D), [*soft, *inner])]
    result = choose(cases, tiny_plans)
    # At 0.5 the first mask has 125 voxels where 27 are true; at 0.6 it has none, which no outline is worth.
    assert result.chosen.mask_threshold == 0.5
    cases = [
        prepare_case(tmp_path, "b", make_truth(outer, D), [Blob(A, 0.9, 0.9, mask=outer, probability=0.45), *inner])
    ]
    result = choose(cases, tiny_plans)
    assert result.chosen.mask_threshold == 0.4 and result.metrics(result.chosen).f1_iou_0_1 == 1.0


def test_no_outline_is_worth_a_lesion(tmp_path: Path, tiny_plans: Plans) -> None:
    """A higher mask threshold would outline the large lesion well, and lose the small one."""
    large: Box = (12, 12, 12, 18, 18, 18)
    candidates = make_candidates(
        [
            Blob(large, 0.9, 0.9, mask=(11, 11, 11, 19, 19, 19), probability=0.55),
            Blob(A, 0.8, 0.9, probability=0.55),
            blob(C, 0.5),  # none
        ]
    )
    candidates.predictions[0].probability[2:8, 2:8, 2:8] = 0.9
    result = choose([prepare_case(tmp_path, "a", make_truth(A, large), candidates)], tiny_plans)
    better = result.metrics(result.chosen.evolve(mask_threshold=0.6))
    assert better.dice > 0.9 > 0.7 > result.metrics(result.chosen).dice and better.recall_iou_0_1 == 0.5
    assert result.chosen.mask_threshold == 0.5 and result.metrics(result.chosen).f1_iou_0_1 == 1.0


def test_a_stricter_detection_threshold_is_found(tmp_path: Path, tiny_plans: Plans) -> None:
    """The RoI stage is sure of a candidate that Stage 1 doubts, and less sure of one that Stage 1 is sure of."""
    blobs = [Blob(A, 0.9, 0.3), Blob(C, 0.28, 0.99), Blob(B, 0.9, 0.31)]
    cases = [prepare_case(tmp_path, "a", make_truth(A, B), blobs)]
    result = choose(cases, tiny_plans)
    assert result.chosen.candidate_threshold == 0.3 and result.metrics(result.chosen).f1_iou_0_1 == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_choice_is_never_worse_than_the_plan(tmp_path: Path, tiny_plans: Plans, seed: int) -> None:
    truths = [make_truth(A, D), make_truth(B, C, D), make_truth()]
    cases = [
        prepare_case(tmp_path, f"case{index}", truth, random_candidates(3 * seed + index), fold=str(index % 2))
        for index, truth in enumerate(truths)
    ]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.chosen).f1_iou_0_1 >= result.metrics(result.default).f1_iou_0_1


@pytest.mark.parametrize("objective", [Objective(target_recall=0.5), Objective(target_fp=1)])
def test_a_target_moves_the_score_not_the_masks(tmp_path: Path, tiny_plans: Plans, objective: Objective) -> None:
    """Beside a score threshold that fits another mask each variant would miss the target, the better ones as well."""
    truths = [make_truth(A, D), make_truth(B, C), make_truth(A, B, C)]
    cases = [prepare_case(tmp_path, f"case{i}", truth, random_candidates(i)) for i, truth in enumerate(truths)]
    targeted, highest = choose(cases, tiny_plans, objective).chosen, choose(cases, tiny_plans).chosen
    of_scores = ("score_threshold", "scan_threshold", "minimum_volume_mm3")
    assert targeted.evolve(**{name: getattr(highest, name) for name in of_scores}) == highest


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"suppression_distance": 1.5, "suppression_iou": 0.6, "candidate_threshold": 0.2},
        {"suppression_distance": 0.0},
    ],
)
def test_nothing_is_tried_that_was_not_stored(tmp_path: Path, tiny_plans: Plans, plan: dict[str, float]) -> None:
    """Stored candidates passed the plan's detection threshold, half its distance and an IoU of 0.5 or the plan's."""
    plans = tiny_plans.evolve(inference=plan)
    own = plans.inference
    cases = [prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.9), blob(C, 0.95)])]
    tried = list(choose(cases, plans).counts)
    assert min(setting.suppression_distance for setting in tried) == own.suppression_distance / 2
    assert max(setting.suppression_iou for setting in tried) <= max(own.suppression_iou, 0.5)
    assert min(setting.candidate_threshold for setting in tried) == own.candidate_threshold
    for setting in tried:
        assert plans.evolve(inference=setting.values()).inference.model_dump() == {
            **own.model_dump(),
            **setting.values(),
        }


def test_no_network_is_run(tmp_path: Path, tiny_plans: Plans, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.9), blob(C, 0.8)])]
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("a network was run"))
    assert len(choose(cases, tiny_plans).counts) > 30


# -- Targets -----------------------------------------------------------------------------------------------------------

# A, B and C are lesions.
TARGETS = [
    blob(A, 0.9),
    blob(D, 0.7),
    blob(B, 0.6),
    blob((4, 18, 18, 7, 21, 21), 0.5),
    blob((16, 4, 18, 19, 7, 21), 0.45),
    blob(C, 0.3),
]


def test_a_recall_is_reached_at_the_highest_precision(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A, B, C), TARGETS)]
    for target, threshold, precision in ((0.3, (0.7, 0.9), 1.0), (0.6, (0.5, 0.6), 2 / 3), (1.0, (0.0, 0.3), 1 / 2)):
        result = choose(cases, tiny_plans, Objective(target_recall=target))
        found = result.metrics(result.chosen)
        assert found.precision_iou_0_1 == pytest.approx(precision) and result.objective.is_reached(found)
        assert threshold[0] <= result.chosen.score_threshold <= threshold[1] + 1e-6


def test_false_positives_are_kept_within_the_target(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [
        prepare_case(tmp_path, "a", make_truth(A, B, C), TARGETS),
        prepare_case(tmp_path, "b", make_truth(), []),
    ]
    for target, recall in ((0.4, 1 / 3), (0.5, 2 / 3), (1.4, 2 / 3), (1.5, 1.0)):
        result = choose(cases, tiny_plans, Objective(target_fp=target))
        found = result.metrics(result.chosen)
        assert found.recall_iou_0_1 == pytest.approx(recall) and result.objective.is_reached(found)


def test_a_recall_that_no_threshold_gives_is_approached(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(A, B, C), [blob(A, 0.9), blob(B, 0.15), blob(D, 0.5)])]
    result = choose(cases, tiny_plans, Objective(target_recall=0.9))
    found = result.metrics(result.chosen)
    assert found.recall_iou_0_1 == pytest.approx(2 / 3) and not result.objective.is_reached(found)


def test_false_positives_that_no_threshold_avoids_are_kept_few(tmp_path: Path, tiny_plans: Plans) -> None:
    blobs = [blob(A, 0.5), blob(B, 0.9), blob(C, 0.8), blob(D, 0.45)]
    cases = [prepare_case(tmp_path, "a", make_truth(A), blobs)]
    result = choose(cases, tiny_plans, Objective(target_fp=0.5))
    found = result.metrics(result.chosen)
    # To predict nothing would have none, but finds nothing.
    assert (found.recall_iou_0_1, found.fp_per_scan_iou_0_1) == (1.0, 2.0) and not result.objective.is_reached(found)


# -- The smallest lesion -----------------------------------------------------------------------------------------------


def specks(count: int) -> list[Blob]:
    """Single voxels that both stages are as sure of as of anything."""
    return [blob((12, 2 + 6 * n, 24, 13, 3 + 6 * n, 25), 0.9) for n in range(count)]


def test_small_lesions_go_where_it_pays(tmp_path: Path, tiny_plans: Plans) -> None:
    spacing = (2.0, 1.0, 1.0)
    cases = [prepare_case(tmp_path, "a", make_truth(A, B, spacing=spacing), [blob(A, 0.9), blob(B, 0.9), *specks(4)])]
    result = choose(cases, tiny_plans)
    assert result.chosen.minimum_volume_mm3 == 3.0  # one and a half voxels: the least that does it
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0
    assert result.metrics(result.chosen.evolve(minimum_volume_mm3=0.0)).f1_iou_0_1 == pytest.approx(0.5)


def test_small_lesions_stay_where_they_are_lesions(tmp_path: Path, tiny_plans: Plans) -> None:
    small: list[Box] = [entry.box for entry in specks(4)]
    cases = [prepare_case(tmp_path, "a", make_truth(A, *small), [blob(A, 0.9), *specks(4)])]
    assert choose(cases, tiny_plans).chosen.minimum_volume_mm3 == 0.0


def test_small_lesions_stay_where_little_is_gained(tmp_path: Path, tiny_plans: Plans) -> None:
    """One speck beside 108 lesions: F1 216 / 217."""
    lattice: list[Box] = [(z, y, x, z + 2, y + 2, x + 2) for z in (4, 14) for y in (5, 15) for x in (4, 13, 22)]
    full = make_truth(*lattice)
    speck = blob((20, 22, 9, 21, 23, 10), 0.9)
    cases = [
        prepare_case(tmp_path, f"c{n}", full, [blob(box, 0.9) for box in lattice] + [speck] * (n == 0))
        for n in range(9)
    ]
    result = choose_once(cases, tiny_plans)
    assert result.metrics(result.default).f1_iou_0_1 == pytest.approx(216 / 217)
    assert any(result.metrics(setting).f1_iou_0_1 == 1 for setting in result.counts)
    assert result.chosen == result.default


def test_a_smallest_volume_of_the_plan_must_pay_as_well(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 28.0})
    cases = [prepare_case(tmp_path, "a", make_truth(A, B), [blob(A, 0.9), blob(B, 0.9)])]
    result = choose(cases, plans)
    assert result.default.minimum_volume_mm3 == 28.0 and result.metrics(result.default).recall_iou_0_1 == 0.0
    assert result.chosen == result.default.evolve(minimum_volume_mm3=0.0)


def test_a_smallest_volume_of_the_plan_stays_if_it_pays(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 25.0})
    blobs = [blob(A, 0.9), blob((12, 4, 18, 15, 7, 20), 0.9), blob(D, 0.5)]  # of 27, 18 and 27 voxels
    cases = [prepare_case(tmp_path, "a", make_truth(A), blobs)]
    result = choose(cases, plans)
    assert result.chosen.minimum_volume_mm3 == 25.0 and result.chosen.score_threshold > 0.5
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0


# -- Scans without lesions ---------------------------------------------------------------------------------------------


def some_healthy(
    folder: Path, healthy: Sequence[float], best: Sequence[float], weak: float = 0.5
) -> list[PreparedCase]:
    """Scans without lesions, each with a false positive of that score; and scans with two, the better one of that."""
    return [
        *(
            prepare_case(folder, f"healthy{n}", make_truth(), [blob(D, score)], f"fold_{n % 2}")
            for n, score in enumerate(healthy)
        ),
        *(
            prepare_case(folder, f"lesions{n}", make_truth(A, B), [blob(A, score), blob(B, weak)], f"fold_{n % 2}")
            for n, score in enumerate(best)
        ),
    ]


def test_a_scan_without_a_certain_lesion_is_called_healthy(tmp_path: Path, tiny_plans: Plans) -> None:
    result = choose(some_healthy(tmp_path, [0.52, 0.54, 0.58, 0.54, 0.52, 0.58], [0.92] * 20), tiny_plans)
    # Between the scores of the scans without lesions and those of the best lesions of the others: .6 to .9.
    assert result.chosen.scan_threshold == pytest.approx(0.75)
    metrics = result.metrics(result.chosen)
    assert (metrics.f1_iou_0_1, metrics.fp_per_scan_iou_0_1, metrics.dice) == (1.0, 0.0, 1.0)
    fitted = result.cross_fitted()
    assert fitted is not None and fitted.dice == 1.0


def test_two_scans_without_lesions_are_too_few_to_say(tmp_path: Path, tiny_plans: Plans) -> None:
    result = choose_once(some_healthy(tmp_path, [0.52, 0.54], [0.92] * 20), tiny_plans)
    assert result.chosen.scan_threshold == 0.0


def test_scans_with_lesions_are_not_given_up_for_those_without(tmp_path: Path, tiny_plans: Plans) -> None:
    """As many scans whose only lesion is as weak: what is won on one side is lost on the other."""
    cases = some_healthy(tmp_path, [0.52] * 4, [0.92] * 20)
    cases += [prepare_case(tmp_path, f"faint{n}", make_truth(A), [blob(A, 0.51)], f"fold_{n % 2}") for n in range(4)]
    assert choose(cases, tiny_plans).chosen.scan_threshold == 0.0


def test_a_scan_threshold_of_the_plan_must_pay_as_well(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"scan_threshold": 0.95})
    result = choose([prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.9)])], plans)
    assert result.default.scan_threshold == 0.95 and result.metrics(result.default).recall_iou_0_1 == 0.0
    assert result.chosen == result.default.evolve(scan_threshold=0.0)


# -- Folds -------------------------------------------------------------------------------------------------------------


def test_without_a_fold_the_search_is_that_of_the_others(tmp_path: Path, tiny_plans: Plans) -> None:
    """Every fold gains by a lower threshold, but down to where differs: below lie false positives."""
    scores = ((0.30, 0.11), (0.22, 0.12), (0.34, 0.18))
    cases = [
        prepare_case(
            tmp_path,
            f"case{index}",
            make_truth(A, B),
            [blob(A, 0.9), blob(B, lesion), blob(C, wrong)],
            fold=str(index),
        )
        for index, (lesion, wrong) in enumerate(scores)
    ]
    result = choose(cases, tiny_plans)
    assert set(result.chosen_without) == {"0", "1", "2"} and len(set(result.chosen_without.values())) > 1
    for fold, setting in result.chosen_without.items():
        others = [case for case in cases if case.stored.fold != fold]
        assert choose(others, tiny_plans).chosen == setting


def test_a_single_fold_has_no_cross_fitted_figure(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, name, make_truth(A), [blob(A, 0.9), blob(C, 0.5)]) for name in ("a", "b")]
    result = choose(cases, tiny_plans)
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0 and not result.plan_kept
    assert result.chosen_without == {} and result.cross_fitted() is None


# -- Noise -------------------------------------------------------------------------------------------------------------


def noisy(folder: Path, seed: int, patients: int) -> list[PreparedCase]:
    """Candidates whose scores say nothing, in five folds: no threshold is better than another on new scans."""
    random = np.random.default_rng(seed)
    cases = []
    for n in range(patients):
        blobs = [blob(box, float(random.uniform(0.3, 0.9))) for box in (A, B, C, D)]
        cases.append(prepare_case(folder, f"c{seed}_{n}", make_truth(A, C), blobs, fold=str(n % 5)))
    return cases


@pytest.mark.parametrize("seed", range(3))
def test_the_plan_is_kept_where_the_gain_is_noise(tmp_path: Path, tiny_plans: Plans, seed: int) -> None:
    result = choose_once(noisy(tmp_path, seed, 10), tiny_plans)
    best = max(result.metrics(setting).f1_iou_0_1 for setting in result.counts)
    assert best > result.metrics(result.default).f1_iou_0_1 + 0.01, "there is something to fall for"
    assert result.plan_kept and set(result.chosen_without.values()) == {result.default}
    assert result.cross_fitted() == result.metrics(result.default)


def test_a_gain_in_every_patient_is_taken(tmp_path: Path, tiny_plans: Plans) -> None:
    """The scores are right, but the plan's threshold lies above half of the lesions'."""
    cases = [
        prepare_case(tmp_path, f"c{n}", make_truth(A, B), [blob(A, 0.6), blob(B, 0.3), blob(C, 0.15)], fold=str(n % 5))
        for n in range(10)
    ]
    result = choose_once(cases, tiny_plans)
    fitted = result.cross_fitted()
    assert fitted is not None and fitted.f1_iou_0_1 == 1.0 > result.metrics(result.default).f1_iou_0_1
    assert result.gain is not None and result.gain.f1_low > 0


def test_a_gain_that_the_left_out_fold_does_not_share_is_not_taken(tmp_path: Path, tiny_plans: Plans) -> None:
    """Most cases need a lower threshold, but all of them are one fold's; for the other fold it is worse."""
    low, high = [blob(A, 0.6), blob(B, 0.3)], [blob(A, 0.6), blob(B, 0.55), blob(C, 0.38)]
    cases = [prepare_case(tmp_path, f"low{n}", make_truth(A, B), low, fold="0") for n in range(8)]
    cases += [prepare_case(tmp_path, f"high{n}", make_truth(A, B), high, fold="1") for n in range(3)]
    result = choose_once(cases, tiny_plans)
    tempting = result.default.evolve(score_threshold=0.25)
    assert result.metrics(tempting).f1_iou_0_1 > result.metrics(result.default).f1_iou_0_1 + 0.1
    assert result.plan_kept and result.gain is not None and result.gain.f1 < 0


def test_two_cases_tell_nothing(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, f"c{n}", make_truth(A), [blob(A, 0.3)], fold=str(n)) for n in range(2)]
    assert choose_once(cases, tiny_plans).plan_kept


def test_masks_that_are_too_large_do_not_win(tmp_path: Path, tiny_plans: Plans) -> None:
    """At a mask threshold of 0.3 a huge mask also touches the neighbour, so at any overlap it finds both lesions."""
    neighbour: Box = (4, 4, 9, 5, 5, 10)
    huge = Blob(A, 0.9, 0.9, mask=(1, 1, 1, 10, 10, 10), probability=0.35)
    cases = []
    for n in range(6):
        candidates = make_candidates([huge])
        candidates.predictions[0].probability[4:7, 4:7, 4:7] = 1.0
        cases.append(prepare_case(tmp_path, f"c{n}", make_truth(A, neighbour), candidates, fold=str(n % 3)))
    result = choose_once(cases, tiny_plans)
    large = result.metrics(result.default.evolve(mask_threshold=0.3))
    assert large.f1_any > result.metrics(result.default).f1_any, "at any overlap it would win"
    assert result.chosen.mask_threshold == 0.5


def test_healthy_scans_alone_can_be_searched(tmp_path: Path, tiny_plans: Plans) -> None:
    cases = [prepare_case(tmp_path, "a", make_truth(), [blob(A, 0.9)]), prepare_case(tmp_path, "b", make_truth(), [])]
    result = choose(cases, tiny_plans)
    assert (
        result.metrics(result.chosen).fp_per_scan_iou_0_1 == 0.0
        and result.metrics(result.default).fp_per_scan_iou_0_1 == 0.5
    )
    assert all(
        math.isfinite(value)
        for tried in result.tried()
        for value in tried.to_json().values()
        if isinstance(value, float)
    )


def test_classes_are_told_apart(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(class_names=["cyst", "tumour"], class_labels=[1, 2])
    blobs = [blob(A, 0.9), blob(B, 0.9, of_class=1), blob(C, 0.6, of_class=1)]  # C is a cyst
    cases = [prepare_case(tmp_path, "a", make_truth(A, B, C, classes=[0, 1, 0]), blobs)]
    result = choose(cases, plans)
    plan = result.metrics(result.default)
    assert (plan.recall_any, plan.precision_any) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert result.metrics(result.chosen).precision_iou_0_1 == 1.0


def test_candidates_that_cannot_be_read_are_named(tmp_path: Path, tiny_plans: Plans) -> None:
    case = prepare_case(tmp_path, "a", make_truth(A), [blob(A, 0.9)])
    case.stored.candidates.write_bytes(b"")
    with pytest.raises(DetSeg3DError, match=r"(?s)stored candidates cannot be read.*a\.npz"):
        choose([case], tiny_plans)


# -- What extends a lesion ---------------------------------------------------------------------------------------------

LARGE: Box = (4, 4, 4, 7, 7, 15)


def two_halves(tmp_path: Path) -> list[PreparedCase]:
    """One half of a lesion is found for sure, the other hardly; elsewhere something as weak is none."""
    sure, hardly = blob((4, 4, 4, 7, 7, 8), 0.9, mask=LARGE), blob((4, 4, 10, 7, 7, 15), 0.3, mask=LARGE)
    return [prepare_case(tmp_path, "a", make_truth(LARGE, B), [sure, hardly, blob(B, 0.8), blob(D, 0.31)])]


def test_weak_candidates_may_extend_a_lesion_where_that_outlines_it_better(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"join_touching": True})
    result = choose(two_halves(tmp_path), plans)
    assert result.chosen.growth_threshold <= 0.3 < result.chosen.score_threshold
    assert result.metrics(result.chosen).f1_iou_0_1 == 1.0 and result.metrics(result.chosen).dice == 1.0
    assert result.metrics(result.default).dice < 0.9


def test_growth_is_not_searched_where_masks_are_not_joined(tmp_path: Path, tiny_plans: Plans) -> None:
    result = choose(two_halves(tmp_path), tiny_plans)
    assert {setting.growth_threshold for setting in result.counts} == {1.0}


def test_a_plan_s_own_smallest_volume_and_scan_threshold_can_be_described(tmp_path: Path, tiny_plans: Plans) -> None:
    plans = tiny_plans.evolve(inference={"minimum_volume_mm3": 25.0, "scan_threshold": 0.95})
    fragment: Box = (12, 4, 18, 15, 7, 20)  # 18 voxels
    cases = [
        prepare_case(tmp_path, "a", make_truth(A, B), [blob(A, 0.97), blob(B, 0.6), blob(fragment, 0.97)]),
        prepare_case(tmp_path, "healthy", make_truth(), [blob(D, 0.9)]),
    ]
    result = search(SearchInput(cases, plans), Objective(), run=Run(show_progress=False))
    assert result.chosen == result.default, "one scan without lesions is too few to search a scan threshold"
    choice = result.describe(cases)
    assert choice.metrics.plan.f1_iou_0_1 == 1.0 and choice.f1_without_minimum == pytest.approx(0.8)
