"""Compute an exported network in 8-bit integers, with NNCF and OpenVINO."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.backend import NetworkFormat
from detseg3d.data.roots import send_no_telemetry
from detseg3d.deploy.networks import ExportedFiles
from detseg3d.deploy.runners import missing_package
from detseg3d.system.signals import use_usual_signal_stack

__all__ = ["quantize_network"]


def quantize_network(files: ExportedFiles, inputs: Mapping[str, Sequence[Mapping[str, Array]]]) -> ExportedFiles:
    """Return an exported network that computes its convolutions in int8.

    The range of every map is measured on ``inputs``, with a zero point of its own, because a leaky ReLU gives maps of
    unequal ranges on both sides of 0. Weights use half of the range of 8 bits. With the whole range, processors without
    VNNI instructions exceed the range of their 16-bit sums and give other masks without an error.

    Parameters
    ----------
    files : ExportedFiles
        Of OpenVINO, in float32.
    inputs : mapping of str to sequence of mapping of str to ndarray of float32
        For ``stage1`` and ``stage2``: inputs of the network, each by the names of its ports. Stage 1: ``image``, shape
        ``(1, C, z, y, x)``, on the padded detection grid. Stage 2: ``crops``, shape ``(N, C + 1, z, y, x)``, and
        ``features``, shape ``(N, F, z', y', x')``, if the plan shares features.

    Returns
    -------
    ExportedFiles

    Raises
    ------
    DetSeg3DError
        If the package nncf of the extra ``int8`` is missing.
    """
    assert files.network_format is NetworkFormat.OPENVINO, "export_model refuses other formats"
    nncf = _nncf()
    import openvino

    contents = dict(files.contents)
    for stage, examples in inputs.items():
        structure, weights = files.of_stage(stage)
        tensor = openvino.Tensor(np.frombuffer(weights, np.uint8), shared_memory=False)
        model = openvino.Core().read_model(model=structure, weights=tensor)
        use_usual_signal_stack()
        # NNCF writes its progress to the standard output, which belongs to the results of the command.
        with redirect_stdout(io.StringIO()):
            quantized = nncf.quantize(
                model,
                nncf.Dataset([dict(example) for example in examples]),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(examples),
                advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
            )
        with tempfile.TemporaryDirectory(prefix="detseg3d_export_") as folder:
            file = Path(folder) / "network.xml"
            openvino.save_model(quantized, file, compress_to_fp16=False)
            contents[f"{stage}.xml"] = file.read_bytes()
            contents[f"{stage}.bin"] = file.with_suffix(".bin").read_bytes()
    return ExportedFiles(files.network_format, contents)


def _nncf() -> Any:
    send_no_telemetry()
    try:
        import nncf
    except ImportError as error:
        raise missing_package("nncf", error, extra="int8") from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
