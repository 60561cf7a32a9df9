from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.metrics import CaseMetrics, Criterion, LesionMetrics
from detseg3d.evaluation.result import DetectionMeans, FalsePositives, Summary
from detseg3d.evaluation.summary import recall_by_quantile, recall_by_size, summarize
from tests.evaluations import evaluate_maps


def case(truth: list[int], prediction: list[int], name: str = "case", **keywords: Any) -> CaseMetrics:
    volumes = (np.array(values, np.int64).reshape(1, 1, -1) for values in (truth, prediction))
    return evaluate_maps(name, *volumes, (1.0, 1.0, 1.0), **keywords)


def lesion(voxels: int, found: bool = True) -> LesionMetrics:
    matched = {Criterion.ANY: found, Criterion.IOU_01: found, Criterion.IOU_05: False}
    return LesionMetrics("a", "truth", 1, "lesion", voxels, float(voxels), (0, 0, 0), matched, None, 0.0, 0.4 * found)


PERFECT, EMPTY = case([1, 1, 0], [1, 1, 0]), case([0, 0, 0], [0, 0, 0])
MISSED, FALSE_ALARM = case([1, 0, 2], [0, 0, 0]), case([0, 0, 0], [1, 0, 2])


def test_pooled_metrics_add_up_lesions_and_means_weigh_cases_equally() -> None:
    pooled = summarize([PERFECT, MISSED]).overall.detection[Criterion.ANY]
    assert pooled.recall == pytest.approx(1 / 3)
    assert pooled.precision == 1.0
    assert pooled.mean_over_cases == DetectionMeans(recall=0.5, precision=1.0, f1=0.5)


def test_means_leave_out_cases_with_an_undefined_rate() -> None:
    means = summarize([PERFECT, MISSED, EMPTY]).overall.detection[Criterion.ANY].mean_over_cases
    assert (means.recall, means.precision, means.f1) == (0.5, 1.0, pytest.approx(2 / 3))
    means = summarize([PERFECT, FALSE_ALARM, EMPTY]).overall.detection[Criterion.ANY].mean_over_cases
    assert (means.recall, means.precision, means.f1) == (1.0, 0.5, pytest.approx(2 / 3))


def test_the_dice_of_empty_cases_is_one_and_counted_separately() -> None:
    dice = summarize([PERFECT, MISSED, EMPTY, EMPTY]).overall.dice
    assert (dice.mean, dice.cases, dice.mean_with_lesions, dice.cases_with_lesions) == (0.75, 4, 0.5, 2)
    assert (dice.pooled, dice.empty_cases) == (2 / 3, 2)


def test_false_positives_on_lesion_free_scans_are_counted_separately() -> None:
    group = summarize([PERFECT, EMPTY, FALSE_ALARM, case([1, 0, 0], [0, 0, 1])]).overall
    assert group.scans == 4
    for counts in group.detection.values():
        assert (counts.false_positives, counts.false_positives_per_scan) == (3, 0.75)
    assert group.lesion_free == FalsePositives(scans=2, total=2, per_scan=1.0, scans_without_false_positives=1)


def test_a_false_positive_of_one_criterion_can_be_correct_under_another() -> None:
    detection = summarize([case([1, 0, 0], [1, 1, 1])]).overall.detection  # IoU 1/3
    assert [detection[criterion].false_positives for criterion in Criterion] == [0, 0, 1]


@pytest.mark.parametrize("cases", [[], [EMPTY], [FALSE_ALARM], [MISSED], [PERFECT]])
def test_no_value_is_nan(cases: list[CaseMetrics]) -> None:
    summary = summarize(cases, ["lesion", "absent"])
    assert Summary.from_json(json.loads(json.dumps(summary.to_json(), allow_nan=False))) == summary


def test_without_a_case_no_metric_has_a_value() -> None:
    summary = summarize([], ["lesion"])
    for group in (summary.overall, summary.classes["lesion"]):
        detection, panoptic, dice = group.headline, group.panoptic, group.dice
        assert [detection.recall, detection.precision, detection.f1] == [None] * 3
        assert [panoptic.pq, panoptic.sq, panoptic.rq] == [None] * 3
        assert [dice.mean, dice.mean_with_lesions, dice.pooled] == [None] * 3
    assert summary.overall.true_lesions == 0


