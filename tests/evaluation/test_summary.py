from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg3d.evaluation.case import evaluate_case
from detseg3d.evaluation.definitions.per_case import FigureRule
from detseg3d.evaluation.metrics import CaseMetrics, LesionRecord
from detseg3d.evaluation.summary import recall_by_quantile, recall_by_size, summarize


def case(truth: list[int], prediction: list[int], name: str = "case", **keywords: Any) -> CaseMetrics:
    volumes = (np.array(values, np.int64).reshape(1, 1, -1) for values in (truth, prediction))
    return evaluate_case(name, *volumes, (1.0, 1.0, 1.0), **keywords)


def lesion(voxels: int, found: bool = True) -> LesionRecord:
    matched = {"any": found, "iou_0.1": found, "iou_0.5": False}
    return LesionRecord("a", "truth", 1, "lesion", voxels, float(voxels), (0, 0, 0), matched, None, 0.0, 0.4 * found)


PERFECT, EMPTY = case([1, 1, 0], [1, 1, 0]), case([0, 0, 0], [0, 0, 0])
MISSED, FALSE_ALARM = case([1, 0, 2], [0, 0, 0]), case([0, 0, 0], [1, 0, 2])


def test_pooled_figures_add_up_lesions_and_means_weigh_cases_alike() -> None:
    figures = summarize([PERFECT, MISSED])["lesions"]["any"]
    assert figures["recall"] == pytest.approx(1 / 3)
    assert figures["precision"] == 1.0
    assert figures["mean_over_cases"] == {"recall": 0.5, "precision": 1.0, "f1": 0.5}


def test_means_leave_out_cases_where_a_rate_says_nothing() -> None:
    means = summarize([PERFECT, MISSED, EMPTY])["lesions"]["any"]["mean_over_cases"]
    assert means == {"recall": 0.5, "precision": 1.0, "f1": pytest.approx(2 / 3)}
    means = summarize([PERFECT, FALSE_ALARM, EMPTY])["lesions"]["any"]["mean_over_cases"]
    assert means == {"recall": 1.0, "precision": 0.5, "f1": pytest.approx(2 / 3)}


def test_dice_of_empty_cases_is_one_and_counted_apart() -> None:
    dice = summarize([PERFECT, MISSED, EMPTY, EMPTY])["dice"]
    means = {"mean": 0.75, "cases": 4, "mean_with_lesions": 0.5, "cases_with_lesions": 2}
    assert dice == {**means, "pooled": 2 / 3, "empty_cases": 2}


def test_false_positives_on_lesion_free_scans_are_apart() -> None:
    figures = summarize([PERFECT, EMPTY, FALSE_ALARM, case([1, 0, 0], [0, 0, 1])])["false_positives"]
    every, free = {"total": 3, "per_scan": 0.75}, {"total": 2, "per_scan": 1.0}
    criteria = ("iou_0.1", "any", "iou_0.5")
    lesion_free = {"scans": 2, **dict.fromkeys(criteria, free), "scans_without_false_positives": 1}
    assert figures == {"scans": 4, **dict.fromkeys(criteria, every), "lesion_free": lesion_free}


def test_a_false_positive_by_one_criterion_may_be_none_by_another() -> None:
    figures = summarize([case([1, 0, 0], [1, 1, 1])])["false_positives"]  # IoU 1/3
    assert [figures[name]["total"] for name in ("any", "iou_0.1", "iou_0.5")] == [0, 0, 1]


@pytest.mark.parametrize("cases", [[], [EMPTY], [FALSE_ALARM], [MISSED], [PERFECT]])
def test_there_never_is_a_nan(cases: list[CaseMetrics]) -> None:
    json.dumps(summarize(cases, ["lesion", "absent"]), allow_nan=False)


def test_without_a_case_there_is_no_figure() -> None:
    summary = summarize([], ["lesion"])
    for group in (summary, summary["classes"]["lesion"]):
        rates = [group["lesions"]["any"][name] for name in ("recall", "precision", "f1")]
        rates += [group["panoptic"][name] for name in ("pq", "sq", "rq")]
        rates += [group["dice"][name] for name in ("mean", "mean_with_lesions", "pooled")]
        assert rates == [None] * 9
    assert summary["lesions"]["any"]["truth"] == 0


