"""Write results as DICOM objects that refer to the series from which the scans were read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tqdm import tqdm

from detseg3d.core.codes import ClassCodes
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.data.dataset import read_description
from detseg3d.data.dataset_json import parse_codes
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.formats.dicom.reader import describe_source
from detseg3d.data.formats.dicom.series import DicomFolder
from detseg3d.data.images import read_label_array
from detseg3d.exports.dicom.export import Export
from detseg3d.exports.dicom.objects import write_objects
from detseg3d.exports.dicom.options import DicomOptions, DicomPaths
from detseg3d.exports.dicom.source import SourceSeries, read_source
from detseg3d.exports.exported_cases import ExportedCases
from detseg3d.exports.lesion_table import LesionTable, list_predicted_cases, read_lesion_table
from detseg3d.system.files import check_writable
from detseg3d.system.json_files import read_json
from detseg3d.system.signals import raise_if_interrupted
from detseg3d.system.workers import is_bar_shown

__all__ = ["export_case", "export_dicom", "prepare_export", "read_codes"]

logger = logging.getLogger(__name__)


def export_dicom(
    results: str | Path,
    source: str | Path,
    output: str | Path,
    options: DicomOptions | None = None,
    codes: Mapping[str, ClassCodes] | None = None,
    show_progress: bool = False,
) -> ExportedCases:
    """Write the results of a folder as DICOM objects. A case that fails is reported, and the others go on.

    Parameters
    ----------
    results : path
        Folder of ``detseg3d_predict``.
    source : path
        Folder with the DICOM series of the scans. A subfolder with the name of a case is searched for this case;
        without such a subfolder, the whole folder is searched. The record of a case names its series.
    output : path
        Folder of the DICOM objects.
    options : DicomOptions, optional
    codes : mapping of str to ClassCodes, optional
        Codes of each class, instead of those in the records.
    show_progress : bool
        Show a progress bar if the standard error output is a terminal.

    Returns
    -------
    ExportedCases

    Raises
    ------
    DetSeg3DError
        If ``results`` holds no results, ``source`` does not exist, or ``output`` cannot be written.
    """
    results, source, output = Path(results), Path(source), Path(output)
    options = options or DicomOptions()
    cases = list_predicted_cases(results)
    if not source.exists():
        raise DetSeg3DError("the DICOM source does not exist", file=source, remedy="check the path after --source")
    check_writable(output)
    describe = cache(describe_source)  # a folder with the series of many cases is read once
    files: dict[str, tuple[Path, ...]] = {}
    failures: dict[str, DetSeg3DError] = {}
    bar = tqdm(cases, desc="writing DICOM", unit="case", disable=not is_bar_shown(show_progress))
    for case_id in bar:
        try:
            place = _place_of(case_id, source)
            series = _Series(place, describe(place), None)
            files[case_id] = _export(results, case_id, series, output, options, codes)
        except Exception as error:
            raise_if_interrupted()
            logger.debug("%s failed", case_id, exc_info=True)
            failures[case_id] = _as_error(error, case_id)
            logger.error("%s failed: %s", case_id, failures[case_id])
    return ExportedCases(files, failures)


def export_case(
    results: Path, case_id: str, source: Path, series: str | None, options: DicomOptions
) -> tuple[Path, ...]:
    """Write the DICOM objects of one case into the folder ``dicom`` of its results.

    Parameters
    ----------
    results : Path
        Folder of ``detseg3d_predict``.
    case_id : str
    source : Path
        The folder or file from which the scan was read.
    series : str or None
        SeriesInstanceUID, number or description of the series that was read.
    options : DicomOptions

    Returns
    -------
    tuple of Path
        The files that were written.

    Raises
    ------
    DetSeg3DError
        If the source is not the series of the scan, a result cannot refer to it, or a file cannot be written.
    """
    try:
        place = _Series(source, describe_source(source), series)
        return _export(results, case_id, place, PredictionFolder(results).dicom_folder, options, None)
    except Exception as error:
        raise_if_interrupted()
        raise _as_error(error, case_id) from error


def prepare_export(results: Path, case_id: str, source: Path) -> Export:
    """Return the lesions of one case, ready to be written as DICOM objects.

    Parameters
    ----------
    results : Path
        Folder of ``detseg3d_predict``.
    case_id : str
    source : Path
        Folder or file with the DICOM series of the scan.

    Raises
    ------
    DetSeg3DError
        If the source is not the series of the scan, or a result cannot refer to it.
    """
    return _prepare(results, case_id, _Series(source, describe_source(source), None), None)


def read_codes(file: str | Path) -> dict[str, ClassCodes]:
    """Return the codes of the classes in a dataset.json.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, or its codes are not valid.
    """
    data, _, labels = read_description(Path(file))
    return parse_codes(data, [name for name, value in labels.items() if value != 0], Path(file))


@dataclass(frozen=True)
class _Series:
    """A folder or file with DICOM objects, its headers, and the choice of a series."""

    path: Path
    content: DicomFolder
    choice: str | None


def _place_of(case_id: str, source: Path) -> Path:
    """Return the subfolder of a case, as in the input of a prediction; the whole source without such a folder."""
    for name in (case_id, f"{case_id}_0000"):
        if (source / name).is_dir():
            return source / name
    return source


def _export(
    results: Path,
    case_id: str,
    place: _Series,
    output: Path,
    options: DicomOptions,
    codes: Mapping[str, ClassCodes] | None,
) -> tuple[Path, ...]:
    return write_objects(_prepare(results, case_id, place, codes), DicomPaths(output, case_id), options)


def _prepare(results: Path, case_id: str, place: _Series, codes: Mapping[str, ClassCodes] | None) -> Export:
    table = read_lesion_table(results, case_id)
    if codes is not None:
        lesions = tuple(replace(lesion, codes=codes.get(lesion.class_name, lesion.codes)) for lesion in table.lesions)
        table = replace(table, lesions=lesions)
    record_file = PredictionFolder(results).record(case_id)
    source = _source_of(table, place, record_file)
    instances, geometry = read_label_array(table.instances)
    return Export(
        source=source,
        slices=source.slices_of(instances, geometry, table.instances),
        lesions=table.lesions,
        model=ModelIdentity.from_json(read_json(record_file).get("model")),
        file=table.instances,
        channels=table.dicom,
    )


def _source_of(table: LesionTable, place: _Series, record: Path) -> SourceSeries:
    """Return the series of the scan of a case.

    Raises
    ------
    DetSeg3DError
        If the series is not in the source, or is not the series that the record names.
    """
    recorded = table.dicom[0] if table.dicom else None
    if recorded is None:
        return read_source(place.path, place.content, place.choice)
    known = {series.uid for series in place.content.series}
    if recorded.series_instance_uid in known:
        source = read_source(place.path, place.content, recorded.series_instance_uid)
        _check_same(recorded, source, record)
        return source
    studies = {series.study_uid for series in place.content.series}
    same_study = recorded.study_instance_uid in studies
    raise DetSeg3DError(
        "the source does not hold the series of this case"
        + ("" if same_study else ": it holds other studies, perhaps of another patient"),
        file=place.path,
        value=_listing(sorted(known if same_study else studies)),
        expected=f"{'series' if same_study else 'study'} "
        f"{recorded.series_instance_uid if same_study else recorded.study_instance_uid}, as {record.name} states",
        remedy="give the DICOM folder from which the case was predicted",
    )


def _check_same(recorded: DicomIdentity, source: SourceSeries, record: Path) -> None:
    """Check that a source with the right series has the study, frame of reference and slices of the record."""
    found = source.identity
    for name, description in (
        ("study_instance_uid", "study"),
        ("frame_of_reference_uid", "frame of reference"),
    ):
        expected, value = getattr(recorded, name), getattr(found, name)
        if expected != value:
            raise DetSeg3DError(
                f"the series in the source has another {description} than the scan of this case",
                file=source.path,
                value=value,
                expected=f"{expected}, as {record.name} states",
                remedy="give the DICOM folder from which the case was predicted",
            )
    slices = list(zip(recorded.sop_instance_uids, recorded.frame_numbers, strict=True))
    others = list(zip(found.sop_instance_uids, found.frame_numbers, strict=True))
    if slices != others:
        raise DetSeg3DError(
            "the series in the source has other slices than the scan of this case",
            file=source.path,
            value=f"{len(others)} slices, {len(set(others) - set(slices))} of them unknown",
            expected=f"the {len(slices)} slices that {record.name} states",
            remedy="give the complete DICOM folder from which the case was predicted",
        )


def _listing(uids: Sequence[str]) -> str:
    return "none" if not uids else ", ".join(uids[:3]) + (", …" if len(uids) > 3 else "")


def _as_error(error: Exception, case_id: str) -> DetSeg3DError:
    """Return the error for the user; an error that nobody foresaw becomes one that names the case."""
    if isinstance(error, DetSeg3DError):
        return error
    return DetSeg3DError(
        f"the DICOM objects of {case_id} cannot be written: {type(error).__name__}: {error}",
        remedy="check the attributes of the DICOM series",
    )
