from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from detseg3d.evaluation.definitions.outlines import SURFACE_METRICS, MetricVariants
from detseg3d.evaluation.intervals import weighted_metrics
from detseg3d.evaluation.matching import overlap_table
from detseg3d.evaluation.metrics import CaseMetrics, Criterion
from detseg3d.evaluation.result import Summary
from detseg3d.evaluation.scores.froc import average_precision, cpm, froc_curve
from detseg3d.evaluation.summary import summarize
from tests.evaluation.cohort import COHORT, SIZES_AND_DISTANCES, IntArray, evaluate, line, metrics_of
from tests.evaluation.golden.cases import evaluated
from tests.evaluations import evaluate_maps

small_maps = arrays(np.int64, (2, 4, 4), elements=st.integers(0, 4))

distinct_scores = st.permutations([0.2, 0.4, 0.6, 0.8])


@st.composite
def drawn_cases(draw: st.DrawFn) -> CaseMetrics:
    """Return random cases with two classes, equal scores and sometimes empty sides."""
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


def of_summary(summary: Summary) -> dict[str, float | None]:
    """Return the same metrics from a summary; undefined if the summary gives 0 or 1 by convention."""
    result: dict[str, float | None] = {}
    group, scores, outlines = summary.overall, summary.scores, summary.overall.outlines
    lesions, predictions = group.true_lesions > 0, group.predicted_lesions > 0
    for name in Criterion:
        rates = group.detection[name]
        result |= {
            f"recall_{name}": rates.recall if lesions else None,
            f"precision_{name}": rates.precision if predictions else None,
            f"f1_{name}": rates.f1 if lesions else None,
            f"fp_per_scan_{name}": rates.false_positives_per_scan,
        }
        if scores is not None:
            result[f"ap_{name}"] = scores[name].average_precision if lesions else None
            result[f"cpm_{name}"] = scores[name].cpm if lesions else None
    result |= {"pq": group.panoptic.pq if lesions else None, "rq": group.panoptic.rq if lesions else None}
    result["sq"] = group.panoptic.sq if group.panoptic.matches else None
    result |= {"dice": group.dice.mean, "dice_with_lesions": group.dice.mean_with_lesions}
    if outlines is not None:
        result |= {name: getattr(outlines.mean, name) for name in SURFACE_METRICS}
        result |= {f"{name}_with_lesions": getattr(outlines.mean_with_lesions, name) for name in SURFACE_METRICS}
        result["cc_dice"] = outlines.cc_dice
        result["lesionwise_dice"] = outlines.lesionwise.dice if outlines.lesionwise.truth else None
    return result


def same(first: Mapping[str, float], second: Mapping[str, float | None]) -> bool:
    assert set(first) == set(second)
    for name, value in first.items():
        other = second[name]
        assert value == pytest.approx(np.nan if other is None else other, abs=1e-12, nan_ok=True), name
    return True


def test_metrics_with_equal_weights_equal_the_summary() -> None:
    cases = [evaluated(name) for name in COHORT]
    metrics = metrics_of(cases)
    assert len(metrics) == 35
    assert same(metrics, of_summary(summarize(cases)))


@settings(max_examples=30)
@given(cohorts)
def test_metrics_with_equal_weights_equal_the_summary_for_any_cases(cases: list[CaseMetrics]) -> None:
    assert same(metrics_of(cases), of_summary(summarize(cases)))


@settings(max_examples=30)
@given(cohorts, st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=3))
def test_whole_weights_equal_duplicated_cases(cases: list[CaseMetrics], rows: list[list[int]]) -> None:
    weights = np.array(rows, float)[:, : len(cases)]
    assume(np.all(weights.sum(axis=1) > 0))
    metrics = weighted_metrics(cases, weights)
    for row, counts in enumerate(weights.astype(int).tolist()):
        copies = [case for case, count in zip(cases, counts, strict=True) for _ in range(count)]
        assert same({name: metric.values[row] for name, metric in metrics.items()}, of_summary(summarize(copies)))


