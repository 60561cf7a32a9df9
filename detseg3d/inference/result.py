"""The result for one scan: lesions, candidates and masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Box
from detseg3d.core.codes import ClassCodes
from detseg3d.core.geometry import Geometry
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.inference.candidates import Candidates
from detseg3d.inference.expectation import Expectation
from detseg3d.measures.lesion import LesionMeasures
from detseg3d.measures.measure import MeasuredScan, measure_lesions
from detseg3d.models.merging.merge import Merged
from detseg3d.models.merging.scores import highest_possible_scores
from detseg3d.planning.appearance.comparison import Similarity
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.json_records import plain

__all__ = ["PredictedCandidate", "PredictedLesion", "Prediction", "describe_case"]

Point = tuple[float, float, float]
Placed = TypeVar("Placed", bound="_Placed")


@dataclass(frozen=True, repr=False)
class _Placed:
    """An object with a class, scores and a box.

    Attributes
    ----------
    class_name : str
    label : int
        Value of the class in label files.
    score : float
        Combined score of both stages, from 0 to 1.
    detection_score : float
        Score of Stage 1, from 0 to 1.
    roi_score : float or None
        Score of Stage 2, from 0 to 1. ``None`` for a candidate that Stage 2 did not outline.
    box : tuple of 6 floats
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    box_world : tuple of 2 points
        The two corners of the box in mm, ``(x, y, z)`` LPS.
    center : tuple of 3 floats
        Centre of the box ``(z, y, x)`` in voxel edges.
    center_world : tuple of 3 floats
        Centre of the box in mm, ``(x, y, z)`` LPS.
    """

    class_name: str
    label: int
    score: float
    detection_score: float
    roi_score: float | None
    box: Box
    box_world: tuple[Point, Point]
    center: Point
    center_world: Point

    def to_stored(self: Placed, geometry: Geometry) -> Placed:
        """Return a copy in the axis order of the file instead of canonical order.

        Parameters
        ----------
        geometry : Geometry
            In canonical order, as it was read from the file.
        """
        box = geometry.stored_order.box_to_stored(self.box)
        return replace(self, **_place(np.asarray(box), geometry.as_stored()))

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain numbers and strings; the class name is under ``class``."""
        return {
            "class": self.class_name,
            "label": self.label,
            "score": self.score,
            "detection_score": self.detection_score,
            "roi_score": self.roi_score,
            "box": list(self.box),
            "box_world": [list(corner) for corner in self.box_world],
            "center": list(self.center),
            "center_world": list(self.center_world),
        }


@dataclass(frozen=True, repr=False)
class PredictedLesion(_Placed):
    """A predicted lesion. Its box and its centre are computed from its mask.

    Attributes
    ----------
    id : int
        Value of the lesion in the instance map, from 1. The lesion with the best score has 1.
    measures : LesionMeasures
        Size, axes, surface, intensities and distance to the border of the body.
    codes : ClassCodes or None
        Codes of the class for DICOM; ``None`` if dataset.json does not state codes.
    """

    id: int
    measures: LesionMeasures
    codes: ClassCodes | None = None

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return self.measures.voxels

    @property
    def volume_mm3(self) -> float:
        """Volume in mm³."""
        return self.measures.volume_mm3

    @property
    def diameter_mm(self) -> float:
        """Diameter in mm of a sphere of the same volume."""
        return self.measures.diameter_mm

    def __repr__(self) -> str:
        return f"PredictedLesion(id={self.id}, {self.class_name}, score={self.score:.3f}, {self.volume_mm3:.4g} mm³)"

    def to_stored(self, geometry: Geometry) -> PredictedLesion:
        """Return a copy in the axis order of the file instead of canonical order."""
        return replace(super().to_stored(geometry), measures=self.measures.to_stored(geometry.stored_order))

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain numbers and strings."""
        return {"id": self.id, **super().to_json(), **self.measures.to_json(), "codes": plain(self.codes)}


@dataclass(frozen=True, repr=False)
class PredictedCandidate(_Placed):
    """A candidate of Stage 1, accepted or not. Box and centre are those that Stage 1 detected.

    Stage 2 does not outline a candidate that is too weak to be a lesion or a part of one. Such a candidate has no
    ``roi_score``. Its ``score`` is the highest score that it could have, and lies below the score threshold.

    Attributes
    ----------
    lesion : int or None
        Id of the lesion that contains the mask of the candidate; ``None`` if the candidate was not accepted.
    """

    lesion: int | None

    def __repr__(self) -> str:
        return f"PredictedCandidate({self.class_name}, score={self.score:.3f}, lesion={self.lesion})"

    def to_json(self) -> dict[str, Any]:
        """Return a dict of plain numbers and strings."""
        return {**super().to_json(), "lesion": self.lesion}


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The result for one scan, in canonical order (z towards Superior, y Posterior, x Left).

    :func:`~detseg3d.inference.prediction_files.write_case` writes it in the order of the scan's file. A notebook shows
    a picture and a table.

    Attributes
    ----------
    semantic : ndarray of uint8 (uint16 for labels beyond 255), shape ``(Z, Y, X)``
        Label value of each voxel's class, 0 for background.
    instances : ndarray of uint16 (uint32 beyond 65 535 lesions), shape ``(Z, Y, X)``
        Number of the lesion of each voxel, 0 for background.
    lesions : tuple of PredictedLesion
        Best score first.
    candidates : tuple of PredictedCandidate
        Every candidate of Stage 1.
    geometry : Geometry
        Shape, spacing and position of the voxel grid.
    probabilities : ndarray of float16, shape ``(K, Z, Y, X)``, or None
        Averaged lesion probability of each class.
    similarity : Similarity or None
        The scan compared with the training scans; ``None`` if it was not compared.
    instance_classes : dict of int to int, or None
        Class index of each lesion, for models of instance maps with several classes.
    candidate_limit : int or None
        Largest number of candidates that the plan allows in a scan of this volume; ``None`` if unknown.
    image : ndarray, shape ``(Z, Y, X)``, or None
        The first channel of the scan, for the picture.
    expectation : Expectation or None
        The recall to expect; ``None`` if the scan is like the training scans or was not compared with them.
    model : ModelIdentity
        The model that made the prediction.
    thresholds : Thresholds or None
        The thresholds that turned the candidates into lesions; ``None`` if they are unknown.
    """

    semantic: npt.NDArray[np.unsignedinteger[Any]]
    instances: npt.NDArray[np.unsignedinteger[Any]]
    lesions: tuple[PredictedLesion, ...]
    candidates: tuple[PredictedCandidate, ...]
    geometry: Geometry
    probabilities: npt.NDArray[np.float16] | None = None
    similarity: Similarity | None = None
    instance_classes: Mapping[int, int] | None = None
    candidate_limit: int | None = None
    image: npt.NDArray[Any] | None = None
    expectation: Expectation | None = None
    model: ModelIdentity = field(default_factory=ModelIdentity)
    thresholds: Thresholds | None = None

    @property
    def limit_reached(self) -> bool:
        """True if there are as many candidates as the plan allows, so that weaker ones were left out."""
        return self.candidate_limit is not None and len(self.candidates) >= self.candidate_limit

    def to_json(self) -> dict[str, Any]:
        """Return shape, spacing, lesions and candidates as plain numbers and strings, without the arrays."""
        return {
            "shape": list(self.geometry.shape),
            "spacing": list(self.geometry.spacing),
            "thresholds": plain(self.thresholds),
            "candidate_limit": self.candidate_limit,
            "limit_reached": self.limit_reached,
            "similarity": None if self.similarity is None else self.similarity.to_json(),
            "expected_recall": None if self.expectation is None else self.expectation.to_json(),
            "lesions": [lesion.to_json() for lesion in self.lesions],
            "candidates": [candidate.to_json() for candidate in self.candidates],
        }

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.geometry.shape))
        return f"Prediction({len(self.lesions)} lesion(s) of {len(self.candidates)} candidate(s), {shape} voxels)"

    def _repr_html_(self) -> str:
        from detseg3d.inference.notebook import prediction_html

        return prediction_html(self)


