"""Headline figures of a set of cases with bootstrap intervals, and the paired comparison of two sets of predictions.

Every figure is a function of weights per case, so that a thousand resamples are a few matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.definitions.per_case import SURFACE_FIGURES
from detseg3d.evaluation.metrics import CRITERIA, CaseMetrics, PanopticCounts
from detseg3d.evaluation.scores.bootstrap import Scale, bootstrap_weights, contributions, interval
from detseg3d.evaluation.scores.score_intervals import weighted_scores

__all__ = ["WeightedFigure", "headline_intervals", "paired_comparison", "weighted_figures"]


@dataclass(frozen=True)
class WeightedFigure:
    """One figure under each row of weights.

    Attributes
    ----------
    values : ndarray of float64, shape ``(S,)``
        NaN where the figure is undefined.
    of_case : ndarray of float64, shape ``(N,)``
        What each case adds to the denominator: its lesions, its predictions, or 1 for a mean over cases.
    scale : Scale
    """

    values: FloatArray
    of_case: FloatArray
    scale: Scale


def weighted_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedFigure]:
    """Every headline figure under each row of weights.

    Parameters
    ----------
    cases : sequence of CaseMetrics
    weights : ndarray of float64, shape ``(S, N)``
        How often each case counts.

    Returns
    -------
    dict of str to WeightedFigure
        Pooled over lesions: ``recall_…``, ``precision_…``, ``f1_…``, ``fp_per_scan_…``, ``ap_…`` and ``cpm_…`` for each
        of :data:`~detseg3d.evaluation.metrics.CRITERIA`, ``pq``, ``sq``, ``rq`` and ``lesionwise_dice``. Means over
        cases: ``dice``, :data:`~detseg3d.evaluation.definitions.per_case.SURFACE_FIGURES` (these also
        ``…_with_lesions``) and
        ``cc_dice``. Those that were not computed are left out. Without any true lesion the pooled figures are undefined
        (NaN), except for the false positives per scan and the precision; the precision is undefined without any
        prediction.
    """
    overall = [case.overall for case in cases]
    scans = np.ones(len(cases))
    result: dict[str, WeightedFigure] = {}
    for name in CRITERIA:
        counts = [case.detection[name] for case in overall]
        truth, found, predictions, hits = (
            np.array([getattr(c, part) for c in counts], np.float64)
            for part in ("truth", "found", "predictions", "true_positives")
        )
        recall, precision = _ratio(weights @ found, weights @ truth), _ratio(weights @ hits, weights @ predictions)
        # Nothing was predicted: the precision says nothing, but nothing was found, either.
        both = recall + np.nan_to_num(precision)
        f1 = np.where(both > 0, 2 * recall * np.nan_to_num(precision) / np.where(both > 0, both, 1.0), 0.0 * recall)
        result[f"recall_{name}"] = WeightedFigure(recall, truth, Scale.SHARE)
        result[f"precision_{name}"] = WeightedFigure(precision, predictions, Scale.SHARE)
        result[f"f1_{name}"] = WeightedFigure(f1, truth + predictions, Scale.SHARE)
        result[f"fp_per_scan_{name}"] = WeightedFigure(
            _ratio(weights @ (predictions - hits), weights @ scans), scans, Scale.COUNT
        )
    result |= _panoptic_figures([case.panoptic for case in overall], weights)
    dice, present = np.array([c.dice for c in cases]), np.array([float(c.has_lesions) for c in overall])
    result["dice"] = WeightedFigure(_mean(weights, dice, scans), scans, Scale.SHARE)
    result["dice_with_lesions"] = WeightedFigure(_mean(weights, dice, present), present, Scale.SHARE)
    result.update(_case_figures(cases, weights))
    result.update(_score_figures(cases, weights))
    return result


def _panoptic_figures(counts: Sequence[PanopticCounts], weights: FloatArray) -> dict[str, WeightedFigure]:
    truth, predictions, matches, overlap = (
        np.array([getattr(c, part) for c in counts], np.float64)
        for part in ("truth", "predictions", "matches", "iou_sum")
    )
    sides = truth + predictions
    # As for recall, a resample without true lesions says nothing about the quality of finding them.
    total = np.where(weights @ truth > 0, weights @ sides, 0.0)
    return {
        "pq": WeightedFigure(_ratio(2 * (weights @ overlap), total), sides, Scale.SHARE),
        "rq": WeightedFigure(_ratio(2 * (weights @ matches), total), sides, Scale.SHARE),
        "sq": WeightedFigure(_ratio(weights @ overlap, weights @ matches), matches, Scale.SHARE),
    }


def _case_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedFigure]:
    figures = [case.figures.get("all") for case in cases]
    if not cases or any(entry is None for entry in figures):
        return {}
    result = {}
    present = np.array([float(case.overall.has_lesions) for case in cases])
    for name in (*SURFACE_FIGURES, "cc_dice"):
        values = [getattr(entry, name) for entry in figures]
        known = np.array([float(value is not None) for value in values])
        if known.any():
            scale = Scale.AMOUNT if name.endswith("_mm") else Scale.SHARE
            numbers = np.array([0.0 if value is None else value for value in values])
            result[name] = WeightedFigure(_mean(weights, numbers, known), known, scale)
            if name in SURFACE_FIGURES:  # also over the cases with lesions: a false positive may outweigh them all
                with_lesions = known * present
                result[f"{name}_with_lesions"] = WeightedFigure(
                    _mean(weights, numbers, with_lesions), with_lesions, scale
                )
    parts = [entry.lesionwise for entry in figures if entry is not None]
    truth = np.array([part.truth for part in parts], np.float64)
    asked = truth + [part.false_positives for part in parts]
    total = np.where(weights @ truth > 0, weights @ asked, 0.0)
    dice = _ratio(weights @ np.array([part.dice_sum for part in parts], np.float64), total)
    result["lesionwise_dice"] = WeightedFigure(dice, asked, Scale.SHARE)
    return result


def _score_figures(cases: Sequence[CaseMetrics], weights: FloatArray) -> dict[str, WeightedFigure]:
    """Average precision and CPM, if every case has scores."""
    if not cases or any("all" not in case.scored for case in cases):
        return {}
    result = {}
    for name in CRITERIA:
        records = [case.scored["all"][name] for case in cases]
        curves = weighted_scores(records, weights)
        truth = np.array([len(record.truth_scores) for record in records], np.float64)
        result[f"ap_{name}"] = WeightedFigure(curves["average_precision"], truth, Scale.SHARE)
        result[f"cpm_{name}"] = WeightedFigure(curves["cpm"], truth, Scale.SHARE)
    return result


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """NaN where there is nothing to divide by."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), np.nan)


