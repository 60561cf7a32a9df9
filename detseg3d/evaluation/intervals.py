"""Main metrics of a set of cases with bootstrap intervals, and the paired comparison of two sets of predictions.

Every metric is a function of one weight per case, so that a few matrix products compute a thousand resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.definitions.outlines import SURFACE_METRICS
from detseg3d.evaluation.metrics import CaseMetrics, Criterion, DetectionCounts, PanopticCounts
from detseg3d.evaluation.scores.bootstrap import Scale, bootstrap_weights, contributions, interval
from detseg3d.evaluation.scores.score_intervals import weighted_scores
from detseg3d.system.json_records import JsonRecord

__all__ = ["MetricDifference", "MetricEstimate", "estimate_metrics", "paired_comparison", "weighted_metrics"]


@dataclass(frozen=True)
class WeightedMetric:
    """Values of one metric, one for each row of weights.

    Attributes
    ----------
    values : ndarray of float64, shape ``(S,)``
        Value for each row of weights; NaN if the metric is undefined.
    of_case : ndarray of float64, shape ``(N,)``
        Contribution of each case to the denominator: its lesions, its predictions, or 1 for a mean over cases.
    scale : Scale
        Range of the values of the metric.
    """

    values: FloatArray
    of_case: FloatArray
    scale: Scale


@dataclass(frozen=True)
class MetricEstimate(JsonRecord):
    """Value of a metric with its 95 % interval.

    Attributes
    ----------
    value : float or None
        Value of the metric; ``None`` if the metric is undefined.
    low, high : float or None
        Limits of the interval; ``None`` if no interval can be given.
    left_out : int
        Number of resamples in which the metric is undefined.
    patients : int
        Number of patients that contribute to the metric: patients with lesions for recall, all patients for Dice.
    scans : int or None
        Number of scans that contribute to the metric; ``None`` if unknown.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    left_out: int = 0
    patients: int = 0
    scans: int | None = None


@dataclass(frozen=True)
class MetricDifference(JsonRecord):
    """Paired difference of a metric between two systems with its 95 % interval.

    Attributes
    ----------
    first, second, difference : float or None
        Value of each system on the common cases, and ``second - first``.
    low, high : float or None
        Interval of the difference; ``None`` if no interval can be given.
    left_out, patients : int
        As in :class:`MetricEstimate`.
    """

    first: float | None
    second: float | None
    difference: float | None
    low: float | None = None
    high: float | None = None
    left_out: int = 0
    patients: int = 0


def weighted_metrics(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedMetric]:
    """Compute every main metric for each row of weights.

    Parameters
    ----------
    cases : sequence of CaseMetrics
        Metrics of the cases.
    weights : ndarray of float64, shape ``(S, N)``
        Weight of each case. In a bootstrap, the weight is the number of times that the case was drawn.

    Returns
    -------
    dict of str to WeightedMetric
        Pooled over lesions, for each :class:`~detseg3d.evaluation.metrics.Criterion`: ``recall_…``, ``precision_…``,
        ``f1_…``, ``fp_per_scan_…``, ``ap_…`` and ``cpm_…``. Also pooled: ``pq``, ``sq``, ``rq`` and
        ``lesionwise_dice``. Means over cases: ``dice``,
        :data:`~detseg3d.evaluation.definitions.outlines.SURFACE_METRICS`, both also over the scans with lesions
        (``…_with_lesions``), and ``cc_dice``. Metrics that were not computed are left out.

    Notes
    -----
    If there are no true lesions, the pooled metrics are undefined (NaN), except the false positives per scan and the
    precision. If there are no predictions, the precision is undefined.
    """
    overall = [case.overall for case in cases]
    result: dict[str, WeightedMetric] = {}
    for criterion in Criterion:
        result |= _detection_metrics([case.detection[criterion] for case in overall], weights, criterion)
    result |= _panoptic_metrics([case.panoptic for case in overall], weights)
    dice, present = np.array([c.dice for c in cases]), np.array([float(c.has_lesions) for c in overall])
    scans = np.ones(len(cases))
    result |= {
        "dice": WeightedMetric(_mean(weights, dice, scans), scans, Scale.SHARE),
        "dice_with_lesions": WeightedMetric(_mean(weights, dice, present), present, Scale.SHARE),
    }
    return result | _outline_metrics(cases, weights) | _score_metrics(cases, weights)


