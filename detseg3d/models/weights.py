"""Weights on disk: safetensors, which hold numbers and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.files import atomic_path

__all__ = ["load_weights", "save_weights"]


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of ``model`` as safetensors, atomically. No code can hide in such a file.

    Raises
    ------
    DetSeg3DError
        If they cannot be written; an earlier file stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, str(temporary), metadata=dict(metadata or {}))
        except SafetensorError as error:  # a full disk, among others; atomic_path names the file
            raise OSError(str(error)) from error


def load_weights(model: nn.Module, path: Path, strict: bool = True) -> list[str]:
    """Load weights written by :func:`save_weights` into ``model``.

    Parameters
    ----------
    strict : bool
        False loads what fits by name and shape (for fine-tuning) and returns what did not.

    Returns
    -------
    list of str
        Names of the model's weights that the file does not hold in this shape.

    Raises
    ------
    DetSeg3DError
        If the file is missing, broken, or (strictly) does not fit the model.
    """
    if not path.is_file():
        raise DetSeg3DError("the weights do not exist", file=path, remedy="train this fold first")
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise DetSeg3DError(f"the weights cannot be read: {error}", file=path) from error
    own = model.state_dict()
    fitting = {name: t for name, t in tensors.items() if name in own and own[name].shape == t.shape}
    missing = sorted(set(own) - set(fitting))
    if strict and (missing or len(fitting) != len(tensors)):
        strange = sorted(set(tensors) - set(fitting))
        raise DetSeg3DError(
            f"the weights do not fit the plans ({len(missing)} missing, {len(strange)} left over)",
            file=path,
            value=(missing + strange)[:3],
            remedy="use the plans.json that the weights were trained with",
        )
    if not fitting:
        raise DetSeg3DError("none of the weights fits the model", file=path, remedy="use weights of this framework")
    model.load_state_dict(fitting, strict=False)
    return missing
