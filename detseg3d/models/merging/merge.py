"""Merge the masks of RoIs into the lesions of a volume.

1. Each voxel goes to the candidate with the strongest claim, or to the background
   (:mod:`~detseg3d.models.merging.competition`).
2. The voxels become lesions: connected components if the plan joins masks that touch
   (:mod:`~detseg3d.models.merging.connected`), otherwise the voxels of each candidate.
3. Lesions that score too low or are too small are left out. The others are numbered by falling score.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.neighbours import neighbour_groups
from detseg3d.core.roi import paste_region
from detseg3d.models.merging.competition import Competition
from detseg3d.models.merging.connected import LesionDraft, connected_lesions
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.paste import PastedRoi, RoiPrediction, paste_predictions, region_corners
from detseg3d.models.merging.scores import CandidateScores, lowest_score
from detseg3d.planning.plans import Plans

__all__ = [
    "Lesion",
    "Merged",
    "merge_pasted",
    "merge_rois",
    "roi_info",
]

logger = logging.getLogger(__name__)

OwnerMap = npt.NDArray[np.unsignedinteger[Any]]

# A lesion of exactly the smallest allowed volume must not be lost to rounding.
_VOXEL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Lesion:
    """One lesion of a merged volume.

    Attributes
    ----------
    id : int
        Value of the lesion in the instance map, from 1. The lesion with the best score has 1.
    class_index : int
    score, detection_score, roi_score : float
        Scores of ``candidate``: both stages combined, Stage 1, Stage 2.
    box : tuple of 6 floats
        ``z0 y0 x0 z1 y1 x1`` of the mask, in voxel edges of the output grid.
    voxels : int
        Size of the mask on the output grid.
    candidate : int
        Index of the candidate that gives the lesion its class and scores.
    joined : tuple of int
        Indices of the other candidates whose masks became part of this lesion, including candidates that score too low
        to be lesions themselves.
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
    """The segmentation of one volume.

    Attributes
    ----------
    semantic : ndarray of uint8 (uint16 for labels beyond 255), shape ``(Z, Y, X)``
        Label of each voxel's class; 0 is background.
    instances : ndarray of uint16 (uint32 beyond 65 535 lesions), shape ``(Z, Y, X)``
        Number of the lesion of each voxel; 0 is background.
    lesions : list of Lesion
        Best score first.
    scores, roi_scores : ndarray of float64, shape ``(N,)``
        Combined score and RoI score of every candidate, accepted or not.
    probabilities : ndarray of float16, shape ``(K, Z, Y, X)``, or None
        Averaged lesion probability of each class.
    """

    semantic: npt.NDArray[np.unsignedinteger[Any]]
    instances: npt.NDArray[np.unsignedinteger[Any]]
    lesions: list[Lesion]
    scores: npt.NDArray[np.float64]
    roi_scores: npt.NDArray[np.float64]
    probabilities: npt.NDArray[np.float16] | None = None


def merge_rois(
    candidates: Detections,
    predictions: Sequence[RoiPrediction],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None = None,
    keep_probabilities: bool = False,
) -> Merged:
    """Merge the RoIs of a volume's candidates into lesions.

    The probabilities of all RoIs of a class that cover a voxel are averaged. The weight of an RoI is its score times
    the closeness of the voxel to the RoI's centre, so that a poor RoI, or the border of an RoI, cannot halve the
    probability of a good one. A voxel whose average reaches ``mask_threshold`` belongs to the candidate with the
    strongest claim (weight × probability). Between classes the stronger claim decides, too.

    If the plan sets ``join_touching``, each 26-connected component of a class is one lesion, with the score of the best
    candidate whose mask lies mainly in it. A component in which no candidate mainly lies is background. Candidates that
    reach ``growth_threshold`` take part: the box of a whole large lesion often scores low, but its mask covers voxels
    that the boxes of parts of the lesion do not reach. A component is kept if its score reaches ``score_threshold``
    (hysteresis, as in Canny 1986). If the plan does not set ``join_touching``, each candidate that reaches
    ``score_threshold`` is one lesion.

    Parameters
    ----------
    candidates : Detections
    predictions : sequence of RoiPrediction
        RoIs of the candidates, on the output grid.
    shape : sequence of 3 ints
        Shape ``(Z, Y, X)`` of the output grid.
    plans : Plans
    spacing : sequence of 3 floats, optional
        Spacing ``(z, y, x)`` of the output grid in mm; by default the fine spacing of the plan.
    keep_probabilities : bool
        Also return the averaged probability of every class. Each map has the size of the volume.

    Returns
    -------
    Merged
        On the output grid.
    """
    scores = CandidateScores.of(candidates, predictions, plans.inference)
    rule = _MergeRule(candidates, scores, plans, math.prod(spacing or plans.fine_spacing))
    canvas = _Canvas.empty(shape, len(candidates), plans.num_classes if keep_probabilities else 0)
    corners = [region_corners(paste_region(prediction.roi, shape)) for prediction in predictions]
    for group in rule.groups(corners, [prediction.candidate for prediction in predictions]):
        # Pasted RoIs take much memory, so only the RoIs of one group are held at a time.
        _merge_group(canvas, rule, paste_predictions([predictions[index] for index in group], shape))
    return _collect(canvas, rule)


