"""Putting the RoI masks back into the volume: overlaps averaged, every voxel given to the lesion that claims it most.

:mod:`~detseg3d.models.merging.competition` gives the voxels away; here lesions are made of them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.neighbours import neighbour_groups
from detseg3d.core.roi import paste_region
from detseg3d.models.merging.competition import Competition
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.fragments import LoosePart, join_touching, split_parts
from detseg3d.models.merging.paste import PastedRoi, RoiPrediction, paste_predictions, region_corners
from detseg3d.models.merging.scores import candidate_roi_scores, combine_scores, lowest_score
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan

__all__ = [
    "Lesion",
    "Merged",
    "merge_pasted",
    "merge_rois",
    "roi_info",
]

logger = logging.getLogger(__name__)

OwnerMap = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Lesion:
    """One lesion of the result. Box and voxels are those of its mask on the output grid.

    The scores are those of ``candidate``; ``joined`` are those whose masks touch its own and became part of it, also
    such as are too weak to be lesions themselves. A part of a mask that lies apart from the rest is a lesion of the
    same candidate, and its ``score`` at most as high; see :func:`merge_rois`.
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


def merge_rois(
    found: Detections,
    predictions: Sequence[RoiPrediction],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None = None,
    keep_probabilities: bool = False,
) -> Merged:
    """Merge the RoIs of a volume's candidates.

    Of each voxel, the probabilities of all RoIs of a class that cover it are averaged with the weight score × closeness
    to the RoI's centre, so that a poor RoI or the rim of one cannot halve a good one. A voxel whose average reaches
    ``mask_threshold`` belongs to the lesion with the strongest claim (weight × probability); between classes, too, the
    stronger claim decides.

    Candidates of ``plans.inference.score_threshold`` or more are lesions. Where the plan says so (``join_touching``),
    masks of a class that mainly lie in one connected part are one lesion, with the best score. Then candidates from
    ``growth_threshold`` on take part as well: the own box of a large lesion often has a low score, though it outlines
    what the boxes of its parts do not reach. Their masks extend the lesions that they touch, and are none themselves.
    And what is not connected is not one lesion: an RoI shows what lies around its lesion, and its mask may outline a
    neighbour, too. The largest part is the lesion; each other one is a lesion of its own if it reaches
    ``score_threshold`` and is not smaller than ``minimum_detached_part_mm3``: its score is that of the lesion times
    the highest probability in it, before calibration.

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

    Returns
    -------
    Merged
        On the output grid, lesions by falling score.
    """
    scores = _scores(found, predictions, plans)
    taking_part = [p for p in predictions if scores.final[p.candidate] >= lowest_score(plans.inference)]
    rois = [
        _Placed(p.candidate, region_corners(paste_region(p.roi, shape)), partial(_paste_one, p, shape))
        for p in taking_part
    ]
    return _merge(found, scores, rois, shape, plans, spacing, keep_probabilities)


def merge_pasted(
    found: Detections,
    pasted: Sequence[PastedRoi],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None = None,
    all_parts: bool = False,
) -> Merged:
    """:func:`merge_rois` of RoIs that lie in the volume already, for who merges the same ones many times.

    Parameters
    ----------
    found : Detections
    pasted : sequence of PastedRoi
        From :func:`~detseg3d.models.merging.paste.paste_predictions`.
    shape, plans, spacing
        As there.
    all_parts : bool, optional
        Also keep the parts of masks that score too low to be lesions of their own, if they are not too small.

    Returns
    -------
    Merged
        Without probability maps.
    """
    scores = _scores(found, [roi.prediction for roi in pasted], plans)
    taking_part = [roi for roi in pasted if scores.final[roi.candidate] >= lowest_score(plans.inference)]
    rois = [_Placed(roi.candidate, roi.corners, partial(_itself, roi)) for roi in taking_part]
    return _merge(found, scores, rois, shape, plans, spacing, all_parts=all_parts)


class _Placed(NamedTuple):
    """An RoI that takes part; it is pasted with its group and dropped with it."""

    candidate: int
    corners: tuple[int, ...]
    paste: Callable[[], PastedRoi]


def _paste_one(prediction: RoiPrediction, shape: Sequence[int]) -> PastedRoi:
    return paste_predictions([prediction], shape)[0]


def _itself(roi: PastedRoi) -> PastedRoi:
    return roi


class _Scores(NamedTuple):
    """Of every candidate."""

    final: npt.NDArray[np.float64]
    roi: npt.NDArray[np.float64]


def _scores(found: Detections, predictions: Sequence[RoiPrediction], plans: Plans) -> _Scores:
    inference = plans.inference
    roi = candidate_roi_scores(len(found), predictions)
    return _Scores(combine_scores(found.scores, roi, inference.calibration, inference.detection_weight), roi)


