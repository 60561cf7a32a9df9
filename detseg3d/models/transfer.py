"""Copy initial weights from a network that was planned for other data, between modules of the same function.

The index of a module means little between plans: in a plan with a fine stage, each later stage has an index one higher.
So stages of the backbone are matched by their cumulative stride, heads by the size of their cells in mm, scales of
Stage 2 by their stride, and outputs of a class by the name of the class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import FoldFolder
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.weights import read_weights
from detseg3d.planning.plans import Plans, load_plans

__all__ = ["ModuleTransfer", "Transfer", "transfer_weights"]

# Stages are not matched if their strides differ by more than a factor of 4 over all axes.
_MAX_DISTANCE = 2.0

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class ModuleTransfer:
    """Weights that one module of the network received.

    Attributes
    ----------
    name : str
        Description of the module, such as "backbone, stride 2×2×2".
    source : str
        Description of the module of the other network that gave the weights; empty if no module fits.
    loaded, total : int
        Number of tensors that were copied, and of all tensors of the module.
    adapted : int
        Number of copied tensors that were adapted to other channels, classes or kernels.
    """

    name: str
    source: str
    loaded: int
    total: int
    adapted: int = 0

    def __str__(self) -> str:
        if not self.loaded:
            return f"{self.name}: not initialised from the pretrained weights"
        adapted = f", {self.adapted} of them adapted" if self.adapted else ""
        return f"{self.name}: {self.loaded} of {self.total} tensors from {self.source}{adapted}"


@dataclass(frozen=True)
class Transfer:
    """Weights that a network received from another network, module by module."""

    backbone: tuple[ModuleTransfer, ...]
    others: tuple[ModuleTransfer, ...]

    @property
    def modules(self) -> tuple[ModuleTransfer, ...]:
        """All modules, the backbone first."""
        return self.backbone + self.others


@dataclass(frozen=True)
class _Match:
    """A module of the network and the module of the source with the same function, if there is one."""

    name: str
    prefix: str
    source_prefix: str | None
    source_name: str = ""


@dataclass(frozen=True)
class _Pair:
    """Plans of the network and of the source of its weights."""

    own: Plans
    source: Plans


def transfer_weights(model: DetSeg3D, path: Path) -> Transfer:
    """Load the weights of another plan into ``model``, as far as they fit.

    Tensors are adapted if possible:

    - Image channels: each new channel of the first kernel is the mean of the old channels, times their number and
      divided by the new number. The same image in every channel then gives the same activations as before.
    - Classes: an output comes from the class of the same name. Without one, it comes from the class in the same place
      if both networks have as many classes, otherwise from the mean of all classes.
    - Kernels: a kernel that spans one voxel along an axis becomes the centre of a wider kernel. A wider kernel is
      summed along an axis along which the new kernel spans one voxel.

    Parameters
    ----------
    model : DetSeg3D
        Receives the weights, in place.
    path : Path
        ``model_*.safetensors``. The ``plans.json`` of its training must be in the same folder.

    Returns
    -------
    Transfer

    Raises
    ------
    DetSeg3DError
        If the weights or their plans are missing or damaged, or no module of the backbone fits. Then the model is not
        changed.
    """
    tensors = read_weights(path)
    plans_file = FoldFolder(path.parent).plans
    if not plans_file.is_file():
        raise DetSeg3DError(
            "the plans of the pretrained weights do not exist",
            file=plans_file,
            remedy="keep the weights in the folder of their training, with its plans.json",
        )
    pair = _Pair(model.plans, load_plans(plans_file))
    own = model.state_dict()
    taken: dict[str, torch.Tensor] = {}
    backbone = tuple(_take(match, own, tensors, pair, taken) for match in _backbone(pair))
    if not any(module.loaded for module in backbone):
        strides = [_times(pair.source.stage1.cumulative_stride(i)) for i in range(len(pair.source.stage1.strides))]
        raise DetSeg3DError(
            "no stage of the backbone fits the pretrained weights",
            file=path,
            value=f"stages of {pair.source.stage1.channels} channels at strides {', '.join(strides)}",
            expected=f"stages such as {pair.own.stage1.channels} channels",
            remedy="use weights of a plan with as many channels per stage, or train from scratch",
        )
    others = [*_pyramid(pair), *_heads(pair), *_stage2(pair)]
    known = tuple(match.prefix for match in [*_backbone(pair), *others])
    rest = [name for name in own if not name.startswith(known)]
    others += [_Match(name, name, name, name) for name in rest]  # modules of a custom network
    modules = tuple(_take(match, own, tensors, pair, taken) for match in others)
    model.load_state_dict(taken, strict=False)
    return Transfer(backbone, modules)


def _backbone(pair: _Pair) -> list[_Match]:
    strides = [pair.own.stage1.cumulative_stride(i) for i in range(len(pair.own.stage1.strides))]
    others = [pair.source.stage1.cumulative_stride(i) for i in range(len(pair.source.stage1.strides))]
    matches = _one_to_one(strides, others)
    return [
        _Match(
            f"backbone, stride {_times(stride)}",
            f"detector.stages.{stage}.",
            None if matches[stage] is None else f"detector.stages.{matches[stage]}.",
            "" if matches[stage] is None else f"stride {_times(others[matches[stage] or 0])}",
        )
        for stage, stride in enumerate(strides)
    ]


def _pyramid(pair: _Pair) -> list[_Match]:
    own, source = pair.own.stage1, pair.source.stage1
    strides = [own.cumulative_stride(i) for i in range(own.head_stages[0], len(own.strides))]
    others = [source.cumulative_stride(i) for i in range(source.head_stages[0], len(source.strides))]
    return [
        _Match(
            f"pyramid, stride {_times(strides[lateral])}",
            f"detector.laterals.{lateral}.",
            None if match is None else f"detector.laterals.{match}.",
            "" if match is None else f"stride {_times(others[match])}",
        )
        for lateral, match in enumerate(_one_to_one(strides, others))
    ]


def _heads(pair: _Pair) -> list[_Match]:
    """Match the head of each level with the head of the nearest cell size. One head may serve several levels."""
    cells, others = _cells_mm(pair.own), _cells_mm(pair.source)
    matches = []
    for level, cell in enumerate(cells):
        distances = [_distance(cell, other) for other in others]
        nearest = distances.index(min(distances))
        for part, name in (("smooth", "convolution before the head"), ("heads", "head")):
            matches.append(
                _Match(
                    f"{name}, cells of {_times(cell)} mm",
                    f"detector.{part}.{level}.",
                    f"detector.{part}.{nearest}.",
                    f"cells of {_times(others[nearest])} mm",
                )
            )
    if pair.own.stage1.dense_channels:
        matches.append(_Match("dense map", "detector.dense.", "detector.dense.", "the same"))
    return matches


def _stage2(pair: _Pair) -> list[_Match]:
    strides = _scales(pair.own.stage2.strides)
    others = _scales(pair.source.stage2.strides)
    scales = _one_to_one(strides, others)
    matches = [_Match("features for Stage 2", "project.", "project.", "the same")]
    for part in ("encoder", "reduce", "decoder"):
        for scale in range(len(strides) if part == "encoder" else len(strides) - 1):
            match = scales[scale]
            # From a scale to the next coarser one: both ends must do the same work.
            if part == "reduce" and (match is None or scales[scale + 1] != match + 1):
                match = None
            if part != "encoder" and match is not None and match >= len(others) - 1:
                match = None
            matches.append(
                _Match(
                    f"Stage 2 {part}, stride {_times(strides[scale])}",
                    f"segmenter.{part}.{scale}.",
                    None if match is None else f"segmenter.{part}.{match}.",
                    "" if match is None else f"stride {_times(others[match])}",
                )
            )
    for part in ("attention", "mask", "score"):
        if part != "attention" or pair.own.stage2.context_attention:
            matches.append(_Match(f"Stage 2 {part}", f"segmenter.{part}.", f"segmenter.{part}.", "the same"))
    return matches


def _take(match: _Match, own: Tensors, tensors: Tensors, pair: _Pair, taken: dict[str, torch.Tensor]) -> ModuleTransfer:
    """Put the fitting tensors of a module into ``taken``."""
    names = [name for name in own if name.startswith(match.prefix)]
    loaded = adapted = 0
    if match.source_prefix is not None:
        for name in names:
            source_name = match.source_prefix + name.removeprefix(match.prefix)
            stored = tensors.get(source_name)
            tensor = None if stored is None else _adapt(name, source_name, stored, own[name], pair)
            if stored is not None and tensor is not None:
                taken[name] = tensor
                loaded += 1
                adapted += tensor.shape != stored.shape or not torch.equal(tensor, stored)
    return ModuleTransfer(match.name, match.source_name if loaded else "", loaded, len(names), adapted)


def _adapt(name: str, source_name: str, tensor: torch.Tensor, wanted: torch.Tensor, pair: _Pair) -> torch.Tensor | None:
    """Adapt a tensor of the source to the shape of the network's; return ``None`` if that is not possible."""
    if tensor.dtype != wanted.dtype or tensor.dim() != wanted.dim():
        return None
    stem, segmenter_stem = "detector.stages.0.0.0.weight", "segmenter.encoder.0.0.weight"
    if (name == stem) != (source_name == stem) or (name == segmenter_stem) != (source_name == segmenter_stem):
        return None  # one kernel sees the image, the other sees features
    if name == stem:
        if pair.own.stage1.strides[0] != pair.source.stage1.strides[0]:
            return None
        voxels = math.prod(pair.own.stage1.strides[0])
        # The channel is the slower index, the place in the block the faster one; see space_to_depth.
        tensor = _other_channels(tensor, pair, voxels)
    elif name == segmenter_stem:
        image, box = tensor[:, : pair.source.num_channels], tensor[:, pair.source.num_channels :]
        tensor = torch.cat([_other_channels(image, pair, 1), box], dim=1)
    elif _is_of_classes(name):
        tensor = _rows_of_classes(tensor, pair)
    elif ".regression." in name and (pair.own.stage1.boxes_per_class or pair.source.stage1.boxes_per_class):
        tensor = _boxes_of_classes(tensor, wanted, pair)
    if tensor.dim() == 5:
        for axis in (2, 3, 4):
            tensor = _other_length(tensor, axis, wanted.shape[axis])
    return tensor.contiguous() if tensor.shape == wanted.shape else None


