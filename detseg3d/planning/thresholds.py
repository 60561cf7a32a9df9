"""The thresholds that turn candidates into lesions.

Each field of :class:`Thresholds` carries its label, unit, range, default and stage. Everything that lists thresholds
(plans, search, operating point, reports) iterates over these fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from annotated_types import Le
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

__all__ = ["NO_GROWTH", "THRESHOLD_FIELDS", "ThresholdField", "ThresholdStage", "Thresholds"]

NO_GROWTH = 1.0
"""A growth threshold that is never below the score threshold, so that no candidate extends a lesion."""


class ThresholdStage(Enum):
    """Step of the inference at which a threshold acts.

    Attributes
    ----------
    CANDIDATES
        Selects the candidates of Stage 1. Stored candidates have passed it already.
    MASKS
        Turns the masks of the candidates into lesions.
    LESIONS
        Drops lesions or whole scans. The masks of the other lesions do not change.
    """

    CANDIDATES = "candidates"
    MASKS = "masks"
    LESIONS = "lesions"


@dataclass(frozen=True)
class _Label:
    """Name of a threshold in reports, its unit, and the stage at which the threshold acts."""

    label: str
    stage: ThresholdStage
    unit: str = ""


class Thresholds(BaseModel):
    """The values that turn candidates into lesions.

    This is a pydantic model because plans.json and operating_point.json store thresholds. It is immutable and hashable.
    ``score_threshold``, ``growth_threshold`` and ``scan_threshold`` refer to the calibrated score.

    Examples
    --------
    >>> thresholds = Thresholds(score_threshold=0.6)
    >>> thresholds.evolve(mask_threshold=0.4).mask_threshold
    0.4
    >>> [field.name for field in THRESHOLD_FIELDS if field.unit == "mm³"]
    ['minimum_volume_mm3']
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    candidate_threshold: Annotated[float, _Label("lowest Stage 1 score of a candidate", ThresholdStage.CANDIDATES)] = (
        Field(default=0.1, ge=0, le=1, description="Stage 1 score from which a cell of the heatmap is a candidate")
    )
    score_threshold: Annotated[float, _Label("lowest score of a lesion (calibrated)", ThresholdStage.MASKS)] = Field(
        default=0.4, ge=0, le=1, description="score from which a candidate is a lesion"
    )
    growth_threshold: Annotated[
        float, _Label("lowest score of a mask that extends a lesion (calibrated)", ThresholdStage.MASKS)
    ] = Field(
        default=0.3,
        ge=0,
        le=1,
        description="score from which the mask of a candidate extends a lesion that it touches. Used only if "
        "`join_touching` is set",
    )
    mask_threshold: Annotated[float, _Label("lowest mask probability of a voxel", ThresholdStage.MASKS)] = Field(
        default=0.5, ge=0, le=1, description="mask probability from which a voxel belongs to a lesion"
    )
    suppression_distance: Annotated[
        float, _Label("suppression: smallest distance of two candidates", ThresholdStage.CANDIDATES, "lesion sizes")
    ] = Field(
        default=0.5,
        ge=0,
        description="if the centres of two candidates of a class are closer than this fraction of their mean size, the "
        "candidate with the lower score is dropped. Used only for boxes of similar size (the larger box has less than "
        "8 times the volume of the smaller)",
    )
    suppression_iou: Annotated[
        float, _Label("suppression: highest IoU of two candidates", ThresholdStage.CANDIDATES)
    ] = Field(
        default=0.3,
        ge=0,
        le=1,
        description="if the boxes of two candidates of a class have a higher IoU than this, the candidate with the "
        "lower score is dropped",
    )
    minimum_volume_mm3: Annotated[float, _Label("smallest lesion", ThresholdStage.LESIONS, "mm³")] = Field(
        default=0.0, ge=0, description="lesions with a smaller volume in mm³ are dropped. 0: no lesion is dropped"
    )
    scan_threshold: Annotated[
        float, _Label("lowest score of the best lesion of a scan (calibrated)", ThresholdStage.LESIONS)
    ] = Field(
        default=0.0,
        ge=0,
        le=1,
        description="if the best lesion of a scan has a lower score, the scan is reported without lesions. 0: the "
        "rule is off",
    )

    @property
    def has_growth(self) -> bool:
        """True if candidates below the score threshold can extend a lesion."""
        return self.growth_threshold < self.score_threshold

    def evolve(self, **changes: float) -> Self:
        """Return a copy with changed values. The values are not checked against their ranges."""
        return self.model_copy(update=changes)

    def values(self) -> dict[str, float]:
        """Return the value of each threshold by name, without the other fields of a subclass."""
        return {field.name: getattr(self, field.name) for field in THRESHOLD_FIELDS}

    def describe(self) -> str:
        """Return the thresholds that have an effect, in one line."""
        shown = ((field, field.shown(self)) for field in THRESHOLD_FIELDS)
        return ", ".join(f"{field.name} {value:.3g}" for field, value in shown if value is not None)


@dataclass(frozen=True)
class ThresholdField:
    """Description of one threshold.

    Attributes
    ----------
    name : str
        Name of the field in :class:`Thresholds` and in plans.json.
    label : str
        Name in reports.
    unit : str
        Empty for probabilities and other fractions.
    lowest : float
        Smallest allowed value.
    highest : float or None
        Largest allowed value. ``None``: no limit.
    default : float
    stage : ThresholdStage
    description : str
    """

    name: str
    label: str
    unit: str
    lowest: float
    highest: float | None
    default: float
    stage: ThresholdStage
    description: str

    @property
    def label_with_unit(self) -> str:
        """The label, followed by the unit in parentheses if the threshold has a unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def value(self, thresholds: Thresholds) -> float:
        """Return the value of this threshold."""
        return float(getattr(thresholds, self.name))

    def shown(self, thresholds: Thresholds) -> float | None:
        """Return the value for a report, or ``None`` if the threshold has no effect."""
        value = self.value(thresholds)
        if self.name == "growth_threshold":
            return value if thresholds.has_growth else None
        # A lesion or a scan cannot fall below 0.
        return None if self.stage is ThresholdStage.LESIONS and not value else value


def _describe_fields() -> tuple[ThresholdField, ...]:
    fields = []
    for name, info in Thresholds.model_fields.items():
        (label,) = (entry for entry in info.metadata if isinstance(entry, _Label))
        limits = [float(entry.le) for entry in info.metadata if isinstance(entry, Le)]  # type: ignore[arg-type]
        fields.append(
            ThresholdField(
                name=name,
                label=label.label,
                unit=label.unit,
                lowest=0.0,
                highest=limits[0] if limits else None,
                default=info.default,
                stage=label.stage,
                description=info.description or "",
            )
        )
    return tuple(fields)


THRESHOLD_FIELDS = _describe_fields()
"""The thresholds in the order of reports and of plans.json."""
