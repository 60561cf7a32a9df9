"""What is known about one evaluated case: counts that can be added up, rates that follow from them, and lesion records.

Rates never are NaN. A rate whose denominator is zero is 1.0 if the other side is empty, too (nothing was there and
nothing was claimed), and 0.0 otherwise; the counts beside it tell which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import reduce
from operator import add
from typing import Any

from detseg3d.evaluation.definitions.per_case import CaseFigures
from detseg3d.evaluation.definitions.presets import PresetResult
from detseg3d.evaluation.definitions.voxels import dice_from_counts
from detseg3d.evaluation.scores.froc import ScoredCase

__all__ = ["CRITERIA", "HEADLINE", "CaseMetrics", "ClassMetrics", "DetectionCounts", "LesionRecord", "PanopticCounts"]

CRITERIA: dict[str, float | None] = {"iou_0.1": 0.1, "any": None, "iou_0.5": 0.5}
"""When a lesion counts as detected: at any overlap (not one-to-one), or matched one-to-one with at least this IoU."""

HEADLINE = "iou_0.1"
"""The criterion of the main figures. At any overlap, a larger mask finds more lesions whatever it outlines."""


def _rate(part: float, whole: float, other_side: int) -> float:
    if whole:
        return part / whole
    return 0.0 if other_side else 1.0


@dataclass(frozen=True)
class DetectionCounts:
    """Lesions found and missed under one criterion.

    ``found`` of ``truth`` true lesions and ``true_positives`` of ``predictions`` predicted ones. Under a one-to-one
    criterion the two are equal; at any overlap they are counted on their own sides.
    """

    truth: int = 0
    found: int = 0
    predictions: int = 0
    true_positives: int = 0

    @property
    def missed(self) -> int:
        """True lesions not found."""
        return self.truth - self.found

    @property
    def false_positives(self) -> int:
        """Predicted lesions that are none."""
        return self.predictions - self.true_positives

    @property
    def recall(self) -> float:
        """``found / truth``, also called sensitivity."""
        return _rate(self.found, self.truth, self.predictions)

    @property
    def precision(self) -> float:
        """``true_positives / predictions``."""
        return _rate(self.true_positives, self.predictions, self.truth)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(
            self.truth + other.truth,
            self.found + other.found,
            self.predictions + other.predictions,
            self.true_positives + other.true_positives,
        )

    def to_dict(self) -> dict[str, float]:
        """Rates and counts, for JSON."""
        return {
            "recall": self.recall,
            "precision": self.precision,
            "f1": self.f1,
            "truth": self.truth,
            "found": self.found,
            "predictions": self.predictions,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
        }


@dataclass(frozen=True)
class PanopticCounts:
    """Panoptic quality: Kirillov et al. (2019), "Panoptic Segmentation", CVPR, https://arxiv.org/abs/1801.00868.

    Pairs with IoU *above* 0.5 match; such matches are unique without any choice. ``pq = sq * rq``.
    """

    truth: int = 0
    predictions: int = 0
    matches: int = 0
    iou_sum: float = 0.0

    @property
    def pq(self) -> float:
        """Sum of the matches' IoU over matches + half the misses + half the false positives."""
        return _rate(2 * self.iou_sum, self.truth + self.predictions, 0)

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matches."""
        return _rate(self.iou_sum, self.matches, self.truth + self.predictions)

    @property
    def rq(self) -> float:
        """Recognition quality: the F1 of the matches."""
        return _rate(2 * self.matches, self.truth + self.predictions, 0)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.truth + other.truth,
            self.predictions + other.predictions,
            self.matches + other.matches,
            self.iou_sum + other.iou_sum,
        )

    def to_dict(self) -> dict[str, float]:
        """Rates and counts, for JSON."""
        return {"pq": self.pq, "sq": self.sq, "rq": self.rq, "matches": self.matches, "iou_sum": self.iou_sum}


def _no_detections() -> dict[str, DetectionCounts]:
    return {name: DetectionCounts() for name in CRITERIA}


@dataclass(frozen=True)
class ClassMetrics:
    """Counts of one class in one case, or of several classes or cases added up. The default is: nothing there."""

    truth_voxels: int = 0
    prediction_voxels: int = 0
    intersection_voxels: int = 0
    detection: Mapping[str, DetectionCounts] = field(default_factory=_no_detections)
    panoptic: PanopticCounts = PanopticCounts()

    @property
    def dice(self) -> float:
        """Dice of all voxels; 1.0 where truth and prediction are both empty."""
        return dice_from_counts(self.intersection_voxels, self.truth_voxels, self.prediction_voxels)

    @property
    def has_lesions(self) -> bool:
        """Whether the truth has any."""
        return self.truth_voxels > 0

    @property
    def is_empty(self) -> bool:
        """Whether truth and prediction are both empty."""
        return self.truth_voxels == 0 and self.prediction_voxels == 0

    def __add__(self, other: ClassMetrics) -> ClassMetrics:
        return ClassMetrics(
            self.truth_voxels + other.truth_voxels,
            self.prediction_voxels + other.prediction_voxels,
            self.intersection_voxels + other.intersection_voxels,
            {name: self.detection[name] + other.detection[name] for name in CRITERIA},
            self.panoptic + other.panoptic,
        )

    def to_dict(self) -> dict[str, Any]:
        """Rates and counts, for JSON."""
        return {
            "dice": self.dice,
            "empty": self.is_empty,
            "truth_voxels": self.truth_voxels,
            "prediction_voxels": self.prediction_voxels,
            "lesions": {name: counts.to_dict() for name, counts in self.detection.items()},
            "panoptic": self.panoptic.to_dict(),
        }


@dataclass(frozen=True)
class LesionRecord:
    """One true or predicted lesion and what became of it.

    Attributes
    ----------
    case_id : str
    kind : str
        ``truth`` or ``prediction``.
    id : int
        Value in the instance map.
    class_name : str
    voxels : int
    volume_mm3 : float
    center : tuple of 3 floats
        Centre of mass ``(z, y, x)``, voxel edges: of the arrays that were compared, or of the label file as stored if
        files were compared.
    matched : dict of str to bool
        For each of :data:`CRITERIA`: whether this true lesion was found, or this predicted one is a true positive.
    partner : int or None
        The lesion of the other side and the same class with the highest IoU; ``None`` if none overlaps.
    iou, dice : float
        With the partner; 0 without one.
    score : float or None
        Of a predicted lesion, if it has one.
    """

    case_id: str
    kind: str
    id: int
    class_name: str
    voxels: int
    volume_mm3: float
    center: tuple[float, float, float]
    matched: Mapping[str, bool]
    partner: int | None
    iou: float
    dice: float
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {**values, "center": list(self.center), "matched": dict(self.matched)}


@dataclass(frozen=True)
class CaseMetrics:
    """One evaluated case.

    Attributes
    ----------
    case_id : str
    spacing : tuple of 3 floats
        Millimetres ``(z, y, x)``.
    voxel_volume : float
        Of one voxel, mm³.
    classes : dict of str to ClassMetrics
    lesions : tuple of LesionRecord
        True lesions, then predicted ones.
    figures : dict of str to CaseFigures
        By class, and of all classes under ``all``; empty if they were not asked for.
    scored : dict of str to dict of str to ScoredCase
        By class, and of all classes under ``all``, for each of :data:`CRITERIA`; empty if the predictions have no
        scores.
    preset : PresetResult or None
        What the figures of a challenge need, if they were asked for.
    """

    case_id: str
    spacing: tuple[float, float, float]
    voxel_volume: float
    classes: Mapping[str, ClassMetrics]
    lesions: tuple[LesionRecord, ...]
    figures: Mapping[str, CaseFigures] = field(default_factory=dict)
    scored: Mapping[str, Mapping[str, ScoredCase]] = field(default_factory=dict)
    preset: PresetResult | None = None

    @property
    def overall(self) -> ClassMetrics:
        """The classes added up: a lesion of the wrong class is a miss of one and a false positive of the other."""
        return reduce(add, self.classes.values(), ClassMetrics())

    @property
    def dice(self) -> float:
        """Dice over the voxels of all classes, of which only those of the right class count as common."""
        return self.overall.dice

    def to_dict(self) -> dict[str, Any]:
        """Metrics without the lesion records, for JSON."""
        result = {
            "case_id": self.case_id,
            "spacing": list(self.spacing),
            "voxel_volume_mm3": self.voxel_volume,
            **self.overall.to_dict(),
        }
        result["classes"] = {name: metrics.to_dict() for name, metrics in self.classes.items()}
        if self.figures:
            result["figures"] = self.figures["all"].to_dict()
            for name, part in result["classes"].items():
                part["figures"] = self.figures[name].to_dict()
        if self.preset is not None:
            result["preset"] = self.preset.to_dict()
        return result
