"""Write the report of a patient: one page for the browser that prints to A4, with key images and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from string import ascii_lowercase

from detseg3d.core.geometry import Geometry
from detseg3d.core.lesion_state import LesionState
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.data.image import Image
from detseg3d.exports.colors import lesion_color
from detseg3d.follow.result import Comparison, FollowUp, LesionChange
from detseg3d.measures.lesion import LesionMeasures
from detseg3d.planning.thresholds import THRESHOLD_FIELDS, Thresholds
from detseg3d.reporting.html.follow_up import describe_thresholds
from detseg3d.reporting.html.formatting import DASH, count, number
from detseg3d.reporting.html.key_images import KeyImage, KeyImages, css_color, tilt_degrees
from detseg3d.reporting.html.rendering import render
from detseg3d.reporting.html.report import asset
from detseg3d.reporting.pictures.follow_up import numbers_text
from detseg3d.reporting.pictures.state_colors import STATE_COLORS
from detseg3d.system.files import write_text

__all__ = ["FollowedScan", "PatientReport", "ReportedLesion", "write_patient_report"]

# The browser loads no other file and runs no script: style and pictures are in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
# With these limits, the page of a scan with up to 300 lesions, or with 30 lesions and a follow-up, has two sheets.
_MAX_PICTURED = 6
_MAX_FULL_TABLE, _MAX_FULL_TABLE_WITH_FOLLOW_UP = 42, 30  # lesions in one table with all measures
_MAX_CHANGES = 24
_MAX_CHANGES_WITH_STABLE = 10  # stable lesions are listed if there are fewer other changes
_TILTED_DEGREES = 5.0
_LIGHT = 120.0  # brightness from which black print is easier to read than white print
_GROWING = (LesionState.NEW, LesionState.ENLARGED, LesionState.MERGED)
_STATE_ORDER = (
    *(LesionState.NEW, LesionState.ENLARGED, LesionState.MERGED, LesionState.SPLIT, LesionState.REGROUPED),
    *(LesionState.SHRUNK, LesionState.DISAPPEARED, LesionState.OUT_OF_VIEW, LesionState.STABLE),
)


@dataclass(frozen=True)
class ReportedLesion:
    """A lesion of the report.

    Attributes
    ----------
    number : int
        Value of the lesion in the instance map.
    class_name : str
    score : float
        From 0 to 1.
    measures : LesionMeasures
    """

    number: int
    class_name: str
    score: float
    measures: LesionMeasures


@dataclass(frozen=True)
class FollowedScan:
    """The follow-up of the patient, and the place of the reported scan in it.

    Attributes
    ----------
    result : FollowUp
    index : int
        Index of the reported scan in ``result.time_points``.
    """

    result: FollowUp
    index: int

    @property
    def is_first(self) -> bool:
        """True if the reported scan is the earliest scan."""
        return self.index == 0

    @property
    def comparison(self) -> Comparison:
        """The comparison with the scan before; for the first scan, with the next scan."""
        return self.result.comparisons[max(self.index - 1, 0)]

    @property
    def titles(self) -> tuple[str, str]:
        """Names and dates of the earlier and the later scan of :attr:`comparison`."""
        start = max(self.index - 1, 0)
        earlier, later = self.result.time_points[start : start + 2]
        return earlier.title, later.title

    def numbers(self, change: LesionChange) -> tuple[int, ...]:
        """Return the numbers of the lesions of a change in the reported scan."""
        return change.earlier if self.is_first else change.later


@dataclass(frozen=True, eq=False)
class PatientReport:
    """Content of the report of a patient.

    Attributes
    ----------
    case_id : str
    lesions : tuple of ReportedLesion
        By ascending number.
    instances : Image
        Instance map in canonical order.
    scan : Image or None
        One channel of the scan on the grid of ``instances``. ``None``: the page has no pictures.
    model : ModelIdentity
    thresholds : Thresholds or None
        Thresholds that turned the candidates into lesions, if they are known.
    facts : tuple of pairs of str
        Further names and values for the head of the page, for example the date of the scan.
    warnings : tuple of str
        Sentences that the reader must see before the results, for example that the scan is unlike the training scans.
    follow_up : FollowedScan or None
    date : str
        Date of the report; empty to leave it out.
    """

    case_id: str
    lesions: tuple[ReportedLesion, ...]
    instances: Image
    scan: Image | None = None
    model: ModelIdentity = field(default_factory=ModelIdentity)
    thresholds: Thresholds | None = None
    facts: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    follow_up: FollowedScan | None = None
    date: str = ""

    @cached_property
    def pictured(self) -> tuple[int, ...]:
        """Numbers of the lesions that get pictures, ascending.

        New and enlarged lesions come first, then in turn the largest and the most certain lesion.
        """
        growing: list[int] = []
        if self.follow_up is not None and not self.follow_up.is_first:
            changes = [change for change in self.follow_up.comparison.changes if change.state in _GROWING]
            growing = [number for change in _by_urgency(changes) for number in change.later]
        by_size = sorted(self.lesions, key=lambda lesion: (-lesion.measures.volume_mm3, lesion.number))
        by_score = sorted(self.lesions, key=lambda lesion: (-lesion.score, lesion.number))
        alternating = [lesion.number for pair in zip(by_size, by_score, strict=True) for lesion in pair]
        return tuple(sorted(list(dict.fromkeys([*growing, *alternating]))[:_MAX_PICTURED]))


@dataclass(frozen=True)
class _Badge:
    """The number of a lesion on its colour; ``ink`` is the colour of the number."""

    number: int
    color: str
    ink: str

    @classmethod
    def of(cls, number: int) -> _Badge:
        red, green, blue = lesion_color(number)
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > _LIGHT
        return cls(number, css_color(number), "#000" if is_light else "#fff")


@dataclass(frozen=True)
class _Row:
    """A row of the table of lesions."""

    lesion: ReportedLesion
    badge: _Badge
    volume: str
    place: str

    @classmethod
    def of(cls, lesion: ReportedLesion) -> _Row:
        return cls(lesion, _Badge.of(lesion.number), _volume(lesion.measures.volume_mm3), _place(lesion.measures))


@dataclass(frozen=True)
class _Card:
    """A lesion with its pictures."""

    row: _Row
    state: str
    state_color: str
    images: tuple[KeyImage, ...]


@dataclass(frozen=True)
class _ChangeRow:
    """A row of the table of changes. ``badges`` are the lesions of the reported scan."""

    change: LesionChange
    color: str
    badges: tuple[_Badge, ...]
    before: str
    after: str
    volume_before: str
    volume_after: str
    axis_before: float | None
    axis_after: float | None


def write_patient_report(path: str | Path, report: PatientReport) -> Path:
    """Write the report of a patient as one HTML file that needs no network. Equal input gives an equal file.

    Parameters
    ----------
    path : path
        File to write; it is written atomically.
    report : PatientReport

    Returns
    -------
    Path
        The written file.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    pictured = set(report.pictured) if report.scan is not None else set()
    rows = [_Row.of(lesion) for lesion in report.lesions]
    maps, cards = _pictures(report, rows)
    is_long = len(rows) > (_MAX_FULL_TABLE if report.follow_up is None else _MAX_FULL_TABLE_WITH_FOLLOW_UP)
    classes = sorted({lesion.class_name for lesion in report.lesions})
    changes = None if report.follow_up is None else _change_rows(report.follow_up)
    page = render(
        "patient",
        report=report,
        policy=_POLICY,
        style=asset("patient.css"),
        margin_text=_css_text(f"{report.case_id}  ·  For research use only. Not for diagnosis."),
        facts=_facts(report),
        summary=_summary(report.lesions),
        maps=maps,
        cards=cards,
        left_out=len(rows) - len(pictured),
        several_classes=len(classes) > 1,
        class_letters=_class_letters(classes),
        channels=_channels(report.lesions),
        rows=[row for row in rows if row.lesion.number in report.pictured] if is_long else rows,
        short_rows=rows if is_long else [],
        tilt=_tilt(report.instances.geometry),
        changes=changes,
        change_count=0 if report.follow_up is None else len(report.follow_up.comparison.changes),
        left_out_stable=changes is not None and len(changes) >= _unstable(report.follow_up),
        change_text="" if report.follow_up is None else describe_thresholds(report.follow_up.result.thresholds),
        thresholds=_thresholds(report.thresholds),
    )
    write_text(page.encode("utf-8", "replace").decode("utf-8"), path)
    return Path(path)


