"""Building blocks of both stages: convolution, group normalisation, residual block, space to depth."""

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

__all__ = ["Conv3d", "ConvNormAct", "GroupNorm", "ResidualBlock", "enlarge", "space_to_depth"]

# Statistics over few channels behave like instance normalisation but keep the relation of neighbouring channels.
CHANNELS_PER_GROUP = 4


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """Group normalisation with a backward pass that suits channels-last memory on a CPU.

    For bfloat16 channels-last input, the forward and backward pass of PyTorch take 1.1 to 2.3 times as long as this
    function (benchmarks/group_norm.py). Here the gradient needs two small matrix products over the channels.
    """

    @staticmethod
    def forward(
        ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
    ) -> torch.Tensor:
        batch, channels = image.shape[:2]
        voxels = image[0, 0].numel()
        # With weights in float32, the statistics are float32 as well.
        output, mean, rstd = torch.native_group_norm(image, weight, bias, batch, channels, voxels, groups, eps)
        ctx.save_for_backward(image, weight, mean, rstd)
        ctx.groups = groups
        return output

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        image, weight, mean, rstd = ctx.saved_tensors
        mean, rstd = mean.float(), rstd.float()
        batch, channels = image.shape[:2]
        groups, width = ctx.groups, channels // ctx.groups
        flat = image.permute(0, 2, 3, 4, 1).reshape(batch, -1, channels)
        flow = gradient.permute(0, 2, 3, 4, 1).reshape(batch, -1, channels)
        count = flat.shape[1] * width
        # Sums over the voxels of the gradient, and of the gradient times the normalised image.
        total = flow.sum(1, dtype=torch.float32).view(batch, groups, width)
        product = (flow * flat).sum(1, dtype=torch.float32).view(batch, groups, width)
        normalized = (product - mean[..., None] * total) * rstd[..., None]
        scale = weight.float().view(1, groups, width)
        mean_gradient = (scale * total).sum(2) / count
        mean_projection = (scale * normalized).sum(2) / count
        by_flow = (scale * rstd[..., None]).reshape(batch, channels)
        by_image = (-rstd * rstd * mean_projection)[..., None].expand(batch, groups, width).reshape(batch, channels)
        constant = (rstd * rstd * mean * mean_projection - rstd * mean_gradient)[..., None]
        constant = constant.expand(batch, groups, width).reshape(batch, 1, channels)
        result = torch.baddbmm(constant.to(flow.dtype), flat, torch.diag_embed(by_image).to(flow.dtype))
        result.baddbmm_(flow, torch.diag_embed(by_flow).to(flow.dtype))
        result = result.view(batch, *image.shape[2:], channels).permute(0, 4, 1, 2, 3)
        return result, normalized.sum(0).flatten(), total.sum(0).flatten(), None, None


class GroupNorm(nn.Module):
    """Group normalisation with 4 channels per group. Statistics do not depend on the batch (Wu & He 2018)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = max(1, channels // CHANNELS_PER_GROUP) if channels % CHANNELS_PER_GROUP == 0 else 1
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Normalise ``(B, C, Z, Y, X)``; the dtype is kept."""
        channels_last = image.is_contiguous(memory_format=torch.channels_last_3d)
        if image.device.type == "cpu" and channels_last and torch.is_grad_enabled():
            output: torch.Tensor = _ChannelsLastGroupNorm.apply(image, self.weight, self.bias, self.groups, self.eps)
            return output
        weight, bias = self.weight.to(image.dtype), self.bias.to(image.dtype)
        # On CUDA, autocast would normalise in float32 and keep a copy of twice the size for the backward pass. The
        # kernel computes its statistics in float32 in any case.
        with torch.autocast(image.device.type, enabled=False):
            return functional.group_norm(image, self.groups, weight, bias, self.eps)


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
