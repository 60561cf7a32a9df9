"""The folder of a trained model: ``fold_0``, ``fold_1``, …, each with its plans and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.planning.appearance.training import TrainingAppearance, load_training_appearance
from detseg3d.planning.plans import Plans, load_plans

__all__ = [
    "fold_folders",
    "load_reference",
    "model_plans",
    "restrict_mirroring",
    "same_network",
]

logger = logging.getLogger(__name__)


def fold_folders(folder: Path, folds: Sequence[str | int] | None, checkpoint: str) -> list[FoldFolder]:
    """The folders of the folds, checked; by default of those that are trained to the end.

    Raises
    ------
    DetSeg3DError
        If there is none, or one that is asked for is missing.
    """
    model = ModelFolder(folder)
    there = model.folds()
    trained = [fold for fold in there if fold.weights(checkpoint).is_file()]
    if not there or (folds is None and not trained):
        raise DetSeg3DError(
            "there is no trained fold in this folder", file=folder, remedy="train with detseg3d_train, or check -m / -d"
        )
    if folds is None:
        # The model of all cases has seen what the folds held out: it is taken only if it is all there is, or asked for.
        return [fold for fold in trained if not fold.trains_all_cases] or trained
    chosen = [model.fold(name) for name in folds]
    missing = [fold.path.name for fold in chosen if not fold.path.is_dir()]
    if missing:
        raise DetSeg3DError(
            "these folds are not trained",
            file=folder,
            value=missing,
            expected=", ".join(fold.path.name for fold in there),
            remedy="choose among them with -f, or train the others",
        )
    return chosen


def model_plans(folder: Path, folds: Sequence[str | int] | None, checkpoint: str) -> Plans:
    """The plans of a model, without loading the model.

    Raises
    ------
    DetSeg3DError
        If there is no such fold, or its plans cannot be read.
    """
    return load_plans(fold_folders(folder, folds, checkpoint)[0].plans)


def load_reference(fold: FoldFolder, plans: Plans) -> TrainingAppearance:
    """What the training scans of a fold look like, for comparison with the scans that are predicted.

    Parameters
    ----------
    fold : FoldFolder
    plans : Plans
        Of the fold.

    Raises
    ------
    DetSeg3DError
        If the file is missing, damaged, or of other channels than the plans.
    """
    file = fold.appearance
    if not file.is_file():
        raise DetSeg3DError(
            "the model does not say what its training scans look like, so no scan can be compared with them",
            file=file,
            remedy="where the data set lies, run detseg3d_plan_and_preprocess, then detseg3d_train with --val: it "
            "writes this file; or copy the file from where the model was trained",
        )
    reference = load_training_appearance(file)
    found = [(channel.name, channel.normalization) for channel in reference.channels]
    if found != list(zip(plans.channel_names, plans.normalization, strict=True)):
        raise DetSeg3DError(
            "the file describes scans of other channels, or normalised in another way, than the plans beside it",
            file=file,
            value=[name for name, _ in found],
            expected=f"{list(plans.channel_names)}, with the normalisation of plans.json",
            remedy="restore both files from where the model was trained",
        )
    return reference


def same_network(first: Plans, second: Plans) -> bool:
    """Return True if two plans give networks whose outputs may be averaged."""
    free = {
        "training",
        "inference",
        "decisions",
        "training_budget_gb",
        "memory_precision",
        "inference_budget_gb",
        "default_spacing",
    }
    equal_plans = first.model_dump(exclude=free) == second.model_dump(exclude=free)
    return equal_plans and first.training.network == second.training.network


def restrict_mirroring(plans: Plans, others: Sequence[Plans]) -> Plans:
    """``plans`` with mirrored copies along those axes only that every network was trained on flips of; it is said.

    Parameters
    ----------
    plans : Plans
        Those that inference goes by.
    others : sequence of Plans
        With which the networks were trained that are averaged.
    """
    known = set.intersection(*(set(other.training.mirror_axes) for other in others))
    axes = tuple(axis for axis in plans.inference.mirror_axes if axis in known)
    if axes == plans.inference.mirror_axes:
        return plans
    logger.warning(
        "the folds were not all trained on scans flipped along %s: no copies are mirrored along it",
        " ".join("zyx"[axis] for axis in plans.inference.mirror_axes if axis not in known),
    )
    return plans.evolve(inference={"mirror_axes": axes})
