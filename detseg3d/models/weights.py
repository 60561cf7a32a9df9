"""Weights on disk: safetensors files, which hold numbers and no code.

The safetensors library reads the header and compares it with the size of the file. This module checks three more
things: a limit on the length of the header, the names, shapes and types of the network's tensors, and limits on the
values. All comparisons come before memory is taken for a tensor or a network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from detseg3d.system.files import atomic_path, open_regular_file
from detseg3d.system.native import native_path

__all__ = [
    "TensorEntry",
    "TensorFile",
    "check_fit",
    "check_values",
    "check_weights",
    "load_weights",
    "network_entries",
    "open_tensors",
    "read_weights",
    "save_tensors",
    "save_weights",
]

MAX_WEIGHT: Final = 1e15
"""The square of a larger value, summed over a layer's inputs, is not finite in float32."""

MAX_HEADER_BYTES: Final = 4 << 20
"""The header of a network of some hundred tensors has some ten thousand bytes."""

_DTYPES = {torch.float32: "F32", torch.int64: "I64"}  # int64: counters of a custom network


class TensorEntry(NamedTuple):
    """Type (``F32``, ``F16``, …) and shape of a tensor in a file."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorFile:
    """An open safetensors file. Only its header has been read.

    Attributes
    ----------
    path : Path
    metadata : dict of str to str
    entries : dict of str to TensorEntry
        Type and shape of each tensor.
    """

    path: Path
    metadata: dict[str, str]
    entries: dict[str, TensorEntry]
    _handle: Any

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor into memory.

        Returns
        -------
        Tensor

        Raises
        ------
        DetSeg3DError
            If the file cannot be read.
        """
        try:
            return torch.from_numpy(self._handle.get_tensor(name))
        except (
            SafetensorError,
            OSError,
            TypeError,
            AttributeError,
        ) as error:  # the last two: a type NumPy does not have
            raise _unreadable(self.path, error) from error


# -- Writing -----------------------------------------------------------------------------------------------------------


