from __future__ import annotations

import json

from detseg3d.evaluation.metrics import CaseMetrics, ClassMetrics, DetectionCounts, LesionRecord, PanopticCounts


def test_counts_add_up() -> None:
    assert DetectionCounts(4, 3, 2, 1) + DetectionCounts(1, 1, 1, 1) == DetectionCounts(5, 4, 3, 2)
    assert PanopticCounts(1, 2, 1, 0.5) + PanopticCounts(1, 1, 1, 1.0) == PanopticCounts(2, 3, 2, 1.5)


def test_a_class_that_a_case_has_not_is_empty() -> None:
    nothing = ClassMetrics()
    assert nothing.is_empty
    assert nothing.dice == 1.0
    assert nothing.detection["any"].f1 == 1.0


def test_adding_nothing_changes_nothing() -> None:
    something = ClassMetrics(10, 5, 4, {name: DetectionCounts(2, 1, 3, 1) for name in ClassMetrics().detection})
    assert something + ClassMetrics() == something


def test_dictionaries_are_json_without_nan() -> None:
    record = LesionRecord("a", "truth", 1, "lesion", 3, 3.0, (0.5, 0.5, 0.5), {"any": True}, None, 0.0, 0.0)
    case = CaseMetrics("a", (1.0, 1.0, 1.0), 1.0, {"lesion": ClassMetrics()}, (record,))
    json.dumps([case.to_dict(), record.to_dict()], allow_nan=False)
