"""The candidates of one scan with their RoI masks, before any score threshold.

Cross-validation stores the candidates, so that thresholds can be chosen without running the networks again. Two
candidates do not influence each other if their RoIs neither overlap nor touch. So a search over thresholds merges a
group of candidates again only if its members changed.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from detseg3d.core.arrays import IntArray
from detseg3d.core.boxes import box_slices
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.neighbours import neighbour_matrix
from detseg3d.core.nms import suppress
from detseg3d.evaluation.scores.ensemble_calibration import (
    ScoreSpread,
    calibration_of_several,
    variance_between,
)
from detseg3d.models.ensemble import MemberScores
from detseg3d.models.merging.decode import Detections, suppression_of
from detseg3d.models.merging.merge import Merged, merge_pasted, merge_rois
from detseg3d.models.merging.paste import PastedRoi, RoiPrediction, paste_predictions, rois_of
from detseg3d.models.merging.scores import candidate_roi_scores, combine_scores
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.files import atomic_path, open_regular_file

__all__ = [
    "Candidates",
    "MergedGroup",
    "load_candidates",
    "loose_suppression",
    "save_candidates",
]

logger = logging.getLogger(__name__)


_LEVELS = 255  # a stored probability is a multiple of 1/255
# Pasted RoIs of a scan that are kept: about a thousand small lesions, or a hundred large ones.
_MAX_PASTED_BYTES = 256 << 20


@dataclass(frozen=True)
class MergedGroup:
    """The lesions of a group of candidates that other candidates do not influence.

    Attributes
    ----------
    window : tuple of 3 slices
        Part of the volume that contains the group.
    merged : Merged
        On the grid of the window. Lesions are numbered from 1 within the group. Their boxes and candidates refer to the
        whole volume.
    """

    window: tuple[slice, slice, slice]
    merged: Merged


@dataclass
class _PastedRois:
    """Pasted RoIs by candidate, as many as the memory allows."""

    rois: dict[int, list[PastedRoi]] = field(default_factory=dict)
    size: int = 0

    def keep(self, candidate: int, pasted: list[PastedRoi]) -> None:
        """Keep the pasted RoIs of a candidate if the memory allows it."""
        size = sum(roi.probability.nbytes for roi in pasted)
        if self.size + size <= _MAX_PASTED_BYTES:
            self.rois[candidate] = pasted
            self.size += size


@dataclass(frozen=True)
class Candidates:
    """The candidates of one scan and the masks of their RoIs, on the grid of the scan.

    Attributes
    ----------
    detections : Detections
        Boxes in voxel edges ``z0 y0 x0 z1 y1 x1``, scores of Stage 1 and classes, best score first.
    predictions : list of RoiPrediction
        One or more for every candidate that Stage 2 outlined.
    shape : tuple of 3 ints
    spacing : tuple of 3 floats
        Voxel size ``(z, y, x)`` in mm.
    highest_detection : float
        Highest probability of Stage 1 in the scan, even if no candidate reached the detection threshold. It is not
        stored in files.
    limit : int or None
        Largest number of candidates in a prediction of this scan. More candidates may be stored. ``None`` means no
        limit.
    variance_between : float
        Variance of the score between several networks, on the scale of log-odds; 0 for a single network. It is not
        stored in files, because only candidates of single networks are stored.
    networks : int
        Number of networks that were averaged.
    """

    detections: Detections
    predictions: list[RoiPrediction]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    highest_detection: float = 0.0
    limit: int | None = None
    variance_between: float = 0.0
    networks: int = 1

    def __len__(self) -> int:
        return len(self.detections)

    def select(self, indices: IntArray) -> Candidates:
        """Return the candidates ``indices``, in this order, with their RoIs."""
        return replace(self, detections=self.detections[indices], predictions=rois_of(indices, self.predictions))

    def passing(self, inference: InferencePlan) -> IntArray:
        """Return the indices of candidates that pass detection threshold, suppression and limit, best score first."""
        above = np.flatnonzero(self.detections.scores >= inference.candidate_threshold)
        passing = self.detections[above]
        kept = suppress(passing.boxes, passing.scores, passing.classes, suppression_of(inference, self.limit))
        return above[kept]

    def admitted(self, inference: InferencePlan) -> Candidates:
        """Return the candidates that pass the detection threshold, the suppression and the limit."""
        return self.select(self.passing(inference))

    def is_outlined(self) -> npt.NDArray[np.bool_]:
        """Return whether each candidate has an RoI; shape ``(N,)``."""
        has_roi = np.zeros(len(self), np.bool_)
        has_roi[[prediction.candidate for prediction in self.predictions]] = True
        return has_roi

    def final_scores(self, inference: InferencePlan) -> npt.NDArray[np.float64]:
        """Return the combined score of each candidate, with the calibration of the plan; shape ``(N,)``."""
        roi_scores = candidate_roi_scores(len(self), self.predictions)
        return combine_scores(self.detections.scores, roi_scores, inference.calibration, inference.detection_weight)

    def of_several(self, members: MemberScores, inference: InferencePlan) -> Candidates:
        """Return these candidates with the variance of their scores between several networks.

        The calibration was fitted to candidates that reach the detection threshold. So a lower score of a network
        counts as the threshold. The scores of Stage 1 still come from the averaged heatmap.
        """
        weight = inference.detection_weight
        detection = np.maximum(members.detection, inference.candidate_threshold)
        between = variance_between(detection**weight * members.roi ** (1 - weight))
        return replace(self, variance_between=between, networks=len(detection))

    def calibrated(self, plans: Plans) -> Plans:
        """Return the plans with the calibration for the number of networks that were averaged."""
        inference = plans.inference
        spread = ScoreSpread(inference.calibration_base_rate, inference.calibration_variance)
        knots = calibration_of_several(
            inference.calibration, spread, self.variance_between, self.networks, inference.detection_weight
        )
        return plans if knots == inference.calibration else plans.evolve(inference={"calibration": knots})

    def touching(self) -> csr_array:
        """Find the candidates whose RoIs overlap or touch, within and between classes.

        The masks of all other pairs of candidates neither compete nor touch.

        Returns
        -------
        csr_array of bool, shape ``(N, N)``
            Symmetric; a candidate touches itself.
        """
        rois = np.array([prediction.roi for prediction in self.predictions]).reshape(-1, 6)
        owners = np.array([prediction.candidate for prediction in self.predictions], np.int64)
        return neighbour_matrix(rois, owners, len(self))

    @cached_property
    def _rois_of(self) -> dict[int, list[RoiPrediction]]:
        """Return the RoIs of each candidate."""
        rois: dict[int, list[RoiPrediction]] = {}
        for prediction in self.predictions:
            rois.setdefault(prediction.candidate, []).append(prediction)
        return rois

    @cached_property
    def _already_pasted(self) -> _PastedRois:
        return _PastedRois()

    def _pasted(self, candidate: int) -> list[PastedRoi]:
        """Return the pasted RoIs of a candidate. They are kept, because a search merges the same RoIs many times."""
        pasted = self._already_pasted.rois.get(candidate)
        if pasted is None:
            pasted = paste_predictions(self._rois_of.get(candidate, []), self.shape)
            self._already_pasted.keep(candidate, pasted)
        return pasted

    def merge_group(self, members: IntArray, plans: Plans) -> MergedGroup | None:
        """Merge some candidates; no threshold on score or size is applied to the resulting lesions.

        If all ``members`` also take part in :meth:`merge`, both methods give the same masks of these lesions, voxel by
        voxel.

        Parameters
        ----------
        members : ndarray of int64
            Indices of candidates. Their RoIs must neither overlap nor touch the RoIs of other candidates.
        plans : Plans

        Returns
        -------
        MergedGroup or None
            ``None`` if no RoI of the members lies in the volume.
        """
        rois = [(place, roi) for place, member in enumerate(members.tolist()) for roi in self._pasted(member)]
        corners = np.array([roi.corners for _, roi in rois if roi.probability.size])
        if not len(corners):
            return None
        low, high = corners[:, :3].min(axis=0), corners[:, 3:].max(axis=0)
        offset = np.tile(low, 2).astype(np.float64)
        chosen = self.detections[members]
        chosen = Detections(chosen.boxes - offset, chosen.scores, chosen.classes)
        unlimited = plans.inference.model_copy(
            update={"score_threshold": 0.0, "minimum_volume_mm3": 0.0, "scan_threshold": 0.0}
        )
        rule = plans.model_copy(update={"inference": unlimited})
        shifted = [roi.seen_from(low, place) for place, roi in rois]
        merged = merge_pasted(chosen, shifted, tuple(high - low), rule, self.spacing)
        lesions = [
            replace(
                lesion,
                candidate=int(members[lesion.candidate]),
                joined=tuple(int(members[index]) for index in lesion.joined),
                box=tuple((lesion.box + offset).tolist()),
            )
            for lesion in merged.lesions
        ]
        return MergedGroup(box_slices((*low, *high)), replace(merged, lesions=lesions))

    def merge(self, plans: Plans, keep_probabilities: bool = False) -> Merged:
        """Merge all candidates into lesions; see :func:`detseg3d.models.merging.merge.merge_rois`."""
        return merge_rois(self.detections, self.predictions, self.shape, plans, self.spacing, keep_probabilities)


def loose_suppression(inference: InferencePlan) -> InferencePlan:
    """Return an inference section with half the suppression distance, more overlap and twice as many candidates.

    Candidates that were found with this section serve every stricter setting that a later search may try. Suppression
    is greedy. A loose pass and then a strict pass may therefore lose a candidate that one strict pass keeps, which is
    rare. This happens if box A suppresses box B in the loose pass, and a third box suppresses A in the strict pass. In
    one strict pass, A is removed before it can suppress B.
    """
    return inference.model_copy(
        update={
            "candidate_density": 2 * inference.candidate_density,
            "min_candidates": 2 * inference.min_candidates,
            "max_candidates": 2 * inference.max_candidates,
            "suppression_distance": inference.suppression_distance / 2,
            "suppression_iou": max(inference.suppression_iou, 0.5),
        }
    )


def save_candidates(candidates: Candidates, path: str | Path) -> None:
    """Write candidates to an ``.npz`` file, atomically. Probabilities are rounded to multiples of 1/255.

    Parameters
    ----------
    candidates : Candidates
    path : path
    """
    detections, predictions = candidates.detections, candidates.predictions
    masks = [(p.probability.float().clamp(0, 1) * _LEVELS).round().to(torch.uint8).numpy() for p in predictions]
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle,
            shape=np.asarray(candidates.shape, np.int64),
            spacing=np.asarray(candidates.spacing, np.float64),
            limit=np.asarray(-1 if candidates.limit is None else candidates.limit, np.int64),
            boxes=np.asarray(detections.boxes, np.float32),
            scores=np.asarray(detections.scores, np.float32),
            classes=np.asarray(detections.classes, np.int64),
            rois=np.stack([p.roi for p in predictions]) if predictions else np.zeros((0, 6)),
            owners=np.array([p.candidate for p in predictions], np.int64),
            roi_scores=np.array([p.score for p in predictions], np.float64),
            masks=np.stack(masks) if masks else np.zeros((0, 1, 1, 1), np.uint8),
        )


def load_candidates(path: str | Path) -> Candidates:
    """Read candidates that :func:`save_candidates` wrote.

    Returns
    -------
    Candidates

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, or its arrays do not fit together.
    """
    unreadable = (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
    try:
        with open_regular_file(path) as handle, np.load(handle, allow_pickle=False) as data:
            return _from_arrays({name: data[name] for name in data.files})
    # A file of another kind may open without an error and then hold other arrays.
    except (*unreadable, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DetSeg3DError(
            f"the stored candidates cannot be read ({type(error).__name__}: {error})",
            file=path,
            remedy="write them again with detseg3d_train DATASET FOLD --val",
        ) from error


def _from_arrays(data: dict[str, npt.NDArray[Any]]) -> Candidates:
    boxes, scores, classes = data["boxes"], data["scores"], data["classes"]
    rois, owners, roi_scores, masks = data["rois"], data["owners"], data["roi_scores"], data["masks"]
    count = len(scores)
    if boxes.shape != (count, 6) or classes.shape != (count,):
        raise ValueError(f"{boxes.shape} boxes and {classes.shape} classes for {count} scores")
    if rois.shape != (len(masks), 6) or masks.ndim != 4 or not len(owners) == len(roi_scores) == len(masks):
        raise ValueError(f"{rois.shape} RoIs and {len(owners)} owners for {masks.shape} masks")
    if masks.dtype != np.uint8 or not all(np.isfinite(array).all() for array in (boxes, scores, rois, roi_scores)):
        raise ValueError(f"values that are not finite, or masks of {masks.dtype}")
    if len(owners) and not 0 <= owners.min() <= owners.max() < count:
        raise ValueError(f"an RoI belongs to candidate {owners.max()} of {count}")
    probabilities = torch.from_numpy(masks).half() / _LEVELS
    predictions = [
        RoiPrediction(roi, int(owner), probability, float(score))
        for roi, owner, probability, score in zip(rois, owners, probabilities, roi_scores, strict=True)
    ]
    depth, height, width = (int(n) for n in data["shape"])
    z, y, x = (float(value) for value in data["spacing"])
    stored_limit = int(data["limit"])
    limit = None if stored_limit < 0 else stored_limit
    detections = Detections(boxes, scores, classes)
    return Candidates(detections, predictions, (depth, height, width), (z, y, x), limit=limit)
