"""Group the DICOM objects of a folder into series, find the series that are volumes, and choose one.

Patient, study and SeriesInstanceUID together identify a series. :func:`choose_series` states the rule of choice.
"""

from __future__ import annotations

import datetime as dt
import filecmp
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom.uid import UID

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.frames import Frame, frames_of
from detseg3d.data.formats.dicom.headers import DicomHeader, damaged
from detseg3d.data.formats.dicom.values import check_pixels, is_colour
from detseg3d.data.formats.dicom.volume import Layout, Refusal, lay_out

__all__ = ["DicomFolder", "Series", "choose_series", "describe_folder"]

logger = logging.getLogger(__name__)

_STANDARD_ROOT = "1.2.840.10008."
_DIRECTORY = "1.2.840.10008.1.3.10"
# Objects that mark or draw on images. Some have pixels, but they are not images.
_NO_IMAGES = frozenset({"SEG", "PR", "KO", "AU", "DOC", "RTSTRUCT", "RTPLAN", "SR", "REG", "FID", "PLAN"})
_MAX_LISTED = 20
# Attributes with the date of a scan, the nearest to the acquisition first.
_DATES = (("AcquisitionDate", "AcquisitionDateTime"), ("SeriesDate",), ("StudyDate",))
_FIRST_DATE = dt.date(1970, 1, 1)  # before every CT or MR scan; programs that remove dates write 19000101 and the like


def _date(text: str) -> dt.date | None:
    """Return the day of a date or a date with time (``YYYYMMDD…``, or ``YYYY.MM.DD`` of old files)."""
    try:
        date = dt.datetime.strptime(text[:10].replace(".", "")[:8], "%Y%m%d").date()
    except ValueError:
        return None
    return date if date >= _FIRST_DATE else None


@dataclass(frozen=True)
class Series:
    """One series of images.

    Attributes
    ----------
    patient_id, study_uid, uid : str
        Identifiers of the series. ``patient_id`` is not written to any file or message.
    number, description, modality : str
        As stated by the first object; empty if not stated.
    headers : tuple of DicomHeader
        One header per object, without repetitions.
    frames : tuple of Frame
        All frames of the objects; empty if the frames cannot be understood.
    rows, columns : int
    layout : Layout or None
        Order and geometry if the frames form one volume.
    refusal : Refusal or None
        Reason if the frames do not form one volume.
    error : DetSeg3DError or None
        Error of a damaged object of this series.
    is_localizer, is_derived : bool
        True if ImageType states ``LOCALIZER`` or ``DERIVED``. Such a series is chosen only without other candidates.
    """

    patient_id: str
    study_uid: str
    uid: str
    number: str
    description: str
    modality: str
    headers: tuple[DicomHeader, ...]
    frames: tuple[Frame, ...]
    rows: int
    columns: int
    layout: Layout | None
    refusal: Refusal | None
    error: DetSeg3DError | None
    is_localizer: bool
    is_derived: bool

    @property
    def date(self) -> dt.date | None:
        """Day of the first acquisition; otherwise that of the series, or of the study; ``None`` if all are unknown.

        A date that is not in the calendar, or that is earlier than 1970, counts as unknown.
        """
        for keywords in _DATES:
            texts = [header.text(keyword) for header in self.headers for keyword in keywords]
            dates = [date for date in map(_date, texts) if date is not None]
            if dates:
                return min(dates)
        return None

    @property
    def is_readable(self) -> bool:
        """True if the series is one volume."""
        return self.layout is not None and self.error is None

    @property
    def is_broken(self) -> bool:
        """True if the series should be a volume but is damaged or incomplete."""
        return self.error is not None or (self.refusal is not None and self.refusal.is_broken)

    @property
    def status(self) -> str:
        """Short text for the table of series: ``can be read``, or a reason against the series."""
        if self.error is not None:
            return f"damaged file {self.error.file.name}" if self.error.file is not None else "damaged"
        if self.refusal is not None:
            return self.refusal.reason
        if self.is_localizer:
            return "a localizer"
        if len(self.frames) == 1:
            return "a single slice"
        return "derived from other images" if self.is_derived else "can be read"

    def failure(self, folder: Path, table: str) -> DetSeg3DError:
        """Return the error for a series that cannot be read. The message ends with ``table``."""
        if self.error is not None:
            return DetSeg3DError(
                f"{self.error.problem}\n{table}",
                file=self.error.file,
                value=self.error.value,
                expected=self.error.expected,
                remedy=self.error.remedy,
            )
        assert self.refusal is not None
        return DetSeg3DError(
            f"{self.refusal.problem}\n{table}",
            file=folder,
            value=self.refusal.value,
            expected=self.refusal.expected,
            remedy=self.refusal.remedy,
        )


