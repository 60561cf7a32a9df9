from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.evaluation.figures import FigureRule
from detseg3d.evaluation.froc import average_precision, cpm, froc_curve
from detseg3d.evaluation.lesions import evaluate_case
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import CRITERIA, CaseMetrics
from detseg3d.evaluation.statistics import headline_intervals, paired_comparison, weighted_figures
from detseg3d.evaluation.summary import summarize
from tests.evaluation.golden.cases import evaluated

IntArray = npt.NDArray[np.int64]
SPACING = (2.0, 1.0, 0.5)
SIZES_AND_DISTANCES = FigureRule(tolerance_mm=0.6)

COHORT = (
    "ordinary",
    "ordinary_two",
    "empty_truth",
    "empty_prediction",
    "perfect",
    "empty_both",
    "many_false_positives",
)


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def evaluate(truth: IntArray, prediction: IntArray, name: str = "case", **keywords: Any) -> CaseMetrics:
    return evaluate_case(name, truth, prediction, SPACING, **{"figures": SIZES_AND_DISTANCES, **keywords})


def figures_of(cases: Sequence[CaseMetrics]) -> dict[str, float]:
    """Every case once."""
    return {name: float(value[0]) for name, value in weighted_figures(cases, np.ones((1, len(cases)))).items()}


small_maps = arrays(np.int64, (2, 4, 4), elements=st.integers(0, 4))
distinct_scores = st.permutations([0.2, 0.4, 0.6, 0.8])


@st.composite
def drawn_cases(draw: st.DrawFn) -> CaseMetrics:
    """Two classes; scores with ties; sides are empty now and then."""
    truth, prediction = (draw(st.one_of(small_maps, st.just(np.zeros((2, 4, 4), np.int64)))) for _ in range(2))
    classes = [draw(st.lists(st.integers(0, 1), min_size=4, max_size=4)) for _ in range(2)]
    scores = draw(st.lists(st.sampled_from([0.2, 0.5, 0.8]), min_size=4, max_size=4))
    return evaluate(
        truth,
        prediction,
        truth_classes=classes[0],
        prediction_classes=classes[1],
        prediction_scores=scores,
        class_names=["a", "b"],
    )


cohorts = st.lists(drawn_cases(), min_size=1, max_size=4)


# Against the summary, and against duplicating cases


