"""Stage 1 in slabs, if the feature maps of a volume do not fit into the memory.

The network runs layer by layer. Each layer reads one slab of its input after another, and each slab is enlarged by the
cells that the convolutions reach. Group normalisation needs statistics of the whole map. A layer therefore goes through
all slabs for the statistics first, and then normalises each slab by the statistics of the whole map. The result is the
same as without slabs, except for rounding. It does not depend on the number of slabs.

The map of the first stage is the largest. If no head reads this map, only one slab of it exists at a time. Its layers
then run again for the statistics of each norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from detseg3d.models.networks.blocks import Conv3d, ConvNormAct, ResidualBlock, enlarge, space_to_depth
from detseg3d.models.networks.detector import Detector, DetectorOutput, LevelOutput
from detseg3d.models.networks.group_norm import GroupNorm, normalize_groups
from detseg3d.planning.slabs import slabs_of_stages
from detseg3d.system.memory import release_freed_memory

__all__ = ["detect_in_slabs", "runs_in_slabs"]

Layer = ConvNormAct | ResidualBlock


def _parts(block: nn.Module) -> tuple[Conv3d, GroupNorm, nn.Module]:
    """Return the convolution, the norm and the activation of a block."""
    assert isinstance(block, ConvNormAct)
    convolution, norm, activation = block
    assert isinstance(convolution, Conv3d) and isinstance(norm, GroupNorm)
    return convolution, norm, activation


@dataclass(frozen=True)
class Slab:
    """A range of cells along one axis of a map.

    Attributes
    ----------
    start, stop : int
        The cells that the slab computes. The slabs of a map share no cell.
    low, high : int
        The cells that the slab reads: its own cells and those within the reach of the convolutions.
    """

    start: int
    stop: int
    low: int
    high: int


def divide(length: int, count: int, reach: int = 0, unit: int = 1) -> list[Slab]:
    """Divide an axis into slabs of nearly equal thickness.

    Parameters
    ----------
    length : int
        Cells of the axis, a multiple of ``unit``.
    count : int
        Number of slabs. There are fewer if the axis is too short.
    reach : int
        Cells that a slab reads beyond each of its ends, within the axis.
    unit : int
        All ranges are multiples of this number of cells.

    Returns
    -------
    list of Slab

    Examples
    --------
    >>> divide(8, 2, reach=1, unit=2)
    [Slab(start=0, stop=4, low=0, high=6), Slab(start=4, stop=8, low=2, high=8)]
    """
    units = length // unit
    count = min(count, units)
    edges = [unit * round(units * index / count) for index in range(count + 1)]
    margin = unit * math.ceil(reach / unit)
    return [Slab(a, b, max(0, a - margin), min(length, b + margin)) for a, b in pairwise(edges)]


class _Statistics:
    """Mean and variance of each group of channels over a map, one slab after another."""

    def __init__(self, norm: GroupNorm) -> None:
        self._norm = norm
        self._voxels = 0
        self._mean = torch.zeros(norm.groups, dtype=torch.float64)
        self._square = torch.zeros(norm.groups, dtype=torch.float64)

    def add(self, part: torch.Tensor) -> None:
        """Count the cells of a part ``(1, C, z, y, x)`` of the input of the norm."""
        part = part.contiguous(memory_format=torch.channels_last_3d)
        channels, voxels = part.shape[1], part[0, 0].numel()
        # This function is the fastest source of means and variances in float32, also for half precision.
        ones = torch.ones(channels, device=part.device)
        _, mean, rstd = normalize_groups(part, ones, ones, self._norm.groups, self._norm.eps)
        mean, rstd = mean[0].double().cpu(), rstd[0].double().cpu()
        self._voxels += voxels
        self._mean += voxels * mean
        self._square += voxels * (rstd**-2 - self._norm.eps + mean**2)

    def result(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and variance for each channel, in float32."""
        mean = self._mean / self._voxels
        variance = (self._square / self._voxels - mean**2).clamp_min(0)
        width = len(self._norm.weight) // self._norm.groups
        return mean.float().repeat_interleave(width), variance.float().repeat_interleave(width)


