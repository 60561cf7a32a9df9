"""The RoIs of a training batch: what Stage 2 sees of each and what it is to find there."""

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
    """The RoIs of a batch, aligned: the crops, what is to be found in them and where they come from."""

    crops: torch.Tensor  # (N, C + 1, z, y, x)
    target: torch.Tensor  # (N, z, y, x), soft mask of the lesion meant
    weight: torch.Tensor  # (N, z, y, x), 0 where another lesion of the class lies, or outside the volume
    classes: torch.Tensor  # (N,)
    positive: torch.Tensor  # (N,), 1 where a lesion is meant
    rois: list[npt.NDArray[Any]]  # per volume (n, 6)


def instance_crops(
    target: VolumeTargets, sample: RoiSample, rois: npt.NDArray[Any], size: tuple[int, int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft masks ``(N, z, y, x)`` of the lesion meant and of the other lesions of its class.

    Lesions of another class are plain background: the class is known, so nothing is ambiguous about them.
    """
    class_of_id = np.full(int(target.ids.max(initial=0)) + 1, -1, np.int64)
    class_of_id[target.ids] = target.classes
    lookup = torch.from_numpy(class_of_id)
    mine, others = [], []
    for roi, label, lesion in zip(rois, sample.classes, sample.ids, strict=True):
        region, matrices = crop_plan(roi, target.instances.shape, size)
        block = target.instances[region].long()
        own = (block == int(lesion)) & (block > 0)
        other = (lookup[block] == int(label)) & (block > 0) & ~own
        both = apply_separable(torch.stack([own, other]).float(), matrices)
        mine.append(both[0])
        others.append(both[1])
    if not mine:
        return torch.zeros((0, *size)), torch.zeros((0, *size))
    return torch.stack(mine), torch.stack(others)
