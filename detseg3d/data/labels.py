"""Label files of any kind as instance maps: semantic masks, instance maps, and the layout of ``detseg3d_predict``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import AnyIntArray, Spacing
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.dataset_json import parse_default_spacing, parse_labels, parse_patients
from detseg3d.data.folders import RawFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending
from detseg3d.data.images import read_label as read_whole_numbers
from detseg3d.data.instance_classes import InstanceClasses, class_indices, parse_instance_classes
from detseg3d.system.files import read_json

__all__ = [
    "LabelFormat",
    "Lesions",
    "check_same_grid",
    "common_label_format",
    "label_values",
    "lesions_from_instances",
    "lesions_from_semantic",
    "read_label",
    "read_label_format",
    "read_patients",
    "read_roi_lesions",
    "read_roi_order",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelFormat:
    """How label files are to be read.

    Attributes
    ----------
    classes : dict of str to int, or None
        Value of each lesion class in the files; ``None``: every value but 0 is a class, named ``label 1``, …
    truth_instances, prediction_instances : bool
        The files are instance maps: every value is one lesion.
    instance_classes : InstanceClasses or None
        Where the classes of the lesions of instance maps are stated; ``None``: all are of the first class.
    default_spacing : 3 floats or None
        Voxel size ``(z, y, x)`` in mm of ``.npy`` files, which store none; ``None``: 1 mm.
    """

    classes: Mapping[str, int] | None = None
    truth_instances: bool = False
    prediction_instances: bool = False
    default_spacing: Spacing | None = None
    instance_classes: InstanceClasses | None = None

    def source(self, path: Path) -> ImageSource:
        """Return the source of a file that belongs to these labels, with the spacing of ``.npy`` files."""
        return ImageSource(path, self.default_spacing)


@dataclass(frozen=True)
class Lesions:
    """An instance map and what is known of its lesions, by id."""

    instances: AnyIntArray
    classes: Mapping[int, int]
    scores: Mapping[int, float] | None = None


def read_label_format(truth_folder: str | Path, prediction_folder: str | Path | None = None) -> LabelFormat:
    """Classes and kind of the labels from a dataset.json, if there is one.

    Looked for in ``truth_folder``, the folder above it (``labelsTr`` lies beside dataset.json) and
    ``prediction_folder``. Without one, every value but 0 is a class.

    The dataset.json of the predictions is that of the training of some program. If it cannot be used, for example
    because it names regions or a value to ignore, a warning says so, and every value but 0 is a class.

    Raises
    ------
    DetSeg3DError
        If the dataset.json of the labels does not state them as :func:`~detseg3d.data.dataset.load_raw_dataset`
        needs them.
    """
    file = _description(truth_folder)
    if file is not None:
        return _format_stated(file)
    file = None if prediction_folder is None else _description_in(Path(prediction_folder))
    if file is None:
        return LabelFormat()
    try:
        return _format_stated(file)
    except DetSeg3DError as error:
        logger.warning(
            "%s is not used (%s): every value of the labels and of the predictions is taken for a class. To name the "
            "classes, put a dataset.json beside the labels",
            file,
            error.problem,
        )
        return LabelFormat()


def common_label_format(truth_folder: str | Path, prediction_folders: Sequence[str | Path]) -> LabelFormat:
    """The label format of a comparison: that of the first folder of predictions with a dataset.json that can be used.

    Raises
    ------
    DetSeg3DError
        If the dataset.json files of two folders of predictions give one class two values.
    """
    stated = {Path(folder): read_label_format(truth_folder, folder) for folder in prediction_folders}
    stated = {folder: form for folder, form in stated.items() if form.classes is not None}
    values: dict[str, tuple[int, Path]] = {}
    for folder, form in stated.items():
        for name, value in (form.classes or {}).items():
            known, first = values.setdefault(name, (value, folder))
            if known != value:
                raise DetSeg3DError(
                    f"the dataset.json files of two folders of predictions give the class {name} two values",
                    file=RawFolder(folder).dataset_json,
                    value=value,
                    expected=f"{known}, as in {first}",
                    remedy="store both predictions alike, and put one dataset.json beside the labels",
                )
    return next(iter(stated.values()), LabelFormat())


def _format_stated(file: Path) -> LabelFormat:
    data = _content(file)
    labels, instances = parse_labels(data, file), data.get("instances") is True
    classes = {name: value for name, value in labels.items() if value != 0}
    return LabelFormat(
        classes,
        truth_instances=instances,
        default_spacing=parse_default_spacing(data, file),
        instance_classes=parse_instance_classes(data, labels, file, instances),
    )


def read_patients(truth_folder: str | Path) -> dict[str, str]:
    """Patient of each case, from the optional ``patients`` of the dataset.json in or above the folder of labels.

    Cases that it does not name are patients of their own, and left out here.

    Raises
    ------
    DetSeg3DError
        If ``patients`` is not a name or number for each case.
    """
    file = _description(truth_folder)
    return {} if file is None else parse_patients(_content(file), file)


def _content(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict):
        raise DetSeg3DError("dataset.json must be an object", file=file, value=type(data).__name__)
    return data


def _description(truth_folder: str | Path) -> Path | None:
    """The dataset.json that goes with labels: in their folder or in that above."""
    folder = Path(truth_folder)
    return _description_in(folder) or _description_in(folder.absolute().parent)


def _description_in(folder: Path) -> Path | None:
    file = RawFolder(folder).dataset_json
    return file if file.is_file() else None


def read_label(
    source: Path | ImageSource, form: LabelFormat, beside: Path | ImageSource | None = None
) -> tuple[AnyIntArray, Geometry]:
    """Read a label file as integers, whatever type it is stored in.

    Parameters
    ----------
    source : Path or ImageSource
        A path is read with the spacing of ``form``.
    form : LabelFormat
    beside : Path or ImageSource, optional
        A file on the grid that the label should have. A segmentation that 3D Slicer cropped is put on this grid.
    """
    names = None if form.truth_instances else form.classes
    source = source if isinstance(source, ImageSource) else form.source(source)
    label, geometry = read_whole_numbers(source, names, beside)
    if label.dtype.kind != "u" and label.min() < 0:
        raise DetSeg3DError(
            "the label file holds negative values",
            file=source.path,
            value=int(label.min()),
            expected="whole numbers from 0",
        )
    return label, geometry


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


def label_values(label: AnyIntArray) -> set[int]:
    """All values but 0. Only the foreground is sorted, which is most often a small part."""
    return set(np.unique(label[label != 0]).tolist())


def lesions_from_semantic(label: AnyIntArray, values: Sequence[int], file: Path) -> Lesions:
    """Lesions of a mask: 26-connected components of each class; ``values`` are the classes' values in the file."""
    unknown = sorted(label_values(label) - set(values))
    if unknown:
        raise DetSeg3DError(
            "the file holds labels that dataset.json does not name",
            file=file,
            value=unknown[:10],
            expected=f"0 or one of {list(values)}",
            remedy="store the file with these values; if these are instance maps, use --instances",
        )
    instances, classes = instances_from_semantic(label, values)
    return Lesions(instances, dict(enumerate(classes.tolist(), start=1)))


