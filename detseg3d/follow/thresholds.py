"""Thresholds that decide if a lesion is enlarged, stable or shrunk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.system.json_records import JsonRecord

__all__ = ["ChangeThresholds", "LesionSize", "SizeCriterion"]


class SizeCriterion(Enum):
    """Measure that decides the state of a lesion.

    Attributes
    ----------
    VOLUME
        Volume of the mask.
    DIAMETER
        RECIST long axis: longest diameter in the acquisition plane.
    """

    VOLUME = "volume"
    DIAMETER = "diameter"


@dataclass(frozen=True)
class LesionSize(JsonRecord):
    """Size of a lesion, or of a group of lesions, in one scan.

    Attributes
    ----------
    volume_mm3 : float
        Sum of the volumes.
    long_axis_mm : float
        Sum of the RECIST long axes.
    """

    volume_mm3: float
    long_axis_mm: float

    def of(self, criterion: SizeCriterion) -> float:
        """Return the size by a criterion, in mm³ or mm."""
        return self.volume_mm3 if criterion is SizeCriterion.VOLUME else self.long_axis_mm


@dataclass(frozen=True)
class ChangeThresholds(JsonRecord):
    """Thresholds of growth and shrinkage.

    Attributes
    ----------
    criterion : SizeCriterion
    growth_percent, shrinkage_percent : float
        Smallest increase and smallest decrease, both positive.
    min_growth_mm : float
        Smallest increase of the long axis of an enlarged lesion. Only for the diameter.
    boundary_voxels : float
        Only for the volume: a change counts if it exceeds a shell of this many voxels around a ball of the mean volume.
        Smaller changes may come from the position of the voxels.

    Examples
    --------
    A lesion that grows from 20 to 26 mm is enlarged by RECIST 1.1. From 10 to 14 mm, it is stable:

    >>> recist = ChangeThresholds.recist()
    >>> [recist.state(LesionSize(1, a), LesionSize(1, b), 1.0).value for a, b in ((20, 26), (10, 14), (20, 13))]
    ['enlarged', 'stable', 'shrunk']
    """

    criterion: SizeCriterion = SizeCriterion.VOLUME
    growth_percent: float = 25.0
    shrinkage_percent: float = 25.0
    min_growth_mm: float = 0.0
    boundary_voxels: float = 0.25

    def __post_init__(self) -> None:
        values = (self.growth_percent, self.min_growth_mm, self.boundary_voxels)
        if not (all(math.isfinite(value) and value >= 0 for value in values) and 0 <= self.shrinkage_percent <= 100):
            raise DetSeg3DError(
                "a threshold of the change is out of range",
                value=(self.growth_percent, self.shrinkage_percent, self.min_growth_mm, self.boundary_voxels),
                expected="positive numbers, and at most 100 % for the shrinkage",
            )

    @classmethod
    def volumetric(cls) -> ChangeThresholds:
        """Return the defaults for volumes: 25 % in both directions.

        References
        ----------
        Callister et al. (2015), "British Thoracic Society guidelines for the investigation and management of pulmonary
        nodules", Thorax 70 (Suppl 2): growth is an increase of the volume by at least 25 %, which exceeds the
        variation between two scans on one day.
        """
        return cls()

    @classmethod
    def recist(cls) -> ChangeThresholds:
        """Return the thresholds of RECIST 1.1 for a single lesion: +20 % and at least 5 mm, or -30 %.

        References
        ----------
        Eisenhauer et al. (2009), "New response evaluation criteria in solid tumours: revised RECIST guideline (version
        1.1)", European Journal of Cancer 45(2). RECIST applies these thresholds to the sum of the target lesions.
        """
        return cls(SizeCriterion.DIAMETER, 20.0, 30.0, 5.0, 0.0)

    def state(self, earlier: LesionSize, later: LesionSize, voxel_mm: float) -> LesionState:
        """Return ``ENLARGED``, ``STABLE`` or ``SHRUNK``.

        Parameters
        ----------
        earlier, later : LesionSize
        voxel_mm : float
            Edge of a cube with the volume of a voxel, of the coarser scan.
        """
        before, after = earlier.of(self.criterion), later.of(self.criterion)
        change = after - before
        if self.criterion is SizeCriterion.VOLUME:
            radius = (3 * (before + after) / 2 / (4 * math.pi)) ** (1 / 3)
            if abs(change) <= 4 * math.pi * radius**2 * self.boundary_voxels * voxel_mm:
                return LesionState.STABLE
        percent = 100 * change / before if before > 0 else math.copysign(math.inf, change)
        # Percentages are compared with a small tolerance, because 1.2 · 25 − 25 is not exactly 20 % of 25.
        if (
            change > 0
            and percent >= self.growth_percent - 1e-9
            and (self.criterion is SizeCriterion.VOLUME or change >= self.min_growth_mm - 1e-9)
        ):
            return LesionState.ENLARGED
        if change < 0 and -percent >= self.shrinkage_percent - 1e-9:
            return LesionState.SHRUNK
        return LesionState.STABLE
