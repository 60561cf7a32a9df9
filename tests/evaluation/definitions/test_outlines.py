from __future__ import annotations

import numpy as np
import pytest

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.definitions.lesionwise import LesionwiseRule
from detseg3d.evaluation.definitions.outlines import (
    MetricVariants,
    OutlineMetrics,
    combine_outlines,
    measure_outlines,
)
from tests.evaluations import evaluate_maps


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def outlines(
    first: IntArray, second: IntArray, names: list[str], **classes: dict[int, int]
) -> dict[str, OutlineMetrics]:
    """Return the metrics of each class, and of all classes under ``all``."""
    variants = MetricVariants(lesionwise=LesionwiseRule(ignored_mm3=0))
    case = evaluate_maps(
        "case",
        first,
        second,
        (1.0, 1.0, 1.0),
        class_names=names,
        variants=variants,
        truth_classes=classes["truth"],
        prediction_classes=classes["prediction"],
    )
    assert case.outlines is not None
    return {**case.outlines.classes, "all": case.outlines.overall}


def test_each_class_is_measured_separately() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 2, 2), line(1, 1, 0, 0, 0, 0, 2, 2)
    found = outlines(truth, prediction, ["a", "b"], truth={1: 0, 2: 1}, prediction={1: 0, 2: 0})
    assert found["a"].cc_dice == pytest.approx(2 * 2 / (2 + 4))
    assert found["b"].cc_dice == 0.0
    assert found["a"].lesionwise.false_positives == 1 and found["b"].lesionwise.missed == 1


def test_all_classes_pool_lesions_and_average_surfaces() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 2, 2), line(1, 1, 0, 0, 0, 0, 0, 0)
    found = outlines(truth, prediction, ["a", "b", "absent"], truth={1: 0, 2: 1}, prediction={1: 0})
    assert found["all"].cc_dice == pytest.approx((1 + 0) / 2)
    assert found["all"].nsd == pytest.approx((1 + 0) / 2)
    assert found["all"].hd95_mm == pytest.approx((0 + np.sqrt(1 + 1 + 64)) / 2)
    assert found["all"].lesionwise.truth == 2


def test_predictions_of_an_absent_class_are_false_positives() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 0, 0), line(1, 1, 0, 0, 0, 0, 2, 2)
    found = outlines(truth, prediction, ["a", "b"], truth={1: 0}, prediction={1: 0, 2: 1})
    assert (found["a"].cc_dice, found["b"].cc_dice, found["all"].cc_dice) == (1.0, 0.0, 0.5)


def test_two_empty_sides_are_perfect() -> None:
    for entry in outlines(line(0, 0), line(0, 0), ["a", "b"], truth={}, prediction={}).values():
        assert (entry.nsd, entry.nsd_area, entry.cc_dice, entry.lesionwise.dice) == (1.0, 1.0, 1.0, 1.0)
        assert (entry.hd95_mm, entry.assd_mm, entry.hd95_area_mm, entry.lesionwise.hd95_mm) == (0.0, 0.0, 0.0, 0.0)


def test_a_false_positive_on_a_healthy_scan_has_a_dice_of_zero() -> None:
    found = outlines(line(0, 0, 0), line(0, 4, 4), ["a"], truth={}, prediction={4: 0})["all"]
    assert (found.nsd, found.cc_dice, found.lesionwise.dice) == (0.0, 0.0, 0.0)
    assert found.hd95_mm == pytest.approx(np.sqrt(1 + 1 + 9))


def test_distances_are_optional() -> None:
    measured = measure_outlines(line(1, 1), line(1, 0), (1.0, 1.0, 1.0), MetricVariants(distances=False))
    for entry in (measured.metrics, combine_outlines([measured], distances=False)):
        assert entry.hd95_mm is None and entry.lesionwise.hd95_mm is None
        assert entry.nsd == 1.0
