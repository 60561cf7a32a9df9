"""Settings of one run of the training. The plans hold the settings that change what is learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from detseg3d.data.case_store import CaseStore
from detseg3d.models.detseg import DetSeg3D
from detseg3d.planning.plans import Plans
from detseg3d.training.distributed import DistributedContext

__all__ = ["MAX_SHIFTED_SCANS", "TrainingData", "TrainingOptions"]

MAX_SHIFTED_SCANS = 20
"""Largest number of shifted validation scans of a fold, if the user chooses no number."""


@dataclass(frozen=True)
class TrainingData:
    """Preprocessed cases of a fold.

    Attributes
    ----------
    store : CaseStore
    train_cases : sequence of str
    val_cases : sequence of str
        Cases on which the network is validated during the training. May be empty.
    """

    store: CaseStore
    train_cases: Sequence[str]
    val_cases: Sequence[str] = ()


@dataclass(frozen=True)
class TrainingOptions:
    """Settings of one run of the training.

    Attributes
    ----------
    device : torch.device
    seed : int or None
        ``None``: 0, or the seed of the training that is resumed.
    num_workers : int
        Processes that prepare windows. With 0, the main process prepares them.
    max_minutes : float or None
        Time limit of the training. The whole schedule is then fitted into this time.
    resume : bool
        Continue the training from its checkpoint, if there is one.
    overwrite : bool
        Train a fold that is trained already. Its files stay until the new model is complete.
    pretrained_weights : Path or None
        Weights with which the training starts, see :func:`~detseg3d.models.transfer.transfer_weights`.
    show_progress : bool
        Show a progress bar if the standard error output is a terminal.
    tensorboard : bool
        Write the metrics of the training log for TensorBoard, too.
    distributed : DistributedContext
        Processes that train together.
    shifted_scans : int or None
        Largest number of shifted copies of validation scans that are predicted after the validation. ``None``: one for
        each validation scan, at most :data:`MAX_SHIFTED_SCANS`.
    build_model : callable
        Makes the network of the plans: :class:`~detseg3d.models.detseg.DetSeg3D`, or a user's own subclass.
    check_precision : bool
        Compare half precision with float32 before the training.
    max_batch_voxels : int
        Windows of one shape with at most this many voxels run as one batch, larger ones one by one. This bounds the
        memory.
    seconds_between_checkpoints : float
        Time after which a checkpoint is written within a long epoch.
    min_timed_steps : int
        The duration of a training with fewer steps is not estimated, because the estimate would take a large part of
        its time.
    clock : callable
        Returns seconds. Only tests replace it.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int | None = None
    num_workers: int = 0
    max_minutes: float | None = None
    resume: bool = False
    overwrite: bool = False
    pretrained_weights: Path | None = None
    show_progress: bool = True
    tensorboard: bool = False
    distributed: DistributedContext = field(default_factory=DistributedContext)
    shifted_scans: int | None = None
    build_model: Callable[[Plans], DetSeg3D] = DetSeg3D
    check_precision: bool = True
    max_batch_voxels: int = 128**3
    seconds_between_checkpoints: float = 300.0
    min_timed_steps: int = 500
    clock: Callable[[], float] = time.monotonic
