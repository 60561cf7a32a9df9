"""State of a training: network, moving average, optimisers and progress; and the checkpoint that stores them.

A resumed training continues as if it had not been interrupted. The weights alone, for prediction and exchange, are
written by :mod:`detseg3d.models.weights`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.transfer import transfer_weights
from detseg3d.planning.plans import Plans
from detseg3d.system.device import autocast_dtype
from detseg3d.system.files import atomic_path, check_regular_file
from detseg3d.training.optimizer import make_optimizers
from detseg3d.training.options import TrainingOptions
from detseg3d.training.schedule import average_weight

__all__ = ["LossValues", "TrainingProgress", "TrainingState"]

logger = logging.getLogger(__name__)

_EPSILON = 1e-9
_ENTRIES = frozenset({"model", "average", "optimizers", "scaler", "progress", "seed"})


@dataclass(frozen=True)
class LossValues:
    """Parts of the loss of a step or their sums, see :class:`~detseg3d.models.detseg.Losses`.

    Examples
    --------
    >>> (LossValues(size=1.0, total=3.0) + LossValues(size=2.0, total=5.0)).scaled(0.5).total
    4.0
    """

    heatmap: float = 0.0
    size: float = 0.0
    offset: float = 0.0
    dense: float = 0.0
    segmentation: float = 0.0
    roi_score: float = 0.0
    total: float = 0.0

    def __add__(self, other: LossValues) -> LossValues:
        return LossValues(*(getattr(self, entry.name) + getattr(other, entry.name) for entry in fields(self)))

    def scaled(self, factor: float) -> LossValues:
        """Return all parts multiplied by ``factor``."""
        return LossValues(*(getattr(self, entry.name) * factor for entry in fields(self)))


@dataclass
class TrainingProgress:
    """How far a training is.

    Attributes
    ----------
    fraction : float
        Completed fraction of the training, 0 to 1.
    epoch, step : int
        Completed epochs and steps.
    seconds : float
        Training time, summed over all runs of the training.
    validation_seconds : float
        Time of the validations.
    best_metric : float
        Highest lesion F1 of the validations so far. Negative before the first one.
    sums : LossValues
        Sums of the losses of the current epoch.
    steps_summed : int
        Steps of the current epoch.
    unvalidated : bool
        Whether an epoch has ended whose validation is not done yet.
    max_minutes : float or None
        Time limit of the training.
    """

    fraction: float = 0.0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    validation_seconds: float = 0.0
    best_metric: float = -1.0
    sums: LossValues = field(default_factory=LossValues)
    steps_summed: int = 0
    unvalidated: bool = False
    max_minutes: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the training has reached its end."""
        return self.fraction >= 1 - _EPSILON

    def has_reached(self, fraction: float) -> bool:
        """Return whether this fraction of the training is completed."""
        return self.fraction >= fraction - _EPSILON

    def add_losses(self, losses: LossValues) -> None:
        """Add the losses of a step to the current epoch."""
        self.sums = self.sums + losses
        self.steps_summed += 1

    def close_epoch(self) -> LossValues:
        """End the current epoch and return its mean losses."""
        count = max(self.steps_summed, 1)
        means = LossValues(*(getattr(self.sums, entry.name) / count for entry in fields(self.sums)))
        self.epoch += 1
        self.sums, self.steps_summed, self.unvalidated = LossValues(), 0, True
        return means


