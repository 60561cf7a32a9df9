"""Every plan keeps the rules of the survey, and every rule can be broken."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from benchmarks.survey.kinds import KINDS
from benchmarks.survey.model import Kind, Rule
from benchmarks.survey.rules import PlannedKind, check, check_outlier, check_scale, limited, nnunet_spacing, plan_kind
from tests.planning.factory import make_dataset, make_fingerprint

# Sets are cut to so many scans: the whole sets are planned by python -m benchmarks.survey.
MOST_CASES = 40
# A second plan for kinds of each sort: few slices, anisotropic, crowded, nanometres, kilometres, mixed.
TWICE_PLANNED = (
    "lits",
    "verse",
    "autopet",
    "isles",
    "wmh",
    "ms_mixed",
    "picai",
    "spine_metastases",
    "synapses",
    "pores",
    "oct_fluid",
    "seismic_km",
    "one_slice",
    "three_slices",
    "one_body_among_heads",
    "mixed_fields",
    "one_voxel",
    "only_negatives",
)


@cache
def planned(kind: Kind) -> PlannedKind:
    return plan_kind(limited(kind, MOST_CASES))


def named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def broken(kind: Kind, violations: list[Any]) -> list[str]:
    return [f"{entry.rule.name}: {entry.description}" for entry in violations if not kind.is_exempt(entry.rule)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_plan_keeps_the_rules(kind: Kind) -> None:
    assert broken(kind, check(planned(kind))) == []


@pytest.mark.parametrize("name", TWICE_PLANNED)
def test_neither_an_outlying_scan_nor_another_unit_changes_the_plan(name: str) -> None:
    kind = named(name)
    first = planned(kind)
    assert broken(kind, [*check_outlier(first), *check_scale(first)]) == []


def test_an_exemption_says_why() -> None:
    assert all(len(exemption.reason) > 20 for kind in KINDS for exemption in kind.exemptions)


@pytest.fixture(scope="module")
def usual() -> PlannedKind:
    return planned(named("two_cases"))


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        (Rule.ROI_IN_VOLUME, {"planned_shape": (3, 96, 96)}),
        (Rule.MEMORY, {"predicted_training_gb": 9.0}),
        (Rule.MEMORY, {"predicted_inference_gb": 9.0}),
        (Rule.CANDIDATES, {"inference": {"min_candidates": 1, "max_candidates": 1}}),
        (Rule.STEPS, {"training": {"steps": 965}}),
        (Rule.STEPS, {"training": {"steps": 1_000_000}}),
        (Rule.ROI_MAGNIFICATION, {"roi": {"minimum_extent": (200.0, 200.0, 200.0)}}),
        (Rule.ROI_MAGNIFICATION, {"roi": {"max_scale": 0.25}}),
        (Rule.SMALLEST_CELL, {"detection_spacing": (20.0, 20.0, 20.0)}),
    ],
)
def test_a_plan_that_breaks_a_rule_is_found(rule: Rule, changes: dict[str, Any], usual: PlannedKind) -> None:
    assert check(usual) == []
    assert [entry.rule for entry in check(usual._replace(plans=usual.plans.evolve(**changes)))].count(rule) == 1


def test_a_level_without_lesions_is_found(usual: PlannedKind) -> None:
    stage1 = {"head_stages": (0, 1, 2), "level_max_sizes": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0))}
    plans = usual.plans.evolve(stage1=stage1)
    assert Rule.LEVELS in [entry.rule for entry in check(usual._replace(plans=plans))]


def test_a_low_bound_and_a_slow_plan_are_found(usual: PlannedKind) -> None:
    lesions = usual.plans.recall_bound.lesions
    bound = {"found": 0, "found_below_cell": 0, "lost_same_cell": lesions, "by_class": (), "by_size": (), "bound": 0.0}
    slow = usual._replace(plans=usual.plans.evolve(recall_bound=bound), seconds=60.0)
    assert [entry.rule for entry in check(slow)] == [Rule.BOUND, Rule.TIME]


@pytest.mark.parametrize(
    ("spacings", "shape", "expected"),
    [
        ([(1, 1, 1), (1, 1, 1), (3, 2, 2)], (100, 100, 100), (1, 1, 1)),
        ([(5, 1, 1)] * 9 + [(2, 1, 1)] * 11, (20, 300, 300), (2, 1, 1)),
        ([(5, 1, 1)] * 17 + [(2, 1, 1)] * 3, (20, 300, 300), (2, 1, 1)),
        ([(5, 1, 1)] * 17 + [(0.5, 1, 1)] * 3, (20, 300, 300), (1, 1, 1)),
        ([(5, 1, 1)] * 17 + [(2, 1, 1)] * 3, (200, 300, 300), (5, 1, 1)),
    ],
)
def test_the_rule_of_nnunet(
    spacings: list[tuple[float, ...]], shape: tuple[int, ...], expected: tuple[float, ...]
) -> None:
    dataset = make_dataset([str(index) for index in range(len(spacings))])
    fingerprint = make_fingerprint(dataset, [shape] * len(spacings), spacings, [[]] * len(spacings))
    assert nnunet_spacing(fingerprint) == pytest.approx(expected)
