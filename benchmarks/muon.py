"""A step of our Muon against one of PyTorch's, and our iteration against the plain one in float32, as ratios.

On the kernels that the two networks of a small plan have, as matrices, since PyTorch takes nothing else:

python -m benchmarks.muon
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.paired import print_ratio
from detseg3d.training.optimizer import Muon, orthogonalize

KERNELS = ((12, 32, 864), (4, 64, 1728), (4, 96, 2592), (4, 128, 3456))
RUNS = 15


def plain(matrices: torch.Tensor) -> torch.Tensor:
    """The same polynomial, iterated on the matrices themselves."""
    matrices = matrices / matrices.flatten(1).norm(dim=1)[:, None, None]
    for _ in range(5):
        gram = matrices @ matrices.transpose(1, 2)
        matrices = 3.4445 * matrices + (-4.7750 * gram + 2.0315 * gram @ gram) @ matrices
    return matrices


def main() -> None:
    """Print the median ratios over interleaved runs: of the whole step, and of the iteration for each shape."""
    kernels = [nn.Parameter(torch.randn(rows, columns)) for count, rows, columns in KERNELS for _ in range(count)]
    for kernel in kernels:
        kernel.grad = torch.randn_like(kernel)
    ours, theirs = Muon(kernels, lr=1e-3), torch.optim.Muon(kernels, lr=1e-3)

    def step() -> None:
        theirs.step()

    print_ratio((len(kernels),), step, ours.step, RUNS)
    for shape in KERNELS:
        matrices = torch.randn(shape)

        def by_matrix(matrices: torch.Tensor = matrices) -> None:
            plain(matrices)

        def by_gram(matrices: torch.Tensor = matrices) -> None:
            orthogonalize(matrices)

        print_ratio(shape, by_matrix, by_gram, RUNS)


if __name__ == "__main__":
    main()
