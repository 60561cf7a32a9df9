"""Write the reports of patients from the results of a prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.core.names import normal_name
from detseg3d.data.case_images import image_of_case, images_by_name
from detseg3d.data.folders import FollowUpFolder, PredictionFolder
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image, read_label_array
from detseg3d.data.labels import check_same_grid
from detseg3d.exports.lesion_table import LesionTable, list_predicted_cases, read_lesion_table
from detseg3d.follow.result import FollowUp, TimePointSummary
from detseg3d.inference.expectation import Expectation
from detseg3d.planning.thresholds import Thresholds
from detseg3d.reporting.html.patient import FollowedScan, PatientReport, ReportedLesion, write_patient_report
from detseg3d.reporting.text.scan_warnings import scan_warnings
from detseg3d.system.case_call import release_frames
from detseg3d.system.files import check_writable
from detseg3d.system.json_files import read_json
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown

__all__ = ["ReportSources", "WrittenReports", "report_cases"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportSources:
    """Files from which reports are made.

    Attributes
    ----------
    results : Path
        Folder of ``detseg3d_predict``.
    images : Path or None
        Folder of scans as detseg3d_predict read it, or one file, or one DICOM folder. ``None``: no pictures.
    channel : int
        Channel of the scans for the pictures.
    series : str or None
        Series to read from DICOM folders; by default the series that the result names.
    follow_up : Path or None
        Folder of ``detseg3d_follow``.
    patient : str or None
        Name of the patient in the follow-up; by default the name of the case.
    date : str
        Date of the reports; empty to leave it out.
    """

    results: Path
    images: Path | None = None
    channel: int = 0
    series: str | None = None
    follow_up: Path | None = None
    patient: str | None = None
    date: str = ""


@dataclass(frozen=True)
class WrittenReports:
    """Outcome of writing reports.

    Attributes
    ----------
    files : mapping of str to Path
        Page of each case.
    failures : mapping of str to str
        Error of each case without a page.
    """

    files: Mapping[str, Path]
    failures: Mapping[str, str] = field(default_factory=dict)


def report_cases(
    sources: ReportSources, output: str | Path, cases: Sequence[str] | None = None, show_progress: bool = False
) -> WrittenReports:
    """Write the report of each case. A case that fails is reported, and the others go on.

    Parameters
    ----------
    sources : ReportSources
    output : path
        A file that ends with ``.html``, for one case, or a folder for files ``CASE.html``.
    cases : sequence of str, optional
        By default all cases of the folder of results.
    show_progress : bool, optional
        Show a progress bar if the standard error output is a terminal.

    Returns
    -------
    WrittenReports

    Raises
    ------
    DetSeg3DError
        If the folder holds no results or lacks a case, several cases are to be written into one file or share one
        patient, or the output cannot be written.
    """
    output = Path(output)
    names = _chosen(sources, cases)
    is_page = output.suffix.lower() in (".html", ".htm")
    if len(names) > 1 and (is_page or sources.patient is not None):
        raise DetSeg3DError(
            "one page cannot hold several cases" if is_page else "several cases are not one patient",
            file=output if is_page else sources.results,
            value=f"{len(names)} cases",
            expected="one case",
            remedy="choose a case with --case" + (", or give a folder for the pages" if is_page else ""),
        )
    check_writable(output.parent if is_page else output)
    images = None if sources.images is None else images_by_name(sources.images)
    if images is not None and len(images) == 1 and len(names) > 1:
        raise DetSeg3DError(
            "there is one scan for several cases",
            file=sources.images,
            value=f"{len(names)} cases",
            remedy="choose a case with --case, or give a folder with the scans of all cases",
        )
    files: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for case_id in tqdm(names, desc="reporting", unit="case", disable=not is_bar_shown(show_progress)):
        page = output if is_page else output / f"{case_id}.html"
        try:
            files[case_id] = write_patient_report(page, _read_report(sources, case_id, images))
        except Exception as error:
            raise_if_interrupted()
            logger.debug("%s failed", case_id, exc_info=True)
            failures[case_id] = _reason(error)
            logger.error("%s failed: %s", case_id, failures[case_id])
            release_frames(error)
    return WrittenReports(files, failures)


def _chosen(sources: ReportSources, cases: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the cases, each once."""
    known = {normal_name(name): name for name in list_predicted_cases(sources.results)}
    if cases is None:
        return tuple(known.values())
    missing = [case for case in cases if normal_name(case) not in known]
    if missing:
        raise DetSeg3DError(
            "the folder of results does not hold the case",
            file=sources.results,
            value=missing,
            expected=f"some of {', '.join(list(known.values())[:5])}{', …' if len(known) > 5 else ''}",
        )
    return tuple(dict.fromkeys(known[normal_name(case)] for case in cases))