def test_weighted_curves_equal_the_curves_of_duplicated_cases() -> None:
    cases = [evaluated(name) for name in COHORT]
    weights = np.random.default_rng(0).multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=50)
    metrics = weighted_metrics(cases, weights.astype(float))
    for row, counts in enumerate(weights.tolist()):
        for name in Criterion:
            records = [
                case.scored.overall[name]
                for case, count in zip(cases, counts, strict=True)
                for _ in range(count)
                if case.scored is not None
            ]
            assert metrics[f"ap_{name}"].values[row] == pytest.approx(average_precision(records), abs=1e-12)
            assert metrics[f"cpm_{name}"].values[row] == pytest.approx(cpm(froc_curve(records)), abs=1e-12)


def test_metrics_by_hand() -> None:
    # Lesions of 4 and 2 voxels, the first found by 3 of its voxels, and one false positive; then a healthy scan with
    # one; then a miss.
    cases = [
        evaluate(line(1, 1, 1, 1, 0, 2, 2, 0, 0), line(0, 1, 1, 1, 0, 0, 0, 0, 3), prediction_scores={1: 0.9, 3: 0.95}),
        evaluate(line(*[0] * 9), line(0, 1, 0, 0, 0, 0, 0, 0, 0), prediction_scores=[0.1]),
        evaluate(line(1, *[0] * 8), line(*[0] * 9), prediction_scores=[]),
    ]
    metrics = metrics_of(cases)
    for name in ("any", "iou_0.1"):
        rates = [metrics[f"{rate}_{name}"] for rate in ("recall", "precision", "fp_per_scan")]
        assert rates == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert metrics["recall_iou_0.5"] == pytest.approx(1 / 3)
    assert metrics["pq"] == pytest.approx(2 * 0.75 / 6)
    assert (metrics["sq"], metrics["rq"]) == pytest.approx((0.75, 2 / 6))
    assert metrics["dice"] == pytest.approx((2 * 3 / (6 + 4) + 0 + 0) / 3)
    assert metrics["dice_with_lesions"] == pytest.approx(2 * 3 / (6 + 4) / 2)
    assert metrics["ap_any"] == pytest.approx(1 / 2 / 3)
    # A third of a false positive per scan is allowed from the rate 1/2 on, of seven.
    assert metrics["cpm_any"] == pytest.approx(5 / 7 / 3)


def test_metrics_that_were_not_computed_are_left_out() -> None:
    with_all, without = evaluate(line(1), line(1), prediction_scores=[0.5]), evaluate(line(1), line(1), variants=None)
    assert {"nsd", "hd95_mm", "cc_dice", "lesionwise_dice", "ap_any", "cpm_iou_0.5"} <= set(metrics_of([with_all]))
    for cases in ([without], [with_all, without]):
        names = set(metrics_of(cases))
        assert not names & {"nsd", "hd95_mm", "cc_dice", "lesionwise_dice", "ap_any"}
        assert {"recall_any", "dice", "pq"} <= names
    assert "hd95_mm" not in metrics_of([evaluate(line(1), line(1), variants=MetricVariants(distances=False))])


def test_dice_over_cases_with_lesions_is_undefined_without_any() -> None:
    cases = [evaluate(line(1, 0), line(1, 0)), evaluate(line(0, 0), line(0, 0))]
    metrics = weighted_metrics(cases, np.array([[1.0, 1.0], [0.0, 2.0]]))
    assert metrics["dice_with_lesions"].values.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert metrics["dice"].values.tolist() == [1.0, 1.0]


def test_lesion_metrics_are_undefined_without_lesions_and_precision_without_predictions() -> None:
    cases = [
        evaluate(line(*[1] * 5, 0), line(*[1] * 5, 0), prediction_scores=[0.5]),
        evaluate(line(*[0] * 6), line(*[1] * 5, 0), prediction_scores=[0.5]),
        evaluate(line(*[0] * 6), line(*[0] * 6), prediction_scores=[]),
    ]
    metrics = weighted_metrics(cases, np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    of_lesions = ("recall_iou_0.1", "f1_iou_0.1", "ap_any", "cpm_iou_0.5", "pq", "rq", "lesionwise_dice")
    for name in of_lesions:
        assert metrics[name].values.tolist() == pytest.approx([1.0, np.nan, np.nan], nan_ok=True), name
    assert metrics["precision_iou_0.1"].values.tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)
    assert metrics["fp_per_scan_iou_0.1"].values.tolist() == [0.0, 1.0, 0.0]