def _other_channels(kernel: torch.Tensor, pair: _Pair, voxels: int) -> torch.Tensor:
    """Adapt a kernel ``(F, C·voxels, …)`` to another number of image channels."""
    old, new = pair.source.num_channels, pair.own.num_channels
    if old == new or kernel.shape[1] != old * voxels:
        return kernel
    by_channel = kernel.reshape(len(kernel), old, voxels, *kernel.shape[2:])
    mean = by_channel.mean(dim=1, keepdim=True) * (old / new)
    return mean.expand(-1, new, *[-1] * (mean.dim() - 2)).reshape(len(kernel), new * voxels, *kernel.shape[2:])


def _is_of_classes(name: str) -> bool:
    """Return True if the first axis of a tensor counts classes."""
    head = name.startswith("detector.heads.") and ".heatmap." in name
    return head or name.startswith(("detector.dense.1.", "segmenter.mask.", "segmenter.score.2."))


def _rows_of_classes(tensor: torch.Tensor, pair: _Pair) -> torch.Tensor:
    """Return the outputs of the network's classes, made from the outputs of the source."""
    own, source = pair.own.class_names, pair.source.class_names
    if len(tensor) != len(source):
        return tensor
    rows = []
    for place, name in enumerate(own):
        if name in source:
            rows.append(tensor[source.index(name)])
        else:
            rows.append(tensor[place] if len(own) == len(source) else tensor.mean(dim=0))
    return torch.stack(rows)


