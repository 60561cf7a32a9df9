"""Label files of any kind as instance maps: semantic masks, instance maps, and the layout of ``detseg3d_predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.io.files import read_json
from detseg3d.io.images import file_ending, read_image

__all__ = [
    "LabelFormat",
    "Lesions",
    "check_same_grid",
    "label_values",
    "lesions_from_instances",
    "lesions_from_semantic",
    "read_label",
    "read_label_format",
    "read_patients",
    "read_roi_lesions",
]

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class LabelFormat:
    """How label files are to be read.

    Attributes
    ----------
    classes : dict of str to int, or None
        Value of each lesion class in the files; ``None``: every value but 0 is a class, named ``label 1``, …
    truth_instances, prediction_instances : bool
        The files are instance maps (every value one lesion, all of one class).
    npy_spacing : 3 floats or None
        Millimetres ``(z, y, x)`` of ``.npy`` files.
    """

    classes: Mapping[str, int] | None = None
    truth_instances: bool = False
    prediction_instances: bool = False
    npy_spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Lesions:
    """An instance map and what is known of its lesions, by id."""

    instances: IntArray
    classes: Mapping[int, int]
    scores: Mapping[int, float] | None = None


def read_label_format(truth_folder: str | Path, prediction_folder: str | Path | None = None) -> LabelFormat:
    """Classes and kind of the labels from a dataset.json, if there is one.

    Looked for in ``truth_folder``, the folder above it (``labelsTr`` lies beside dataset.json) and
    ``prediction_folder``. Without one, every value but 0 is a class.

    Raises
    ------
    DetSeg3DError
        If ``labels`` in dataset.json is not a name and a number each, or has an ``ignore`` label.
    """
    file = _description(truth_folder, prediction_folder)
    if file is None:
        return LabelFormat()
    data = read_json(file)
    labels = data.get("labels") if isinstance(data, dict) else None
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise DetSeg3DError(
            "dataset.json does not state the labels",
            file=file,
            value=labels,
            expected='names and values, as in {"background": 0, "lesion": 1}',
            remedy="region-based labels are not supported" if labels else None,
        )
    if "ignore" in labels:
        raise DetSeg3DError("an ignore label is not supported", file=file, value=labels)
    classes = {name: value for name, value in labels.items() if value != 0}
    instances = data.get("instances") is True
    spacing = data.get("npy_spacing")
    return LabelFormat(
        classes or None, truth_instances=instances, npy_spacing=None if spacing is None else tuple(spacing)
    )


def read_patients(truth_folder: str | Path) -> dict[str, str]:
    """Patient of each case, from the optional ``patients`` of the dataset.json in or above the folder of labels.

    Cases that it does not name are patients of their own, and left out here.

    Raises
    ------
    DetSeg3DError
        If ``patients`` is not a text for each case.
    """
    file = _description(truth_folder)
    data = {} if file is None else read_json(file)
    patients = data.get("patients", {}) if isinstance(data, dict) else {}
    if not isinstance(patients, dict) or not all(isinstance(value, str) for value in patients.values()):
        raise DetSeg3DError('"patients" must map cases to patients', file=file, expected='{"CASE": "PATIENT"}')
    return patients


def _description(truth_folder: str | Path, prediction_folder: str | Path | None = None) -> Path | None:
    """The dataset.json that goes with labels."""
    folders = [Path(truth_folder), Path(truth_folder).absolute().parent]
    folders += [] if prediction_folder is None else [Path(prediction_folder)]
    return next((folder / "dataset.json" for folder in folders if (folder / "dataset.json").is_file()), None)


def read_label(path: Path, form: LabelFormat) -> tuple[IntArray, Geometry]:
    """A label file as integers, whatever type it is stored in."""
    array, geometry = read_image(path, form.npy_spacing)
    if array.dtype.kind in "bu":
        return (array.astype(np.uint8) if array.dtype.kind == "b" else array), geometry
    integers = array.dtype.kind == "i"
    whole = integers or (np.all(np.isfinite(array)) and np.array_equal(array, np.rint(array)))
    if not whole or array.min() < 0:
        raise DetSeg3DError(
            "the label file holds values that are no labels",
            file=path,
            value=f"{array.dtype} from {array.min():g} to {array.max():g}",
            expected="whole numbers from 0",
            remedy="threshold a probability map before evaluating it",
        )
    return (array if integers else array.astype(np.int64)), geometry


def check_same_grid(reference: Geometry, other: Geometry, files: tuple[Path, Path], what: str) -> None:
    """Raise a :class:`DetSeg3DError` that says what differs, if two volumes do not lie on the same grid.

    ``files`` are those of ``reference`` and ``other``; ``.npy`` files say nothing about their place, so with these only
    the size can be compared. ``what`` names the two, as in ``truth and prediction``.
    """
    differences = reference.difference(other)
    if ".npy" in {file_ending(file) for file in files}:
        differences = [difference for difference in differences if difference.startswith("size")]
    if differences:
        raise DetSeg3DError(
            f"{what} are not on the same grid: " + "; ".join(differences),
            file=files[1],
            expected=f"the grid of {files[0]}",
            remedy="resample one of them to the grid of the other, labels by nearest neighbour",
        )


def label_values(label: IntArray) -> set[int]:
    """All values but 0. Only the foreground is sorted, which is most often a small part."""
    return set(np.unique(label[label != 0]).tolist())


def lesions_from_semantic(label: IntArray, values: Sequence[int], file: Path) -> Lesions:
    """Lesions of a mask: 26-connected components of each class; ``values`` are the classes' values in the file."""
    unknown = sorted(label_values(label) - set(values))
    if unknown:
        raise DetSeg3DError(
            "the file holds labels that dataset.json does not name",
            file=file,
            value=unknown[:10],
            expected=f"0 or one of {list(values)}",
            remedy="if these are instance maps, use --instances",
        )
    instances, classes = instances_from_semantic(label, values)
    return Lesions(instances, dict(enumerate(classes.tolist(), start=1)))


def lesions_from_instances(label: IntArray) -> Lesions:
    """Lesions of an instance map, all of one class, with the numbers they have in the file."""
    return Lesions(label, dict.fromkeys(label_values(label), 0))


def read_roi_lesions(file: Path) -> list[dict[str, Any]]:
    """The lesions of ``rois/CASE.json``: all that is stated of each; ``id``, ``label`` and ``score`` are always there.

    Raises
    ------
    DetSeg3DError
        If the file is not as ``detseg3d_predict`` writes it.
    """
    try:
        lesions = []
        for entry in read_json(file)["lesions"]:
            score, box = entry.get("score"), entry.get("box")
            checked: dict[str, Any] = {"id": int(entry["id"]), "label": int(entry["label"])}
            checked["score"] = None if score is None else float(score)
            if box is not None:
                z0, y0, x0, z1, y1, x1 = (float(edge) for edge in box)
                checked["box"] = [z0, y0, x0, z1, y1, x1]
            lesions.append({**entry, **checked})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DetSeg3DError(
            f"the RoI file is not as detseg3d_predict writes it ({type(error).__name__}: {error})",
            file=file,
            expected='"lesions": a list of entries with "id", "label", "score" and "box"',
        ) from error
    return lesions
