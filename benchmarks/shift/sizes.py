"""Which lesions of a data set count as large, and which as small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg3d.system.json_records import JsonRecord

__all__ = ["SizeRule"]

_LARGE_VOXELS, _SMALL_VOXELS = 301, 15
# With a smaller share of large lesions, the largest tenth of the lesions counts as large.
_MIN_LARGE = 0.02


@dataclass(frozen=True)
class SizeRule(JsonRecord):
    """Volumes in the clean scans from which lesions are large, and below which they are small.

    A lesion keeps its size class under every shift.

    Attributes
    ----------
    large_mm3 : float
        301 voxels of the median scan of the data set. If fewer than one lesion of 50 is as large, the 90th percentile
        of the volumes.
    small_mm3 : float
        15 voxels of the median scan.
    """

    large_mm3: float
    small_mm3: float

    @classmethod
    def of(cls, volumes: Sequence[float], voxel_volumes: Sequence[float]) -> SizeRule:
        """Return the rule for lesions of these volumes in mm³ in scans with these voxel volumes."""
        voxel = float(np.median(voxel_volumes))
        large = _LARGE_VOXELS * voxel
        if volumes and np.mean(np.array(volumes) >= large) < _MIN_LARGE:
            large = float(np.percentile(volumes, 90))
        return cls(large, _SMALL_VOXELS * voxel)
