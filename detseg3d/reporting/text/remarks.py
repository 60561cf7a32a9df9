"""Remarks on an evaluation that the Markdown summary and the HTML report share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detseg3d.evaluation.intervals import MetricEstimate
from detseg3d.evaluation.result import SystemsResult
from detseg3d.evaluation.scores.bootstrap import Interval

__all__ = [
    "HD95_PENALTY",
    "MIN_PATIENTS",
    "describe_different_scans",
    "describe_few_patients",
    "describe_few_scans",
    "describe_intervals",
    "describe_left_out",
]

HD95_PENALTY = (
    "If only the truth or only the prediction of a scan is empty, the HD95 of the scan is the diagonal of its volume.\n"
    "If both are empty, the HD95 is 0."
)

MIN_PATIENTS = 5
"""Minimum number of patients for an interval without a warning. With this number or more, the intervals contained the
true value in over 90 % of the simulated studies of ``benchmarks/coverage.py``."""

_MAX_NAMES = 5


def describe_different_scans(result: SystemsResult) -> str:
    """Return a warning that systems were evaluated on different scans; empty if all have the same scans.

    A missing prediction for a difficult scan does not lower the metrics of a system. The system then looks better than
    a system that has a prediction.
    """
    missing = result.missing_scans
    if not missing:
        return ""
    listed = "; ".join(f"{name} {_names(scans)}" for name, scans in missing.items())
    return (
        "The systems were evaluated on different scans, so their metrics cannot be compared: a scan that a system\n"
        "lacks does not lower its metrics. Only the differences are computed on the scans that both systems have.\n"
        f"Without: {listed}."
    )


def describe_intervals(patients: Mapping[str, int]) -> str:
    """Return a sentence on the method of the intervals and the number of patients.

    Parameters
    ----------
    patients : dict of str to int
        Number of patients of each system.

    Examples
    --------
    >>> describe_intervals({"": 12}), describe_intervals({"A": 12, "B": 7})[-28:]
    ('Intervals: 95 %, bootstrap over 12 patients.', 'over 12 (A), 7 (B) patients.')
    """
    if len(set(patients.values())) == 1:
        text = str(next(iter(patients.values())))
    else:
        text = ", ".join(f"{number} ({name})" for name, number in patients.items())
    return f"Intervals: 95 %, bootstrap over {text} patient{'' if text == '1' else 's'}."


def describe_few_scans(scans: int, rates: Sequence[float]) -> str:
    """Return a remark that some rates of the FROC curve allow no false positive; empty if every rate allows one.

    Parameters
    ----------
    scans : int
        Number of scans.
    rates : sequence of float
        False positives per scan.

    Examples
    --------
    >>> describe_few_scans(3, (0.125, 0.25, 0.5, 1.0))
    'In 3 scans together, 1/8 and 1/4 false positives per scan are less than one: both allow no false positive.'
    >>> describe_few_scans(8, (0.125, 0.25, 0.5, 1.0))
    ''
    """
    below = [f"1/{round(1 / rate)}" for rate in rates if 0 < rate * scans < 1 - 1e-9]
    if not below:
        return ""
    together = f"In {scans} scan{'' if scans == 1 else 's'} together, "
    if len(below) == 1:
        return f"{together}{below[0]} false positives per scan is less than one: it allows no false positive."
    listed = f"{', '.join(below[:-1])} and {below[-1]}"
    subject = "both" if len(below) == 2 else "all of these"
    return f"{together}{listed} false positives per scan are less than one: {subject} allow no false positive."


def describe_left_out(intervals: Sequence[MetricEstimate | Interval]) -> str:
    """Return a remark on resamples in which a metric is undefined; empty if there are no such resamples."""
    most = max((entry.left_out for entry in intervals), default=0)
    if not most:
        return ""
    return f"Resamples in which a metric has no value, for example without lesions, are left out: up to {most}."


def describe_few_patients(intervals: Sequence[MetricEstimate | Interval]) -> str:
    """Return a warning that intervals come from too few patients; empty if there are enough patients.

    Examples
    --------
    >>> recall, dice = MetricEstimate(0.6, 0.5, 0.7, patients=3), MetricEstimate(0.6, 0.5, 0.7, patients=20)
    >>> describe_few_patients([recall, dice])
    'Intervals from fewer than 5 patients (here 3) are only a rough guide.'
    >>> describe_few_patients([dice])
    ''
    """
    fewest = min((entry.patients for entry in intervals if entry.low is not None), default=MIN_PATIENTS)
    if fewest >= MIN_PATIENTS:
        return ""
    return f"Intervals from fewer than {MIN_PATIENTS} patients (here {fewest}) are only a rough guide."


def _names(scans: Sequence[str]) -> str:
    more = f" and {len(scans) - _MAX_NAMES} more" if len(scans) > _MAX_NAMES else ""
    return ", ".join(scans[:_MAX_NAMES]) + more