def test_an_empty_prediction_has_an_f1_of_zero() -> None:
    assert metrics_of([evaluate(line(1, 0), line(0, 0))])["f1_iou_0.1"] == 0.0


def test_masks_that_are_too_large_keep_only_the_metrics_at_any_overlap() -> None:
    truth = line(*[0] * 6, 1, *[0] * 6)
    masks = (line(*[0] * (6 - radius), *[1] * (2 * radius + 1), *[0] * (6 - radius)) for radius in (0, 5))
    good, large = (metrics_of([evaluate(truth, mask)]) for mask in masks)
    assert (good["f1_any"], good["f1_iou_0.1"], large["f1_any"]) == (1.0, 1.0, 1.0)
    assert large["f1_iou_0.1"] == 0.0  # 1 of 11 voxels


# Changes that must not change the metrics


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
    assert same(metrics_of([there]), metrics_of([here]))


@settings(max_examples=30)
@given(small_maps, small_maps, distinct_scores, st.sampled_from([(0,), (1,), (2,), (0, 2), (0, 1, 2)]))
def test_flipping_the_volumes_changes_nothing(
    truth: IntArray, prediction: IntArray, scores: list[float], axes: tuple[int, ...]
) -> None:
    here = evaluate(truth, prediction, prediction_scores=scores)
    there = evaluate(np.flip(truth, axes), np.flip(prediction, axes), prediction_scores=scores)
    assert same(metrics_of([there]), metrics_of([here]))


def test_turning_volumes_and_spacing_together_changes_nothing() -> None:
    random = np.random.default_rng(0)
    truth, prediction = random.integers(0, 4, size=(2, 4, 5, 6))
    here = evaluate(truth, prediction, prediction_scores=[0.3, 0.2, 0.9])
    there = evaluate_maps(
        "case",
        truth.transpose(2, 0, 1),
        prediction.transpose(2, 0, 1),
        (0.5, 2.0, 1.0),
        prediction_scores=[0.3, 0.2, 0.9],
        variants=SIZES_AND_DISTANCES,
    )
    assert same(metrics_of([there]), metrics_of([here]))


@settings(max_examples=20)
@given(cohorts, st.randoms(use_true_random=False))
def test_the_order_of_cases_does_not_matter(cases: list[CaseMetrics], random: Any) -> None:
    assert same(metrics_of(random.sample(cases, len(cases))), metrics_of(cases))


@settings(max_examples=30)
@given(cohorts)
def test_a_healthy_scan_without_predictions_changes_only_denominators_and_means(cases: list[CaseMetrics]) -> None:
    healthy = evaluate(*np.zeros((2, 2, 4, 4), np.int64), prediction_scores=[], class_names=["a", "b"])
    before, after = metrics_of(cases), metrics_of([*cases, healthy])
    count = len(cases)
    for name in ("dice", "nsd", "nsd_area", "cc_dice"):
        assert after.pop(name) == pytest.approx((before.pop(name) * count + 1) / (count + 1))
    for name in ("hd95_mm", "assd_mm", "hd95_area_mm"):
        assert after.pop(name) == pytest.approx(before.pop(name) * count / (count + 1))
    for name in Criterion:
        scans = after.pop(f"fp_per_scan_{name}"), before.pop(f"fp_per_scan_{name}")
        assert scans[0] == pytest.approx(scans[1] * count / (count + 1))
        cpm_after, cpm_before = after.pop(f"cpm_{name}"), before.pop(f"cpm_{name}")
        assert np.isnan(cpm_before) or cpm_after >= cpm_before - 1e-12
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
    assert same(metrics_of(there), metrics_of(here))


@settings(max_examples=20)
@given(st.lists(small_maps, min_size=1, max_size=3), distinct_scores)
def test_a_perfect_detector_has_the_best_value_of_every_metric(maps: list[IntArray], scores: list[float]) -> None:
    cases = [evaluate(truth, truth.copy(), prediction_scores=scores) for truth in maps]
    assume(any(case.overall.has_lesions for case in cases))
    for name, value in metrics_of(cases).items():
        best = 0 if name.startswith(("fp_per_scan", "hd95", "assd")) else 1
        if name == "lesionwise_dice" and np.isnan(value):
            continue  # which does not ask for lesions of 2 mm³ or less
        assert value == pytest.approx(best, abs=1e-12), name