def of_summary(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The same figures by another way."""
    result = {}
    for name in CRITERIA:
        suffix = "" if name == "any" else f"_{name}"
        for rate in ("recall", "precision", "f1"):
            result[rate + suffix] = summary["lesions"][name][rate]
        if summary["scores"] is not None:
            result[f"ap_{name}"] = summary["scores"][name]["average_precision"]
            result[f"cpm_{name}"] = summary["scores"][name]["cpm"]
    result["fp_per_scan"] = summary["false_positives"]["per_scan"]
    result |= {name: summary["panoptic"][name] for name in ("pq", "sq", "rq")}
    result |= {"dice": summary["dice"]["mean"], "dice_with_lesions": summary["dice"]["mean_with_lesions"]}
    result |= {name: summary[name] for name in ("nsd", "hd95_mm", "cc_dice") if name in summary}
    if "lesionwise" in summary:
        result["lesionwise_dice"] = summary["lesionwise"]["dice"]
    return result


def same(first: Mapping[str, float], second: Mapping[str, float | None]) -> bool:
    assert set(first) == set(second)
    for name, value in first.items():
        other = second[name]
        assert value == pytest.approx(np.nan if other is None else other, abs=1e-12, nan_ok=True), name
    return True


def test_figures_with_equal_weights_are_those_of_the_summary() -> None:
    cases = [evaluated(name) for name in COHORT]
    figures = figures_of(cases)
    assert len(figures) == 25
    assert same(figures, of_summary(summarize(cases)))


@settings(max_examples=30)
@given(cohorts)
def test_figures_with_equal_weights_are_those_of_the_summary_whatever_the_cases(cases: list[CaseMetrics]) -> None:
    assert same(figures_of(cases), of_summary(summarize(cases)))


@settings(max_examples=30)
@given(cohorts, st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=3))
def test_whole_weights_equal_duplicated_cases(cases: list[CaseMetrics], rows: list[list[int]]) -> None:
    weights = np.array(rows, float)[:, : len(cases)]
    assume(np.all(weights.sum(axis=1) > 0))
    figures = weighted_figures(cases, weights)
    for row, counts in enumerate(weights.astype(int).tolist()):
        copies = [case for case, count in zip(cases, counts, strict=True) for _ in range(count)]
        assert same({name: value[row] for name, value in figures.items()}, of_summary(summarize(copies)))


def test_weighted_curves_are_those_of_the_duplicated_cases() -> None:
    cases = [evaluated(name) for name in COHORT]
    weights = np.random.default_rng(0).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=50)
    figures = weighted_figures(cases, weights.astype(float))
    for row, counts in enumerate(weights.tolist()):
        for name in CRITERIA:
            records = [
                case.scored["all"][name] for case, count in zip(cases, counts, strict=True) for _ in range(count)
            ]
            assert figures[f"ap_{name}"][row] == pytest.approx(average_precision(records), abs=1e-12)
            assert figures[f"cpm_{name}"][row] == pytest.approx(cpm(froc_curve(records)), abs=1e-12)


def test_figures_by_hand() -> None:
    # Lesions of 4 and 2 voxels, the first found by 3 of its voxels, and one false positive; then a healthy scan with
    # one; then a miss.
    cases = [
        evaluate(line(1, 1, 1, 1, 0, 2, 2, 0, 0), line(0, 1, 1, 1, 0, 0, 0, 0, 3), prediction_scores={1: 0.9, 3: 0.95}),
        evaluate(line(*[0] * 9), line(0, 1, 0, 0, 0, 0, 0, 0, 0), prediction_scores=[0.1]),
        evaluate(line(1, *[0] * 8), line(*[0] * 9), prediction_scores=[]),
    ]
    figures = figures_of(cases)
    assert (figures["recall"], figures["precision"], figures["fp_per_scan"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    assert figures["recall_iou_0.5"] == pytest.approx(1 / 3)
    assert figures["pq"] == pytest.approx(2 * 0.75 / 6)
    assert (figures["sq"], figures["rq"]) == pytest.approx((0.75, 2 / 6))
    assert figures["dice"] == pytest.approx((2 * 3 / (6 + 4) + 0 + 0) / 3)
    assert figures["dice_with_lesions"] == pytest.approx(2 * 3 / (6 + 4) / 2)
    assert figures["ap_any"] == pytest.approx(1 / 2 / 3)
    # A third of a false positive per scan is allowed from the rate 1/2 on, of seven.
    assert figures["cpm_any"] == pytest.approx(5 / 7 / 3)


def test_what_was_not_computed_is_left_out() -> None:
    with_all, without = evaluate(line(1), line(1), prediction_scores=[0.5]), evaluate(line(1), line(1), figures=None)
    assert {"nsd", "hd95_mm", "cc_dice", "lesionwise_dice", "ap_any", "cpm_iou_0.5"} <= set(figures_of([with_all]))
    for cases in ([without], [with_all, without]):
        names = set(figures_of(cases))
        assert not names & {"nsd", "hd95_mm", "cc_dice", "lesionwise_dice", "ap_any"}
        assert {"recall", "dice", "pq"} <= names
    assert "hd95_mm" not in figures_of([evaluate(line(1), line(1), figures=FigureRule(hd95=False))])


def test_dice_over_cases_with_lesions_is_undefined_without_any() -> None:
    cases = [evaluate(line(1, 0), line(1, 0)), evaluate(line(0, 0), line(0, 0))]
    figures = weighted_figures(cases, np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert figures["dice_with_lesions"].tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert figures["dice"].tolist() == [1.0, 1.0]


# What must not matter


@settings(max_examples=30)
@given(small_maps, small_maps, distinct_scores, st.permutations(range(1, 5)), st.permutations([7, 300, 70_000, 9]))
def test_renumbering_lesions_changes_nothing(
    truth: IntArray, prediction: IntArray, scores: list[float], first: list[int], second: list[int]
) -> None:
    table = overlap_table(truth, prediction)
    # Where a prediction overlaps two lesions equally well, the order of the values has to decide.
    assume(len({(p, iou) for p, iou in zip(table.prediction_index, table.iou, strict=True)}) == len(table.iou))
    renumbered = [np.array([0, *numbers])[volume] for numbers, volume in ((first, truth), (second, prediction))]
    here = evaluate(truth, prediction, prediction_scores=scores)
    there = evaluate(renumbered[0], renumbered[1], prediction_scores=dict(zip(second, scores, strict=True)))
    assert same(figures_of([there]), figures_of([here]))


@settings(max_examples=30)
@given(small_maps, small_maps, distinct_scores, st.sampled_from([(0,), (1,), (2,), (0, 2), (0, 1, 2)]))
def test_flipping_the_volumes_changes_nothing(
    truth: IntArray, prediction: IntArray, scores: list[float], axes: tuple[int, ...]
) -> None:
    here = evaluate(truth, prediction, prediction_scores=scores)
    there = evaluate(np.flip(truth, axes), np.flip(prediction, axes), prediction_scores=scores)
    assert same(figures_of([there]), figures_of([here]))


def test_turning_volumes_and_spacing_together_changes_nothing() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 4, size=(2, 4, 5, 6))
    here = evaluate(truth, prediction, prediction_scores=[0.3, 0.2, 0.9])
    there = evaluate_case(
        "case",
        truth.transpose(2, 0, 1),
        prediction.transpose(2, 0, 1),
        (0.5, 2.0, 1.0),
        prediction_scores=[0.3, 0.2, 0.9],
        figures=SIZES_AND_DISTANCES,
    )
    assert same(figures_of([there]), figures_of([here]))


@settings(max_examples=20)
@given(cohorts, st.randoms(use_true_random=False))
def test_the_order_of_cases_does_not_matter(cases: list[CaseMetrics], random: Any) -> None:
    assert same(figures_of(random.sample(cases, len(cases))), figures_of(cases))


@settings(max_examples=30)
@given(cohorts)
def test_a_healthy_scan_without_alarms_changes_denominators_and_means_only(cases: list[CaseMetrics]) -> None:
    healthy = evaluate(*np.zeros((2, 2, 4, 4), np.int64), prediction_scores=[], class_names=["a", "b"])
    before, after = figures_of(cases), figures_of([*cases, healthy])
    count = len(cases)
    for name in ("dice", "nsd", "cc_dice"):
        assert after.pop(name) == pytest.approx((before.pop(name) * count + 1) / (count + 1))
    for name in ("fp_per_scan", "hd95_mm"):
        assert after.pop(name) == pytest.approx(before.pop(name) * count / (count + 1))
    for name in CRITERIA:
        assert after.pop(f"cpm_{name}") >= before.pop(f"cpm_{name}") - 1e-12
    assert same(after, before)


@settings(max_examples=20)
@given(st.lists(st.tuples(small_maps, small_maps, distinct_scores), min_size=1, max_size=3), st.sampled_from([2, 0.1]))
def test_rescaling_scores_monotonically_changes_nothing(
    maps: list[tuple[IntArray, IntArray, list[float]]], power: float
) -> None:
    here, there = (
        [evaluate(truth, prediction, prediction_scores=[s**p for s in scores]) for truth, prediction, scores in maps]
        for p in (1, power)
    )
    assert same(figures_of(there), figures_of(here))


@settings(max_examples=20)
@given(st.lists(small_maps, min_size=1, max_size=3), distinct_scores)
def test_a_perfect_detector_has_one_everywhere(maps: list[IntArray], scores: list[float]) -> None:
    cases = [evaluate(truth, truth.copy(), prediction_scores=scores) for truth in maps]
    assume(any(case.overall.has_lesions for case in cases))
    for name, value in figures_of(cases).items():
        assert value == pytest.approx(0 if name in ("fp_per_scan", "hd95_mm") else 1, abs=1e-12), name


# Intervals


def bounds(entry: Mapping[str, float | None]) -> tuple[float, float]:
    low, high = entry["low"], entry["high"]
    assert low is not None
    assert high is not None
    return low, high


def test_a_figure_has_its_value_over_all_cases_and_an_interval_around_it() -> None:
    cases = [evaluated(name) for name in COHORT]
    intervals, figures = headline_intervals(cases), figures_of(cases)
    assert set(intervals) == set(figures)
    for name, entry in intervals.items():
        assert entry["value"] == pytest.approx(figures[name])
        low, high = bounds(entry)
        assert low <= figures[name] <= high, name
    assert np.less(*bounds(intervals["dice"]))


def test_the_interval_is_that_of_resampling_case_by_case() -> None:
    cases = [evaluated(name) for name in COHORT]
    random = np.random.default_rng(5)
    values = []
    for _ in range(1500):
        drawn = [cases[index] for index in random.integers(0, len(cases), size=len(cases))]
        counts = [case.overall.detection["any"] for case in drawn]
        found, truth = sum(c.found for c in counts), sum(c.truth for c in counts)
        values.append(found / truth if truth else np.nan)
    low, high = np.nanquantile(values, [0.025, 0.975])
    entry = headline_intervals(cases, samples=1500)["recall"]
    assert (entry["low"], entry["high"]) == pytest.approx((low, high), abs=0.06)


def test_intervals_are_determined_by_the_seed() -> None:
    cases = [evaluated(name) for name in COHORT]
    assert headline_intervals(cases, 100, seed=1) == headline_intervals(cases, 100, seed=1)
    assert headline_intervals(cases, 100, seed=1) != headline_intervals(cases, 100, seed=2)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    cases = [evaluated(name) for name in COHORT]
    wide, narrow = (headline_intervals(cases, level=level)["dice"] for level in (0.95, 0.5))
    assert bounds(wide)[0] < bounds(narrow)[0] < bounds(narrow)[1] < bounds(wide)[1]


def test_no_resamples_give_values_without_intervals() -> None:
    entry = headline_intervals([evaluated("ordinary")], samples=0)["dice"]
    assert (entry["value"], entry["low"], entry["high"]) == (evaluated("ordinary").dice, None, None)


def test_one_case_has_an_interval_without_width() -> None:
    entry = headline_intervals([evaluated("ordinary")], samples=20)["dice"]
    assert entry["low"] == entry["high"] == pytest.approx(entry["value"])


def test_scans_of_one_patient_widen_the_interval() -> None:
    # Eight scans: four of a patient in whom all is found and four of one in whom nothing is.
    cases = [evaluate(line(1, 0), line(int(index < 4), 0), name=str(index)) for index in range(8)]
    alone = headline_intervals(cases)["recall"]
    grouped = headline_intervals(cases, groups=["a"] * 4 + ["b"] * 4)["recall"]
    assert 0 < bounds(alone)[0] < bounds(alone)[1] < 1
    assert (grouped["low"], grouped["high"]) == (0.0, 1.0)


@pytest.mark.parametrize("names", [["empty_both"], ["empty_truth"], ["empty_prediction", "empty_both"], [*COHORT]])
def test_intervals_are_ready_for_json(names: list[str]) -> None:
    text = json.dumps(headline_intervals([evaluated(name) for name in names], samples=50), allow_nan=False)
    assert '"dice"' in text


def test_no_cases_have_no_figures() -> None:
    assert headline_intervals([]) == {}
    assert paired_comparison([], [evaluated("ordinary")]) == {}


# Two systems


def worse(name: str) -> CaseMetrics:
    """A system that finds nothing."""
    found = evaluated(name)
    truth = [lesion for lesion in found.lesions if lesion.kind == "truth"]
    volume = np.zeros((1, 1, 2 * len(truth) + 1), np.int64)
    volume[0, 0, 1::2] = range(1, len(truth) + 1)
    return evaluate_case(name, volume, np.zeros_like(volume), (1.0, 1.0, 1.0))


def test_identical_systems_do_not_differ() -> None:
    cases = [evaluated(name) for name in COHORT]
    comparison = paired_comparison(cases, cases[::-1], samples=200)
    assert len(comparison) == 25
    for name, entry in comparison.items():
        assert (entry["difference"], entry["low"], entry["high"]) == (0.0, 0.0, 0.0), name


def test_the_difference_is_second_minus_first() -> None:
    found, nothing = [evaluated(name) for name in COHORT], [worse(name) for name in COHORT]
    entry = paired_comparison(nothing, found, samples=200)["recall"]
    assert entry["first"] == 0.0
    assert entry["difference"] == entry["second"] == figures_of(found)["recall"]
    low, high = bounds(entry)
    assert low > 0
    back = paired_comparison(found, nothing, samples=200)["recall"]
    assert back["difference"] == -figures_of(found)["recall"]
    assert bounds(back) == (-high, -low)


def test_only_cases_that_both_have_are_compared() -> None:
    first = [evaluated(name) for name in ("ordinary", "ordinary_two", "perfect")]
    second = [evaluated(name) for name in ("perfect", "many_lesions", "ordinary_two")]
    entry = paired_comparison(first, second, samples=50)["dice"]
    assert entry["first"] == entry["second"] == pytest.approx((1 + evaluated("ordinary_two").dice) / 2)
    assert paired_comparison(first[:1], second) == {}


def test_figures_of_one_system_alone_are_left_out() -> None:
    with_scores, without = evaluated("ordinary"), replace(evaluated("ordinary"), scored={})
    assert "ap_any" not in paired_comparison([with_scores], [without], samples=10)
    assert "dice" in paired_comparison([with_scores], [without], samples=10)


def test_pairing_finds_a_small_difference_between_cases_that_differ_much() -> None:
    # Dice from 0 to .9 over the cases; the second system is a little better in each.
    first, second = [], []
    for index in range(1, 11):
        truth = line(*[1] * 20, *[0] * 20)
        first.append(evaluate(truth, line(*[1] * (2 * index - 2), *[0] * (42 - 2 * index)), str(index), figures=None))
        second.append(evaluate(truth, line(*[1] * (2 * index - 1), *[0] * (41 - 2 * index)), str(index), figures=None))
    entry = paired_comparison(first, second)["dice"]
    low, high = bounds(entry)
    assert 0 < low < high < 0.15
    assert low < np.mean([b.dice - a.dice for a, b in zip(first, second, strict=True)]) < high
    alone = [headline_intervals(cases)["dice"] for cases in (first, second)]
    assert bounds(alone[0])[1] > bounds(alone[1])[0]


def test_patients_of_the_comparison_are_given_by_case() -> None:
    first = [evaluate(line(1, 0), line(0, 0), name=str(index)) for index in range(8)]
    second = [evaluate(line(1, 0), line(int(index < 4), 0), name=str(index)) for index in range(8)]
    entry = paired_comparison(first, second, groups={str(index): "ab"[index // 4] for index in range(8)})["recall"]
    assert (entry["difference"], entry["low"], entry["high"]) == (0.5, 0.0, 1.0)
    # A case that is not named is a patient of its own.
    alone = paired_comparison(first, second, groups={})["recall"]
    assert alone == paired_comparison(first, second)["recall"]


def test_a_figure_that_one_system_has_not_defined_has_no_difference() -> None:
    healthy = [evaluate(line(0, 0), line(0, 0))]
    entry = paired_comparison(healthy, healthy, samples=10)["dice_with_lesions"]
    assert entry == {"first": None, "second": None, "difference": None, "low": None, "high": None}
