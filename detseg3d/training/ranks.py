"""Training on several GPUs or machines: the processes that ``torchrun`` starts, and what they must agree on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

__all__ = ["Ranks", "agree", "any_of", "average_gradients", "join_ranks", "leave_ranks"]

_PATIENCE = timedelta(days=1)


@dataclass(frozen=True)
class Ranks:
    """Number of a process among the processes of a training, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, validates and reports."""
        return self.rank == 0


def join_ranks(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the other processes, if ``torchrun`` started this one; each CUDA process gets a device of its own.

    Returns
    -------
    ranks : Ranks
    device : torch.device
    """
    if not distributed.is_torchelastic_launched():
        return Ranks(), device
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
    # The others wait while the main process validates, which may take more than NCCL's ten minutes.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size()), device


def leave_ranks(ranks: Ranks) -> None:
    """End what :func:`join_ranks` began."""
    if ranks.size > 1:
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter], ranks: Ranks) -> None:
    """Replace each gradient by its mean over the processes; a parameter without one counts as zero.

    The losses run through several methods of the network, which a wrapper around ``forward`` would not see; one sum
    over all gradients does the same.
    """
    if ranks.size == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= ranks.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def agree(values: list[float], ranks: Ranks, device: torch.device) -> list[float]:
    """The main process's values, in all processes: clocks differ, and the schedule must not."""
    if ranks.size == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return [float(value) for value in shared.cpu()]


def any_of(value: bool, ranks: Ranks, device: torch.device) -> bool:
    """Whether ``value`` is true in any of the processes."""
    if ranks.size == 1:
        return value
    shared = torch.tensor(float(value), device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return bool(shared > 0)
