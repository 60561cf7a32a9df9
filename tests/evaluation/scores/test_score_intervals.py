from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.evaluation.scores import score_intervals as module
from detseg3d.evaluation.scores.bootstrap import Interval, Scale, bootstrap_weights, contributions, interval
from detseg3d.evaluation.scores.froc import ScoredCase, average_precision, cpm, froc_curve, recall_at_rates
from detseg3d.evaluation.scores.score_intervals import score_intervals, weighted_scores

scores = st.lists(st.integers(0, 9).map(lambda value: value / 10), max_size=4)


def record(hits: list[float], misses: list[float], lost: int) -> ScoredCase:
    found = np.array([*hits, *[-np.inf] * lost])
    return ScoredCase("a", found, np.array(hits, float), np.array(misses, float))


cases = st.lists(st.builds(record, scores, scores, st.integers(0, 2)), min_size=1, max_size=5)


@given(cases, st.lists(st.integers(0, 3), min_size=5, max_size=5))
def test_integer_weights_equal_repeated_cases(records: list[ScoredCase], weights: list[int]) -> None:
    drawn = [case for case, weight in zip(records, weights, strict=False) for _ in range(weight)]
    metrics = weighted_scores(records, np.array([weights[: len(records)]], float))
    if not any(len(case.truth_scores) for case in drawn):
        assert np.isnan(metrics.average_precision[0])
        assert np.isnan(metrics.recall).all()
        return
    curve = froc_curve(drawn)
    assert metrics.average_precision[0] == pytest.approx(average_precision(drawn))
    assert metrics.cpm[0] == pytest.approx(cpm(curve))
    assert metrics.recall[0].tolist() == pytest.approx([row.recall for row in recall_at_rates(curve)])


def many() -> list[ScoredCase]:
    random = np.random.default_rng(0)
    return [
        record(random.uniform(0.2, 1, 3).tolist(), random.uniform(0, 0.8, 20).tolist(), int(random.integers(0, 3)))
        for _ in range(20)
    ]


def test_the_interval_contains_the_value_and_equals_the_interval_of_the_resamples() -> None:
    records = many()
    result = score_intervals(records, samples=200, seed=3)
    values = []
    for weights in bootstrap_weights(20, 200, 3).astype(int):
        values.append(average_precision([case for case, w in zip(records, weights, strict=True) for _ in range(w)]))
    ends = result.average_precision
    around = interval(
        np.array(values),
        average_precision(records),
        contributions([len(case.truth_scores) for case in records]),
        Scale.SHARE,
    )
    assert (ends.low, ends.high) == pytest.approx((around.low, around.high))
    assert (ends.left_out, ends.patients) == (around.left_out, around.patients)
    assert ends.low < average_precision(records) < ends.high
    for limits, point in zip(result.froc, recall_at_rates(froc_curve(records)), strict=True):
        assert limits.low <= point.recall <= limits.high


def test_processing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    records, weights = many(), bootstrap_weights(20, 30)
    whole = weighted_scores(records, weights)
    monkeypatch.setattr(module, "_MAX_NUMBERS_AT_ONCE", 1000)
    parts = weighted_scores(records, weights)
    np.testing.assert_array_equal(parts.average_precision, whole.average_precision)
    np.testing.assert_array_equal(parts.cpm, whole.cpm)
    np.testing.assert_array_equal(parts.recall, whole.recall)


def test_cases_of_a_patient_are_drawn_together() -> None:
    good, bad = record([0.9], [], 0), record([], [0.5], 1)
    apart = score_intervals([good, bad] * 4, samples=200).average_precision
    together = score_intervals([good, bad] * 4, samples=200, groups=["one"] * 8).average_precision
    # One patient alone says next to nothing of others.
    assert (together.patients, together.low, together.high) == (
        1,
        pytest.approx(0.0125),
        pytest.approx(0.9875),
    )
    assert apart.patients == 8
    assert together.low < apart.low < apart.high < together.high


def test_without_lesions_or_resamples_the_interval_is_undefined() -> None:
    assert score_intervals([record([], [0.5], 0)]).average_precision == Interval(None, None, 1000, 0)
    assert score_intervals([record([0.5], [], 0)], samples=0).cpm == Interval(None, None, 0, 1)


def test_resamples_without_lesions_are_left_out_and_counted() -> None:
    # Eight of ten patients have no lesions; they are drawn alone in .8^10 = 11 % of the resamples.
    ends = score_intervals([record([0.9], [], 1)] * 2 + [record([], [0.5], 0)] * 8, samples=2000).average_precision
    assert ends.left_out == pytest.approx(0.107 * 2000, abs=50)
    assert ends.patients == 2
    assert 0 < ends.low < 0.5 < ends.high < 1


def test_the_average_precision_of_no_predictions_has_the_exact_interval() -> None:
    ends = score_intervals([record([], [], 2)] * 10).average_precision
    assert (ends.low, ends.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10)))
