"""Small maps of a single volume on a CPU, float32: our convolution against PyTorch's, forward and backward, as a ratio.

python -m benchmarks.convolution
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.paired import print_ratio
from detseg3d.models.networks.blocks import Conv3d

SHAPES = ((1, 64, 16, 16, 16), (1, 96, 10, 16, 16), (1, 128, 8, 8, 8))
RUNS = 15


def main() -> None:
    """Print the median ratio over interleaved runs for each shape."""
    for shape in SHAPES:
        channels = shape[1]
        layer = Conv3d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last_3d)
        image = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        flow = torch.randn(shape).contiguous(memory_format=torch.channels_last_3d)

        def ours(layer: Conv3d = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            layer(image).backward(flow)

        def theirs(layer: Conv3d = layer, image: torch.Tensor = image, flow: torch.Tensor = flow) -> None:
            nn.Conv3d.forward(layer, image).backward(flow)

        print_ratio(shape, theirs, ours, RUNS)


if __name__ == "__main__":
    main()
