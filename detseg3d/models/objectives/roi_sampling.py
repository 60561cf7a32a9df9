"""Which RoIs Stage 2 trains on: jittered truth boxes, detached proposals, hard negatives and a little background.

Truth boxes alone would teach that a lesion always sits exactly in the middle and that everything shown is one. The
proposals show Stage 1's own errors, as they will come at inference.
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
    """Aligned records of the boxes of one volume that Stage 2 trains on.

    Attributes
    ----------
    boxes : ndarray of float32, shape ``(N, 6)``, fine voxel edges
    classes : ndarray of int64, shape ``(N,)``
    ids : ndarray of int64, shape ``(N,)``
        Label of the lesion each box is meant for; 0 for a box that holds none.
    """

    boxes: AnyFloatArray
    classes: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def match_proposals(
    boxes: npt.ArrayLike, classes: npt.NDArray[np.int64], targets: VolumeTargets
) -> npt.NDArray[np.int64]:
    """Label of the lesion of the same class that each proposal is meant for, 0 if none.

    A proposal belongs to the lesion whose centre is nearest, if its own centre lies within that lesion's box grown
    by one voxel (a lesion of one voxel can hardly be hit otherwise) and within a box size of its centre.
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
    """Boxes moved by up to 15 % and half a voxel along each axis, their sizes times e^±0.2.

    Centres of lesions up to 15 voxels are moved about as far as Stage 1 errs (.3 to .4 voxels), those of larger ones
    half as far. Sizes vary a third as much: their logarithm has a standard deviation of .12, that of Stage 1's best
    boxes .26 to .42 (Dataset101, docs/research_log). Three times the jitter gave no better masks in 331 steps.

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


def sample_boxes(
    targets: VolumeTargets,
    proposals: Detections,
    count: int,
    confident: float,
    minimum_extent: Sequence[float],
    num_classes: int,
    random: np.random.Generator,
    positive_share: float = 0.5,
) -> RoiSample:
    """Choose ``count`` boxes of one volume.

    About half (``positive_share``) hold a lesion: half of these are jittered truth boxes, drawn uniformly over the
    *lesions*, half are proposals that hit one, drawn uniformly over the *proposals*, of which a large lesion has
    several. The others are proposals that hit nothing, the confident ones first,
    and background.

    Parameters
    ----------
    targets : VolumeTargets
    proposals : Detections
        Detached output of Stage 1, best first.
    confident : float
        Proposals of at least this score count as hard negatives when they hit nothing.
    minimum_extent : sequence of 3 floats
        In fine voxels; the size of a background box.
    num_classes : int
    random : numpy Generator
    positive_share : float, optional
        Of the boxes that hold a lesion, where there is one.
    """
    lesions = len(targets.ids)
    matched = match_proposals(proposals.boxes, proposals.classes, targets)
    hits, misses = np.flatnonzero(matched > 0), np.flatnonzero(matched == 0)
    positives = 0 if lesions == 0 else math.ceil(positive_share * count)
    from_hits = min(len(hits), positives // 2)
    chosen = random.choice(hits, from_hits, replace=False) if from_hits else np.zeros(0, np.int64)
    truth = _draw(lesions, positives - from_hits, random)
    hard = misses[proposals.scores[misses] >= confident]
    easy = misses[proposals.scores[misses] < confident]
    room = count - positives
    # One place stays for plain background, so that Stage 2 knows what it looks like; a single one they take in turn.
    places = room - 1 if room > 1 else room * int(random.random() < 0.5)
    hard = random.permutation(hard)[:places]
    easy = easy[: places - len(hard)]
    negatives = np.concatenate([hard, easy])
    background = _background_boxes(targets, room - len(negatives), minimum_extent, random)
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
                random.integers(0, num_classes, len(background)),
            ]
        ).astype(np.int64),
        np.concatenate(
            [targets.ids[truth], matched[chosen], np.zeros(len(negatives) + len(background), np.int64)]
        ).astype(np.int64),
    )


def _draw(available: int, wanted: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """``wanted`` indices below ``available``; each is used once before any is used twice."""
    if available == 0 or wanted <= 0:
        return np.zeros(0, np.int64)
    rounds = [random.permutation(available) for _ in range(-(-wanted // available))]
    return np.concatenate(rounds)[:wanted].astype(np.int64)


def _background_boxes(
    targets: VolumeTargets, count: int, extent: Sequence[float], random: np.random.Generator
) -> AnyFloatArray:
    """Boxes at random places whose middle voxel is background."""
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
