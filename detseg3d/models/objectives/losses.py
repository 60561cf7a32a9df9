"""The loss functions of both stages. All are computed in float32, whatever the network ran in."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from detseg3d.models.networks.detector import LevelOutput
from detseg3d.models.objectives.targets import LevelTargets

__all__ = [
    "DetectionLosses",
    "detection_losses",
    "heatmap_focal_loss",
    "roi_mask_loss",
    "roi_score_loss",
]


# The exponents of the focal loss, as published (Zhou et al. 2019). Other values were not better (docs/research_log).
_ALPHA = 2.0
_BETA = 4.0


def heatmap_focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of the penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), from logits.

    Cells with target 1 are positives. The others are negatives, and their weight is ``(1 - target)^4``.

    Parameters
    ----------
    logits, target : Tensor, equal shapes
        Targets in [0, 1].

    Returns
    -------
    Tensor, scalar, float32
        The sum over all cells; the caller divides by the positives of the batch, at least one, so that a healthy
        scan stays finite and small.
    """
    logits, target = logits.float(), target.float()
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = (target >= 1).float()
    losses = positive * (1 - p) ** _ALPHA * log_p + (1 - positive) * (1 - target) ** _BETA * p**_ALPHA * log_not_p
    return -losses.sum()


class DetectionLosses(NamedTuple):
    """The parts of Stage 1's loss, scalars."""

    heatmap: torch.Tensor
    size: torch.Tensor
    offset: torch.Tensor


def detection_losses(
    outputs: list[LevelOutput], targets: list[LevelTargets], positives: float | None = None
) -> DetectionLosses:
    """Losses over all levels, divided by ``positives``: the lesions of the batch, at least 1.

    Size and offset are the mean absolute errors over the axes, summed over the cells that learn a box. Sizes are
    compared as logarithms: a factor of two costs the same for a small and a large lesion.

    Parameters
    ----------
    outputs, targets : lists with one entry per level
    positives : float, optional
        Default: the cells of ``targets`` that learn a box.
    """
    if positives is None:
        positives = float(max(1, sum(len(target.cells) for target in targets)))
    device = outputs[0].heatmap.device
    heatmap, size, offset = (torch.zeros((), device=device) for _ in range(3))
    for output, target in zip(outputs, targets, strict=True):
        heatmap = heatmap + heatmap_focal_loss(output.heatmap, target.heatmap.to(device))
        batch, z, y, x = target.cells.to(device).unbind(1)
        true_size, true_offset = target.log_size.to(device), target.offset.to(device)
        # Of the boxes of each of these cells, (P, boxes, 3), the one that it learns.
        row, box = torch.arange(len(batch), device=device), target.box.to(device)
        log_size = output.log_size[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        shift = output.offset[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        size = size + (log_size - true_size).abs().sum() / 3
        offset = offset + (shift - true_offset).abs().sum() / 3
    return DetectionLosses(heatmap / positives, size / positives, offset / positives)


def roi_mask_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Loss of each RoI's mask: soft Dice plus binary cross-entropy; an RoI without a lesion has the latter only.

    A mean over these gives every lesion the same weight, whatever its size. Voxels of other lesions carry weight 0;
    their logits are left alone, so a perfect prediction costs nothing.

    Parameters
    ----------
    logits, target, weight : Tensor, shape ``(N, z, y, x)``
        ``target`` is soft (the interpolated mask); ``weight`` in [0, 1].

    Returns
    -------
    Tensor of float32, shape ``(N,)``
    """
    logits, target, weight = logits.float().flatten(1), target.float().flatten(1), weight.float().flatten(1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (entropy * weight).sum(1) / weight.sum(1).clamp_min(1)
    p = logits.sigmoid() * weight
    truth = target * weight
    volume = truth.sum(1)
    # Squares in the denominator: for a soft target the loss is lowest where the prediction equals it (V-Net).
    dice = (2 * (p * truth).sum(1) + 1) / ((p * p).sum(1) + (truth * truth).sum(1) + 1)
    return entropy + torch.where(volume > 0, 1 - dice, torch.zeros_like(dice))


def roi_score_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of "the thing in the middle is a lesion" over RoIs; 0 without any RoI."""
    if logits.numel() == 0:
        return logits.float().sum()
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float())
