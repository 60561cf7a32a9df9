"""Follow the lesions of patients over time: from folders of results to tables, pictures and pages."""

from __future__ import annotations

import csv
import datetime as dt
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import normal_name
from detseg3d.core.rigid import RigidTransform
from detseg3d.data.case_images import image_of_case, images_by_name
from detseg3d.data.dataset import images_by_stem
from detseg3d.data.folders import FollowUpFolder, PredictionFolder
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_image, read_label_array, strip_ending
from detseg3d.data.labels import RoiLesion, read_roi_lesions, read_roi_order
from detseg3d.follow.compare import FollowOptions, follow_time_points
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.follow.result import FollowUp
from detseg3d.follow.tables import change_table, comparison_table, track_table
from detseg3d.follow.time_point import LesionFacts, RejectedCandidate, TimePoint
from detseg3d.follow.transform_files import read_transform, write_transform
from detseg3d.pipeline.follow_dates import GivenDates
from detseg3d.system.case_call import release_frames
from detseg3d.system.files import check_writable, read_bounded, write_text
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown

if TYPE_CHECKING:
    from detseg3d.data.formats.dicom.series import Series
    from detseg3d.exports.dicom.options import DicomOptions

__all__ = ["FollowFailure", "FollowInputs", "FollowOutcome", "follow_folders"]

logger = logging.getLogger(__name__)

_MAX_TABLE_BYTES = 16 << 20


@dataclass(frozen=True)
class FollowInputs:
    """Input of a follow-up: one entry per time point, in the order of time.

    Attributes
    ----------
    results : tuple of Path
        Folders of ``detseg3d_predict``, folders of instance maps, or single instance maps.
    images : tuple of Path
        The scans of each entry of ``results``: a folder of scans, a DICOM folder or a file. Empty without images.
    table : Path or None
        CSV table with one row per patient: a column for each time point with the name of its case. A first column
        ``patient`` is optional.
    channel : int
        Channel of the scans that is registered and shown.
    transforms : tuple of Path
        For the registration ``file``: a folder with ``CASE_1_to_2.tfm``, …, or, for one patient, one file for each
        time point after the first.
    dates : GivenDates
        Dates of the scans from the user. For scans without such a date, the date of the DICOM headers counts.
    """

    results: tuple[Path, ...]
    images: tuple[Path, ...] = ()
    table: Path | None = None
    channel: int = 0
    transforms: tuple[Path, ...] = ()
    dates: GivenDates = field(default_factory=GivenDates)

    def __post_init__(self) -> None:
        if len(self.results) < 2:
            raise DetSeg3DError(
                "a follow-up needs at least two time points", value=len(self.results), expected="2 or more"
            )
        if self.images and len(self.images) != len(self.results):
            raise DetSeg3DError(
                "the numbers of results and of images differ",
                value=f"{len(self.results)} results, {len(self.images)} images",
                expected="one folder of images for each folder of results, in the same order",
            )


@dataclass(frozen=True)
class FollowFailure:
    """A patient without a follow-up or without its DICOM objects, and the reason."""

    case_id: str
    problem: str


@dataclass(frozen=True)
class FollowOutcome:
    """Result of a follow-up of several patients.

    Attributes
    ----------
    results : tuple of FollowUp
        Without the scans.
    failures : tuple of FollowFailure
    """

    results: tuple[FollowUp, ...]
    failures: tuple[FollowFailure, ...] = field(default=())


@dataclass(frozen=True)
class _Patient:
    """The cases of a patient: the instance map, its folder, and the image of each time point."""

    case_id: str
    maps: tuple[Path, ...]
    images: tuple[Path | None, ...]