def _reason(error: Exception) -> str:
    if isinstance(error, DetSeg3DError):
        return str(error)
    return str(out_of_memory(error)) if is_out_of_memory(error) else f"{type(error).__name__}: {error}"


# -- Reading -----------------------------------------------------------------------------------------------------------


def _read_report(sources: ReportSources, case_id: str, images: Mapping[str, Path] | None) -> PatientReport:
    """Read the result, the scan and the follow-up of a case."""
    table = read_lesion_table(sources.results, case_id)
    record_file = PredictionFolder(sources.results).record(case_id)
    record = read_json(record_file)
    instances = Image(*read_label_array(table.instance_source))
    _check_numbers(table, instances, record_file)
    scan = None if images is None else _read_scan(sources, table, images, instances)
    recorded = table.dicom[sources.channel] if sources.channel < len(table.dicom) else None
    identity = next(iter(scan.geometry.dicom), None) if scan is not None else None
    lesions = tuple(
        ReportedLesion(lesion.number, lesion.class_name, lesion.score, lesion.measures) for lesion in table.lesions
    )
    followed = None if sources.follow_up is None else _followed(sources, case_id, lesions)
    return PatientReport(
        case_id=case_id,
        lesions=lesions,
        instances=instances,
        scan=scan,
        model=ModelIdentity.from_json(record.get("model")),
        thresholds=_thresholds(record, record_file),
        facts=_facts(identity or recorded, followed),
        warnings=_warnings(record, record_file),
        follow_up=followed,
        date=sources.date,
    )


def _check_numbers(table: LesionTable, instances: Image, record: Path) -> None:
    """Raise an error if the instance map does not hold the lesions of the record, voxel for voxel."""
    numbers, counts = np.unique(instances.array[instances.array != 0], return_counts=True)
    voxels = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
    expected = {lesion.number: lesion.measures.voxels for lesion in table.lesions}
    if voxels != expected:
        different = sorted(set(voxels.items()) ^ set(expected.items()))
        raise DetSeg3DError(
            "the instance map does not agree with the record of the case",
            file=table.instances,
            value=f"lesions {sorted({number for number, _ in different})[:10]}",
            expected=f"the lesions of {record.name} with the same numbers of voxels",
            remedy="predict the case again; do not edit the instance map",
        )


def _read_scan(sources: ReportSources, table: LesionTable, images: Mapping[str, Path], instances: Image) -> Image:
    """Read the scan of a case on the grid of its instance map."""
    assert sources.images is not None
    path = sources.images if sources.images.is_file() else image_of_case(table.case_id, images, sources.channel)
    if path is None:
        raise DetSeg3DError(
            "the scan of the case is missing",
            file=sources.images,
            value=sorted(images)[:5],
            expected=f"{table.case_id}_{sources.channel:04d} or {table.case_id}",
            remedy="give the folder of -i of detseg3d_predict, or the scan itself, after --images",
        )
    recorded = table.dicom[sources.channel] if sources.channel < len(table.dicom) else None
    series = sources.series or (recorded.series_instance_uid if recorded is not None and path.is_dir() else None)
    source = ImageSource(path, table.spacing, series).oriented_like(instances.geometry)
    scan = read_image(source)
    check_same_grid(scan.geometry, instances.geometry, (path, table.instances), "scan and instance map")
    return scan