def _mean(weights: FloatArray, values: FloatArray, known: FloatArray) -> FloatArray:
    return _ratio(weights @ (values * known), weights @ known)


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
        Of each figure of :func:`weighted_figures` its ``value``, ``low`` and ``high`` (see
        :func:`~detseg3d.evaluation.scores.bootstrap.interval`), ``left_out`` (resamples in which it is undefined),
        ``patients`` and ``scans`` (those that it rests on: with lesions for recall, all for Dice).
    """
    if not cases:
        return {}
    figures = weighted_figures(cases, _point_and_resamples(len(cases), samples, seed, groups))
    result = {}
    for name, figure in figures.items():
        rests_on = contributions(figure.of_case, groups)
        around = interval(figure.values[1:], figure.values[0], rests_on, figure.scale, level)
        scans = int(np.count_nonzero(figure.of_case))
        result[name] = {"value": _plain(figure.values[0]), **around.to_dict(), "scans": scans}
    return result


def _point_and_resamples(num_cases: int, samples: int, seed: int, groups: Sequence[str] | None) -> FloatArray:
    """Weights: every case once in the first row, then the resamples."""
    return np.vstack([np.ones((1, num_cases)), bootstrap_weights(num_cases, samples, seed, groups)])


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
        ``first``, ``second``, ``difference``, ``low``, ``high``, ``left_out`` and ``patients`` of each figure that both
        have.
    """
    mine, other = ({case.case_id: case for case in cases} for cases in (first, second))
    common = sorted(set(mine) & set(other))
    if not common:
        return {}
    patients = None if groups is None else [groups.get(case_id, case_id) for case_id in common]
    weights = _point_and_resamples(len(common), samples, seed, patients)
    before, after = (
        weighted_figures([cases_by_id[case_id] for case_id in common], weights) for cases_by_id in (mine, other)
    )
    result = {}
    for name in before:
        if name in after:
            a, b = before[name], after[name]
            difference = b.values - a.values
            scale = Scale.DIFFERENCE_OF_SHARES if a.scale is Scale.SHARE else Scale.DIFFERENCE
            rests_on = contributions(a.of_case + b.of_case, patients)
            around = interval(difference[1:], difference[0], rests_on, scale, level)
            result[name] = {
                "first": _plain(a.values[0]),
                "second": _plain(b.values[0]),
                "difference": _plain(difference[0]),
                **around.to_dict(),
            }
    return result


def _plain(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
