"""Optimisers of the training: Muon for the kernels of convolutions, AdamW for all other parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from detseg3d.planning.sections import TrainingPlan

__all__ = ["Muon", "make_optimizers", "orthogonalize", "set_learning_rate"]

# Coefficients of the quintic polynomial by Jordan et al. (2024). They map singular values above 0.002 to 0.7 to 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
# Scales an update to the size of an AdamW update (Liu et al. 2025, "Muon is scalable for LLM training").
_ADAMW_SIZE = 0.2


def orthogonalize(matrices: torch.Tensor, size: float = 1.0) -> torch.Tensor:
    """Make all singular values of each matrix about equal, with five steps of a Newton-Schulz iteration.

    Each step multiplies the matrix by a polynomial of the small matrix ``M Mᵀ``. Only this small matrix is iterated.
    For kernels of 32 to 128 rows, this takes a half to a quarter of the time of an iteration on the matrices
    themselves (benchmarks/muon.py).

    Parameters
    ----------
    matrices : Tensor of float32, shape ``(B, m, n)``
    size : float, optional
        Value of the singular values.

    Returns
    -------
    Tensor of float32, shape ``(B, m, n)``
        About ``size · U Vᵀ`` for ``M = U S Vᵀ``. A zero matrix stays zero.

    References
    ----------
    Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".

    Examples
    --------
    >>> values = orthogonalize(torch.diag_embed(torch.tensor([[3.0, 1.0]]))).diagonal(dim1=1, dim2=2)
    >>> [round(value, 1) for value in values[0].tolist()]
    [0.8, 1.1]
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalize(matrices.transpose(1, 2), size).transpose(1, 2)
    a, b, c = _QUINTIC
    norm = matrices.flatten(1).norm(dim=1).clamp_min(1e-7)[:, None, None]
    gram = matrices @ matrices.transpose(1, 2) / norm.square()
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    product = identity.expand_as(gram) * (size / norm)
    for _ in range(_ITERATIONS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ matrices


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalised updates, kernel by kernel (Jordan et al. 2024).

    A kernel ``(out, in, z, y, x)`` is treated as the matrix ``(out, in · z · y · x)``. The Muon optimiser of PyTorch is
    not used, because it accepts only matrices and iterates on them in bfloat16. On a CPU without bfloat16, one of its
    steps took 32 times as long (benchmarks/muon.py), several times the rest of the training step.

    Parameters
    ----------
    params : iterable of Parameter
        Parameters of two or more dimensions.
    lr : float
        Learning rate. The root mean square of an update is about a fifth of it.
    weight_decay : float, optional
        Decay per step, relative to the learning rate and independent of the gradient.
    rate_factor : float, optional
        See :func:`set_learning_rate`.
    momentum : float, optional
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        rate_factor: float = 1.0,
        momentum: float = 0.95,
    ) -> None:
        settings = {"lr": lr, "weight_decay": weight_decay, "rate_factor": rate_factor, "momentum": momentum}
        super().__init__(params, settings)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            # Kernels of one shape are updated together as one batch.
            same_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append(parameter)
            for parameters in same_shape.values():
                self._step_batch(parameters, group)

    def _step_batch(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        """Update parameters of one shape."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(gradient)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        nesterov = torch._foreach_lerp(gradients, momenta, group["momentum"])
        matrices = torch.stack([_as_matrix(direction) for direction in nesterov])
        updates = orthogonalize(matrices.float(), _ADAMW_SIZE * max(matrices.shape[1:]) ** 0.5)
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(_as_kernel(update, parameter.shape).to(parameter.dtype), alpha=-group["lr"])


def _as_matrix(kernel: torch.Tensor) -> torch.Tensor:
    """Reshape ``(out, in, *size)`` to ``(out, size · in)``, in the order of channels-last memory."""
    return kernel.movedim(1, -1).flatten(1)


def _as_kernel(matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Undo :func:`_as_matrix`."""
    return matrix.view(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def make_optimizers(model: nn.Module, plan: TrainingPlan) -> list[torch.optim.Optimizer]:
    """Make AdamW, and Muon for kernels of more than one voxel unless ``muon_lr_factor`` is 0.

    Weight decay applies to the weights of layers, not to biases and normalisation.

    Parameters
    ----------
    model : Module
    plan : TrainingPlan
        ``learning_rate``, ``muon_lr_factor`` and ``weight_decay`` are used.

    Returns
    -------
    list of Optimizer
        AdamW first. Together they contain each parameter once. Each parameter group has a ``rate_factor``.
    """
    spatial, matrices, vectors = [], [], []
    for parameter in model.parameters():
        if parameter.ndim <= 1:
            vectors.append(parameter)
        elif plan.muon_lr_factor and parameter[0, 0].numel() > 1:
            spatial.append(parameter)
        else:
            matrices.append(parameter)
    decay = plan.weight_decay
    groups = [
        {"params": matrices, "weight_decay": decay, "rate_factor": 1.0},
        {"params": vectors, "weight_decay": 0.0, "rate_factor": 1.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=plan.learning_rate, fused=True)]
    if spatial:
        optimizers.append(Muon(spatial, plan.learning_rate, decay, plan.muon_lr_factor))
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of each parameter group to ``rate`` times its ``rate_factor``, in place.

    Parameters
    ----------
    optimizers : iterable of Optimizer
        From :func:`make_optimizers`.
    rate : float
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