def follow_folders(
    inputs: FollowInputs,
    output: str | Path,
    options: FollowOptions,
    *,
    pictures: bool = True,
    dicom: DicomOptions | None = None,
    show_progress: bool = False,
) -> FollowOutcome:
    """Follow the lesions of every patient, and write tables, transforms, pictures and pages.

    A patient that fails is reported, and the others go on.

    Parameters
    ----------
    inputs : FollowInputs
    output : path
        Folder of the results; see :class:`~detseg3d.data.folders.FollowUpFolder`.
    options : FollowOptions
        The pipeline reads the motions itself if they are in files.
    pictures : bool, optional
        Also write the page and the pictures of each patient.
    dicom : DicomOptions, optional
        DICOM objects to write for each scan after the first; by default none. If the objects of a patient
        cannot be written, the patient keeps the other results and is also in ``failures``.
    show_progress : bool, optional

    Returns
    -------
    FollowOutcome

    Raises
    ------
    DetSeg3DError
        If an input does not exist, no patient is in all time points, or the folder cannot be written.
    """
    folder = FollowUpFolder(Path(output))
    failures: list[FollowFailure] = []
    patients = _patients(inputs, failures)
    inputs.dates.check_patients([*(patient.case_id for patient in patients), *(entry.case_id for entry in failures)])
    _refuse_output(inputs, folder.path)
    check_writable(folder.path)
    names = _time_point_names(inputs.results)
    results = []
    for patient in tqdm(patients, desc="following", unit="patient", disable=not is_bar_shown(show_progress)):
        try:
            chosen = options
            if options.registration is RegistrationMethod.FILE:
                chosen = replace(options, transforms=_read_transforms(inputs, patient, len(patients)))
            dates = inputs.dates.of(patient.case_id, len(names))
            points = _read_patient(patient, names, dates, options)
            result = follow_time_points(points, chosen, patient.case_id)
            _write(result, folder, pictures)
        except Exception as error:
            raise_if_interrupted()
            if not isinstance(error, DetSeg3DError):
                # An error that nobody foresaw must not lose the results of the other patients.
                logger.debug("%s failed", patient.case_id, exc_info=True)
            failures.append(FollowFailure(patient.case_id, _reason(error)))
            release_frames(error)
        else:
            results.append(replace(result, scans=()))
            if dicom is not None:
                _write_dicom(results[-1], patient, folder.dicom_folder, dicom, failures)
            counts = [comparison.counts() for comparison in result.comparisons]
            text = "; ".join(", ".join(f"{n} {state.value}" for state, n in count.items()) for count in counts)
            logger.info("%s: %s", patient.case_id, text or "no lesion")
    for failure in failures:
        logger.error("%s failed: %s", failure.case_id, failure.problem)
    write_text(change_table(results), folder.change_table)
    write_text(track_table(results), folder.track_table)
    write_text(comparison_table(results), folder.comparison_table)
    return FollowOutcome(tuple(results), tuple(failures))


def _read_transforms(inputs: FollowInputs, patient: _Patient, patient_count: int) -> tuple[RigidTransform, ...]:
    """Read the motions of a patient."""
    count = len(inputs.results) - 1
    if len(inputs.transforms) == 1 and inputs.transforms[0].is_dir():
        names = [FollowUpFolder(Path()).transform(patient.case_id, scan + 1).name for scan in range(count)]
        files = [inputs.transforms[0] / name for name in names]
    elif patient_count == 1 and len(inputs.transforms) == count:
        files = list(inputs.transforms)
    else:
        raise DetSeg3DError(
            "the transforms do not fit the patients",
            value=[str(path) for path in inputs.transforms],
            expected=f"a folder with files such as {patient.case_id}_1_to_2.tfm, or for one patient {count} file(s)",
            remedy="give --transforms",
        )
    return tuple(read_transform(path) for path in files)


def _reason(error: Exception) -> str:
    if isinstance(error, DetSeg3DError):
        return str(error)
    return str(out_of_memory(error)) if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


def _refuse_output(inputs: FollowInputs, output: Path) -> None:
    """Raise an error if the results would lie among the input."""
    for path in (*inputs.results, *inputs.images):
        if output.exists() and path.exists() and output.samefile(path):
            raise DetSeg3DError(
                "the folder of the output is a folder of the input", file=output, remedy="choose another output folder"
            )


def _time_point_names(results: Sequence[Path]) -> list[str]:
    """Return a short name for each time point: the name of its folder or file, numbered if names are equal."""
    names = [strip_ending(path) if file_ending(path) else path.resolve().name for path in results]
    if len(set(names)) < len(names):
        return [f"{index + 1}: {name}" for index, name in enumerate(names)]
    return names


# -- Pairing -----------------------------------------------------------------------------------------------------------


