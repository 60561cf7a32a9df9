"""Train a model to start from, on simulated scans with random anatomy, intensities, lesions and spacing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.data.folders import ModelFolder, PreparedFolder, RawFolder
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.pipeline.prepare import PrepareOptions, prepare_dataset
from detseg3d.pipeline.train import FoldPaths, run_fold
from detseg3d.planning.overrides import TrainingOverrides
from detseg3d.synthetic.dataset import RANDOM_DATASET, RandomScanOptions, write_random_dataset
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingOptions

__all__ = ["Pretraining", "PretrainingOptions", "pretrain"]

logger = logging.getLogger(__name__)

FOLD = "0"
# Scans that are held out, to tell whether the training has worked.
_HELD_OUT, _MAX_HELD_OUT_FRACTION = 6, 0.25


@dataclass(frozen=True)
class PretrainingOptions:
    """Settings of a pretraining.

    Attributes
    ----------
    scans : RandomScanOptions
        Number, size and seed of the simulated scans.
    training_gb : float
        Memory for the training, in GB.
    precision : Precision
        Precision of the training, for which the memory is planned.
    training : TrainingOptions
        Seed, device and time limit. With ``resume``, an earlier pretraining in the same folder continues.
    overrides : TrainingOverrides
        Values that replace those of the plans.
    run : Run
        Worker processes of the simulation and of the preprocessing.
    """

    scans: RandomScanOptions = field(default_factory=RandomScanOptions)
    training_gb: float = 8.0
    precision: Precision = Precision.AUTO
    training: TrainingOptions = field(default_factory=TrainingOptions)
    overrides: TrainingOverrides = field(default_factory=TrainingOverrides)
    run: Run = Run(processes=2)


@dataclass(frozen=True)
class Pretraining:
    """Result of :func:`pretrain`.

    Attributes
    ----------
    model : Path
        Model folder.
    weights : Path
        Weights for ``--pretrained_weights``, beside the plans of their training.
    evaluation : EvaluationResult
        Evaluation on held-out simulated scans.
    """

    model: Path
    weights: Path
    evaluation: EvaluationResult


def pretrain(output_folder: str | Path, options: PretrainingOptions) -> Pretraining:
    """Simulate scans, plan and preprocess them, and train on them.

    Parameters
    ----------
    output_folder : path
        Receives ``raw``, ``preprocessed`` and ``results``.
    options : PretrainingOptions

    Returns
    -------
    Pretraining

    Raises
    ------
    DetSeg3DError
        If the folder contains a pretraining that is not resumed, or a step fails.
    """
    output = Path(output_folder)
    raw = _simulate(output / "raw", options)
    held_out = min(_MAX_HELD_OUT_FRACTION, _HELD_OUT / options.scans.num_cases)
    prepared_folder = PreparedFolder(output / "preprocessed" / RANDOM_DATASET)
    # A pretraining that continues keeps its split, because it may already have been trained on the other cases.
    keeps_split = options.training.resume and prepared_folder.splits.exists()
    settings = PrepareOptions(
        run=options.run,
        training_gb=options.training_gb,
        val_split=None if keeps_split else held_out,
        seed=None if keeps_split else options.training.seed or 0,
        precision=options.precision,
    )
    prepared = prepare_dataset(raw, output / "preprocessed", settings)
    for decision in prepared.plans.decisions:
        logger.info("plan: %s: %s", decision.name, decision.value)
    paths = FoldPaths(raw, PreparedFolder(prepared.folder), ModelFolder(output / "results" / RANDOM_DATASET))
    evaluation = run_fold(paths, FOLD, options.training, options.overrides)
    assert evaluation is not None, "cases were held out"
    return Pretraining(paths.model.path, paths.model.fold(FOLD).final_weights, evaluation)


def _simulate(raw: Path, options: PretrainingOptions) -> Path:
    """Return the folder of the simulated scans. They are written unless a pretraining that continues has done so."""
    folder = raw / RANDOM_DATASET
    if RawFolder(folder).dataset_json.exists():
        if options.training.resume:
            return folder
        raise DetSeg3DError(
            "the output folder contains a pretraining already",
            file=raw.parent,
            remedy="continue it (--c), choose another --output_dir, or remove it",
        )
    return write_random_dataset(raw, options.scans, options.run)
