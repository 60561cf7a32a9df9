"""Tables of a follow-up: one row per change, per lesion and scan, and per pair of scans."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from detseg3d.core.lesion_state import LesionState
from detseg3d.follow.result import Comparison, FollowUp, LesionChange

__all__ = ["change_table", "comparison_table", "track_table"]

_Cell = str | int | float | None

_CHANGE_COLUMNS = (
    "case",
    "earlier",
    "later",
    "track",
    "state",
    "trend",
    "class",
    "numbers_earlier",
    "numbers_later",
    "volume_earlier_mm3",
    "volume_later_mm3",
    "volume_change_mm3",
    "volume_change_percent",
    "long_axis_earlier_mm",
    "long_axis_later_mm",
    "long_axis_change_mm",
    "long_axis_change_percent",
    "interval_days",
    "doubling_time_days",
    "confidence",
    "distance_mm",
    "center_x_mm",
    "center_y_mm",
    "center_z_mm",
    "cut",
    "notes",
)
_TRACK_COLUMNS = (
    "case",
    "track",
    "scan",
    "name",
    "date",
    "days_since_first_scan",
    "numbers",
    "volume_mm3",
    "long_axis_mm",
    "change_from_first_percent",
    "change_from_smallest_percent",
)


def change_table(results: Sequence[FollowUp]) -> str:
    """Return a CSV table with one row per change of a lesion or of a group of lesions."""
    rows: list[Sequence[_Cell]] = [_CHANGE_COLUMNS]
    for result in results:
        for comparison in result.comparisons:
            rows += [
                [result.case_id, comparison.earlier, comparison.later, *_change(change, comparison.interval_days)]
                for change in comparison.changes
            ]
    return _csv(rows)


def _change(change: LesionChange, days: int | None) -> list[_Cell]:
    before, after = change.size_earlier, change.size_later
    return [
        change.track,
        change.state.value,
        None if change.trend is None else change.trend.value,
        change.class_name,
        _numbers(change.earlier),
        _numbers(change.later),
        None if before is None else before.volume_mm3,
        None if after is None else after.volume_mm3,
        change.volume_change_mm3,
        change.volume_change_percent,
        None if before is None else before.long_axis_mm,
        None if after is None else after.long_axis_mm,
        change.long_axis_change_mm,
        change.long_axis_change_percent,
        days,
        change.doubling_time_days,
        change.confidence,
        change.distance_mm,
        *change.center_world,
        "yes" if change.cut else "no",
        " ".join(change.notes),
    ]


def track_table(results: Sequence[FollowUp]) -> str:
    """Return a CSV table with one row per lesion and scan, over all scans of each patient."""
    rows: list[Sequence[_Cell]] = [_TRACK_COLUMNS]
    for result in results:
        first = result.time_points[0].date
        for track in result.tracks:
            last = len(result.time_points) - 1
            for index, point in enumerate(result.time_points):
                changes = (track.change_from_first_percent, track.change_from_smallest_percent)
                rows.append(
                    [
                        result.case_id,
                        track.number,
                        index + 1,
                        point.name,
                        None if point.date is None else point.date.isoformat(),
                        None if point.date is None or first is None else (point.date - first).days,
                        _numbers(track.numbers[index]),
                        track.volumes_mm3[index],
                        track.long_axes_mm[index],
                        *(changes if index == last else (None, None)),
                    ]
                )
    return _csv(rows)


def comparison_table(results: Sequence[FollowUp]) -> str:
    """Return a CSV table with one row per pair of scans: the registration and the number of lesions in each state."""
    header = [
        "case",
        "earlier",
        "later",
        "interval_days",
        "registration",
        "mutual_information",
        "overlap",
        "starts",
        "agreeing_starts",
    ]
    header += ["uncertainty_mm", "tolerance_mm", "volume_earlier_mm3", "volume_later_mm3"]
    rows: list[Sequence[_Cell]] = [[*header, *(state.value.replace(" ", "_") for state in LesionState)]]
    for result in results:
        for index, comparison in enumerate(result.comparisons):
            volumes = [point.volume_mm3 for point in result.time_points[index : index + 2]]
            rows.append([result.case_id, *_comparison(comparison, volumes)])
    return _csv(rows)


def _comparison(comparison: Comparison, volumes: Sequence[float]) -> list[_Cell]:
    quality, counts = comparison.registration.quality, comparison.counts()
    measured: list[_Cell] = [None] * 5
    if quality is not None:
        measured = [
            quality.mutual_information,
            quality.overlap,
            quality.starts,
            quality.agreeing_starts,
            quality.uncertainty_mm,
        ]
    return [
        comparison.earlier,
        comparison.later,
        comparison.interval_days,
        comparison.registration.method.value,
        *measured,
        comparison.tolerance_mm,
        *volumes,
        *(counts.get(state, 0) for state in LesionState),
    ]


def _numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _csv(rows: Sequence[Sequence[_Cell]]) -> str:
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    for row in rows:
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in row])
    return handle.getvalue()