def _patients(inputs: FollowInputs, failures: list[FollowFailure]) -> list[_Patient]:
    """Return the patients that all time points have. Others are added to ``failures``."""
    maps = [_instance_maps(path) for path in inputs.results]
    if all(path.is_file() for path in inputs.results):
        name = strip_ending(inputs.results[0])
        given: tuple[Path | None, ...] = tuple(_single_image(path) for path in inputs.images)
        return [_Patient(name, inputs.results, given or (None,) * len(maps))]
    scans = [images_by_name(path) for path in inputs.images]
    rows = _rows_of_table(inputs) if inputs.table else _rows_by_name(maps, inputs, failures)
    patients = []
    for patient, cases in rows:
        missing = [
            f"no instance map of {case} in {path}"
            for case, known, path in zip(cases, maps, inputs.results, strict=True)
            if case not in known
        ]
        if missing:
            failures.append(FollowFailure(patient, "; ".join(missing)))
            continue
        images = tuple(image_of_case(case, known, inputs.channel) for case, known in zip(cases, scans, strict=False))
        files = tuple(known[case] for case, known in zip(cases, maps, strict=True))
        patients.append(_Patient(patient, files, images or (None,) * len(files)))
    if not patients:
        raise DetSeg3DError(
            "no patient has an instance map at every time point",
            value=[sorted(known)[:3] for known in maps],
            expected="cases with the same name in all folders",
            remedy="give a table with the names of the cases after --pairs",
        )
    return patients


def _instance_maps(path: Path) -> dict[str, Path]:
    """Return the instance maps of a time point by case."""
    if not path.exists():
        raise DetSeg3DError("the input does not exist", file=path, remedy="check the path")
    if path.is_file():
        if file_ending(path) is None:
            raise DetSeg3DError(
                "the input is neither a folder of results nor an instance map",
                file=path,
                expected="a folder or an image",
            )
        return {normal_name(strip_ending(path)): path}
    folder = PredictionFolder(path).instances_folder
    maps = images_by_stem(folder if folder.is_dir() else path)
    if not maps:
        raise DetSeg3DError(
            "the folder holds no instance map",
            file=path,
            expected=f"{folder.name}/CASE.nii.gz, as detseg3d_predict writes it, or images",
        )
    return {normal_name(name): file for name, file in maps.items()}


def _single_image(path: Path) -> Path:
    """Return a scan that is given as a file or a DICOM folder, or as a folder with one scan."""
    scans = images_by_name(path)
    if len(scans) != 1:
        raise DetSeg3DError(
            "the scan of the instance map is not clear",
            file=path,
            value=sorted(scans)[:5],
            expected="a file, or a folder with one scan",
        )
    return next(iter(scans.values()))