@dataclass(frozen=True)
class DicomFolder:
    """Content of a folder of DICOM objects.

    Attributes
    ----------
    folder : Path
        The folder, or the single file.
    series : tuple of Series
        Sorted by study, number and identifier.
    other_objects : tuple of (str, int)
        Kind and number of the objects that are not images: SR, RTSTRUCT, presentation states, segmentations.
    repeated_count : int
        Number of files that are copies of another file, byte for byte.
    localizer_count : int
        Number of localizer images that were left out of series with slices.
    other_file_count : int
        Number of files that are not DICOM.
    """

    folder: Path
    series: tuple[Series, ...]
    other_objects: tuple[tuple[str, int], ...]
    repeated_count: int
    localizer_count: int
    other_file_count: int


def describe_folder(folder: Path, headers: Sequence[DicomHeader], other_file_count: int = 0) -> DicomFolder:
    """Group DICOM objects into series, and find the series that are volumes.

    Parameters
    ----------
    folder : path
        The folder that messages name.
    headers : sequence of DicomHeader
    other_file_count : int, optional
        Number of files of the folder that are not DICOM.

    Raises
    ------
    DetSeg3DError
        If an object is so damaged that its series is unknown.
    """
    groups: dict[tuple[str, str, str], list[DicomHeader]] = {}
    others: Counter[str] = Counter()
    for header in headers:
        kind = _kind_without_image(header)
        if kind is None:
            key = (header.text("PatientID"), header.text("StudyInstanceUID"), header.text("SeriesInstanceUID"))
            groups.setdefault(key, []).append(header)
        elif kind:
            others[kind] += 1
    series, repeated, localizers = [], 0, 0
    for (patient, study, uid), members in groups.items():
        one_series, repeated_here, localizers_here = _series(patient, study, uid, members)
        series.append(one_series)
        repeated += repeated_here
        localizers += localizers_here
    series.sort(key=lambda entry: (entry.patient_id, entry.study_uid, _as_number(entry.number), entry.uid))
    return DicomFolder(folder, tuple(series), tuple(sorted(others.items())), repeated, localizers, other_file_count)


def _kind_without_image(header: DicomHeader) -> str | None:
    """Return the kind of an object that is not an image: empty for a DICOMDIR; ``None`` for an image.

    An object counts as another kind only if it is complete and states its kind. Everything else is an image, or an
    image that was cut off before its pixels.
    """
    if _stated_in_meta(header) == _DIRECTORY:
        return ""
    sop_class = header.text("SOPClassUID")
    modality = header.text("Modality")
    name = UID(sop_class).name
    if header.is_whole and (modality in _NO_IMAGES or "Presentation State" in name):
        return modality or name
    if "Rows" in header.dataset or header.pixels is not None:
        return None
    is_standard, is_known = sop_class.startswith(_STANDARD_ROOT), name != sop_class
    is_other_kind = is_known and "Image" not in name and "Dose Storage" not in name
    if header.is_whole and UID(sop_class).is_valid and (is_other_kind or not is_standard):
        return modality or name
    if not header.text("SeriesInstanceUID"):
        raise damaged(header.path, "it ends before its pixels")
    return None  # the series of the object is known, so another series can still be chosen


