"""Compute Stage 1 of an exported network in 8-bit integers, with NNCF and OpenVINO.

Stage 2 stays in floating point: with Stage 2 in int8 as well, the lesion F1 fell by more than 0.003
(docs/how_to/deploy.md).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.backend import NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import send_no_telemetry
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.deploy.runners import missing_package
from detseg3d.system.signals import use_usual_signal_stack

__all__ = ["quantize_stage1"]

_STAGE = "stage1"


def quantize_stage1(files: ExportedFiles, images: Sequence[Array]) -> ExportedFiles:
    """Return an exported network whose Stage 1 computes its convolutions in int8.

    The range of every map is measured on ``images``. Weights use half of the range of 8 bits. With the whole range,
    processors without VNNI instructions exceed the range of their 16-bit sums and give other masks without an error.

    Parameters
    ----------
    files : ExportedFiles
        Of OpenVINO, in float32.
    images : sequence of ndarray of float32, shape ``(1, C, z, y, x)``
        Scans on the detection grid, padded to the total stride.

    Returns
    -------
    ExportedFiles

    Raises
    ------
    DetSeg3DError
        If the format is not that of OpenVINO, or the package nncf of the extra ``int8`` is missing.
    """
    if files.network_format is not NetworkFormat.OPENVINO:
        raise DetSeg3DError(
            "only networks of OpenVINO are computed in int8",
            value=str(files.network_format),
            expected=str(NetworkFormat.OPENVINO),
            remedy="use --format openvino with --int8",
        )
    nncf = _nncf()
    import openvino

    structure, weights = files.of_stage(_STAGE)
    tensor = openvino.Tensor(np.frombuffer(weights, np.uint8), shared_memory=False)
    model = openvino.Core().read_model(model=structure, weights=tensor)
    use_usual_signal_stack()
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    quantized = nncf.quantize(
        model, nncf.Dataset(list(images)), subset_size=len(images), advanced_parameters=advanced
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="detseg3d_export_") as folder:
        file = Path(folder) / "network.xml"
        openvino.save_model(quantized, file, compress_to_fp16=False)
        changed = {f"{_STAGE}.xml": file.read_bytes(), f"{_STAGE}.bin": file.with_suffix(".bin").read_bytes()}
    return ExportedFiles(files.network_format, {**files.contents, **changed})


def _nncf() -> Any:
    send_no_telemetry()
    try:
        import nncf
    except ImportError as error:
        raise missing_package("nncf", error, extra="int8") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
