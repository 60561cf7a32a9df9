"""Run all steps of the pipeline: from a folder of images and a folder of labels to an evaluated model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.core.precision import Precision
from detseg3d.data.dataset import RawCase, load_raw_dataset
from detseg3d.data.folders import EvaluationFolder, ModelFolder, PreparedFolder, RawFolder
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.pipeline.begun import is_begun
from detseg3d.pipeline.consolidate import consolidate
from detseg3d.pipeline.consolidation_report import report_consolidation
from detseg3d.pipeline.convert import ConvertOptions, convert_folders
from detseg3d.pipeline.prepare import PrepareOptions, prepare_dataset
from detseg3d.pipeline.train import FoldPaths, run_fold
from detseg3d.planning.overrides import TrainingOverrides
from detseg3d.reporting.html.case_files import find_case_files
from detseg3d.reporting.html.report import ReportInput, write_report
from detseg3d.reporting.pictures.visualize import visualize_files
from detseg3d.reporting.text.evaluation_files import write_evaluation
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingOptions

__all__ = ["ExperimentOptions", "run_experiment"]

logger = logging.getLogger(__name__)

DATASET_NAME = "Dataset001_Run"
FOLD = "0"


@dataclass(frozen=True)
class ExperimentOptions:
    """Settings of an experiment.

    Attributes
    ----------
    val_split : float
        Fraction of the cases that is held out.
    channel_names, labels, spacing, instances
        Meaning of the files, see :class:`~detseg3d.pipeline.convert.ConvertOptions`.
    training_gb : float
        Memory for the training, in GB.
    inference_gb : float
        Memory for the prediction of a planned volume, not counting its input, in GB.
    roi_size : int or None
        Edge of the RoI in samples instead of the planned one.
    precision : Precision
        Precision of the training, for which the memory is planned.
    training : TrainingOptions
        Seed, device and time limit. With ``resume``, an earlier run in the same folder continues.
    overrides : TrainingOverrides
        Values that replace those of the plans.
    run : Run
        Worker processes of the conversion and of the preprocessing.
    pictures : int
        Largest number of held-out cases that are drawn.
    goal : OperatingGoal or None
        Choose the thresholds and the calibration of the model on the held-out cases, for this goal. ``None``: the model
        keeps the thresholds of its plan.
    """

    val_split: float = 0.2
    channel_names: Sequence[str] | None = None
    labels: Mapping[str, int] | Sequence[str] | None = None
    spacing: Spacing | None = None
    instances: bool = False
    training_gb: float = 8.0
    inference_gb: float = 2.0
    roi_size: int | None = None
    precision: Precision = Precision.AUTO
    training: TrainingOptions = field(default_factory=TrainingOptions)
    overrides: TrainingOverrides = field(default_factory=TrainingOverrides)
    run: Run = Run(processes=2)
    pictures: int = 12
    goal: OperatingGoal | None = None


@dataclass(frozen=True)
class Experiment:
    """Result of :func:`run_experiment`.

    Attributes
    ----------
    model : Path
        Model folder for :meth:`detseg3d.inference.predictor.Predictor.from_model_folder`.
    predictions : Path
        Folder with masks, boxes and scores of the held-out cases.
    metrics : Path
        File of their evaluation.
    pictures : tuple of Path
    evaluation : EvaluationResult
        Content of ``metrics``.
    """

    model: Path
    predictions: Path
    metrics: Path
    pictures: tuple[Path, ...]
    evaluation: EvaluationResult


def run_experiment(
    image_folder: str | Path, label_folder: str | Path, output_folder: str | Path, options: ExperimentOptions
) -> Experiment:
    """Convert, plan and preprocess the cases, train on one part, then predict, evaluate and draw the other part.

    Parameters
    ----------
    image_folder, label_folder : path
        Images and labels with the same names, see :func:`~detseg3d.pipeline.convert.convert_folders`.
    output_folder : path
        Receives ``raw``, ``preprocessed``, ``results``, ``pictures``, ``report.html`` and the evaluation.
    options : ExperimentOptions

    Returns
    -------
    Experiment

    Raises
    ------
    DetSeg3DError
        If the folder contains an experiment that is not resumed, or a step fails.
    """
    output = Path(output_folder)
    if options.goal is OperatingGoal.ROBUST and options.training.shifted_scans == 0:
        raise DetSeg3DError(
            "robust thresholds need shifted scans",
            value=0,
            expected="a larger number of shifted scans",
            remedy="leave out --shifted_scans 0, or choose --operate home",
        )
    if not 0 < options.val_split < 1:
        raise DetSeg3DError(
            "a fraction of the cases must be held out", value=options.val_split, expected="more than 0 and less than 1"
        )
    raw_folder = _convert(Path(image_folder), Path(label_folder), output / "raw", options)
    prepared = prepare_dataset(raw_folder, output / "preprocessed", _prepare_options(options, output / "preprocessed"))
    for decision in prepared.plans.decisions:
        logger.info("plan: %s: %s", decision.name, decision.value)
    fold = prepared.splits[int(FOLD)]
    held_out = fold.validation
    logger.info("%d cases train, %d are held out", len(fold.train), len(held_out))
    paths = FoldPaths(raw_folder, PreparedFolder(prepared.folder), ModelFolder(output / "results" / raw_folder.name))
    evaluation = run_fold(paths, FOLD, options.training, options.overrides)
    assert evaluation is not None, "cases were held out"
    predictions = paths.model.fold(FOLD).validation.path
    write_evaluation(evaluation, output)
    raw, evaluated = load_raw_dataset(raw_folder), EvaluationFolder(output)
    images = {case.case_id: case.images[0] for case in raw.cases}
    files = find_case_files(images, RawFolder(raw_folder).training_labels, {"predictions": predictions})
    write_report(evaluated.report, ReportInput(evaluation, cases=tuple(files)))
    names = set(held_out)
    cases = [case for case in raw.cases if case.case_id in names]
    pictures = _draw(cases[: options.pictures], predictions, output / "pictures")
    if options.goal is not None:
        _choose_thresholds(paths, options.goal, options.run)
    return Experiment(paths.model.path, predictions, evaluated.metrics, pictures, evaluation)


def _choose_thresholds(paths: FoldPaths, goal: OperatingGoal, run: Run) -> None:
    """Choose the operating point of the model on the held-out cases. The evaluation of these cases does not change."""
    try:
        report_consolidation(consolidate(paths.raw, paths.model.path, [FOLD], run=run, goal=goal), paths.raw, run)
    except DetSeg3DError as error:
        # The experiment is complete, and its model works with the thresholds of the plan.
        logger.warning("no thresholds were chosen, so the model keeps those of its plan: %s", error)


def _convert(images: Path, labels: Path, raw: Path, options: ExperimentOptions) -> Path:
    """Return the folder of the raw data set. It is made unless a run that continues has made it."""
    folder = raw / DATASET_NAME
    if is_begun(folder, options.training.resume, "an experiment"):
        return folder
    settings = ConvertOptions(
        DATASET_NAME,
        channel_names=options.channel_names,
        labels=options.labels,
        spacing=options.spacing,
        instances=options.instances,
    )
    return convert_folders(images, labels, raw, settings, options.run)


def _prepare_options(options: ExperimentOptions, preprocessed: Path) -> PrepareOptions:
    # A run that continues keeps its split, because the model may already have been trained on the other cases.
    keeps_split = options.training.resume and PreparedFolder(preprocessed / DATASET_NAME).splits.exists()
    return PrepareOptions(
        verify=True,
        run=options.run,
        training_gb=options.training_gb,
        inference_gb=options.inference_gb,
        val_split=None if keeps_split else options.val_split,
        seed=None if keeps_split else options.training.seed or 0,
        roi_size=options.roi_size,
        precision=options.precision,
    )


def _draw(cases: Sequence[RawCase], predictions: Path, folder: Path) -> tuple[Path, ...]:
    """Draw the cases. A case that cannot be drawn is only a warning, because its metrics are available."""
    drawn = []
    for case in cases:
        label = case.label
        assert label is not None
        prediction, picture = predictions / label.name, folder / f"{case.case_id}.png"
        try:
            visualize_files(case.images[0], prediction, picture, label=label.path)
        except DetSeg3DError as error:
            logger.warning("%s was not drawn: %s", case.case_id, error)
        else:
            drawn.append(picture)
    return tuple(drawn)
