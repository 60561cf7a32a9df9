"""Workarounds for convolution kernels of CPUs that are wrong or slow for small maps.

On a CPU, PyTorch runs convolutions with oneDNN. These functions change how a convolution is requested, and never its
result. They decide by the shape alone, and pad, crop or divide the map before the same weights are applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional
from torch.nn.grad import conv3d_input, conv3d_weight

__all__ = [
    "ConvolutionShape",
    "convolve",
    "convolve_in_two_slabs",
    "convolve_wide",
    "has_wrong_weight_gradient",
    "is_slow_in_float32",
    "runs_in_half_precision",
    "safe_request",
]

Lengths = tuple[int, int, int]

# PyTorch runs float32 convolutions with oneDNN only if batch × channels × the first two axes is more than this, or if
# the batch is larger than one (ConvParams::use_mkldnn in ATen/native/Convolution.cpp).
_SLOW_BELOW = 20480

# With AMX, the weight gradient of oneDNN 3.12 writes outside its buffers for maps that are wide for their depth.
# Failures were measured if a slice has at least 1024 voxels times the number of slices (fewer than 16 slices), or at
# least 4600 times that number (16 slices or more). The limits used here are lower.
_FEW_SLICES = 16
_WIDE_WITH_FEW_SLICES = 512
_WIDE = 4096


@dataclass(frozen=True)
class ConvolutionShape:
    """Kernel, stride, zero padding and dilation of a 3D convolution, each ``(z, y, x)`` in voxels, and its groups."""

    kernel: Lengths
    stride: Lengths
    padding: Lengths
    dilation: Lengths = (1, 1, 1)
    groups: int = 1

    def reach(self, axis: int) -> int:
        """Return the length in voxels of the input that one output voxel depends on along ``axis`` (0 is z)."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def output_length(self, length: int, axis: int) -> int:
        """Return the output voxels of ``length`` input voxels along ``axis`` (0 is z).

        Examples
        --------
        >>> ConvolutionShape((3, 3, 3), (2, 2, 2), (1, 1, 1)).output_length(5, axis=0)
        3
        """
        return (length + 2 * self.padding[axis] - self.reach(axis)) // self.stride[axis] + 1


def convolve(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: ConvolutionShape
) -> torch.Tensor:
    """Convolve ``(B, C, Z, Y, X)`` without any workaround."""
    return functional.conv3d(image, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups)


def runs_in_half_precision(image: torch.Tensor) -> bool:
    """Return True if a convolution of ``image`` runs on a CPU in half precision, by its dtype or by autocast."""
    if image.device.type != "cpu":
        return False
    return image.dtype in (torch.bfloat16, torch.float16) or torch.is_autocast_enabled("cpu")


def safe_request(image: torch.Tensor, shape: ConvolutionShape) -> tuple[torch.Tensor, ConvolutionShape]:
    """Change the request for a convolution in half precision so that oneDNN chooses no wrong kernel.

    oneDNN 3.12 reads and writes outside its buffers in two cases. The weight gradient is then wrong, or the process
    ends. With AMX, the output is wrong as well.

    - The map is shorter than the kernel along an axis. If the padding is already in the map, the kernel is correct.
    - There is only one output voxel along an axis, and the stride is larger than one. The stride has no effect there,
      so the map is cropped to the kernel's reach and the stride becomes one.

    Parameters
    ----------
    image : Tensor, shape ``(B, C, Z, Y, X)``
    shape : ConvolutionShape

    Returns
    -------
    image : Tensor
        The same tensor if no axis is affected, otherwise a padded or cropped tensor.
    shape : ConvolutionShape
        The remaining stride and padding. The convolution gives the same voxels as the original request.

    Examples
    --------
    >>> usual = ConvolutionShape(kernel=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1))
    >>> image, request = safe_request(torch.zeros(1, 8, 2, 4, 8), usual)
    >>> tuple(image.shape), request.stride, request.padding
    ((1, 8, 3, 4, 8), (1, 2, 2), (0, 1, 1))
    """
    stride, rest, by_hand = list(shape.stride), list(shape.padding), [0, 0, 0]
    cropped: list[int] = []
    for axis, length in enumerate(image.shape[2:]):
        single = shape.output_length(length, axis) == 1
        if length < shape.reach(axis) or single:
            by_hand[axis], rest[axis] = rest[axis], 0
        if single:
            stride[axis] = 1
            cropped.append(axis)
    if any(by_hand):
        z, y, x = by_hand
        image = functional.pad(image, (x, x, y, y, z, z))
    for axis in cropped:
        image = image.narrow(2 + axis, 0, shape.reach(axis))
    return image, replace(shape, stride=_triple(stride), padding=_triple(rest))


