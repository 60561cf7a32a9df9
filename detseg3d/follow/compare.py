"""Compare the scans of a patient: register them, match their lesions, and state how each lesion changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from detseg3d.core.arrays import BoolArray, FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.core.rigid import IDENTITY, RigidTransform
from detseg3d.follow.growth import doubling_time
from detseg3d.follow.matching import LesionGroup, match_lesions
from detseg3d.follow.registration import Registration, RegistrationMethod, register
from detseg3d.follow.result import Comparison, FollowUp, LesionChange, LesionTrack, TimePointSummary
from detseg3d.follow.thresholds import ChangeThresholds, LesionSize
from detseg3d.follow.time_point import FollowedLesion, TimePoint

__all__ = ["FollowOptions", "follow_time_points"]

logger = logging.getLogger(__name__)

# A resampled scan has ragged padding at its edge, so a small part of a lesion may lie in it.
_MAX_HIDDEN = 0.02


@dataclass(frozen=True)
class FollowOptions:
    """Options of a comparison over time.

    Attributes
    ----------
    registration : RegistrationMethod
    transforms : tuple of RigidTransform
        For ``FILE``: the motion of each later scan from the scan before.
    thresholds : ChangeThresholds
    tolerance_mm : float or None
        Distance up to which places in both scans may be the same. By default the uncertainty of the registration plus
        half a voxel of the coarser scan.
    """

    registration: RegistrationMethod = RegistrationMethod.RIGID
    transforms: tuple[RigidTransform, ...] = ()
    thresholds: ChangeThresholds = field(default_factory=ChangeThresholds)
    tolerance_mm: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance_mm is not None and not (math.isfinite(self.tolerance_mm) and self.tolerance_mm >= 0):
            raise DetSeg3DError("the tolerance is not valid", value=self.tolerance_mm, expected="0 mm or more")


def follow_time_points(
    time_points: Sequence[TimePoint], options: FollowOptions = FollowOptions(), case_id: str = ""
) -> FollowUp:
    """Follow the lesions of a patient over two or more scans.

    Each scan is compared with the scan before. Lesions that are linked over several scans form a track.

    Parameters
    ----------
    time_points : sequence of TimePoint
        In the order of time. Dates are optional.
    options : FollowOptions
    case_id : str, optional
        Name of the patient or case.

    Returns
    -------
    FollowUp

    Raises
    ------
    DetSeg3DError
        If there are fewer than two scans, the dates are not in the order of the scans, an image for the registration is
        missing, or a registration fails.
    """
    if len(time_points) < 2:
        raise DetSeg3DError("a follow-up needs at least two scans", value=len(time_points), expected="2 or more")
    _check_dates(time_points)
    pairs = list(pairwise(time_points))
    if options.registration is RegistrationMethod.FILE and len(options.transforms) != len(pairs):
        raise DetSeg3DError(
            "the number of transforms does not fit the number of scans",
            value=len(options.transforms),
            expected=f"{len(pairs)}: one for each scan after the first",
        )
    comparisons = []
    for index, (earlier, later) in enumerate(pairs):
        registration = _registration(earlier, later, options, index)
        comparisons.append(_compare(earlier, later, registration, options))
    tracks, comparisons = _tracks(time_points, comparisons)
    summaries = tuple(
        TimePointSummary(
            point.name, sum(lesion.measures.volume_mm3 for lesion in point.lesions), point.lesions, point.date
        )
        for point in time_points
    )
    return FollowUp(case_id, options.thresholds, summaries, tuple(comparisons), tuple(tracks), tuple(time_points))


def _check_dates(time_points: Sequence[TimePoint]) -> None:
    """Raise an error if a scan was made before a scan that precedes it in the order of the input."""
    dated = [point for point in time_points if point.date is not None]
    for earlier, later in pairwise(dated):
        days = _days(earlier, later)
        if days is not None and days < 0:
            raise DetSeg3DError(
                "the scans are not in the order of time",
                value=f"{earlier.name}: {earlier.date}, then {later.name}: {later.date}",
                expected="the earliest scan first",
                remedy="change the order of the time points, or correct the dates",
            )
        if days == 0:
            logger.warning("%s and %s have the same date, so no growth per time is stated", earlier.name, later.name)


def _days(earlier: TimePoint, later: TimePoint) -> int | None:
    """Return the days between two scans; ``None`` if a date is unknown."""
    return None if earlier.date is None or later.date is None else (later.date - earlier.date).days


def _registration(earlier: TimePoint, later: TimePoint, options: FollowOptions, index: int) -> Registration:
    if options.registration is RegistrationMethod.NONE:
        return Registration(RegistrationMethod.NONE, IDENTITY)
    if options.registration is RegistrationMethod.FILE:
        return Registration(RegistrationMethod.FILE, options.transforms[index])
    for point in (earlier, later):
        if point.image is None:
            raise DetSeg3DError(
                f"the registration needs the image of {point.name}",
                expected="one channel of each scan",
                remedy="give the images, or use --registration none if the scans are aligned",
            )
    assert earlier.image is not None and later.image is not None
    registration = register(earlier.image, later.image)
    quality = registration.quality
    if quality is not None and quality.agreeing_starts == 1:
        logger.warning(
            "%s to %s: only one of %d starts of the registration led to its result; look at the picture",
            earlier.name,
            later.name,
            quality.starts,
        )
    return registration


def _compare(earlier: TimePoint, later: TimePoint, registration: Registration, options: FollowOptions) -> Comparison:
    tolerance = options.tolerance_mm
    if tolerance is None:
        tolerance = registration.uncertainty_mm + _voxel_mm(earlier, later) / 2
    transform = registration.transform
    groups = match_lesions(earlier, later, transform, tolerance)
    describe = _Describer(earlier, later, transform, options.thresholds)
    changes = tuple(describe(group) for group in groups)
    return Comparison(earlier.name, later.name, registration, round(tolerance, 3), changes, _days(earlier, later))


def _voxel_mm(earlier: TimePoint, later: TimePoint) -> float:
    """Return the edge of a cube with the volume of a voxel of the coarser scan."""
    return float(max(earlier.geometry.voxel_volume, later.geometry.voxel_volume) ** (1 / 3))


class _Describer:
    """Describe the changes between two scans."""

    def __init__(
        self, earlier: TimePoint, later: TimePoint, transform: RigidTransform, thresholds: ChangeThresholds
    ) -> None:
        self._points = earlier, later
        self._transforms = transform, transform.inverse()
        self._thresholds = thresholds
        self._days = _days(earlier, later)
        self._voxel_mm = _voxel_mm(earlier, later)
        self._lesions = tuple({lesion.number: lesion for lesion in point.lesions} for point in self._points)

    def __call__(self, group: LesionGroup) -> LesionChange:
        """Return the change of a group of lesions."""
        sides = group.earlier, group.later
        members = [[self._lesions[side][number] for number in sides[side]] for side in (0, 1)]
        sizes = [_size(part) for part in members]
        shown = [self._shown(side, sides[side]) for side in (0, 1)]
        cut = any(part.size > 0 and not part.all() for part in shown)
        ends_early = not all(sides) and any(self._touches_edge(side, sides[side]) for side in (0, 1))
        hidden = max((1 - float(part.mean()) for part in shown if part.size), default=0.0)
        compared = [self._compared(side, sides[side], shown[side]) for side in (0, 1)]
        trend = self._trend(sizes, compared)
        notes = _notes(members, cut)
        if ends_early:
            notes += ("The edge of its scan cuts this lesion. It may be the rest of a lesion of the other scan.",)
        state = self._state(group, trend, hidden)
        return LesionChange(
            track=0,
            state=state,
            trend=trend,
            class_name=(members[1] or members[0])[0].class_name,
            earlier=group.earlier,
            later=group.later,
            size_earlier=sizes[0],
            size_later=sizes[1],
            compared_earlier_mm3=compared[0],
            compared_later_mm3=compared[1],
            confidence=self._confidence(group, members, state),
            distance_mm=self._distance(group),
            center_world=self._center(group),
            cut=cut or ends_early,
            notes=notes,
            doubling_time_days=self._doubling_time(trend, compared),
        )

    def _doubling_time(self, trend: LesionState | None, compared: Sequence[float | None]) -> float | None:
        """Return the doubling time of an enlarged lesion. Smaller growth may be an error of the outlines."""
        if trend is not LesionState.ENLARGED:
            return None
        days = doubling_time(compared[0], compared[1], self._days)
        return None if days is None else round(days, 1)

    def _world(self, side: int, numbers: Sequence[int]) -> FloatArray:
        clouds = self._points[side].clouds
        return np.concatenate([clouds[number].world for number in numbers]) if numbers else np.zeros((0, 3))

    def _shown(self, side: int, numbers: Sequence[int]) -> BoolArray:
        """Return for each voxel of lesions in one scan if the other scan shows its place."""
        world = self._world(side, numbers)
        if not len(world):
            return np.zeros(0, bool)
        return self._points[1 - side].shows(self._transforms[side].apply(world))

    def _touches_edge(self, side: int, numbers: Sequence[int]) -> bool:
        """Return whether a lesion reaches the edge of the grid of its own scan."""
        point = self._points[side]
        last = np.asarray(point.geometry.shape) - 1
        voxels = [point.clouds[number].voxels for number in numbers]
        return any(bool(((part == 0) | (part == last)).any()) for part in voxels)

    def _compared(self, side: int, numbers: Sequence[int], shown: BoolArray) -> float | None:
        """Return the volume that the other scan could show."""
        return float(shown.sum()) * self._points[side].geometry.voxel_volume if numbers else None

    def _trend(self, sizes: Sequence[LesionSize | None], compared: Sequence[float | None]) -> LesionState | None:
        before, after = sizes
        if before is None or after is None or compared[0] is None or compared[1] is None:
            return None
        return self._thresholds.state(
            replace(before, volume_mm3=compared[0]), replace(after, volume_mm3=compared[1]), self._voxel_mm
        )

    def _state(self, group: LesionGroup, trend: LesionState | None, hidden: float) -> LesionState:
        if trend is None:
            if hidden > _MAX_HIDDEN:
                return LesionState.OUT_OF_VIEW
            return LesionState.DISAPPEARED if group.earlier else LesionState.NEW
        if len(group.earlier) > 1:
            return LesionState.REGROUPED if len(group.later) > 1 else LesionState.MERGED
        return LesionState.SPLIT if len(group.later) > 1 else trend

    def _confidence(
        self, group: LesionGroup, members: Sequence[Sequence[FollowedLesion]], state: LesionState
    ) -> float | None:
        """Return the probability that the lesions are real and, if only one scan has them, that the other has none.

        Scores are taken as independent probabilities. The score of a group is the highest of its lesions.
        """
        confidence = 1.0
        for part in members:
            if not part:
                continue
            scores = [lesion.score for lesion in part if lesion.score is not None]
            if len(scores) < len(part):
                return None
            confidence *= max(scores)
        if state in (LesionState.NEW, LesionState.DISAPPEARED):
            confidence *= 1 - self._rejected_score(group)
        return round(confidence, 4)

    def _rejected_score(self, group: LesionGroup) -> float:
        """Return the highest score of a rejected candidate of the other scan at the place of the lesions."""
        side = 0 if group.earlier else 1
        other = self._points[1 - side]
        if not other.candidates:
            return 0.0
        world = self._transforms[side].apply(self._world(side, group.earlier or group.later))
        places = other.geometry.world_to_voxel_edges(world)
        scores = [0.0]
        for candidate in other.candidates:
            low, high = np.asarray(candidate.box[:3]), np.asarray(candidate.box[3:])
            inside = ((places >= low) & (places <= high)).all(axis=1)
            if inside.mean() >= 0.5:
                scores.append(candidate.score)
        return max(scores)

    def _center(self, group: LesionGroup) -> tuple[float, float, float]:
        if group.earlier:
            center = self._world(0, group.earlier).mean(axis=0)
        else:
            center = self._transforms[1].apply(self._world(1, group.later)).mean(axis=0)
        x, y, z = (round(float(value), 3) for value in center)
        return x, y, z

    def _distance(self, group: LesionGroup) -> float | None:
        if not (group.earlier and group.later):
            return None
        moved = self._transforms[0].apply([self._world(0, group.earlier).mean(axis=0)])[0]
        return round(float(np.linalg.norm(moved - self._world(1, group.later).mean(axis=0))), 3)


def _size(lesions: Sequence[FollowedLesion]) -> LesionSize | None:
    if not lesions:
        return None
    return LesionSize(
        sum(lesion.measures.volume_mm3 for lesion in lesions), sum(lesion.measures.long_axis_mm for lesion in lesions)
    )


def _notes(members: Sequence[Sequence[FollowedLesion]], cut: bool) -> tuple[str, ...]:
    notes = []
    if cut and all(members):
        notes.append("One scan does not show the whole lesion. Volumes are compared in the common field of view.")
    elif cut:
        notes.append("The other scan does not show the whole place of this lesion.")
    names = [sorted({lesion.class_name for lesion in part}) for part in members]
    if all(names) and names[0] != names[1]:
        notes.append(f"The class changed from {', '.join(names[0])} to {', '.join(names[1])}.")
    return tuple(notes)


# -- Tracks ------------------------------------------------------------------------------------------------------------


def _tracks(
    points: Sequence[TimePoint], comparisons: Sequence[Comparison]
) -> tuple[list[LesionTrack], list[Comparison]]:
    """Return the tracks over all scans, and the comparisons with the number of the track of each change."""
    # Lesions of two neighbouring scans are connected by their changes. Groups of nodes (scan, number) are merged.
    owner: dict[tuple[int, int], list[tuple[int, int]]] = {
        (index, lesion.number): [(index, lesion.number)]
        for index, point in enumerate(points)
        for lesion in point.lesions
    }
    for index, comparison in enumerate(comparisons):
        for change in comparison.changes:
            _join(owner, [*((index, n) for n in change.earlier), *((index + 1, n) for n in change.later)])
    groups = sorted({id(group): sorted(group) for group in owner.values()}.values())
    numbered = {node: number for number, group in enumerate(groups, start=1) for node in group}
    tracks = [_track(points, number, group) for number, group in enumerate(groups, start=1)]
    renumbered = []
    for index, comparison in enumerate(comparisons):
        changes = tuple(
            replace(
                change,
                track=numbered[(index, change.earlier[0]) if change.earlier else (index + 1, change.later[0])],
            )
            for change in comparison.changes
        )
        renumbered.append(replace(comparison, changes=changes))
    return tracks, renumbered


def _join(owner: dict[tuple[int, int], list[tuple[int, int]]], nodes: Iterable[tuple[int, int]]) -> None:
    first, *others = nodes
    for node in others:
        if owner[node] is not owner[first]:
            joined = owner[first] + owner[node]
            for member in joined:
                owner[member] = joined


def _track(points: Sequence[TimePoint], number: int, group: Sequence[tuple[int, int]]) -> LesionTrack:
    numbers, sizes = [], []
    for index, point in enumerate(points):
        members = tuple(lesion for place, lesion in group if place == index)
        numbers.append(members)
        sizes.append(_size([lesion for lesion in point.lesions if lesion.number in members]))
    return LesionTrack(
        number,
        tuple(numbers),
        tuple(None if size is None else size.volume_mm3 for size in sizes),
        tuple(None if size is None else size.long_axis_mm for size in sizes),
    )
