"""Number of weights of a planned network, counted without building it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detseg3d.planning.sections import Stage1Plan, Stage2Plan

__all__ = ["parameter_count"]


def parameter_count(stage1: Stage1Plan, stage2: Stage2Plan, num_channels: int, num_classes: int) -> int:
    """Count the weights of the network of a plan without building it.

    Parameters
    ----------
    stage1, stage2 : plans
    num_channels : int
        Image channels.
    num_classes : int
        Lesion classes, background not counted.

    Returns
    -------
    int
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
    box_values = 6 * (num_classes if plan.boxes_per_class else 1)
    total += sum(_convolution(channels, width) for channels in plan.channels[plan.head_stages[0] :])
    for stage in plan.head_stages:
        total += 2 * _normed(width, width, plan.kernels[stage])
        total += _convolution(width, num_classes) + _convolution(width, box_values)
    if plan.dense_channels:
        kernel = plan.kernels[plan.head_stages[plan.dense_level]]
        total += _normed(width, plan.dense_channels, kernel) + _convolution(plan.dense_channels, num_classes)
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
    """Count the weights of a convolution without bias and of its normalisation."""
    return inputs * outputs * math.prod(kernel) + 2 * outputs


def _convolution(inputs: int, outputs: int) -> int:
    """Count the weights of a linear layer, or of a convolution with kernel 1, with bias."""
    return inputs * outputs + outputs
