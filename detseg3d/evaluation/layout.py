"""Read predictions of ``detseg3d_predict``: a mask, an instance map and a RoI file that must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.labels import (
    LabelFormat,
    Lesions,
    RoiLesion,
    check_same_grid,
    label_values,
    lesions_from_instances,
    read_label,
    read_roi_lesions,
)

__all__ = ["LayoutFiles", "lesions_from_layout"]


@dataclass(frozen=True)
class LayoutFiles:
    """Files of one predicted case.

    Attributes
    ----------
    instances : Path
        Instance map, ``instances/CASE.nii.gz``.
    rois : Path or None
        RoI file, ``rois/CASE.json``.
    mask : Path or None
        Mask, ``CASE.nii.gz``; ``None`` if there is no such file.
    """

    instances: Path
    rois: Path | None
    mask: Path | None


def lesions_from_layout(
    instances: AnyIntArray,
    geometry: Geometry,
    files: LayoutFiles,
    classes: Mapping[str, int],
    label_format: LabelFormat,
) -> Lesions:
    """Return lesions with the classes and scores of the RoI file, and check that mask, map and RoI file agree.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map from ``files.instances``.
    geometry : Geometry
        Geometry of the instance map.
    files : LayoutFiles
        Paths of the files.
    classes : dict of str to int
        Value of each class in label files.
    label_format : LabelFormat
        Format of the mask.

    Returns
    -------
    Lesions
        The class index of a lesion is the position of its class in ``classes``.

    Raises
    ------
    DetSeg3DError
        If the RoI file and the instance map differ in their lesions or numbers of voxels, if the RoI file has an
        unknown class, or if the mask differs from the instance map in its voxels or classes.
    """
    values, ids = list(classes.values()), label_values(instances)
    if files.rois is None:
        stated = None if label_format.instance_classes is None else label_format.instance_classes.beside_maps()
        if stated is not None and stated.source_of(files.instances).is_file():
            numbered = lesions_from_instances(instances, files.instances, stated)
            values_of = {number: values[index] for number, index in numbered.classes.items()}
            _check_mask_file(instances, geometry, files, values_of, label_format)
            return numbered
        if len(values) > 1 and ids:
            raise DetSeg3DError(
                "without a RoI file the classes of the predicted lesions are unknown",
                file=files.instances,
                expected=f"a RoI file in rois/, because there are {len(values)} classes: {', '.join(classes)}",
            )
        _check_mask_file(instances, geometry, files, None, label_format)
        return lesions_from_instances(instances, files.instances)
    lesions = _lesions_by_id(files.rois)
    _check_ids(instances, ids, lesions, files.instances, files.rois)
    unknown = sorted({lesion.label for lesion in lesions.values()} - set(values))
    if unknown:
        raise DetSeg3DError(
            "unknown label in the RoI file", file=files.rois, value=unknown, expected=f"one of {values}"
        )
    labels = {number: lesions[number].label for number in ids}
    _check_mask_file(instances, geometry, files, labels, label_format)
    class_of = {number: values.index(label) for number, label in labels.items()}
    scores = {number: lesion.score for number, lesion in lesions.items() if lesion.score is not None}
    return Lesions(instances, class_of, scores if len(scores) == len(lesions) else None)


def _lesions_by_id(rois: Path) -> dict[int, RoiLesion]:
    lesions: dict[int, RoiLesion] = {}
    for lesion in read_roi_lesions(rois):
        if lesion.id in lesions:
            raise DetSeg3DError("the RoI file contains a lesion twice", file=rois, value=lesion.id)
        lesions[lesion.id] = lesion
    return lesions


def _check_ids(
    instances: AnyIntArray, ids: set[int], lesions: Mapping[int, RoiLesion], place: Path, rois: Path
) -> None:
    remedy = "predict the case again, or evaluate only the mask from a folder without instances/ and rois/"
    for problem, numbers in (
        ("lesions of the instance map are not in the RoI file", ids - set(lesions)),
        ("lesions of the RoI file are not in the instance map", set(lesions) - ids),
    ):
        if numbers:
            raise DetSeg3DError(
                problem, file=rois, value=sorted(numbers)[:10], expected=f"the lesions of {place}", remedy=remedy
            )
    stated = {number: lesion.voxels for number, lesion in lesions.items() if lesion.voxels is not None}
    if not stated:
        return
    found, voxels = np.unique(instances[instances != 0], return_counts=True)
    counted = dict(zip(found.tolist(), voxels.tolist(), strict=True))
    wrong = {number: value for number, value in stated.items() if value != counted[number]}
    if wrong:
        number = min(wrong)
        raise DetSeg3DError(
            "a lesion has different numbers of voxels in the RoI file and in the instance map",
            file=rois,
            value=f"lesion {number}: {wrong[number]} voxels",
            expected=f"{counted[number]} voxels, as in {place}",
            remedy=remedy,
        )


def _check_mask_file(
    instances: AnyIntArray,
    geometry: Geometry,
    files: LayoutFiles,
    labels: Mapping[int, int] | None,
    label_format: LabelFormat,
) -> None:
    if files.mask is None:
        return
    mask, own = read_label(label_format.source(files.mask).oriented_like(geometry), label_format)
    check_same_grid(geometry, own, (files.instances, files.mask), "mask and instance map of the prediction")
    check_mask(mask, instances, labels, files.mask, files.instances)


def check_mask(
    mask: AnyIntArray, instances: AnyIntArray, labels: Mapping[int, int] | None, mask_file: Path, instance_file: Path
) -> None:
    """Raise an error if the mask and the instance map of a prediction differ.

    Parameters
    ----------
    mask, instances : ndarray of int, shape ``(Z, Y, X)``
        Mask and instance map; 0 is background.
    labels : dict of int to int, or None
        Value of each lesion in the mask; ``None`` if unknown.
    mask_file, instance_file : Path
        Files that the error message names.

    Raises
    ------
    DetSeg3DError
        If mask and instance map differ. The message states the number of differing voxels.
    """
    inside, marked = mask != 0, instances != 0
    only_mask, only_map = (
        int(np.count_nonzero(first & ~second)) for first, second in ((inside, marked), (marked, inside))
    )
    differ = []
    if only_mask or only_map:
        differ.append(f"{only_mask} voxels are foreground only in the mask, and {only_map} only in the instance map")
    if labels:
        both = inside & marked
        numbers, inverse = np.unique(instances[both], return_inverse=True)
        expected = np.array([labels[number] for number in numbers.tolist()], np.int64)[inverse]
        other_class = int(np.count_nonzero(expected != mask[both]))
        if other_class:
            differ.append(f"{other_class} voxels have another class")
    if differ:
        raise DetSeg3DError(
            "the mask and the instance map of the prediction differ",
            file=mask_file,
            value="; ".join(differ),
            expected=f"the lesions of {instance_file}",
            remedy="if the mask was edited, evaluate it from a folder without instances/ and rois/; otherwise predict "
            "the case again",
        )