def _boxes_of_classes(tensor: torch.Tensor, wanted: torch.Tensor, pair: _Pair) -> torch.Tensor:
    """Convert sizes and offsets between one box for all classes and one box for each class."""
    boxes = tensor.unflatten(0, (2, -1, 3)).transpose(0, 1)  # (boxes, 2, 3, …)
    if len(wanted) == 6:
        boxes = boxes.mean(dim=0, keepdim=True)
    elif boxes.shape[0] == 1:
        boxes = boxes.expand(pair.own.num_classes, *boxes.shape[1:])
    else:
        boxes = _rows_of_classes(boxes, pair)
    return boxes.transpose(0, 1).flatten(0, 2)


def _other_length(kernel: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Change the length of a kernel along an axis from 1 to more voxels (in the centre), or from more (summed) to 1."""
    old_length = kernel.shape[axis]
    if old_length == 1 and length > 1 and length % 2:
        wide = kernel.new_zeros([length if index == axis else size for index, size in enumerate(kernel.shape)])
        wide.narrow(axis, length // 2, 1).copy_(kernel)
        return wide
    return kernel.sum(dim=axis, keepdim=True) if length == 1 and old_length > 1 else kernel


def _one_to_one(wanted: Sequence[Sequence[float]], available: Sequence[Sequence[float]]) -> list[int | None]:
    """Find the nearest available stride for each wanted stride. Each is used once; equal strides are matched first."""
    distances = sorted(
        (_distance(first, second), i, j) for i, first in enumerate(wanted) for j, second in enumerate(available)
    )
    matches: list[int | None] = [None] * len(wanted)
    for distance, i, j in distances:
        if distance <= _MAX_DISTANCE and matches[i] is None and j not in matches:
            matches[i] = j
    return matches


def _distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the distance of two sizes: the logarithms to base 2 of their ratios, summed over the axes."""
    return sum(abs(math.log2(a / b)) for a, b in zip(first, second, strict=True))


def _cells_mm(plans: Plans) -> list[tuple[float, ...]]:
    return [
        tuple(size * spacing for size, spacing in zip(cell, plans.fine_spacing, strict=True))
        for cell in plans.cell_sizes()
    ]


def _scales(strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the cumulative stride of each scale of Stage 2, the finest first."""
    scales: list[tuple[int, ...]] = [(1, 1, 1)]
    for stride in strides:
        scales.append(tuple(a * b for a, b in zip(scales[-1], stride, strict=True)))
    return scales


def _times(values: Sequence[float]) -> str:
    return "×".join(f"{value:.3g}" for value in values)
