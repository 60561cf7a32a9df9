"""Sampling of the RoIs that Stage 2 trains on: jittered true boxes, proposals, hard negatives and some background.

True boxes alone would teach Stage 2 that a lesion always lies exactly in the centre and that every RoI holds one.
Proposals show the errors of Stage 1 as they occur at inference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import AnyFloatArray
from detseg3d.core.boxes import as_boxes, box_centers, box_sizes, boxes_from_centers_and_sizes
from detseg3d.models.merging.decode import Detections
from detseg3d.models.objectives.targets import VolumeTargets

__all__ = ["RoiSample", "jitter_boxes", "match_proposals", "sample_boxes"]


@dataclass(frozen=True)
class RoiSample:
    """Boxes of one volume on which Stage 2 trains, with their classes and lesions.

    Attributes
    ----------
    boxes : ndarray of float32, shape ``(N, 6)``, fine voxel edges
    classes : ndarray of int64, shape ``(N,)``
    ids : ndarray of int64, shape ``(N,)``
        Lesion that each box is meant for; 0 for a box without a lesion.
    """

    boxes: AnyFloatArray
    classes: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def match_proposals(
    boxes: npt.ArrayLike, classes: npt.NDArray[np.int64], targets: VolumeTargets
) -> npt.NDArray[np.int64]:
    """Find the lesion of the same class that each proposal is meant for.

    A proposal belongs to the lesion with the nearest centre if two conditions hold: its own centre lies in the box of
    the lesion, enlarged by one voxel (a lesion of one voxel could hardly be hit otherwise), and the distance of the
    centres is less than the mean size of both boxes.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
        Proposals in fine voxel edges.
    classes : ndarray of int64, shape ``(N,)``
    targets : VolumeTargets

    Returns
    -------
    ndarray of int64, shape ``(N,)``
        Label of the lesion, 0 if the proposal belongs to no lesion.
    """
    proposals = as_boxes(boxes)
    if len(targets.ids) == 0 or len(proposals) == 0:
        return np.zeros(len(proposals), np.int64)
    centers = box_centers(proposals)
    inside = np.all(
        (centers[:, None] >= targets.boxes[None, :, :3] - 1) & (centers[:, None] <= targets.boxes[None, :, 3:] + 1),
        axis=2,
    )
    unit = np.maximum((box_sizes(proposals)[:, None] + box_sizes(targets.boxes)[None]) / 2, 1)
    distance = np.sqrt((((centers[:, None] - box_centers(targets.boxes)[None]) / unit) ** 2).sum(axis=2))
    allowed = inside & (distance < 1) & (classes[:, None] == targets.classes[None])
    distance[~allowed] = np.inf
    best = distance.argmin(axis=1)
    return np.where(allowed[np.arange(len(proposals)), best], targets.ids[best], 0).astype(np.int64)


def jitter_boxes(boxes: npt.ArrayLike, random: np.random.Generator) -> AnyFloatArray:
    """Move boxes by up to 15 % of their size plus half a voxel along each axis, and scale their sizes by e^±0.2.

    For lesions of up to 15 voxels, the centres move about as far as the errors of Stage 1 (0.3 to 0.4 voxels). For
    larger lesions, the centres move half as far. Sizes vary a third as much as the sizes of Stage 1 boxes: the standard
    deviation of their logarithm is 0.12, compared with 0.26 to 0.42 for the best boxes of Stage 1 (Dataset101,
    docs/research_log). Three times the jitter gave no better masks in 331 steps.

    Parameters
    ----------
    boxes : array_like, shape ``(N, 6)``
    random : numpy Generator

    Returns
    -------
    ndarray of float32, shape ``(N, 6)``
    """
    array = as_boxes(boxes)
    sizes = box_sizes(array)
    shift = random.uniform(-0.15, 0.15, (len(array), 3)) * sizes + random.uniform(-0.5, 0.5, (len(array), 3))
    scale = np.exp(random.uniform(-0.2, 0.2, (len(array), 3)))
    jittered = boxes_from_centers_and_sizes(box_centers(array) + shift, sizes * scale)
    return jittered.astype(np.float32)


@dataclass(frozen=True)
class RoiRule:
    """Rule that selects the boxes of a volume on which Stage 2 trains.

    Attributes
    ----------
    count : int
        Number of boxes.
    hard_negative_threshold : float
        A proposal that hits no lesion is a hard negative if its score reaches this value.
    minimum_extent : sequence of 3 floats
        Smallest extent ``(z, y, x)`` of an RoI in fine voxels. Background boxes are 0.3 to 0.8 times as large.
    num_classes : int
    positive_fraction : float
        Fraction of the boxes that hold a lesion, if the volume has one.
    """

    count: int
    hard_negative_threshold: float
    minimum_extent: Sequence[float]
    num_classes: int
    positive_fraction: float = 0.5


def sample_boxes(
    targets: VolumeTargets, proposals: Detections, rule: RoiRule, random: np.random.Generator
) -> RoiSample:
    """Choose the boxes of one volume that Stage 2 trains on.

    About half (``positive_fraction``) of the boxes hold a lesion. Half of these are jittered true boxes, and every
    lesion is equally likely. The other half are proposals that hit a lesion, and every proposal is equally likely. A
    large lesion has several proposals. The boxes without a lesion are proposals that hit nothing, hard negatives first,
    and background.

    Parameters
    ----------
    targets : VolumeTargets
    proposals : Detections
        Boxes that Stage 1 proposes, in fine voxel edges, best score first: detections and components of the dense map.
    rule : RoiRule
    random : numpy Generator

    Returns
    -------
    RoiSample
    """
    lesions = len(targets.ids)
    matched = match_proposals(proposals.boxes, proposals.classes, targets)
    hits, misses = np.flatnonzero(matched > 0), np.flatnonzero(matched == 0)
    positives = 0 if lesions == 0 else math.ceil(rule.positive_fraction * rule.count)
    # True boxes alone would never show the errors of Stage 1, so up to half of the positives are proposals.
    from_hits = min(len(hits), positives // 2)
    chosen = random.choice(hits, from_hits, replace=False) if from_hits else np.zeros(0, np.int64)
    truth = _draw(lesions, positives - from_hits, random)
    hard = misses[proposals.scores[misses] >= rule.hard_negative_threshold]
    easy = misses[proposals.scores[misses] < rule.hard_negative_threshold]
    room = rule.count - positives
    # One place is kept for plain background, so that Stage 2 also learns background. If there is only one place, a
    # proposal or background takes it by chance.
    places = room - 1 if room > 1 else room * int(random.random() < 0.5)
    hard = random.permutation(hard)[:places]
    easy = easy[: places - len(hard)]
    negatives = np.concatenate([hard, easy])
    background = _background_boxes(targets, room - len(negatives), rule.minimum_extent, random)
    return RoiSample(
        np.concatenate(
            [
                jitter_boxes(targets.boxes[truth], random),
                proposals.boxes[chosen],
                proposals.boxes[negatives],
                background,
            ]
        ).astype(np.float32),
        np.concatenate(
            [
                targets.classes[truth],
                proposals.classes[chosen],
                proposals.classes[negatives],
                random.integers(0, rule.num_classes, len(background)),
            ]
        ).astype(np.int64),
        np.concatenate(
            [targets.ids[truth], matched[chosen], np.zeros(len(negatives) + len(background), np.int64)]
        ).astype(np.int64),
    )


def _draw(available: int, wanted: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw ``wanted`` indices below ``available``. No index is drawn twice before every index is drawn once."""
    if available == 0 or wanted <= 0:
        return np.zeros(0, np.int64)
    rounds = [random.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(rounds)[:wanted].astype(np.int64)


def _background_boxes(
    targets: VolumeTargets, count: int, extent: Sequence[float], random: np.random.Generator
) -> AnyFloatArray:
    """Draw boxes at random places, with background in the centre if ten attempts find such a place."""
    shape = np.asarray(targets.instances.shape)
    boxes = []
    for _ in range(count):
        for _attempt in range(10):
            center = random.uniform(0, shape)
            voxel = tuple(np.minimum(center.astype(np.int64), shape - 1))
            if targets.instances[voxel] == 0:
                break
        size = np.asarray(extent) * random.uniform(0.3, 0.8)
        boxes.append(np.concatenate([center - size / 2, center + size / 2]))
    return np.asarray(boxes, np.float32).reshape(-1, 6)
