from __future__ import annotations

import pytest

from detseg3d.inference.no_lesions import CaseOutcome, explain_no_lesions
from detseg3d.planning.sections import InferencePlan

PLAN = InferencePlan(candidate_threshold=0.1, score_threshold=0.4, scan_threshold=0.6)


@pytest.mark.parametrize(
    ("outcomes", "best", "threshold", "flag"),
    [
        ([(0.02, None), (0.07, None)], "0.07 (in case1)", "detection threshold 0.1", "--candidate_threshold"),
        ([(0.3, 0.21), (0.9, 0.12)], "0.21 (in case0)", "score threshold 0.4", "--score_threshold"),
        ([(0.02, None), (0.5, 0.39)], "0.39 (in case1)", "score threshold 0.4", "--score_threshold"),
        ([(0.9, 0.5), (0.9, 0.45)], "0.5 (in case0)", "scan threshold 0.6", "--score_threshold"),
        ([(0.9, 0.9)], "0.9, in case0", "mask threshold 0.5", "minimum_volume_mm3"),
    ],
)
def test_the_threshold_that_no_scan_reached_is_named_with_the_best_score(
    outcomes: list[tuple[float, float | None]], best: str, threshold: str, flag: str
) -> None:
    cases = {f"case{i}": CaseOutcome(0, detection, score) for i, (detection, score) in enumerate(outcomes)}
    message = explain_no_lesions(cases, PLAN)
    assert message is not None and best in message and threshold in message and flag in message
    assert f"any of {len(outcomes)} scan(s)" in message


@pytest.mark.parametrize("lesions", [[], [1], [0, 2, 0]])
def test_there_is_no_message_if_a_scan_has_a_lesion_or_without_scans(lesions: list[int]) -> None:
    cases = {f"case{i}": CaseOutcome(count, 0.5, 0.2) for i, count in enumerate(lesions)}
    assert explain_no_lesions(cases, PLAN) is None
