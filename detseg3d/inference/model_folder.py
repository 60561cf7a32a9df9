"""The folder of a trained model: ``fold_0``, ``fold_1``, …, each with its plans and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.backend import Backend, stored_weights
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.data.trained_models import no_trained_model
from detseg3d.planning.appearance.training import TrainingAppearance, load_training_appearance
from detseg3d.planning.plans import Plans, load_plans

__all__ = [
    "choose_backend",
    "folder_backends",
    "fold_folders",
    "load_reference",
    "model_plans",
    "restrict_mirroring",
    "same_network",
]

logger = logging.getLogger(__name__)


def folder_backends(folder: str | Path) -> list[Backend]:
    """Return the backends that can run the networks in a model folder."""
    folds = ModelFolder(Path(folder)).folds()
    names = {backend: {stored_weights(kind, backend) for kind in ("final", "best")} for backend in Backend}
    return [
        backend
        for backend, kinds in names.items()
        if any(fold.weights(kind).is_file() for kind in kinds for fold in folds)
    ]


def choose_backend(path: str | Path, held: Sequence[Backend], wanted: Backend | None) -> Backend:
    """Return the backend that runs a model.

    Parameters
    ----------
    path : path
        The model, for the error message.
    held : sequence of Backend
        Backends that can run its networks.
    wanted : Backend or None
        Backend that the user named. By default the first of ``held``, or ``TORCH`` if it is empty.

    Raises
    ------
    DetSeg3DError
        If the model has networks, but not for ``wanted``.
    """
    if wanted is None:
        return held[0] if held else Backend.TORCH
    if held and wanted not in held:
        raise DetSeg3DError(
            f"the model has no networks for the backend {wanted}",
            file=path,
            value=f"networks for {' and '.join(held)}",
            remedy=f"predict with --backend {held[0]}, or export the trained model with detseg3d_export_model "
            f"--format {wanted.network_format}",
        )
    return wanted


def fold_folders(folder: Path, folds: Sequence[str | int] | None, checkpoint: str) -> list[FoldFolder]:
    """Return the folders of the folds; by default all folds whose training is complete.

    Parameters
    ----------
    folder : Path
        ``results/DatasetXXX_Name``.
    folds : sequence or None
        Names of the folds. With ``None``, fold ``all`` is used only if there is no other fold.
    checkpoint : str
        ``final`` or ``best``, or the name of another format (:func:`~detseg3d.core.backend.stored_weights`).

    Returns
    -------
    list of FoldFolder

    Raises
    ------
    DetSeg3DError
        If there is no trained fold, or a named fold is missing.
    """
    model = ModelFolder(folder)
    existing = model.folds()
    trained = [fold for fold in existing if fold.weights(checkpoint).is_file()]
    if not existing or (folds is None and not trained):
        raise no_trained_model(folder, checkpoint)
    if folds is None:
        # Fold `all` was trained on the validation cases of the other folds.
        return [fold for fold in trained if not fold.trains_all_cases] or trained
    chosen = [model.fold(name) for name in folds]
    missing = [fold.path.name for fold in chosen if not fold.path.is_dir()]
    if missing:
        raise DetSeg3DError(
            "these folds are not trained",
            file=folder,
            value=missing,
            expected=", ".join(fold.path.name for fold in existing),
            remedy="choose trained folds with -f, or train the missing folds",
        )
    return chosen


def model_plans(folder: Path, folds: Sequence[str | int] | None, checkpoint: str) -> Plans:
    """Read the plans of a model without loading its weights.

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If there is no such fold, or its plans cannot be read.
    """
    return load_plans(fold_folders(folder, folds, checkpoint)[0].plans)


def load_reference(fold: FoldFolder, plans: Plans) -> TrainingAppearance:
    """Read the appearance of the training scans of a fold, to compare it with the scans that are predicted.

    Parameters
    ----------
    fold : FoldFolder
    plans : Plans
        Plans of the fold.

    Returns
    -------
    TrainingAppearance

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged, or its channels differ from those of the plans.
    """
    file = fold.appearance
    if not file.is_file():
        raise DetSeg3DError(
            "the model does not describe its training scans, so no scan can be compared with them",
            file=file,
            remedy="copy the file from the computer on which the model was trained; or, on the computer with the data "
            "set, run detseg3d_plan_and_preprocess and then detseg3d_train with --val, which writes the file",
        )
    reference = load_training_appearance(file)
    described = [(channel.name, channel.normalization) for channel in reference.channels]
    if described != list(zip(plans.channel_names, plans.normalization, strict=True)):
        raise DetSeg3DError(
            "the file describes other channels or another normalisation than the plans beside it",
            file=file,
            value=[name for name, _ in described],
            expected=f"{list(plans.channel_names)}, with the normalisation of plans.json",
            remedy="restore both files from the computer on which the model was trained",
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
        "codes",
    }
    equal_plans = first.model_dump(exclude=free) == second.model_dump(exclude=free)
    return equal_plans and first.training.network == second.training.network


def restrict_mirroring(plans: Plans, others: Sequence[Plans]) -> Plans:
    """Restrict the mirrored copies of inference to axes along which every network was trained with flips.

    A warning names the axes that are removed.

    Parameters
    ----------
    plans : Plans
        Plans of the inference.
    others : sequence of Plans
        Plans with which the networks were trained.

    Returns
    -------
    Plans
    """
    known = set.intersection(*(set(other.training.mirror_axes) for other in others))
    axes = tuple(axis for axis in plans.inference.mirror_axes if axis in known)
    if axes == plans.inference.mirror_axes:
        return plans
    logger.warning(
        "not all folds were trained on scans flipped along %s: copies are not mirrored along these axes",
        " ".join("zyx"[axis] for axis in plans.inference.mirror_axes if axis not in known),
    )
    return plans.evolve(inference={"mirror_axes": axes})