def _stated_in_meta(header: DicomHeader) -> str:
    meta = getattr(header.dataset, "file_meta", None)
    return str(meta.get("MediaStorageSOPClassUID") or "") if meta is not None else ""


def _series(patient: str, study: str, uid: str, members: Sequence[DicomHeader]) -> tuple[Series, int, int]:
    """Return the series of these objects, the number of repeated files, and the number of omitted localizer images."""
    first = members[0]
    blank = Series(
        patient_id=patient,
        study_uid=study,
        uid=uid,
        number=first.text("SeriesNumber"),
        description=first.text("SeriesDescription"),
        modality=first.text("Modality"),
        headers=tuple(members),
        frames=(),
        rows=first.count("Rows", 0),
        columns=first.count("Columns", 0),
        layout=None,
        refusal=None,
        error=None,
        is_localizer=False,
        is_derived=False,
    )
    try:
        headers, repeated = _without_repetitions(members)
    except DetSeg3DError as error:
        return replace(blank, error=error), 0, 0
    slices = [header for header in headers if "LOCALIZER" not in header.image_type()]
    localizers = len(headers) - len(slices) if slices else 0
    headers = slices or headers
    series = replace(
        blank,
        headers=tuple(headers),
        is_localizer=not slices,
        is_derived=all(header.image_type()[:1] == ("DERIVED",) for header in headers),
    )
    return _with_layout(series), repeated, localizers


def _with_layout(series: Series) -> Series:
    sizes = Counter(_size(header) for header in series.headers)
    (rows, columns), _ = sizes.most_common(1)[0]
    series = replace(series, rows=rows, columns=columns)
    cut = [header for header in series.headers if header.pixels is None or 0 in _size(header)]
    if cut:
        return replace(series, error=damaged(cut[0].path, "it ends before its pixels"))
    colours = [header for header in series.headers if is_colour(header)]
    if colours:
        return replace(series, refusal=_colour_refusal(colours[0]))
    try:
        frames = tuple(frame for header in series.headers for frame in frames_of(header))
        layout = lay_out(frames, rows, columns)
        if isinstance(layout, Layout) or layout.is_broken:
            # Pixels of other data, for example time series or images without positions, are never read.
            for header in series.headers:
                check_pixels(header)
    except DetSeg3DError as error:
        return replace(series, error=error)
    series = replace(series, frames=frames)
    if len(sizes) > 1:
        sizes_found = " and ".join(f"{count} of {size[1]}×{size[0]}" for size, count in sizes.most_common(3))
        return replace(series, refusal=_size_refusal(sizes_found))
    return replace(series, refusal=layout) if isinstance(layout, Refusal) else replace(series, layout=layout)


def _size(header: DicomHeader) -> tuple[int, int]:
    """Return rows and columns of an image; 0 if not stated."""
    return header.count("Rows", 0), header.count("Columns", 0)


def _colour_refusal(header: DicomHeader) -> Refusal:
    return Refusal(
        "colour images",
        "the images of the DICOM series are in colour",
        header.text("PhotometricInterpretation") or None,
        "grey values (MONOCHROME1 or MONOCHROME2)",
        "give the original series, not screen captures or overlays",
        is_broken=False,
    )


def _size_refusal(sizes: str) -> Refusal:
    return Refusal(
        "images of several sizes",
        "the images of the DICOM series differ in size, so they do not form one volume",
        f"{sizes} columns × rows",
        "one number of rows and columns",
        "remove the images that do not belong to the series, or export it again",
        is_broken=True,
    )


