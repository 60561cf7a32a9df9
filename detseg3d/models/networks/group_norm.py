"""Group normalisation that is fast for channels-last memory and half precision on CPUs.

The result is that of :func:`torch.nn.functional.group_norm` except for rounding. The kernel of PyTorch is slow in two
cases of bfloat16 (benchmarks/group_norm.py):

- It computes 16 channels at once. If the number of channels is not a multiple of 16, it computes the rest one by one.
  Here, neighbouring voxels count as further channels, so that rows have 64 numbers or more; 0.2 to 0.4 of the time.
- It is slow for maps of less than 1024 voxels. Here, such a map is normalised in float32; about a quarter of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

__all__ = ["GroupNorm", "Normalized", "normalize_groups"]

# Statistics over few channels behave like instance normalisation but keep the relation of neighbouring channels.
CHANNELS_PER_GROUP = 4

# Properties of the kernel of PyTorch 2.13: channels of one instruction, and the size from which maps are fast.
_LANES = 16
_SMALL_MAP = 1024
# Numbers in a row of voxels that are joined.
_ROW = 64


class Normalized(NamedTuple):
    """A normalised map and its statistics.

    Attributes
    ----------
    output : Tensor, shape ``(B, C, Z, Y, X)``
        Channels-last, dtype of the input.
    mean, rstd : Tensor of float32, shape ``(B, G)``
        Mean, and reciprocal of the standard deviation, of each group of channels.
    """

    output: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor


def normalize_groups(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> Normalized:
    """Normalise each group of channels of a channels-last map on a CPU.

    Parameters
    ----------
    image : Tensor of float32 or half precision, shape ``(B, C, Z, Y, X)``
        In channels-last memory.
    weight, bias : Tensor of float32, shape ``(C,)``
    groups : int
        Divides C.
    eps : float
        Added to the variance.

    Returns
    -------
    Normalized

    Examples
    --------
    >>> image = torch.randn(1, 8, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    >>> expected = functional.group_norm(image, 2, torch.ones(8), torch.zeros(8), 1e-5)
    >>> output = normalize_groups(image, torch.ones(8), torch.zeros(8), 2, 1e-5).output
    >>> torch.allclose(output, expected, atol=1e-5)
    True
    """
    channels, voxels = image.shape[1], image[0, 0].numel()
    if image.dtype == torch.bfloat16 and voxels < _SMALL_MAP:
        output, mean, rstd = normalize_groups(image.float(), weight, bias, groups, eps)
        return Normalized(output.to(image.dtype), mean, rstd)
    if image.dtype == torch.bfloat16 and channels % _LANES:
        return _normalize_in_rows(image, weight, bias, groups, eps)
    # With weights in float32, the statistics are float32 as well.
    return Normalized(*torch.native_group_norm(image, weight, bias, len(image), channels, voxels, groups, eps))


def _normalize_in_rows(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
) -> Normalized:
    """Normalise by statistics of the columns of a matrix, in which a row holds all channels of some voxels."""
    batch, channels = image.shape[:2]
    joined = _voxels_in_a_row(image[0, 0].numel(), channels)
    rows = image.permute(0, 2, 3, 4, 1).reshape(batch, -1, joined * channels)
    weights, biases = weight.float().repeat(joined), bias.float().repeat(joined)
    outputs, means, variances = [], [], []
    for volume in rows:
        mean_of, variance_of = (values.view(joined, groups, -1) for values in _moments(volume))
        mean = mean_of.mean((0, 2))
        # The variance within the columns, and the variance between their means.
        variance = variance_of.mean((0, 2)) + (mean_of - mean[:, None]).square().mean((0, 2))
        of_columns = [values.repeat_interleave(channels // groups).repeat(joined) for values in (mean, variance)]
        outputs.append(
            functional.batch_norm(volume, of_columns[0], of_columns[1], weights, biases, training=False, eps=eps)
        )
        means.append(mean)
        variances.append(variance)
    output = outputs[0][None] if batch == 1 else torch.stack(outputs)
    output = output.view(batch, *image.shape[2:], channels).permute(0, 4, 1, 2, 3)
    return Normalized(output, torch.stack(means), (torch.stack(variances) + eps).rsqrt())


def _moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of each column of ``(V, C)`` in float32."""
    # The statistics have the type of the running statistics. With a momentum of 0, these do not change.
    running = torch.zeros(rows.shape[1]), torch.ones(rows.shape[1])
    mean, variance = torch.batch_norm_update_stats(rows, *running, 0.0)
    return mean, variance


def _voxels_in_a_row(voxels: int, channels: int) -> int:
    """Return how many neighbouring voxels are joined; a divisor of ``voxels``."""
    return next(count for count in range(max(1, _ROW // channels), 0, -1) if voxels % count == 0)


def _sums(flat: torch.Tensor) -> torch.Tensor:
    """Return the sums over the voxels of ``(B, V, C)`` in float32, shape ``(B, C)``."""
    batch, voxels, channels = flat.shape
    if flat.dtype != torch.bfloat16 or voxels < _SMALL_MAP:
        return flat.sum(1, dtype=torch.float32)
    # The mean of this kernel takes a third of the time of a sum in float32.
    joined = _voxels_in_a_row(voxels, channels)
    rows = flat.reshape(batch, -1, joined * channels)
    means = [_moments(volume)[0] for volume in rows]
    return torch.stack(means).view(batch, joined, channels).sum(1) * rows.shape[1]


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """Group normalisation with a backward pass that suits channels-last memory on a CPU.

    For bfloat16, the forward and backward pass of PyTorch take 1.1 to 2.3 times as long as this function
    (benchmarks/group_norm.py). Here the gradient needs two small matrix products over the channels.
    """

    @staticmethod
    def forward(
        ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int, eps: float
    ) -> torch.Tensor:
        output, mean, rstd = normalize_groups(image, weight, bias, groups, eps)
        ctx.save_for_backward(image, weight, mean, rstd)
        ctx.groups = groups
        # The output may be a view of rows. The activation that follows works in place, which autograd forbids for
        # views.
        return output.data

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        image, weight, mean, rstd = ctx.saved_tensors
        batch, channels = image.shape[:2]
        groups, width = ctx.groups, channels // ctx.groups
        flat = image.permute(0, 2, 3, 4, 1).reshape(batch, -1, channels)
        flow = gradient.permute(0, 2, 3, 4, 1).reshape(batch, -1, channels)
        count = flat.shape[1] * width
        # Sums over the voxels of the gradient, and of the gradient times the normalised image.
        total = _sums(flow).view(batch, groups, width)
        product = _sums(flow * flat).view(batch, groups, width)
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
        if image.device.type == "cpu" and image.is_contiguous(memory_format=torch.channels_last_3d):
            if not torch.is_grad_enabled():
                return normalize_groups(image, self.weight, self.bias, self.groups, self.eps).output
            output: torch.Tensor = _ChannelsLastGroupNorm.apply(image, self.weight, self.bias, self.groups, self.eps)
            return output
        weight, bias = self.weight.to(image.dtype), self.bias.to(image.dtype)
        # On CUDA, autocast would normalise in float32 and keep a copy of twice the size for the backward pass. The
        # kernel computes its statistics in float32 in any case.
        with torch.autocast(image.device.type, enabled=False):
            return functional.group_norm(image, self.groups, weight, bias, self.eps)
