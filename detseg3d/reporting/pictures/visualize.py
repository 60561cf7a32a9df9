"""Draw a picture of a case from its files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detseg3d.core.arrays import AnyIntArray, Box
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import SUPPORTED_ENDINGS, read_image, strip_ending
from detseg3d.data.labels import (
    LabelFormat,
    RoiLesion,
    check_same_grid,
    label_values,
    lesions_from_instances,
    lesions_from_semantic,
    read_label,
    read_label_format,
    read_roi_lesions,
)
from detseg3d.reporting.pictures.case_view import CaseView, LesionMap
from detseg3d.reporting.pictures.overlay import draw_case, save_figure

__all__ = ["visualize_files"]

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".pdf", ".svg")
"""Formats of pictures."""


def visualize_files(
    image: str | Path | ImageSource,
    prediction: str | Path,
    output: str | Path,
    *,
    label: str | Path | None = None,
    rois: str | Path | None = None,
    instances: bool = False,
    maximum: int = 12,
) -> None:
    """Draw a case from its files; see :func:`~detseg3d.reporting.pictures.overlay.draw_case`.

    Parameters
    ----------
    image : path or ImageSource
        One channel of the scan. Its spacing also applies to the other ``.npy`` files. If the source has no
        spacing, the spacing comes from the dataset.json beside the folder of the label.
    prediction : path
        A mask or an instance map. For a mask, the instance map ``instances/CASE`` beside it is used if it exists;
        otherwise the lesions are the connected components (26 neighbours) of the mask.
    output : path
        The picture: .png, .pdf or .svg.
    label : path, optional
        The true mask or instance map.
    rois : path, optional
        JSON file with boxes and scores; by default ``rois/CASE.json`` beside the mask, if it exists.
    instances : bool, optional
        Prediction and label are instance maps. A prediction in a folder ``instances`` is always an instance map, and a
        label is an instance map if the dataset.json beside its folder declares instance maps.
    maximum : int, optional
        Maximum number of findings.

    Raises
    ------
    DetSeg3DError
        If a file is missing or unreadable, the files lie on different grids, or the output format is unknown.
    """
    source, output = ImageSource.of(image), Path(output)
    if output.suffix.lower() not in PICTURE_ENDINGS:
        raise DetSeg3DError("the format of the picture is unknown", file=output, expected=" or ".join(PICTURE_ENDINGS))
    label_format = LabelFormat() if label is None else read_label_format(Path(label).parent)
    if source.spacing is not None:
        label_format = replace(label_format, default_spacing=source.spacing)
    voxels, geometry = read_image(replace(source, spacing=label_format.default_spacing))
    reader = _Reader(source.path, geometry, label_format)
    map_file, case_id = _find_instance_map(Path(prediction), instances)
    predicted_side, class_names = reader.read_prediction(Path(prediction), map_file, case_id, rois)
    true_side = None if label is None else reader.read_truth(Path(label), source, instances)
    names = {**class_names, **{value: name for name, value in (label_format.classes or {}).items()}}
    # The picture states slice numbers of the image file, so all volumes are brought to the axis order of this file.
    stored = geometry.as_stored()
    case = CaseView(
        image=geometry.stored_order.to_stored(voxels),
        spacing=stored.spacing,
        truth=None if true_side is None else true_side.lesion_map(names),
        prediction=predicted_side.lesion_map(names),
        direction=tuple(stored.direction),
        title=case_id,
    )
    save_figure(draw_case(case, maximum), output)


@dataclass(frozen=True)
class _Side:
    """The lesions of truth or prediction in the order of the image file.

    Attributes
    ----------
    instances : ndarray of int
        Instance map.
    labels : dict of int to int
        Value of the class of each lesion.
    boxes, scores
        See :class:`~detseg3d.reporting.pictures.case_view.LesionMap`.
    """

    instances: AnyIntArray
    labels: Mapping[int, int]
    boxes: Mapping[int, Box]
    scores: Mapping[int, float]

    def lesion_map(self, names: Mapping[int, str]) -> LesionMap:
        """Return the lesions with the names of their classes."""
        classes = {number: names.get(value, f"label {value}") for number, value in self.labels.items()}
        return LesionMap(self.instances, classes, self.boxes, self.scores)


@dataclass(frozen=True)
class _Reader:
    """Reader of the label files that belong to an image."""

    image_file: Path
    geometry: Geometry
    label_format: LabelFormat

    def read_prediction(
        self, prediction: Path, map_file: Path | None, case_id: str, rois: str | Path | None
    ) -> tuple[_Side, dict[int, str]]:
        """Return the predicted lesions, and the names of the classes that the RoI file states."""
        file = map_file or prediction
        label, geometry = read_label(self.label_format.source(file).oriented_like(self.geometry), self.label_format)
        check_same_grid(self.geometry, geometry, (self.image_file, file), "image and prediction")
        if map_file is None:
            if rois is not None:
                raise DetSeg3DError(
                    "boxes and scores belong to the lesions of an instance map, and the prediction is a mask",
                    file=prediction,
                    remedy="give instances/CASE as --pred, or give --instances if this file is an instance map",
                )
            return self._components(label, prediction), {}
        roi_file = _find_roi_file(map_file, case_id, rois)
        logger.debug("instance map %s, boxes and scores %s", map_file, roi_file)
        lesions = [] if roi_file is None else read_roi_lesions(roi_file)
        side = _Side(
            self._stored(label),
            {lesion.id: lesion.label for lesion in lesions},
            self._boxes(lesions, geometry),
            {lesion.id: lesion.score for lesion in lesions if lesion.score is not None},
        )
        return side, {lesion.label: lesion.class_name for lesion in lesions if lesion.class_name is not None}

    def read_truth(self, file: Path, image: ImageSource, instances: bool) -> _Side:
        """Return the true lesions."""
        label, geometry = read_label(
            self.label_format.source(file).oriented_like(self.geometry), self.label_format, image
        )
        check_same_grid(self.geometry, geometry, (self.image_file, file), "image and label")
        if not (instances or self.label_format.truth_instances):
            return self._components(label, file)
        classes = self.label_format.instance_classes
        labels: dict[int, int] = {}
        if classes is not None:
            lesions = lesions_from_instances(label, file, classes)
            labels = {number: classes.values[index] for number, index in lesions.classes.items()}
        return _Side(self._stored(label), labels, {}, {})

    def _components(self, label: AnyIntArray, file: Path) -> _Side:
        """Return the connected components of a mask as lesions."""
        values = sorted(label_values(label))
        if not values:
            return _Side(self._stored(label), {}, {}, {})
        lesions = lesions_from_semantic(label, values, file)
        labels = {number: values[index] for number, index in lesions.classes.items()}
        return _Side(self._stored(lesions.instances), labels, {}, {})

    def _stored(self, label: AnyIntArray) -> AnyIntArray:
        """Return a volume in the order in which the image file stores its axes."""
        stored: AnyIntArray = self.geometry.stored_order.to_stored(label)
        return stored

    def _boxes(self, lesions: Sequence[RoiLesion], geometry: Geometry) -> dict[int, Box]:
        """Return the boxes in voxels of the image file. The RoI file has them in voxels of the prediction file."""
        own, order = geometry.stored_order, self.geometry.stored_order
        return {
            lesion.id: order.box_to_stored(own.box_to_canonical(lesion.box))
            for lesion in lesions
            if lesion.box is not None
        }


def _find_instance_map(prediction: Path, instances: bool) -> tuple[Path | None, str]:
    """Return the instance map that belongs to a prediction, if it exists, and the name of the case."""
    case_id = strip_ending(prediction)
    if instances or PredictionFolder.holding_instances(prediction) is not None:
        return prediction, case_id
    beside = (PredictionFolder(prediction.parent).instances(case_id, ending) for ending in SUPPORTED_ENDINGS)
    return next((path for path in beside if path.is_file()), None), case_id


def _find_roi_file(map_file: Path, case_id: str, rois: str | Path | None) -> Path | None:
    if rois is not None:
        return Path(rois)
    folders = (map_file.parent.parent, map_file.parent)
    candidates = (PredictionFolder(folder).record(case_id) for folder in folders)
    return next((path for path in candidates if path.is_file()), None)
