"""Write both stages of a network as ONNX.

PyTorch's own exporter takes 25 to 60 CPU seconds for each fold, even for the smallest network, because it follows every
operation with symbolic shapes. It also records the folders of the computer. Both stages consist of few kinds of layers,
so this module writes their nodes directly, in less than a second. It follows the ``forward`` functions of
:mod:`detseg3d.models.networks`. :mod:`detseg3d.deploy.export` compares every network that it writes with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.deploy.networks import StagePorts
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.networks.blocks import Conv3d, ResidualBlock
from detseg3d.models.networks.group_norm import GroupNorm
from detseg3d.planning.plans import Plans

__all__ = ["stage1_graph", "stage2_graph"]

_OPSET: Final = 18
_IR_VERSION: Final = 8  # the oldest for this opset, for older versions of the backends

Shape = Sequence[int | str]


class _Graph:
    """An ONNX graph under construction. Values are named by strings.

    Parameters
    ----------
    name : str
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, outputs: Sequence[str] = (), **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        names = list(outputs) or [f"{operator}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, list(inputs), names, name=names[0], **attributes))
        return names[0]

    def name_output(self, name: str) -> str:
        """Give the output of the last node a name, and return the name."""
        self.nodes[-1].output[0] = name
        return name

    def constant(self, values: Array | Sequence[int]) -> str:
        """Add a constant: weights as float32, or whole numbers as int64."""
        array = np.asarray(values)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weights(self, tensor: torch.Tensor) -> str:
        """Add the values of a parameter."""
        return self.constant(tensor.detach().cpu().float().numpy())

    def layer(self, module: nn.Module, image: str) -> str:
        """Add the nodes of a module.

        Raises
        ------
        DetSeg3DError
            If it is a kind of module that the stages do not have.
        """
        write = _WRITERS.get(type(module))
        if write is not None:
            return write(self, module, image)
        if isinstance(module, nn.Sequential):
            for child in module:
                image = self.layer(child, image)
            return image
        raise DetSeg3DError(
            "a module of the network cannot be exported",
            value=type(module).__name__,
            remedy="export the model with --format detseg3d, and predict with --backend torch",
        )

    def enlarge(self, image: str, like: str) -> str:
        """Repeat the nearest cells of ``image`` to the shape of ``like``."""
        kept = self.add("Shape", image, start=0, end=2)
        size = self.add("Concat", kept, self.add("Shape", like, start=2, end=5), axis=0)
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", image, "", "", size, **modes)

    def space_to_depth(self, image: str, channels: int, stride: Sequence[int]) -> str:
        """Move each block of voxels into the channels; see :func:`detseg3d.models.networks.blocks.space_to_depth`."""
        if tuple(stride) == (1, 1, 1):
            return image
        # The lengths are divided in one axis after the other, so that no tensor has more than 6 axes.
        for axis, by in enumerate(stride):
            if by == 1:
                continue
            shape = [0, 0, 0, 0, 0]
            split = [*shape[: 2 + axis], -1, by, *shape[3 + axis :]]
            # In a reshape, 0 copies the length of the axis at the same place, which is right only before the split.
            tail = [self.add("Shape", image, start=2 + later, end=3 + later) for later in range(axis + 1, 3)]
            head = self.constant(split[: 4 + axis])
            size = self.add("Concat", head, *tail, axis=0) if tail else head
            image = self.add("Reshape", image, size)
            # (B, C, …, blocks, by, …) to (B, C, by, …, blocks, …), and then the channels are joined.
            order = [0, 1, 3 + axis, *range(2, 3 + axis), *range(4 + axis, 6)]
            image = self.add("Transpose", image, perm=order)
            lengths = [self.add("Shape", image, start=3 + other, end=4 + other) for other in range(3)]
            batch = self.add("Shape", image, start=0, end=1)
            channels *= by
            joined = self.add("Concat", batch, self.constant([channels]), *lengths, axis=0)
            image = self.add("Reshape", image, joined)
        return image

    def network(self, ports: StagePorts, shapes: dict[str, Shape]) -> bytes:
        """Return the finished network as a file.

        Parameters
        ----------
        ports : StagePorts
        shapes : dict of str to sequence of int or str
            Shape of each input and output; a name stands for a length that is not fixed.
        """
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes[name])) for name in names]
            for names in (ports.inputs, ports.outputs)
        )
        graph = helper.make_graph(self.nodes, self.name, inputs, outputs, self.constants)
        model = helper.make_model(
            graph, producer_name="DetSeg3D", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION
        )
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _write_convolution(graph: _Graph, module: Any, image: str) -> str:
    parameters = [graph.weights(module.weight)]
    if module.bias is not None:
        parameters.append(graph.weights(module.bias))
    return graph.add(
        "Conv",
        image,
        *parameters,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=[*module.padding, *module.padding],
        dilations=list(module.dilation),
        group=module.groups,
    )


