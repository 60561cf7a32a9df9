"""Types of the result of an evaluation: metrics of a set of cases, their intervals, and the metrics of each case.

Every type is a frozen dataclass with ``to_json`` and ``from_json``, see
:class:`~detseg3d.system.json_records.JsonRecord`. No value is NaN. A mean over no values is ``None``, and every
metric is ``None`` if there is no case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detseg3d.evaluation.case_files import CaseProblem
from detseg3d.evaluation.definitions.agreement import VolumeAgreement
from detseg3d.evaluation.definitions.presets import Preset, PresetMetric
from detseg3d.evaluation.intervals import MetricDifference, MetricEstimate
from detseg3d.evaluation.metrics import HEADLINE, CaseMetrics, Criterion, LesionMetrics
from detseg3d.evaluation.options import EvaluationOptions
from detseg3d.evaluation.scores.froc import ScoreSummary
from detseg3d.evaluation.scores.paired_tests import PairedTest
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "ClassMeans",
    "Comparison",
    "DetectionMeans",
    "DetectionSummary",
    "DiceSummary",
    "EvaluationResult",
    "FalsePositives",
    "Group",
    "LesionwiseSummary",
    "OutlineMeans",
    "OutlineSummary",
    "PanopticMeans",
    "PanopticSummary",
    "PresetSummary",
    "RecallBySize",
    "SizeBin",
    "SizeRecall",
    "Summary",
    "SystemsResult",
]


@dataclass(frozen=True)
class DiceSummary(JsonRecord):
    """Dice of a set of cases.

    Attributes
    ----------
    mean : float or None
        Mean over the counted ``cases``. For all classes together, every case counts; a case without lesions in truth
        and prediction has a Dice of 1.0. Within a class, a case does not count if it has the class neither in the truth
        nor in the prediction, as in nnU-Net: otherwise a rare class that is never found would have a Dice near 1.
    cases : int
        Number of counted cases.
    mean_with_lesions : float or None
        Mean over the ``cases_with_lesions``.
    cases_with_lesions : int
        Cases with a lesion in the truth.
    empty_cases : int
        Cases without lesions in truth and prediction.
    pooled : float or None
        Dice over the voxels of all cases.
    """

    mean: float | None
    cases: int
    mean_with_lesions: float | None
    cases_with_lesions: int
    empty_cases: int
    pooled: float | None


@dataclass(frozen=True)
class DetectionMeans(JsonRecord):
    """Means over cases of the detection metrics.

    Attributes
    ----------
    recall : float or None
        Mean over cases with true lesions.
    precision : float or None
        Mean over cases with predicted lesions.
    f1 : float or None
        Mean over the cases that :class:`DiceSummary` counts.
    """

    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class DetectionSummary(JsonRecord):
    """Detection of lesions under one criterion. Rates are computed from the lesions of all cases together.

    Attributes
    ----------
    recall, precision, f1 : float or None
        Pooled rates; ``None`` if there is no case.
    truth, found, predictions, true_positives, false_positives : int
        See :class:`~detseg3d.evaluation.metrics.DetectionCounts`.
    false_positives_per_scan : float or None
        Mean number of false positives per scan; ``None`` if there is no case.
    mean_over_cases : DetectionMeans
        Means of the rates of each case.
    """

    recall: float | None
    precision: float | None
    f1: float | None
    truth: int
    found: int
    predictions: int
    true_positives: int
    false_positives: int
    false_positives_per_scan: float | None
    mean_over_cases: DetectionMeans


@dataclass(frozen=True)
class FalsePositives(JsonRecord):
    """False positives in the scans without a true lesion. Within a class, only lesions of the class count.

    In a scan without true lesions, every predicted lesion is a false positive under every criterion.

    Attributes
    ----------
    scans : int
        Number of scans without a true lesion.
    total : int
        Number of false positives in these scans.
    per_scan : float or None
        ``total / scans``; ``None`` if there is no such scan.
    scans_without_false_positives : int
        Number of these scans without a false positive.
    """

    scans: int
    total: int
    per_scan: float | None
    scans_without_false_positives: int


@dataclass(frozen=True)
class PanopticMeans(JsonRecord):
    """Means over cases of the panoptic quality and its two factors."""

    pq: float | None
    sq: float | None
    rq: float | None


@dataclass(frozen=True)
class PanopticSummary(JsonRecord):
    """Panoptic quality, pooled over the lesions of all cases.

    Attributes
    ----------
    pq, sq, rq : float or None
        See :class:`~detseg3d.evaluation.metrics.PanopticCounts`; ``None`` if there is no case.
    matches : int
        Number of matches.
    iou_sum : float
        Sum of the IoU of the matches.
    mean_over_cases : PanopticMeans
        Means over cases.
    """

    pq: float | None
    sq: float | None
    rq: float | None
    matches: int
    iou_sum: float
    mean_over_cases: PanopticMeans


@dataclass(frozen=True)
class SizeRecall(JsonRecord):
    """Recall of the lesions of one size bin under one criterion.

    Attributes
    ----------
    found : int
        Number of lesions found.
    recall : float or None
        Share of the lesions that were found; ``None`` if the bin is empty.
    low, high : float or None
        95 % interval of the recall over patients.
    """

    found: int
    recall: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SizeBin(JsonRecord):
    """True lesions of one range of sizes.

    Attributes
    ----------
    name : str
        Range as text, with the unit.
    low : float
        Lower limit of the size; for quantiles, the size of the smallest lesion in the bin.
    high : float or None
        Upper limit of the size; a lesion of this size belongs to the next bin. ``None`` if the bin has no upper limit.
        For quantiles, the size of the largest lesion in the bin.
    lesions : int
        Number of true lesions.
    detection : dict of Criterion to SizeRecall
        Recall under each criterion.
    dice : float or None
        Mean Dice of the lesions with the prediction that overlaps best; 0 for a missed lesion.
    """

    name: str
    low: float
    high: float | None
    lesions: int
    detection: Mapping[Criterion, SizeRecall]
    dice: float | None


@dataclass(frozen=True)
class RecallBySize(JsonRecord):
    """Recall by the size of the true lesion.

    Attributes
    ----------
    voxels, mm3 : tuple of SizeBin
        Fixed bins by number of voxels and by volume.
    quantile : tuple of SizeBin
        Bins with about equal numbers of lesions by volume, smallest first. Every bin has lesions.
    """

    voxels: tuple[SizeBin, ...]
    mm3: tuple[SizeBin, ...]
    quantile: tuple[SizeBin, ...]


@dataclass(frozen=True)
class OutlineMeans(JsonRecord):
    """Means over cases of the surface metrics.

    See :class:`~detseg3d.evaluation.definitions.outlines.OutlineMetrics`.
    """

    nsd: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd_area: float | None
    hd95_area_mm: float | None


@dataclass(frozen=True)
class LesionwiseSummary(JsonRecord):
    """Lesion-wise Dice and HD95 of the BraTS challenges, pooled over the lesions of all cases.

    Attributes
    ----------
    dice, hd95_mm : float or None
        Pooled means over true lesions and false positives; ``None`` if no case is counted.
    truth, missed, false_positives : int
        Numbers of lesions.
    dice_mean_over_cases : float or None
        Mean of the lesion-wise Dice of each case.
    """

    dice: float | None
    hd95_mm: float | None
    truth: int
    missed: int
    false_positives: int
    dice_mean_over_cases: float | None


@dataclass(frozen=True)
class OutlineSummary(JsonRecord):
    """Surface metrics and lesion-wise metrics of a set of cases.

    Attributes
    ----------
    mean : OutlineMeans
        Means over the cases that :class:`DiceSummary` counts.
    mean_with_lesions : OutlineMeans
        Means over the cases with lesions in the truth. These means leave out scans without lesions, in which one false
        positive has the diagonal of the volume as HD95.
    cc_dice : float or None
        Mean of the CC-Dice over cases.
    lesionwise : LesionwiseSummary
        Lesion-wise metrics.
    """

    mean: OutlineMeans
    mean_with_lesions: OutlineMeans
    cc_dice: float | None
    lesionwise: LesionwiseSummary


@dataclass(frozen=True)
class Group(JsonRecord):
    """Metrics of a set of cases, for all classes together or for one class.

    Attributes
    ----------
    scans : int
        Number of cases.
    dice : DiceSummary
        Dice of the voxels.
    detection : dict of Criterion to DetectionSummary
        Detection under each criterion.
    lesion_free : FalsePositives
        False positives in scans without true lesions.
    panoptic : PanopticSummary
        Panoptic quality.
    recall_by_size : RecallBySize
        Recall by the size of the true lesion.
    volume_agreement : VolumeAgreement
        Agreement of predicted and true lesion volumes.
    outlines : OutlineSummary or None
        Surface and lesion-wise metrics; ``None`` if they were not requested.
    """

    scans: int
    dice: DiceSummary
    detection: Mapping[Criterion, DetectionSummary]
    lesion_free: FalsePositives
    panoptic: PanopticSummary
    recall_by_size: RecallBySize
    volume_agreement: VolumeAgreement
    outlines: OutlineSummary | None = None

    @property
    def headline(self) -> DetectionSummary:
        """Detection under the main criterion, IoU ≥ 0.1."""
        return self.detection[HEADLINE]

    @property
    def true_lesions(self) -> int:
        """Number of true lesions."""
        return self.headline.truth

    @property
    def predicted_lesions(self) -> int:
        """Number of predicted lesions."""
        return self.headline.predictions


@dataclass(frozen=True)
class ClassMeans(JsonRecord):
    """Means over the classes that occur in the truth. Within a class, only the cases with the class count.

    Attributes
    ----------
    classes : int
        Number of classes that occur in the truth.
    dice, dice_with_lesions : float or None
        Means of the Dice of the classes.
    f1 : dict of Criterion to (float or None)
        Mean of the pooled F1.
    pq : float or None
        Mean of the pooled panoptic quality.
    outlines : OutlineMeans or None
        Means of the surface metrics; ``None`` if they were not requested.
    cc_dice : float or None
        Mean of the CC-Dice of the classes.
    """

    classes: int
    dice: float | None
    dice_with_lesions: float | None
    f1: Mapping[Criterion, float | None]
    pq: float | None
    outlines: OutlineMeans | None = None
    cc_dice: float | None = None


@dataclass(frozen=True)
class PresetSummary(JsonRecord):
    """Metrics of a challenge or of another program under its own rules.

    Attributes
    ----------
    preset : Preset
        Challenge or program.
    classes : dict of str to tuple of PresetMetric
        Metrics of each class, by the name of the class. All classes have the same metrics in the same order.
    """

    preset: Preset
    classes: Mapping[str, tuple[PresetMetric, ...]]


@dataclass(frozen=True)
class Summary(JsonRecord):
    """Metrics of a set of cases.

    Attributes
    ----------
    cases : int
        Number of cases.
    overall : Group
        Metrics of all classes together.
    classes : dict of str to Group
        Metrics of each class, by the name of the class.
    class_mean : ClassMeans
        Means over the classes.
    scores : dict of Criterion to ScoreSummary, or None
        FROC, CPM and average precision; ``None`` if a case has no scores.
    preset : PresetSummary or None
        Metrics of a preset; ``None`` if a case lacks these metrics.
    """

    cases: int
    overall: Group
    classes: Mapping[str, Group]
    class_mean: ClassMeans
    scores: Mapping[Criterion, ScoreSummary] | None = None
    preset: PresetSummary | None = None


@dataclass(frozen=True)
class EvaluationResult(JsonRecord):
    """Result of the evaluation of one system.

    Attributes
    ----------
    truth_folder, prediction_folder : str
        Folders that were compared.
    class_labels : dict of str to int, or None
        Value of each class in the label files; ``None`` if no dataset.json names the classes.
    options : EvaluationOptions
        Options of the evaluation.
    summary : Summary
        Metrics of all cases.
    patients : int
        Number of patients.
    estimates : dict of str to MetricEstimate
        Main metrics with their intervals, by the key of the metric in
        :data:`~detseg3d.evaluation.catalogue.CATALOGUE`.
    cases : tuple of CaseMetrics
        Cases in the order of their names.
    problems : tuple of CaseProblem
        Cases that could not be evaluated. The metrics leave these cases out.
    """

    truth_folder: str
    prediction_folder: str
    class_labels: Mapping[str, int] | None
    options: EvaluationOptions
    summary: Summary
    patients: int
    estimates: Mapping[str, MetricEstimate]
    cases: tuple[CaseMetrics, ...]
    problems: tuple[CaseProblem, ...] = ()

    @property
    def lesions(self) -> tuple[LesionMetrics, ...]:
        """True and predicted lesions of all cases."""
        return tuple(lesion for case in self.cases for lesion in case.lesions)


@dataclass(frozen=True)
class Comparison(JsonRecord):
    """Paired comparison of two systems on the cases that both have.

    Attributes
    ----------
    first, second : str
        Names of the systems.
    cases : int
        Number of cases that both systems have.
    differences : dict of str to MetricDifference
        ``second - first`` of each metric, by the key of the metric.
    tests : tuple of PairedTest
        Tests of the differences of single scans.
    """

    first: str
    second: str
    cases: int
    differences: Mapping[str, MetricDifference]
    tests: tuple[PairedTest, ...] = ()


@dataclass(frozen=True)
class SystemsResult(JsonRecord):
    """Results of several systems on the same labels, and the comparison of each pair of systems.

    Attributes
    ----------
    systems : dict of str to EvaluationResult
        Result of each system, by the name of the system.
    comparisons : tuple of Comparison
        Comparison of each pair of systems.
    """

    systems: Mapping[str, EvaluationResult]
    comparisons: tuple[Comparison, ...] = ()

    @property
    def missing_scans(self) -> dict[str, tuple[str, ...]]:
        """Scans that a system lacks but another system has, for each system that lacks a scan."""
        scans = {name: {case.case_id for case in result.cases} for name, result in self.systems.items()}
        every = set().union(*scans.values())
        return {name: tuple(sorted(every - own)) for name, own in scans.items() if own != every}