def _merge(
    found: Detections,
    scores: _Scores,
    rois: Sequence[_Placed],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None,
    keep_probabilities: bool = False,
    all_parts: bool = False,
) -> Merged:
    """Merge those that take part, group by group: RoIs that do not meet have nothing to do with each other.

    The memory is that of the largest group's RoIs, not of all.
    """
    owner = np.zeros(tuple(shape), np.uint32 if len(found) > 65_534 else np.uint16)  # candidate + 1
    maps = np.zeros((plans.num_classes, *shape), np.float16) if keep_probabilities else None
    joined: dict[int, tuple[int, ...]] = {}
    loose: list[LoosePart] = []  # part i has the number len(found) + 1 + i
    regions = np.array([roi.corners for roi in rois], np.int64).reshape(-1, 6)
    strong = scores.final[[roi.candidate for roi in rois]] >= plans.inference.score_threshold
    shown = np.flatnonzero(np.all(regions[:, 3:] > regions[:, :3], axis=1))
    for group in (shown[members] for members in neighbour_groups(regions[shown])):
        if not strong[group].any():
            continue  # nothing to extend
        low, high = regions[group, :3].min(axis=0), regions[group, 3:].max(axis=0)
        window = tuple(slice(int(first), int(end)) for first, end in zip(low, high, strict=True))
        moved = Detections(found.boxes - np.tile(low, 2), found.scores, found.classes)
        part = _Part(moved, scores.final, plans, (*(high - low).tolist(),), owner.dtype, keep_probabilities)
        own, part_maps, part_joined, part_loose = part.merge(
            [rois[i].paste().seen_from(low, rois[i].candidate) for i in group.tolist()], len(found) + 1 + len(loose)
        )
        loose += part_loose
        owner = owner.astype(np.promote_types(owner.dtype, own.dtype), copy=False)
        # Other groups may reach into the window.
        np.copyto(owner[window], own, where=own > 0)
        joined |= part_joined
        if maps is not None and part_maps is not None:
            np.copyto(maps[(slice(None), *window)], part_maps, where=part_maps > 0)
    names, boxes = boxes_from_instances(owner)
    voxel_volume = math.prod(plans.fine_spacing if spacing is None else spacing)
    result = _collect(owner, names, boxes, joined, loose, found, scores, plans, voxel_volume, all_parts)
    return replace(result, probabilities=maps)


@dataclass(frozen=True)
class _Part:
    """A part of the volume, its candidates and their final scores; boxes and RoIs are seen from its corner."""

    found: Detections
    scores: npt.NDArray[np.float64]
    plans: Plans
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    keep_probabilities: bool

    def merge(
        self, rois: Sequence[PastedRoi], first_number: int
    ) -> tuple[OwnerMap, npt.NDArray[np.float16] | None, dict[int, tuple[int, ...]], list[LoosePart]]:
        """Who owns which voxel, the probability maps if they are wanted, who was joined to whom, and the loose parts.

        An owner is a candidate + 1 or, from ``first_number``, a loose part.
        """
        accepted = [roi for roi in rois if self.scores[roi.candidate] >= self.plans.inference.score_threshold]
        owner, certainty, maps = self._compete(accepted)
        if not self.plans.inference.join_touching:
            return owner, maps, {}, []
        if len(accepted) == len(rois):
            joined = self._join(owner, self.scores)
            owner, loose = split_parts(owner, certainty, first_number)
            return owner, maps, joined, loose
        # One that has lost every voxel to stronger ones is no lesion, however high its score.
        is_lesion = np.zeros(len(self.scores), np.bool_)
        is_lesion[np.unique(owner[owner > 0]).astype(np.int64) - 1] = True
        wide, wide_certainty, wide_maps = self._compete(rois)
        np.copyto(wide, owner, where=owner > 0)  # what the lesions have, they keep
        np.copyto(wide_certainty, certainty, where=owner > 0)
        joined = self._join(wide, np.where(is_lesion, self.scores, -1.0))
        lookup = np.arange(len(self.scores) + 1, dtype=self.dtype)
        for heir, others in joined.items():
            lookup[np.array(others) + 1] = heir + 1
        # A part in which no lesion mainly lies is none; a crumb of one that lies there stays with its own.
        none = ~np.concatenate([[True], is_lesion])[wide]
        wide[none] = lookup[owner[none]]
        if (none & (owner > 0)).any():
            self._join(wide, self.scores)  # such crumbs may touch each other
        if maps is not None and wide_maps is not None:
            np.copyto(maps, wide_maps, where=(wide > 0) & (owner == 0))
        wide, loose = split_parts(wide, wide_certainty, first_number)
        return wide, maps, {heir: others for heir, others in joined.items() if is_lesion[heir]}, loose

    def _compete(
        self, rois: Sequence[PastedRoi]
    ) -> tuple[OwnerMap, npt.NDArray[np.float16], npt.NDArray[np.float16] | None]:
        owner = np.zeros(self.shape, self.dtype)
        maps = np.zeros((self.plans.num_classes, *self.shape), np.float16) if self.keep_probabilities else None
        competition = Competition(owner, rois, self.found, self.scores, self.plans.inference.mask_threshold)
        competition.assign_all(maps)
        competition.drop_duplicates()
        return owner, competition.certainty, maps

    def _join(self, owner: OwnerMap, scores: npt.NDArray[np.float64]) -> dict[int, tuple[int, ...]]:
        names, boxes = boxes_from_instances(owner)
        return join_touching(owner, names, boxes, self.found.classes, scores)


