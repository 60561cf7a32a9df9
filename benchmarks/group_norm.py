"""Group normalisation for channels-last bfloat16 on a CPU: our implementation against PyTorch's, as a ratio.

Each shape has two lines: the forward pass alone, as in a prediction, and forward and backward pass.

python -m benchmarks.group_norm
"""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.paired import print_ratio
from detseg3d.models.networks.group_norm import GroupNorm

SHAPES = ((2, 8, 48, 48, 48), (1, 24, 48, 80, 64), (16, 16, 24, 24, 24), (2, 32, 32, 32, 32), (16, 64, 6, 6, 6))
RUNS = 9


def main() -> None:
    """Print the median ratio over interleaved runs for each shape."""
    for shape in SHAPES:
        layer = GroupNorm(shape[1])
        memory = torch.channels_last_3d
        image = torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=memory).requires_grad_()
        flow = torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=memory)

        def ours_forward(layer: GroupNorm = layer, image: torch.Tensor = image) -> None:
            with torch.no_grad():
                layer(image)

        def theirs_forward(layer: GroupNorm = layer, image: torch.Tensor = image) -> None:
            weight, bias = layer.weight.to(image.dtype), layer.bias.to(image.dtype)
            with torch.no_grad():
                functional.group_norm(image, layer.groups, weight, bias, layer.eps)

        print_ratio(f"{shape}, forward", theirs_forward, ours_forward, RUNS)

        def ours(layer: GroupNorm = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            layer(image).backward(flow)

        def theirs(layer: GroupNorm = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            weight, bias = layer.weight.to(image.dtype), layer.bias.to(image.dtype)
            functional.group_norm(image, layer.groups, weight, bias, layer.eps).backward(flow)

        print_ratio(f"{shape}, forward and backward", theirs, ours, RUNS)


if __name__ == "__main__":
    main()
