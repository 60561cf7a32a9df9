"""Thresholds for unchanged and shifted scans: the scores of shifted lesions are lower than at home."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.objective import Objective
from detseg3d.consolidation.robust_search import MAX_HOME_LOSS
from detseg3d.consolidation.search import SearchInput, SearchResult, search
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.planning.plans import Plans
from detseg3d.system.run import Run
from tests.consolidation.factory import Blob, Box, make_truth, prepare_case

A: Box = (4, 4, 4, 7, 7, 7)
B: Box = (16, 4, 4, 19, 7, 7)
C: Box = (4, 18, 4, 7, 21, 7)
FOLDS = ("0", "1", "2")


def blob(box: Box, score: float) -> Blob:
    return Blob(box, score, score)


def scan(folder: Path, name: str, blobs: list[Blob], shift: str = "") -> PreparedCase:
    """A scan with two lesions of the patient ``name``, in the fold of the last letter of its name."""
    case = prepare_case(folder / (shift or "unchanged"), name, make_truth(A, B), blobs, fold=name[-1])
    return replace(case, stored=replace(case.stored, shift=shift))


def choose(
    home: list[PreparedCase], shifted: list[PreparedCase], plans: Plans, goal: OperatingGoal, **target: float
) -> SearchResult:
    return search(SearchInput(home, plans, shifted), Objective(**target), goal, Run(show_progress=False))


@pytest.fixture
def home(tmp_path: Path) -> list[PreparedCase]:
    """Six patients whose lesions have high scores, with a false positive of a low score."""
    return [
        scan(tmp_path, f"{letter}{fold}", [blob(A, 0.9), blob(B, 0.85), blob(C, 0.12)])
        for letter in "ab"
        for fold in FOLDS
    ]


@pytest.fixture
def faint(tmp_path: Path) -> list[PreparedCase]:
    """The same patients, shifted: the lesions have scores below the threshold of the plan."""
    return [
        scan(tmp_path, f"{letter}{fold}", [blob(A, 0.3), blob(B, 0.25), blob(C, 0.12)], "fainter")
        for letter in "ab"
        for fold in FOLDS
    ]


def test_home_thresholds_ignore_the_shifted_scans(
    home: list[PreparedCase], faint: list[PreparedCase], tiny_plans: Plans
) -> None:
    alone = search(SearchInput(home, tiny_plans), Objective(), run=Run(show_progress=False))
    result = choose(home, faint, tiny_plans, OperatingGoal.HOME)
    assert result.chosen == alone.chosen == tiny_plans.inference.thresholds


def test_robust_thresholds_find_the_lesions_of_shifted_scans(
    home: list[PreparedCase], faint: list[PreparedCase], tiny_plans: Plans
) -> None:
    result = choose(home, faint, tiny_plans, OperatingGoal.ROBUST)
    assert 0.12 < result.chosen.score_threshold <= 0.25
    assert result.cross_fitted() is not None and result.cross_fitted().f1_iou_0_1 == 1.0
    assert result.shifted is not None
    for choice, found in zip(result.goals, (0, 2), strict=True):
        assert {count.outlined for count in result.shifted.of(choice)} == {found}


def test_both_goals_are_compared_whatever_the_goal(
    home: list[PreparedCase], faint: list[PreparedCase], tiny_plans: Plans
) -> None:
    results = [choose(home, faint, tiny_plans, goal) for goal in OperatingGoal]
    assert [[choice.goal for choice in result.goals] for result in results] == [list(OperatingGoal)] * 2
    assert results[0].goals == results[1].goals


def test_robust_thresholds_cost_little_at_home(tmp_path: Path, faint: list[PreparedCase], tiny_plans: Plans) -> None:
    """At home a false positive scores like a shifted lesion: more false positives are not worth the shifted lesions."""
    home = [
        scan(tmp_path, f"{letter}{fold}", [blob(A, 0.9), blob(B, 0.85), blob(C, 0.35)])
        for letter in "ab"
        for fold in FOLDS
    ]
    result = choose(home, faint, tiny_plans, OperatingGoal.ROBUST)
    assert result.metrics(result.chosen).f1_iou_0_1 >= result.metrics(result.default).f1_iou_0_1 - MAX_HOME_LOSS
    assert result.chosen == result.default


def test_with_a_target_the_mean_of_both_kinds_of_scans_reaches_it(
    home: list[PreparedCase], faint: list[PreparedCase], tiny_plans: Plans
) -> None:
    result = choose(home, faint, tiny_plans, OperatingGoal.ROBUST, target_recall=0.9)
    assert result.chosen.score_threshold <= 0.25 and result.describe(home).target_reached


def test_shifted_scans_of_a_patient_are_judged_without_this_patient(
    home: list[PreparedCase], faint: list[PreparedCase], tiny_plans: Plans
) -> None:
    result = choose(home, faint, tiny_plans, OperatingGoal.ROBUST)
    assert result.unchanged is not None and result.shifted is not None
    assert dict(zip([case.case_id for case in result.unchanged.cases], result.unchanged.groups, strict=True)) == dict(
        zip([case.case_id for case in result.shifted.cases], result.shifted.groups, strict=True)
    )


def test_robust_thresholds_need_shifted_scans(home: list[PreparedCase], tiny_plans: Plans) -> None:
    with pytest.raises(ValueError):
        choose(home, [], tiny_plans, OperatingGoal.ROBUST)
