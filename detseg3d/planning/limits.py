"""The most that a plan may ask for: far above every sensible value, far below what hangs a machine.

A ``plans.json`` may come from a stranger, or from a slip of the keyboard. Each limit holds before anything is made of
the plan, so that channels of 10⁹ are an error with a name and not a machine without memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import AfterValidator, Field

if TYPE_CHECKING:
    from detseg3d.planning.plans import Plans, Stage1Plan, Stage2Plan

__all__ = [
    "MOST_PARAMETERS",
    "MOST_STAGES",
    "Axes",
    "AxisLength",
    "Channels",
    "Count",
    "FiniteFloat",
    "Kernel",
    "Length",
    "RoiLength",
    "Stride",
    "check_limits",
    "parameter_count",
]

MOST_PARAMETERS: Final = 500_000_000
"""Weights of both stages together: 2 GB. Planned networks have some millions."""
MOST_STAGES: Final = 12
MOST_STRIDE: Final = 256  # of all stages together: volumes are padded to a multiple of it
MOST_ROI_SAMPLES: Final = 2**28  # of a batch of RoIs; planned ones have some millions
MOST_ROI_VOXELS: Final = 512  # fine voxels along an axis of the smallest RoI


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("a kernel must be odd, so that it has a middle")
    return value


def _once_each(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(axes)) != len(axes):
        raise ValueError("an axis is named twice")
    return axes


Channels = Annotated[int, Field(ge=1, le=4096)]
Stride = Annotated[int, Field(ge=1, le=16)]
Kernel = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)]
RoiLength = Annotated[int, Field(ge=4, le=512)]
AxisLength = Annotated[int, Field(ge=1, le=100_000)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
# Millimetres. Spacings are a nanometre to a kilometre (core/geometry.py), an extent is several of them.
Length = Annotated[float, Field(ge=1e-7, le=1e9, allow_inf_nan=False)]
Axes = Annotated[tuple[Annotated[int, Field(ge=0, le=2)], ...], AfterValidator(_once_each)]  # 0 is z
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


def check_limits(plans: Plans) -> None:
    """Check what only several entries of a plan tell together.

    Raises
    ------
    ValueError
        If the network is too large or cannot be built, a batch of RoIs is too large, or mirrored copies would show
        what no training did.
    """
    total = [math.prod(stride[axis] for stride in plans.stage1.strides) for axis in range(3)]
    if max(total) > MOST_STRIDE:
        raise ValueError(f"the strides of Stage 1 multiply to {total}, at most {MOST_STRIDE} per axis is supported")
    size = plans.roi.size
    pooled = [math.prod(stride[axis] for stride in plans.stage2.strides) for axis in range(3)]
    if any(n < factor for n, factor in zip(size, pooled, strict=True)):
        raise ValueError(f"the strides of Stage 2 multiply to {pooled}, which leaves nothing of an RoI of {list(size)}")
    samples = math.prod(size) * plans.inference.roi_batch_size
    if samples > MOST_ROI_SAMPLES:
        raise ValueError(
            f"a batch of {plans.inference.roi_batch_size} RoIs of {list(size)} has {samples} samples, at most "
            f"{MOST_ROI_SAMPLES} are supported"
        )
    extents = [mm / spacing for mm, spacing in zip(plans.roi.minimum_extent, plans.fine_spacing, strict=True)]
    if max(extents) > MOST_ROI_VOXELS:
        raise ValueError(f"roi.minimum_extent is {max(extents):.4g} fine voxels, at most {MOST_ROI_VOXELS} may be")
    if plans.stage2.context_attention and plans.stage2.channels[-1] % 4:
        raise ValueError("context attention has 4 heads: the last of the channels of Stage 2 must be a multiple of 4")
    if not set(plans.inference.mirror_axes) <= set(plans.training.mirror_axes):
        raise ValueError(
            f"inference.mirror_axes {list(plans.inference.mirror_axes)} must be among training.mirror_axes "
            f"{list(plans.training.mirror_axes)}: a network that never saw flipped scans misreads them"
        )
    parameters = parameter_count(plans.stage1, plans.stage2, plans.num_channels, plans.num_classes)
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"the network would have {parameters} weights, at most {MOST_PARAMETERS} are supported")


def parameter_count(stage1: Stage1Plan, stage2: Stage2Plan, num_channels: int, num_classes: int) -> int:
    """Weights of the network of a plan, without building it.

    Parameters
    ----------
    stage1, stage2 : plans
    num_channels : int
        Image channels.
    num_classes : int
        Lesion classes, background not counted.
    """
    features = stage2.feature_channels
    projection = _convolution(stage1.fpn_channels, features) if features else 0
    return (
        _detector(stage1, num_channels, num_classes)
        + projection
        + _segmenter(stage2, num_channels, num_classes, stage1.channels[-1])
    )


def _detector(plan: Stage1Plan, num_channels: int, num_classes: int) -> int:
    inputs, total = num_channels * math.prod(plan.strides[0]), 0
    for channels, kernel, blocks in zip(plan.channels, plan.kernels, plan.blocks, strict=True):
        total += _normed(inputs, channels, kernel) + blocks * 2 * _normed(channels, channels, kernel)
        inputs = channels
    width = plan.fpn_channels
    total += sum(_convolution(channels, width) for channels in plan.channels[plan.head_stages[0] :])
    for stage in plan.head_stages:
        total += 2 * _normed(width, width, plan.kernels[stage])
        total += _convolution(width, num_classes) + _convolution(width, 6)
    return total


def _segmenter(plan: Stage2Plan, num_channels: int, num_classes: int, context_channels: int) -> int:
    channels, kernels = plan.channels, plan.kernels
    total = _normed(num_channels + 1, channels[0], kernels[0])
    for index in range(1, len(channels)):
        finer, width, kernel = channels[index - 1], channels[index], kernels[index]
        extra = plan.feature_channels if index == 1 else 0
        total += _normed(finer + extra, width, kernel) + 2 * _normed(width, width, kernel)
        total += _convolution(width, finer) + _normed(finer, finer, kernels[index - 1])
    width = channels[-1]
    if plan.context_attention:
        total += _convolution(context_channels, width) + 2 * width + 4 * _convolution(width, width)
    total += _convolution(channels[0], num_classes)
    return total + _convolution(2 * width + channels[0], width) + _convolution(width, num_classes)


def _normed(inputs: int, outputs: int, kernel: Sequence[int]) -> int:
    """Convolution without bias, and normalisation."""
    return inputs * outputs * math.prod(kernel) + 2 * outputs


def _convolution(inputs: int, outputs: int) -> int:
    """Convolution of kernel 1, or a linear layer, with bias."""
    return inputs * outputs + outputs
