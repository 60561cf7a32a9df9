"""Lesions of a predicted scan, as the exports to other programs take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detseg3d.core.arrays import Box, Spacing
from detseg3d.core.codes import ClassCodes
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, strip_ending
from detseg3d.measures.lesion import LesionMeasures
from detseg3d.system.json_files import read_json
from detseg3d.system.json_records import JsonRecord

__all__ = ["ExportedLesion", "LesionTable", "list_predicted_cases", "read_lesion_table"]


@dataclass(frozen=True)
class ExportedLesion(JsonRecord):
    """One predicted lesion.

    Attributes
    ----------
    number : int
        Value of the lesion in ``instances/CASE``, from 1. All files use this number for this lesion.
    class_name : str
    label : int
        Value of the class in label files.
    score : float
        From 0 to 1.
    box : tuple of 6 floats
        ``z0 y0 x0 z1 y1 x1`` in voxel edges of the instance map, in the order of its file.
    measures : LesionMeasures
        Positions in voxels are in the order of the file of the instance map.
    codes : ClassCodes
        Codes of the class; without a code if dataset.json does not state codes.
    """

    number: int
    class_name: str
    label: int
    score: float
    box: Box
    measures: LesionMeasures
    codes: ClassCodes = field(default_factory=ClassCodes)


@dataclass(frozen=True)
class LesionTable(JsonRecord):
    """All lesions of one predicted scan.

    Attributes
    ----------
    case_id : str
    instances : Path
        File of the instance map, the voxels of the lesions.
    lesions : tuple of ExportedLesion
        By ascending number.
    dicom : tuple of DicomIdentity or None
        DICOM series of each channel, ``None`` for a channel of another format; empty if no channel is DICOM.
    spacing : 3 floats or None
        Spacing ``(z, y, x)`` of the instance map in mm, which a ``.npy`` file does not state.
    """

    case_id: str
    instances: Path
    lesions: tuple[ExportedLesion, ...]
    dicom: tuple[DicomIdentity | None, ...] = ()
    spacing: Spacing | None = None

    @property
    def instance_source(self) -> ImageSource:
        """The instance map with its spacing, ready to be read."""
        return ImageSource(self.instances, self.spacing)


def list_predicted_cases(folder: Path) -> tuple[str, ...]:
    """Return the names of the cases with a result in a folder of ``detseg3d_predict``, sorted.

    Raises
    ------
    DetSeg3DError
        If the folder holds no results.
    """
    records = PredictionFolder(folder).records_folder
    cases = sorted(path.stem for path in records.glob("*.json") if not path.name.startswith("."))
    if not cases:
        raise DetSeg3DError(
            "the folder does not hold results of detseg3d_predict",
            file=folder,
            expected=f"{records.name}/CASE.json for each case",
            remedy="give the folder after -o of detseg3d_predict",
        )
    return tuple(cases)


def read_lesion_table(folder: Path, case_id: str) -> LesionTable:
    """Read the lesions of one case from a folder of ``detseg3d_predict``.

    Parameters
    ----------
    folder : Path
    case_id : str

    Returns
    -------
    LesionTable
        Without lesions if none was predicted.

    Raises
    ------
    DetSeg3DError
        If the record or the instance map is missing, or the record lacks an entry.
    """
    files = PredictionFolder(folder)
    path = files.record(case_id)
    record = read_json(path)
    if not isinstance(record, dict) or not isinstance(record.get("lesions"), list):
        raise DetSeg3DError("the file is not a record of detseg3d_predict", file=path, expected='a list "lesions"')
    try:
        lesions = sorted((_lesion(entry) for entry in record["lesions"]), key=lambda lesion: lesion.number)
        return LesionTable.from_json(
            {
                "case_id": case_id,
                "instances": _instance_map(files, case_id),
                "lesions": lesions,
                "dicom": record.get("dicom") or (),
                "spacing": record.get("spacing"),
            }
        )
    except DetSeg3DError as error:
        if error.file is not None:
            raise
        raise DetSeg3DError(
            f"the file is not a record of this version of detseg3d_predict: {error.problem}",
            file=path,
            value=error.value,
            remedy="predict the case again",
        ) from error


def _lesion(entry: Any) -> ExportedLesion:
    if not isinstance(entry, Mapping):
        raise DetSeg3DError("an entry of the lesions is not an object", value=entry)
    measures = LesionMeasures.from_json(entry)
    renamed = {"number": entry.get("id"), "class_name": entry.get("class"), "measures": measures}
    codes = entry.get("codes")
    return ExportedLesion.from_json({**entry, **renamed, "codes": ClassCodes() if codes is None else codes})


def _instance_map(files: PredictionFolder, case_id: str) -> Path:
    """Return the file of the instance map of a case, in any format."""
    candidates = sorted(
        path
        for path in files.instances_folder.glob("*")
        if file_ending(path) is not None and strip_ending(path) == case_id
    )
    if len(candidates) != 1:
        raise DetSeg3DError(
            "the instance map is missing" if not candidates else "there are several instance maps",
            file=files.instances_folder,
            value=[path.name for path in candidates],
            expected=f"one image named {case_id}",
            remedy="predict the case again",
        )
    return candidates[0]
