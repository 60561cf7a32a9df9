"""Predict one scan in the worker process, and write the files of ``detseg3d_predict``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import is_dicom_folder
from detseg3d.exports.dicom.options import DicomOptions, DicomPaths
from detseg3d.inference.input_options import InputOptions
from detseg3d.inference.no_lesions import CaseOutcome, explain_no_lesions
from detseg3d.inference.prediction_files import check_inputs_stay, write_case
from detseg3d.inference.predictor import Predictor
from detseg3d.inference.result import Prediction
from detseg3d.pipeline.export_dicom import export_case
from detseg3d.pipeline.patient_report import ReportSources, report_cases
from detseg3d.serving.records import PredictTask, Stage, TaskOutcome
from detseg3d.serving.unpack import case_of_task
from detseg3d.serving.viewer_data import write_viewer_data
from detseg3d.system.files import remove_files

__all__ = ["RESULT_ENDING", "predict_task"]

logger = logging.getLogger(__name__)

RESULT_ENDING = ".nii.gz"


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
        check_inputs_stay([image.path for image in case.images], task.case_id, task.output, RESULT_ENDING)
        on_stage(Stage.READING)
        inputs = InputOptions(task.options.spacing, task.options.series)
        images, geometry = predictor.read(case, inputs)
        on_stage(Stage.SEARCHING)
        similarity = predictor.compare(images, geometry, "the scan")
        candidates = predictor.find_candidates(images, geometry, similarity)
        on_stage(Stage.DESCRIBING)
        prediction = predictor.describe(candidates, geometry, similarity=similarity, images=images)
        predictor.warn_of_limit(prediction, "the scan")
        scores = [candidate.score for candidate in prediction.candidates]
        outcome = CaseOutcome(len(prediction.lesions), candidates.highest_detection, max(scores, default=None))
        message = explain_no_lesions({task.case_id: outcome}, predictor.plans.inference)
        if message is not None:
            logger.warning("%s", message)
        on_stage(Stage.WRITING)
        write_case(prediction, task.case_id, task.output, RESULT_ENDING)
        first = inputs.apply(case.images, predictor.plans)[0]
        if task.for_page:
            _write_for_page(task, prediction, images[0], first)
        paths = DicomPaths(PredictionFolder(task.output).dicom_folder, task.case_id)
        if first.path.is_dir() and is_dicom_folder(first.path):
            options = DicomOptions(task.options.segmentation)
            export_case(task.output, task.case_id, first.path, first.series, options)
        else:
            # An earlier prediction of another scan may have left DICOM objects.
            remove_files(*paths.all)
    return TaskOutcome(len(prediction.lesions), tuple(warnings))


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
