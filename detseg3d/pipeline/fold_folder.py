"""Folder that a training writes to. A new training never removes the files of an earlier one before it is complete."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder, ModelFolder
from detseg3d.system.files import replace_folder, temporary_beside
from detseg3d.training.options import TrainingOptions

__all__ = ["choose_folder", "replace_fold"]

logger = logging.getLogger(__name__)


def choose_folder(model: ModelFolder, name: str, options: TrainingOptions) -> FoldFolder:
    """Return the folder that a training of a fold writes to.

    Parameters
    ----------
    model : ModelFolder
    name : str
        Name of the fold.
    options : TrainingOptions
        ``resume`` and ``overwrite`` are used.

    Returns
    -------
    FoldFolder
        The folder of the fold. With ``overwrite``, a folder beside it, see
        :meth:`~detseg3d.data.folders.ModelFolder.replacement`.

    Raises
    ------
    DetSeg3DError
        If the fold contains a training, and ``options`` do not tell whether to resume or to overwrite it.
    """
    fold, replacement = model.fold(name), model.replacement(name)
    has_replacement = replacement.path.is_dir()
    is_trained = any(file.exists() for file in (fold.checkpoint, fold.best_weights, fold.final_weights))
    if options.resume:
        if not has_replacement and is_trained and not fold.checkpoint.exists():
            raise DetSeg3DError(
                "this fold has weights, but no checkpoint from which the training could continue",
                file=fold.path,
                remedy="train it again with --overwrite, which keeps the weights until the new model is complete",
            )
        return replacement if has_replacement else fold
    if not has_replacement and not is_trained:
        return fold
    if options.overwrite:
        logger.info("training in %s; %s stays until the new model is complete", replacement.path.name, fold.path.name)
        return replacement
    if has_replacement:
        raise DetSeg3DError(
            "a new training of this fold was begun and is not complete",
            file=replacement.path,
            remedy="continue it with --c, begin again with --overwrite, or remove this folder to keep the fold",
        )
    if fold.final_weights.exists():
        raise DetSeg3DError(
            "this fold is trained already",
            file=fold.path,
            remedy="train it again with --overwrite, which keeps the model until the new one is complete; "
            "--val predicts and evaluates its validation cases again",
        )
    raise DetSeg3DError(
        "this fold contains an incomplete training",
        file=fold.path,
        remedy="continue it with --c, or begin again with --overwrite",
    )


def replace_fold(new: Path, fold: Path) -> None:
    """Replace the folder of a fold by the folder of a complete training.

    Raises
    ------
    DetSeg3DError
        If the folder cannot be replaced. The fold then stays.
    """
    earlier = temporary_beside(fold)
    try:
        if fold.exists():
            replace_folder(fold, new, earlier)
        else:
            new.rename(fold)
    except OSError as error:
        raise DetSeg3DError(
            f"the new model is complete, but it cannot replace the earlier one: {error.strerror or error}",
            file=new,
            remedy=f"check the permissions of the folder above, then continue with --c; {fold.name} is unchanged",
        ) from error
    shutil.rmtree(earlier, ignore_errors=True)
    logger.info("the new model is in %s", fold.name)
