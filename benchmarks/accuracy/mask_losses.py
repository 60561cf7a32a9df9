"""Mask losses that are compared with the loss of the RoIs, as functions for ``detseg3d_train --loss module:function``.

Each function takes logits, target and weight of the RoIs, each ``(N, z, y, x)``, and returns the loss of each mask,
``(N,)``. An RoI shows the soft mask of its own lesion as target. Voxels of other lesions, and voxels outside the
volume, have weight 0.

Losses of whole images that weigh lesions equally change little in an RoI. The part of the blob loss that belongs to a
lesion (Kofler et al. 2023) is the Dice loss with all other lesions left out. In an RoI this is the usual loss with
another denominator (:func:`blob_dice_ce`). The loss per component (:func:`component_dice_ce`) also leaves out the
voxels that lie nearer to another lesion.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn import functional

__all__ = ["blob_dice_ce", "component_dice_ce"]


def blob_dice_ce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus Dice loss without squares, with other lesions left out.

    References
    ----------
    Kofler et al. 2023, "blob loss: instance imbalance aware loss functions for semantic segmentation", IPMI.
    """
    return _dice_ce(logits, target, weight)


def component_dice_ce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return cross-entropy plus Dice loss over the voxels that lie nearer to the RoI's lesion than to other lesions.

    An RoI without a lesion has no such region, so its cross-entropy covers the whole RoI.

    References
    ----------
    Jaus et al. 2024, "Every Component Counts: Rethinking the Measure of Success for Medical Semantic Segmentation in
    Multi-Instance Segmentation Tasks": each voxel belongs to the nearest connected component.
    """
    nearest = np.stack([_nearer_to_own(t, w) for t, w in zip(_array(target), _array(weight), strict=True)])
    return _dice_ce(logits, target, weight * torch.from_numpy(nearest).to(weight))


def _dice_ce(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    logits, target, weight = logits.float().flatten(1), target.float().flatten(1), weight.float().flatten(1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (entropy * weight).sum(1) / weight.sum(1).clamp_min(1)
    p, truth = logits.sigmoid() * weight, target * weight
    volume = truth.sum(1)
    dice = (2 * (p * truth).sum(1) + 1) / (p.sum(1) + volume + 1)
    return entropy + torch.where(volume > 0, 1 - dice, torch.zeros_like(dice))


def _nearer_to_own(target: npt.NDArray[Any], weight: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return the samples of an RoI that lie at most as far from its own lesion as from the nearest other lesion."""
    own, other = target >= 0.5, weight < 0.5
    if not own.any() or not other.any():
        return np.ones(target.shape, np.bool_)
    return np.asarray(distance_transform_edt(~own) <= distance_transform_edt(~other), np.bool_)


def _array(values: torch.Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = values.detach().cpu().float().numpy()
    return array
