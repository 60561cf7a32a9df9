from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from detseg3d.models.networks.blocks import Conv3d, ConvNormAct, ResidualBlock, enlarge, space_to_depth


@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((3, 3, 3), (1, 1, 1)), ((3, 3, 3), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((1, 1, 1), (1, 1, 1))],
)
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_small_map_is_convolved_as_any_other(
    kernel: tuple[int, ...], stride: tuple[int, ...], length: int, bias: bool
) -> None:
    """Output and gradients against torch's own convolution, in float64."""
    generator = torch.Generator().manual_seed(length)
    ours = Conv3d(4, 6, kernel, stride, tuple(size // 2 for size in kernel), bias=bias)
    exact = copy.deepcopy(ours).double()
    small = torch.randn(1, 4, length, 5, 6, generator=generator).requires_grad_()
    large = small.detach().double().requires_grad_()
    mine, wanted = ours(small), nn.Conv3d.forward(exact, large)
    assert mine.shape == wanted.shape
    torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=1e-5)
    flow = torch.randn(wanted.shape, generator=generator)
    mine.backward(flow), wanted.backward(flow.double())
    pairs = [(small, large), *zip(ours.parameters(), exact.parameters(), strict=True)]
    for one, other in pairs:
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "channels", "dtype", "slabs"),
    [(1, 4, torch.float32, 2), (2, 4, torch.float32, 2), (1, 200, torch.float32, 1), (1, 4, torch.bfloat16, 1)],
)
def test_only_convolutions_that_are_slow_in_torch_are_cut(
    monkeypatch: pytest.MonkeyPatch, batch: int, channels: int, dtype: torch.dtype, slabs: int
) -> None:
    """A batch of two, a large map and bfloat16 are fast without slabs."""
    seen: list[int] = []
    original = functional.conv3d

    def watch(image: torch.Tensor, *arguments: Any) -> torch.Tensor:
        seen.append(len(image))
        return original(image, *arguments)

    monkeypatch.setattr(functional, "conv3d", watch)
    Conv3d(channels, 4, 3, padding=1).to(dtype)(torch.zeros(batch, channels, 10, 12, 6, dtype=dtype))
    assert seen == [slabs]


def test_a_convolution_keeps_the_shape() -> None:
    assert ConvNormAct(3, 8, (1, 3, 3))(torch.zeros(1, 3, 5, 6, 7)).shape == (1, 8, 5, 6, 7)


def test_a_strided_convolution_rounds_up() -> None:
    assert ConvNormAct(3, 8, (1, 3, 3), (1, 2, 2))(torch.zeros(1, 3, 5, 6, 7)).shape == (1, 8, 5, 3, 4)


def test_a_new_residual_block_lets_positive_values_pass() -> None:
    image = torch.rand(1, 8, 4, 4, 4)
    assert torch.equal(ResidualBlock(8)(image), image)


def test_space_to_depth_lists_the_voxels_of_each_block() -> None:
    image = torch.arange(2 * 4 * 2 * 6).reshape(1, 2, 4, 2, 6)
    moved = space_to_depth(image, (2, 1, 3))
    assert moved.shape == (1, 12, 2, 2, 2)
    for channel in range(2):
        for dz in range(2):
            for dx in range(3):
                assert torch.equal(moved[:, channel * 6 + dz * 3 + dx], image[:, channel, dz::2, :, dx::3])


def test_space_to_depth_with_stride_one_changes_nothing() -> None:
    image = torch.rand(1, 2, 3, 5, 7)
    assert space_to_depth(image, (1, 1, 1)) is image


def test_enlarging_repeats_the_nearest_cell() -> None:
    image = torch.arange(8.0).view(1, 1, 2, 2, 2)
    wanted = image.repeat_interleave(2, 2).repeat_interleave(3, 3)
    assert torch.equal(enlarge(image, (4, 6, 2)), wanted)