def lesions_from_instances(
    label: AnyIntArray, file: Path, classes: InstanceClasses | None = None, case_id: str | None = None
) -> Lesions:
    """Lesions of an instance map with the numbers that they have in the file.

    Parameters
    ----------
    label : ndarray of int, shape ``(Z, Y, X)``
    file : Path
        Of the map.
    classes : InstanceClasses, optional
        Where the classes of its lesions are stated; by default all are of the first class.
    case_id : str, optional
        By default the name of the file without its ending.

    Raises
    ------
    DetSeg3DError
        If a lesion has no class, or a class is stated for a lesion that is not there.
    """
    return Lesions(label, class_indices(sorted(label_values(label)), classes, file, case_id))


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


def read_roi_order(file: Path) -> StoredOrder | None:
    """The order of the masks that the boxes of ``rois/CASE.json`` belong to; ``None`` if the file does not state it.

    Raises
    ------
    DetSeg3DError
        If the file states what is no order.
    """
    record = read_json(file)
    if not isinstance(record, dict) or "axes" not in record:
        return None
    try:
        z, y, x = (int(size) for size in record["shape"])
        return StoredOrder.from_axes(str(record["axes"]), (z, y, x))
    except (KeyError, TypeError, ValueError) as error:
        raise DetSeg3DError(
            "the RoI file does not state the order of its axes",
            file=file,
            value=record["axes"],
            expected='"axes": where z, y and x run to, such as "SPL", and "shape"',
        ) from error
