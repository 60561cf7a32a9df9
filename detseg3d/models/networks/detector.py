"""Stage 1: the detector, which sees the whole volume. It has a residual backbone, a feature pyramid and heads.

Each level of the pyramid (FPN, Lin et al. 2017) predicts a centre heatmap for each class, the logarithm of the box
size, and the offset of the box centre from the cell's centre, both in cells (CenterNet, Zhou et al. 2019). On one
level, a dense map gives the fraction of each cell that lesions fill (Retina U-Net, Jaeger et al. 2020).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from detseg3d.models.networks.blocks import Conv3d, ConvNormAct, ResidualBlock, enlarge, space_to_depth
from detseg3d.planning.sections import Stage1Plan

__all__ = ["Detector", "DetectorOutput", "LevelOutput"]

# Few cells hold a centre. Without this prior, the first steps would be spent on unlearning a probability of 0.5.
_PRIOR = 0.01


class LevelOutput(NamedTuple):
    """Output of one level on its cells ``(z, y, x)``."""

    heatmap: torch.Tensor  # logits (B, K, z, y, x)
    # (B, 3, z, y, x) with one box for all classes, or (B, 3·K, z, y, x) with one box per class; z y x of a box
    # together.
    log_size: torch.Tensor  # log of the box size in cells
    offset: torch.Tensor  # centre minus middle of the cell, in cells


class DetectorOutput(NamedTuple):
    """Output of the detector.

    Attributes
    ----------
    levels : list of LevelOutput
        Finest level first.
    features : Tensor, shape ``(B, F, z, y, x)``
        Finest feature map, from which Stage 2 crops.
    context : Tensor, shape ``(B, F', z', y', x')``, or None
        Coarsest feature map.
    dense : Tensor, shape ``(B, K, z, y, x)``, or None
        Logits of the dense map on the cells of its level; ``None`` if the plan has no dense map.
    """

    levels: list[LevelOutput]
    features: torch.Tensor
    context: torch.Tensor | None = None
    dense: torch.Tensor | None = None


class _Head(nn.Module):
    """The head of one level. Levels share no weights, because their statistics and scales differ."""

    def __init__(self, channels: int, classes: int, boxes: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.boxes = boxes
        self.tower = ConvNormAct(channels, channels, kernel)
        self.heatmap = Conv3d(channels, classes, 1)
        self.regression = Conv3d(channels, 6 * boxes, 1)
        for convolution in (self.heatmap, self.regression):
            # Meta tensors have no values. Drawing them would import a compiler that needs temporary files.
            if not convolution.weight.is_meta:
                nn.init.normal_(convolution.weight, std=0.01)
        nn.init.constant_(self.heatmap.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        nn.init.zeros_(self.regression.bias)  # type: ignore[arg-type]

    def forward(self, features: torch.Tensor) -> LevelOutput:
        features = self.tower(features)
        regression = self.regression(features)
        return LevelOutput(self.heatmap(features), *regression.split(3 * self.boxes, dim=1))


class _DenseMap(nn.Sequential):
    """The layers of the dense map: the fraction of each cell that lesions of a class fill, as logits."""

    def __init__(self, channels: int, width: int, classes: int, kernel: tuple[int, int, int]) -> None:
        output = Conv3d(width, classes, 1)
        nn.init.constant_(output.bias, -math.log((1 - _PRIOR) / _PRIOR))  # type: ignore[arg-type]
        super().__init__(ConvNormAct(channels, width, kernel), output)


class Detector(nn.Module):
    """The Stage 1 network of a plan.

    Parameters
    ----------
    plan : Stage1Plan
    num_channels : int
        Image channels.
    num_classes : int
        Lesion classes, background not counted.
    """

    def __init__(self, plan: Stage1Plan, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.plan = plan
        stages = []
        inputs = num_channels
        for index, (channels, stride, kernel, blocks) in enumerate(
            zip(plan.channels, plan.strides, plan.kernels, plan.blocks, strict=True)
        ):
            layers: list[nn.Module] = []
            if index == 0:
                layers.append(ConvNormAct(inputs * math.prod(stride), channels, kernel))
            else:
                layers.append(ConvNormAct(inputs, channels, kernel, stride))
            layers += [ResidualBlock(channels, kernel) for _ in range(blocks)]
            stages.append(nn.Sequential(*layers))
            inputs = channels
        self.stages = nn.ModuleList(stages)
        self.finest = plan.head_stages[0]
        self.laterals = nn.ModuleList(Conv3d(c, plan.fpn_channels, 1) for c in plan.channels[self.finest :])
        self.smooth = nn.ModuleList(
            ConvNormAct(plan.fpn_channels, plan.fpn_channels, plan.kernels[stage]) for stage in plan.head_stages
        )
        self.heads = nn.ModuleList(
            _Head(plan.fpn_channels, num_classes, num_classes if plan.boxes_per_class else 1, plan.kernels[stage])
            for stage in plan.head_stages
        )
        kernel = plan.kernels[plan.head_stages[plan.dense_level]]
        self.dense = (
            _DenseMap(plan.fpn_channels, plan.dense_channels, num_classes, kernel) if plan.dense_channels else None
        )

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """Detection voxels ``(z, y, x)`` per cell of the coarsest stage. Volumes are padded to a multiple of it."""
        return self.plan.cumulative_stride(len(self.plan.strides) - 1)

    def forward(self, image: torch.Tensor) -> DetectorOutput:
        """Detect on ``(B, C, Z, Y, X)``.

        Returns
        -------
        DetectorOutput

        Raises
        ------
        ValueError
            If an axis is not a multiple of :attr:`total_stride`. Cells would then not lie where their boxes lie.
        """
        if any(length % stride for length, stride in zip(image.shape[2:], self.total_stride, strict=True)):
            raise ValueError(f"the shape {tuple(image.shape[2:])} is not a multiple of the stride {self.total_stride}")
        image = space_to_depth(image, self.plan.strides[0])
        if image.device.type == "cpu" or image.dtype != torch.float32:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        maps = []
        for index, stage in enumerate(self.stages):
            image = stage(image)
            # Maps that the pyramid does not read are not kept, because maps of full resolution are large.
            if index >= self.finest:
                maps.append(image)
        return self._pyramid(maps)

    def _pyramid(self, maps: list[torch.Tensor]) -> DetectorOutput:
        """Merge the maps from coarse to fine, and run the heads of the plan's levels."""
        levels: list[LevelOutput] = []
        features = merged = self.laterals[-1](maps[-1])
        dense = None
        for index in range(len(maps) - 1, -1, -1):
            if index < len(maps) - 1:
                merged = self.laterals[index](maps[index]) + enlarge(merged, maps[index].shape[2:])
            stage = index + self.finest
            if stage in self.plan.head_stages:
                level = self.plan.head_stages.index(stage)
                features = self.smooth[level](merged)
                levels.insert(0, self.heads[level](features))
                if self.dense is not None and level == self.plan.dense_level:
                    dense = self.dense(features)
        return DetectorOutput(levels, features, maps[-1], dense)
