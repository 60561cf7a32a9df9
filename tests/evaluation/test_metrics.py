from __future__ import annotations

import json

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.metrics import (
    CaseMetrics,
    ClassMetrics,
    Criterion,
    DetectionCounts,
    LesionMetrics,
    PanopticCounts,
)


def test_counts_add_up() -> None:
    assert DetectionCounts(4, 3, 2, 1) + DetectionCounts(1, 1, 1, 1) == DetectionCounts(5, 4, 3, 2)
    assert PanopticCounts(1, 2, 1, 0.5) + PanopticCounts(1, 1, 1, 1.0) == PanopticCounts(2, 3, 2, 1.5)


def test_a_class_that_a_case_lacks_is_empty() -> None:
    nothing = ClassMetrics()
    assert nothing.is_empty
    assert nothing.dice == 1.0
    assert nothing.detection[Criterion.ANY].f1 == 1.0


def test_adding_nothing_changes_nothing() -> None:
    something = ClassMetrics(10, 5, 4, {name: DetectionCounts(2, 1, 3, 1) for name in ClassMetrics().detection})
    assert something + ClassMetrics() == something


def test_a_case_is_equal_after_reading_its_json() -> None:
    matched = {Criterion.IOU_01: False, Criterion.ANY: True, Criterion.IOU_05: False}
    lesion = LesionMetrics("a", "truth", 1, "lesion", 3, 3.0, (0.5, 0.5, 0.5), matched, None, 0.0, 0.0)
    case = CaseMetrics("a", (1.0, 1.0, 1.0), 1.0, {"lesion": ClassMetrics()}, (lesion,))
    text = json.dumps(case.to_json(), allow_nan=False)
    assert CaseMetrics.from_json(json.loads(text)) == case


def test_json_has_the_rates_beside_the_counts() -> None:
    assert DetectionCounts(4, 3, 2, 1).to_json()["recall"] == 0.75


def test_data_of_another_kind_are_refused_with_the_place_of_the_error() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        DetectionCounts.from_json({"truth": "many"})
    assert str(caught.value.value).startswith("truth:")
