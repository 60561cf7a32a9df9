"""A cohort of evaluated cases, and small ones made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detseg3d.core.arrays import IntArray
from detseg3d.evaluation.case import evaluate_case
from detseg3d.evaluation.definitions.per_case import FigureRule
from detseg3d.evaluation.intervals import weighted_figures
from detseg3d.evaluation.metrics import CaseMetrics

SPACING = (2.0, 1.0, 0.5)


SIZES_AND_DISTANCES = FigureRule(tolerance_mm=0.6)


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
    return evaluate_case(name, truth, prediction, SPACING, **{"figures": SIZES_AND_DISTANCES, **keywords})


def evaluate_at(truth: IntArray, prediction: IntArray, spacing: Sequence[float]) -> CaseMetrics:
    """Without surfaces."""
    return evaluate_case("case", truth, prediction, spacing)


def figures_of(cases: Sequence[CaseMetrics]) -> dict[str, float]:
    """Every case once."""
    return {name: float(figure.values[0]) for name, figure in weighted_figures(cases, np.ones((1, len(cases)))).items()}