def merge_pasted(
    candidates: Detections,
    pasted: Sequence[PastedRoi],
    shape: Sequence[int],
    plans: Plans,
    spacing: Sequence[float] | None = None,
) -> Merged:
    """Merge RoIs that are pasted already, for callers that merge the same RoIs many times.

    Parameters
    ----------
    candidates : Detections
    pasted : sequence of PastedRoi
        From :func:`~detseg3d.models.merging.paste.paste_predictions`.
    shape, plans, spacing
        As in :func:`merge_rois`.

    Returns
    -------
    Merged
        As from :func:`merge_rois`, without probability maps.
    """
    scores = CandidateScores.of(candidates, [roi.prediction for roi in pasted], plans.inference)
    rule = _MergeRule(candidates, scores, plans, math.prod(spacing or plans.fine_spacing))
    canvas = _Canvas.empty(shape, len(candidates))
    for group in rule.groups([roi.corners for roi in pasted], [roi.candidate for roi in pasted]):
        _merge_group(canvas, rule, [pasted[index] for index in group])
    return _collect(canvas, rule)


@dataclass(frozen=True)
class _MergeRule:
    """The candidates of a volume, their scores, and the plan and voxel volume (mm³) by which they are merged."""

    candidates: Detections
    scores: CandidateScores
    plans: Plans
    voxel_volume: float

    def groups(self, corners: Sequence[Sequence[int]], owners: Sequence[int]) -> list[list[int]]:
        """Group the RoIs that influence each other; RoIs that take no part are left out.

        Parameters
        ----------
        corners : sequence of 6 ints
            First voxel and end of each RoI's region, ``z0 y0 x0 z1 y1 x1``.
        owners : sequence of int
            Candidate of each RoI.

        Returns
        -------
        list of list of int
            Indices of the RoIs of each group.
        """
        inference = self.plans.inference
        regions = np.array(corners, np.int64).reshape(-1, 6)
        score = self.scores.final[np.array(owners, np.int64)]
        is_shown = np.all(regions[:, 3:] > regions[:, :3], axis=1)
        taking_part = np.flatnonzero(is_shown & (score >= lowest_score(inference)))
        groups = [taking_part[members] for members in neighbour_groups(regions[taking_part])]
        # A group without a candidate that reaches the score threshold has no lesion.
        return [group.tolist() for group in groups if (score[group] >= inference.score_threshold).any()]


class _Group(NamedTuple):
    """Part of the volume in which a group of drafts lies, and the drafts: ``first``, and those up to ``last``."""

    window: tuple[slice, slice, slice]
    first: int
    last: int


@dataclass
class _Canvas:
    """The volume while lesions are put into it, group by group."""

    numbers: OwnerMap  # draft i has the number i + 1
    probabilities: npt.NDArray[np.float16] | None
    drafts: list[LesionDraft] = field(default_factory=list)
    voxels: list[int] = field(default_factory=list)  # of each draft
    boxes: list[tuple[float, ...]] = field(default_factory=list)  # of each draft
    groups: list[_Group] = field(default_factory=list)

    @classmethod
    def empty(cls, shape: Sequence[int], candidates: int, probability_maps: int = 0) -> _Canvas:
        """Return a volume without lesions, for at most ``candidates`` lesions."""
        maps = np.zeros((probability_maps, *shape), np.float16) if probability_maps else None
        # There are never more lesions than candidates.
        return cls(np.zeros(tuple(shape), np.uint32 if candidates >= 2**16 else np.uint16), maps)

    def add(self, window: tuple[slice, slice, slice], lesions: npt.NDArray[Any], drafts: Sequence[LesionDraft]) -> None:
        """Number the lesions of a window, counted from 1 there, after those that are in the volume already."""
        first = len(self.drafts)
        self.drafts += drafts
        self.groups.append(_Group(window, first, len(self.drafts)))
        # The lesions are measured here and not at the end, because a pass over a large volume takes seconds.
        self.voxels += np.bincount(lesions.ravel(), minlength=len(drafts) + 1)[1:].tolist()
        boxes = np.zeros((len(drafts), 6))
        names, found = boxes_from_instances(lesions)
        boxes[names - 1] = found + np.tile([axis.start for axis in window], 2)
        self.boxes += [tuple(box) for box in boxes.tolist()]
        # Only the lesions are written: RoIs of other groups may reach into the window.
        np.copyto(self.numbers[window], (lesions + first).astype(self.numbers.dtype), where=lesions > 0)

    def replaced(self, *values: OwnerMap) -> list[OwnerMap]:
        """Return a volume for each lookup table, with the value of the draft in each voxel of a draft.

        Parameters
        ----------
        values : ndarray, shape ``(D + 1,)``
            Value of each draft, after the value 0 of the background.
        """
        volumes = [np.zeros(self.numbers.shape, table.dtype) for table in values]
        for window, first, last in self.groups:
            numbers = self.numbers[window]
            is_own = (numbers > first) & (numbers <= last)
            own = numbers[is_own]
            for volume, table in zip(volumes, values, strict=True):
                volume[window][is_own] = table[own]
        return volumes


