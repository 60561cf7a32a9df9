"""Exported networks as bytes: their files, and how they lie in a safetensors file.

An exported fold is one safetensors file, ``model_openvino.safetensors`` or ``model_onnx.safetensors``. Each tensor is
one file of a network as bytes: ``stage1.onnx``, or ``stage1.xml`` and ``stage1.bin``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.backend import NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.plans import Plans

__all__ = ["MAX_NETWORK_BYTES", "ExportedFiles", "StagePorts", "file_names"]

MAX_NETWORK_BYTES: Final = (2 << 30) - 1
"""An ONNX file cannot be larger, because its lengths are signed 32-bit numbers."""

STAGES: Final = ("stage1", "stage2")
_ENDINGS: Final = {NetworkFormat.OPENVINO: ("xml", "bin"), NetworkFormat.ONNX: ("onnx",)}


def file_names(network_format: NetworkFormat) -> tuple[str, ...]:
    """Return the names of the files of an exported fold.

    Examples
    --------
    >>> file_names(NetworkFormat.OPENVINO)
    ('stage1.xml', 'stage1.bin', 'stage2.xml', 'stage2.bin')
    """
    return tuple(f"{stage}.{ending}" for stage in STAGES for ending in _ENDINGS[network_format])


@dataclass(frozen=True)
class ExportedFiles:
    """The networks of one fold in an exported format.

    Attributes
    ----------
    network_format : NetworkFormat
        Not ``DETSEG3D``.
    contents : mapping of str to bytes
        By the names of :func:`file_names`.
    """

    network_format: NetworkFormat
    contents: Mapping[str, bytes]

    def of_stage(self, stage: str) -> tuple[bytes, ...]:
        """Return the files of a stage, ``stage1`` or ``stage2``, in the order of :func:`file_names`."""
        return tuple(self.contents[f"{stage}.{ending}"] for ending in _ENDINGS[self.network_format])

    @property
    def has_int8(self) -> bool:
        """True if the networks compute in 8-bit integers (:mod:`detseg3d.deploy.quantize`)."""
        return self.network_format is NetworkFormat.OPENVINO and b'type="FakeQuantize"' in self.contents["stage1.xml"]

    def to_arrays(self) -> dict[str, Array]:
        """Return the files as arrays of bytes, for a safetensors file."""
        return {name: np.frombuffer(content, np.uint8).copy() for name, content in self.contents.items()}

    @classmethod
    def from_arrays(cls, network_format: NetworkFormat, arrays: Mapping[str, Array]) -> ExportedFiles:
        """Return the networks that :meth:`to_arrays` gave.

        Raises
        ------
        DetSeg3DError
            If a file is missing, surplus, empty or not an array of bytes.
        """
        for name in file_names(network_format):
            array = arrays.get(name)
            if array is None or array.dtype != np.uint8 or array.ndim != 1 or not 0 < array.size <= MAX_NETWORK_BYTES:
                raise DetSeg3DError(
                    "a file of an exported network is missing or is not an array of bytes",
                    value=name,
                    expected=f"1 to {MAX_NETWORK_BYTES} bytes",
                )
        surplus = sorted(set(arrays) - set(file_names(network_format)))
        if surplus:
            raise DetSeg3DError("there is a file that an exported network does not have", value=surplus[0][:80])
        return cls(network_format, {name: array.tobytes() for name, array in arrays.items()})


@dataclass(frozen=True)
class StagePorts:
    """Names of the inputs and outputs of an exported network, in their order.

    Attributes
    ----------
    inputs, outputs : tuple of str
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of_stage1(cls, plans: Plans) -> StagePorts:
        """Return the ports of Stage 1: one image, and for each level a heatmap, log sizes and offsets.

        The dense map and the projected features follow if the plan has them.
        """
        levels = [f"{kind}_{level}" for level in range(len(plans.stage1.head_stages)) for kind in _OF_LEVEL]
        optional = {
            "dense": plans.stage1.dense_channels > 0,
            "features": plans.stage2.feature_channels > 0,
        }
        return cls(("image",), (*levels, *(name for name, is_output in optional.items() if is_output)))

    @classmethod
    def of_stage2(cls, plans: Plans) -> StagePorts:
        """Return the ports of Stage 2: the crops, and the features if the plan has them; the masks and the scores."""
        features = ("features",) if plans.stage2.feature_channels else ()
        return cls(("crops", *features), ("mask", "score"))


_OF_LEVEL: Final = ("heatmap", "log_size", "offset")
