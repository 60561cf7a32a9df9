"""Files of a prediction: masks, boxes and scores of each case, and the tables of all cases of a folder."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import file_ending, strip_ending, write_image
from detseg3d.data.instance_classes import instance_class_record
from detseg3d.inference.result import Prediction
from detseg3d.system.files import atomic_files, atomic_path, remove_files, write_text
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.json_records import plain

__all__ = [
    "check_input_stays",
    "check_inputs_stay",
    "clear_cases",
    "is_exported",
    "write_case",
    "write_tables",
]

logger = logging.getLogger(__name__)


def write_case(prediction: Prediction, case_id: str, folder: Path, ending: str) -> None:
    """Write the result of a case: mask, instance map and record.

    ``rois/CASE.json`` is written last, so a case with this file is complete. Voxels, boxes and centres are in the order
    of the scan's file. A model of instance maps with several classes also writes ``instances/CASE.json`` with the class
    of each lesion. Probabilities and exports of an earlier prediction are removed.

    Parameters
    ----------
    prediction : Prediction
    case_id : str
    folder : Path
    ending : str
        Format of the masks, for example ``.nii.gz``.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written.
    """
    if prediction.probabilities is None:
        remove_files(PredictionFolder(folder).probabilities(case_id))
    # Exports of an earlier prediction show other lesions.
    remove_files(*PredictionFolder(folder).viewer_files(case_id))
    with atomic_files(folder, str(PredictionFolder(Path()).record(case_id))) as place:
        files = PredictionFolder(place)
        semantic, instances = _mask_paths(place, case_id, ending)
        write_image(prediction.semantic, prediction.geometry, semantic)
        write_image(prediction.instances, prediction.geometry, instances)
        if prediction.instance_classes is not None:
            # The format of the training labels, so that both are evaluated in the same way.
            write_json(instance_class_record(prediction.instance_classes), files.instance_classes(case_id))
        if prediction.probabilities is not None:
            with atomic_path(files.probabilities(case_id)) as temporary, temporary.open("wb") as handle:
                probabilities = prediction.geometry.stored_order.to_stored(prediction.probabilities)
                np.savez_compressed(handle, probabilities=probabilities)
        stored = prediction.geometry.as_stored()
        record = {
            "case_id": case_id,
            "model": prediction.model.to_json(),
            "shape": list(stored.shape),
            "spacing": list(stored.spacing),
            "axes": StoredOrder.of_direction(stored.direction, stored.shape).axes,
            "thresholds": plain(prediction.thresholds),
            "candidate_limit": prediction.candidate_limit,
            "limit_reached": prediction.limit_reached,
            "similarity": None if prediction.similarity is None else prediction.similarity.to_json(),
            "expected_recall": None if prediction.expectation is None else prediction.expectation.to_json(),
            "lesions": [lesion.to_stored(prediction.geometry).to_json() for lesion in prediction.lesions],
            "candidates": [candidate.to_stored(prediction.geometry).to_json() for candidate in prediction.candidates],
            **dicom_record(prediction.geometry),
        }
        write_json(record, files.record(case_id))


def dicom_record(geometry: Geometry) -> dict[str, Any]:
    """Return the entry ``dicom`` of ``rois/CASE.json``: the series of each channel, ``None`` for other formats.

    The mask has the slices of channel 0, in the same order. Without a DICOM channel the dict is empty.
    """
    if not any(geometry.dicom):
        return {}
    return {"dicom": [None if identity is None else identity.to_json() for identity in geometry.dicom]}


def _mask_paths(folder: Path, case_id: str, ending: str) -> list[Path]:
    files = PredictionFolder(folder)
    return [files.mask(case_id, ending), files.instances(case_id, ending)]


def is_exported(folder: Path, case_id: str, ending: str, probabilities: bool = False) -> bool:
    """Return True if the result of a case is complete, including ``probabilities`` if requested."""
    files = _mask_paths(folder, case_id, ending)
    if probabilities:
        files.append(PredictionFolder(folder).probabilities(case_id))
    return PredictionFolder(folder).record(case_id).is_file() and all(path.is_file() for path in files)


def check_inputs_stay(inputs: Sequence[Path], case_id: str, folder: Path, ending: str) -> None:
    """Check that no mask of a case replaces one of its ``inputs``.

    Raises
    ------
    DetSeg3DError
        If the mask or the instance map would be written to the file of a scan, also through a link.
    """
    for mask in _mask_paths(folder, case_id, ending):
        check_input_stays(inputs, mask)


def check_input_stays(inputs: Sequence[Path], result: Path) -> None:
    """Check that the file ``result`` is not one of the ``inputs``.

    Raises
    ------
    DetSeg3DError
        If it is the same file, also through a link.
    """
    for image in inputs:
        if result.exists() and image.exists() and result.samefile(image):
            raise DetSeg3DError(
                "the result would replace the scan",
                file=image,
                value=f"a result named {result}",
                remedy="choose another output folder or file",
            )


def clear_cases(folder: Path, case_ids: Collection[str]) -> None:
    """Remove all result files of these cases, in any format, so that old and new results do not mix.

    Other files in the folder stay.

    Raises
    ------
    DetSeg3DError
        If a file cannot be removed.
    """
    case_ids = set(case_ids)
    for case_id in case_ids:
        remove_files(*PredictionFolder(folder).viewer_files(case_id))
    for place in PredictionFolder(folder).case_folders:
        for path in sorted(place.glob("*")):
            is_mask = file_ending(path) is not None and strip_ending(path) in case_ids
            if not path.is_file() or not (is_mask or (path.suffix in (".json", ".npz") and path.stem in case_ids)):
                continue
            remove_files(path)


_MEASURE_COLUMNS = (
    "volume_mm3",
    "diameter_mm",
    "voxels",
    "long_axis_mm",
    "short_axis_mm",
    "maximum_diameter_mm",
    "surface_mm2",
    "sphericity",
    "border_distance_mm",
    "slice_axis",
    "slice_index",
)
_LESION_COLUMNS = ("id", "class", "score", *_MEASURE_COLUMNS)
_BOX_COLUMNS = tuple(f"{corner}{end}" for end in (0, 1) for corner in "zyx")
_CENTER_COLUMNS = ("center_x_mm", "center_y_mm", "center_z_mm")
_LINES = ("long_axis", "short_axis", "maximum_diameter")
_END_COLUMNS = tuple(f"{line}_{axis}{end}_mm" for line in _LINES for end in (0, 1) for axis in "xyz")
_INTENSITIES = {"mean": "mean", "sd": "standard_deviation", "min": "minimum", "max": "maximum"}
_CASE_COLUMNS = (
    "case",
    "lesions",
    "best_score",
    "volume_mm3",
    "limit_reached",
    "unlike_training",
    "reasons",
    "expected_recall",
)


def write_tables(folder: Path) -> None:
    """Write ``lesions.csv`` and ``cases.csv`` from the records of all cases in a folder.

    Several processes may write at the same time. Each one repeats until the records did not change while it wrote, so
    the last one to finish has written all cases.
    """
    written, records = None, _records(folder)
    while records != written:
        lesions, cases = _tables([path for path, *_ in records])
        write_text(lesions, PredictionFolder(folder).lesion_table)
        write_text(cases, PredictionFolder(folder).case_table)
        written, records = records, _records(folder)


def _records(folder: Path) -> list[tuple[Path, int, int]]:
    """Return path, time and inode of each record, by case. Hidden files are unfinished and left out."""
    records = []
    for path in sorted(PredictionFolder(folder).records_folder.glob("*.json")):
        if not path.name.startswith("."):
            with suppress(FileNotFoundError):  # another process is predicting the case again
                status = path.stat()
                records.append((path, status.st_mtime_ns, status.st_ino))
    return records


def _tables(records: Sequence[Path]) -> tuple[str, str]:
    """Return the text of both tables."""
    # Only the contents of the tables are kept: whole records of ten thousand cases take gigabytes.
    valid: list[tuple[list[list[Any]], list[Any]]] = []
    lesions: list[Sequence[Any]] = []
    cases: list[Sequence[Any]] = [_CASE_COLUMNS]
    # The channels of all records, because a folder may hold predictions of several models.
    channels: dict[str, None] = {}
    for path in records:
        try:
            record = read_json(path)
            rows, row = _lesion_rows(record), _case_row(record)
            names = _channel_names(record)
            intensities_of_case = [lesion["intensities"] for lesion in record["lesions"]]
        except (DetSeg3DError, AttributeError, KeyError, TypeError, ValueError) as error:
            if path.exists():  # else another process is predicting the case again
                # A damaged record of an earlier prediction must not prevent the tables.
                logger.warning("%s is not a record of a prediction and is left out of the tables: %s", path, error)
            continue
        valid.append((rows, intensities_of_case))
        channels.update(dict.fromkeys(names))
        cases.append(row)
    intensities = [f"{name}_{channel}" for channel in channels for name in _INTENSITIES]
    places = (*_BOX_COLUMNS, *_CENTER_COLUMNS, *_END_COLUMNS)
    lesions.append(("case", *_LESION_COLUMNS, *places, "unlike_training", *intensities))
    for rows, intensities_of_case in valid:
        for row, measured in zip(rows, intensities_of_case, strict=True):
            lesions.append([*row, *_intensity_cells(measured, channels)])
    return _csv(lesions), _csv(cases)


def _channel_names(record: Any) -> list[str]:
    return [str(entry["channel"]) for lesion in record["lesions"] for entry in lesion["intensities"]]


def _intensity_cells(intensities: Any, channels: Iterable[str]) -> list[Any]:
    """Return the intensities of a lesion in each channel, empty if they were not measured."""
    measured = {entry["channel"]: entry for entry in intensities}
    return [
        _rounded(measured[channel][name]) if channel in measured else ""
        for channel in channels
        for name in _INTENSITIES.values()
    ]


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    handle = io.StringIO()
    csv.writer(handle, lineterminator="\n").writerows(rows)
    return handle.getvalue()


def _lesion_rows(record: Any) -> list[list[Any]]:
    rows = []
    for lesion in record["lesions"]:
        # Scores are not rounded: rounded scores could be equal, and an evaluation needs their order.
        values = [lesion[name] if name == "score" else _rounded(lesion[name]) for name in _LESION_COLUMNS]
        ends = [value for line in _LINES for point in lesion[f"{line}_ends"]["world"] for value in point]
        place = [_rounded(value) for value in (*lesion["box"], *lesion["center_world"], *ends)]
        rows.append([record["case_id"], *values, *place, _unlike(record)])
    return rows


def _case_row(record: Any) -> list[Any]:
    """Return the row of a case. Without lesions the best score is empty."""
    lesions, similarity = record["lesions"], record.get("similarity") or {}
    return [
        record["case_id"],
        len(lesions),
        max((lesion["score"] for lesion in lesions), default=""),
        _rounded(float(sum(lesion["volume_mm3"] for lesion in lesions))),
        "yes" if record.get("limit_reached") else "no",
        _unlike(record),
        "; ".join(similarity.get("reasons", ())),
        (record.get("expected_recall") or {}).get("range", ""),
    ]


def _unlike(record: Any) -> str:
    """Return "yes" if the scan is unlike the training scans, else "no"; empty if it was not compared."""
    similarity = record.get("similarity")
    return "" if similarity is None else ("yes" if similarity["unlike_training"] else "no")


def _rounded(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else value
