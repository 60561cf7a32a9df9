"""What the search works on: the cases of a cross-validation, and a setting of the thresholds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from detseg3d.consolidation.outcomes import CaseTruth
from detseg3d.planning.plans import Plans

__all__ = ["NO_GROWTH", "PreparedCase", "Setting", "StoredCase", "with_setting"]

NO_GROWTH = 1.0
"""A growth threshold that is never below the score threshold, wherever that moves: nothing extends a lesion."""


@dataclass(frozen=True)
class StoredCase:
    """One case of the cross-validation: the fold that predicted it, its candidates, its label and its patient."""

    case_id: str
    fold: str
    candidates: Path
    label: Path
    patient: str = ""

    @property
    def group(self) -> str:
        """The patient, or the case if no patient is named. A bootstrap resample draws patients."""
        return self.patient or self.case_id


@dataclass(frozen=True)
class PreparedCase:
    """A case with its true lesions, read once."""

    stored: StoredCase
    truth: CaseTruth


@dataclass(frozen=True)
class Setting:
    """What is chosen. The thresholds of score, growth and scan are on the scale of the calibrated score."""

    score_threshold: float
    growth_threshold: float
    det_threshold: float
    suppression_distance: float
    suppression_iou: float
    mask_threshold: float
    minimum_volume_mm3: float
    scan_threshold: float

    @classmethod
    def of(cls, plans: Plans) -> Setting:
        """Those of the plans; where masks are not joined, nothing extends a lesion, whatever they say."""
        values = {name: getattr(plans.inference, name) for name in cls.__dataclass_fields__}
        return cls(**values if plans.inference.join_touching else {**values, "growth_threshold": NO_GROWTH})

    def described(self) -> dict[str, float | None]:
        """Its values for a report; ``None`` for a growth that extends nothing."""
        grows = self.growth_threshold < self.score_threshold
        return {**asdict(self), "growth_threshold": self.growth_threshold if grows else None}


def with_setting(plans: Plans, setting: Setting) -> Plans:
    """The plans with these thresholds."""
    return plans.evolve(inference=asdict(setting))