def _facts(report: PatientReport) -> list[tuple[str, str]]:
    """Return names and values for the head of the page."""
    geometry = report.instances.geometry
    spacing = " × ".join(f"{size:.3g}" for size in geometry.as_stored().spacing[::-1])
    facts = [("Case", report.case_id), *report.facts, ("Voxel size (x × y × z)", f"{spacing} mm")]
    model = report.model
    facts.append(("Model", f"{model.name or 'not stated'}{f' ({model.digest[:12]})' if model.digest else ''}"))
    if report.thresholds is not None:
        facts.append(("Lowest score of a lesion", number(report.thresholds.score_threshold)))
    if report.date:
        facts.append(("Report made", report.date))
    return facts


def _summary(lesions: Sequence[ReportedLesion]) -> str:
    """Return the findings in one or two sentences."""
    if not lesions:
        return "The model found no lesion in this scan."
    total = _volume(sum(lesion.measures.volume_mm3 for lesion in lesions))
    longest = max(lesions, key=lambda lesion: lesion.measures.long_axis_mm)
    names = sorted({lesion.class_name for lesion in lesions})
    parts = [f"{sum(lesion.class_name == name for lesion in lesions)} {name}" for name in names]
    found = count(len(lesions), "lesion") + (f" ({', '.join(parts)})" if len(names) > 1 else "")
    return (
        f"{found} with a total volume of {total}. The longest axis is {number(longest.measures.long_axis_mm, 1)} mm "
        f"(lesion {longest.number})."
    )


