from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.reporting.pictures.findings import (
    DETECTED,
    FALSE_POSITIVE,
    FOUND,
    MISSED,
    Finding,
    collect_findings,
    select_findings,
)

BOX = (0.0, 0.0, 0.0, 1.0, 1.0, 1.0)


def line(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, np.int64).reshape(1, 1, -1)


def test_found_missed_and_false_positive_are_told_apart() -> None:
    findings = collect_findings((1, 1, 1), line(0, 5, 0, 0, 6), None, line(1, 1, 0, 2, 0))
    assert [(one.status, one.truth_id, one.prediction_id) for one in findings] == [
        (FOUND, 1, 5), (MISSED, 2, None), (FALSE_POSITIVE, None, 6),
    ]  # fmt: skip


def test_only_a_lesion_of_the_same_class_is_found() -> None:
    findings = collect_findings((1, 1, 1), line(5, 6), None, line(1, 2), {1: "a", 2: "a"}, {5: "a", 6: "b"})
    assert [(one.status, one.truth_id, one.prediction_id, one.class_name) for one in findings] == [
        (FOUND, 1, 5, "a"), (MISSED, 2, None, "a"), (FALSE_POSITIVE, None, 6, "b"),
    ]  # fmt: skip


def test_a_lesion_of_unknown_class_is_compared_with_all() -> None:
    assert [one.status for one in collect_findings((1, 1, 1), line(5), None, line(1), {1: "a"})] == [FOUND]


def test_without_truth_there_are_only_detections() -> None:
    assert [one.status for one in collect_findings((1, 1, 1), line(1, 0, 2), None, None)] == [DETECTED, DETECTED]


def test_an_empty_prediction_misses_everything() -> None:
    assert [one.status for one in collect_findings((1, 1, 1), None, None, line(1, 0, 2))] == [MISSED, MISSED]


def test_an_empty_case_has_no_findings() -> None:
    assert collect_findings((1, 1, 1), line(0), [], line(0)) == []


def test_box_and_score_come_from_the_record() -> None:
    record = {"id": 5, "score": 0.75, "box": [0, 0, 0.5, 1, 1, 2.5], "class": "rim"}
    (one,) = collect_findings((1, 1, 1), line(0, 5, 5), [record], line(1, 1, 0))
    assert (one.box, one.score, one.class_name) == ((0, 0, 0.5, 1, 1, 2.5), 0.75, "rim")
    assert (one.extent, one.dice) == ((0, 0, 0, 1, 1, 3), 0.5)


def test_without_a_record_the_box_is_that_of_the_mask() -> None:
    (one,) = collect_findings((1, 1, 1), line(0, 5, 5), None, None)
    assert (one.box, one.score) == ((0, 0, 1, 1, 1, 3), None)


def test_the_size_is_the_true_one_in_millimetres() -> None:
    one = collect_findings((3.0, 2.0, 1.0), line(1, 0), None, line(1, 1))[0]
    assert one.voxels == 2
    assert np.pi / 6 * one.diameter_mm**3 == pytest.approx(12.0)


def test_errors_come_first_and_every_kind_has_its_share() -> None:
    findings = [Finding(status, BOX, 3, 1.0) for status in [FOUND] * 20 + [MISSED] * 20 + [FALSE_POSITIVE] * 2]
    statuses = [one.status for one in select_findings(findings, 12)]
    assert statuses == [MISSED] * 5 + [FALSE_POSITIVE] * 2 + [FOUND] * 5


def test_false_positives_are_chosen_by_score() -> None:
    findings = [Finding(FALSE_POSITIVE, BOX, 3, 1.0, score=score) for score in (0.2, 0.9, 0.5)]
    assert [one.score for one in select_findings(findings, 2)] == [0.9, 0.5]


@given(st.lists(st.tuples(st.sampled_from([FOUND, MISSED, FALSE_POSITIVE]), st.integers(1, 50))), st.integers(1, 15))
def test_as_many_as_possible_are_shown_and_none_twice(given_: list[tuple[str, int]], maximum: int) -> None:
    findings = [Finding(status, BOX, size, 1.0, truth_id=number) for number, (status, size) in enumerate(given_)]
    shown = [one.truth_id for one in select_findings(findings, maximum)]
    assert len(shown) == len(set(shown)) == min(maximum, len(findings))