def _detection_metrics(
    counts: Sequence[DetectionCounts], weights: FloatArray, criterion: Criterion
) -> dict[str, WeightedMetric]:
    truth, found, predictions, true_positives = (
        np.array([getattr(c, name) for c in counts], np.float64)
        for name in ("truth", "found", "predictions", "true_positives")
    )
    scans = np.ones(len(counts))
    recall = _ratio(weights @ found, weights @ truth)
    precision = _ratio(weights @ true_positives, weights @ predictions)
    # Without predictions the precision is undefined, but F1 is 0, because no lesion was found.
    both = recall + np.nan_to_num(precision)
    f1 = np.where(both > 0, 2 * recall * np.nan_to_num(precision) / np.where(both > 0, both, 1.0), 0.0 * recall)
    per_scan = _ratio(weights @ (predictions - true_positives), weights @ scans)
    return {
        f"recall_{criterion}": WeightedMetric(recall, truth, Scale.SHARE),
        f"precision_{criterion}": WeightedMetric(precision, predictions, Scale.SHARE),
        f"f1_{criterion}": WeightedMetric(f1, truth + predictions, Scale.SHARE),
        f"fp_per_scan_{criterion}": WeightedMetric(per_scan, scans, Scale.COUNT),
    }


def _panoptic_metrics(counts: Sequence[PanopticCounts], weights: FloatArray) -> dict[str, WeightedMetric]:
    truth, predictions, matches, overlap = (
        np.array([getattr(c, name) for c in counts], np.float64)
        for name in ("truth", "predictions", "matches", "iou_sum")
    )
    sides = truth + predictions
    # A resample without true lesions cannot measure how well lesions are found, so the metric is undefined there.
    total = np.where(weights @ truth > 0, weights @ sides, 0.0)
    return {
        "pq": WeightedMetric(_ratio(2 * (weights @ overlap), total), sides, Scale.SHARE),
        "rq": WeightedMetric(_ratio(2 * (weights @ matches), total), sides, Scale.SHARE),
        "sq": WeightedMetric(_ratio(weights @ overlap, weights @ matches), matches, Scale.SHARE),
    }


def _outline_metrics(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedMetric]:
    outlines = [case.outlines.overall for case in cases if case.outlines is not None]
    if not cases or len(outlines) < len(cases):
        return {}
    result = {}
    present = np.array([float(case.overall.has_lesions) for case in cases])
    for name in (*SURFACE_METRICS, "cc_dice"):
        values = [getattr(entry, name) for entry in outlines]
        known = np.array([float(value is not None) for value in values])
        if known.any():
            scale = Scale.AMOUNT if name.endswith("_mm") else Scale.SHARE
            numbers = np.array([0.0 if value is None else value for value in values])
            result[name] = WeightedMetric(_mean(weights, numbers, known), known, scale)
            if name in SURFACE_METRICS:
                # One false positive in a scan without lesions can outweigh all scans with lesions.
                with_lesions = known * present
                values_with_lesions = _mean(weights, numbers, with_lesions)
                result[f"{name}_with_lesions"] = WeightedMetric(values_with_lesions, with_lesions, scale)
    parts = [entry.lesionwise for entry in outlines]
    truth = np.array([part.truth for part in parts], np.float64)
    counted = truth + [part.false_positives for part in parts]
    total = np.where(weights @ truth > 0, weights @ counted, 0.0)
    dice = _ratio(weights @ np.array([part.dice_sum for part in parts], np.float64), total)
    return result | {"lesionwise_dice": WeightedMetric(dice, counted, Scale.SHARE)}


