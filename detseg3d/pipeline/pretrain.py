"""Train a model to start from, on simulated scans with random anatomy, intensities, lesions and spacing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from detseg3d.core.augmentation import Augmentation
from detseg3d.core.precision import Precision
from detseg3d.data.folders import ModelFolder, PreparedFolder
from detseg3d.evaluation.result import EvaluationResult
from detseg3d.pipeline.begun import is_begun
from detseg3d.pipeline.prepare import PrepareOptions, prepare_dataset
from detseg3d.pipeline.train import FoldPaths, run_fold
from detseg3d.planning.overrides import TrainingOverrides
from detseg3d.planning.plans import Plans, save_plans
from detseg3d.planning.sections import Decision
from detseg3d.synthetic.dataset import RANDOM_DATASET, RandomScanOptions, write_random_dataset
from detseg3d.system.run import Run
from detseg3d.training.options import TrainingOptions

__all__ = ["Pretraining", "PretrainingOptions", "like_plans", "pretrain"]

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
    plans : Plans, optional
        Plans of the data set that the weights are for. The network then has the same stages, heads and RoIs on the same
        grid. Without them, the network is planned for the simulated scans.
    training_gb : float
        Memory for the training, in GB.
    precision : Precision
        Precision of the training, for which the memory is planned.
    training : TrainingOptions
        Seed, device and time limit. With ``resume``, an earlier pretraining in the same folder continues.
    overrides : TrainingOverrides
        Values that replace those of the plans. The plans have strong augmentation.
    run : Run
        Worker processes of the simulation and of the preprocessing.
    """

    scans: RandomScanOptions = field(default_factory=RandomScanOptions)
    plans: Plans | None = None
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
    scans = options.scans
    if options.plans is not None:  # the finest axis of the plans decides the size of the voxels
        scans = replace(scans, voxel=min(options.plans.fine_spacing))
    raw = _simulate(output / "raw", scans, options)
    held_out = min(_MAX_HELD_OUT_FRACTION, _HELD_OUT / options.scans.num_cases)
    prepared_folder = PreparedFolder(output / "preprocessed" / RANDOM_DATASET)
    # A pretraining that continues keeps its plans and its split, because its network was trained with them.
    is_prepared = options.training.resume and prepared_folder.splits.exists()
    settings = PrepareOptions(
        run=options.run,
        training_gb=options.training_gb,
        val_split=None if is_prepared else held_out,
        seed=None if is_prepared else options.training.seed or 0,
        precision=options.precision,
        augmentation=Augmentation.STRONG,  # the weights are for scans of any scanner
        keep_plans=is_prepared,
    )
    if options.plans is not None:
        own = prepare_dataset(raw, output / "preprocessed", replace(settings, preprocess=False))
        save_plans(like_plans(own.plans, options.plans), prepared_folder.plans)
        settings = replace(settings, keep_plans=True, val_split=None, seed=None)  # the splits exist now
    prepared = prepare_dataset(raw, output / "preprocessed", settings)
    for decision in prepared.plans.decisions:
        logger.info("plan: %s: %s", decision.name, decision.value)
    paths = FoldPaths(raw, PreparedFolder(prepared.folder), ModelFolder(output / "results" / RANDOM_DATASET))
    evaluation = run_fold(paths, FOLD, options.training, options.overrides)
    assert evaluation is not None, "cases were held out"
    return Pretraining(paths.model.path, paths.model.fold(FOLD).final_weights, evaluation)


def like_plans(own: Plans, target: Plans) -> Plans:
    """Return the plans of the simulated scans with the grids, networks, RoIs and windows of other plans.

    Channels, classes and normalisation remain those of the simulated scans.

    Parameters
    ----------
    own : Plans
        Plans of the simulated scans.
    target : Plans
        Plans of the data set that the weights are for.

    Returns
    -------
    Plans
    """
    return own.evolve(
        fine_spacing=target.fine_spacing,
        detection_spacing=target.detection_spacing,
        planned_shape=target.planned_shape,
        # The simulated scans have one class, which needs one box.
        stage1={**target.stage1.model_dump(), "boxes_per_class": False},
        roi=target.roi.model_dump(),
        stage2=target.stage2.model_dump(),
        training={
            "curriculum": [phase.model_dump() for phase in target.training.curriculum],
            "min_rois_per_window": target.training.min_rois_per_window,
        },
        training_budget_gb=target.training_budget_gb,
        inference_budget_gb=target.inference_budget_gb,
        memory_precision=target.memory_precision,
        predicted_training_gb=target.predicted_training_gb,
        predicted_inference_gb=target.predicted_inference_gb,
        inference={"roi_batch_size": target.inference.roi_batch_size},
        decisions=[
            Decision(
                name="network",
                value=f"that of {target.dataset_name}",
                reason="The weights are for a training with those plans.",
            ).model_dump()
        ],
    )


def _simulate(raw: Path, scans: RandomScanOptions, options: PretrainingOptions) -> Path:
    """Return the folder of the simulated scans. They are written unless a pretraining that continues has done so."""
    folder = raw / RANDOM_DATASET
    if is_begun(folder, options.training.resume, "a pretraining"):
        return folder
    return write_random_dataset(raw, scans, options.run)
