from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import rankdata, ttest_1samp

from detseg3d.evaluation.metrics import CaseMetrics, ClassMetrics, Criterion, DetectionCounts
from detseg3d.evaluation.scores.paired_tests import PairedTest, ScanMetric, paired_tests, paired_values


def case(name: str, found: int, truth: int = 10, predictions: int | None = None, dice: float = 0.5) -> CaseMetrics:
    counts = DetectionCounts(truth, found, found if predictions is None else predictions, found)
    metrics = ClassMetrics(1000 * (truth > 0), 1000, round(1000 * dice), dict.fromkeys(Criterion, counts))
    return CaseMetrics(name, (1.0, 1.0, 1.0), 1.0, {"lesion": metrics}, ())


def test_of(tests: tuple[PairedTest, ...], metric: ScanMetric) -> PairedTest:
    (test,) = (test for test in tests if test.metric is metric)
    return test


test_of.__test__ = False  # type: ignore[attr-defined]  # a helper, not a test

FIRST = [3, 4, 5, 5, 6, 2, 4, 3]
SECOND = [4, 6, 5, 8, 5, 7, 8, 9]


def signed_rank_p(differences: list[float]) -> float:
    """Return the exact two-sided p-value: the share of sign patterns with a rank sum at least as far from the mean."""
    changed = np.array([value for value in differences if value])
    ranks = rankdata(np.abs(changed))
    middle = ranks.sum() / 2
    observed = abs(ranks[changed > 0].sum() - middle)
    sums = [np.dot(ranks, signs) for signs in product((0, 1), repeat=len(ranks))]
    return float(np.mean([abs(total - middle) >= observed - 1e-9 for total in sums]))


def test_the_signed_rank_test_counts_all_patterns_of_signs() -> None:
    # Eight Dice values without ties, so that the test of scipy is exact as well.
    shifts = [0.01, 0.02, -0.03, 0.04, 0.05, 0.06, -0.07, 0.08]
    first = [case(str(n), 5, dice=0.5) for n in range(8)]
    second = [case(str(n), 5, dice=0.5 + shift) for n, shift in enumerate(shifts)]
    test = test_of(paired_tests(first, second, samples=0), ScanMetric.DICE)
    differences = [b.dice - a.dice for a, b in zip(first, second, strict=True)]
    assert test.wilcoxon_p == pytest.approx(signed_rank_p(differences))
    assert test.mean_difference == pytest.approx(np.mean(differences))
    assert test.bootstrap_p is None


def test_with_many_resamples_the_bootstrap_agrees_with_the_t_test() -> None:
    # The standard error of the mean of n values over resamples converges to sqrt((n - 1) / n) of the usual one.
    first = [case(str(n), found) for n, found in enumerate(FIRST)]
    second = [case(str(n), found) for n, found in enumerate(SECOND)]
    test = test_of(paired_tests(first, second, samples=40_000, seed=3), ScanMetric.RECALL)
    differences = (np.array(SECOND) - FIRST) / 10
    assert test.bootstrap_p == pytest.approx(ttest_1samp(differences, 0).pvalue, rel=0.03)
    assert test.mean_difference == pytest.approx(differences.mean())


def test_equal_differences_of_all_patients_count_as_signs() -> None:
    first, second = ([case(str(n), found) for n in range(6)] for found in (3, 4))
    assert test_of(paired_tests(first, second), ScanMetric.RECALL).bootstrap_p == pytest.approx(2 / 2**6)


def test_equal_systems_differ_in_nothing() -> None:
    cases = [case(str(n), found) for n, found in enumerate(FIRST)]
    for test in paired_tests(cases, cases):
        assert (test.mean_difference, test.wilcoxon_p, test.bootstrap_p) == (0.0, None, 1.0)


def test_scans_of_one_patient_count_once() -> None:
    first = [case(str(n), 3) for n in range(4)]
    second = [case("0", 5), case("1", 3), case("2", 4), case("3", 4)]
    patients = {"0": "smith", "1": "smith"}
    test = test_of(paired_tests(first, second, groups=patients), ScanMetric.RECALL)
    assert (test.scans, test.patients) == (4, 3)
    assert test.mean_difference == pytest.approx(np.mean([0.1, 0.1, 0.1]))


def test_only_common_scans_with_a_value_are_compared() -> None:
    first = [case("a", 5), case("free", 0, truth=0, predictions=2), case("only first", 1)]
    second = [case("free", 0, truth=0, predictions=0), case("a", 6), case("only second", 1)]
    recall = paired_values(first, second, ScanMetric.RECALL)
    assert (recall.case_ids, recall.first, recall.second) == (("a",), (0.5,), (0.6,))
    false = paired_values(first, second, ScanMetric.FALSE_POSITIVES)
    assert (false.case_ids, false.first, false.second) == (("a", "free"), (0.0, 2.0), (0.0, 0.0))


def test_without_common_scans_there_is_no_value() -> None:
    for test in paired_tests([case("a", 1)], [case("b", 1)]):
        assert (test.scans, test.mean_difference, test.wilcoxon_p, test.bootstrap_p) == (0, None, None, None)
