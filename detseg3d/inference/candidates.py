"""Everything the two stages said about one scan, before any threshold: from this the masks are made, now or later.

Cross-validation stores it, so that thresholds are chosen without running the networks again.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.nms import suppress
from detseg3d.io.files import atomic_path
from detseg3d.models.decode import Detections
from detseg3d.models.merge import Merged, RoiPrediction, merge_rois
from detseg3d.planning.plans import InferencePlan, Plans

__all__ = ["Candidates", "candidates_path", "load_candidates", "loose_suppression", "save_candidates"]

_LEVELS = 255  # a stored probability is a multiple of 1/255


@dataclass(frozen=True)
class Candidates:
    """The candidates of one scan and the masks of their RoIs, on the scan's own grid.

    Attributes
    ----------
    found : Detections
        Boxes in voxel edges ``z0 y0 x0 z1 y1 x1``, detection scores and classes, best first.
    predictions : list of RoiPrediction
        Of every candidate one or more.
    shape : tuple of 3 ints
    spacing : tuple of 3 floats
        mm, ``(z, y, x)``.
    """

    found: Detections
    predictions: list[RoiPrediction]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.found)

    def select(self, indices: npt.NDArray[np.int64]) -> Candidates:
        """Only the candidates ``indices``, in this order, with their RoIs."""
        place = {int(old): new for new, old in enumerate(indices)}
        predictions = [p._replace(candidate=place[p.candidate]) for p in self.predictions if p.candidate in place]
        return Candidates(self.found[indices], predictions, self.shape, self.spacing)

    def admitted(self, inference: InferencePlan) -> Candidates:
        """The candidates that pass the plan's detection threshold and suppression."""
        passing = np.flatnonzero(self.found.scores >= inference.det_threshold)
        found = self.found[passing]
        kept = suppress(
            found.boxes,
            found.scores,
            found.classes,
            distance=inference.suppression_distance,
            iou=inference.suppression_iou,
        )
        return self.select(passing[kept])

    def merge(self, plans: Plans, keep_probabilities: bool = False) -> Merged:
        """Masks and lesions; see :func:`detseg3d.models.merge.merge_rois`."""
        return merge_rois(self.found, self.predictions, self.shape, plans, self.spacing, keep_probabilities)


def loose_suppression(inference: InferencePlan) -> InferencePlan:
    """The plan's inference section with half the suppression distance and more overlap allowed.

    What is stored under it holds the candidates of every stricter setting that a later search may try.
    """
    return inference.model_copy(
        update={
            "suppression_distance": inference.suppression_distance / 2,
            "suppression_iou": max(inference.suppression_iou, 0.5),
        }
    )


def candidates_path(folder: str | Path, case_id: str) -> Path:
    """Where the candidates of a case lie in a folder of predictions."""
    return Path(folder) / "candidates" / f"{case_id}.npz"


def save_candidates(candidates: Candidates, path: str | Path) -> None:
    """Write to an ``.npz``, atomically; probabilities are rounded to 1/255.

    Parameters
    ----------
    candidates : Candidates
    path : path
    """
    found, predictions = candidates.found, candidates.predictions
    masks = [(p.probability.float() * _LEVELS).round().to(torch.uint8).numpy() for p in predictions]
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(
            handle,
            shape=np.asarray(candidates.shape, np.int64),
            spacing=np.asarray(candidates.spacing, np.float64),
            boxes=np.asarray(found.boxes, np.float32),
            scores=np.asarray(found.scores, np.float32),
            classes=np.asarray(found.classes, np.int64),
            rois=np.stack([p.roi for p in predictions]) if predictions else np.zeros((0, 6)),
            owners=np.array([p.candidate for p in predictions], np.int64),
            roi_scores=np.array([p.score for p in predictions], np.float64),
            masks=np.stack(masks) if masks else np.zeros((0, 1, 1, 1), np.uint8),
        )


def load_candidates(path: str | Path) -> Candidates:
    """Read what :func:`save_candidates` wrote.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read or its parts do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return _from_arrays({name: data[name] for name in data.files})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
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
    if len(owners) and not 0 <= owners.min() <= owners.max() < count:
        raise ValueError(f"a RoI belongs to candidate {owners.max()} of {count}")
    probabilities = torch.from_numpy(masks).half() / _LEVELS
    predictions = [
        RoiPrediction(roi, int(owner), probability, float(score))
        for roi, owner, probability, score in zip(rois, owners, probabilities, roi_scores, strict=True)
    ]
    depth, height, width = (int(n) for n in data["shape"])
    z, y, x = (float(value) for value in data["spacing"])
    return Candidates(Detections(boxes, scores, classes), predictions, (depth, height, width), (z, y, x))