def test_a_lesion_free_case_without_predictions_changes_no_pooled_metric() -> None:
    with_empty, without = summarize([PERFECT, MISSED, EMPTY]).overall, summarize([PERFECT, MISSED]).overall
    for criterion in Criterion:
        one, other = with_empty.detection[criterion], without.detection[criterion]
        assert (one.recall, one.precision, one.f1) == (other.recall, other.precision, other.f1)
    assert with_empty.recall_by_size == without.recall_by_size


def test_an_absent_class_does_not_count_in_the_mean_over_classes() -> None:
    summary = summarize([PERFECT], ["lesion", "absent"])
    assert summary.class_mean.dice == summary.class_mean.f1[Criterion.ANY] == 1.0
    assert summary.classes["absent"].dice.empty_cases == 1


def test_means_of_a_class_are_over_the_scans_with_the_class_in_truth_or_prediction() -> None:
    # Class b is in 2 of 20 scans, and never found; once it is predicted where it is not.
    names: dict[str, Any] = {"class_names": ["a", "b"], "variants": MetricVariants()}
    plain = [case([1, 0, 0, 0], [1, 0, 0, 0], **names)] * 17
    alarm = case([1, 0, 0, 0], [1, 0, 2, 0], prediction_classes=[0, 1], **names)
    missed = [case([1, 0, 2, 0], [1, 0, 0, 0], truth_classes=[0, 1], **names)] * 2
    summary = summarize([*plain, alarm, *missed], ["a", "b"])
    rare, means = summary.classes["b"], summary.class_mean
    assert (rare.dice.mean, rare.dice.cases) == (0.0, 3)
    assert (rare.dice.mean_with_lesions, rare.dice.cases_with_lesions) == (0.0, 2)
    assert rare.outlines is not None
    assert (rare.outlines.mean.nsd, rare.outlines.cc_dice, rare.headline.mean_over_cases.f1) == (0.0, 0.0, 0.0)
    assert rare.panoptic.mean_over_cases.pq == 0.0
    assert (rare.scans, rare.headline.false_positives_per_scan) == (20, 1 / 20)
    assert (summary.classes["a"].dice.mean, summary.classes["a"].dice.cases) == (1.0, 20)
    assert means.classes == 2
    assert means.outlines is not None
    assert [means.dice, means.dice_with_lesions, means.outlines.nsd, means.cc_dice, means.pq] == [0.5] * 5
    assert set(means.f1.values()) == {0.5}


def test_a_class_that_no_scan_has_has_no_metrics() -> None:
    group = summarize([case([1], [1], variants=MetricVariants(), class_names=["a"])], ["a", "b"]).classes["b"]
    outlines = group.outlines
    assert outlines is not None
    assert [group.dice.mean, outlines.mean.nsd, outlines.mean.hd95_mm, outlines.cc_dice] == [None] * 4
    assert [outlines.lesionwise.dice, group.headline.recall, group.headline.f1] == [None] * 3


@pytest.mark.parametrize("distances", [True, False])
def test_a_class_that_a_case_lacks_counts_as_empty(distances: bool) -> None:
    rule = MetricVariants(distances=distances)
    both = case([1, 0, 2], [1, 0, 0], variants=rule, class_names=["a", "b"], truth_classes=[0, 1])
    known, unknown = (case([1, 0, 0], [1, 0, 0], variants=rule, class_names=names) for names in (["a", "b"], ["a"]))
    assert summarize([both, unknown]).classes == summarize([both, known]).classes
    neither, none = (case([0, 0, 0], [0, 0, 0], variants=rule, class_names=names) for names in (["a", "b"], []))
    assert summarize([both, none]) == summarize([both, neither])


