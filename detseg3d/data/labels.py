"""Label files as lesions: semantic masks, instance maps, and the files that ``detseg3d_predict`` writes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import AnyIntArray, Box, IntArray, Spacing, as_triple
from detseg3d.core.components import instances_from_instance_map, instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.dataset import RawDataset
from detseg3d.data.dataset_json import parse_default_spacing, parse_labels, parse_patients
from detseg3d.data.folders import RawFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import file_ending, read_label_array
from detseg3d.data.instance_classes import InstanceClasses, class_indices, parse_instance_classes
from detseg3d.system.json_files import read_json

__all__ = [
    "LabelFormat",
    "Lesions",
    "check_same_grid",
    "common_label_format",
    "label_values",
    "lesion_classes",
    "lesions_from_instances",
    "lesions_from_semantic",
    "RoiLesion",
    "read_label",
    "read_label_format",
    "read_patients",
    "read_roi_lesions",
    "read_roi_order",
    "read_true_lesions",
    "true_lesions",
]

logger = logging.getLogger(__name__)

_MAX_LISTED_VALUES = 5


@dataclass(frozen=True)
class LabelFormat:
    """Meaning of the values in label files.

    Attributes
    ----------
    classes : dict of str to int, or None
        Value of each lesion class in the files. With ``None``, every value except 0 is a class, named ``label 1``, …
    truth_instances, prediction_instances : bool
        The files are instance maps: every value is one lesion.
    instance_classes : InstanceClasses or None
        Source of the classes of the lesions in instance maps. With ``None``, all lesions have the first class.
    default_spacing : 3 floats or None
        Spacing ``(z, y, x)`` in mm of ``.npy`` files, which do not store a spacing. ``None`` means 1 mm.
    """

    classes: Mapping[str, int] | None = None
    truth_instances: bool = False
    prediction_instances: bool = False
    default_spacing: Spacing | None = None
    instance_classes: InstanceClasses | None = None

    @classmethod
    def of_dataset(cls, dataset: RawDataset) -> LabelFormat:
        """Return the format of the training labels of a raw data set."""
        return cls(
            {name: dataset.labels[name] for name in dataset.class_names},
            truth_instances=dataset.instances,
            default_spacing=dataset.default_spacing,
            instance_classes=dataset.instance_classes,
        )

    def source(self, path: Path) -> ImageSource:
        """Return the source of a file that belongs to these labels, with the spacing of ``.npy`` files."""
        return ImageSource(path, self.default_spacing)


@dataclass(frozen=True)
class Lesions:
    """Lesions of one case.

    Attributes
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map: 0 is background, each lesion has its own number.
    classes : dict of int to int
        Class index of each lesion, by its number.
    scores : dict of int to float, or None
        Score of each lesion, by its number; ``None`` for lesions without scores.
    """

    instances: AnyIntArray
    classes: Mapping[int, int]
    scores: Mapping[int, float] | None = None

    def renumbered(self) -> tuple[AnyIntArray, IntArray]:
        """Return the lesions with consecutive numbers.

        Returns
        -------
        instances : ndarray of int32, shape ``(Z, Y, X)``
            Lesions are ``1..N`` in ascending order of their former numbers.
        classes : ndarray of int64, shape ``(N,)``
            Class index of lesions ``1..N``.
        """
        consecutive = list(self.classes) == list(range(1, len(self.classes) + 1))
        if consecutive and self.instances.dtype == np.int32:
            return self.instances, np.array(list(self.classes.values()), np.int64)
        return instances_from_instance_map(self.instances, self.classes)


@dataclass(frozen=True)
class TrueLesions:
    """Lesions of one label file.

    Attributes
    ----------
    lesions : Lesions
        Their classes are indices into ``names`` and ``values``.
    names : tuple of str
        Names of the classes.
    values : tuple of int
        Values of the classes in the file.
    geometry : Geometry
    """

    lesions: Lesions
    names: tuple[str, ...]
    values: tuple[int, ...]
    geometry: Geometry


# -- The format of labels ----------------------------------------------------------------------------------------------


def read_label_format(truth_folder: str | Path, prediction_folder: str | Path | None = None) -> LabelFormat:
    """Read the meaning of label values from dataset.json.

    The file is searched in ``truth_folder``, in the folder above it (``labelsTr`` lies beside dataset.json), then in
    ``prediction_folder``. Without a dataset.json, every value except 0 is a class.

    The dataset.json of predictions was written by the program that made them. If that file cannot be used, for example
    because it names regions or a value to ignore, a warning is logged and every value except 0 is a class.

    Parameters
    ----------
    truth_folder : path
        Folder of the labels.
    prediction_folder : path, optional

    Raises
    ------
    DetSeg3DError
        If the dataset.json of the labels cannot be used (see :func:`~detseg3d.data.dataset.load_raw_dataset`).
    """
    file = _find_description(truth_folder)
    if file is not None:
        return _stated_format(file)
    file = None if prediction_folder is None else _description_in(Path(prediction_folder))
    if file is None:
        return LabelFormat()
    try:
        return _stated_format(file)
    except DetSeg3DError as error:
        logger.warning(
            "%s is not used (%s): every value of labels and predictions counts as a class. To name the classes, put a "
            "dataset.json beside the labels",
            file,
            error.problem,
        )
        return LabelFormat()


def common_label_format(truth_folder: str | Path, prediction_folders: Sequence[str | Path]) -> LabelFormat:
    """Return the label format for a comparison of several folders of predictions.

    The result is the format of the first folder of predictions for which a usable dataset.json is found.

    Raises
    ------
    DetSeg3DError
        If the dataset.json files of two folders of predictions give one class two values.
    """
    formats = {Path(folder): read_label_format(truth_folder, folder) for folder in prediction_folders}
    formats = {folder: label_format for folder, label_format in formats.items() if label_format.classes is not None}
    values: dict[str, tuple[int, Path]] = {}
    for folder, label_format in formats.items():
        for name, value in (label_format.classes or {}).items():
            known, first = values.setdefault(name, (value, folder))
            if known != value:
                raise DetSeg3DError(
                    f"the dataset.json files of two folders of predictions give the class {name} different values",
                    file=RawFolder(folder).dataset_json,
                    value=value,
                    expected=f"{known}, as in {first}",
                    remedy="store both predictions with the same values, and put one dataset.json beside the labels",
                )
    return next(iter(formats.values()), LabelFormat())


def _stated_format(file: Path) -> LabelFormat:
    data = _read_description(file)
    labels, instances = parse_labels(data, file), data.get("instances") is True
    classes = {name: value for name, value in labels.items() if value != 0}
    return LabelFormat(
        classes,
        truth_instances=instances,
        default_spacing=parse_default_spacing(data, file),
        instance_classes=parse_instance_classes(data, labels, file, instances),
    )


def read_patients(truth_folder: str | Path) -> dict[str, str]:
    """Read the patient of each case from the dataset.json in or above the folder of labels.

    Returns
    -------
    dict of str to str
        Content of the optional entry ``patients``. A missing case counts as a separate patient.

    Raises
    ------
    DetSeg3DError
        If ``patients`` does not give a name or number for each case that it lists.
    """
    file = _find_description(truth_folder)
    return {} if file is None else parse_patients(_read_description(file), file)


def _read_description(file: Path) -> dict[str, Any]:
    data = read_json(file)
    if not isinstance(data, dict):
        raise DetSeg3DError("dataset.json does not hold an object", file=file, value=type(data).__name__)
    return data


def _find_description(truth_folder: str | Path) -> Path | None:
    """Return the dataset.json in the folder of labels or in the folder above it."""
    folder = Path(truth_folder)
    return _description_in(folder) or _description_in(folder.absolute().parent)


def _description_in(folder: Path) -> Path | None:
    file = RawFolder(folder).dataset_json
    return file if file.is_file() else None


# -- Label files -------------------------------------------------------------------------------------------------------


def read_label(
    source: Path | ImageSource, label_format: LabelFormat, reference: Path | ImageSource | None = None
) -> tuple[AnyIntArray, Geometry]:
    """Read a label file of any number type as whole numbers from 0.

    Parameters
    ----------
    source : Path or ImageSource
        A path is read with the spacing of ``label_format``.
    label_format : LabelFormat
    reference : Path or ImageSource, optional
        A file on the expected grid. A segmentation that 3D Slicer cropped is put on this grid.

    Returns
    -------
    label : ndarray of int, shape ``(Z, Y, X)``
        In canonical order.
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        If the file cannot be read or holds values that are negative or not whole numbers.
    """
    names = None if label_format.truth_instances else label_format.classes
    source = source if isinstance(source, ImageSource) else label_format.source(source)
    label, geometry = read_label_array(source, names, reference)
    if label.dtype.kind != "u" and label.min() < 0:
        raise DetSeg3DError(
            "the label file holds negative values",
            file=source.path,
            value=int(label.min()),
            expected="whole numbers from 0",
        )
    return label, geometry


def read_true_lesions(
    source: Path | ImageSource, label_format: LabelFormat, reference: Path | ImageSource | None = None
) -> TrueLesions:
    """Read a label file as lesions.

    Parameters
    ----------
    source, label_format, reference
        See :func:`read_label`. Without ``label_format.classes``, the classes are the values that occur in the file.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read or its lesions cannot be determined (see :func:`true_lesions`).
    """
    label, geometry = read_label(source, label_format, reference)
    file = source.path if isinstance(source, ImageSource) else source
    classes: Mapping[str, int]
    if label_format.classes is not None:
        classes = label_format.classes
    elif label_format.truth_instances:
        classes = {"lesion": 1}
    else:
        classes = {f"label {value}": value for value in sorted(label_values(label))}
    values = tuple(classes.values())
    return TrueLesions(true_lesions(label, file, label_format, values), tuple(classes), values, geometry)


def true_lesions(
    label: AnyIntArray,
    file: Path,
    label_format: LabelFormat,
    class_values: Sequence[int] | None = None,
    case_id: str | None = None,
) -> Lesions:
    """Return the lesions of a label: the instances of an instance map, or the connected components of a mask.

    Parameters
    ----------
    label : ndarray of int, shape ``(Z, Y, X)``
        From :func:`read_label`.
    file : Path
        The label file, for messages and for the classes of instance maps.
    label_format : LabelFormat
    class_values : sequence of int, optional
        Value of each class in a mask; by default the values of ``label_format.classes``.
    case_id : str, optional
        By default the name of the file without its ending.

    Raises
    ------
    DetSeg3DError
        If a mask has a value that is not one of the classes, or if the classes of an instance map do not fit its
        lesions.
    """
    if label_format.truth_instances:
        return lesions_from_instances(label, file, label_format.instance_classes, case_id)
    if class_values is None:
        class_values = list((label_format.classes or {}).values())
    return lesions_from_semantic(label, class_values, file)


def lesion_classes(
    label: AnyIntArray, file: Path, label_format: LabelFormat, case_id: str | None = None
) -> frozenset[int]:
    """Return the class indices that occur in a label, without looking for the connected components of a mask.

    Parameters
    ----------
    label, file, label_format, case_id
        See :func:`true_lesions`. ``label_format.classes`` must be known.

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`true_lesions`.
    """
    if label_format.truth_instances:
        classes = class_indices(sorted(label_values(label)), label_format.instance_classes, file, case_id)
        return frozenset(classes.values())
    values = list((label_format.classes or {}).values())
    return frozenset(values.index(value) for value in _check_values(label, values, file))


def check_same_grid(reference: Geometry, other: Geometry, files: tuple[Path, Path], description: str) -> None:
    """Raise an error if two volumes do not lie on the same grid.

    Parameters
    ----------
    reference, other : Geometry
    files : pair of Path
        Files of ``reference`` and ``other``. ``.npy`` files do not state their position, so with these files only the
        sizes are compared.
    description : str
        Names both volumes in the message, for example ``truth and prediction``.

    Raises
    ------
    DetSeg3DError
        If size, spacing, origin or direction differ.
    """
    differences = reference.difference(other)
    if ".npy" in {file_ending(file) for file in files}:
        differences = [difference for difference in differences if difference.startswith("size")]
    if differences:
        raise DetSeg3DError(
            f"{description} are not on the same grid: " + "; ".join(differences),
            file=files[1],
            expected=f"the grid of {files[0]}",
            remedy="resample one of them to the grid of the other, labels by nearest neighbour",
        )


def label_values(label: AnyIntArray) -> set[int]:
    """Return all values of a label except 0."""
    return set(np.unique(label[label != 0]).tolist())  # only the foreground is sorted: usually a small part


def lesions_from_semantic(label: AnyIntArray, values: Sequence[int], file: Path) -> Lesions:
    """Return the lesions of a mask: the 26-connected components of each class.

    Parameters
    ----------
    label : ndarray of int, shape ``(Z, Y, X)``
    values : sequence of int
        Value of each class in the file.
    file : Path
        The file that messages name.

    Raises
    ------
    DetSeg3DError
        If the mask has a value that is neither 0 nor in ``values``.
    """
    _check_values(label, values, file)
    instances, classes = instances_from_semantic(label, values)
    return Lesions(instances, dict(enumerate(classes.tolist(), start=1)))


def _check_values(label: AnyIntArray, values: Sequence[int], file: Path) -> set[int]:
    """Return the values of a mask except 0; raise an error if ``values`` does not contain one of them."""
    found = label_values(label)
    unknown = sorted(found - set(values))
    if unknown:
        counts = {value: int(np.count_nonzero(label == value)) for value in unknown[:_MAX_LISTED_VALUES]}
        listed = [f"{value} ({count} voxel{'' if count == 1 else 's'})" for value, count in counts.items()]
        raise DetSeg3DError(
            "the label has values that dataset.json does not name",
            file=file,
            value=", ".join(listed) + (", …" if len(unknown) > _MAX_LISTED_VALUES else ""),
            expected=f"0 or one of {list(values)}",
            remedy="store the file with these values; if it is an instance map, use --instances",
        )
    return found


def lesions_from_instances(
    label: AnyIntArray, file: Path, classes: InstanceClasses | None = None, case_id: str | None = None
) -> Lesions:
    """Return the lesions of an instance map, with the numbers that they have in the file.

    Parameters
    ----------
    label : ndarray of int, shape ``(Z, Y, X)``
    file : Path
        The instance map.
    classes : InstanceClasses, optional
        Source of the classes of the lesions; by default all lesions have the first class.
    case_id : str, optional
        By default the name of the file without its ending.

    Raises
    ------
    DetSeg3DError
        If a lesion has no class, or a class is stated for a lesion that does not exist.
    """
    return Lesions(label, class_indices(sorted(label_values(label)), classes, file, case_id))


# -- Records of predictions --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoiLesion:
    """A predicted lesion as ``rois/CASE.json`` states it.

    Attributes
    ----------
    id : int
        Value of the lesion in the instance map.
    label : int
        Value of its class in the mask.
    score : float or None
    box : Box or None
        Box in voxel edges of the mask file.
    class_name : str or None
        Name of the class.
    voxels : int or None
        Number of voxels in the instance map.
    """

    id: int
    label: int
    score: float | None = None
    box: Box | None = None
    class_name: str | None = None
    voxels: int | None = None


def read_roi_lesions(file: Path) -> list[RoiLesion]:
    """Read the lesions of ``rois/CASE.json``.

    Raises
    ------
    DetSeg3DError
        If the file differs from what ``detseg3d_predict`` writes.
    """
    try:
        return [_roi_lesion(entry) for entry in read_json(file)["lesions"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DetSeg3DError(
            f"the RoI file differs from what detseg3d_predict writes ({type(error).__name__}: {error})",
            file=file,
            expected='"lesions": a list of entries with "id", "label", "score" and "box"',
        ) from error


def _roi_lesion(entry: Mapping[str, Any]) -> RoiLesion:
    score, box, name, voxels = (entry.get(key) for key in ("score", "box", "class", "voxels"))
    if box is not None:
        z0, y0, x0, z1, y1, x1 = (float(edge) for edge in box)
        box = z0, y0, x0, z1, y1, x1
    return RoiLesion(
        id=int(entry["id"]),
        label=int(entry["label"]),
        score=None if score is None else float(score),
        box=box,
        class_name=name if isinstance(name, str) else None,
        voxels=None if voxels is None else int(voxels),
    )


def read_roi_order(file: Path) -> StoredOrder | None:
    """Read the stored order of the masks to which the boxes of ``rois/CASE.json`` belong.

    Returns
    -------
    StoredOrder or None
        ``None`` if the file does not state an order.

    Raises
    ------
    DetSeg3DError
        If the stated order is not valid.
    """
    record = read_json(file)
    if not isinstance(record, dict) or "axes" not in record:
        return None
    try:
        return StoredOrder.from_axes(str(record["axes"]), as_triple(map(int, record["shape"])))
    except (KeyError, TypeError, ValueError) as error:
        raise DetSeg3DError(
            "the RoI file does not state the order of its axes",
            file=file,
            value=record["axes"],
            expected='"axes": the directions of z, y and x, such as "SPL", and "shape"',
        ) from error
