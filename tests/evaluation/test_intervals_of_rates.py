from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detseg3d.evaluation.intervals import MetricDifference, MetricEstimate, estimate_metrics, paired_comparison
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.scores.bootstrap import Scale, contributions, interval
from tests.evaluation.cohort import COHORT, evaluate, line, metrics_of
from tests.evaluation.golden.cases import evaluated
from tests.evaluations import evaluate_maps


def bounds(entry: MetricEstimate | MetricDifference) -> tuple[float, float]:
    low, high = entry.low, entry.high
    assert low is not None
    assert high is not None
    return low, high


def test_a_metric_has_its_value_over_all_cases_and_an_interval_around_it() -> None:
    cases = [evaluated(name) for name in COHORT]
    intervals, metrics = estimate_metrics(cases), metrics_of(cases)
    assert set(intervals) == set(metrics)
    for name, entry in intervals.items():
        assert entry.value == pytest.approx(metrics[name])
        low, high = bounds(entry)
        assert low <= metrics[name] <= high, name
    assert np.less(*bounds(intervals["dice"]))


def test_the_interval_equals_the_interval_of_resampling_case_by_case() -> None:
    cases = [evaluated(name) for name in COHORT]
    random = np.random.default_rng(5)
    values = []
    for _ in range(1500):
        drawn = [cases[index] for index in random.integers(0, len(cases), size=len(cases))]
        counts = [case.overall.detection["any"] for case in drawn]
        found, truth = sum(c.found for c in counts), sum(c.truth for c in counts)
        values.append(found / truth if truth else np.nan)
    truth = [case.overall.detection["any"].truth for case in cases]
    around = interval(np.array(values), metrics_of(cases)["recall_any"], contributions(truth), Scale.SHARE)
    entry = estimate_metrics(cases, samples=1500)["recall_any"]
    assert (entry.low, entry.high) == pytest.approx((around.low, around.high), abs=0.06)


def test_intervals_are_determined_by_the_seed() -> None:
    cases = [evaluated(name) for name in COHORT]
    assert estimate_metrics(cases, 100, seed=1) == estimate_metrics(cases, 100, seed=1)
    assert estimate_metrics(cases, 100, seed=1) != estimate_metrics(cases, 100, seed=2)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    cases = [evaluated(name) for name in COHORT]
    wide, narrow = (estimate_metrics(cases, level=level)["dice"] for level in (0.95, 0.5))
    assert bounds(wide)[0] < bounds(narrow)[0] < bounds(narrow)[1] < bounds(wide)[1]


def test_no_resamples_give_values_without_intervals() -> None:
    entry = estimate_metrics([evaluated("ordinary")], samples=0)["dice"]
    assert (entry.value, entry.low, entry.high) == (evaluated("ordinary").dice, None, None)


def test_one_case_gives_a_very_wide_interval() -> None:
    entry = estimate_metrics([evaluated("ordinary")], samples=20)["dice"]
    low, high = bounds(entry)
    assert low < 0.025 < 0.975 < high


def test_patients_without_a_failure_have_the_exact_bound() -> None:
    cases = [evaluate(line(1, 0, 1, 0), line(1, 0, 1, 0), name=str(index)) for index in range(20)]
    entry = estimate_metrics(cases, samples=50)["recall_iou_0.1"]
    assert bounds(entry) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


def test_resamples_without_lesions_are_left_out_of_lesion_metrics() -> None:
    # 2 of 10 patients have lesions, 8 of 10 found in each: no resample has another recall.
    truth = np.zeros((1, 20, 20), np.int64)
    truth[0, ::2, 0] = range(1, 11)
    found = np.where(truth <= 8, truth, 0)
    some = [evaluate_maps(str(index), truth, found, (1, 1, 1), prediction_scores=[0.5] * 8) for index in range(2)]
    none = [evaluate_maps(str(index), truth * 0, truth * 0, (1, 1, 1), prediction_scores=[]) for index in range(2, 10)]
    intervals = estimate_metrics(some + none, samples=500)
    for name in ("recall_iou_0.1", "f1_any", "ap_iou_0.1", "cpm_any", "pq"):
        entry = intervals[name]
        low, high = bounds(entry)
        assert entry.left_out == pytest.approx(0.107 * 500, abs=25)  # .8^10
        assert (entry.patients, entry.scans) == (2, 2)
        assert 0 < low < 0.8 < high < 1
    assert (intervals["dice"].left_out, intervals["dice"].scans) == (0, 10)


def test_scans_of_one_patient_widen_the_interval() -> None:
    # Eight scans: four of a patient in whom all is found and four of one in whom nothing is.
    cases = [evaluate(line(1, 0), line(int(index < 4), 0), name=str(index)) for index in range(8)]
    alone = estimate_metrics(cases)["recall_iou_0.1"]
    grouped = estimate_metrics(cases, groups=["a"] * 4 + ["b"] * 4)["recall_iou_0.1"]
    assert 0.1 < bounds(alone)[0] < bounds(alone)[1] < 0.9
    assert bounds(grouped)[0] < 0.001 < 0.999 < bounds(grouped)[1]
    assert (alone.patients, grouped.patients, grouped.scans) == (8, 2, 8)


