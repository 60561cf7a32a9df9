"""Find a trained model in the folder of results, and describe a folder in which a model is expected but missing."""

from __future__ import annotations

from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.data.roots import find_datasets, fitting_datasets, resolve_dataset, results_root

__all__ = ["has_trained_fold", "no_trained_model", "resolve_model"]

_MAX_LISTED = 5
_TRAIN = "train with detseg3d_train"


def has_trained_fold(folder: Path, checkpoint: str = "final") -> bool:
    """Return whether a model folder holds the weights of a fold.

    Parameters
    ----------
    folder : Path
        ``results/DatasetXXX_Name``.
    checkpoint : str, optional
        See :meth:`~detseg3d.data.folders.FoldFolder.weights`.
    """
    return any(fold.weights(checkpoint).is_file() for fold in ModelFolder(folder).folds())


def resolve_model(results: str | Path | None, identifier: str | int) -> Path:
    """Return the model folder of a data set from its number, its name or both.

    Parameters
    ----------
    results : path or None
        Folder of trained models; by default that of the variable ``detseg3d_results``.
    identifier : str or int
        See :func:`~detseg3d.data.roots.resolve_dataset`.

    Raises
    ------
    DetSeg3DError
        If the folder of models is not set, or if no folder or several folders in it fit.
    """
    root = results_root(results)
    if fitting_datasets(root, identifier):
        return resolve_dataset(root, identifier)  # an error if several fit
    models = ", ".join(folder.name for folder in find_datasets(root))
    raise DetSeg3DError(
        f"there is no trained model of the data set {str(identifier)!r} in this folder",
        file=root,
        value=models or ("no folder DatasetXXX_Name" if root.is_dir() else "no such folder"),
        expected="a folder DatasetXXX_Name of this number or name, as detseg3d_train writes it",
        remedy=f"{_TRAIN}, or give the folder of the models with --results or the variable detseg3d_results",
    )


def no_trained_model(folder: Path, checkpoint: str = "final") -> DetSeg3DError:
    """Return the error for a folder without a trained fold. It states what the folder holds instead.

    Parameters
    ----------
    folder : Path
        The folder in which a model is expected.
    checkpoint : str, optional
        Kind of weights that was searched for.
    """
    model = ModelFolder(folder)
    remedy = f"{_TRAIN}, or give the folder of a trained model (-m, or -d and --results)"
    if not folder.is_dir():
        value = "no such folder"
    elif FoldFolder(folder).weights(checkpoint).is_file():
        value = "the folder of a single fold"
        remedy = f"give the folder above it, {folder.parent}, and choose the fold with -f"
    elif models := [inner for inner in find_datasets(folder) if has_trained_fold(inner, checkpoint)]:
        value = f"{len(models)} model(s) in subfolders"
        remedy = f"give the folder of one model, for example {models[0]}"
    elif begun := model.folds():
        names = [fold.path.name for fold in begun[:_MAX_LISTED]]
        value = f"{', '.join(names)} without {begun[0].weights(checkpoint).name}"
        remedy = "end the training (detseg3d_train with --c), or give the folder of a trained model (-m, or -d)"
    else:
        names = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        value = ", ".join(names[:_MAX_LISTED]) + (", …" if len(names) > _MAX_LISTED else "") or "an empty folder"
    expected = model.fold(0).weights(checkpoint).relative_to(folder).as_posix()
    return DetSeg3DError(
        "there is no trained model in this folder",
        file=folder,
        value=value,
        expected=f"{expected}, or that of another fold",
        remedy=remedy,
    )