def _without_repetitions(members: Sequence[DicomHeader]) -> tuple[list[DicomHeader], int]:
    """Return the objects without identical copies, and the number of copies.

    Two different files with the same identifier are an error.
    """
    kept: list[DicomHeader] = []
    by_uid: dict[str, DicomHeader] = {}
    for header in members:
        uid = header.text("SOPInstanceUID")
        earlier = by_uid.get(uid) if uid else None
        if earlier is None:
            by_uid[uid] = header
            kept.append(header)
        elif not filecmp.cmp(earlier.path, header.path, shallow=False):
            raise DetSeg3DError(
                "two files with different content have the same SOPInstanceUID",
                file=header.path,
                value=uid,
                expected=f"the content of {earlier.path.name}, or another identifier",
                remedy="remove one of the two files",
            )
    return kept, len(members) - len(kept)


def _as_number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() and len(text) < 12 else (1 << 40, text)


def choose_series(content: DicomFolder, choice: str | None = None) -> Series:
    """Return the series to read.

    Without ``choice``, the only series that can be read is chosen. Series that are not volumes, for example time series
    or images without positions, are not candidates. Localizers, derived images, single slices and RT doses are
    candidates only if the folder holds no other series. A damaged or incomplete volume stays a candidate, so another
    series never replaces it silently.

    Parameters
    ----------
    content : DicomFolder
    choice : str, optional
        SeriesInstanceUID, SeriesNumber or SeriesDescription. Upper and lower case of a description are equal.

    Raises
    ------
    DetSeg3DError
        If the number of candidates is not one, the chosen series is not a volume, or the folder holds images of several
        patients. The message lists all series. A SeriesInstanceUID chooses also among several patients.
    """
    table = series_table(content)
    if not content.series:
        raise DetSeg3DError(
            "the folder holds no DICOM series of images"
            if content.folder.is_dir()
            else "the file holds no DICOM image",
            file=content.folder,
            value=_other_text(content) or None,
            expected="the slices of a series",
            remedy="give an image file or a folder of DICOM files",
        )
    if choice is not None:
        chosen = _series_by_choice(content, choice, table)
        _check_one_patient(content, table, is_certain=choice.strip() == chosen.uid)
    elif len(content.series) == 1:
        chosen = content.series[0]
    else:
        _check_one_patient(content, table)
        chosen = _only_candidate(content, table)
    if not chosen.is_readable:
        raise chosen.failure(content.folder, table)
    _log_choice(content, chosen, logging.WARNING if choice is None else logging.INFO)
    return chosen


def _check_one_patient(content: DicomFolder, table: str, is_certain: bool = False) -> None:
    """Raise an error if the series belong to several patients, unless the choice names one series in the world.

    A number or a description may choose a series of the wrong patient. The message names no patient.
    """
    count = len({series.patient_id for series in content.series if series.patient_id})
    if count < 2 or is_certain:
        return
    raise DetSeg3DError(
        f"the folder holds {len(content.series)} DICOM series of {count} patients\n{table}",
        file=content.folder,
        value=f"{count} patients",
        expected="series of one patient",
        remedy="move the files of each patient to a separate folder, or give a SeriesInstanceUID with --series",
    )