def describe_case(
    merged: Merged,
    candidates: Candidates,
    geometry: Geometry,
    plans: Plans,
    similarity: Similarity | None = None,
    images: npt.NDArray[np.float32] | None = None,
) -> Prediction:
    """Describe the lesions and candidates of a merged scan.

    Parameters
    ----------
    merged : Merged
        On the grid of ``geometry``.
    candidates : Candidates
        On the same grid.
    geometry : Geometry
    plans : Plans
        Names and labels of the classes.
    similarity : Similarity, optional
        The scan compared with the training scans.
    images : ndarray of float32, shape ``(C, Z, Y, X)``, optional
        The scan as it was read. Without it, lesions have no intensities and no distance to the border of the body.

    Returns
    -------
    Prediction
    """
    lesions = []
    scan = None if images is None else MeasuredScan(images, plans.channel_names)
    measured = measure_lesions(merged.instances, [lesion.id for lesion in merged.lesions], geometry, scan)
    for lesion, measures in zip(merged.lesions, measured, strict=True):
        lesions.append(
            PredictedLesion(
                class_name=plans.class_names[lesion.class_index],
                label=plans.class_labels[lesion.class_index],
                score=lesion.score,
                detection_score=lesion.detection_score,
                roi_score=lesion.roi_score,
                **_place(np.asarray(lesion.box), geometry),
                id=lesion.id,
                measures=measures,
                codes=plans.codes.get(plans.class_names[lesion.class_index]),
            )
        )
    accepted = {index: lesion.id for lesion in merged.lesions for index in (lesion.candidate, *lesion.joined)}
    detections = candidates.detections
    highest = highest_possible_scores(detections.scores, plans.inference)
    described = [
        PredictedCandidate(
            class_name=plans.class_names[class_index],
            label=plans.class_labels[class_index],
            score=float(merged.scores[index] if is_outlined else highest[index]),
            detection_score=float(detections.scores[index]),
            roi_score=float(merged.roi_scores[index]) if is_outlined else None,
            **_place(detections.boxes[index], geometry),
            lesion=accepted.get(index),
        )
        for index, (class_index, is_outlined) in enumerate(
            zip(detections.classes.tolist(), candidates.is_outlined().tolist(), strict=True)
        )
    ]
    is_numbered = plans.instances and plans.num_classes > 1
    return Prediction(
        merged.semantic,
        merged.instances,
        tuple(lesions),
        tuple(described),
        geometry,
        merged.probabilities,
        similarity,
        {lesion.id: lesion.class_index for lesion in merged.lesions} if is_numbered else None,
        candidates.limit,
        thresholds=Thresholds(**plans.inference.values()),
    )


def _place(box: npt.NDArray[np.floating[Any]], geometry: Geometry) -> dict[str, Any]:
    """Return the fields of a box and its centre, in voxel edges and in mm."""
    corners = np.asarray(box, np.float64).reshape(2, 3)
    center = corners.mean(axis=0, keepdims=True)
    return {
        "box": tuple(float(value) for value in corners.ravel()),
        "box_world": tuple(tuple(corner) for corner in geometry.voxel_edges_to_world(corners).tolist()),
        "center": tuple(center[0].tolist()),
        "center_world": tuple(geometry.voxel_edges_to_world(center)[0].tolist()),
    }