def _pictures(report: PatientReport, rows: Sequence[_Row]) -> tuple[tuple[KeyImage, ...], list[_Card]]:
    """Return the maps of the whole scan and the pictures of the chosen lesions."""
    if report.scan is None:
        return (), []
    pictures = KeyImages(report.scan.array, report.instances.array, report.instances.geometry)
    states = {}
    if report.follow_up is not None:
        changes = report.follow_up.comparison.changes
        states = {number: change.state for change in changes for number in report.follow_up.numbers(change)}
    cards = []
    for row in rows:
        if row.lesion.number in report.pictured:
            state = states.get(row.lesion.number)
            cards.append(
                _Card(
                    row,
                    "" if state is None else state.value,
                    "" if state is None else STATE_COLORS[state],
                    pictures.of_lesion(row.lesion.number),
                )
            )
    return pictures.maps(report.pictured), cards


def _class_letters(classes: Sequence[str]) -> dict[str, str]:
    """Return a short mark of each class for the list of many lesions: a letter, or a number if there are many classes.

    Examples
    --------
    >>> _class_letters(["cyst", "metastasis"])
    {'cyst': 'a', 'metastasis': 'b'}
    """
    marks = ascii_lowercase if len(classes) <= len(ascii_lowercase) else map(str, range(1, len(classes) + 1))
    return dict(zip(classes, marks, strict=False))


def _channels(lesions: Sequence[ReportedLesion]) -> list[str]:
    """Return the names of the measured channels."""
    return [entry.channel for entry in lesions[0].measures.intensities] if lesions else []


def _by_urgency(changes: Sequence[LesionChange]) -> list[LesionChange]:
    """Return new and enlarged lesions first and stable lesions last, the largest first within a state."""

    def volume(change: LesionChange) -> float:
        return max((size.volume_mm3 for size in (change.size_earlier, change.size_later) if size), default=0.0)

    return sorted(changes, key=lambda change: (_STATE_ORDER.index(change.state), -volume(change)))


def _unstable(followed: FollowedScan | None) -> int:
    """Return the number of changes other than stable lesions."""
    changes = () if followed is None else followed.comparison.changes
    return sum(change.state is not LesionState.STABLE for change in changes)


def _change_rows(followed: FollowedScan) -> list[_ChangeRow]:
    rows = []
    changes = _by_urgency(followed.comparison.changes)
    for change in changes[: min(max(_unstable(followed), _MAX_CHANGES_WITH_STABLE), _MAX_CHANGES)]:
        before, after = change.size_earlier, change.size_later
        rows.append(
            _ChangeRow(
                change,
                STATE_COLORS[change.state],
                tuple(map(_Badge.of, followed.numbers(change))),
                numbers_text(change.earlier),
                numbers_text(change.later),
                DASH if before is None else _volume(before.volume_mm3),
                DASH if after is None else _volume(after.volume_mm3),
                None if before is None else before.long_axis_mm,
                None if after is None else after.long_axis_mm,
            )
        )
    return rows


def _thresholds(thresholds: Thresholds | None) -> list[tuple[str, str]]:
    """Return names and values of the thresholds that have an effect."""
    if thresholds is None:
        return []
    shown = ((entry, entry.shown(thresholds)) for entry in THRESHOLD_FIELDS)
    return [(entry.label_with_unit, f"{value:.3g}") for entry, value in shown if value is not None]


def _tilt(geometry: Geometry) -> float | None:
    """Return the angle of the slices to the axes of the body in degrees; ``None`` if it is small."""
    angle = tilt_degrees(geometry)
    return angle if angle >= _TILTED_DEGREES else None


def _volume(volume: float) -> str:
    """Return a volume as text: ml from 1 ml, otherwise mm³.

    Examples
    --------
    >>> _volume(1500.0), _volume(20.0), _volume(3.25)
    ('1.50 ml', '20 mm³', '3.2 mm³')
    """
    if volume >= 1000:
        return f"{number(volume / 1000, 2 if volume < 100_000 else 0)} ml"
    return f"{number(volume, 0 if volume >= 10 else 1)} mm³"


def _place(measures: LesionMeasures) -> str:
    """Return the centre of a lesion in mm with the sides of the patient, for example ``L 12, P 3, S 40``."""
    parts = []
    for value, (positive, negative) in zip(measures.centroid_world, (("L", "R"), ("P", "A"), ("S", "I")), strict=True):
        parts.append(f"{positive if value >= 0 else negative}\u00a0{abs(value):.0f}")
    return ", ".join(parts)


def _css_text(text: str) -> str:
    """Return a text as a CSS string without quotes; every character outside letters and digits is escaped."""
    return "".join(letter if letter.isalnum() and letter.isascii() else f"\\{ord(letter):06x}" for letter in text)
