"""The checkpoint of a training: everything it needs to go on as if it had never stopped.

To use or share a model, its weights alone are written by :mod:`detseg3d.models.weights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import atomic_path, check_regular_file

__all__ = ["Progress", "load_checkpoint", "save_checkpoint"]


@dataclass
class Progress:
    """How far a training is: plain numbers, so that they survive ``weights_only`` loading.

    ``fraction`` runs from 0 to 1 over the whole training; ``seconds`` is the training time of all its parts. Of the
    epoch under way, ``sums`` are the losses of its ``steps_summed`` steps. ``unvalidated`` says that an epoch has just
    ended and what follows an epoch is still to come. ``max_minutes`` is the time limit, if there is one.
    """

    fraction: float = 0.0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    best_metric: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)
    steps_summed: int = 0
    unvalidated: bool = False
    max_minutes: float | None = None

    def add_step(self, losses: Mapping[str, float]) -> None:
        """Count the losses of a step to its epoch."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps_summed += 1

    def close_epoch(self) -> dict[str, float]:
        """The mean losses of the epoch under way, which ends."""
        means = {name: value / max(self.steps_summed, 1) for name, value in self.sums.items()}
        self.epoch += 1
        self.sums, self.steps_summed, self.unvalidated = {}, 0, True
        return means


def save_checkpoint(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None,
    progress: Progress,
    seed: int,
) -> None:
    """Write everything a training needs to go on as if it had never stopped, atomically.

    Raises
    ------
    DetSeg3DError
        If it cannot be written; an earlier checkpoint stays.
    """
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "scaler": None if scaler is None else scaler.state_dict(),
        "progress": asdict(progress),
        "seed": seed,
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # how torch says that the disk is full; atomic_path names the file
            raise OSError(str(error).splitlines()[0]) from error


def load_checkpoint(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: torch.amp.GradScaler | None,
    seed: int | None = None,
) -> tuple[Progress, int]:
    """Bring a training back to where :func:`save_checkpoint` left it; returns how far it was, and its seed.

    Parameters
    ----------
    path : Path
    model, average : Module
    optimizers : sequence of Optimizer
    scaler : GradScaler or None
    seed : int, optional
        That it must have been begun with.

    Raises
    ------
    DetSeg3DError
        If the file is broken, was made with another seed, or does not fit the plans.
    """
    try:
        check_regular_file(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = {"model", "average", "optimizers", "scaler", "progress", "seed"} - set(state)
        if missing:
            raise ValueError(f"it holds no {', '.join(sorted(missing))}")
    except Exception as error:  # torch raises many types for a broken file, all meaning the same to the user
        reason = (str(error) or type(error).__name__).splitlines()[0]  # an empty file gives an error without words
        raise DetSeg3DError(
            f"the checkpoint cannot be read: {reason}", file=path, remedy="train this fold anew with --overwrite"
        ) from error
    if seed is not None and state["seed"] != seed:
        raise DetSeg3DError(
            "the checkpoint belongs to a training with another seed",
            file=path,
            value=seed,
            expected=str(state["seed"]),
            remedy=f"resume with --seed {state['seed']}",
        )
    try:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, of_optimizer in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(of_optimizer)
        progress = Progress(**state["progress"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise DetSeg3DError(
            f"the checkpoint does not fit the plans: {str(error).splitlines()[0]}",
            file=path,
            remedy="train this fold anew with --overwrite",
        ) from error
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    return progress, state["seed"]