def _write_norm(graph: _Graph, module: Any, image: str) -> str:
    """Add a group norm: each group is normalised as one channel, and weight and bias act on the channels."""
    flat = graph.add("Reshape", image, graph.constant([0, module.groups, -1]))
    one, zero = graph.constant(np.ones(module.groups)), graph.constant(np.zeros(module.groups))
    flat = graph.add("InstanceNormalization", flat, one, zero, epsilon=module.eps)
    normalized = graph.add("Reshape", flat, graph.add("Shape", image))
    weight, bias = (graph.weights(values.reshape(-1, 1, 1, 1)) for values in (module.weight, module.bias))
    return graph.add("Add", graph.add("Mul", normalized, weight), bias)


def _write_activation(graph: _Graph, module: Any, image: str) -> str:
    return graph.add("LeakyRelu", image, alpha=module.negative_slope)


def _write_block(graph: _Graph, module: Any, image: str) -> str:
    inner = graph.layer(module.norm, graph.layer(module.second, graph.layer(module.first, image)))
    return graph.layer(module.activation, graph.add("Add", inner, image))


def _write_linear(graph: _Graph, module: Any, vector: str) -> str:
    return graph.add("Gemm", vector, graph.weights(module.weight), graph.weights(module.bias), transB=1)


_WRITERS: Final[dict[type[nn.Module], Callable[[_Graph, Any, str], str]]] = {
    Conv3d: _write_convolution,
    GroupNorm: _write_norm,
    nn.LeakyReLU: _write_activation,
    nn.Linear: _write_linear,
    ResidualBlock: _write_block,
}


def stage1_graph(model: DetSeg3D) -> bytes:
    """Return Stage 1, with the projection of the features for Stage 2, as an ONNX file.

    The input ``image`` has shape ``(1, C, Z, Y, X)``, with any multiple of the total stride. The ports are those of
    :meth:`~detseg3d.deploy.networks.StagePorts.of_stage1`.

    Parameters
    ----------
    model : DetSeg3D

    Returns
    -------
    bytes

    Raises
    ------
    DetSeg3DError
        If the network has a module that cannot be exported.
    """
    graph, detector, plans = _Graph("stage1"), model.detector, model.plans
    plan = plans.stage1
    image = graph.space_to_depth("image", plans.num_channels, plan.strides[0])
    maps = []
    for stage in detector.stages:
        image = graph.layer(stage, image)
        maps.append(image)
    maps = maps[detector.finest :]
    features = merged = graph.layer(detector.laterals[-1], maps[-1])
    for index in range(len(maps) - 1, -1, -1):
        if index < len(maps) - 1:
            lateral = graph.layer(detector.laterals[index], maps[index])
            merged = graph.add("Add", lateral, graph.enlarge(merged, maps[index]))
        if index + detector.finest not in plan.head_stages:
            continue
        level = plan.head_stages.index(index + detector.finest)
        features = graph.layer(detector.smooth[level], merged)
        _write_head(graph, detector.heads[level], features, level)
        if detector.dense is not None and level == plan.dense_level:
            graph.layer(detector.dense, features)
            graph.name_output("dense")
    if model.project is not None:
        graph.layer(model.project, features)
        graph.name_output("features")
    ports = StagePorts.of_stage1(plans)
    return graph.network(ports, _stage1_shapes(plans, ports))


