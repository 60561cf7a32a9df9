"""The loss functions of both stages. All are computed in float32, whatever the network ran in."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch.nn import functional

from detseg3d.models.networks.detector import LevelOutput
from detseg3d.models.objectives.targets import LevelTargets

__all__ = [
    "DetectionLosses",
    "detection_losses",
    "diou_loss",
    "heatmap_focal_loss",
    "roi_mask_loss",
    "roi_score_loss",
]


def heatmap_focal_loss(
    logits: torch.Tensor, target: torch.Tensor, alpha: float = 2.0, beta: float = 4.0
) -> torch.Tensor:
    """Sum of the penalty-reduced focal loss of CenterNet (Zhou et al. 2019, eq. 1), from logits.

    Cells with target 1 are positives; the others are negatives whose weight falls with ``(1 - target)^beta``.

    Parameters
    ----------
    logits, target : Tensor, equal shapes
        Targets in [0, 1].
    alpha : float
        How much cells that are right already are discounted.
    beta : float

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
    losses = positive * (1 - p) ** alpha * log_p + (1 - positive) * (1 - target) ** beta * p**alpha * log_not_p
    return -losses.sum()


class DetectionLosses(NamedTuple):
    """The parts of Stage 1's loss, scalars."""

    heatmap: torch.Tensor
    size: torch.Tensor
    offset: torch.Tensor
    overlap: torch.Tensor


def detection_losses(
    outputs: list[LevelOutput],
    targets: list[LevelTargets],
    positives: float | None = None,
    alpha: float = 2.0,
    beta: float = 4.0,
    box_loss: Literal["l1", "diou", "both"] = "l1",
) -> DetectionLosses:
    """Losses over all levels, divided by ``positives``: the lesions of the batch, at least 1.

    Size and offset are L1 at the cells that learn a box, averaged over the axes. Sizes are compared as logarithms:
    a factor of two counts alike for a small and a large lesion. Overlap is 1 - DIoU at the same cells. What
    ``box_loss`` does not ask for is not computed, and 0.

    Parameters
    ----------
    outputs, targets : lists with one entry per level
    positives : float, optional
        Default: the lesions of the targets.
    alpha, beta : float
        Of :func:`heatmap_focal_loss`.
    box_loss : {"l1", "diou", "both"}
        L1 of size and offset, :func:`diou_loss`, or both.
    """
    if positives is None:
        positives = max(1.0, float(sum(target.weight.sum() for target in targets)))
    device = outputs[0].heatmap.device
    heatmap, size, offset, overlap = (torch.zeros((), device=device) for _ in range(4))
    for output, target in zip(outputs, targets, strict=True):
        heatmap = heatmap + heatmap_focal_loss(output.heatmap, target.heatmap.to(device), alpha, beta)
        batch, z, y, x = target.cells.to(device).unbind(1)
        weight = target.weight.to(device)[:, None]
        true_size, true_offset = target.log_size.to(device), target.offset.to(device)
        # Of the boxes of each of these cells, (P, boxes, 3), the one that it learns.
        row, box = torch.arange(len(batch), device=device), target.box.to(device)
        log_size = output.log_size[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        shift = output.offset[batch, :, z, y, x].unflatten(1, (-1, 3))[row, box].float()
        if box_loss != "diou":
            size = size + ((log_size - true_size).abs() * weight).sum() / 3
            offset = offset + ((shift - true_offset).abs() * weight).sum() / 3
        if box_loss != "l1":
            overlap = overlap + (diou_loss(log_size, shift, true_size, true_offset) * weight[:, 0]).sum()
    return DetectionLosses(heatmap / positives, size / positives, offset / positives, overlap / positives)


def diou_loss(
    log_size: torch.Tensor, center: torch.Tensor, true_log_size: torch.Tensor, true_center: torch.Tensor
) -> torch.Tensor:
    """One minus the distance-IoU of pairs of boxes (Zheng et al. 2020): 1 - IoU + d² / c².

    ``d`` is the distance of the centres, ``c`` the diagonal of the box that encloses both.

    Parameters
    ----------
    log_size, center, true_log_size, true_center : Tensor, shape ``(P, 3)``
        Logarithm of the edges, and centres, in one unit.

    Returns
    -------
    Tensor, shape ``(P,)``
    """
    # As wide as decoding allows: a wild regression must not overflow.
    half, true_half = log_size.clamp(-6, 6).exp() / 2, true_log_size.clamp(-6, 6).exp() / 2
    low, high = center - half, center + half
    true_low, true_high = true_center - true_half, true_center + true_half
    common = (torch.minimum(high, true_high) - torch.maximum(low, true_low)).clamp_min(0).prod(1)
    union = (2 * half).prod(1) + (2 * true_half).prod(1) - common
    diagonal = (torch.maximum(high, true_high) - torch.minimum(low, true_low)).square().sum(1)
    return 1 - common / union + (center - true_center).square().sum(1) / diagonal


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
