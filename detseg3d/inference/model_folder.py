"""The folder of a trained model: ``fold_0``, ``fold_1``, …, each with its plans and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans, load_plans

__all__ = ["fold_folders", "model_plans", "restrict_mirroring", "same_network", "weights_file"]

logger = logging.getLogger(__name__)


def fold_folders(folder: Path, folds: Sequence[str | int] | None, checkpoint: str) -> list[Path]:
    """The folders of the folds, checked; by default of those that are trained to the end.

    Raises
    ------
    DetSeg3DError
        If there is none, or one that is asked for is missing.
    """
    there = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    trained = [path for path in there if weights_file(path, checkpoint).is_file()]
    if not there or (folds is None and not trained):
        raise DetSeg3DError(
            "there is no trained fold in this folder", file=folder, remedy="train with detseg3d_train, or check -m / -d"
        )
    if folds is None:
        # The model of all cases has seen what the folds held out: it is taken only if it is all there is, or asked for.
        return [path for path in trained if path.name != "fold_all"] or trained
    chosen = [folder / f"fold_{fold}" for fold in folds]
    missing = [path.name for path in chosen if not path.is_dir()]
    if missing:
        raise DetSeg3DError(
            "these folds are not trained",
            file=folder,
            value=missing,
            expected=", ".join(path.name for path in there),
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
    return load_plans(fold_folders(folder, folds, checkpoint)[0] / "plans.json")


def weights_file(fold: Path, checkpoint: str) -> Path:
    """Weights of a fold: ``final`` or ``best``."""
    return fold / f"model_{checkpoint}.safetensors"


def same_network(first: Plans, second: Plans) -> bool:
    """Whether two plans give networks that may be averaged."""
    free = {"training", "inference", "decisions", "memory_budget_gb", "npy_spacing"}
    return first.model_dump(exclude=free) == second.model_dump(exclude=free)


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
