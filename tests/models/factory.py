"""Small volumes, targets and detections for the tests of the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from detseg3d.models.detseg import DetSeg3D, Losses
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.merge import Merged, merge_rois
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.objectives.targets import VolumeTargets, volume_targets
from detseg3d.planning.plans import Plans

SHAPE = (24, 20, 22)
LESIONS = [[4, 4, 4, 8, 8, 8], [14, 10, 5, 17, 14, 8], [2, 12, 16, 3, 13, 17]]


def make_targets(
    shape: Sequence[int], boxes: Sequence[Sequence[int]], classes: Sequence[int] | None = None
) -> VolumeTargets:
    """Return a volume with lesions 1, 2, … in these boxes; the last lesion wins in overlaps."""
    instances = np.zeros(tuple(shape), np.int32)
    for index, box in enumerate(boxes):
        instances[tuple(slice(box[axis], box[axis + 3]) for axis in range(3))] = index + 1
    of_id = np.array([0, *(classes if classes is not None else [0] * len(boxes))], np.int64)
    return volume_targets(instances, of_id)


def make_image(targets: Sequence[VolumeTargets], channels: int = 1, seed: int = 0) -> torch.Tensor:
    """Noise with bright lesions, ``(B, C, Z, Y, X)``."""
    masks = torch.stack([(target.instances > 0).float() for target in targets])[:, None]
    noise = torch.randn((len(targets), channels, *masks.shape[2:]), generator=torch.Generator().manual_seed(seed))
    return 0.3 * noise + 2 * masks


def make_detections(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], classes: Sequence[int] | None = None
) -> Detections:
    return Detections(
        np.asarray(boxes, np.float32).reshape(-1, 6),
        np.asarray(scores, np.float32),
        np.asarray(classes if classes is not None else [0] * len(boxes), np.int64),
    )


def make_model(plans: Plans, **changes: Any) -> DetSeg3D:
    torch.manual_seed(0)
    return DetSeg3D(plans.evolve(**changes))


def train(model: DetSeg3D, targets: list[VolumeTargets], seed: int = 0) -> Losses:
    image = make_image(targets, model.plans.num_channels)
    losses: Losses = model(image, mode="train", targets=targets, random=np.random.default_rng(seed))
    return losses


def gradients(module: torch.nn.Module) -> float:
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def prediction(roi: Sequence[float], candidate: int, probability: Any, score: float = 1.0) -> RoiPrediction:
    values = torch.as_tensor(np.asarray(probability, np.float16))
    return RoiPrediction(np.asarray(roi, np.float32), candidate, values, score)


def line(start: int, candidate: int, values: Sequence[float], score: float = 1.0) -> RoiPrediction:
    """An RoI of one voxel in z and y and a sample per voxel along x."""
    return prediction([0, 0, start, 1, 1, start + len(values)], candidate, np.reshape(values, (1, 1, -1)), score)


def merge_lines(
    plans: Plans, scores: Sequence[float], rois: Sequence[RoiPrediction], length: int = 24, **further: Any
) -> Merged:
    """Merge RoIs of a volume that is one line of voxels; the detected boxes are those of the masks, clipped to it."""
    boxes = [[0, 0, length, 1, 1, 0] for _ in scores]
    for roi in rois:
        where = np.flatnonzero(roi.probability.numpy().ravel() >= 0.5) + int(roi.roi[2])
        if len(where):
            box = boxes[roi.candidate]
            box[2], box[5] = max(0, min(box[2], where.min())), min(length, max(box[5], where.max() + 1))
    boxes = [[0, 0, min(box[2], box[5]), 1, 1, max(box[2], box[5])] for box in boxes]
    boxes = further.pop("boxes", boxes)
    found = make_detections(boxes, scores, further.pop("classes", None))
    return merge_rois(found, rois, (1, 1, length), plans, **further)
