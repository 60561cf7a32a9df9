from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.reporting.pictures.case_view import LesionMap
from detseg3d.reporting.pictures.findings import Finding, Outcome, collect_findings, select_findings

BOX = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


UNIT = (1.0, 1.0, 1.0)


def line(*values: int, classes: dict[int, str] | None = None) -> LesionMap:
    return LesionMap(np.array(values, np.int64).reshape(1, 1, -1), classes or {})


def test_found_missed_and_false_positive_lesions_are_distinguished() -> None:
    findings = collect_findings(UNIT, line(1, 1, 0, 2, 0), line(0, 5, 0, 0, 6))
    assert [(finding.outcome, finding.truth_id, finding.prediction_id) for finding in findings] == [
        (Outcome.FOUND, 1, 5),
        (Outcome.MISSED, 2, None),
        (Outcome.FALSE_POSITIVE, None, 6),
    ]


def test_only_a_prediction_of_the_same_class_finds_a_lesion() -> None:
    truth, prediction = line(1, 2, classes={1: "a", 2: "a"}), line(5, 6, classes={5: "a", 6: "b"})
    findings = collect_findings(UNIT, truth, prediction)
    assert [(finding.outcome, finding.truth_id, finding.prediction_id, finding.class_name) for finding in findings] == [
        (Outcome.FOUND, 1, 5, "a"),
        (Outcome.MISSED, 2, None, "a"),
        (Outcome.FALSE_POSITIVE, None, 6, "b"),
    ]


def test_a_lesion_of_unknown_class_is_compared_with_all() -> None:
    findings = collect_findings(UNIT, line(1, classes={1: "a"}), line(5))
    assert [finding.outcome for finding in findings] == [Outcome.FOUND]


def test_without_truth_there_are_only_detections() -> None:
    findings = collect_findings(UNIT, None, line(1, 0, 2))
    assert [finding.outcome for finding in findings] == [Outcome.DETECTED] * 2


def test_an_empty_prediction_misses_every_lesion() -> None:
    findings = collect_findings(UNIT, line(1, 0, 2), None)
    assert [finding.outcome for finding in findings] == [Outcome.MISSED] * 2


def test_an_empty_case_has_no_findings() -> None:
    assert collect_findings(UNIT, line(0), line(0)) == []


def test_a_stated_box_and_score_are_used() -> None:
    box = (0.0, 0.0, 0.5, 1.0, 1.0, 2.5)
    prediction = LesionMap(line(0, 5, 5).instances, {5: "rim"}, {5: box}, {5: 0.75})
    (finding,) = collect_findings(UNIT, line(1, 1, 0), prediction)
    assert (finding.box, finding.score, finding.class_name) == (box, 0.75, "rim")
    assert (finding.extent, finding.dice) == ((0, 0, 0, 1, 1, 3), 0.5)


def test_a_lesion_without_a_stated_box_has_the_box_of_its_mask() -> None:
    (finding,) = collect_findings(UNIT, None, line(0, 5, 5))
    assert (finding.box, finding.score) == ((0, 0, 1, 1, 1, 3), None)


def test_a_finding_has_the_size_of_the_true_lesion_in_millimetres() -> None:
    finding = collect_findings((3.0, 2.0, 1.0), line(1, 1), line(1, 0))[0]
    assert finding.voxels == 2
    assert np.pi / 6 * finding.diameter_mm**3 == pytest.approx(12.0)


def test_errors_come_first_and_every_outcome_has_its_share() -> None:
    outcomes = [Outcome.FOUND] * 20 + [Outcome.MISSED] * 20 + [Outcome.FALSE_POSITIVE] * 2
    findings = [Finding(outcome, BOX, 3, 1.0) for outcome in outcomes]
    chosen = [finding.outcome for finding in select_findings(findings, 12)]
    assert chosen == [Outcome.MISSED] * 5 + [Outcome.FALSE_POSITIVE] * 2 + [Outcome.FOUND] * 5


def test_false_positives_are_chosen_by_score() -> None:
    findings = [Finding(Outcome.FALSE_POSITIVE, BOX, 3, 1.0, score=score) for score in (0.2, 0.9, 0.5)]
    assert [finding.score for finding in select_findings(findings, 2)] == [0.9, 0.5]


@given(st.lists(st.tuples(st.sampled_from(Outcome), st.integers(1, 50))), st.integers(1, 15))
def test_as_many_findings_as_possible_are_chosen_and_no_finding_twice(
    lesions: list[tuple[Outcome, int]], maximum: int
) -> None:
    findings = [Finding(outcome, BOX, size, 1.0, truth_id=n) for n, (outcome, size) in enumerate(lesions)]
    chosen = [finding.truth_id for finding in select_findings(findings, maximum)]
    assert len(chosen) == len(set(chosen)) == min(maximum, len(findings))
