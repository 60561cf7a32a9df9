"""The table and the remarks of the tests that compare two systems scan by scan."""

from __future__ import annotations

from collections.abc import Sequence

from detseg3d.evaluation.scores.paired_tests import PairedTest
from detseg3d.reporting.text.markdown import DASH

__all__ = ["TEST_HEADER", "describe_tests", "rows_of_tests"]

_MIN_PATIENTS = 10

TEST_HEADER = ("per scan", "scans", "patients", "mean difference", "p, Wilcoxon signed rank", "p, bootstrap")


def format_p(p: float | None) -> str:
    """Return a p-value as text.

    Examples
    --------
    >>> format_p(0.0312), format_p(0.00002), format_p(1.0), format_p(None)
    ('0.031', '< 0.001', '1.000', '–')
    """
    if p is None:
        return DASH
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rows_of_tests(tests: Sequence[PairedTest]) -> list[tuple[str, ...]]:
    """Return the cells of a row for each test, in the order of ``TEST_HEADER``."""
    return [
        (
            test.metric.value,
            str(test.scans),
            str(test.patients),
            DASH if test.mean_difference is None else f"{test.mean_difference:+.3f}",
            format_p(test.wilcoxon_p),
            format_p(test.bootstrap_p),
        )
        for test in tests
    ]


def describe_tests(tests: Sequence[PairedTest]) -> tuple[str, str]:
    """Return the description of the tests, and a warning if there are too few patients; empty without tests.

    Examples
    --------
    >>> from detseg3d.evaluation.scores.paired_tests import ScanMetric
    >>> describe_tests([PairedTest(ScanMetric.DICE, 8, 4, 0.1, 0.125, 0.03)])[1]
    'With fewer than 10 patients (here 4), p-values are not reliable: look at the pairs themselves.'
    """
    if not tests:
        return "", ""
    text = (
        "Both tests are two-sided and compare the same pairs: the value of a scan with one system and with the other. "
        "Differences of scans of one patient are averaged first. The Wilcoxon signed-rank test ranks the differences "
        "and leaves out patients without a difference. The bootstrap draws patients with replacement and tests if the "
        "mean difference is 0, with Student's t as in the intervals. F1 and recall (IoU ≥ 0.1) are those of scans with "
        "true lesions; false positives and Dice are those of all scans. The p-values are not corrected for the number "
        "of tests. The intervals in the table of metrics are those of pooled metrics, in which a scan with many "
        "lesions counts more."
    )
    fewest = min(test.patients for test in tests)
    if fewest >= _MIN_PATIENTS:
        return text, ""
    few = f"With fewer than {_MIN_PATIENTS} patients (here {fewest}), p-values are not reliable: "
    return text, f"{few}look at the pairs themselves."
