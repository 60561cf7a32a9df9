"""Weights on disk: safetensors, which hold numbers and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.safetensors_header import TensorEntry, read_safetensors_header
from detseg3d.planning.plans import Plans
from detseg3d.system.files import atomic_path
from detseg3d.system.native import native_path

__all__ = ["LARGEST_WEIGHT", "check_weights", "load_weights", "read_weights", "save_weights"]

LARGEST_WEIGHT = 1e15
"""The square of a larger value, summed over a layer's inputs, is not finite in float32."""

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # the latter: counters of a network of one's own


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
            save_file(tensors, native_path(temporary), metadata=dict(metadata or {}))
        except SafetensorError as error:  # a full disk, among others; atomic_path names the file
            raise OSError(str(error)) from error


def check_weights(plans: Plans, path: Path, build_model: Callable[[Plans], DetSeg3D] = DetSeg3D) -> None:
    """Check that a file of weights is of the network of ``plans``, before memory is taken for either.

    Parameters
    ----------
    plans : Plans
    path : Path
    build_model : callable, optional
        Makes the network of a plan.

    Raises
    ------
    DetSeg3DError
        If the file is missing or broken, or a tensor is missing, left over or of another type or shape.
    """
    with torch.device("meta"):  # tensors with shapes and no memory
        network = build_model(plans)
    _require_fit(_entries(network), _read_header(path), path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights written by :func:`save_weights` into ``model``.

    For weights of another plan see :func:`detseg3d.models.transfer.transfer_weights`.

    Raises
    ------
    DetSeg3DError
        If the file is missing, broken, holds values that are no numbers or far too large, or does not fit the model.
        The model is unchanged then.
    """
    _require_fit(_entries(model), _read_header(path), path)
    model.load_state_dict(read_weights(path))


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a file of weights and check their values.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to Tensor
        By the names of the model's parameters.

    Raises
    ------
    DetSeg3DError
        If the file is missing or broken, or holds values that are no numbers or far too large.
    """
    names = _read_header(path)
    try:
        with safe_open(native_path(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise DetSeg3DError(f"the weights cannot be read: {error}", file=path) from error
    spoiled = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if spoiled:
        raise DetSeg3DError(
            f"{len(spoiled)} of the weights hold values that are no finite numbers",
            file=path,
            value=spoiled[:3],
            remedy="restore the file, or train this fold again",
        )
    extreme = {name: float(tensor.abs().max()) for name, tensor in tensors.items() if tensor.numel()}
    largest = max(extreme, key=extreme.__getitem__, default="")
    if largest and extreme[largest] > LARGEST_WEIGHT:
        raise DetSeg3DError(
            "the weights hold values that no training makes: the network would overflow",
            file=path,
            value=f"{extreme[largest]:.3g} in {largest}",
            expected=f"at most {LARGEST_WEIGHT:g}",
            remedy="restore the file, or train this fold again",
        )
    return tensors


def _entries(model: nn.Module) -> dict[str, TensorEntry]:
    return {name: TensorEntry(_DTYPES[t.dtype], tuple(t.shape)) for name, t in model.state_dict().items()}


def _read_header(path: Path) -> dict[str, TensorEntry]:
    if not path.is_file():
        raise DetSeg3DError("the weights do not exist", file=path, remedy="train this fold first")
    return read_safetensors_header(path)


def _require_fit(own: Mapping[str, TensorEntry], header: Mapping[str, TensorEntry], path: Path) -> None:
    fitting = {name for name, entry in own.items() if name in header and header[name].shape == entry.shape}
    missing, strange = sorted(set(own) - fitting), sorted(set(header) - fitting)
    if missing or strange:
        raise DetSeg3DError(
            f"the weights do not fit the plans ({len(missing)} missing, {len(strange)} left over)",
            file=path,
            value=[name[:80] for name in (missing + strange)[:3]],
            remedy="use the plans.json that the weights were trained with",
        )
    others = sorted({header[name].dtype for name in fitting if header[name] != own[name]})
    if others:
        raise DetSeg3DError(
            "the weights are stored in another type",
            file=path,
            value=", ".join(others),
            expected=f"{_DTYPES[torch.float32]}, 32-bit floating point",
            remedy="use the weights as the training wrote them",
        )