def _thresholds(record: Mapping[str, Any], file: Path) -> Thresholds | None:
    from pydantic import ValidationError

    data = record.get("thresholds")
    try:
        return None if data is None else Thresholds.model_validate(data)
    except ValidationError as error:
        raise DetSeg3DError(
            "the thresholds of the record are not valid", file=file, value=data, remedy="predict the case again"
        ) from error


def _facts(identity: DicomIdentity | None, followed: FollowedScan | None) -> tuple[tuple[str, str], ...]:
    """Return the date and the series of the scan: the date that DICOM states, else the date in the follow-up."""
    date = "" if identity is None else identity.date
    if not date and followed is not None:
        known = followed.result.time_points[followed.index].date
        date = "" if known is None else known.isoformat()
    facts = [("Date of the scan", date or "not stated in the files")]
    if identity is not None:
        described = ", ".join(part for part in (identity.modality, identity.series_description) if part)
        if described:
            facts.append(("Series", described))
    return tuple(facts)


def _warnings(record: Mapping[str, Any], file: Path) -> tuple[str, ...]:
    similarity, expected = record.get("similarity"), record.get("expected_recall")
    try:
        reasons = tuple(map(str, similarity["reasons"])) if similarity and similarity["unlike_training"] else ()
        expectation = None if expected is None else Expectation.from_json(expected)
    except (KeyError, TypeError) as error:
        raise DetSeg3DError(
            "the comparison with the training scans is not complete", file=file, remedy="predict the case again"
        ) from error
    return scan_warnings(
        reasons, "" if expectation is None else expectation.describe(), bool(record.get("limit_reached"))
    )


def _followed(sources: ReportSources, case_id: str, lesions: Sequence[ReportedLesion]) -> FollowedScan:
    """Read the follow-up of a patient, and find the scan of the report in it."""
    assert sources.follow_up is not None
    file = FollowUpFolder(sources.follow_up).record(sources.patient or case_id)
    if not file.is_file():
        known = sorted(path.stem for path in file.parent.glob("*.json")) if file.parent.is_dir() else []
        raise DetSeg3DError(
            "the follow-up of the patient is missing",
            file=file,
            value=known[:5],
            expected="a folder of detseg3d_follow with this patient",
            remedy="give the name of the patient in the follow-up after --patient",
        )
    try:
        result = FollowUp.from_json(read_json(file))
    except DetSeg3DError as error:
        raise _named(error, file) from error
    own = {(lesion.number, lesion.measures.voxels) for lesion in lesions}
    matching = [index for index, point in enumerate(result.time_points) if _lesions_of(point) == own]
    if not matching:
        raise DetSeg3DError(
            "no scan of the follow-up has the lesions of this result",
            file=file,
            value=[f"{point.name}: {len(point.lesions)} lesion(s)" for point in result.time_points],
            expected=f"{len(own)} lesion(s) with the numbers and sizes of {case_id}",
            remedy="run detseg3d_follow again with this folder of results",
        )
    # Two scans can have the same lesions, for example none. The name of the folder then decides, else the later scan.
    named = [index for index in matching if result.time_points[index].name == sources.results.resolve().name]
    return FollowedScan(result, (named or matching)[-1])


def _lesions_of(point: TimePointSummary) -> set[tuple[int, int]]:
    return {(lesion.number, lesion.measures.voxels) for lesion in point.lesions}


def _named(error: DetSeg3DError, file: Path) -> DetSeg3DError:
    """Return the error with the name of its file."""
    return DetSeg3DError(error.problem, file=file, value=error.value, expected=error.expected, remedy=error.remedy)
