"""Make a cohort of evaluated cases, and small cases by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.definitions.outlines import MetricVariants
from detseg3d.evaluation.intervals import weighted_metrics
from detseg3d.evaluation.metrics import CaseMetrics
from tests.evaluations import evaluate_maps

SPACING = (2.0, 1.0, 0.5)


SIZES_AND_DISTANCES = MetricVariants(tolerance_mm=0.6)


COHORT = (
    "ordinary",
    "ordinary_two",
    "empty_truth",
    "empty_prediction",
    "perfect",
    "empty_both",
    "many_false_positives",
)


def line(*values: int) -> IntArray:
    return np.array(values, np.int64).reshape(1, 1, -1)


def evaluate(truth: IntArray, prediction: IntArray, name: str = "case", **keywords: Any) -> CaseMetrics:
    return evaluate_maps(name, truth, prediction, SPACING, **{"variants": SIZES_AND_DISTANCES, **keywords})


def evaluate_at(truth: IntArray, prediction: IntArray, spacing: Sequence[float]) -> CaseMetrics:
    """Evaluate two maps without surfaces."""
    return evaluate_maps("case", truth, prediction, spacing)


def metrics_of(cases: Sequence[CaseMetrics]) -> dict[str, float]:
    """Return the metrics of the cases with a weight of one each."""
    return {name: float(metric.values[0]) for name, metric in weighted_metrics(cases, np.ones((1, len(cases)))).items()}
