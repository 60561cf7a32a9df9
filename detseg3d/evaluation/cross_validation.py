"""Types of the result of a consolidation: the choice of the thresholds, the calibration, and the lost lesions.

Consolidation pools the validation cases of all folds, calibrates the score, and chooses thresholds. Every type is a
frozen dataclass with ``to_json`` and ``from_json``, see :class:`~detseg3d.system.json_records.JsonRecord`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.evaluation.scores.calibration import ReliabilityBin
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.appearance.measures import Kind
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "Attribution",
    "CalibrationSummary",
    "ChoiceMetrics",
    "ConsolidationSummary",
    "DifferenceShare",
    "GainSummary",
    "GoalMetrics",
    "PooledMetrics",
    "Reliability",
    "ScanCounts",
    "SettingMetrics",
    "ShiftMetrics",
    "ShiftSummary",
    "SizeAttribution",
    "StageRecall",
    "ThresholdChoice",
]


# -- Metrics -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PooledMetrics(JsonRecord):
    """Metrics of a cross-validation at one choice of thresholds, pooled over the lesions of all scans.

    Names that end with ``_iou_0_1`` count a true lesion as found if it is matched one-to-one with an IoU of 0.1 or
    more; every other prediction is a false positive. Names that end with ``_any`` count a lesion as found at any
    overlap. ``dice`` is the mean over scans.
    """

    f1_iou_0_1: float
    recall_iou_0_1: float
    precision_iou_0_1: float
    fp_per_scan_iou_0_1: float
    f1_any: float
    recall_any: float
    precision_any: float
    fp_per_scan_any: float
    dice: float
    lesions: int
    found_iou_0_1: int
    found_any: int
    predictions: int


@dataclass(frozen=True)
class ChoiceMetrics(JsonRecord):
    """Metrics at the chosen thresholds and at the thresholds of the plan.

    Attributes
    ----------
    cross_fitted : PooledMetrics or None
        The scans of each fold are evaluated at the thresholds that were chosen on the *other* folds. Expect these
        metrics on new scans. If the thresholds of the plan were kept, these are the metrics at the thresholds of the
        plan. ``None`` if thresholds were chosen on a single fold.
    chosen_on_the_same_scans : PooledMetrics
        Thresholds are chosen on all scans and evaluated on the same scans. New scans will have lower metrics.
    plan : PooledMetrics
        Metrics at the thresholds of the plan, which were not chosen on these scans.
    cross_fitted_f1_interval : tuple of 2 floats or None
        95 % interval over patients of the cross-fitted F1 at IoU ≥ 0.1; ``None`` if there are no cross-fitted metrics
        or only one patient.
    """

    cross_fitted: PooledMetrics | None
    chosen_on_the_same_scans: PooledMetrics
    plan: PooledMetrics
    cross_fitted_f1_interval: tuple[float, float] | None = None


# -- Choice ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScanCounts(JsonRecord):
    """Numbers of scans at the chosen thresholds.

    Attributes
    ----------
    with_lesions : int
        Scans with true lesions.
    missed : int
        Scans with true lesions that are reported without lesions.
    without_lesions : int
        Scans without true lesions.
    clean : int
        Scans without true lesions that are reported without lesions.
    """

    with_lesions: int
    missed: int
    without_lesions: int
    clean: int


@dataclass(frozen=True)
class GainSummary(JsonRecord):
    """Gain of the chosen thresholds over the thresholds of the plan, on scans that were not used for the choice.

    ``None`` means that the value is infinite.
    """

    f1: float | None
    f1_low: float | None
    dice: float | None
    dice_low: float | None


@dataclass(frozen=True)
class ThresholdChoice(JsonRecord):
    """The choice of the thresholds.

    Attributes
    ----------
    objective : str
        Target of the choice, as text.
    target_reached : bool
        True if the target of recall or of false positives was reached, or if there was no target.
    predicted_at_thresholds_of : ThresholdOrigin
        Source of the thresholds of the written predictions.
    thresholds : Thresholds
        Chosen thresholds.
    thresholds_of_the_plan : Thresholds
        Thresholds in the plans.
    thresholds_chosen_without_each_fold : dict of str to Thresholds
        Thresholds that were chosen on the other folds, by the name of the fold.
    metrics : ChoiceMetrics
        Metrics at the chosen thresholds and at the thresholds of the plan.
    gain_on_other_folds : GainSummary or None
        Gain of the chosen thresholds; ``None`` if the gain was not measured.
    f1_without_minimum : float
        F1 at the chosen thresholds without the minimum volume of a lesion.
    true_lesions, true_lesions_below_minimum : int
        Number of true lesions, and number of true lesions below the chosen minimum volume.
    scans : ScanCounts
        Numbers of scans at the chosen thresholds.
    settings_tried : int
        Number of settings that were tried.
    """

    objective: str
    target_reached: bool
    predicted_at_thresholds_of: ThresholdOrigin
    thresholds: Thresholds
    thresholds_of_the_plan: Thresholds
    thresholds_chosen_without_each_fold: Mapping[str, Thresholds]
    metrics: ChoiceMetrics
    gain_on_other_folds: GainSummary | None
    f1_without_minimum: float
    true_lesions: int
    true_lesions_below_minimum: int
    scans: ScanCounts
    settings_tried: int


@dataclass(frozen=True)
class SettingMetrics(JsonRecord):
    """Metrics at one of the settings that were tried."""

    thresholds: Thresholds
    metrics: PooledMetrics


# -- Calibration -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability(JsonRecord):
    """Reliability of a score.

    Attributes
    ----------
    expected_error : float
        Expected calibration error.
    bins : tuple of ReliabilityBin
        Bins of the reliability diagram.
    """

    expected_error: float
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class CalibrationSummary(JsonRecord):
    """Reliability of the raw score and of the calibrated score.

    The calibrated scores of each fold come from a calibration that was fitted to the other folds. If there is only one
    fold, the calibration was fitted to the same scans.
    """

    before: Reliability
    after: Reliability


# -- Shifted scans -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoalMetrics(JsonRecord):
    """Metrics at the thresholds that one goal chooses.

    Each scan is judged at thresholds that were chosen without the scans of its patient.

    Attributes
    ----------
    goal : OperatingGoal
    thresholds : Thresholds
        Thresholds that all scans choose together.
    home, shifted : PooledMetrics
        Metrics of the unchanged and of the shifted validation scans.
    home_f1_interval, shifted_f1_interval : tuple of 2 floats or None
        95 % interval over patients of the F1 at IoU ≥ 0.1; ``None`` if it cannot be computed.
    """

    goal: OperatingGoal
    thresholds: Thresholds
    home: PooledMetrics
    shifted: PooledMetrics
    home_f1_interval: tuple[float, float] | None
    shifted_f1_interval: tuple[float, float] | None


@dataclass(frozen=True)
class DifferenceShare(JsonRecord):
    """How often the shifted scans of one shift differ from the training scans in one kind of measure.

    Attributes
    ----------
    kind : Kind
    is_higher : bool
        Whether the values are higher than those of the training scans.
    share : float
        Share of the shifted scans with this difference, above 0.
    largest : float
        Largest size of the difference, see :class:`~detseg3d.planning.appearance.comparison.Difference`.
    """

    kind: Kind
    is_higher: bool
    share: float
    largest: float


@dataclass(frozen=True)
class ShiftMetrics(JsonRecord):
    """Metrics of the validation scans that one shift changed, at the operating point.

    Attributes
    ----------
    name : str
        Name of the shift, for example ``noise``.
    description : str
        The change in words.
    scans : int
        Number of shifted scans.
    unchanged, shifted : PooledMetrics
        Metrics of these scans before and after the shift.
    differences : tuple of DifferenceShare
        Measures in which the comparison with the training scans notices the shift. May be empty.
    """

    name: str
    description: str
    scans: int
    unchanged: PooledMetrics
    shifted: PooledMetrics
    differences: tuple[DifferenceShare, ...]


@dataclass(frozen=True)
class ShiftSummary(JsonRecord):
    """What to expect on scans that are unlike the training scans, measured on shifted validation scans.

    Attributes
    ----------
    goal : OperatingGoal
        Goal of the operating point.
    strength : str
        Strength of the shifts.
    scans, patients : int
        Number of shifted scans, and of their patients.
    goals : tuple of GoalMetrics
        Metrics at the thresholds that each goal chooses.
    by_shift : tuple of ShiftMetrics
        Metrics of each shift at the thresholds of ``goal``.
    home_calibration_error, shifted_calibration_error : float
        Expected calibration error of the calibrated score on unchanged and on shifted scans.

    Raises
    ------
    ValueError
        If ``goals`` lacks ``goal``.
    """

    goal: OperatingGoal
    strength: str
    scans: int
    patients: int
    goals: tuple[GoalMetrics, ...]
    by_shift: tuple[ShiftMetrics, ...]
    home_calibration_error: float
    shifted_calibration_error: float

    def __post_init__(self) -> None:
        if all(metrics.goal is not self.goal for metrics in self.goals):
            raise ValueError(f"there are no metrics of the goal {self.goal}")

    @property
    def chosen(self) -> GoalMetrics:
        """Metrics at the operating point."""
        return next(metrics for metrics in self.goals if metrics.goal is self.goal)


# -- Lost lesions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageRecall(JsonRecord):
    """Recall of all lesions after one stage.

    Attributes
    ----------
    stage : str
        Name of the stage.
    recall : float or None
        Recall after the stage; ``None`` if there are no lesions.
    found, lesions : int
        Number of lesions found after this stage, and number of true lesions.
    """

    stage: str
    recall: float | None
    found: int
    lesions: int


@dataclass(frozen=True)
class SizeAttribution(JsonRecord):
    """True lesions of one range of sizes.

    Attributes
    ----------
    name : str
        Range as text.
    lesions : int
        Number of true lesions.
    recalls : tuple of float or None
        Recall after each stage, in the order of the stages; ``None`` if there are no lesions.
    outlined : int
        Number of lesions that Stage 2 outlined in their true boxes.
    dice : float or None
        Mean Dice of these outlines; ``None`` if there is no such outline.
    """

    name: str
    lesions: int
    recalls: tuple[float | None, ...]
    outlined: int
    dice: float | None


@dataclass(frozen=True)
class Attribution(JsonRecord):
    """The stages at which lesions are lost.

    Attributes
    ----------
    stages : tuple of StageRecall
        First a perfect Stage 1, then each stage of the inference.
    by_size : tuple of SizeAttribution
        Lost lesions by the size of the lesion.
    dice_in_true_boxes : float or None
        Mean Dice of Stage 2 over all lesions, given the true boxes.
    """

    stages: tuple[StageRecall, ...]
    by_size: tuple[SizeAttribution, ...]
    dice_in_true_boxes: float | None


@dataclass(frozen=True)
class ConsolidationSummary(JsonRecord):
    """Result of a consolidation; the content of ``consolidation.json``.

    Attributes
    ----------
    dataset : str
        Name of the data set.
    folds : tuple of str
        Names of the pooled folds.
    cases : int
        Number of cases.
    choice : ThresholdChoice
        Choice of the thresholds.
    sweep : tuple of SettingMetrics
        Metrics at every setting that was tried.
    calibration : CalibrationSummary
        Reliability of the scores.
    attribution : Attribution
        Stages at which lesions are lost.
    failures : dict of str to str
        Error of each case whose masks could not be written.
    shifts : ShiftSummary or None
        Metrics of shifted validation scans; ``None`` if the validation of the folds predicted no shifted scans.
    """

    dataset: str
    folds: tuple[str, ...]
    cases: int
    choice: ThresholdChoice
    sweep: tuple[SettingMetrics, ...]
    calibration: CalibrationSummary
    attribution: Attribution
    failures: Mapping[str, str]
    shifts: ShiftSummary | None = None
