"""Putting the RoI masks back into the volume: overlaps averaged, every voxel given to the lesion that claims it most.

Maps exist one class at a time and only within the box that holds all of its RoIs, in half precision.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.roi import box_indicator, paste_roi
from detseg3d.models.decode import Detections
from detseg3d.models.join import join_touching
from detseg3d.planning.plans import Plans

__all__ = [
    "Lesion",
    "Merged",
    "RoiPrediction",
    "candidate_roi_scores",
    "combine_scores",
    "merge_rois",
    "roi_info",
    "roi_window",
]

logger = logging.getLogger(__name__)

# An instance that keeps less than this of its own mask in its box was outlined before by a stronger one: a duplicate.
_KEPT_SHARE = 0.3


class RoiPrediction(NamedTuple):
    """Stage 2's answer for one RoI."""

    roi: npt.NDArray[Any]  # (6,), voxel edges of the grid it is to be put on
    candidate: int  # index of the detection it belongs to; a large box has several RoIs
    probability: torch.Tensor  # (z, y, x), float16
    score: float  # probability that the thing in the middle is a lesion


@dataclass(frozen=True)
class Lesion:
    """One lesion of the result. Box and voxels are those of its mask on the output grid.

    The scores are those of ``candidate``; ``joined`` are those whose masks touch its own and became part of it.
    """

    id: int
    class_index: int
    score: float
    detection_score: float
    roi_score: float
    box: tuple[float, ...]
    voxels: int
    candidate: int
    joined: tuple[int, ...] = ()


@dataclass(frozen=True)
class Merged:
    """Segmentation of one volume.

    ``semantic`` is uint8 ``(Z, Y, X)`` (uint16 for labels beyond 255), ``instances`` uint16 or uint32; the probability
    maps, if wanted, are float16 ``(K, Z, Y, X)``.
    """

    semantic: npt.NDArray[np.unsignedinteger[Any]]
    instances: npt.NDArray[np.unsignedinteger[Any]]
    lesions: list[Lesion]
    scores: npt.NDArray[np.float64]  # final score of every candidate
    roi_scores: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float16] | None = None


def combine_scores(
    detection: npt.NDArray[np.floating[Any]],
    roi: npt.NDArray[np.floating[Any]],
    calibration: Sequence[tuple[float, float]] = (),
    detection_weight: float = 0.5,
) -> npt.NDArray[np.float64]:
    """One score per candidate: the weighted geometric mean of what both stages say, calibrated if the plan can.

    Parameters
    ----------
    detection, roi : ndarray, shape ``(N,)``
    calibration : sequence of (score, probability)
        Ascending points, joined by straight lines; without any the score stays as it is.
    detection_weight : float, optional
        Exponent of the detection score; that of the RoI score is the rest up to 1.

    Examples
    --------
    >>> combine_scores(np.array([0.25]), np.array([1.0])).tolist()
    [0.5]
    >>> combine_scores(np.array([0.25]), np.array([1.0]), [(0, 0), (0.5, 0.9), (1, 1)]).tolist()
    [0.9]
    """
    scores: npt.NDArray[np.float64] = np.asarray(detection, np.float64) ** detection_weight * np.asarray(
        roi, np.float64
    ) ** (1 - detection_weight)
    if calibration:
        points, probabilities = zip(*calibration, strict=True)
        scores = np.interp(scores, points, probabilities)
    return scores


def candidate_roi_scores(count: int, predictions: Sequence[RoiPrediction]) -> npt.NDArray[np.float64]:
    """RoI score of each candidate: the best of its RoIs, since a tile at the rim of a large lesion may show little."""
    scores = np.zeros(count)
    for prediction in predictions:
        scores[prediction.candidate] = max(scores[prediction.candidate], prediction.score)
    return scores


def merge_rois(
    found: Detections,
    predictions: Sequence[RoiPrediction],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None = None,
    keep_probabilities: bool = False,
) -> Merged:
    """Merge the RoIs of a volume's candidates.

    Candidates below ``plans.inference.score_threshold`` stay out. Of each voxel, the probabilities of all RoIs of a
    class that cover it are averaged with the weight score × closeness to the RoI's centre, so that a poor RoI or the
    rim of one cannot halve a good one. A voxel whose average reaches ``mask_threshold`` belongs to the lesion with
    the strongest claim (weight × probability); between classes, too, the stronger claim decides. Where the plan says so
    (``join_touching``), masks of a class that mainly lie in one connected part are one lesion, with the best score.

    Parameters
    ----------
    found : Detections
        The candidates.
    predictions : sequence of RoiPrediction
        Placed on the output grid.
    shape : sequence of 3 ints
        Shape of the output grid.
    plans : Plans
    spacing : sequence of 3 floats, optional
        Of the output grid, mm; the plan's fine spacing by default.
    keep_probabilities : bool
        Also return the averaged lesion probability of every class, a map of the whole volume each.
    """
    roi_scores = candidate_roi_scores(len(found), predictions)
    scores = combine_scores(found.scores, roi_scores, plans.inference.calibration, plans.inference.detection_weight)
    accepted = [p for p in predictions if scores[p.candidate] >= plans.inference.score_threshold]
    owner = np.zeros(tuple(shape), np.uint32 if len(found) > 65_534 else np.uint16)  # candidate + 1
    claim = np.zeros(tuple(shape), np.float16) if plans.num_classes > 1 else None
    maps = np.zeros((plans.num_classes, *shape), np.float16) if keep_probabilities else None
    for label in sorted({int(found.classes[p.candidate]) for p in accepted}):
        of_class = [p for p in accepted if found.classes[p.candidate] == label]
        _merge_class(
            of_class, scores, plans.inference.mask_threshold, owner, claim, None if maps is None else maps[label]
        )
    _drop_duplicates(owner, found, accepted, scores, plans.inference.mask_threshold)
    names, boxes = boxes_from_instances(owner)
    joined: dict[int, tuple[int, ...]] = {}
    if plans.inference.join_touching:
        names, boxes, joined = join_touching(owner, names, boxes, found.classes, scores)
    voxel_volume = math.prod(plans.fine_spacing if spacing is None else spacing)
    return _collect(owner, names, boxes, joined, found, scores, roi_scores, plans, voxel_volume, maps)


