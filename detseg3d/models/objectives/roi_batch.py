"""The RoIs of a training batch: their crops and the targets of Stage 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.roi import apply_separable, crop_plan
from detseg3d.models.objectives.roi_sampling import RoiSample
from detseg3d.models.objectives.targets import VolumeTargets

__all__ = ["RoiBatch", "instance_crops"]


@dataclass(frozen=True)
class RoiBatch:
    """The RoIs of a batch and their targets, in the same order."""

    crops: torch.Tensor  # (N, C + 1, z, y, x)
    target: torch.Tensor  # (N, z, y, x), soft mask of the RoI's own lesion
    weight: torch.Tensor  # (N, z, y, x), 0 where another lesion of the class lies, or outside the volume
    classes: torch.Tensor  # (N,)
    positive: torch.Tensor  # (N,), 1 if the RoI shows its lesion, else 0
    rois: list[npt.NDArray[Any]]  # (n, 6) for each volume, fine voxel edges


def instance_crops(
    target: VolumeTargets, sample: RoiSample, rois: npt.NDArray[Any], size: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop the instance map of a volume to RoIs, as soft masks.

    Lesions of another class count as background. Stage 2 segments the given class of an RoI, so lesions of other
    classes cannot be confused with the RoI's lesion.

    Parameters
    ----------
    target : VolumeTargets
    sample : RoiSample
        Class and lesion of each RoI.
    rois : ndarray, shape ``(N, 6)``
        In fine voxel edges.
    size : tuple of 3 ints
        Samples ``(z, y, x)`` of an RoI.

    Returns
    -------
    own, others : Tensor of float32, shape ``(N, z, y, x)``
        The RoI's own lesion, and all other lesions of its class.
    """
    class_of_id = np.full(int(target.ids.max(initial=0)) + 1, -1, np.int64)
    class_of_id[target.ids] = target.classes
    lookup = torch.from_numpy(class_of_id)
    own_masks, other_masks = [], []
    for roi, label, lesion in zip(rois, sample.classes, sample.ids, strict=True):
        region, matrices = crop_plan(roi, target.instances.shape, size)
        block = target.instances[region].long()
        own = (block == int(lesion)) & (block > 0)
        other = (lookup[block] == int(label)) & (block > 0) & ~own
        both = apply_separable(torch.stack([own, other]).float(), matrices)
        own_masks.append(both[0])
        other_masks.append(both[1])
    if not own_masks:
        return torch.zeros((0, *size)), torch.zeros((0, *size))
    return torch.stack(own_masks), torch.stack(other_masks)
