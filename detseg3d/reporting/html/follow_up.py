"""Write the page of a follow-up: two scans side by side, linked, with a table of all changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from markupsafe import Markup

from detseg3d.core.lesion_state import LesionState
from detseg3d.follow.result import Comparison, FollowUp, LesionChange, LesionTrack
from detseg3d.follow.thresholds import ChangeThresholds, SizeCriterion
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.html.report import POLICY, PageSection, asset
from detseg3d.reporting.html.viewer import COLORS
from detseg3d.reporting.html.volumes import ViewerVolumes, fit_together, volumes_on_one_grid
from detseg3d.reporting.pictures.aligned_pair import AlignedPair
from detseg3d.reporting.pictures.follow_up import numbers_text
from detseg3d.reporting.pictures.state_colors import STATE_COLORS
from detseg3d.system.files import write_text

__all__ = ["write_follow_up_page"]

MAX_BYTES = 20_000_000
"""Maximum size of the embedded volumes of a page in bytes."""

_SCRIPTS = ("tables.js", "slices.js", "numbered.js", "follow.js")
_STYLES = ("report.css", "follow.css")
_GROUPS = (LesionState.MERGED, LesionState.SPLIT, LesionState.REGROUPED)


@dataclass(frozen=True)
class _Row:
    """A row of the table of changes."""

    change: LesionChange
    color: str
    trend: str
    point: tuple[float, ...]
    earlier: str
    later: str
    volume_before: float | None
    volume_after: float | None
    axis_before: float | None
    axis_after: float | None

    @classmethod
    def of(cls, change: LesionChange, point: tuple[float, ...]) -> _Row:
        before, after = change.size_earlier, change.size_later
        is_group = change.state in _GROUPS and change.trend is not None
        return cls(
            change=change,
            color=STATE_COLORS[change.state],
            trend=change.trend.value if is_group and change.trend is not None else "",
            point=point,
            earlier=numbers_text(change.earlier),
            later=numbers_text(change.later),
            volume_before=None if before is None else before.volume_mm3,
            volume_after=None if after is None else after.volume_mm3,
            axis_before=None if before is None else before.long_axis_mm,
            axis_after=None if after is None else after.long_axis_mm,
        )


@dataclass(frozen=True)
class _Count:
    """Number of changes with one state."""

    state: str
    count: int
    color: str


@dataclass(frozen=True)
class _TrackRow:
    """A row of the table of all scans.

    ``states[i]`` are the changes from scan ``i`` to the next scan; a lesion in parts may have several.
    """

    track: LesionTrack
    numbers: tuple[str, ...]
    states: tuple[tuple[_Count, ...], ...]

    @classmethod
    def of(cls, track: LesionTrack, comparisons: Sequence[Comparison]) -> _TrackRow:
        states = []
        for comparison in comparisons:
            own = [change.state for change in comparison.changes if change.track == track.number]
            states.append(
                tuple(
                    _Count(state.value, own.count(state), STATE_COLORS[state]) for state in LesionState if state in own
                )
            )
        return cls(track, tuple(numbers_text(numbers) if numbers else "" for numbers in track.numbers), tuple(states))


def write_follow_up_page(path: str | Path, result: FollowUp, max_bytes: int = MAX_BYTES) -> None:
    """Write the page of a follow-up as one file that needs neither a network nor a server.

    Parameters
    ----------
    path : path
        File to write; it is written atomically.
    result : FollowUp
        With its scans.
    max_bytes : int, optional
        Maximum size of the embedded volumes in bytes. Larger volumes are made coarser.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    budget = max_bytes // len(result.comparisons)
    sections = [
        PageSection(
            f"pair-{index + 1}",
            " → ".join(point.title for point in result.time_points[index : index + 2]),
            _comparison_section(result, index, budget),
            f"{comparison.earlier} → {comparison.later}",
        )
        for index, comparison in enumerate(result.comparisons)
    ]
    titles = [point.title for point in result.time_points]
    if len(result.time_points) > 2:
        tracks = render(
            "follow_tracks",
            points=result.time_points,
            tracks=[_TrackRow.of(track, result.comparisons) for track in result.tracks],
        )
        sections.append(PageSection("tracks", "All scans", tracks, "All scans"))
    reading = render("follow_reading", thresholds=describe_thresholds(result.thresholds))
    sections.append(PageSection("reading", "How to read this page", reading, "How to read this page"))
    title = f"Follow-up of {result.case_id}" if result.case_id else "Follow-up"
    page = render(
        "report",
        title=title,
        facts=[("Scans", ", ".join(titles))],
        sections=sections,
        colors=COLORS,
        policy=POLICY,
        style="\n".join(map(asset, _STYLES)),
        script="\n".join(map(asset, _SCRIPTS)),
        version=version("detseg3d"),
    )
    write_text(page.encode("utf-8", "replace").decode("utf-8"), path)


