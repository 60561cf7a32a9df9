"""Read a folder of DICOM objects, or one multi-frame object, as one volume."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydicom.config import disable_value_validation

from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom.files import find_dicom_files, first_dicom_file
from detseg3d.data.formats.dicom.headers import DicomHeader, read_header
from detseg3d.data.formats.dicom.series import DicomFolder, Series, choose_series, describe_folder
from detseg3d.data.formats.dicom.suv import suv_factor
from detseg3d.data.formats.dicom.values import read_values
from detseg3d.data.image_source import ImageSource

__all__ = [
    "describe_source",
    "identified_geometry",
    "is_one_study",
    "read_dicom",
    "read_dicom_geometry",
    "share_series",
]


def read_dicom(source: ImageSource) -> tuple[npt.NDArray[Any], Geometry]:
    """Read one volume.

    Parameters
    ----------
    source : ImageSource
        ``path`` is a folder of DICOM files, with or without subfolders, or a file with several frames. ``series`` and
        ``suv`` are used.

    Returns
    -------
    array : ndarray, shape ``(Z, Y, X)``
        Rescaled values. Slices ascend along the normal of their plane; rows and columns are in stored order. See
        :func:`~detseg3d.data.formats.dicom.values.read_values` for the data type.
    geometry : Geometry
        ``geometry.dicom`` holds the identifiers of the series.

    Raises
    ------
    DetSeg3DError
        If the objects do not form one volume, or a file is damaged. The message lists the series of the folder.
    """
    with disable_value_validation():  # pydicom warns of unusual values; this reader checks the values that it uses
        series = _find_series(source)
        assert series.layout is not None
        frames = [series.frames[index] for index in series.layout.order]
        factor = suv_factor([frame.header for frame in frames]) if source.suv else None
        return read_values(frames, factor), identified_geometry(series, source.suv)


def read_dicom_geometry(source: ImageSource) -> Geometry:
    """Read the geometry of one volume from the headers, and check the sizes of the files.

    Raises
    ------
    DetSeg3DError
        If the objects do not form one volume, or a file is damaged.
    """
    with disable_value_validation():
        return identified_geometry(_find_series(source), source.suv)


def share_series(folders: Iterable[Path]) -> bool:
    """Return whether slices of one series lie in several of these folders, as in exports with a folder per slice.

    Only the first object of each folder is read. Two folders share a series if their first objects are different slices
    of the same series, at different positions. Copies of a series do not count.
    """
    slices: dict[str, set[tuple[str, tuple[float, ...]]]] = {}
    for header in _first_headers(folders):
        if header is not None and header.text("SeriesInstanceUID"):
            entry = (header.text("SOPInstanceUID"), header.numbers("ImagePositionPatient"))
            slices.setdefault(header.text("SeriesInstanceUID"), set()).add(entry)
    return any(
        len({uid for uid, _ in entries}) > 1 and len({position for _, position in entries}) > 1
        for entries in slices.values()
    )


def is_one_study(folders: Iterable[Path]) -> bool:
    """Return whether the first objects of all folders belong to the same study."""
    studies = {"" if header is None else header.text("StudyInstanceUID") for header in _first_headers(folders)}
    return len(studies) == 1 and "" not in studies


def _first_headers(folders: Iterable[Path]) -> list[DicomHeader | None]:
    """Return the header of the first object of each folder; ``None`` if the object cannot be read.

    Reading the case later raises the error.
    """
    headers: list[DicomHeader | None] = []
    for folder in folders:
        try:
            path = first_dicom_file(folder)
            headers.append(None if path is None else read_header(path))
        except DetSeg3DError:
            headers.append(None)
    return headers


def _find_series(source: ImageSource) -> Series:
    """Return the series of a folder or file that is read as a volume; its ``layout`` is not ``None``.

    Raises
    ------
    DetSeg3DError
        If the objects do not form one volume, or a file is damaged.
    """
    return choose_series(describe_source(source.path), source.series)


def describe_source(path: Path) -> DicomFolder:
    """Read the headers of a folder, or of a file with several frames, and group them into series.

    Raises
    ------
    DetSeg3DError
        If the path is a file with a single slice, or a file is so damaged that its series is unknown.
    """
    if path.is_dir():
        files = find_dicom_files(path)
        return describe_folder(path, [read_header(file) for file in files.paths], files.other_count)
    header = read_header(path)
    if header.pixels is not None and header.frame_count == 1:
        raise DetSeg3DError(
            "the DICOM file holds a single slice",
            file=path,
            expected="a folder with all slices of a series, or a file with several frames",
            remedy="give the folder",
        )
    return describe_folder(path, [header])


def identified_geometry(series: Series, suv: bool = False) -> Geometry:
    """Return the geometry of a series from :func:`find_series`, with the identifiers of the series.

    ``suv`` states that the values are converted to SUV.
    """
    assert series.layout is not None
    frames = [series.frames[index] for index in series.layout.order]
    first = frames[0].header
    identity = DicomIdentity(
        study_instance_uid=series.study_uid,
        series_instance_uid=series.uid,
        frame_of_reference_uid=first.text("FrameOfReferenceUID"),
        sop_class_uid=first.text("SOPClassUID"),
        modality=series.modality,
        series_number=series.number,
        series_description=series.description,
        sop_instance_uids=tuple(frame.header.text("SOPInstanceUID") for frame in frames),
        frame_numbers=tuple(frame.index + 1 for frame in frames),
        suv=suv,
        date="" if series.date is None else series.date.isoformat(),
        patient_id=series.patient_id,
    )
    return replace(series.layout.geometry, dicom=(identity,))