def _write_head(graph: _Graph, head: Any, features: str, level: int) -> None:
    """Add the head of a level, and name its outputs after the level."""
    tower = graph.layer(head.tower, features)
    graph.layer(head.heatmap, tower)
    graph.name_output(f"heatmap_{level}")
    regression = graph.layer(head.regression, tower)
    sizes = graph.constant([3 * head.boxes, 3 * head.boxes])
    graph.add("Split", regression, sizes, outputs=[f"log_size_{level}", f"offset_{level}"], axis=1)


def _stage1_shapes(plans: Plans, ports: StagePorts) -> dict[str, Shape]:
    boxes = 3 * (plans.num_classes if plans.stage1.boxes_per_class else 1)
    channels = {
        "heatmap": plans.num_classes,
        "log_size": boxes,
        "offset": boxes,
        "dense": plans.num_classes,
        "features": plans.stage2.feature_channels,
    }
    shapes: dict[str, Shape] = {"image": (1, plans.num_channels, "z", "y", "x")}
    for name in ports.outputs:
        kind = name.rstrip("0123456789").rstrip("_")
        shapes[name] = (1, channels[kind], *(f"{name}_{axis}" for axis in "zyx"))
    return shapes


def stage2_graph(model: DetSeg3D) -> bytes:
    """Return Stage 2 as an ONNX file, which takes any number of RoIs.

    The ports are those of :meth:`~detseg3d.deploy.networks.StagePorts.of_stage2`.

    Parameters
    ----------
    model : DetSeg3D
        Without context attention.

    Returns
    -------
    bytes

    Raises
    ------
    DetSeg3DError
        If the network has a module that cannot be exported.
    """
    graph, segmenter, plans = _Graph("stage2"), model.segmenter, model.plans
    image = "crops"
    skips: list[str] = []
    for index, block in enumerate(segmenter.encoder):
        if index > 0:
            stride = list(plans.stage2.strides[index - 1])
            image = graph.add("MaxPool", image, kernel_shape=stride, strides=stride)
        if index == 1 and plans.stage2.feature_channels:
            image = graph.add("Concat", image, "features", axis=1)
        image = graph.layer(block, image)
        skips.append(image)
    bottom = image
    for index in range(len(skips) - 2, -1, -1):
        larger = graph.enlarge(graph.layer(segmenter.reduce[index], image), skips[index])
        image = graph.layer(segmenter.decoder[index], graph.add("Add", skips[index], larger))
    graph.layer(segmenter.mask, image)
    mask = graph.name_output("mask")
    _write_score(graph, segmenter.score, bottom, image, mask)
    rois = "rois"
    size, features = plans.roi.size, model.feature_size
    shapes: dict[str, Shape] = {
        "crops": (rois, plans.num_channels + 1, *size),
        "features": (rois, plans.stage2.feature_channels, *features),
        "mask": (rois, plans.num_classes, *size),
        "score": (rois, plans.num_classes),
    }
    return graph.network(StagePorts.of_stage2(plans), shapes)


def _write_score(graph: _Graph, score: nn.Module, bottom: str, image: str, mask: str) -> None:
    """Add the score of the RoIs; see ``Segmenter._score``."""
    class_axis, last = graph.constant([1]), graph.constant([2])
    likely = graph.add("ReduceMax", graph.add("Sigmoid", mask), class_axis, keepdims=1)
    weight = graph.add("Reshape", likely, graph.constant([0, 1, -1]))
    total = graph.add("Add", graph.add("ReduceSum", weight, last, keepdims=1), graph.constant(np.ones(1)))
    weight = graph.add("Transpose", graph.add("Div", weight, total), perm=[0, 2, 1])
    voxels = graph.add("Reshape", image, graph.constant([0, 0, -1]))
    covered = graph.add("Squeeze", graph.add("MatMul", voxels, weight), last)
    cells = graph.add("Reshape", bottom, graph.constant([0, 0, -1]))
    mean, highest = (graph.add(kind, cells, last, keepdims=0) for kind in ("ReduceMean", "ReduceMax"))
    pooled = graph.add("Concat", mean, highest, covered, axis=1)
    graph.layer(score, pooled)
    graph.name_output("score")
