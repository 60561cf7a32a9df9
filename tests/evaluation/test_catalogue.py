from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detseg3d.evaluation.catalogue import CATALOGUE, Better, MetricSpec, Needs, estimate_of, metric_spec, shown_metrics
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.metrics import CaseMetrics
from tests.evaluation.cohort import evaluate, line, metrics_of
from tests.evaluation.golden.cases import evaluated
from tests.evaluations import result_of

COHORT = ("ordinary", "ordinary_two", "empty_truth", "perfect", "many_false_positives")


@pytest.fixture(scope="module")
def cases() -> list[CaseMetrics]:
    return [evaluated(name) for name in COHORT]


def test_every_metric_that_has_an_interval_is_in_the_catalogue(cases: list[CaseMetrics]) -> None:
    keys = [spec.key for spec in CATALOGUE]
    assert len(keys) == len(set(keys))
    assert set(metrics_of(cases)) <= set(keys)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.key)
def test_the_summary_and_the_estimate_of_a_metric_agree(spec: MetricSpec, cases: list[CaseMetrics]) -> None:
    result = result_of(cases)
    value = spec.value_in(result.summary)
    assert value is not None
    if spec.key in result.estimates:
        assert result.estimates[spec.key].value == pytest.approx(value)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.key)
def test_a_perfect_detector_reaches_the_best_value(spec: MetricSpec) -> None:
    value = spec.value_in(result_of([evaluated("perfect"), evaluated("empty_both")]).summary)
    assert value == pytest.approx(spec.best, abs=1e-12)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.key)
def test_values_lie_between_worst_and_best_in_the_stated_direction(spec: MetricSpec, cases: list[CaseMetrics]) -> None:
    value = spec.value_in(result_of(cases).summary)
    assert value is not None
    if spec.better is Better.HIGHER:
        assert spec.worst is not None and spec.best is not None and spec.worst <= value <= spec.best
    elif spec.better is Better.LOWER:
        assert spec.best is not None and value >= spec.best
    assert spec.is_share == (spec.unit == "" and spec.worst == 0)


@pytest.mark.parametrize("spec", CATALOGUE, ids=lambda spec: spec.key)
def test_texts_are_sentences(spec: MetricSpec) -> None:
    assert spec.label[0].isupper() and not spec.definition[0].islower() and spec.definition.endswith(".")


@pytest.mark.parametrize(
    ("truth", "prediction", "met"),
    [
        ((1, 0), (0, 0), {Needs.NOTHING, Needs.TRUTH, Needs.EITHER}),
        ((0, 0), (0, 1), {Needs.NOTHING, Needs.PREDICTIONS, Needs.EITHER}),
        ((0, 0), (0, 0), {Needs.NOTHING}),
        ((1, 0), (1, 0), set(Needs)),
    ],
)
def test_needs_are_met_by_the_lesions_that_exist(
    truth: tuple[int, ...], prediction: tuple[int, ...], met: set[Needs]
) -> None:
    group = result_of([evaluate(line(*truth), line(*prediction))]).summary.overall
    assert {needs for needs in Needs if needs.are_met(group)} == met


def test_a_metric_that_was_not_measured_has_no_value() -> None:
    result = result_of([evaluate(line(0, 0), line(0, 1))])
    # By definition the recall without true lesions is 0.
    assert result.summary.overall.headline.recall == 0.0
    assert estimate_of(result, metric_spec("recall_iou_0.1")).value is None
    assert estimate_of(result, metric_spec("precision_iou_0.1")).value == 0.0


def test_without_an_estimate_the_value_comes_from_the_summary() -> None:
    result = replace(result_of([evaluate(line(1, 1), line(1, 0))]), estimates={})
    assert estimate_of(result, metric_spec("dice")).value == pytest.approx(2 / 3)


def test_metrics_that_were_not_requested_have_no_value() -> None:
    result = result_of([evaluate(line(1, 1), line(1, 0), variants=None)])
    assert estimate_of(result, metric_spec("nsd")).value is None
    without = result_of([evaluate(line(1, 1), line(1, 0), variants=MetricVariants(distances=False))])
    assert estimate_of(without, metric_spec("hd95_mm")).value is None
    assert np.isfinite(estimate_of(without, metric_spec("nsd")).value or np.nan)


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(KeyError):
        metric_spec("accuracy")
    assert {spec.key for spec in shown_metrics()} < {spec.key for spec in CATALOGUE}