def test_a_lesion_free_case_without_alarms_changes_no_pooled_figure() -> None:
    with_empty, without = summarize([PERFECT, MISSED, EMPTY]), summarize([PERFECT, MISSED])
    for criterion in ("any", "iou_0.1", "iou_0.5"):
        for figure in ("recall", "precision", "f1"):
            assert with_empty["lesions"][criterion][figure] == without["lesions"][criterion][figure]
    assert with_empty["recall_by_size"] == without["recall_by_size"]


def test_an_absent_class_does_not_spoil_the_mean_over_classes() -> None:
    summary = summarize([PERFECT], ["lesion", "absent"])
    assert summary["class_mean"]["dice"] == summary["class_mean"]["f1_any"] == 1.0
    assert summary["classes"]["absent"]["dice"]["empty_cases"] == 1


def test_means_of_a_class_are_of_the_scans_that_have_it_on_either_side() -> None:
    # Class b is in 2 of 20 scans, and never found; once it is predicted where it is not.
    names: dict[str, Any] = {"class_names": ["a", "b"], "figures": FigureRule()}
    plain = [case([1, 0, 0, 0], [1, 0, 0, 0], **names)] * 17
    alarm = case([1, 0, 0, 0], [1, 0, 2, 0], prediction_classes=[0, 1], **names)
    missed = [case([1, 0, 2, 0], [1, 0, 0, 0], truth_classes=[0, 1], **names)] * 2
    summary = summarize([*plain, alarm, *missed], ["a", "b"])
    rare, means = summary["classes"]["b"], summary["class_mean"]
    assert (rare["dice"]["mean"], rare["dice"]["cases"]) == (0.0, 3)
    assert (rare["dice"]["mean_with_lesions"], rare["dice"]["cases_with_lesions"]) == (0.0, 2)
    assert (rare["nsd"], rare["cc_dice"], rare["lesions"]["iou_0.1"]["mean_over_cases"]["f1"]) == (0.0, 0.0, 0.0)
    assert rare["panoptic"]["mean_over_cases"]["pq"] == 0.0
    assert (rare["false_positives"]["scans"], rare["false_positives"]["iou_0.1"]["per_scan"]) == (20, 1 / 20)
    assert (summary["classes"]["a"]["dice"]["mean"], summary["classes"]["a"]["dice"]["cases"]) == (1.0, 20)
    assert means["classes"] == 2
    for name in ("dice", "dice_with_lesions", "nsd", "cc_dice", "f1_iou_0.1", "f1_any", "pq"):
        assert means[name] == 0.5, name


def test_a_class_that_no_scan_has_has_no_figure() -> None:
    group = summarize([case([1], [1], figures=FigureRule(), class_names=["a"])], ["a", "b"])["classes"]["b"]
    figures = [group["dice"]["mean"], group["nsd"], group["hd95_mm"], group["cc_dice"], group["lesionwise"]["dice"]]
    assert figures == [None] * 5
    assert [group["lesions"]["any"][name] for name in ("recall", "f1")] == [None, None]


@pytest.mark.parametrize("hd95", [True, False])
def test_a_class_that_a_case_does_not_know_is_one_with_nothing_there(hd95: bool) -> None:
    rule = FigureRule(hd95=hd95)
    both = case([1, 0, 2], [1, 0, 0], figures=rule, class_names=["a", "b"], truth_classes=[0, 1])
    known, unknown = (case([1, 0, 0], [1, 0, 0], figures=rule, class_names=names) for names in (["a", "b"], ["a"]))
    assert summarize([both, unknown])["classes"] == summarize([both, known])["classes"]
    neither, none = (case([0, 0, 0], [0, 0, 0], figures=rule, class_names=names) for names in (["a", "b"], []))
    assert summarize([both, none]) == summarize([both, neither])


