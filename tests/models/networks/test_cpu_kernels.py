"""Convolutions on CPUs: the workarounds do not change the result, and half precision is correct."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from detseg3d.models.networks.blocks import Conv3d, ResidualBlock
from detseg3d.models.networks.cpu_kernels import (
    ConvolutionShape,
    convolve,
    convolve_wide,
    runs_in_half_precision,
    safe_request,
)
from detseg3d.system.device import has_fast_bfloat16

ROOT = Path(__file__).parents[3]
# bfloat16 keeps 8 binary digits: one rounding of every output is 0.002 of the norm.
TOLERANCE = 0.02
KERNELS = [(3, 3, 3), (1, 3, 3), (3, 1, 1), (1, 1, 1)]
STRIDES = [(1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 1, 1)]
needs_bfloat16 = pytest.mark.skipif(not has_fast_bfloat16(), reason="this CPU does not compute in bfloat16")


def differences(layer: nn.Module, shape: Sequence[int], seed: int = 0) -> list[float]:
    """Output, input gradient and weight gradients under autocast against float64: distances relative to the norms."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(tuple(shape), generator=generator).bfloat16().float()
    image = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(image)
    flow = torch.randn(output.shape, generator=generator).bfloat16()
    found = [output, *torch.autograd.grad(output, (image, *layer.parameters()), flow.to(output.dtype))]
    exact = layer.double()
    source = image.detach().double().requires_grad_()
    wanted_output = exact(source)
    wanted = [wanted_output, *torch.autograd.grad(wanted_output, (source, *exact.parameters()), flow.double())]
    return [float((a.double() - b).detach().norm() / b.detach().norm()) for a, b in zip(found, wanted, strict=True)]


