"""The loss functions of both stages. All are computed in float32, also if the network runs in half precision."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional

from detseg3d.models.networks.detector import LevelOutput
from detseg3d.models.objectives.targets import LevelTargets

__all__ = ["detection_losses", "heatmap_focal_loss", "roi_mask_loss", "roi_score_loss"]


# The exponents of the focal loss, as published (Zhou et al. 2019). Other values were not better (docs/research_log).
_ALPHA = 2.0
_BETA = 4.0


def heatmap_focal_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), summed over all cells.

    Cells with target 1 are positives. The others are negatives, and their weight is ``(1 - target)^4``.

    Parameters
    ----------
    logits, target : Tensor, equal shapes
        Targets in [0, 1].

    Returns
    -------
    Tensor, scalar, float32
        The caller divides the sum by the number of lesions of the batch, at least 1, so that the loss of a healthy scan
        is finite and small.
    """
    logits, target = logits.float(), target.float()
    log_p, log_not_p = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    p = logits.sigmoid()
    positive = (target >= 1).float()
    losses = positive * (1 - p) ** _ALPHA * log_p + (1 - positive) * (1 - target) ** _BETA * p**_ALPHA * log_not_p
    return -losses.sum()


class DetectionLosses(NamedTuple):
    """The terms of the loss of Stage 1, each a scalar tensor."""

    heatmap: torch.Tensor
    size: torch.Tensor
    offset: torch.Tensor


def detection_losses(
    outputs: list[LevelOutput], targets: list[LevelTargets], positives: float | None = None
) -> DetectionLosses:
    """Compute the losses of Stage 1 over all levels, divided by ``positives``.

    Size and offset are the mean absolute errors over the axes, summed over the cells that learn a box. Sizes are
    compared as logarithms: a factor of two costs the same for a small and a large lesion.

    Parameters
    ----------
    outputs, targets : lists with one entry per level
    positives : float, optional
        Divisor; by default the number of cells of ``targets`` that learn a box, at least 1.

    Returns
    -------
    DetectionLosses
    """
    if positives is None:
        positives = float(max(1, sum(len(target.cells) for target in targets)))
    device = outputs[0].heatmap.device
    heatmap, size, offset = (torch.zeros((), device=device) for _ in range(3))
    for output, target in zip(outputs, targets, strict=True):
        heatmap = heatmap + heatmap_focal_loss(output.heatmap, target.heatmap.to(device))
        batch, z, y, x = target.cells.to(device).unbind(1)
        true_size, true_offset = target.log_size.to(device), target.offset.to(device)
        # Each of these cells has one box per class or one box for all, (P, boxes, 3). One of them learns.
        row, box = torch.arange(len(batch), device=device), target.box.to(device)
        log_size = output.log_size[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        shift = output.offset[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        size = size + (log_size - true_size).abs().sum() / 3
        offset = offset + (shift - true_offset).abs().sum() / 3
    return DetectionLosses(heatmap / positives, size / positives, offset / positives)


def roi_mask_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute the loss of each RoI's mask: binary cross-entropy, plus soft Dice loss if the RoI shows its lesion.

    The mean over RoIs gives large and small lesions the same weight. Voxels of other lesions have weight 0 and do not
    contribute, so a perfect mask of the RoI's own lesion costs nothing.

    Parameters
    ----------
    logits, target, weight : Tensor, shape ``(N, z, y, x)``
        ``target`` is the interpolated mask, from 0 to 1. ``weight`` is from 0 to 1.

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
    # With squares in the denominator (V-Net) the loss of a soft target is lowest if the prediction equals the target.
    dice = (2 * (p * truth).sum(1) + 1) / ((p * p).sum(1) + (truth * truth).sum(1) + 1)
    return entropy + torch.where(volume > 0, 1 - dice, torch.zeros_like(dice))


def roi_score_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Compute the mean binary cross-entropy of the RoI scores, ``(N,)``; 0 without any RoI.

    The target is 1 if the RoI shows the lesion that it is meant for, else 0.
    """
    if logits.numel() == 0:
        return logits.float().sum()
    return functional.binary_cross_entropy_with_logits(logits.float(), target.float())
