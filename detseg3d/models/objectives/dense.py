"""The dense map of Stage 1 in training: its targets and its loss.

For every cell of one level, the map gives the fraction that lesions of a class fill (Retina U-Net, Jaeger et al. 2020).
The heads learn no box larger than the training lesions. But a cell inside a lesion looks the same in a larger lesion.
So the map also shows larger lesions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from detseg3d.models.objectives.targets import VolumeTargets

__all__ = ["DenseTargets", "dense_loss", "dense_targets"]

# Most cells of the background are easy, so that their mean loss is small. Without this weight, a few false positives
# would cost almost nothing.
_BACKGROUND_WEIGHT = 4.0


@dataclass(frozen=True)
class DenseTargets:
    """The targets of the dense map for a batch.

    Attributes
    ----------
    occupancy : Tensor of float32, shape ``(B, K, z, y, x)``
        Fraction of each cell that lesions of the class fill.
    weight : Tensor of float32, shape ``(B, K, z, y, x)``
        Weight of each cell in the mean over lesions. The weights of a volume and a class sum to 1, or to 0 without a
        lesion. All lesions of the class have equal weight, which their voxels share.
    """

    occupancy: torch.Tensor
    weight: torch.Tensor


def dense_targets(
    targets: Sequence[VolumeTargets], num_classes: int, shape: Sequence[int], cell_size: Sequence[float]
) -> DenseTargets:
    """Make the targets of the dense map for a batch of volumes of equal shape.

    Parameters
    ----------
    targets : sequence with one VolumeTargets per volume
    num_classes : int
    shape : sequence of 3 ints
        Number of cells ``(z, y, x)``.
    cell_size : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)``. A voxel belongs to the cell that contains its centre.

    Returns
    -------
    DenseTargets
        On the CPU.
    """
    cells = math.prod(shape)
    occupancy = torch.zeros(len(targets), num_classes, cells)
    weight = torch.zeros_like(occupancy)
    for volume, target in enumerate(targets):
        # Only voxels of lesions are visited, because they are few.
        voxels = target.instances.cpu().nonzero()
        if not len(voxels):
            continue
        axes = [
            _cell_of_voxel(length, count, size)
            for length, count, size in zip(target.instances.shape, shape, cell_size, strict=True)
        ]
        z, y, x = (of_voxel[column] for of_voxel, column in zip(axes, voxels.unbind(1), strict=True))
        labels = target.instances.cpu()[voxels.unbind(1)].long()
        lesion = torch.searchsorted(torch.from_numpy(target.ids), labels)
        classes = torch.from_numpy(target.classes)
        place = classes[lesion] * cells + (z * shape[1] + y) * shape[2] + x
        share = 1.0 / (torch.bincount(lesion)[lesion] * torch.bincount(classes, minlength=num_classes)[classes[lesion]])
        filled = torch.bincount(place, minlength=num_classes * cells).view(num_classes, cells)
        depth, height, width = (
            torch.bincount(of_voxel, minlength=count) for of_voxel, count in zip(axes, shape, strict=True)
        )
        held = (depth[:, None, None] * height[:, None] * width).flatten()
        occupancy[volume] = filled / held.clamp_min(1)
        weight[volume] = torch.bincount(place, share, num_classes * cells).view(num_classes, cells)
    size = (len(targets), num_classes, *shape)
    return DenseTargets(occupancy.view(size), weight.view(size))


def _cell_of_voxel(length: int, count: int, size: float) -> torch.Tensor:
    """Return the cell of each of ``length`` voxels along an axis with ``count`` cells of ``size`` voxels."""
    middle = torch.arange(length, dtype=torch.float64) + 0.5
    return (middle / size).floor().long().clamp_max(count - 1)


def dense_loss(logits: torch.Tensor, targets: DenseTargets) -> torch.Tensor:
    """Compute the loss of the dense map: binary cross-entropy and soft Dice loss, each with weight one half.

    The cross-entropy is the mean over the lesions of the mean over each lesion's cells, plus four times the mean over
    the cells without a lesion. Thus small and large lesions have the same weight. The Dice loss limits false positives.
    It counts only in volumes with a lesion of the class.

    Parameters
    ----------
    logits : Tensor, shape ``(B, K, z, y, x)``
    targets : DenseTargets
        On the device of ``logits``.

    Returns
    -------
    Tensor, scalar, float32
        Mean over volumes and classes.
    """
    occupancy, weight = targets.occupancy.flatten(2), targets.weight.flatten(2)
    logits = logits.float().flatten(2)
    entropy = functional.binary_cross_entropy_with_logits(logits, occupancy, reduction="none")
    empty = (occupancy == 0).float()
    lesions = (entropy * weight).sum(2)
    background = (entropy * empty).sum(2) / empty.sum(2).clamp_min(1)
    p = logits.sigmoid()
    # With squares in the denominator (V-Net) the loss of a soft target is lowest if the prediction equals the target.
    dice = (2 * (p * occupancy).sum(2) + 1) / ((p * p).sum(2) + (occupancy * occupancy).sum(2) + 1)
    overlap = torch.where(occupancy.amax(2) > 0, 1 - dice, torch.zeros_like(dice))
    return (0.5 * (lesions + _BACKGROUND_WEIGHT * background + overlap)).mean()