def test_surfaces_are_also_judged_without_the_lesion_free_scans() -> None:
    cases = [case(*one, figures=FigureRule()) for one in (([1, 1, 0], [1, 1, 0]), ([0, 0, 0], [1, 0, 0]))]
    summary = summarize([*cases, case([0, 0, 0], [0, 0, 0], figures=FigureRule())])
    assert summary["hd95_mm"] > 1 and summary["hd95_mm_with_lesions"] == 0.0  # the alarm costs the diagonal
    assert (summary["nsd"], summary["nsd_with_lesions"]) == (pytest.approx(2 / 3), 1.0)
    assert summarize(cases[1:])["hd95_mm_with_lesions"] is None


def test_classes_have_their_own_figures() -> None:
    names = {"class_names": ["a", "b"], "truth_classes": [0, 1], "prediction_classes": [0, 1]}
    summary = summarize([case([1, 0, 2], [1, 0, 0], **names)])
    assert summary["classes"]["a"]["lesions"]["any"]["recall"] == 1.0
    assert summary["classes"]["b"]["lesions"]["any"]["recall"] == 0.0
    assert summary["lesions"]["any"]["recall"] == 0.5


def test_a_lesion_as_large_as_a_limit_is_in_the_upper_bin() -> None:
    rows = recall_by_size([lesion(14), lesion(15, found=False), lesion(15)], lambda one: one.voxels, (15, 50), "voxels")
    assert [(row["lesions"], row["found_any"], row["recall_any"]) for row in rows] == [
        (1, 1, 1.0),
        (2, 1, 0.5),
        (0, 0, None),
    ]
    assert rows[0]["bin"] == "under 15 voxels"
    assert rows[1]["dice"] == pytest.approx(0.2)


def test_the_recall_of_a_bin_has_an_interval_by_patients() -> None:
    lesions = [replace(lesion(5, found), case_id=name) for name, found in (("a", True), ("b", True), ("c", False))] * 4
    (row,) = recall_by_size(lesions, lambda one: one.voxels, (), "voxels")
    (shared,) = recall_by_size(lesions, lambda one: one.voxels, (), "voxels", {"a": "x", "b": "x", "c": "y"})
    # Three patients, and not twelve lesions.
    assert 0 < row["low_any"] < 0.1
    assert 0.9 < row["high_any"] < 1
    assert shared["low_any"] < row["low_any"]
    (empty,) = recall_by_size([], lambda one: one.voxels, (), "voxels")
    assert (empty["low_any"], empty["high_iou_0.5"]) == (None, None)


def test_a_lesion_that_a_limit_misses_by_rounding_alone_is_in_the_upper_bin() -> None:
    rows = recall_by_size([lesion(5)], lambda one: one.voxels * (3 * 0.7 * 0.7), (7.35,), "mm³")  # 7.349999999999999
    assert [row["lesions"] for row in rows] == [0, 1]


def test_bins_hold_every_lesion_once() -> None:
    lesions = [lesion(size) for size in (1, 14, 15, 49, 50, 499, 500, 10**7)]
    truth = CaseMetrics("a", (1, 1, 1), 1.0, {"lesion": PERFECT.classes["lesion"]}, tuple(lesions))
    for rows in summarize([truth])["recall_by_size"].values():
        assert sum(row["lesions"] for row in rows) == len(lesions)


@pytest.mark.parametrize("quarter", [1, 2, 3, 25])
def test_quantiles_are_equal_shares(quarter: int) -> None:
    rows = recall_by_quantile([lesion(size) for size in range(1, 4 * quarter + 1)])
    assert [row["lesions"] for row in rows] == [quarter] * 4
    assert [row["to"] for row in rows] == [quarter, 2 * quarter, 3 * quarter, 4 * quarter]


def test_lesions_of_one_size_are_one_quantile() -> None:
    (row,) = recall_by_quantile([lesion(3)] * 10)
    assert (row["bin"], row["lesions"]) == ("3 mm³", 10)


def test_no_lesions_have_no_quantiles() -> None:
    assert recall_by_quantile([]) == []