class _NormsOfTheWhole:
    """Norms with the statistics of whole maps, as far as they are known."""

    def __init__(self) -> None:
        self._statistics: dict[GroupNorm, tuple[torch.Tensor, torch.Tensor]] = {}

    def __contains__(self, norm: GroupNorm) -> bool:
        return norm in self._statistics

    def learn(self, norm: GroupNorm, statistics: _Statistics) -> None:
        mean, variance = statistics.result()
        device = norm.weight.device
        self._statistics[norm] = mean.to(device), variance.to(device)

    def apply(self, norm: GroupNorm, part: torch.Tensor) -> torch.Tensor:
        """Normalise a part ``(1, C, z, y, x)`` of a map by the statistics of the whole map."""
        mean, variance = self._statistics[norm]
        with torch.autocast(part.device.type, enabled=False):
            return functional.batch_norm(part, mean, variance, norm.weight, norm.bias, eps=norm.eps)


def runs_in_slabs(detector: nn.Module) -> bool:
    """Return True if a detector consists of the layers of this package only.

    Custom networks may hold other layers. How far these reach, and what they compute over the whole map, is unknown.
    """
    if type(detector) is not Detector:
        return False
    layers = [layer for stage in detector.stages for layer in stage.children()]
    towers = [*detector.smooth, *(head.tower for head in detector.heads)]
    # A layer that is used twice is listed twice.
    modules = [module for _, module in detector.named_modules(remove_duplicate=False)]
    leaves = [module for module in modules if not list(module.children()) and not isinstance(module, nn.ModuleList)]
    return (
        all(type(layer) in (ConvNormAct, ResidualBlock) for layer in layers)
        and all(type(tower) is ConvNormAct for tower in towers)
        and all(type(leaf) in (Conv3d, GroupNorm, nn.LeakyReLU) for leaf in leaves)
        and all(leaf.dilation == (1, 1, 1) for leaf in leaves if isinstance(leaf, Conv3d))
        and len(set(leaves)) == len(leaves)
    )


@torch.no_grad()
def detect_in_slabs(detector: Detector, image: torch.Tensor, slabs: int) -> DetectorOutput:
    """Run Stage 1 on one volume in slabs along its longest axis.

    Parameters
    ----------
    detector : Detector
        One for which :func:`runs_in_slabs` is true.
    image : Tensor, shape ``(1, C, Z, Y, X)``
        On the detection grid. Each axis is a multiple of the total stride.
    slabs : int
        Number of slabs of the largest feature map. Smaller maps have fewer slabs, in proportion to their size.

    Returns
    -------
    DetectorOutput
        The same as ``detector(image)``, except for rounding.

    Raises
    ------
    ValueError
        If an axis is not a multiple of the total stride.
    """
    if any(length % stride for length, stride in zip(image.shape[2:], detector.total_stride, strict=True)):
        raise ValueError(f"the shape {tuple(image.shape[2:])} is not a multiple of {detector.total_stride}")
    counts = slabs_of_stages(detector.plan, slabs)
    axis = max(range(3), key=lambda axis: image.shape[2 + axis])
    run = _SlabRun(detector, counts, axis)
    return run.pyramid(run.backbone(image))


