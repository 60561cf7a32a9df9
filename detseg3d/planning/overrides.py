"""Settings of a training that replace values of the plans."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from detseg3d.core.augmentation import Augmentation
from detseg3d.core.precision import Precision
from detseg3d.planning.mirroring import copied_axes
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.length import choose_val_every
from detseg3d.planning.rules.rois import requested_roi_size
from detseg3d.planning.rules.segmenter import stage2_plan

__all__ = ["TrainingOverrides", "apply_overrides"]

# Overrides that are not fields of the training section of the plans.
_OTHERS = frozenset({"epochs", "roi_size", "disable_tta", "whole_volume"})


@dataclass(frozen=True)
class TrainingOverrides:
    """Values that replace those of the plans. ``None`` keeps the value of the plans.

    Attributes
    ----------
    steps : int, optional
        Length of the training. Validations are then as frequent as the planner would choose for this length.
    epochs : int, optional
        Length of the training in epochs; takes precedence over ``steps``.
    batch_size : int, optional
    learning_rate : float, optional
    hard_negative_threshold : float, optional
    mask_loss_weight : float, optional
    val_every : int, optional
        Epochs between validations.
    mirror_axes : tuple of int, optional
        Axes of the flips in training, 0 is z. If the plans average a mirrored copy at inference, it is mirrored along
        the last of these axes.
    augmentation : Augmentation, optional
    precision : Precision, optional
    network, mask_loss : str, optional
        Custom code, see :class:`~detseg3d.models.custom.CustomCode`.
    roi_size : int, optional
        Edge of the RoI in samples. The planner's rules give fewer samples along coarse axes and a U-Net that fits.
    disable_tta : bool
        Do not average mirrored copies at inference.
    whole_volume : bool
        Train on whole volumes from the beginning.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    hard_negative_threshold: float | None = None
    mask_loss_weight: float | None = None
    val_every: int | None = None
    mirror_axes: tuple[int, ...] | None = None
    augmentation: Augmentation | None = None
    precision: Precision | None = None
    network: str | None = None
    mask_loss: str | None = None
    roi_size: int | None = None
    disable_tta: bool = False
    whole_volume: bool = False

    def given(self) -> dict[str, Any]:
        """Return the values that replace those of the plans, by name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if value is not None and value is not False}


def apply_overrides(plans: Plans, overrides: TrainingOverrides) -> Plans:
    """Return the plans with the given values.

    Parameters
    ----------
    plans : Plans
    overrides : TrainingOverrides

    Returns
    -------
    Plans

    Raises
    ------
    DetSeg3DError
        If a value is not valid.
    """
    training = {name: value for name, value in overrides.given().items() if name not in _OTHERS}
    if overrides.epochs is not None:
        training["steps"] = overrides.epochs * plans.training.steps_per_epoch
    if "steps" in training:
        epochs = math.ceil(training["steps"] / plans.training.steps_per_epoch)
        training = {"val_every": choose_val_every(epochs), **training}
    if overrides.whole_volume:
        training["curriculum"] = [{"fraction": 1.0, "window": None}]
    changes: dict[str, Any] = {"training": training}
    if overrides.mirror_axes is not None and plans.inference.mirror_axes:
        changes["inference"] = {"mirror_axes": copied_axes(overrides.mirror_axes)}
    if overrides.disable_tta:
        changes["inference"] = {"mirror_axes": ()}
    if overrides.roi_size is not None:
        size = requested_roi_size(overrides.roi_size, plans.fine_spacing, plans.planned_shape)
        shape = stage2_plan(size, plans.fine_spacing).model_dump(include={"channels", "strides", "kernels"})
        changes |= {"roi": {"size": size}, "stage2": shape}
    return plans.evolve(**changes)
