"""Group normalisation for channels-last bfloat16 on a CPU: our backward pass against PyTorch's, as a ratio.

python -m benchmarks.group_norm
"""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.paired import print_ratio
from detseg3d.models.networks.blocks import GroupNorm

SHAPES = ((8, 16, 32, 32, 32), (2, 32, 32, 32, 32), (2, 32, 64, 64, 64))
RUNS = 9


def main() -> None:
    """Print the median ratio over interleaved runs for each shape."""
    for shape in SHAPES:
        layer = GroupNorm(shape[1])
        memory = torch.channels_last_3d
        image = torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=memory).requires_grad_()
        flow = torch.randn(shape, dtype=torch.bfloat16).contiguous(memory_format=memory)

        def ours(layer: GroupNorm = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            layer(image).backward(flow)

        def theirs(layer: GroupNorm = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            weight, bias = layer.weight.to(image.dtype), layer.bias.to(image.dtype)
            functional.group_norm(image, layer.groups, weight, bias, layer.eps).backward(flow)

        print_ratio(shape, theirs, ours, RUNS)


if __name__ == "__main__":
    main()