class _SlabRun:
    """One pass of a detector in slabs along one axis (0, 1, 2 for z, y, x)."""

    def __init__(self, detector: Detector, counts: Sequence[int], axis: int) -> None:
        self._detector = detector
        self._counts = counts
        self._axis = axis
        self._dim = 2 + axis
        self._norms = _NormsOfTheWhole()

    def backbone(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of the stages that the pyramid reads, finest first."""
        detector = self._detector
        plan, finest = detector.plan, detector.finest
        stages: list[list[Layer]] = [cast(list[Layer], list(stage.children())) for stage in detector.stages]
        first, stride = list(stages[0]), plan.strides[0][self._axis]
        if finest > 0:
            # No head reads the finest map, so its layers run together with the layer that makes it coarser.
            first.append(stages[1].pop(0))
            stride *= plan.strides[1][self._axis]
        else:
            stages[0] = first[1:]
            first = first[:1]

        def read(low: int, high: int) -> torch.Tensor:
            part = space_to_depth(self._part(image, low * stride, high * stride), plan.strides[0])
            return part.contiguous(memory_format=torch.channels_last_3d)

        map_ = self._run(first, read, image.shape[self._dim] // stride, self._counts[0])
        maps = []
        for index in range(min(finest, 1), len(stages)):
            for layer in stages[index]:
                map_ = self._layer(layer, map_, self._counts[index])
            if index >= finest:
                maps.append(map_)
        return maps

    def _layer(self, layer: Layer, map_: torch.Tensor, count: int) -> torch.Tensor:
        """Run one layer on a whole map."""
        if count == 1:
            output: torch.Tensor = layer(map_)
            return output
        stride = _parts(layer)[0].stride[self._axis] if isinstance(layer, ConvNormAct) else 1

        def read(low: int, high: int) -> torch.Tensor:
            return self._part(map_, low * stride, high * stride)

        return self._run([layer], read, map_.shape[self._dim] // stride, count)

    def _run(
        self, layers: Sequence[Layer], read: Callable[[int, int], torch.Tensor], length: int, count: int, unit: int = 1
    ) -> torch.Tensor:
        """Run layers in slabs, and hold only the output of the last layer as a whole.

        Parameters
        ----------
        layers : sequence of ConvNormAct or ResidualBlock
            A residual block must be the only layer or not the last one.
        read : callable
            From a range of output cells to the input of these cells.
        length : int
            Output cells of the axis.
        count : int
            Number of slabs.
        unit : int
            All ranges are multiples of this number of output cells.
        """
        slabs = divide(length, count, self._reach(layers), unit)
        last = layers[-1]
        last_norm, activation = (last.norm, last.activation) if isinstance(last, ResidualBlock) else _parts(last)[1:]
        output = torch.empty(0)
        while last_norm not in self._norms:
            # One more norm becomes known in each round. The last round keeps the input of the last norm.
            statistics: _Statistics | None = None
            for slab in slabs:
                part, norm = self._advance(layers, read(slab.low, slab.high))
                assert norm is not None
                part = self._own(part, slab)
                statistics = statistics or _Statistics(norm)
                statistics.add(part)
                if norm is last_norm:
                    output = self._whole(part, length) if slab is slabs[0] else output
                    self._part(output, slab.start, slab.stop).copy_(part)
                del part  # before the next slab needs the memory
            assert statistics is not None and norm is not None
            self._norms.learn(norm, statistics)
            release_freed_memory()
        for slab in slabs:
            part = self._part(output, slab.start, slab.stop)
            result = self._norms.apply(last_norm, part)
            if isinstance(last, ResidualBlock):
                result = result + read(slab.start, slab.stop)
            part.copy_(activation(result))
        release_freed_memory()
        return output

    def _advance(self, layers: Sequence[Layer], image: torch.Tensor) -> tuple[torch.Tensor, GroupNorm | None]:
        """Run layers up to the first norm with unknown statistics.

        Returns
        -------
        image : Tensor
            The input of that norm, or the output of the last layer.
        norm : GroupNorm or None
            ``None`` if all statistics are known.
        """
        for layer in layers:
            convolution, norm, activation = _parts(layer if isinstance(layer, ConvNormAct) else layer.first)
            skipped = image
            image = convolution(image)
            if norm not in self._norms:
                return image, norm
            image = activation(self._norms.apply(norm, image))
            if isinstance(layer, ResidualBlock):
                image = layer.second(image)
                if layer.norm not in self._norms:
                    return image, layer.norm
                image = layer.activation(self._norms.apply(layer.norm, image) + skipped)
        return image, None

    def _reach(self, layers: Sequence[Layer]) -> int:
        """Return how many output cells at an inner end of a slab are wrong, because the convolutions reach beyond."""
        reach = 0
        for layer in layers:
            convolutions = [_parts(layer if isinstance(layer, ConvNormAct) else layer.first)[0]]
            if isinstance(layer, ResidualBlock):
                convolutions.append(layer.second)
            for convolution in convolutions:
                reach += convolution.kernel_size[self._axis] // 2
                reach = math.ceil(reach / convolution.stride[self._axis])
        return reach

    def pyramid(self, maps: list[torch.Tensor]) -> DetectorOutput:
        """Merge the maps from coarse to fine, and run the heads of the plan's levels."""
        detector = self._detector
        plan = detector.plan
        levels: list[LevelOutput] = []
        features = merged = detector.laterals[-1](maps[-1])
        dense = None
        for index in range(len(maps) - 1, -1, -1):
            stage = index + detector.finest
            read = self._merging(index, maps, merged)
            count = self._counts[stage]
            length = maps[index].shape[self._dim]
            # A range of cells begins and ends where a cell of the next coarser stage does.
            unit = 1 if index == len(maps) - 1 else plan.strides[stage + 1][self._axis]
            if stage in plan.head_stages:
                level = plan.head_stages.index(stage)
                features = self._run([cast(ConvNormAct, detector.smooth[level])], read, length, count, unit)
                levels.insert(0, self._head(detector.heads[level], features, count))
                if detector.dense is not None and level == plan.dense_level:
                    tower, last = detector.dense
                    (dense,) = self._branch(tower, [last], features, count)
            if index > 0:
                merged = read(0, length)
        return DetectorOutput(levels, features, maps[-1], dense)

    def _merging(
        self, index: int, maps: Sequence[torch.Tensor], coarser: torch.Tensor
    ) -> Callable[[int, int], torch.Tensor]:
        """Return a function that merges a range of cells of a map with the merged map of the next coarser stage."""
        if index == len(maps) - 1:
            return lambda low, high: self._part(coarser, low, high)
        map_, lateral = maps[index], self._detector.laterals[index]
        stride = self._detector.plan.strides[index + self._detector.finest + 1][self._axis]

        def read(low: int, high: int) -> torch.Tensor:
            part = self._part(map_, low, high)
            return lateral(part) + enlarge(self._part(coarser, low // stride, high // stride), part.shape[2:])

        return read

    def _head(self, head: Any, features: torch.Tensor, count: int) -> LevelOutput:
        heatmap, regression = self._branch(head.tower, [head.heatmap, head.regression], features, count)
        return LevelOutput(heatmap, *regression.split(3 * head.boxes, dim=1))

    def _branch(
        self, tower: nn.Module, outputs: Sequence[nn.Module], features: torch.Tensor, count: int
    ) -> list[torch.Tensor]:
        """Run a tower and the convolutions behind it in slabs, without holding the map between them as a whole."""
        convolution, norm, activation = _parts(tower)
        slabs = divide(features.shape[self._dim], count, convolution.kernel_size[self._axis] // 2)
        statistics = _Statistics(norm)
        for slab in slabs:
            statistics.add(self._own(convolution(self._part(features, slab.low, slab.high)), slab))
        self._norms.learn(norm, statistics)
        parts: list[list[torch.Tensor]] = [[] for _ in outputs]
        for slab in slabs:
            map_ = self._own(convolution(self._part(features, slab.low, slab.high)), slab)
            map_ = activation(self._norms.apply(norm, map_))
            for output, collected in zip(outputs, parts, strict=True):
                collected.append(output(map_))
        return [torch.cat(collected, dim=self._dim) for collected in parts]

    def _part(self, map_: torch.Tensor, low: int, high: int) -> torch.Tensor:
        return map_.narrow(self._dim, low, high - low)

    def _own(self, part: torch.Tensor, slab: Slab) -> torch.Tensor:
        """Return the cells that a slab computes, from a map of the cells that it reads, at any resolution."""
        scale = part.shape[self._dim] // (slab.high - slab.low)
        return self._part(part, (slab.start - slab.low) * scale, (slab.stop - slab.low) * scale)

    def _whole(self, part: torch.Tensor, length: int) -> torch.Tensor:
        """Return an empty map like ``part`` with ``length`` cells along the axis."""
        shape = list(part.shape)
        shape[self._dim] = length
        return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=torch.channels_last_3d)