def convolution(channels: int, outputs: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Conv3d:
    return Conv3d(channels, outputs, kernel, stride, tuple(size // 2 for size in kernel), bias=False)  # type: ignore[arg-type]


def wrong_shapes() -> list[str]:
    """Return the small maps for which bfloat16 differs from float64 by more than rounding."""
    wrong = []
    for kernel, stride, z, (y, x) in itertools.product(
        KERNELS[:3], STRIDES[:3], (1, 2, 3), [(4, 4), (1, 5), (5, 1), (9, 2)]
    ):
        for channels, outputs, batch in [(16, 16, 2), (64, 32, 1), (1, 32, 1), (32, 3, 1)]:
            found = differences(convolution(channels, outputs, kernel, stride), (batch, channels, z, y, x))
            if not max(found) < TOLERANCE:
                wrong.append(f"{kernel} {stride} {(batch, channels, z, y, x)} to {outputs}: {found}")
    return wrong


@needs_bfloat16
@pytest.mark.parametrize("channels", [8, 16, 32, 64])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_bfloat16_gives_the_output_and_gradients_of_float64(
    kernel: tuple[int, ...], stride: tuple[int, ...], depth: int, channels: int
) -> None:
    for shape in [(1, channels, depth, 6, 5), (2, channels, 6, depth, 5), (1, channels, 5, 6, depth)]:
        found = differences(convolution(channels, channels, kernel, stride), shape)
        assert max(found) < TOLERANCE, shape


@needs_bfloat16
@pytest.mark.parametrize("instructions", ["AVX512_CORE_BF16", "AVX512_CORE_AMX"])
def test_bfloat16_is_right_by_each_set_of_instructions(instructions: str) -> None:
    """oneDNN has different kernels for each set of instructions. A processor with AMX has both."""
    script = "from tests.models.networks.test_cpu_kernels import wrong_shapes\nprint(*wrong_shapes(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def wrong_wide_shapes() -> list[str]:
    """Return the wide maps for which bfloat16 differs from float64 by more than rounding."""
    wrong = []
    for channels, outputs, kernel, stride, shape in [
        (8, 8, (1, 3, 3), (1, 1, 1), (5, 96, 96)),
        (32, 32, (3, 3, 3), (1, 1, 1), (5, 96, 96)),
        (8, 16, (1, 3, 3), (1, 1, 1), (1, 128, 96)),
        (16, 16, (1, 3, 3), (1, 2, 2), (4, 192, 192)),
        (32, 1, (1, 1, 1), (1, 1, 1), (2, 128, 128)),
        (8, 8, (3, 3, 1), (1, 1, 1), (4, 256, 32)),
    ]:
        found = differences(convolution(channels, outputs, kernel, stride), (1, channels, *shape))
        if not max(found) < TOLERANCE:
            wrong.append(f"{kernel} {stride} {channels}×{shape} to {outputs}: {found}")
    return wrong


@needs_bfloat16
def test_wide_maps_with_few_slices_stay_within_their_buffers() -> None:
    """The C library checks the memory around each buffer that is freed, and ends the process if it was written to."""
    script = (
        "from tests.models.networks.test_cpu_kernels import wrong_wide_shapes\nprint(*wrong_wide_shapes(), sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3"},
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pytest.mark.parametrize("shape", [(2, 3, 2, 40, 30), (1, 3, 2, 30, 40), (1, 3, 1, 64, 8)])
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3, 3), (1, 2, 1)), ((1, 3, 3), (1, 1, 1)), ((1, 1, 3), (1, 2, 2))])
def test_another_order_of_the_axes_gives_the_same_gradients(
    shape: tuple[int, ...], kernel: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    request = ConvolutionShape(kernel, stride, _half(kernel))
    image, weight, bias = (
        torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
        for size in (shape, (4, shape[1], *kernel), (4,))
    )
    wanted, found = convolve(image, weight, bias, request), convolve_wide(image, weight, bias, request)
    flow = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found, (image, weight, bias), flow),
        torch.autograd.grad(wanted, (image, weight, bias), flow),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def _half(kernel: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (size // 2 for size in kernel)
    return z, y, x


@needs_bfloat16
@pytest.mark.parametrize("shape", [(1, 16, 2, 6, 6), (1, 16, 2, 1, 1), (2, 16, 1, 2, 9)])
def test_a_residual_block_gives_the_gradients_of_float64(shape: tuple[int, ...]) -> None:
    # Rounding passes through two normalisations and may change the sign before a leaky ReLU.
    assert max(differences(ResidualBlock(shape[1]), shape)) < 0.3


LENGTHS = (1, 2, 3, 5)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", [*KERNELS, (5, 3, 1)])
def test_a_safe_request_asks_for_the_same_voxels(
    kernel: tuple[int, int, int], stride: tuple[int, int, int], dilation: int
) -> None:
    z, y, x = (dilation * (size // 2) for size in kernel)
    shape = ConvolutionShape(kernel, stride, (z, y, x), (dilation,) * 3)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((3, 2, *kernel), generator=generator, dtype=torch.float64)
    for lengths in itertools.product(LENGTHS, repeat=3):
        image = torch.randn((2, 2, *lengths), generator=generator, dtype=torch.float64)
        safe, request = safe_request(image, shape)
        assert torch.allclose(convolve(safe, weight, None, request), convolve(image, weight, None, shape))


@pytest.mark.parametrize("lengths", list(itertools.product((1, 2, 3), (1, 2, 4), (2, 7))))
def test_no_map_is_shorter_than_the_kernel_after_a_safe_request(lengths: tuple[int, int, int]) -> None:
    image, request = safe_request(torch.zeros(1, 1, *lengths), ConvolutionShape((3, 3, 3), (2, 2, 2), (1, 1, 1)))
    for axis, length in enumerate(image.shape[2:]):
        assert length >= 3
        assert request.output_length(length, axis) > 1 or request.stride[axis] == 1


def test_a_large_map_is_not_changed() -> None:
    image, shape = torch.zeros(1, 8, 3, 4, 5), ConvolutionShape((3, 3, 3), (1, 1, 1), (1, 1, 1))
    same, request = safe_request(image, shape)
    assert same is image and request == shape


def test_half_precision_is_known_by_the_dtype_or_by_autocast() -> None:
    image = torch.zeros(1, 1, 2, 2, 2)
    assert not runs_in_half_precision(image)
    assert runs_in_half_precision(image.bfloat16())
    assert runs_in_half_precision(image.half())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert runs_in_half_precision(image)
        with torch.autocast("cpu", enabled=False):
            assert not runs_in_half_precision(image)
    assert not runs_in_half_precision(torch.zeros(1, 1, 2, 2, 2, device="meta", dtype=torch.bfloat16))
