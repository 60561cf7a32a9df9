"""Training with several processes, one for each GPU or machine, started by ``torchrun``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

__all__ = [
    "DistributedContext",
    "any_process",
    "average_gradients",
    "broadcast_from_main",
    "is_main_process",
    "join_processes",
    "leave_processes",
]

# While the main process validates, the others wait. A validation may take longer than the ten minutes of NCCL.
_TIMEOUT = timedelta(days=1)


@dataclass(frozen=True)
class DistributedContext:
    """Place of a process among the processes of a training.

    Attributes
    ----------
    rank : int
        Number of the process, from 0.
    size : int
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, validates and reports."""
        return self.rank == 0


def join_processes(device: torch.device) -> tuple[DistributedContext, torch.device]:
    """Join the other processes of the training if ``torchrun`` started this process.

    Parameters
    ----------
    device : torch.device
        Requested device.

    Returns
    -------
    context : DistributedContext
        A single process if ``torchrun`` did not start this process.
    device : torch.device
        Device of this process. With CUDA, each process of a machine has its own GPU.
    """
    if not distributed.is_torchelastic_launched():
        return DistributedContext(), device
    if device.type == "cuda":
        device = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_TIMEOUT)
    return DistributedContext(distributed.get_rank(), distributed.get_world_size()), device


def is_main_process() -> bool:
    """Return whether this process is the first one of its machine, or the only one.

    Unlike :attr:`DistributedContext.is_main`, this does not need the connection between the processes.
    """
    return not distributed.is_torchelastic_launched() or distributed.get_node_local_rank() == 0


def leave_processes(context: DistributedContext) -> None:
    """Undo :func:`join_processes`."""
    if context.size > 1:
        distributed.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter], context: DistributedContext) -> None:
    """Replace each gradient by its mean over the processes, in place.

    A parameter without gradient counts as zero. ``DistributedDataParallel`` is not used, because it sees only
    ``forward``: the losses call several methods of the network.

    Parameters
    ----------
    parameters : iterable of Parameter
    context : DistributedContext
    """
    if context.size == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in trained if parameter.grad is not None]
    # One message for all gradients is faster than one for each of them.
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= context.size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def broadcast_from_main(values: list[float], context: DistributedContext, device: torch.device) -> list[float]:
    """Return the values of the main process in all processes.

    The schedule depends on measured times, which differ between processes. It must be the same in all of them.

    Parameters
    ----------
    values : list of float
        Equally long in all processes.
    context : DistributedContext
    device : torch.device

    Returns
    -------
    list of float
    """
    if context.size == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return [float(value) for value in shared.cpu()]


def any_process(value: bool, context: DistributedContext, device: torch.device) -> bool:
    """Return whether ``value`` is true in at least one process."""
    if context.size == 1:
        return value
    shared = torch.tensor(float(value), device=device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return bool(shared > 0)
