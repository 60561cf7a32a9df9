"""Tests of the difference between two systems on the same scans: Wilcoxon signed rank and bootstrap over patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import FloatArray
from detseg3d.core.enums import StringEnum
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics
from detseg3d.evaluation.scores.bootstrap import bootstrap_weights
from detseg3d.system.json_records import JsonRecord

__all__ = ["PairedTest", "PairedValues", "ScanMetric", "paired_tests", "paired_values"]


class ScanMetric(StringEnum):
    """Metrics of single scans that are compared in pairs, at IoU ≥ 0.1."""

    F1 = "F1"
    RECALL = "recall"
    FALSE_POSITIVES = "false positives"
    DICE = "Dice"

    @property
    def lower_is_better(self) -> bool:
        """True if a lower value is better."""
        return self is ScanMetric.FALSE_POSITIVES

    @property
    def needs_lesions(self) -> bool:
        """True if only scans with true lesions have a value."""
        return self in (ScanMetric.F1, ScanMetric.RECALL)

    def of(self, case: CaseMetrics) -> float | None:
        """Return the value of a scan; ``None`` if the scan has no true lesion and the metric needs one."""
        counts = case.overall.detection[HEADLINE]
        if self.needs_lesions and counts.truth == 0:
            return None
        if self is ScanMetric.F1:
            return counts.f1
        if self is ScanMetric.RECALL:
            return counts.recall
        return float(counts.false_positives) if self is ScanMetric.FALSE_POSITIVES else case.dice


@dataclass(frozen=True)
class PairedValues:
    """Values of one metric on the scans that both systems have.

    Attributes
    ----------
    case_ids : tuple of str
        Sorted.
    first, second : tuple of float
        Value of each scan for each system.
    """

    case_ids: tuple[str, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]


@dataclass(frozen=True)
class PairedTest(JsonRecord):
    """Tests of the difference ``second - first`` of a metric of single scans.

    The unit is the patient: the differences of the scans of a patient are averaged.

    Attributes
    ----------
    metric : ScanMetric
    scans, patients : int
        Number of scans with a value for both systems, and of their patients.
    mean_difference : float or None
        Mean of the differences over the patients; ``None`` without scans.
    wilcoxon_p : float or None
        Two-sided p-value of the Wilcoxon signed-rank test; ``None`` if no patient has a difference other than 0.
    bootstrap_p : float or None
        Two-sided p-value of the bootstrap over patients of the mean difference; ``None`` without resamples or with
        fewer than two patients.
    """

    metric: ScanMetric
    scans: int
    patients: int
    mean_difference: float | None
    wilcoxon_p: float | None
    bootstrap_p: float | None


def paired_values(first: Sequence[CaseMetrics], second: Sequence[CaseMetrics], metric: ScanMetric) -> PairedValues:
    """Return the values of a metric on the scans that both systems have."""
    sides = [{case.case_id: metric.of(case) for case in cases} for cases in (first, second)]
    rows = [(name, sides[0][name], sides[1][name]) for name in sorted(set(sides[0]) & set(sides[1]))]
    known = [(name, a, b) for name, a, b in rows if a is not None and b is not None]
    return PairedValues(
        tuple(name for name, _, _ in known), tuple(a for _, a, _ in known), tuple(b for _, _, b in known)
    )


def paired_tests(
    first: Sequence[CaseMetrics],
    second: Sequence[CaseMetrics],
    samples: int = 1000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> tuple[PairedTest, ...]:
    """Test the difference of each metric between two systems.

    Parameters
    ----------
    first, second : sequence of CaseMetrics
        Metrics of the cases of both systems.
    samples, seed : int, optional
        Resamples of the bootstrap and their seed; 0 resamples give no p-value of the bootstrap.
    groups : mapping of str to str, optional
        Patient of each case. By default each case is a patient.

    Returns
    -------
    tuple of PairedTest
        One test for each :class:`ScanMetric`.

    References
    ----------
    Wilcoxon (1945), "Individual comparisons by ranking methods", Biometrics Bulletin 1; Hesterberg (2015), "What
    teachers should know about the bootstrap", The American Statistician 69.
    """
    tests = []
    for metric in ScanMetric:
        values = paired_values(first, second, metric)
        differences = _of_patients(values, groups or {})
        tests.append(
            PairedTest(
                metric,
                len(values.case_ids),
                len(differences),
                float(differences.mean()) if len(differences) else None,
                _wilcoxon(differences),
                _bootstrap(differences, samples, seed),
            )
        )
    return tuple(tests)


def _of_patients(values: PairedValues, groups: Mapping[str, str]) -> FloatArray:
    """Return the mean difference of each patient."""
    by_patient: dict[str, list[float]] = {}
    for name, a, b in zip(values.case_ids, values.first, values.second, strict=True):
        by_patient.setdefault(groups.get(name, name), []).append(b - a)
    return np.array([np.mean(differences) for differences in by_patient.values()], np.float64)


def _wilcoxon(differences: FloatArray) -> float | None:
    from scipy.stats import wilcoxon  # imported here, because scipy.stats takes a second to import

    # Sums such as 0.1 + 0.2 differ from 0.3 by rounding, which must not count as a difference.
    rounded = np.round(differences, 12)
    if not rounded.any():
        return None
    return float(wilcoxon(rounded[rounded != 0]).pvalue)


def _bootstrap(differences: FloatArray, samples: int, seed: int) -> float | None:
    """Return the p-value at which the bootstrap interval of the mean difference just contains 0.

    As in :func:`~detseg3d.evaluation.scores.bootstrap.interval`, the standard error is that of the resamples times
    sqrt(n / (n - 1)), with Student's t. The share of resamples on one side of 0 would be too small with few patients.
    """
    from scipy.stats import t

    count = len(differences)
    if count < 2 or samples < 1:
        return None
    mean = float(differences.mean())
    if np.ptp(differences) < 1e-12:
        # If all patients have the same difference, the standard error is 0. Then a sign test gives the p-value.
        return 1.0 if abs(mean) < 1e-12 else 2 * 0.5**count
    means = bootstrap_weights(count, samples, seed) @ differences / count
    error = float(means.std()) * math.sqrt(count / (count - 1))
    return float(2 * t.sf(abs(mean) / error, count - 1)) if error > 0 else None
