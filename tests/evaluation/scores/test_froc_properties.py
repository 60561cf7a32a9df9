from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.scores.froc import (
    FROC_RATES,
    ClassScores,
    FrocCurve,
    FrocPoint,
    ScoredCase,
    ScoreSummary,
    add_scored,
    average_precision,
    cpm,
    froc_curve,
    recall_at_rates,
    score_summary,
)
from tests.evaluation.scored import MISSED, record, some_cases, tenths


def metrics_of(cases: Sequence[ScoredCase]) -> tuple[float, float, list[float | None]]:
    curve = froc_curve(cases)
    return average_precision(cases), cpm(curve), [row.recall for row in recall_at_rates(curve)]


@given(some_cases, st.sampled_from([np.cbrt, np.exp, lambda s: 1 / (1 + np.exp(-5 * s)), lambda s: 1000 * s - 7]))
def test_rescaling_scores_monotonically_changes_neither_recall_nor_precision(
    cases: list[ScoredCase], scale: Any
) -> None:
    def scaled(values: npt.NDArray[np.float64]) -> list[float]:
        return [scale(value) if value > MISSED else MISSED for value in values.tolist()]

    other = [
        record(scaled(c.truth_scores), scaled(c.false_positive_scores), scaled(c.true_positive_scores)) for c in cases
    ]
    assert metrics_of(other) == metrics_of(cases)


@given(some_cases, st.randoms(use_true_random=False))
def test_the_order_of_cases_and_of_lesions_does_not_matter(cases: list[ScoredCase], random: Any) -> None:
    def shuffled(values: Sequence[Any]) -> list[Any]:
        return random.sample(list(values), len(values))

    other = [
        record(shuffled(c.truth_scores), shuffled(c.false_positive_scores), shuffled(c.true_positive_scores))
        for c in shuffled(cases)
    ]
    assert metrics_of(other) == metrics_of(cases)


@given(some_cases)
def test_a_healthy_scan_without_predictions_only_spreads_the_false_positives(cases: list[ScoredCase]) -> None:
    more = [*cases, record([])]
    assert average_precision(more) == average_precision(cases)
    before, after = froc_curve(cases), froc_curve(more)
    assert after.recall.tolist() == before.recall.tolist()
    expected = before.false_positives_per_scan * len(cases) / len(more)
    assert after.false_positives_per_scan == pytest.approx(expected)
    assert cpm(after) >= cpm(before)


@given(some_cases, tenths)
def test_one_more_false_positive_never_helps(cases: list[ScoredCase], score: float) -> None:
    assume(any(len(case.truth_scores) for case in cases))
    worse = [*cases[:-1], record(cases[-1].truth_scores.tolist(), [*cases[-1].false_positive_scores, score])]
    assert average_precision(worse) <= average_precision(cases) + 1e-12
    assert cpm(froc_curve(worse)) <= cpm(froc_curve(cases))


@given(st.lists(st.lists(tenths, max_size=5), min_size=1, max_size=3))
def test_a_perfect_detector_has_one_exactly(scores: list[list[float]]) -> None:
    cases = [record(of_case) for of_case in scores]
    assert metrics_of(cases) == (1.0, 1.0, [1.0] * len(FROC_RATES))


def summary_of(**classes: list[ScoredCase]) -> ScoreSummary:
    overall = [add_scored(list(parts)) for parts in zip(*classes.values(), strict=True)]
    return score_summary(ByClass(overall, classes))


def test_mean_average_precision_is_over_the_classes_that_occur() -> None:
    found, missed = [record([0.9])], [record([MISSED])]
    assert summary_of(a=found, b=missed).mean_average_precision == 0.5
    assert summary_of(a=found, b=[record([])]).mean_average_precision == 1.0
    # Predictions of a class that does not occur cost the pooled average precision, not the mean of the others.
    predicted = summary_of(a=found, b=[record([], [0.95])])
    assert (predicted.mean_average_precision, predicted.average_precision) == (1.0, 0.5)
    assert summary_of(a=[record([])]).mean_average_precision is None


def test_the_summary_states_recall_and_threshold_at_each_rate() -> None:
    summary = summary_of(a=[record([0.9, MISSED], [0.4])])
    assert [row.fp_per_scan for row in summary.froc] == list(FROC_RATES)
    assert summary.froc[0] == FrocPoint(fp_per_scan=0.125, recall=0.5, threshold=0.9)
    assert summary.classes == {"a": ClassScores(average_precision=0.5, cpm=0.5)}


@pytest.mark.parametrize("count", [0, 1, 2, 199, 200, 201, 5000])
def test_long_curves_are_thinned_and_keep_both_ends(count: int) -> None:
    scores = np.linspace(1, 0.1, count).tolist()
    curve = summary_of(a=[record(scores[::2], scores[1::2])]).froc_curve
    thresholds = list(curve.threshold)
    assert len(thresholds) == min(count, 200)
    assert thresholds == sorted(set(thresholds), reverse=True)
    if count:
        assert (thresholds[0], thresholds[-1]) == (scores[0], scores[-1])
        assert curve.recall[-1] == 1.0


def test_a_curve_without_predictions_is_empty() -> None:
    curve = froc_curve([record([MISSED])])
    assert isinstance(curve, FrocCurve)
    assert len(curve.thresholds) == len(curve.recall) == 0
    assert {(row.recall, row.threshold) for row in recall_at_rates(curve)} == {(0.0, None)}
