"""Headline figures of a set of cases with bootstrap intervals, and the paired comparison of two sets of predictions.

Every figure is a function of weights per case, so that a thousand resamples are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.evaluation.bootstrap import bootstrap_weights, interval
from detseg3d.evaluation.figures import SURFACE_FIGURES
from detseg3d.evaluation.metrics import CRITERIA, CaseMetrics
from detseg3d.evaluation.score_intervals import weighted_scores

__all__ = ["headline_intervals", "paired_comparison", "weighted_figures"]

FloatArray = npt.NDArray[np.float64]


def weighted_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, FloatArray]:
    """Every headline figure under each row of weights.

    Parameters
    ----------
    cases : sequence of CaseMetrics
    weights : ndarray of float64, shape ``(S, N)``
        How often each case counts.

    Returns
    -------
    dict of str to ndarray of float64, shape ``(S,)``
        NaN where a figure is undefined, for example Dice over cases with lesions if none was drawn. Pooled over
        lesions: ``recall``, ``precision``, ``f1`` (any overlap, and ``_iou_0.1``, ``_iou_0.5``), ``pq``, ``sq``,
        ``rq``, ``fp_per_scan``, ``ap_…``, ``cpm_…`` and ``lesionwise_dice``. Means over cases: ``dice``,
        :data:`~detseg3d.evaluation.figures.SURFACE_FIGURES` (these also ``…_with_lesions``) and ``cc_dice``. Those that
        were not computed are left out.
    """
    overall = [case.overall for case in cases]
    result: dict[str, FloatArray] = {}
    for name in CRITERIA:
        suffix = "" if name == "any" else f"_{name}"
        counts = [case.detection[name] for case in overall]
        truth, found = (_sum(weights, [getattr(c, part) for c in counts]) for part in ("truth", "found"))
        predictions, hits = (
            _sum(weights, [getattr(c, part) for c in counts]) for part in ("predictions", "true_positives")
        )
        recall = _ratio(found, truth, np.where(predictions > 0, 0.0, 1.0))
        precision = _ratio(hits, predictions, np.where(truth > 0, 0.0, 1.0))
        result["recall" + suffix], result["precision" + suffix] = recall, precision
        result["f1" + suffix] = _ratio(2 * recall * precision, recall + precision, np.zeros(len(weights)))
        if name == "any":
            result["fp_per_scan"] = _ratio(predictions - hits, weights.sum(axis=1), np.zeros(len(weights)))
    panoptic = [case.panoptic for case in overall]
    matches, overlap = (_sum(weights, [getattr(p, part) for p in panoptic]) for part in ("matches", "iou_sum"))
    sides = _sum(weights, [p.truth + p.predictions for p in panoptic])
    result["pq"] = _ratio(2 * overlap, sides, np.ones(len(weights)))
    result["rq"] = _ratio(2 * matches, sides, np.ones(len(weights)))
    result["sq"] = _ratio(overlap, matches, np.where(sides > 0, 0.0, 1.0))
    dice, present = np.array([c.dice for c in cases]), np.array([float(c.has_lesions) for c in overall])
    result["dice"] = _mean(weights, dice, np.ones(len(cases)))
    result["dice_with_lesions"] = _mean(weights, dice, present)
    result.update(_case_figures(cases, weights))
    result.update(_score_figures(cases, weights))
    return result


def _case_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, FloatArray]:
    figures = [case.figures.get("all") for case in cases]
    if not cases or any(entry is None for entry in figures):
        return {}
    result = {}
    present = np.array([float(case.overall.has_lesions) for case in cases])
    for name in (*SURFACE_FIGURES, "cc_dice"):
        values = [getattr(entry, name) for entry in figures]
        known = np.array([float(value is not None) for value in values])
        if known.any():
            numbers = np.array([0.0 if value is None else value for value in values])
            result[name] = _mean(weights, numbers, known)
            if name in SURFACE_FIGURES:  # also over the cases with lesions: a false positive may outweigh them all
                result[f"{name}_with_lesions"] = _mean(weights, numbers, known * present)
    parts = [entry.lesionwise for entry in figures if entry is not None]
    denominator = _sum(weights, [part.truth + part.false_positives for part in parts])
    result["lesionwise_dice"] = _ratio(
        _sum(weights, [part.dice_sum for part in parts]), denominator, np.ones(len(weights))
    )
    return result


def _score_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, FloatArray]:
    """Average precision and CPM, if every case has scores."""
    if not cases or any("all" not in case.scored for case in cases):
        return {}
    result = {}
    for name in CRITERIA:
        records = [case.scored["all"][name] for case in cases]
        curves = weighted_scores(records, weights)
        # Without any true lesion, as froc.py has it: silence is perfect, any claim is worth nothing to precision.
        absent = _sum(weights, [len(record.truth_scores) for record in records]) <= 0
        claims = [len(record.true_positive_scores) + len(record.false_positive_scores) for record in records]
        silent = (_sum(weights, claims) <= 0).astype(np.float64)
        result[f"ap_{name}"] = np.where(absent, silent, curves["average_precision"])
        result[f"cpm_{name}"] = np.where(absent, 1.0, curves["cpm"])
    return result


def _sum(weights: FloatArray, values: Sequence[float]) -> FloatArray:
    total: FloatArray = weights @ np.asarray(values, np.float64)
    return total


def _ratio(part: FloatArray, whole: FloatArray, otherwise: FloatArray) -> FloatArray:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), otherwise)


def _mean(weights: FloatArray, values: FloatArray, known: FloatArray) -> FloatArray:
    return _ratio(weights @ (values * known), weights @ known, np.full(len(weights), np.nan))


def headline_intervals(
    cases: Sequence[CaseMetrics],
    samples: int = 1000,
    seed: int = 0,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
) -> dict[str, dict[str, float | None]]:
    """Each headline figure with its patient-level bootstrap interval.

    Parameters
    ----------
    cases : sequence of CaseMetrics
    samples : int, optional
        Resamples; 0 gives no intervals (``None``).
    seed : int, optional
    groups : sequence of str, optional
        Patient of each case.
    level : float, optional

    Returns
    -------
    dict
        ``value``, ``low`` and ``high`` of each figure of :func:`weighted_figures`.
    """
    if not cases:
        return {}
    point = weighted_figures(cases, np.ones((1, len(cases))))
    resampled = weighted_figures(cases, bootstrap_weights(len(cases), samples, seed, groups))
    result = {}
    for name, value in point.items():
        low, high = interval(resampled[name], level)
        result[name] = {"value": _plain(value[0]), "low": low, "high": high}
    return result


def paired_comparison(
    first: Sequence[CaseMetrics],
    second: Sequence[CaseMetrics],
    samples: int = 1000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
    level: float = 0.95,
) -> dict[str, dict[str, float | None]]:
    """Difference ``second - first`` of each figure, on the cases that both have, with the interval of the difference.

    Both are resampled alike, so that what makes a case hard for both cancels out.

    Parameters
    ----------
    first, second : sequence of CaseMetrics
    samples, seed, level : optional
        As :func:`headline_intervals`.
    groups : dict of str to str, optional
        Patient of each case.

    Returns
    -------
    dict
        ``first``, ``second``, ``difference``, ``low`` and ``high`` of each figure that both have.
    """
    mine, other = ({case.case_id: case for case in cases} for cases in (first, second))
    common = sorted(set(mine) & set(other))
    if not common:
        return {}
    patients = None if groups is None else [groups.get(case_id, case_id) for case_id in common]
    weights = bootstrap_weights(len(common), samples, seed, patients)
    point, drawn = [], []
    for cases_by_id in (mine, other):
        chosen = [cases_by_id[case_id] for case_id in common]
        point.append(weighted_figures(chosen, np.ones((1, len(common)))))
        drawn.append(weighted_figures(chosen, weights))
    result = {}
    for name in point[0]:
        if name in point[1]:
            low, high = interval(drawn[1][name] - drawn[0][name], level)
            a, b = _plain(point[0][name][0]), _plain(point[1][name][0])
            difference = None if a is None or b is None else b - a
            result[name] = {"first": a, "second": b, "difference": difference, "low": low, "high": high}
    return result


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