def save_weights(model: nn.Module, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of a network as a safetensors file, atomically.

    Parameters
    ----------
    model : Module
    path : Path
    metadata : mapping of str to str, optional

    Raises
    ------
    DetSeg3DError
        If the file cannot be written. An earlier file stays.
    """
    save_tensors(model.state_dict(), path, metadata)


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as a safetensors file, atomically.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        On any device.
    path : Path
    metadata : mapping of str to str, optional

    Raises
    ------
    DetSeg3DError
        If the file cannot be written. An earlier file stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(contiguous, native_path(temporary), metadata=dict(metadata or {}))
        except SafetensorError as error:  # for example a full disk; atomic_path names the file
            raise OSError(str(error)) from error


# -- Reading -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_tensors(path: Path, max_header_bytes: int = MAX_HEADER_BYTES) -> Iterator[TensorFile]:
    """Open a safetensors file and read its header.

    Parameters
    ----------
    path : Path
    max_header_bytes : int, optional
        A longer header is refused before it is read.

    Yields
    ------
    TensorFile

    Raises
    ------
    DetSeg3DError
        If the file is missing, the header is damaged or too long, or the sizes and places of the tensors in the header
        do not fit the size of the file.
    """
    if not path.is_file():
        raise DetSeg3DError("the weights do not exist", file=path, remedy="train this fold first")
    try:
        with open_regular_file(path) as raw:
            size = os.fstat(raw.fileno()).st_size
            header_bytes = int.from_bytes(raw.read(8), "little")
        if header_bytes > min(size - 8, max_header_bytes):
            raise ValueError(f"it has {size} bytes and a header of {header_bytes} bytes")
        # framework="pt" would map the file as writable memory, which counts against the memory limit of the system.
        handle = safe_open(native_path(path), framework="numpy")
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    with handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 (it is not a mapping)
        entries = {name: TensorEntry(s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
        yield TensorFile(path, dict(handle.metadata() or {}), entries, handle)


def _unreadable(path: Path, error: Exception) -> DetSeg3DError:
    return DetSeg3DError(
        f"the weights cannot be read: {error}",
        file=path,
        expected="a complete safetensors file",
        remedy="restore the file; it may be damaged, or have another format",
    )


def check_weights(plans: Plans, path: Path, build_model: Callable[[Plans], DetSeg3D] = DetSeg3D) -> None:
    """Check that a file of weights fits the network of ``plans``, before memory is taken for either.

    Parameters
    ----------
    plans : Plans
    path : Path
    build_model : callable, optional
        Makes the network of a plan.

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged, or if a tensor is missing, surplus or of another type or shape.
    """
    with open_tensors(path) as file:
        check_fit(network_entries(plans, build_model), file.entries, path)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights that :func:`save_weights` wrote into ``model``.

    For weights of another plan see :func:`detseg3d.models.transfer.transfer_weights`.

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged, does not fit the model, or holds values that are not finite or far too large.
        The model is then unchanged.
    """
    with open_tensors(path) as file:
        check_fit(_entries(model), file.entries, path)
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
        If the file is missing or damaged, or holds values that are not finite or far too large.
    """
    with open_tensors(path) as file:
        tensors = {name: file.read(name) for name in file.entries}
    check_values(tensors, path)
    return tensors


# -- Checks ------------------------------------------------------------------------------------------------------------


def network_entries(plans: Plans, build_model: Callable[[Plans], DetSeg3D] = DetSeg3D) -> dict[str, TensorEntry]:
    """Return type and shape of every tensor of the network of ``plans``, without memory for the network.

    Parameters
    ----------
    plans : Plans
    build_model : callable, optional
        Makes the network of a plan.

    Returns
    -------
    dict of str to TensorEntry
        By the names of the parameters.
    """
    with torch.device("meta"):  # tensors with shapes and without memory
        return _entries(build_model(plans))


def _entries(model: nn.Module) -> dict[str, TensorEntry]:
    return {name: TensorEntry(_DTYPES[t.dtype], tuple(t.shape)) for name, t in model.state_dict().items()}


def check_fit(network: Mapping[str, TensorEntry], stored: Mapping[str, TensorEntry], path: Path) -> None:
    """Check that a file has exactly the tensors of a network.

    Parameters
    ----------
    network : mapping of str to TensorEntry
        From :func:`network_entries`.
    stored : mapping of str to TensorEntry
        Tensors of the file.
    path : Path
        The file that the message names.

    Raises
    ------
    DetSeg3DError
        If a tensor is missing, surplus or of another shape or type.
    """
    fitting = {name for name, entry in network.items() if name in stored and stored[name].shape == entry.shape}
    missing, surplus = sorted(set(network) - fitting), sorted(set(stored) - fitting)
    if missing or surplus:
        raise DetSeg3DError(
            f"the weights do not fit the plans ({len(missing)} missing, {len(surplus)} left over)",
            file=path,
            value=[name[:80] for name in (missing + surplus)[:3]],
            remedy="use the plans.json that the weights were trained with",
        )
    other_types = sorted({stored[name].dtype for name in fitting if stored[name] != network[name]})
    if other_types:
        raise DetSeg3DError(
            "the weights are stored in another type",
            file=path,
            value=", ".join(other_types),
            expected=f"{_DTYPES[torch.float32]}, 32-bit floating point",
            remedy="use the weights as the training wrote them",
        )


def check_values(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check that all values are finite and small enough for a network to work with.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    path : Path
        The file that the message names.

    Raises
    ------
    DetSeg3DError
        If a value is NaN or infinite, or its magnitude exceeds :data:`MAX_WEIGHT`.
    """
    not_finite = sorted(name for name, tensor in tensors.items() if not torch.isfinite(tensor).all())
    if not_finite:
        raise DetSeg3DError(
            f"{len(not_finite)} tensor(s) of the weights hold NaN or infinity",
            file=path,
            value=not_finite[:3],
            remedy="restore the file, or train this fold again",
        )
    magnitudes = {name: float(tensor.abs().max()) for name, tensor in tensors.items() if tensor.numel()}
    largest = max(magnitudes, key=magnitudes.__getitem__, default="")
    if largest and magnitudes[largest] > MAX_WEIGHT:
        raise DetSeg3DError(
            "the weights hold values that no training produces: the network would overflow",
            file=path,
            value=f"{magnitudes[largest]:.3g} in {largest}",
            expected=f"at most {MAX_WEIGHT:g}",
            remedy="restore the file, or train this fold again",
        )
