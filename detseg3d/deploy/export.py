"""Export the networks of PyTorch to ONNX or OpenVINO, and compare the result with PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch

from detseg3d.core.arrays import Array
from detseg3d.core.backend import NetworkFormat
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.precision import Precision
from detseg3d.deploy.networks import ExportedFiles, StagePorts
from detseg3d.deploy.runners import load_runner, missing_package
from detseg3d.models.detseg import DetSeg3D

__all__ = ["MAX_DIFFERENCE", "export_network"]

MAX_DIFFERENCE: Final = 1e-3
"""Largest difference from PyTorch in float32, as a fraction of the largest value of an output, or of 1 if larger."""

# Shapes in cells of the coarsest level, and numbers of RoIs, with which the export is checked.
_CHECKED_CELLS: Final = ((1, 2, 3), (3, 2, 2))
_CHECKED_ROIS: Final = (1, 5)


def export_network(model: DetSeg3D, network_format: NetworkFormat) -> ExportedFiles:
    """Export both stages of a network, and compare the result with PyTorch on random input.

    Stage 1 takes volumes of any shape that is a multiple of the total stride. Stage 2 takes any number of RoIs.

    Parameters
    ----------
    model : DetSeg3D
        On the CPU. It is not changed.
    network_format : NetworkFormat
        Not ``DETSEG3D``.

    Returns
    -------
    ExportedFiles

    Raises
    ------
    DetSeg3DError
        If the network has own modules, cannot be expressed in the format, or gives other outputs there; or if a package
        of the extra ``deploy`` is missing.
    """
    if type(model) is not DetSeg3D or model.plans.training.network is not None:
        raise DetSeg3DError(
            f"a custom network cannot be exported to {network_format}",
            value=model.plans.training.network or type(model).__name__,
            expected="the network that DetSeg3D builds from the plans",
            remedy="export it with --format detseg3d, and predict with --network and --backend torch",
        )
    if model.plans.stage2.context_attention:
        raise DetSeg3DError(
            f"a plan with context attention cannot be exported to {network_format}",
            value="stage2.context_attention",
            expected="false",
            remedy="export it with --format detseg3d, and predict with --backend torch",
        )
    try:
        from detseg3d.deploy.onnx_graph import stage1_graph, stage2_graph
    except ImportError as error:
        raise missing_package(str(error.name), error) from error
    networks = {"stage1": stage1_graph(model), "stage2": stage2_graph(model)}
    contents: dict[str, bytes] = {}
    for name, content in networks.items():
        if network_format is NetworkFormat.ONNX:
            contents[f"{name}.onnx"] = content
        else:
            contents[f"{name}.xml"], contents[f"{name}.bin"] = _to_openvino(content)
    files = ExportedFiles(network_format, contents)
    for name in networks:
        _compare(model, files, name)
    return files


def _random_inputs(model: DetSeg3D, stage: str) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield normal random inputs of a stage: two shapes of volumes, or two numbers of RoIs."""
    random = torch.Generator().manual_seed(0)
    plans = model.plans
    if stage == "stage1":
        for cells in _CHECKED_CELLS:
            shape = [cell * stride for cell, stride in zip(cells, model.total_stride, strict=True)]
            yield (torch.randn((1, plans.num_channels, *shape), generator=random),)
        return
    for count in _CHECKED_ROIS:
        shapes = {
            "crops": (count, plans.num_channels + 1, *plans.roi.size),
            "features": (count, plans.stage2.feature_channels, *model.feature_size),
        }
        yield tuple(torch.randn(shapes[name], generator=random) for name in StagePorts.of_stage2(plans).inputs)


def _run_with_torch(model: DetSeg3D, stage: str, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Return the outputs of a stage in the order of its ports."""
    if stage == "stage2":
        mask, score = model.segmenter(*inputs)
        return mask, score
    output = model.detector(inputs[0])
    tensors = [tensor for level in output.levels for tensor in level]
    if output.dense is not None:
        tensors.append(output.dense)
    features = model.roi_features(output.features)
    return tuple(tensors if features is None else [*tensors, features])


def _to_openvino(network: bytes) -> tuple[bytes, bytes]:
    """Return the structure and the weights, in float32, of an ONNX network as OpenVINO stores them."""
    try:
        import openvino
    except ImportError as error:
        raise missing_package("openvino", error) from error
    model = openvino.Core().read_model(model=network)
    # By default, names of layers count the layers of all networks that this process has read.
    for number, layer in enumerate(model.get_ordered_ops()):
        if layer.get_type_name() not in ("Parameter", "Result"):
            layer.set_friendly_name(f"{layer.get_type_name()}_{number}")
    with tempfile.TemporaryDirectory(prefix="detseg3d_export_") as folder:
        file = Path(folder) / "network.xml"
        openvino.save_model(model, file, compress_to_fp16=False)
        return file.read_bytes(), file.with_suffix(".bin").read_bytes()


def _compare(model: DetSeg3D, files: ExportedFiles, stage: str) -> None:
    """Raise an error if an exported stage gives other outputs than PyTorch, both in float32."""
    ports = StagePorts.of_stage1(model.plans) if stage == "stage1" else StagePorts.of_stage2(model.plans)
    runner = load_runner(files, stage, ports, Precision.FP32, torch.get_num_threads())
    for tensors in _random_inputs(model, stage):
        with torch.no_grad():
            wanted = dict(zip(ports.outputs, _run_with_torch(model, stage, tensors), strict=True))
        given = runner.run({port: tensor.numpy() for port, tensor in zip(ports.inputs, tensors, strict=True)})
        differences = {port: _difference(wanted[port].numpy(), given[port]) for port in ports.outputs}
        largest = max(differences, key=differences.__getitem__)
        if not differences[largest] <= MAX_DIFFERENCE:
            raise DetSeg3DError(
                f"the exported network of {stage} gives other outputs than PyTorch",
                value=f"{differences[largest]:.2g} of the largest value, in the output {largest} "
                f"for an input of shape {tuple(tensors[0].shape)}",
                expected=f"at most {MAX_DIFFERENCE:g}",
                remedy="export the model with --format detseg3d",
            )


def _difference(wanted: Array, given: Array) -> float:
    """Return the largest difference as a fraction of the largest value, or of 1 if it is larger."""
    if wanted.shape != given.shape:
        return float("inf")
    return float(np.abs(wanted - given).max() / max(1.0, float(np.abs(wanted).max())))