def _rows_by_name(
    maps: Sequence[Mapping[str, Path]], inputs: FollowInputs, failures: list[FollowFailure]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return the cases with the same name at all time points."""
    names = sorted(set().union(*maps))
    common = [name for name in names if all(name in known for known in maps)]
    for name in sorted(set(names) - set(common)):
        places = ", ".join(str(path) for path, known in zip(inputs.results, maps, strict=True) if name not in known)
        failures.append(FollowFailure(name, f"no instance map in {places}"))
    return [(name, (name,) * len(maps)) for name in common]


def _rows_of_table(inputs: FollowInputs) -> list[tuple[str, tuple[str, ...]]]:
    """Return the patients of a CSV table with the names of their cases."""
    assert inputs.table is not None
    count = len(inputs.results)
    expected = f"a first line with {count} names of columns, and a name of a case in each column"
    try:
        text = read_bounded(inputs.table, _MAX_TABLE_BYTES).decode("utf-8-sig")
        lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
    except FileNotFoundError as error:
        raise DetSeg3DError("the table does not exist", file=inputs.table, remedy="check the path") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DetSeg3DError(f"the table cannot be read: {error}", file=inputs.table, expected=expected) from error
    header = lines[0] if lines else []
    has_names = bool(header) and header[0].lower() == "patient"
    rows = []
    for line in lines[1:]:
        cases = line[1:] if has_names else line
        if len(cases) != count or not all(cases):
            raise DetSeg3DError("a line of the table is not complete", file=inputs.table, value=line, expected=expected)
        name = line[0] if has_names else cases[0]
        rows.append((name, tuple(normal_name(strip_ending(case)) for case in cases)))
    names = [name for name, _ in rows]
    repeated = sorted({name for name in names if names.count(name) > 1})
    unsafe = [name for name in names if name in ("", ".", "..") or Path(name).name != name]
    if not rows or repeated or unsafe:
        raise DetSeg3DError(
            "the table does not name each patient once",
            file=inputs.table,
            value=(repeated or unsafe)[:5],
            expected="names without slashes, each on one line",
        )
    return rows


# -- Reading -----------------------------------------------------------------------------------------------------------


def _read_patient(
    patient: _Patient, names: Sequence[str], given: Sequence[dt.date | None], options: FollowOptions
) -> list[TimePoint]:
    """Read the scans of a patient. Dates that the user did not give are those of the DICOM series."""
    if options.registration is RegistrationMethod.RIGID and None in patient.images:
        raise DetSeg3DError(
            "the registration needs the scan of each instance map",
            file=patient.maps[patient.images.index(None)],
            expected="scans after --images",
            remedy="give --images with one entry per entry after -i, or --registration none if the scans are aligned",
        )
    series = _dicom_series(patient)
    _check_patients(patient, series)
    records = [_record_of(path) for path in patient.maps]
    _check_classes([[] if record is None else read_roi_lesions(record) for record in records])
    dates = _dates(names, given, series, records)
    points = [
        _read_time_point(name, path, record, image)
        for name, path, record, image in zip(names, patient.maps, records, patient.images, strict=True)
    ]
    return [replace(point, date=date) for point, date in zip(points, dates, strict=True)]


def _dicom_series(patient: _Patient) -> list[Series | None]:
    """Return the DICOM series of each scan; ``None`` for a scan in another format."""
    from detseg3d.data.formats.dicom.reader import describe_source
    from detseg3d.data.formats.dicom.series import choose_series

    return [
        choose_series(describe_source(path)) if path is not None and file_ending(path) is None else None
        for path in patient.images
    ]


def _dates(
    names: Sequence[str],
    given: Sequence[dt.date | None],
    series: Sequence[Series | None],
    records: Sequence[Path | None],
) -> list[dt.date | None]:
    """Return the date of each scan: that of the user, of the DICOM series, or of the record of the results."""
    dates = []
    for name, date, entry, record in zip(names, given, series, records, strict=True):
        stated = _recorded_date(record) if entry is None else entry.date
        if date is not None and stated is not None and date != stated:
            logger.warning("%s: the given date %s replaces the date %s of the DICOM series", name, date, stated)
        dates.append(date or stated)
    return dates


def _recorded_date(record: Path | None) -> dt.date | None:
    """Return the date of the first DICOM channel in ``rois/CASE.json``; ``None`` if there is none."""
    channels = [] if record is None else read_json(record).get("dicom") or []
    texts = [entry.get("date") for entry in channels if isinstance(entry, Mapping)]
    try:
        return next((dt.date.fromisoformat(text) for text in texts if text), None)
    except (TypeError, ValueError) as error:
        raise DetSeg3DError(
            "the date of the scan is not valid", file=record, value=texts, expected="YYYY-MM-DD, or an empty text"
        ) from error


def _check_patients(patient: _Patient, series: Sequence[Series | None]) -> None:
    """Raise an error if DICOM scans belong to different patients or are one series."""
    known = [(path, entry) for path, entry in zip(patient.images, series, strict=True) if entry is not None]
    for (first, before), (second, after) in pairwise(known):
        if before.patient_id and after.patient_id and before.patient_id != after.patient_id:
            raise DetSeg3DError(
                "the scans belong to different patients",
                file=second,
                value=f"another PatientID than {first}",
                expected="scans of one patient",
                remedy="give scans of one patient, or anonymise both scans with the same PatientID",
            )
        if before.uid and before.uid == after.uid:
            raise DetSeg3DError(
                "both time points are one DICOM series", file=second, value=str(first), expected="two series"
            )


def _record_of(path: Path) -> Path | None:
    """Return ``rois/CASE.json`` of an instance map; ``None`` if there is none."""
    folder = PredictionFolder.holding_instances(path)
    record = None if folder is None else folder.record(strip_ending(path))
    return record if record is not None and record.is_file() else None


def _check_classes(lesions: Sequence[Sequence[RoiLesion]]) -> None:
    """Raise an error if the results of two time points name their classes differently."""
    named = [{(lesion.class_name or "", lesion.label) for lesion in part} for part in lesions if part]
    for first, second in pairwise(named):
        names, labels = dict(first), {label: name for name, label in first}
        conflict = [
            (name, label)
            for name, label in sorted(second)
            if names.get(name, label) != label or labels.get(label, name) != name
        ]
        if conflict or not {name for name, _ in first} & {name for name, _ in second}:
            raise DetSeg3DError(
                "the results of the time points have other classes",
                value=f"{sorted(first)} and {sorted(second)}",
                expected="one name and one label value for each class",
                remedy="predict all time points with one model",
            )


def _read_time_point(name: str, path: Path, record: Path | None, image: Path | None) -> TimePoint:
    for file in (path, image):
        if file is not None and file_ending(file) == ".npy":
            raise DetSeg3DError(
                "a .npy file does not state its voxel spacing", file=file, remedy="convert the file to .nii.gz"
            )
    array, geometry = read_label_array(path)
    if array.dtype.kind == "i" and array.min(initial=0) < 0:
        raise DetSeg3DError("the instance map has negative values", file=path, expected="0 for background, 1, 2, …")
    facts: dict[int, LesionFacts] | None = None
    candidates: tuple[RejectedCandidate, ...] = ()
    if record is not None:
        facts = {
            lesion.id: LesionFacts(lesion.class_name or "lesion", lesion.score) for lesion in read_roi_lesions(record)
        }
        candidates = _rejected(record)
    scan = None if image is None else read_image(ImageSource(image))
    try:
        point = TimePoint.of_instances(name, Image(array, geometry), facts, scan)
    except DetSeg3DError as error:
        raise DetSeg3DError(
            error.problem, file=path, value=error.value, expected=error.expected, remedy=error.remedy
        ) from error
    if scan is not None:
        _check_place(point, scan, path)
    return replace(point, candidates=candidates)


def _check_place(point: TimePoint, scan: Image, path: Path) -> None:
    """Raise an error if lesions lie outside the scan, which shows that the files do not belong together."""
    for number, cloud in point.clouds.items():
        places = scan.geometry.world_to_voxel_edges(cloud.world)
        if not np.all((places > -1) & (places < np.asarray(scan.shape) + 1)):
            raise DetSeg3DError(
                "a lesion of the instance map lies outside the scan",
                file=path,
                value=f"lesion {number}",
                expected="an instance map and a scan with the same place in the patient",
            )


def _rejected(record: Path) -> tuple[RejectedCandidate, ...]:
    """Return the candidates of ``rois/CASE.json`` that are not part of a lesion."""
    order, data = read_roi_order(record), read_json(record)
    entries: list[Mapping[str, Any]] = data.get("candidates", [])
    to_canonical: Callable[[Sequence[float]], Any] = tuple if order is None else order.box_to_canonical
    try:
        return tuple(
            RejectedCandidate(to_canonical([float(edge) for edge in entry["box"]]), float(entry["score"]))
            for entry in entries
            if entry.get("lesion") is None
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DetSeg3DError(
            "the candidates differ from what detseg3d_predict writes", file=record, expected="box and score"
        ) from error


# -- Writing -----------------------------------------------------------------------------------------------------------


def _write(result: FollowUp, folder: FollowUpFolder, pictures: bool) -> None:
    """Write the files of one patient. The record is written last, so a patient with a record is complete."""
    case = result.case_id
    for index, comparison in enumerate(result.comparisons):
        write_transform(comparison.registration.transform, folder.transform(case, index + 1))
    if pictures:
        _write_pictures(result, folder)
    write_json(result.to_json(), folder.record(case))


def _write_dicom(
    result: FollowUp, patient: _Patient, folder: Path, options: DicomOptions, failures: list[FollowFailure]
) -> None:
    """Write the DICOM objects of one patient. A failure is added to ``failures``."""
    # highdicom takes a second to import.
    from detseg3d.pipeline.follow_dicom import FollowedScan, write_follow_up_objects

    scans = [FollowedScan(path, image) for path, image in zip(patient.maps, patient.images, strict=True)]
    try:
        write_follow_up_objects(result, scans, folder, options)
    except Exception as error:
        raise_if_interrupted()
        if not isinstance(error, DetSeg3DError):
            logger.debug("the DICOM objects of %s failed", patient.case_id, exc_info=True)
        failures.append(FollowFailure(patient.case_id, f"its DICOM objects were not written: {_reason(error)}"))
        release_frames(error)


def _write_pictures(result: FollowUp, folder: FollowUpFolder) -> None:
    # Tables alone do not need matplotlib and the modules of the report, which take seconds to import.
    from detseg3d.reporting.html.follow_up import write_follow_up_page
    from detseg3d.reporting.pictures.follow_up import draw_comparison
    from detseg3d.reporting.pictures.overlay import save_figure

    for index in range(len(result.comparisons)):
        save_figure(draw_comparison(result, index), folder.picture(result.case_id, index + 1))
    write_follow_up_page(folder.page(result.case_id), result)
