"""Predict scans as tasks of a cluster. Each worker loads the model once and keeps it for its next cases."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.model_source import FileStamp, ModelSource
from detseg3d.inference.no_lesions import CaseOutcome
from detseg3d.inference.predictor import Predictor
from detseg3d.pipeline.predict import (
    OutputOptions,
    PredictionOutcomes,
    check_output,
    describe_failure,
    finish_predictions,
    predict_or_skip,
)
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.run import Run
from detseg3d.system.workers import run_cases

__all__ = ["predict_cases_on_cluster"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Outcome:
    """Outcome of a case, and the thresholds that the worker used. ``case`` is ``None`` if the case was skipped."""

    case: CaseOutcome | None
    inference: InferencePlan


def predict_cases_on_cluster(
    source: ModelSource,
    cases: Sequence[RawCase],
    output_folder: str | Path,
    run: Run,
    inputs: InputOptions | None = None,
    output: OutputOptions | None = None,
) -> dict[str, str]:
    """Predict cases on a cluster, with the results of :func:`~detseg3d.pipeline.predict.predict_cases`.

    Parameters
    ----------
    source : ModelSource
        With an absolute path that all workers see.
    cases : sequence of RawCase
    output_folder : path
    run : Run
        With the engine of the cluster.
    inputs : InputOptions, optional
        How images are read.
    output : OutputOptions, optional
        What is written.

    Returns
    -------
    dict
        Error message of each case that failed, by case id.

    Raises
    ------
    DetSeg3DError
        If ``output_folder`` cannot be written, or the cluster is lost. A model that cannot be loaded is an error of
        every case.
    """
    inputs, output = inputs or InputOptions(), output or OutputOptions()
    folder = Path(output_folder)
    check_output(folder, cases, output)
    task = functools.partial(_predict, source, source.stamp(), folder, inputs, output)
    outcomes: dict[str, CaseOutcome] = {}
    failures: dict[str, str] = {}
    inference = InferencePlan()
    for result in run_cases(task, cases, run, "predicting"):
        if result.value is not None:
            inference = result.value.inference
            if result.value.case is not None:
                outcomes[result.item.case_id] = result.value.case
        elif result.error is not None:
            failures[result.item.case_id] = describe_failure(result.item.case_id, result.error)
    return finish_predictions(folder, cases, output, inference, PredictionOutcomes(outcomes, failures))


def _predict(
    source: ModelSource,
    stamp: tuple[FileStamp, ...],
    folder: Path,
    inputs: InputOptions,
    output: OutputOptions,
    case: RawCase,
) -> _Outcome:
    """Predict one case in a worker."""
    predictor = _predictor(source, stamp)
    return _Outcome(predict_or_skip(predictor, case, folder, inputs, output), predictor.plans.inference)


@functools.lru_cache(maxsize=1)
def _predictor(source: ModelSource, stamp: tuple[FileStamp, ...]) -> Predictor:
    """Load the model in a worker. The model of an earlier command is kept if its files are the same."""
    if source.stamp() != stamp:
        raise DetSeg3DError(
            "a worker of the cluster sees other files of the model than this command",
            file=source.path,
            remedy="put the model on a file system that all machines share, and do not change it during a prediction",
        )
    return source.open()