def roi_window(
    rois: npt.NDArray[np.floating[Any]], shape: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First and last + 1 voxel ``(z, y, x)`` of the part of a volume in which RoIs are merged.

    A voxel more than they cover: to put an RoI back takes the voxels beside its rim into account, and what comes out
    must not depend on which other RoIs happen to be there.

    Parameters
    ----------
    rois : ndarray, shape ``(N, 6)``
        Voxel edges.
    shape : sequence of 3 ints
        Of the volume.

    Examples
    --------
    >>> [edge.tolist() for edge in roi_window(np.array([[0.5, 2.5, 3, 4, 5.5, 6]]), (9, 9, 6))]
    [[0, 1, 2], [5, 7, 6]]
    """
    low = np.maximum(np.floor(rois[:, :3].min(axis=0)).astype(np.int64) - 1, 0)
    high = np.minimum(np.ceil(rois[:, 3:].max(axis=0)).astype(np.int64) + 1, shape)
    return low, high


def _merge_class(
    predictions: Sequence[RoiPrediction],
    scores: npt.NDArray[np.float64],
    mask_threshold: float,
    owner: npt.NDArray[np.unsignedinteger[Any]],
    claim: npt.NDArray[np.float16] | None,
    probability_map: npt.NDArray[np.float16] | None,
    allowed: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Give the voxels of one class (of these only the ``allowed`` ones) to their lesions, in place."""
    rois = np.stack([p.roi for p in predictions])
    low, high = roi_window(rois, owner.shape)
    if np.any(high <= low):
        return
    extent = tuple(int(n) for n in high - low)
    weighted, total, best = (np.zeros(extent, np.float16) for _ in range(3))
    nearest = np.zeros(extent, owner.dtype)
    for prediction in predictions:
        roi = np.asarray(prediction.roi, np.float64) - np.tile(low, 2)
        values, region = paste_roi(prediction.probability[None], roi, extent)
        if values.numel() == 0:
            continue
        probability = values[0].clamp(0, 1).numpy()
        weight = scores[prediction.candidate] * _closeness(roi, region)
        strength = (weight * probability).astype(np.float16)
        weighted[region] += strength
        total[region] += weight.astype(np.float16)
        stronger = strength > best[region]
        best[region][stronger] = strength[stronger]
        nearest[region][stronger] = prediction.candidate + 1
    inside = (weighted >= mask_threshold * total) & (total > 0) & (nearest > 0)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    if probability_map is not None:
        np.divide(weighted, total, out=probability_map[window], where=total > 0)
    if allowed is not None:
        inside &= allowed[window]
    if claim is not None:
        inside &= best > claim[window]
        claim[window][inside] = best[inside]
    owner[window][inside] = nearest[inside]


def _closeness(roi: npt.NDArray[Any], region: tuple[slice, slice, slice]) -> npt.NDArray[np.float64]:
    """1 at the RoI's centre, falling linearly along each axis to 0.1 at its faces."""
    profiles = []
    for axis, voxels in enumerate(region):
        center, half = (roi[axis] + roi[axis + 3]) / 2, max((roi[axis + 3] - roi[axis]) / 2, 1e-6)
        distance = np.abs(np.arange(voxels.start, voxels.stop) + 0.5 - center) / half
        profiles.append(1 - 0.9 * np.clip(distance, 0, 1))
    product: npt.NDArray[np.float64] = profiles[0][:, None, None] * profiles[1][:, None] * profiles[2]
    return product


def _drop_duplicates(
    owner: npt.NDArray[np.unsignedinteger[Any]],
    found: Detections,
    accepted: Sequence[RoiPrediction],
    scores: npt.NDArray[np.float64],
    mask_threshold: float,
) -> None:
    """Take the duplicates out of ``owner``, in place, the weakest first.

    The voxels of a duplicate are merged again without it. Were they left empty, the lesion it repeats would have a
    hole; were all duplicates taken out at once, those that share a lesion evenly would take it with them.
    """
    names, voxels = np.unique(owner[owner > 0], return_counts=True)
    count = dict(zip((names.astype(np.int64) - 1).tolist(), voxels.tolist(), strict=True))
    own = _own_voxels(accepted, found.boxes, mask_threshold)
    left = list(accepted)
    for candidate in sorted(count, key=lambda index: (scores[index], -index)):
        if count[candidate] >= _KEPT_SHARE * own[candidate]:
            continue
        mine = np.stack([p.roi for p in left if p.candidate == candidate])
        left = [p for p in left if p.candidate != candidate]
        heirs = [p for p in left if np.any(np.all((p.roi[:3] < mine[:, 3:]) & (p.roi[3:] > mine[:, :3]), axis=1))]
        rois = np.concatenate([mine, *(p.roi[None] for p in heirs)])
        low, high = roi_window(rois, owner.shape)
        part = owner[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        free = part == candidate + 1
        part[free] = 0
        moved = [p._replace(roi=np.asarray(p.roi, np.float64) - np.tile(low, 2)) for p in heirs]
        claim = np.zeros(part.shape, np.float16)
        for label in sorted({int(found.classes[p.candidate]) for p in heirs}):
            of_class = [p for p in moved if found.classes[p.candidate] == label]
            _merge_class(of_class, scores, mask_threshold, part, claim, None, free)
        names, voxels = np.unique(part[free], return_counts=True)
        for name, gained in zip(names.tolist(), voxels.tolist(), strict=True):
            if name:
                count[name - 1] = count.get(name - 1, 0) + gained


def _collect(
    owner: npt.NDArray[np.unsignedinteger[Any]],
    names: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.floating[Any]],
    joined: Mapping[int, tuple[int, ...]],
    found: Detections,
    scores: npt.NDArray[np.float64],
    roi_scores: npt.NDArray[np.float64],
    plans: Plans,
    voxel_volume: float,
    maps: npt.NDArray[np.float16] | None,
) -> Merged:
    """Leave out the too small, number the lesions by score, and make the two maps.

    ``names`` (candidate + 1) and ``boxes`` are those of the masks in ``owner``.
    """
    voxels = np.bincount(owner[owner > 0], minlength=len(found) + 1) if len(names) else np.zeros(len(found) + 1, int)
    minimum = plans.inference.minimum_volume_mm3 / voxel_volume
    order = sorted(range(len(names)), key=lambda i: (-scores[names[i] - 1], names[i]))
    lookup = np.zeros(len(found) + 1, np.uint32)
    label_of = np.zeros(len(found) + 1, np.uint8 if max(plans.class_labels) < 256 else np.uint16)
    lesions: list[Lesion] = []
    for i in order:
        candidate = int(names[i]) - 1
        count = int(voxels[names[i]])
        if count < minimum:
            continue
        lookup[candidate + 1] = len(lesions) + 1
        label_of[candidate + 1] = plans.class_labels[int(found.classes[candidate])]
        lesions.append(
            Lesion(
                len(lesions) + 1,
                int(found.classes[candidate]),
                float(scores[candidate]),
                float(found.scores[candidate]),
                float(roi_scores[candidate]),
                tuple(float(value) for value in boxes[i]),
                count,
                candidate,
                joined.get(candidate, ()),
            )
        )
    if len(lesions) < len(names):
        # Nothing vanishes silently.
        smallest = plans.inference.minimum_volume_mm3
        logger.info("%d lesion(s) smaller than %g mm³ left out", len(names) - len(lesions), smallest)
    dtype = np.uint32 if len(lesions) > 65_535 else np.uint16
    return Merged(label_of[owner], lookup.astype(dtype)[owner], lesions, scores, roi_scores, maps)


def _own_voxels(
    predictions: Sequence[RoiPrediction], boxes: npt.NDArray[np.floating[Any]], threshold: float
) -> dict[int, float]:
    """Voxels of each candidate's own mask before the lesions compete, estimated on its RoI samples.

    Only those in the detected box count. Around a small lesion an RoI may show and outline a large neighbour, or the
    repeated border of the volume: what others get of these does not make the small lesion a duplicate.
    """
    own: dict[int, float] = {}
    for prediction in predictions:
        size = prediction.probability.shape
        voxels_per_sample = float(np.prod(prediction.roi[3:] - prediction.roi[:3])) / prediction.probability.numel()
        box = boxes[prediction.candidate]
        share = box_indicator(box[None], prediction.roi[None], (size[0], size[1], size[2]))[0, 0]
        count = float(((prediction.probability >= threshold) * share).sum()) * voxels_per_sample
        own[prediction.candidate] = max(own.get(prediction.candidate, 0.0), count)
    return own


def roi_info(merged: Merged, plans: Plans) -> list[dict[str, Any]]:
    """The lesions of a result as plain dicts, for people and JSON."""
    return [
        {
            "id": lesion.id,
            "class": plans.class_names[lesion.class_index],
            "label": plans.class_labels[lesion.class_index],
            "score": lesion.score,
            "detection_score": lesion.detection_score,
            "roi_score": lesion.roi_score,
            "box": list(lesion.box),
            "voxels": lesion.voxels,
        }
        for lesion in merged.lesions
    ]
