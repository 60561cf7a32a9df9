"""Evaluate instance maps and folders in tests with short calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg3d.core.arrays import AnyIntArray
from detseg3d.evaluation.case import as_lesions, evaluate_case
from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.folders import evaluate_folders
from detseg3d.evaluation.intervals import estimate_metrics
from detseg3d.evaluation.metrics import CaseMetrics
from detseg3d.evaluation.options import EvaluationInput, EvaluationOptions
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.evaluation.summary import summarize
from detseg3d.system.run import Run


def evaluate_maps(
    name: str,
    truth: AnyIntArray,
    prediction: AnyIntArray,
    spacing: Sequence[float],
    *,
    truth_classes: Any = None,
    prediction_classes: Any = None,
    prediction_scores: Any = None,
    **keywords: Any,
) -> CaseMetrics:
    """Evaluate two instance maps. Classes and scores are sequences for the ids ``1..N``, or dicts."""
    predicted = as_lesions(prediction, prediction_classes, prediction_scores)
    return evaluate_case(name, as_lesions(truth, truth_classes), predicted, spacing, **keywords)


def evaluate_pair(
    truth: Path,
    prediction: Path,
    *,
    options: EvaluationOptions | None = None,
    run: Run = Run(show_progress=False),
    **given: Any,
) -> EvaluationResult:
    """Evaluate a folder of predictions; ``given`` has other fields of the input."""
    return evaluate_folders(EvaluationInput(truth, prediction, **given), options, run)


def result_of(
    cases: Sequence[CaseMetrics],
    class_names: Sequence[str] | None = None,
    samples: int = 0,
    problems: tuple[CaseProblem, ...] = (),
) -> EvaluationResult:
    """Return the result of evaluated cases, as the evaluation of a folder gives it."""
    return EvaluationResult(
        truth_folder="labels",
        prediction_folder="predictions",
        class_labels=None,
        options=EvaluationOptions(samples=samples),
        summary=summarize(cases, class_names),
        patients=len(cases),
        estimates=estimate_metrics(cases, samples),
        cases=tuple(cases),
        problems=problems,
    )


def problems_of(result: EvaluationResult) -> Mapping[str, str]:
    """Return the problems by case."""
    return {problem.case_id: problem.problem for problem in result.problems}
