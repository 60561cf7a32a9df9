"""Results of the comparison of a patient's scans: changes of lesions, comparisons of two scans, and tracks."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from detseg3d.core.lesion_state import LesionState
from detseg3d.follow.registration import Registration
from detseg3d.follow.thresholds import ChangeThresholds, LesionSize
from detseg3d.follow.time_point import FollowedLesion, TimePoint
from detseg3d.system.json_records import JsonRecord

__all__ = ["Comparison", "FollowUp", "LesionChange", "LesionTrack", "TimePointSummary"]


def percent_change(before: float | None, after: float | None) -> float | None:
    """Return the change in percent; ``None`` if a value is missing or the first value is 0."""
    return None if before is None or after is None or before <= 0 else 100 * (after - before) / before


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before


@dataclass(frozen=True)
class LesionChange(JsonRecord):
    """A row of the comparison of two scans: one lesion, or a group of lesions that merged or split.

    Attributes
    ----------
    track : int
        Number of the lesion over all scans of the patient, from 1.
    state : LesionState
    trend : LesionState or None
        ``ENLARGED``, ``STABLE`` or ``SHRUNK``, also for groups; ``None`` if only one scan shows the lesion.
    class_name : str
        Class in the later scan if it shows the lesion, otherwise in the earlier scan.
    earlier, later : tuple of int
        Numbers of the lesions in the instance map of each scan.
    size_earlier, size_later : LesionSize or None
        Whole size in each scan: sums over the group. ``None`` if the scan does not show the lesion.
    compared_earlier_mm3, compared_later_mm3 : float or None
        Volumes in the common field of view, from which the change in percent is computed.
    confidence : float or None
        0 to 1, from the scores of both scans; ``None`` without scores.
    distance_mm : float or None
        Distance of the centroids after the registration; ``None`` if only one scan shows the lesion.
    center_world : tuple of 3 floats
        Place of the lesion in the world of the earlier scan, ``(x, y, z)`` in mm LPS.
    cut : bool
        True if one scan does not show the whole place of the lesion. This includes a lesion of one scan only that
        reaches the edge of its own scan.
    notes : tuple of str
        Sentences for the reader.
    doubling_time_days : float or None
        Volume doubling time in the common field of view. Only for an enlarged lesion or group, and only if the dates of
        both scans are known.
    """

    JSON_PROPERTIES = ("volume_change_percent", "volume_change_mm3", "long_axis_change_percent", "long_axis_change_mm")

    track: int
    state: LesionState
    trend: LesionState | None
    class_name: str
    earlier: tuple[int, ...]
    later: tuple[int, ...]
    size_earlier: LesionSize | None
    size_later: LesionSize | None
    compared_earlier_mm3: float | None
    compared_later_mm3: float | None
    confidence: float | None
    distance_mm: float | None
    center_world: tuple[float, float, float]
    cut: bool = False
    notes: tuple[str, ...] = ()
    doubling_time_days: float | None = None

    @property
    def volume_change_mm3(self) -> float | None:
        """Change of the volume in the common field of view, in mm³."""
        return _difference(self.compared_earlier_mm3, self.compared_later_mm3)

    @property
    def volume_change_percent(self) -> float | None:
        """Change of the volume in the common field of view, in percent of the earlier volume."""
        return percent_change(self.compared_earlier_mm3, self.compared_later_mm3)

    @property
    def _axes(self) -> tuple[float | None, float | None]:
        before, after = self.size_earlier, self.size_later
        return None if before is None else before.long_axis_mm, None if after is None else after.long_axis_mm

    @property
    def long_axis_change_mm(self) -> float | None:
        """Change of the RECIST long axis, or of the sum of the axes of a group, in mm."""
        return _difference(*self._axes)

    @property
    def long_axis_change_percent(self) -> float | None:
        """Change of the RECIST long axis, or of the sum of the axes of a group, in percent."""
        return percent_change(*self._axes)


@dataclass(frozen=True)
class Comparison(JsonRecord):
    """The changes between two scans.

    Attributes
    ----------
    earlier, later : str
        Names of the scans.
    registration : Registration
    tolerance_mm : float
        Distance up to which places in both scans may be the same.
    changes : tuple of LesionChange
    interval_days : int or None
        Days from the earlier to the later scan; ``None`` if a date is unknown.
    """

    earlier: str
    later: str
    registration: Registration
    tolerance_mm: float
    changes: tuple[LesionChange, ...]
    interval_days: int | None = None

    def counts(self) -> dict[LesionState, int]:
        """Return the number of changes with each state that occurs, in the order of the states."""
        states = [change.state for change in self.changes]
        return {state: states.count(state) for state in LesionState if state in states}


@dataclass(frozen=True)
class LesionTrack(JsonRecord):
    """One lesion over all scans, with everything that it merged with or split into.

    Attributes
    ----------
    number : int
    numbers : tuple of tuple of int
        For each scan, the numbers of the lesions in its instance map; empty if the scan does not show the lesion.
    volumes_mm3 : tuple of float or None
        For each scan, the volume. ``None`` if the scan does not show the lesion.
    long_axes_mm : tuple of float or None
        For each scan, the sum of the RECIST long axes.
    """

    JSON_PROPERTIES = ("change_from_first_percent", "change_from_smallest_percent")

    number: int
    numbers: tuple[tuple[int, ...], ...]
    volumes_mm3: tuple[float | None, ...]
    long_axes_mm: tuple[float | None, ...]

    @property
    def change_from_first_percent(self) -> float | None:
        """Change of the volume from the first scan to the last scan in percent."""
        return percent_change(self.volumes_mm3[0], self.volumes_mm3[-1])

    @property
    def change_from_smallest_percent(self) -> float | None:
        """Change of the volume from the smallest earlier volume to the last scan in percent."""
        before = [volume for volume in self.volumes_mm3[:-1] if volume is not None]
        return percent_change(min(before, default=None), self.volumes_mm3[-1])


@dataclass(frozen=True)
class TimePointSummary(JsonRecord):
    """Lesions of one scan.

    Attributes
    ----------
    name : str
    volume_mm3 : float
        Sum of the volumes of all lesions.
    lesions : tuple of FollowedLesion
    date : datetime.date or None
        Day of the scan; ``None`` if it is unknown.
    """

    name: str
    volume_mm3: float
    lesions: tuple[FollowedLesion, ...]
    date: dt.date | None = None

    @property
    def title(self) -> str:
        """Name and date of the scan for a reader."""
        return self.name if self.date is None else f"{self.name} ({self.date.isoformat()})"


@dataclass(frozen=True, eq=False)
class FollowUp(JsonRecord):
    """The lesions of a patient over time.

    Attributes
    ----------
    case_id : str
    thresholds : ChangeThresholds
    time_points : tuple of TimePointSummary
        In the order of time.
    comparisons : tuple of Comparison
        Each scan with the scan before.
    tracks : tuple of LesionTrack
    scans : tuple of TimePoint
        The scans themselves, for pictures; not written to JSON, and empty after reading JSON.
    """

    case_id: str
    thresholds: ChangeThresholds
    time_points: tuple[TimePointSummary, ...]
    comparisons: tuple[Comparison, ...]
    tracks: tuple[LesionTrack, ...]
    scans: tuple[TimePoint, ...] = field(default=(), metadata={"json": False})
