"""Goal of an operating point: the scans for which its thresholds are chosen."""

from __future__ import annotations

from detseg3d.core.enums import StringEnum

__all__ = ["OperatingGoal"]


class OperatingGoal(StringEnum):
    """Scans for which the operating point is chosen."""

    HOME = "home"
    """Scans like the training scans: the thresholds are best on the unchanged validation scans."""
    ROBUST = "robust"
    """Scans of other scanners, too: the thresholds are best on unchanged and on shifted validation scans together."""