def _merge_group(canvas: _Canvas, rule: _MergeRule, rois: Sequence[PastedRoi]) -> None:
    """Make lesions of RoIs that influence each other, and put them into the volume."""
    corners = np.array([roi.corners for roi in rois])
    low, high = corners[:, :3].min(axis=0), corners[:, 3:].max(axis=0)
    window = box_slices((*low, *high))
    owner = np.zeros(tuple(high - low), canvas.numbers.dtype)
    maps = None
    if canvas.probabilities is not None:
        maps = np.zeros((len(canvas.probabilities), *owner.shape), np.float16)

    # From here on all coordinates are relative to the window.
    shifted = Detections(rule.candidates.boxes - np.tile(low, 2), rule.candidates.scores, rule.candidates.classes)
    inside = [roi.seen_from(low, roi.candidate) for roi in rois]
    competition = Competition(owner, inside, shifted, rule.scores.final, rule.plans.inference.mask_threshold)
    competition.assign_all(maps)
    if rule.plans.inference.join_touching:
        # Duplicates need no further step: they touch the lesion that they repeat and become part of it.
        lesions, drafts = connected_lesions(owner, rule.candidates.classes, rule.scores.final)
    else:
        competition.drop_duplicates()
        lesions, drafts = _lesion_per_candidate(owner, rule.scores)
    canvas.add(window, lesions, drafts)
    if canvas.probabilities is not None and maps is not None:
        all_classes = (slice(None), *window)
        np.copyto(canvas.probabilities[all_classes], maps, where=maps > 0)


def _lesion_per_candidate(owner: OwnerMap, scores: CandidateScores) -> tuple[OwnerMap, list[LesionDraft]]:
    """Make a lesion of the voxels of each candidate."""
    names = np.unique(owner[owner > 0]).astype(np.int64)
    lookup = np.zeros(int(names.max(initial=0)) + 1, owner.dtype)
    lookup[names] = np.arange(1, len(names) + 1)
    return lookup[owner], [LesionDraft(int(name) - 1, float(scores.final[name - 1])) for name in names]


def _collect(canvas: _Canvas, rule: _MergeRule) -> Merged:
    """Leave out lesions that score too low or are too small; number the others and make the result."""
    inference, drafts = rule.plans.inference, canvas.drafts
    voxels = np.array(canvas.voxels)
    score = np.array([draft.score for draft in drafts])

    kept = score >= inference.score_threshold
    if canvas.probabilities is not None:
        # A lesion below the score threshold is background in the maps as well, so that maps and masks agree.
        canvas.probabilities[:, np.append(False, ~kept)[canvas.numbers]] = 0
    is_large = voxels >= inference.minimum_volume_mm3 / rule.voxel_volume - _VOXEL_TOLERANCE
    if (kept & ~is_large).any():
        # The log reports the lesions that are left out.
        logger.info("%d lesion(s) smaller than %g mm³ left out", (kept & ~is_large).sum(), inference.minimum_volume_mm3)
    # Best score first; of equal scores the better candidate first.
    order = sorted(np.flatnonzero(kept & is_large).tolist(), key=lambda i: (-score[i], drafts[i].candidate))
    if order and score[order[0]] < inference.scan_threshold:
        logger.info(
            "%d lesion(s) left out, none of them with a score of %.3g or more", len(order), inference.scan_threshold
        )
        order = []
    return _result(canvas, rule, order)


def _result(canvas: _Canvas, rule: _MergeRule, order: Sequence[int]) -> Merged:
    """Return the lesions ``order`` (indices of drafts), numbered from 1 in this order."""
    number_of: OwnerMap = np.zeros(len(canvas.drafts) + 1, np.uint32 if len(order) > 65_535 else np.uint16)
    label_of: OwnerMap = np.zeros(len(number_of), np.uint8 if max(rule.plans.class_labels) < 256 else np.uint16)
    lesions = []
    for number, index in enumerate(order, start=1):
        draft = canvas.drafts[index]
        class_index = int(rule.candidates.classes[draft.candidate])
        number_of[index + 1], label_of[index + 1] = number, rule.plans.class_labels[class_index]
        lesions.append(
            Lesion(
                id=number,
                class_index=class_index,
                score=draft.score,
                detection_score=float(rule.candidates.scores[draft.candidate]),
                roi_score=float(rule.scores.roi[draft.candidate]),
                box=canvas.boxes[index],
                voxels=canvas.voxels[index],
                candidate=draft.candidate,
                joined=draft.joined,
            )
        )
    semantic, instances = canvas.replaced(label_of, number_of)
    return Merged(semantic, instances, lesions, rule.scores.final, rule.scores.roi, canvas.probabilities)


def roi_info(merged: Merged, plans: Plans) -> list[dict[str, Any]]:
    """Return the lesions of a result as plain dicts, for people and JSON."""
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
