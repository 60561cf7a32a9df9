from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.definitions.lesionwise import LesionwiseRule
from detseg3d.evaluation.definitions.per_case import CaseFigures, FigureRule, case_figures


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def figures(first: IntArray, second: IntArray, names: list[str], **of: dict[int, int]) -> dict[str, CaseFigures]:
    rule = FigureRule(lesionwise=LesionwiseRule(smallest_mm3=0))
    return case_figures(first, second, of["truth"], of["prediction"], names, (1.0, 1.0, 1.0), rule)


def test_each_class_is_judged_on_its_own() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 2, 2), line(1, 1, 0, 0, 0, 0, 2, 2)
    found = figures(truth, prediction, ["a", "b"], truth={1: 0, 2: 1}, prediction={1: 0, 2: 0})
    assert found["a"].cc_dice == pytest.approx(2 * 2 / (2 + 4))
    assert found["b"].cc_dice == 0.0
    assert found["a"].lesionwise.false_positives == 1 and found["b"].lesionwise.missed == 1


def test_all_classes_pool_lesions_and_average_surfaces() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 2, 2), line(1, 1, 0, 0, 0, 0, 0, 0)
    found = figures(truth, prediction, ["a", "b", "absent"], truth={1: 0, 2: 1}, prediction={1: 0})
    assert found["all"].cc_dice == pytest.approx((1 + 0) / 2)
    assert found["all"].nsd == pytest.approx((1 + 0) / 2)
    assert found["all"].hd95_mm == pytest.approx((0 + np.sqrt(1 + 1 + 64)) / 2)
    assert found["all"].lesionwise.truth == 2


def test_a_class_that_is_not_there_costs_what_is_claimed_of_it() -> None:
    truth, prediction = line(1, 1, 0, 0, 0, 0, 0, 0), line(1, 1, 0, 0, 0, 0, 2, 2)
    found = figures(truth, prediction, ["a", "b"], truth={1: 0}, prediction={1: 0, 2: 1})
    assert (found["a"].cc_dice, found["b"].cc_dice, found["all"].cc_dice) == (1.0, 0.0, 0.5)


def test_nothing_on_either_side_is_perfect() -> None:
    for entry in figures(line(0, 0), line(0, 0), ["a", "b"], truth={}, prediction={}).values():
        assert entry.to_dict() == {
            "nsd": 1.0,
            "hd95_mm": 0.0,
            "lesionwise_dice": 1.0,
            "lesionwise_hd95_mm": 0.0,
            "cc_dice": 1.0,
            "assd_mm": 0.0,
            "nsd_area": 1.0,
            "hd95_area_mm": 0.0,
        }


def test_a_false_alarm_on_a_healthy_scan_is_worth_nothing() -> None:
    found = figures(line(0, 0, 0), line(0, 4, 4), ["a"], truth={}, prediction={4: 0})["all"]
    assert (found.nsd, found.cc_dice, found.lesionwise.dice) == (0.0, 0.0, 0.0)
    assert found.hd95_mm == pytest.approx(np.sqrt(1 + 1 + 9))


def test_distances_can_be_left_out() -> None:
    arguments: dict[str, Any] = {"class_names": ["a"], "spacing": (1.0, 1.0, 1.0), "rule": FigureRule(hd95=False)}
    found = case_figures(line(1, 1), line(1, 0), {1: 0}, {1: 0}, **arguments)["all"]
    assert found.hd95_mm is None and found.lesionwise.hd95_mm is None
    assert found.nsd == 1.0
