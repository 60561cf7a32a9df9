from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from detseg3d.models.networks.group_norm import GroupNorm, normalize_groups


def both_ways(
    channels: int,
    dtype: torch.dtype,
    batch: int = 2,
    shift: float = 0.5,
    shape: tuple[int, int, int] = (3, 5, 4),
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and gradients (image, weight, bias) of our GroupNorm, and of torch's in float64 on the same numbers."""
    generator = torch.Generator().manual_seed(channels)
    norm = GroupNorm(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(channels, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(channels, generator=generator))
    image = (torch.randn(batch, channels, *shape, generator=generator) * 2 + shift).to(dtype)
    image = image.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    direction = torch.randn(image.shape, generator=generator).to(dtype)
    output = norm(image)
    output.backward(direction)
    exact = [tensor.detach().double().requires_grad_() for tensor in (image, norm.weight, norm.bias)]
    wanted = functional.group_norm(exact[0], norm.groups, exact[1], exact[2], norm.eps)
    wanted.backward(direction.double())
    assert image.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    ours = [output.detach(), image.grad, norm.weight.grad, norm.bias.grad]
    return ours, [wanted.detach(), *(tensor.grad for tensor in exact if tensor.grad is not None)]


@pytest.mark.parametrize("channels", [4, 6, 8, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_group_norm_agrees_with_torch_in_float32(channels: int, batch: int) -> None:
    for ours, wanted in zip(*both_ways(channels, torch.float32, batch), strict=True):
        assert torch.allclose(ours.double(), wanted, rtol=1e-4, atol=1e-4)


# Below and above the size of small maps, and channels that do and do not fill an instruction; 1331 has few divisors.
@pytest.mark.parametrize("shape", [(3, 5, 4), (8, 16, 12), (11, 11, 11)])
@pytest.mark.parametrize(("channels", "batch"), [(8, 1), (8, 3), (6, 2), (16, 2), (24, 1), (32, 2), (100, 1)])
def test_group_norm_agrees_with_torch_in_bfloat16(channels: int, batch: int, shape: tuple[int, int, int]) -> None:
    for ours, wanted in zip(*both_ways(channels, torch.bfloat16, batch, shape=shape), strict=True):
        assert (ours.double() - wanted).abs().max() < 0.03 * wanted.abs().max()


def test_group_norm_agrees_with_torch_if_the_mean_is_large() -> None:
    for ours, wanted in zip(*both_ways(8, torch.float32, shift=50.0), strict=True):
        assert torch.allclose(ours.double(), wanted, rtol=1e-2, atol=1e-2)


def test_group_norm_keeps_the_dtype() -> None:
    assert GroupNorm(8)(torch.zeros(1, 8, 2, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_group_norm_gives_the_same_in_both_memory_formats() -> None:
    image = torch.randn(2, 8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    norm = GroupNorm(8)
    channels_last = image.contiguous(memory_format=torch.channels_last_3d)
    assert torch.allclose(norm(image), norm(channels_last), atol=1e-5)


def test_group_norm_gives_the_same_with_and_without_gradients() -> None:
    image = torch.randn(2, 8, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    norm = GroupNorm(8)
    with torch.no_grad():
        plain = norm(image)
    assert torch.allclose(norm(image), plain, atol=1e-6)


def test_statistics_do_not_depend_on_the_batch() -> None:
    images = torch.randn(3, 8, 4, 4, 4).contiguous(memory_format=torch.channels_last_3d)
    norm = GroupNorm(8)
    assert torch.allclose(norm(images)[1:2], norm(images[1:2]), atol=1e-6)


@pytest.mark.parametrize(("channels", "groups"), [(16, 4), (4, 1), (6, 1), (2, 1)])
def test_four_channels_make_a_group_if_the_channels_divide_by_four(channels: int, groups: int) -> None:
    assert GroupNorm(channels).groups == groups


def test_the_norm_keeps_the_dtype_of_the_map_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    # On CUDA autocast would make it float32 and keep the copy.
    original = functional.group_norm
    seen = []

    def watched(image: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append((image.dtype, torch.is_autocast_enabled("cpu")))
        return original(image, *rest)

    monkeypatch.setattr(functional, "group_norm", watched)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert GroupNorm(8)(torch.randn(1, 8, 4, 4, 4).bfloat16()).dtype is torch.bfloat16  # not channels-last
    assert seen == [(torch.bfloat16, False)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "length"), [(8, 12), (16, 12), (24, 4)])
def test_the_statistics_are_those_of_the_groups(channels: int, length: int, dtype: torch.dtype) -> None:
    image = (torch.randn(2, channels, length, length, length) * 3 + 1).to(dtype)
    image = image.contiguous(memory_format=torch.channels_last_3d)
    result = normalize_groups(image, torch.ones(channels), torch.zeros(channels), channels // 4, 1e-5)
    members = image.double().reshape(2, channels // 4, -1)
    expected = (members.mean(2), (members.var(2, unbiased=False) + 1e-5).rsqrt())
    assert result.output.dtype == dtype and result.output.is_contiguous(memory_format=torch.channels_last_3d)
    for values, wanted in zip(result[1:], expected, strict=True):
        assert values.dtype == torch.float32 and torch.allclose(values.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [8, 32])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_activation_may_change_the_output_in_place(channels: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, channels, 8, 16, 12, generator=generator).bfloat16()
    image = image.contiguous(memory_format=torch.channels_last_3d)
    gradients = []
    for inplace in (False, True):
        norm, given = GroupNorm(channels), image.clone().requires_grad_()
        functional.leaky_relu(norm(given), 0.01, inplace=inplace).sum().backward()
        assert given.grad is not None and norm.weight.grad is not None
        gradients.append((given.grad, norm.weight.grad))
    assert torch.equal(gradients[0][0], gradients[1][0]) and torch.equal(gradients[0][1], gradients[1][1])