def describe_thresholds(thresholds: ChangeThresholds) -> str:
    """Return the thresholds of the change as sentences."""
    grow, shrink = f"{thresholds.growth_percent:g} %", f"{thresholds.shrinkage_percent:g} %"
    if thresholds.criterion is SizeCriterion.VOLUME:
        return (
            f"Both scans show the lesion. It is enlarged if its volume grew by at least {grow}, and shrunk if its "
            f"volume fell by at least {shrink}. A change below {thresholds.boundary_voxels:g} voxels at the surface "
            "of a ball of the same volume is stable."
        )
    return (
        f"Both scans show the lesion. It is enlarged if its long axis grew by at least {grow} and "
        f"{thresholds.min_growth_mm:g} mm, and shrunk if its long axis fell by at least {shrink}."
    )


def _comparison_section(result: FollowUp, index: int, budget: int) -> Markup:
    comparison = result.comparisons[index]
    pair = AlignedPair.of(result, index)
    images = [case.image for case in pair.sides]
    labels = [case.prediction for case in pair.sides if case.prediction is not None]
    volumes = fit_together(volumes_on_one_grid(images, labels, pair.geometry.spacing), budget)
    key = str(index + 1)
    rows = [_Row.of(change, _point(change, pair, volumes[0])) for change in _sorted(comparison.changes)]
    points = result.time_points[index : index + 2]
    has_images = all(scan.image is not None for scan in result.scans[index : index + 2])
    embedded = {
        f"follow-{key}-{side}-{layer}": text
        for side, part in enumerate(volumes)
        for layer, text in part.encoded.items()
        if has_images
    }
    return render(
        "follow_comparison",
        key=key,
        names=[comparison.earlier, comparison.later],
        titles=[point.title for point in points],
        interval=comparison.interval_days,
        lesions=[len(point.lesions) for point in points],
        volumes=[point.volume_mm3 for point in points],
        registration=_registration_text(comparison),
        warnings=_warnings(comparison),
        counts=[_Count(state.value, n, STATE_COLORS[state]) for state, n in comparison.counts().items()],
        several_classes=len({change.class_name for change in comparison.changes}) > 1,
        has_images=has_images,
        rows=rows,
        reduced=volumes[0].reduced,
        settings=_settings(comparison, volumes, key),
        embedded=embedded,
    )


def _sorted(changes: Sequence[LesionChange]) -> list[LesionChange]:
    """Return the changes by the number of their lesion over all scans."""
    return sorted(changes, key=lambda change: (change.track, change.later))


def _point(change: LesionChange, pair: AlignedPair, volumes: ViewerVolumes) -> tuple[float, ...]:
    """Return the centre of a change in voxel edges of the embedded volumes."""
    place = pair.geometry.world_to_voxel_edges([change.center_world])[0].tolist()
    return tuple(round(value, 2) for value in volumes.place(place))


def _settings(comparison: Comparison, volumes: Sequence[ViewerVolumes], key: str) -> dict[str, Any]:
    """Return the data for the script of the page."""
    sides = []
    for side, part in enumerate(volumes):
        colors = {
            number: STATE_COLORS[change.state]
            for change in comparison.changes
            for number in (change.earlier, change.later)[side]
        }
        layers = {
            name: {"id": f"follow-{key}-{side}-{name}", "type": str(volume.dtype)}
            for name, volume in part.layers.items()
        }
        sides.append({"lesionColors": colors, "volumes": layers})
    return {
        "shape": volumes[0].image.shape,
        "spacing": volumes[0].spacing,
        "boxes": [],
        "colors": COLORS,
        "scans": sides,
    }


def _registration_text(comparison: Comparison) -> str:
    registration, quality = comparison.registration, comparison.registration.quality
    if quality is None:
        origin = {"none": "The scans are taken to be aligned.", "file": "The motion was read from a file."}
        text = origin[registration.method.value]
    else:
        text = (
            f"Rigid registration: the patient turned by {registration.transform.angle_degrees:.1f}°. Repeated fits "
            f"differ by {quality.uncertainty_mm:.2f} mm. The later scan covers {100 * quality.overlap:.0f} % of the "
            f"body in the earlier scan. Mutual information: {quality.mutual_information:.2f}. "
            f"{quality.agreeing_starts} of {quality.starts} starts led to this result."
        )
    return f"{text} Places within {comparison.tolerance_mm:.2f} mm count as the same place."


def _warnings(comparison: Comparison) -> list[str]:
    quality = comparison.registration.quality
    warnings = []
    if quality is not None and quality.agreeing_starts == 1:
        warnings.append(
            "Only one start of the registration led to this result. Check that both pictures show the same place."
        )
    if comparison.interval_days == 0:
        warnings.append("Both scans have the same date, so no growth per time is stated.")
    return warnings
