"""Types of the metrics of one case: counts, rates computed from counts, and lesions.

A rate is never NaN. If its denominator is zero, the rate is 1.0 if truth and prediction are both empty, and 0.0 if only
one of them is empty. The counts show the reason for the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add

from detseg3d.core.arrays import Spacing
from detseg3d.core.enums import StringEnum
from detseg3d.evaluation.by_class import ByClass
from detseg3d.evaluation.definitions.outlines import OutlineMetrics
from detseg3d.evaluation.definitions.presets import PresetResult
from detseg3d.evaluation.definitions.voxels import dice_from_counts
from detseg3d.evaluation.scores.froc import ScoredCase
from detseg3d.measures.lesion import LesionShape
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "HEADLINE",
    "CaseMetrics",
    "ClassMetrics",
    "Criterion",
    "DetectionCounts",
    "LesionMetrics",
    "PanopticCounts",
]


class Criterion(StringEnum):
    """Condition under which a lesion counts as detected. The value is the name of the criterion in files."""

    IOU_01 = "iou_0.1"
    """Matched one-to-one with an IoU of 0.1 or more."""
    ANY = "any"
    """At least one voxel in common. This is not one-to-one: one prediction may detect several lesions."""
    IOU_05 = "iou_0.5"
    """Matched one-to-one with an IoU of 0.5 or more."""

    @property
    def minimum_iou(self) -> float | None:
        """IoU that a match needs; ``None`` for any overlap."""
        if self is Criterion.ANY:
            return None
        return 0.1 if self is Criterion.IOU_01 else 0.5

    @property
    def label(self) -> str:
        """Name of the criterion in texts."""
        return "any overlap" if self is Criterion.ANY else f"IoU ≥ {self.minimum_iou}"


HEADLINE = Criterion.IOU_01
"""Criterion of the main metrics. At any overlap, a mask that is too large finds more lesions than an exact mask."""


def _rate(part: float, whole: float, other_side: int) -> float:
    if whole:
        return part / whole
    return 0.0 if other_side else 1.0


@dataclass(frozen=True)
class DetectionCounts(JsonRecord):
    """Numbers of lesions found and missed under one criterion.

    Under a one-to-one criterion, ``found`` equals ``true_positives``. At any overlap, the two numbers may differ.

    Attributes
    ----------
    truth : int
        True lesions.
    found : int
        True lesions that were detected.
    predictions : int
        Predicted lesions.
    true_positives : int
        Predicted lesions that detect a true lesion.
    """

    JSON_PROPERTIES = ("recall", "precision", "f1", "missed", "false_positives")

    truth: int = 0
    found: int = 0
    predictions: int = 0
    true_positives: int = 0

    @property
    def missed(self) -> int:
        """Number of true lesions that were not found."""
        return self.truth - self.found

    @property
    def false_positives(self) -> int:
        """Number of predicted lesions that detect no true lesion."""
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
        """Harmonic mean of precision and recall; 0 if both are 0."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def __add__(self, other: DetectionCounts) -> DetectionCounts:
        return DetectionCounts(
            self.truth + other.truth,
            self.found + other.found,
            self.predictions + other.predictions,
            self.true_positives + other.true_positives,
        )