@pytest.mark.parametrize("names", [["empty_both"], ["empty_truth"], ["empty_prediction", "empty_both"], [*COHORT]])
def test_intervals_can_be_written_as_json(names: list[str]) -> None:
    for entry in estimate_metrics([evaluated(name) for name in names], samples=50).values():
        assert MetricEstimate.from_json(json.loads(json.dumps(entry.to_json(), allow_nan=False))) == entry


def test_no_cases_have_no_metrics() -> None:
    assert estimate_metrics([]) == {}
    assert paired_comparison([], [evaluated("ordinary")]) == {}


def worse(name: str) -> CaseMetrics:
    """Return the case without predictions, as from a system that finds no lesion."""
    found = evaluated(name)
    truth = [lesion for lesion in found.lesions if lesion.kind == "truth"]
    volume = np.zeros((1, 1, 2 * len(truth) + 1), np.int64)
    volume[0, 0, 1::2] = range(1, len(truth) + 1)
    return evaluate_maps(name, volume, np.zeros_like(volume), (1.0, 1.0, 1.0))


def test_identical_systems_do_not_differ() -> None:
    cases = [evaluated(name) for name in COHORT]
    comparison = paired_comparison(cases, cases[::-1], samples=200)
    assert len(comparison) == 35
    for name, entry in comparison.items():
        assert entry.difference == 0.0
        if entry.low is None:  # a metric without an upper limit has no exact bound
            assert "_mm" in name or name.startswith("fp_per_scan")
            continue
        low, high = bounds(entry)
        assert low == pytest.approx(-high)
        assert 0 < high < 1


def test_the_difference_is_second_minus_first() -> None:
    found, nothing = [evaluated(name) for name in COHORT], [worse(name) for name in COHORT]
    entry = paired_comparison(nothing, found, samples=200)["recall_any"]
    assert entry.first == 0.0
    assert entry.difference == entry.second == metrics_of(found)["recall_any"]
    low, high = bounds(entry)
    assert low > 0
    back = paired_comparison(found, nothing, samples=200)["recall_any"]
    assert back.difference == -metrics_of(found)["recall_any"]
    assert bounds(back) == (-high, -low)


def test_only_cases_that_both_have_are_compared() -> None:
    first = [evaluated(name) for name in ("ordinary", "ordinary_two", "perfect")]
    second = [evaluated(name) for name in ("perfect", "many_lesions", "ordinary_two")]
    entry = paired_comparison(first, second, samples=50)["dice"]
    assert entry.first == entry.second == pytest.approx((1 + evaluated("ordinary_two").dice) / 2)
    assert paired_comparison(first[:1], second) == {}


def test_metrics_of_only_one_system_are_left_out() -> None:
    with_scores, without = evaluated("ordinary"), replace(evaluated("ordinary"), scored=None)
    assert "ap_any" not in paired_comparison([with_scores], [without], samples=10)
    assert "dice" in paired_comparison([with_scores], [without], samples=10)


def test_pairing_finds_a_small_difference_between_cases_that_differ_much() -> None:
    # Dice from 0 to .9 over the cases; the second system is a little better in each.
    first, second = [], []
    for index in range(1, 11):
        truth = line(*[1] * 20, *[0] * 20)
        first.append(evaluate(truth, line(*[1] * (2 * index - 2), *[0] * (42 - 2 * index)), str(index), variants=None))
        second.append(evaluate(truth, line(*[1] * (2 * index - 1), *[0] * (41 - 2 * index)), str(index), variants=None))
    entry = paired_comparison(first, second)["dice"]
    low, high = bounds(entry)
    assert 0 < low < high < 0.15
    assert low < np.mean([b.dice - a.dice for a, b in zip(first, second, strict=True)]) < high
    alone = [estimate_metrics(cases)["dice"] for cases in (first, second)]
    assert bounds(alone[0])[1] > bounds(alone[1])[0]


def test_patients_of_the_comparison_are_given_by_case() -> None:
    first = [evaluate(line(1, 0), line(0, 0), name=str(index)) for index in range(8)]
    second = [evaluate(line(1, 0), line(int(index < 4), 0), name=str(index)) for index in range(8)]
    entry = paired_comparison(first, second, groups={str(index): "ab"[index // 4] for index in range(8)})["recall_any"]
    assert (entry.difference, entry.low, entry.high, entry.patients) == (0.5, -1.0, 1.0, 2)
    # A case that is not in the mapping is a separate patient.
    alone = paired_comparison(first, second, groups={})["recall_any"]
    assert alone == paired_comparison(first, second)["recall_any"]


def test_a_metric_that_is_undefined_for_one_system_has_no_difference() -> None:
    healthy = [evaluate(line(0, 0), line(0, 0))]
    entry = paired_comparison(healthy, healthy, samples=10)["dice_with_lesions"]
    assert entry == MetricDifference(None, None, None, left_out=10, patients=0)
