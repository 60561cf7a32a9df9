"""Read a DICOM series: a folder of slices becomes one volume, or an error that says why it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.headers import unreadable

__all__ = ["is_dicom_folder", "read_dicom_series"]

_POSITION, _ORIENTATION = "0020|0032", "0020|0037"
# Scanners round positions; a missing slice doubles a gap. A tenth tells the two apart.
_GAP_TOLERANCE = 0.1
# How far the last slice may lie beside the first, in gaps: beyond, the stack leans, as with a tilted gantry.
_LEAN_TOLERANCE = 0.5


def is_dicom_folder(path: str | Path) -> bool:
    """Whether ``path`` is a folder with at least one DICOM file directly in it."""
    folder = Path(path)
    return folder.is_dir() and any(_is_dicom_file(entry) for entry in sorted(folder.iterdir()) if entry.is_file())


def _is_dicom_file(path: Path) -> bool:
    try:
        with open(path, "rb") as handle:
            return handle.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom_series(folder: str | Path) -> SimpleITK.Image:
    """Read the one series in ``folder``, slices sorted by position.

    Raises
    ------
    DetSeg3DError
        If there is no series or more than one, a slice is missing or doubled, the slices are not stacked at right
        angles (gantry tilt), or a file cannot be read.
    """
    folder = Path(folder)
    series: Sequence[str] = SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)) if is_dicom_folder(folder) else ()
    if len(series) != 1:
        raise DetSeg3DError(
            f"the folder holds {len(series)} DICOM series" if series else "the folder holds no DICOM series",
            file=folder,
            value=list(series) or None,
            expected="the files of exactly one series",
            remedy="put each series in its own folder" if series else "give an image file or a folder of DICOM files",
        )
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        _check_gaps(files, folder)
        return reader.Execute()
    except RuntimeError as error:
        raise unreadable(folder, error) from error


def _check_gaps(files: Sequence[str], folder: Path) -> None:
    """ITK only warns of a missing slice, and takes a stack that leans for a straight one: lesions would move."""
    places: list[list[float]] = []
    normal = np.zeros(3)
    reader = SimpleITK.ImageFileReader()
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        if not (reader.HasMetaDataKey(_POSITION) and reader.HasMetaDataKey(_ORIENTATION)):
            return  # an image without a place, for example a multi-frame file: nothing to check
        row_column = [float(value) for value in reader.GetMetaData(_ORIENTATION).split("\\")]
        normal = np.cross(np.asarray(row_column[:3]), np.asarray(row_column[3:]))
        places.append([float(value) for value in reader.GetMetaData(_POSITION).split("\\")])
    positions = np.asarray(places) @ normal
    gaps = np.abs(np.diff(positions))
    if len(gaps) and np.any(np.abs(gaps - np.median(gaps)) > _GAP_TOLERANCE * np.median(gaps)):
        worst = int(np.argmax(np.abs(gaps - np.median(gaps))))
        raise DetSeg3DError(
            "the slices of the DICOM series are not evenly spaced: one is missing, doubled or from another scan",
            file=folder,
            value=f"{gaps[worst]:.4g} mm between {Path(files[worst]).name} and {Path(files[worst + 1]).name}",
            expected=f"{float(np.median(gaps)):.4g} mm between all slices",
            remedy="export the series again, complete",
        )
    drift = np.asarray(places[-1]) - np.asarray(places[0])
    beside = float(np.linalg.norm(drift - (drift @ normal) * normal))
    if len(gaps) and beside > _LEAN_TOLERANCE * np.median(gaps):
        raise DetSeg3DError(
            "the slices of the DICOM series are not stacked at right angles, as with a tilted gantry",
            file=folder,
            value=f"the last slice lies {beside:.4g} mm beside the first",
            expected=f"at most {_LEAN_TOLERANCE * float(np.median(gaps)):.4g} mm",
            remedy="straighten the series first, for instance with dcm2niix",
        )