def _part_scores(
    loose: Sequence[LoosePart], found: Detections, scores: _Scores, inference: InferencePlan
) -> npt.NDArray[np.float64]:
    """The score of the lesion whose part each is, times its highest probability, calibrated."""
    candidates = np.array([part.candidate for part in loose], np.int64)
    certainty = np.array([part.certainty for part in loose])
    return combine_scores(
        found.scores[candidates], scores.roi[candidates], inference.calibration, inference.detection_weight, certainty
    )


def _collect(
    owner: npt.NDArray[np.unsignedinteger[Any]],
    names: npt.NDArray[np.int64],
    boxes: npt.NDArray[np.floating[Any]],
    joined: Mapping[int, tuple[int, ...]],
    loose: Sequence[LoosePart],
    found: Detections,
    scores: _Scores,
    plans: Plans,
    voxel_volume: float,
    all_parts: bool,
) -> Merged:
    """Leave out the too small, and all of a scan without a certain one; number by score, and make the two maps.

    ``names`` (candidate + 1, or loose part) and ``boxes`` are those of the masks in ``owner``.
    """
    inference, count = plans.inference, len(found) + len(loose)
    candidate_of = np.concatenate([np.arange(len(found)), [part.candidate for part in loose]]).astype(np.int64)
    score_of = np.concatenate([scores.final, _part_scores(loose, found, scores, inference)])
    voxels = np.bincount(owner[owner > 0], minlength=count + 1) if len(names) else np.zeros(count + 1, int)
    lowest, smallest = (
        -1.0 if all_parts else inference.score_threshold,
        inference.minimum_detached_part_mm3 / voxel_volume,
    )
    is_lesion = (score_of[names - 1] >= lowest) & (voxels[names] >= smallest - 1e-6)
    certain = np.flatnonzero((names <= len(found)) | is_lesion).tolist()
    if len(certain) < len(names):
        logger.debug("%d part(s) of masks left out for their scores or sizes", len(names) - len(certain))
    minimum = inference.minimum_volume_mm3 / voxel_volume
    large = [i for i in certain if voxels[names[i]] >= minimum - 1e-6]
    if len(large) < len(certain):
        # Nothing vanishes silently.
        logger.info(
            "%d lesion(s) smaller than %g mm³ left out", len(certain) - len(large), inference.minimum_volume_mm3
        )
    order = sorted(large, key=lambda i: (-score_of[names[i] - 1], names[i]))
    if order and score_of[names[order[0]] - 1] < inference.scan_threshold:
        lowest = inference.scan_threshold
        logger.info("%d lesion(s) left out, none of them with a score of %.3g or more", len(order), lowest)
        order = []
    lookup = np.zeros(count + 1, np.uint32)
    label_of = np.zeros(count + 1, np.uint8 if max(plans.class_labels) < 256 else np.uint16)
    lesions: list[Lesion] = []
    for i in order:
        number = int(names[i])
        candidate = int(candidate_of[number - 1])
        lookup[number] = len(lesions) + 1
        label_of[number] = plans.class_labels[int(found.classes[candidate])]
        lesions.append(
            Lesion(
                len(lesions) + 1,
                int(found.classes[candidate]),
                float(score_of[number - 1]),
                float(found.scores[candidate]),
                float(scores.roi[candidate]),
                tuple(float(value) for value in boxes[i]),
                int(voxels[number]),
                candidate,
                joined.get(candidate, ()) if number <= len(found) else (),
            )
        )
    dtype = np.uint32 if len(lesions) > 65_535 else np.uint16
    return Merged(label_of[owner], lookup.astype(dtype)[owner], lesions, scores.final, scores.roi)


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
