"""Predict one scan in the worker process, and write the files of ``detseg3d_predict``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.exports.dicom.options import DicomOptions
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.patient_report import ReportSources, report_cases
from detseg3d.pipeline.predict import CasePredictor, OutputOptions, PredictionStep, warn_without_lesions
from detseg3d.serving.records import PredictTask, Stage, TaskOutcome
from detseg3d.serving.unpack import case_of_task
from detseg3d.serving.viewer_data import write_viewer_data

__all__ = ["RESULT_ENDING", "predict_task"]

logger = logging.getLogger(__name__)

RESULT_ENDING = ".nii.gz"
_STAGES = {
    PredictionStep.SEARCHING: Stage.SEARCHING,
    PredictionStep.DESCRIBING: Stage.DESCRIBING,
    PredictionStep.WRITING: Stage.WRITING,
}


def predict_task(predictor: Predictor, task: PredictTask, on_stage: Callable[[Stage], None]) -> TaskOutcome:
    """Predict the scan of a task and write its results.

    Parameters
    ----------
    predictor : Predictor
    task : PredictTask
    on_stage : callable
        Called at the beginning of each step.

    Returns
    -------
    TaskOutcome

    Raises
    ------
    DetSeg3DError
        If the scan cannot be used, is too large, or a result cannot be written.
    """
    with _collected_warnings() as warnings:
        on_stage(Stage.UNPACKING)
        case = case_of_task(task, predictor.plans.channel_names)
        inputs = InputOptions(task.options.spacing, task.options.series)
        output = OutputOptions(ending=RESULT_ENDING, dicom=DicomOptions(task.options.segmentation))
        case_predictor = CasePredictor(predictor, task.output, inputs, output)
        case_predictor.check(case)
        on_stage(Stage.READING)
        scan = predictor.read(case, inputs)
        predicted = case_predictor.predict(case, scan, "the scan", lambda step: on_stage(_STAGES[step]))
        warn_without_lesions(predictor.plans.inference, {task.case_id: predicted.outcome})
        if task.for_page:
            images, _ = scan
            _write_for_page(task, predicted.prediction, images[0], inputs.apply(case.images, predictor.plans)[0])
    return TaskOutcome(len(predicted.prediction.lesions), tuple(warnings))


def _write_for_page(
    task: PredictTask, prediction: Prediction, scan: npt.NDArray[np.float32], source: ImageSource
) -> None:
    """Write the report of the patient and the volumes for the viewer of the page."""
    write_viewer_data(prediction, Image(scan, prediction.geometry), task.output / "viewer.json")
    sources = ReportSources(task.output, source.path, series=source.series)
    written = report_cases(sources, task.output / "report.html", [task.case_id])
    for reason in written.failures.values():
        logger.warning("the report to print is missing: %s", reason)


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect the warnings that the package logs in this context."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    package, collector = logging.getLogger("detseg3d"), Collector(logging.WARNING)
    package.addHandler(collector)
    try:
        yield messages
    finally:
        package.removeHandler(collector)
