"""Results of one case on disk, and the tables of all lesions and all cases of a folder."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import file_ending, strip_ending, write_image
from detseg3d.data.instance_classes import instance_class_record
from detseg3d.models.merging.decode import Detections
from detseg3d.models.merging.merge import Merged
from detseg3d.planning.appearance.comparison import Similarity
from detseg3d.planning.plans import Plans
from detseg3d.system.files import atomic_files, atomic_path, remove_files, write_text
from detseg3d.system.json_files import read_json, write_json

__all__ = [
    "CasePrediction",
    "check_input_stays",
    "check_inputs_stay",
    "clear_cases",
    "describe_case",
    "is_exported",
    "write_case",
    "write_tables",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CasePrediction:
    """The result for one scan, in canonical order (z towards Superior, y Posterior, x Left).

    :func:`write_case` brings all of it to the order of the scan's file.

    Attributes
    ----------
    semantic : ndarray of uint8 (uint16 for labels beyond 255), shape ``(Z, Y, X)``
        Label value of each voxel's class, 0 for background.
    instances : ndarray of uint16 (uint32 beyond 65 535 lesions), shape ``(Z, Y, X)``
    lesions : list of dict
        One per lesion, best score first: ``id``, ``class``, ``label``, ``score``, ``detection_score``, ``roi_score``,
        ``box`` (``z0 y0 x0 z1 y1 x1``, voxel edges), ``box_world``, ``center``, ``center_world`` (mm LPS), ``voxels``,
        ``volume_mm3``, ``diameter_mm``.
    candidates : list of dict
        Every candidate of Stage 1 with its scores and box, accepted or not.
    geometry : Geometry
    probabilities : ndarray of float16, shape ``(K, Z, Y, X)``, or None
    similarity : Similarity or None
        The scan beside the training scans; ``None`` if they were not compared.
    instance_classes : dict of int to int, or None
        Class index of each lesion, for models of instance maps of several classes.
    candidate_limit : int or None
        How many candidates the plan allows in a scan of this volume; ``None`` if it was not asked.
    """

    semantic: npt.NDArray[np.unsignedinteger[Any]]
    instances: npt.NDArray[np.unsignedinteger[Any]]
    lesions: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    geometry: Geometry
    probabilities: npt.NDArray[np.float16] | None = None
    similarity: Similarity | None = None
    instance_classes: Mapping[int, int] | None = None
    candidate_limit: int | None = None

    @property
    def limit_reached(self) -> bool:
        """Whether there are as many candidates as the plan allows: weaker ones were left out."""
        return self.candidate_limit is not None and len(self.candidates) >= self.candidate_limit


def describe_case(
    merged: Merged,
    found: Detections,
    geometry: Geometry,
    plans: Plans,
    similarity: Similarity | None = None,
    candidate_limit: int | None = None,
) -> CasePrediction:
    """Put what was merged into words and numbers for people.

    Parameters
    ----------
    merged : Merged
        On the grid of ``geometry``.
    found : Detections
        The candidates, their boxes in voxel edges of the same grid.
    geometry : Geometry
    plans : Plans
    similarity : Similarity, optional
        The scan beside the training scans.
    candidate_limit : int, optional
        How many candidates the scan may have.
    """
    lesions = []
    for lesion in merged.lesions:
        volume = lesion.voxels * geometry.voxel_volume
        record = {"id": lesion.id, **_identity(lesion.class_index, plans), **_scores(lesion)}
        lesions.append(
            {
                **record,
                **_place(np.asarray(lesion.box), geometry),
                "voxels": lesion.voxels,
                "volume_mm3": volume,
                "diameter_mm": (6 * volume / math.pi) ** (1 / 3),
            }
        )
    accepted = {index: lesion.id for lesion in merged.lesions for index in (lesion.candidate, *lesion.joined)}
    candidates = []
    for index in range(len(found)):
        candidates.append(
            {
                **_identity(int(found.classes[index]), plans),
                "score": float(merged.scores[index]),
                "detection_score": float(found.scores[index]),
                "roi_score": float(merged.roi_scores[index]),
                "lesion": accepted.get(index),
                **_place(found.boxes[index], geometry),
            }
        )
    numbered = plans.instances and plans.num_classes > 1
    return CasePrediction(
        merged.semantic,
        merged.instances,
        lesions,
        candidates,
        geometry,
        merged.probabilities,
        similarity,
        {lesion.id: lesion.class_index for lesion in merged.lesions} if numbered else None,
        candidate_limit,
    )


def _identity(class_index: int, plans: Plans) -> dict[str, Any]:
    return {"class": plans.class_names[class_index], "label": plans.class_labels[class_index]}


def _scores(lesion: Any) -> dict[str, float]:
    return {
        "score": lesion.score,
        "detection_score": lesion.detection_score,
        "roi_score": lesion.roi_score,
    }


def _place(box: npt.NDArray[np.floating[Any]], geometry: Geometry) -> dict[str, Any]:
    corners = np.asarray(box, np.float64).reshape(2, 3)
    center = corners.mean(axis=0, keepdims=True)
    return {
        "box": [float(value) for value in corners.ravel()],
        "box_world": geometry.voxel_edges_to_world(corners).tolist(),
        "center": center[0].tolist(),
        "center_world": geometry.voxel_edges_to_world(center)[0].tolist(),
    }


def write_case(prediction: CasePrediction, case_id: str, folder: Path, ending: str) -> None:
    """Write the result of a case: masks, instance map and, last, ``rois/CASE.json``, whose presence says "complete".

    All files have the order of the scan's file: the voxels of masks and probabilities as well as boxes and centres.

    A model of instance maps of several classes also gets ``instances/CASE.json`` with the class of each lesion.

    Probabilities that an earlier prediction left are removed, if this one has none: they are not of this mask.

    Parameters
    ----------
    prediction : CasePrediction
    case_id : str
    folder : Path
    ending : str
        Of the masks, for example ``.nii.gz``.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written.
    """
    if prediction.probabilities is None:
        remove_files(PredictionFolder(folder).probabilities(case_id))
    with atomic_files(folder, str(PredictionFolder(Path()).record(case_id))) as place:
        files = PredictionFolder(place)
        semantic, instances = _mask_paths(place, case_id, ending)
        write_image(prediction.semantic, prediction.geometry, semantic)
        write_image(prediction.instances, prediction.geometry, instances)
        if prediction.instance_classes is not None:
            # As the labels of the training have it, so that both are evaluated alike.
            write_json(instance_class_record(prediction.instance_classes), files.instance_classes(case_id))
        if prediction.probabilities is not None:
            with atomic_path(files.probabilities(case_id)) as temporary, temporary.open("wb") as handle:
                probabilities = prediction.geometry.stored_order.to_stored(prediction.probabilities)
                np.savez_compressed(handle, probabilities=probabilities)
        stored, order = prediction.geometry.as_stored(), prediction.geometry.stored_order
        record = {
            "case_id": case_id,
            "shape": list(stored.shape),
            "spacing": list(stored.spacing),
            "axes": StoredOrder.of_direction(stored.direction, stored.shape).axes,
            "candidate_limit": prediction.candidate_limit,
            "limit_reached": prediction.limit_reached,
            "similarity": None if prediction.similarity is None else prediction.similarity.to_json(),
            "lesions": [_as_stored(lesion, stored, order) for lesion in prediction.lesions],
            "candidates": [_as_stored(candidate, stored, order) for candidate in prediction.candidates],
            **dicom_record(prediction.geometry),
        }
        write_json(record, files.record(case_id))


def _as_stored(record: dict[str, Any], geometry: Geometry, order: StoredOrder) -> dict[str, Any]:
    """Bring what a record states of its place to the order in which the masks are written."""
    return {**record, **_place(np.array(order.box_to_stored(record["box"])), geometry)}


def dicom_record(geometry: Geometry) -> dict[str, Any]:
    """Entry ``dicom`` of ``rois/CASE.json``: the series of each channel, ``None`` for another format.

    The mask's slices are those of channel 0, in the same order. Without a DICOM channel there is no entry.
    """
    if not any(geometry.dicom):
        return {}
    return {"dicom": [None if identity is None else asdict(identity) for identity in geometry.dicom]}


def _mask_paths(folder: Path, case_id: str, ending: str) -> list[Path]:
    files = PredictionFolder(folder)
    return [files.mask(case_id, ending), files.instances(case_id, ending)]


def is_exported(folder: Path, case_id: str, ending: str, probabilities: bool = False) -> bool:
    """Whether the result of a case is there and whole, with its ``probabilities`` if they are wanted."""
    files = _mask_paths(folder, case_id, ending)
    if probabilities:
        files.append(PredictionFolder(folder).probabilities(case_id))
    return PredictionFolder(folder).record(case_id).is_file() and all(path.is_file() for path in files)


def check_inputs_stay(inputs: Sequence[Path], case_id: str, folder: Path, ending: str) -> None:
    """Raise if a mask of a case would take the place of one of its ``inputs``: a scan may exist only once.

    Raises
    ------
    DetSeg3DError
        If the mask or the instance map would be written to the file of a scan, by whatever name or link.
    """
    for mask in _mask_paths(folder, case_id, ending):
        check_input_stays(inputs, mask)


def check_input_stays(inputs: Sequence[Path], result: Path) -> None:
    """Raise if the file ``result`` is one of the ``inputs``, by whatever name or link.

    Raises
    ------
    DetSeg3DError
        If it is.
    """
    for image in inputs:
        if result.exists() and image.exists() and result.samefile(image):
            raise DetSeg3DError(
                "the result would take the place of the scan",
                file=image,
                value=f"a result named {result}",
                remedy="choose another output folder or file",
            )


def clear_cases(folder: Path, case_ids: Collection[str]) -> None:
    """Remove all that is written of these cases, whatever the ending: what is written next must not mix with it.

    Other files of the folder stay.

    Raises
    ------
    DetSeg3DError
        If a file cannot be removed.
    """
    for place in PredictionFolder(folder).case_folders:
        for path in sorted(place.glob("*")):
            is_mask = file_ending(path) is not None and strip_ending(path) in case_ids
            if not path.is_file() or not (is_mask or (path.suffix in (".json", ".npz") and path.stem in case_ids)):
                continue
            remove_files(path)


_LESION_COLUMNS = ("id", "class", "score", "volume_mm3", "diameter_mm", "voxels")
_BOX_COLUMNS = tuple(f"{corner}{end}" for end in (0, 1) for corner in "zyx")
_CENTER_COLUMNS = ("center_x_mm", "center_y_mm", "center_z_mm")
_CASE_COLUMNS = ("case", "lesions", "best_score", "volume_mm3", "limit_reached", "unlike_training", "reasons")


def write_tables(folder: Path) -> None:
    """Write ``lesions.csv`` and ``cases.csv`` from all the cases of a folder.

    Several processes may do so: each looks again after writing, until it has written what is there, so the one that
    writes last has them all.
    """
    written, there = None, _records(folder)
    while there != written:
        lesions, cases = _tables([path for path, *_ in there])
        write_text(lesions, PredictionFolder(folder).lesion_table)
        write_text(cases, PredictionFolder(folder).case_table)
        written, there = there, _records(folder)


def _records(folder: Path) -> list[tuple[Path, int, int]]:
    """Path, time and inode of each whole record, by case; hidden ones are being written, or never will be."""
    found = []
    for path in sorted(PredictionFolder(folder).records_folder.glob("*.json")):
        if not path.name.startswith("."):
            with suppress(FileNotFoundError):  # another process predicts the case anew
                status = path.stat()
                found.append((path, status.st_mtime_ns, status.st_ino))
    return found


def _tables(records: Sequence[Path]) -> tuple[str, str]:
    """Text of both tables."""
    lesions: list[Sequence[Any]] = [("case", *_LESION_COLUMNS, *_BOX_COLUMNS, *_CENTER_COLUMNS, "unlike_training")]
    cases: list[Sequence[Any]] = [_CASE_COLUMNS]
    for path in records:
        try:
            record = read_json(path)
            rows, row = _lesion_rows(record), _case_row(record)
        except (DetSeg3DError, AttributeError, KeyError, TypeError, ValueError) as error:
            if path.exists():  # else another process predicts the case anew
                # What lies in the folder from before must not cost the tables of what was predicted now.
                logger.warning("%s is not a record of a prediction and is left out of the tables: %s", path, error)
            continue
        lesions += rows
        cases.append(row)
    return _csv(lesions), _csv(cases)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    handle = io.StringIO()
    csv.writer(handle, lineterminator="\n").writerows(rows)
    return handle.getvalue()


def _lesion_rows(record: Any) -> list[list[Any]]:
    rows = []
    for lesion in record["lesions"]:
        # Scores are written whole: rounded ones would be ties, and whoever evaluates the table goes by their order.
        values = [lesion[name] if name == "score" else _rounded(lesion[name]) for name in _LESION_COLUMNS]
        place = [_rounded(value) for value in (*lesion["box"], *lesion["center_world"])]
        rows.append([record["case_id"], *values, *place, _unlike(record)])
    return rows


def _case_row(record: Any) -> list[Any]:
    """A case, with or without lesions; without lesions it has no best score."""
    lesions, similarity = record["lesions"], record.get("similarity") or {}
    return [
        record["case_id"],
        len(lesions),
        max((lesion["score"] for lesion in lesions), default=""),
        _rounded(float(sum(lesion["volume_mm3"] for lesion in lesions))),
        "yes" if record.get("limit_reached") else "no",
        _unlike(record),
        "; ".join(similarity.get("reasons", ())),
    ]


def _unlike(record: Any) -> str:
    """Whether the scan is unlike the training scans; empty if nobody compared them."""
    similarity = record.get("similarity")
    return "" if similarity is None else ("yes" if similarity["unlike_training"] else "no")


def _rounded(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 1000 else value