def _series_by_choice(content: DicomFolder, choice: str, table: str) -> Series:
    wanted = choice.strip()
    for matches in (
        [series for series in content.series if series.uid == wanted],
        [series for series in content.series if series.number == wanted],
        [series for series in content.series if series.description.casefold() == wanted.casefold()],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise DetSeg3DError(
                f"{len(matches)} series of the folder match this choice\n{table}",
                file=content.folder,
                value=choice,
                expected="the SeriesInstanceUID of one of them: " + ", ".join(series.uid for series in matches),
                remedy="give the SeriesInstanceUID with --series",
            )
    raise DetSeg3DError(
        f"no DICOM series of the folder matches this choice\n{table}",
        file=content.folder,
        value=choice,
        expected="the SeriesInstanceUID, number or description of a series of the table",
        remedy="choose a series with --series",
    )


def candidate_series(content: DicomFolder) -> list[Series]:
    """Return the series that may be read without a choice of the user; see :func:`choose_series` for the rules."""
    primary = [
        series
        for series in content.series
        if (series.is_readable or series.is_broken) and not series.is_localizer and series.modality != "RTDOSE"
    ]
    several = [series for series in primary if len(series.frames) != 1]  # a single slice is often a screenshot
    candidates = several or primary
    return [series for series in candidates if not series.is_derived] or candidates


def _only_candidate(content: DicomFolder, table: str) -> Series:
    candidates = candidate_series(content)
    if len(candidates) == 1:
        return candidates[0]
    broken = [series for series in candidates if series.is_broken]
    if candidates:
        kinds = "some are damaged or incomplete" if broken else "all of them can be read"
        problem = f"the folder holds {len(candidates)} DICOM series to choose from; {kinds}"
    else:
        problem = f"none of the {len(content.series)} DICOM series of the folder is a volume that can be read alone"
    raise DetSeg3DError(
        f"{problem}\n{table}",
        file=content.folder,
        value=f"{len(content.series)} series",
        expected="exactly one series that can be read",
        remedy="choose a series with --series UID, NUMBER or DESCRIPTION, or move the series to a separate folder",
    )


def _log_choice(content: DicomFolder, chosen: Series, level: int) -> None:
    """Log the chosen series and everything that was left out."""
    others = [series for series in content.series if series is not chosen]
    if others:
        listing = "; ".join(f"{_name(series)}: {series.status}" for series in others[:_MAX_LISTED])
        logger.log(level, "%s: read %s; not read: %s", content.folder, _name(chosen), listing)
    skipped = [f"{count} {kind}" for kind, count in content.other_objects]
    if content.localizer_count:
        skipped.append(f"{content.localizer_count} localizer image(s) of the series")
    if content.repeated_count:
        skipped.append(f"{content.repeated_count} repeated file(s)")
    if content.other_file_count:
        skipped.append(f"{content.other_file_count} file(s) that are not DICOM")
    if skipped:
        logger.info("%s: skipped %s", content.folder, ", ".join(skipped))
    lossy = sum(_is_lossy(header) for header in chosen.headers)
    if lossy:
        logger.warning(
            "%s: %d of %d image(s) were compressed with loss, so their values differ from the values of the scanner",
            content.folder,
            lossy,
            len(chosen.headers),
        )


def _is_lossy(header: DicomHeader) -> bool:
    # JPEG baseline and extended, and JPEG-LS near-lossless, are always lossy. JPEG 2000 states a loss in an attribute.
    syntax = str(header.transfer_syntax)
    always = {f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 81)}
    return syntax in always or header.text("LossyImageCompression") == "01"


def _name(series: Series) -> str:
    number = f"series {series.number}" if series.number else "the series without a number"
    return f"{number} ({series.description})" if series.description else number


def series_table(content: DicomFolder) -> str:
    """Return a table of all series: number, description, modality, slices, size, spacing and status."""
    rows = [("number", "description", "modality", "slices", "size", "spacing (mm)", "")]
    for series in content.series[:_MAX_LISTED]:
        spacing = ""
        if series.layout is not None:
            spacing = "×".join(f"{value:g}" for value in series.layout.geometry.spacing[::-1])
        elif series.frames and series.frames[0].pixel_spacing is not None:
            row, column = series.frames[0].pixel_spacing
            spacing = f"{column:g}×{row:g}"
        slices = len(series.frames) or sum(1 for _ in series.headers)
        size = f"{series.columns}×{series.rows}"
        rows.append((series.number, series.description, series.modality, str(slices), size, spacing, series.status))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if len(content.series) > _MAX_LISTED:
        lines.append(f"    … and {len(content.series) - _MAX_LISTED} more series")
    if content.other_objects:
        lines.append(f"    other objects: {_other_text(content)}")
    return "\n".join(lines)


def _other_text(content: DicomFolder) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in content.other_objects)