def has_wrong_weight_gradient(image: torch.Tensor, shape: ConvolutionShape) -> bool:
    """Return True if oneDNN may write outside its buffers when it computes the weight gradient in half precision.

    This concerns maps that are wide for their depth, such as one slice of 512×512 voxels. The gradient is then wrong or
    not finite, or the process ends later. The output and the gradient of the map are correct.

    Parameters
    ----------
    image : Tensor, shape ``(B, C, Z, Y, X)``
    shape : ConvolutionShape

    Returns
    -------
    bool

    Examples
    --------
    >>> usual = ConvolutionShape(kernel=(3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1))
    >>> [has_wrong_weight_gradient(torch.zeros(1, 1, z, 96, 96), usual) for z in (5, 96)]
    [True, False]
    """
    z, y, x = (shape.output_length(length, axis) for axis, length in enumerate(image.shape[2:]))
    return y * x >= z * (_WIDE_WITH_FEW_SLICES if z < _FEW_SLICES else _WIDE)


def convolve_wide(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: ConvolutionShape
) -> torch.Tensor:
    """Convolve ``(B, C, Z, Y, X)``; compute the weight gradient with the longest axis first.

    The gradient does not depend on the order of the axes, and kernels are correct if the first axis is long. Only the
    backward pass copies the map, so the forward pass needs no more memory.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        image, weight = image.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    output: torch.Tensor = _WideConvolution.apply(image, weight, bias, shape)
    return output


class _WideConvolution(torch.autograd.Function):
    """A convolution that computes the gradient of its weights with the axes in another order."""

    @staticmethod
    def forward(
        ctx: Any, image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: ConvolutionShape
    ) -> torch.Tensor:
        ctx.save_for_backward(image, weight)
        ctx.shape = shape
        return convolve(image, weight, bias, shape)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, None]:
        image, weight = ctx.saved_tensors
        shape: ConvolutionShape = ctx.shape
        by_image = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_image = conv3d_input(
                image.shape, weight, gradient, shape.stride, shape.padding, shape.dilation, shape.groups
            )
        if ctx.needs_input_grad[1]:
            by_weight = _weight_gradient(image, weight, gradient, shape)
        if ctx.needs_input_grad[2]:
            by_bias = gradient.sum((0, 2, 3, 4))
        return by_image, by_weight, by_bias, None


def _weight_gradient(
    image: torch.Tensor, weight: torch.Tensor, gradient: torch.Tensor, shape: ConvolutionShape
) -> torch.Tensor:
    longest = max(range(3), key=lambda axis: gradient.shape[2 + axis])

    def exchange(map_: torch.Tensor) -> torch.Tensor:
        return map_.transpose(2, 2 + longest).contiguous(memory_format=torch.channels_last_3d)

    def exchanged(lengths: Lengths) -> Lengths:
        order = list(lengths)
        order[0], order[longest] = order[longest], order[0]
        return _triple(order)

    exchanged_gradient = conv3d_weight(
        exchange(image),
        weight.transpose(2, 2 + longest).shape,
        exchange(gradient),
        exchanged(shape.stride),
        exchanged(shape.padding),
        exchanged(shape.dilation),
        shape.groups,
    )
    return exchanged_gradient.transpose(2, 2 + longest)


def is_slow_in_float32(image: torch.Tensor, shape: ConvolutionShape) -> bool:
    """Return True if PyTorch would use its own slow implementation for ``image``, and two slabs avoid it."""
    batch, channels, z, y, _ = image.shape
    plain = image.device.type == "cpu" and image.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and batch == 1 and channels * z * y <= _SLOW_BELOW and shape.output_length(z, axis=0) > 1


def convolve_in_two_slabs(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, shape: ConvolutionShape
) -> torch.Tensor:
    """Convolve both halves of the output as a batch of two, each from the slab of the input that it depends on.

    Parameters
    ----------
    image : Tensor, shape ``(1, C, Z, Y, X)``
        The output has at least two voxels along z.
    weight : Tensor, shape ``(D, C, z, y, x)``
    bias : Tensor, shape ``(D,)``, or None
    shape : ConvolutionShape

    Returns
    -------
    Tensor, shape ``(1, D, Z', Y', X')``
        The same as without slabs, except for rounding.
    """
    reach, stride, padding = shape.reach(0), shape.stride[0], shape.padding[0]
    length = shape.output_length(image.shape[2], axis=0)
    half = (length + 1) // 2
    thickness = (half - 1) * stride + reach
    behind = max(half * stride + thickness - image.shape[2] - padding, 0)
    padded = functional.pad(image, (0, 0, 0, 0, padding, behind))
    slabs = torch.cat([padded[:, :, :thickness], padded[:, :, half * stride : half * stride + thickness]])
    slabs = slabs.contiguous(memory_format=torch.channels_last_3d)
    output = convolve(slabs, weight, bias, replace(shape, padding=(0, *shape.padding[1:])))
    return torch.cat([output[:1], output[1:, :, : length - half]], dim=2)


def _triple(values: Sequence[int]) -> Lengths:
    z, y, x = values
    return z, y, x
