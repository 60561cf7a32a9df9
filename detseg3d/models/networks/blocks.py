"""Building blocks of both stages: convolution, residual block, space to depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from detseg3d.models.networks.cpu_kernels import (
    ConvolutionShape,
    convolve,
    convolve_in_two_slabs,
    convolve_wide,
    has_wrong_weight_gradient,
    is_slow_in_float32,
    runs_in_half_precision,
    safe_request,
)
from detseg3d.models.networks.group_norm import GroupNorm

__all__ = ["Conv3d", "ConvNormAct", "ResidualBlock", "enlarge", "space_to_depth"]


def enlarge(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Repeat the nearest cells of ``(B, C, Z, Y, X)`` to ``size``; the dtype is kept, also under autocast."""
    with torch.autocast(image.device.type, enabled=False):
        return functional.interpolate(image, size=tuple(size))


class Conv3d(nn.Conv3d):
    """A convolution with zero padding that is also correct and fast on small maps of a single volume.

    On CPUs it avoids kernels that are wrong in half precision or slow in float32
    (:mod:`detseg3d.models.networks.cpu_kernels`). With convolutions in two slabs, a training step on one window takes
    0.8 of the time, and Stage 1 on a whole volume takes 0.65 of the time (benchmarks/convolution.py). The result is the
    same except for rounding.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Convolve ``(B, C, Z, Y, X)``."""
        shape = ConvolutionShape(
            _triple(self.kernel_size),
            _triple(self.stride),
            _triple(self.padding),
            _triple(self.dilation),
            self.groups,
        )
        if runs_in_half_precision(image):
            image, shape = safe_request(image, shape)
            if torch.is_grad_enabled() and has_wrong_weight_gradient(image, shape):
                return convolve_wide(image, self.weight, self.bias, shape)
        elif is_slow_in_float32(image, shape):
            return convolve_in_two_slabs(image, self.weight, self.bias, shape)
        return convolve(image, self.weight, self.bias, shape)


def _triple(values: Sequence[Any]) -> tuple[int, int, int]:
    z, y, x = map(int, values)
    return z, y, x


def _padding(kernel: Sequence[int]) -> tuple[int, int, int]:
    z, y, x = (size // 2 for size in kernel)
    return z, y, x


class ConvNormAct(nn.Sequential):
    """Convolution without bias, group normalisation, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int] = (3, 3, 3), stride: Sequence[int] = (1, 1, 1)
    ) -> None:
        super().__init__(
            Conv3d(inputs, outputs, _triple(kernel), _triple(stride), _padding(kernel), bias=False),
            GroupNorm(outputs),
            nn.LeakyReLU(0.01, inplace=True),
        )


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection. The second norm starts at weight 0, so the block starts as identity."""

    def __init__(self, channels: int, kernel: Sequence[int] = (3, 3, 3)) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, channels, kernel)
        self.second = Conv3d(channels, channels, _triple(kernel), padding=_padding(kernel), bias=False)
        self.norm = GroupNorm(channels)
        nn.init.zeros_(self.norm.weight)
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Transform ``(B, C, Z, Y, X)`` to the same shape."""
        output: torch.Tensor = self.activation(self.norm(self.second(self.first(image))) + image)
        return output


def space_to_depth(image: torch.Tensor, stride: Sequence[int]) -> torch.Tensor:
    """Move each ``stride`` block of voxels into the channels: ``(B, C, Z, Y, X)`` to ``(B, C·s, Z/sz, Y/sy, X/sx)``.

    The shape must be a multiple of the stride. No information is lost. With a stride of 2, the next convolution reaches
    twice as far and runs at an eighth of the positions.
    """
    sz, sy, sx = stride
    if (sz, sy, sx) == (1, 1, 1):
        return image
    batch, channels, z, y, x = image.shape
    blocks = image.reshape(batch, channels, z // sz, sz, y // sy, sy, x // sx, sx)
    blocks = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6)
    return blocks.reshape(batch, channels * sz * sy * sx, z // sz, y // sy, x // sx)