@dataclass
class TrainingState:
    """Everything that a training needs in order to continue.

    Attributes
    ----------
    model : DetSeg3D
        The network being trained.
    average : DetSeg3D
        Moving average of the weights of ``model``. It is validated and becomes the trained model.
    optimizers : sequence of Optimizer
    scaler : GradScaler or None
        Scale of the loss in float16. ``None`` in other precisions.
    seed : int
    progress : TrainingProgress
    """

    model: DetSeg3D
    average: DetSeg3D
    optimizers: Sequence[torch.optim.Optimizer]
    scaler: torch.amp.GradScaler | None = None
    seed: int = 0
    progress: TrainingProgress = field(default_factory=TrainingProgress)

    @classmethod
    def begin(cls, plans: Plans, options: TrainingOptions) -> TrainingState:
        """Return the state at the beginning of a training.

        Parameters
        ----------
        plans : Plans
        options : TrainingOptions
            The seed, the device, the network and the pretrained weights are used.

        Raises
        ------
        DetSeg3DError
            If the pretrained weights cannot be used.
        """
        seed = options.seed or 0
        torch.manual_seed(seed)
        model = options.build_model(plans).to(options.device)
        if options.pretrained_weights is not None:
            logger.info("pretrained weights: %s", options.pretrained_weights)
            for module in transfer_weights(model, options.pretrained_weights).modules:
                logger.info("  %s", module)
        average = copy.deepcopy(model).requires_grad_(False)
        needs_scaling = autocast_dtype(options.device) is torch.float16
        scaler = torch.amp.GradScaler(options.device.type) if needs_scaling else None
        progress = TrainingProgress(max_minutes=options.max_minutes)
        return TrainingState(model, average, make_optimizers(model, plans.training), scaler, seed, progress)

    def update_average(self, decay: float, fraction: float) -> None:
        """Move the average towards the model after a step.

        Parameters
        ----------
        decay : float
            See :func:`~detseg3d.training.schedule.average_weight`.
        fraction : float
            Fraction of the training that the step took.
        """
        weight = average_weight(self.progress.step, decay, fraction)
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), weight)
        # Buffers, such as the statistics of a batch normalisation, are averages already.
        for average, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(current)

    def copy_for_trial(self, plans: Plans) -> TrainingState:
        """Return a state with a copy of the network, new optimisers and a copy of the progress.

        Steps on the copy do not change this state. They do use the random numbers of torch.
        """
        model = copy.deepcopy(self.model)
        scaler = None if self.scaler is None else copy.deepcopy(self.scaler)
        optimizers = make_optimizers(model, plans.training)
        return TrainingState(model, self.average, optimizers, scaler, self.seed, copy.copy(self.progress))

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically.

        Raises
        ------
        DetSeg3DError
            If the checkpoint cannot be written. An earlier checkpoint stays.
        """
        content = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "seed": self.seed,
        }
        with atomic_path(path) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # torch reports a full disk in this way; atomic_path adds the file
                raise OSError(str(error).splitlines()[0]) from error

    def load(self, path: Path, seed: int | None = None) -> None:
        """Read a checkpoint into this state.

        Parameters
        ----------
        path : Path
            File written by :meth:`save`.
        seed : int, optional
            Required seed of the checkpoint.

        Raises
        ------
        DetSeg3DError
            If the file is damaged, does not fit the plans, or belongs to a training with another seed.
        """
        content = _read_checkpoint(path)
        if seed is not None and content["seed"] != seed:
            raise DetSeg3DError(
                "the checkpoint belongs to a training with another seed",
                file=path,
                value=seed,
                expected=str(content["seed"]),
                remedy=f"resume with --seed {content['seed']}",
            )
        try:
            self.model.load_state_dict(content["model"])
            self.average.load_state_dict(content["average"])
            for optimizer, stored in zip(self.optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            progress = dict(content["progress"])
            self.progress = TrainingProgress(**{**progress, "sums": LossValues(**progress["sums"])})
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise DetSeg3DError(
                f"the checkpoint does not fit the plans: {str(error).splitlines()[0]}",
                file=path,
                remedy="train this fold again with --overwrite",
            ) from error
        if self.scaler is not None and content["scaler"] is not None:
            self.scaler.load_state_dict(content["scaler"])
        self.seed = content["seed"]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    try:
        check_regular_file(path)
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        missing = _ENTRIES - set(content)
        if missing:
            raise ValueError(f"it does not contain {', '.join(sorted(missing))}")
    except Exception as error:  # torch raises many types of errors for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]  # the error of an empty file has no text
        raise DetSeg3DError(
            f"the checkpoint cannot be read: {reason}", file=path, remedy="train this fold again with --overwrite"
        ) from error
    return content