@dataclass(frozen=True)
class PanopticCounts(JsonRecord):
    """Counts of the panoptic quality.

    Pairs with an IoU *above* 0.5 match. Each lesion has at most one partner with such an IoU, so no choice is needed.

    Attributes
    ----------
    truth, predictions : int
        Lesions on each side.
    matches : int
        Number of pairs with an IoU above 0.5.
    iou_sum : float
        Sum of the IoU of the matches.

    References
    ----------
    Kirillov et al. (2019), "Panoptic Segmentation", CVPR, https://arxiv.org/abs/1801.00868.
    """

    JSON_PROPERTIES = ("pq", "sq", "rq")

    truth: int = 0
    predictions: int = 0
    matches: int = 0
    iou_sum: float = 0.0

    @property
    def pq(self) -> float:
        """Panoptic quality: IoU sum / (matches + half of the misses + half of the false positives) = ``sq * rq``."""
        return _rate(2 * self.iou_sum, self.truth + self.predictions, 0)

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the matches."""
        return _rate(self.iou_sum, self.matches, self.truth + self.predictions)

    @property
    def rq(self) -> float:
        """Recognition quality: F1 of the matches."""
        return _rate(2 * self.matches, self.truth + self.predictions, 0)

    def __add__(self, other: PanopticCounts) -> PanopticCounts:
        return PanopticCounts(
            self.truth + other.truth,
            self.predictions + other.predictions,
            self.matches + other.matches,
            self.iou_sum + other.iou_sum,
        )


def _no_detections() -> dict[Criterion, DetectionCounts]:
    return {criterion: DetectionCounts() for criterion in Criterion}


@dataclass(frozen=True)
class ClassMetrics(JsonRecord):
    """Counts of one class in one case, or sums over several classes or cases. The default has no lesions.

    Attributes
    ----------
    truth_voxels, prediction_voxels, intersection_voxels : int
        Voxels of the true and of the predicted lesions, and voxels in both.
    detection : dict of Criterion to DetectionCounts
        Detection counts under each criterion.
    panoptic : PanopticCounts
        Counts of the panoptic quality.
    """

    JSON_PROPERTIES = ("dice", "is_empty")

    truth_voxels: int = 0
    prediction_voxels: int = 0
    intersection_voxels: int = 0
    detection: Mapping[Criterion, DetectionCounts] = field(default_factory=_no_detections)
    panoptic: PanopticCounts = PanopticCounts()

    @property
    def dice(self) -> float:
        """Dice of all voxels; 1.0 if truth and prediction are both empty."""
        return dice_from_counts(self.intersection_voxels, self.truth_voxels, self.prediction_voxels)

    @property
    def has_lesions(self) -> bool:
        """True if the truth has a lesion."""
        return self.truth_voxels > 0

    @property
    def is_empty(self) -> bool:
        """True if truth and prediction are both empty."""
        return self.truth_voxels == 0 and self.prediction_voxels == 0

    def __add__(self, other: ClassMetrics) -> ClassMetrics:
        return ClassMetrics(
            self.truth_voxels + other.truth_voxels,
            self.prediction_voxels + other.prediction_voxels,
            self.intersection_voxels + other.intersection_voxels,
            {criterion: self.detection[criterion] + other.detection[criterion] for criterion in Criterion},
            self.panoptic + other.panoptic,
        )


@dataclass(frozen=True)
class LesionMetrics(JsonRecord):
    """Measures of one true or predicted lesion.

    Attributes
    ----------
    case_id : str
        Name of the case.
    kind : str
        ``truth`` or ``prediction``.
    id : int
        Value in the instance map.
    class_name : str
        Name of the class.
    voxels : int
        Number of voxels.
    volume_mm3 : float
        Volume in mm³.
    center : tuple of 3 floats
        Centre of mass ``(z, y, x)`` in voxel edges (the centre of voxel 0 is 0.5). The axes have the order of the
        compared arrays, or, if files were compared, the stored order of the label file.
    matched : dict of Criterion to bool
        True if a true lesion was found, or if a predicted lesion is a true positive.
    partner : int or None
        Value of the lesion of the same class on the other side with the highest IoU; ``None`` if no lesion overlaps.
    iou, dice : float
        Overlap with the partner; 0 if there is no partner.
    score : float or None
        Score of a predicted lesion; ``None`` for true lesions and for predictions without scores.
    shape : LesionShape or None
        RECIST axes, maximum diameter, surface area and sphericity; ``None`` if they were not requested.
    """

    case_id: str
    kind: str
    id: int
    class_name: str
    voxels: int
    volume_mm3: float
    center: tuple[float, float, float]
    matched: Mapping[Criterion, bool]
    partner: int | None
    iou: float
    dice: float
    score: float | None = None
    shape: LesionShape | None = None

    @property
    def is_true(self) -> bool:
        """True for a lesion of the truth, False for a lesion of the prediction."""
        return self.kind == "truth"


@dataclass(frozen=True)
class CaseMetrics(JsonRecord):
    """All metrics of one case.

    Attributes
    ----------
    case_id : str
        Name of the case.
    spacing : tuple of 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    voxel_volume_mm3 : float
        Volume of one voxel.
    classes : dict of str to ClassMetrics
        Counts of each class, by the name of the class.
    lesions : tuple of LesionMetrics
        True lesions, then predicted lesions.
    outlines : ByClass of OutlineMetrics, or None
        Metrics of the surfaces and lesion-wise metrics; ``None`` if they were not requested.
    preset : PresetResult or None
        Counts for the metrics of a challenge; ``None`` if no preset was requested.
    scored : ByClass of dict of Criterion to ScoredCase, or None
        Scores of the found lesions and of the true and false positives, for the curves over the score threshold;
        ``None`` if the predictions have no scores. The JSON leaves the scores out.
    """

    JSON_PROPERTIES = ("overall",)

    case_id: str
    spacing: Spacing
    voxel_volume_mm3: float
    classes: Mapping[str, ClassMetrics]
    lesions: tuple[LesionMetrics, ...]
    outlines: ByClass[OutlineMetrics] | None = None
    preset: PresetResult | None = None
    scored: ByClass[Mapping[Criterion, ScoredCase]] | None = field(default=None, metadata={"json": False})

    @property
    def overall(self) -> ClassMetrics:
        """Sum over the classes. A lesion of the wrong class is a miss in one class and a false positive in another."""
        return reduce(add, self.classes.values(), ClassMetrics())

    @property
    def dice(self) -> float:
        """Dice over the voxels of all classes. Only voxels of the right class count as common."""
        return self.overall.dice