def _score_metrics(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedMetric]:
    """Return average precision and CPM, if every case has scores."""
    scored = [case.scored.overall for case in cases if case.scored is not None]
    if not cases or len(scored) < len(cases):
        return {}
    result = {}
    for criterion in Criterion:
        records = [of_case[criterion] for of_case in scored]
        curves = weighted_scores(records, weights)
        truth = np.array([len(record.truth_scores) for record in records], np.float64)
        result[f"ap_{criterion}"] = WeightedMetric(curves.average_precision, truth, Scale.SHARE)
        result[f"cpm_{criterion}"] = WeightedMetric(curves.cpm, truth, Scale.SHARE)
    return result


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Return ``part / whole`` of each element; NaN if ``whole`` is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _mean(weights: FloatArray, values: FloatArray, known: FloatArray) -> FloatArray:
    """Return the weighted mean over the known values."""
    return _ratio(weights @ (values * known), weights @ known)


def estimate_metrics(
    cases: Sequence[CaseMetrics],
    samples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> dict[str, MetricEstimate]:
    """Return each main metric with its patient-level bootstrap interval.

    Parameters
    ----------
    cases : sequence of CaseMetrics
        Metrics of the cases.
    samples : int, optional
        Number of resamples; 0 gives no intervals (``None``).
    seed : int, optional
        Seed of the bootstrap.
    groups : sequence of str, optional
        Patient of each case. By default each case is a patient.
    level : float, optional
        Confidence level, 0 to 1.

    Returns
    -------
    dict of str to MetricEstimate
        The keys are the keys of :func:`weighted_metrics`. :func:`~detseg3d.evaluation.scores.bootstrap.interval`
        defines the interval.
    """
    if not cases:
        return {}
    metrics = weighted_metrics(cases, _point_and_resamples(len(cases), samples, seed, groups))
    result = {}
    for name, metric in metrics.items():
        rests_on = contributions(metric.of_case, groups)
        around = interval(metric.values[1:], metric.values[0], rests_on, metric.scale, level)
        scans = int(np.count_nonzero(metric.of_case))
        value = _finite(metric.values[0])
        result[name] = MetricEstimate(value, around.low, around.high, around.left_out, around.patients, scans)
    return result


def _point_and_resamples(num_cases: int, samples: int, seed: int, groups: Sequence[str] | None) -> FloatArray:
    """Return weights: every case once in the first row, then the resamples."""
    return np.vstack([np.ones((1, num_cases)), bootstrap_weights(num_cases, samples, seed, groups)])


def paired_comparison(
    first: Sequence[CaseMetrics],
    second: Sequence[CaseMetrics],
    samples: int = 1000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    level: float = 0.95,
) -> dict[str, MetricDifference]:
    """Return the difference ``second - first`` of each metric on the common cases, with its interval.

    Both systems are resampled together, so that the difficulty of a case cancels out.

    Parameters
    ----------
    first, second : sequence of CaseMetrics
        Metrics of the cases of both systems.
    samples, seed, level : optional
        As in :func:`estimate_metrics`.
    groups : dict of str to str, optional
        Patient of each case. By default each case is a patient.

    Returns
    -------
    dict of str to MetricDifference
        Difference of each metric that both systems have, by the key of the metric.
    """
    first_cases, second_cases = ({case.case_id: case for case in cases} for cases in (first, second))
    common = sorted(set(first_cases) & set(second_cases))
    if not common:
        return {}
    patients = None if groups is None else [groups.get(case_id, case_id) for case_id in common]
    weights = _point_and_resamples(len(common), samples, seed, patients)
    before, after = (
        weighted_metrics([cases_by_id[case_id] for case_id in common], weights)
        for cases_by_id in (first_cases, second_cases)
    )
    result = {}
    for name in before:
        if name in after:
            a, b = before[name], after[name]
            difference = b.values - a.values
            scale = Scale.DIFFERENCE_OF_SHARES if a.scale is Scale.SHARE else Scale.DIFFERENCE
            rests_on = contributions(a.of_case + b.of_case, patients)
            around = interval(difference[1:], difference[0], rests_on, scale, level)
            result[name] = MetricDifference(
                _finite(a.values[0]),
                _finite(b.values[0]),
                _finite(difference[0]),
                around.low,
                around.high,
                around.left_out,
                around.patients,
            )
    return result


def _finite(value: float) -> float | None:
    """Return the value as a Python float, or ``None`` if it is NaN."""
    return float(value) if np.isfinite(value) else None