def test_surfaces_are_also_averaged_without_the_lesion_free_scans() -> None:
    variants = MetricVariants()
    cases = [case(*pair, variants=variants) for pair in (([1, 1, 0], [1, 1, 0]), ([0, 0, 0], [1, 0, 0]))]
    outlines = summarize([*cases, case([0, 0, 0], [0, 0, 0], variants=variants)]).overall.outlines
    assert outlines is not None and outlines.mean.hd95_mm is not None
    # The false positive costs the diagonal of the volume.
    assert outlines.mean.hd95_mm > 1 and outlines.mean_with_lesions.hd95_mm == 0.0
    assert (outlines.mean.nsd, outlines.mean_with_lesions.nsd) == (pytest.approx(2 / 3), 1.0)
    false_positive = summarize(cases[1:]).overall.outlines
    assert false_positive is not None and false_positive.mean_with_lesions.hd95_mm is None


def test_each_class_has_separate_metrics() -> None:
    names = {"class_names": ["a", "b"], "truth_classes": [0, 1], "prediction_classes": [0, 1]}
    summary = summarize([case([1, 0, 2], [1, 0, 0], **names)])
    assert summary.classes["a"].detection["any"].recall == 1.0
    assert summary.classes["b"].detection["any"].recall == 0.0
    assert summary.overall.detection["any"].recall == 0.5


def test_a_lesion_as_large_as_a_limit_is_in_the_upper_bin() -> None:
    bins = recall_by_size([lesion(14), lesion(15, found=False), lesion(15)], lambda one: one.voxels, (15, 50), "voxels")
    found = [entry.detection[Criterion.ANY] for entry in bins]
    assert [entry.lesions for entry in bins] == [1, 2, 0]
    assert [(entry.found, entry.recall) for entry in found] == [(1, 1.0), (1, 0.5), (0, None)]
    assert bins[0].name == "under 15 voxels"
    assert bins[1].dice == pytest.approx(0.2)


def test_the_recall_of_a_bin_has_an_interval_by_patients() -> None:
    lesions = [replace(lesion(5, found), case_id=name) for name, found in (("a", True), ("b", True), ("c", False))] * 4
    (alone,) = recall_by_size(lesions, lambda one: one.voxels, (), "voxels")
    (shared,) = recall_by_size(lesions, lambda one: one.voxels, (), "voxels", {"a": "x", "b": "x", "c": "y"})
    # Three patients, and not twelve lesions.
    own, together = alone.detection[Criterion.ANY], shared.detection[Criterion.ANY]
    assert own.low is not None and own.high is not None and together.low is not None
    assert 0 < own.low < 0.1
    assert 0.9 < own.high < 1
    assert together.low < own.low
    (empty,) = recall_by_size([], lambda one: one.voxels, (), "voxels")
    assert (empty.detection[Criterion.ANY].low, empty.detection[Criterion.IOU_05].high) == (None, None)


def test_a_lesion_below_a_limit_only_by_rounding_is_in_the_upper_bin() -> None:
    rows = recall_by_size([lesion(5)], lambda one: one.voxels * (3 * 0.7 * 0.7), (7.35,), "mm³")  # 7.349999999999999
    assert [row.lesions for row in rows] == [0, 1]


def test_bins_contain_every_lesion_once() -> None:
    lesions = [lesion(size) for size in (1, 14, 15, 49, 50, 499, 500, 10**7)]
    truth = CaseMetrics("a", (1, 1, 1), 1.0, {"lesion": PERFECT.classes["lesion"]}, tuple(lesions))
    by_size = summarize([truth]).overall.recall_by_size
    for bins in (by_size.voxels, by_size.mm3, by_size.quantile):
        assert sum(entry.lesions for entry in bins) == len(lesions)


@pytest.mark.parametrize("quarter", [1, 2, 3, 25])
def test_quantiles_are_equal_shares(quarter: int) -> None:
    rows = recall_by_quantile([lesion(size) for size in range(1, 4 * quarter + 1)])
    assert [row.lesions for row in rows] == [quarter] * 4
    assert [row.high for row in rows] == [quarter, 2 * quarter, 3 * quarter, 4 * quarter]


def test_lesions_of_one_size_are_one_quantile() -> None:
    (row,) = recall_by_quantile([lesion(3)] * 10)
    assert (row.name, row.lesions) == ("3 mm³", 10)


def test_no_lesions_have_no_quantiles() -> None:
    assert recall_by_quantile([]) == ()
