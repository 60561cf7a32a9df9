"""The picture of a case from its files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from detseg3d.core.arrays import AnyIntArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import SUPPORTED_ENDINGS, read_image, strip_ending
from detseg3d.data.labels import (
    LabelFormat,
    check_same_grid,
    label_values,
    lesions_from_instances,
    lesions_from_semantic,
    read_label,
    read_label_format,
    read_roi_lesions,
)
from detseg3d.reporting.pictures.overlay import draw_case, save_figure

__all__ = ["visualize_files"]

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".pdf", ".svg")


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
        One channel of the scan. Its spacing is also that of the other ``.npy`` files; without one, the dataset.json
        beside the folder of the label states it.
    prediction : path
        A mask or an instance map. Of a mask, the instance map ``instances/CASE`` beside it is used if there is one,
        else its 26-connected components.
    output : path
        The picture: .png, .pdf or .svg.
    label : path, optional
        The truth.
    rois : path, optional
        Boxes and scores; by default ``rois/CASE.json`` beside the mask, if there is one.
    instances : bool, optional
        The prediction is an instance map, and the label as well. A prediction in a folder ``instances`` always is, and
        a label is if the dataset.json beside its folder says so.
    maximum : int, optional
        Most findings shown.

    Raises
    ------
    DetSeg3DError
        If a file is missing or unreadable, the files do not lie on one grid, or the output format is unknown.
    """
    source, prediction, output = ImageSource.of(image), Path(prediction), Path(output)
    if output.suffix.lower() not in PICTURE_ENDINGS:
        raise DetSeg3DError("unknown picture format", file=output, expected="one of " + " ".join(PICTURE_ENDINGS))
    form = LabelFormat() if label is None else read_label_format(Path(label).parent)
    if source.spacing is not None:
        form = replace(form, default_spacing=source.spacing)
    voxels, geometry = read_image(replace(source, spacing=form.default_spacing))
    map_file, case_id = _instance_map(prediction, instances)
    predicted_file = map_file or prediction
    predicted, predicted_geometry = read_label(form.source(predicted_file).oriented_like(geometry), form)
    check_same_grid(geometry, predicted_geometry, (source.path, predicted_file), "image and prediction")
    # The picture names slices as they are stored in the image.
    stored, order = geometry.as_stored(), geometry.stored_order
    records = None
    truth_labels: dict[int, int] = {}
    prediction_labels: dict[int, int] = {}
    if map_file is None:
        if rois is not None:
            raise DetSeg3DError(
                "boxes and scores belong to the lesions of an instance map, and the prediction is a mask",
                file=prediction,
                remedy="give instances/CASE as --pred, or --instances if this is an instance map",
            )
        predicted, prediction_labels = _components(predicted, prediction)
    else:
        roi_file = _roi_file(map_file, case_id, rois)
        records = None if roi_file is None else _in_order(read_roi_lesions(roi_file), predicted_geometry, order)
        prediction_labels = {record["id"]: record["label"] for record in records or ()}
        logger.debug("instance map %s, boxes and scores %s", map_file, roi_file)
    truth = None
    if label is not None:
        truth, truth_geometry = read_label(form.source(Path(label)).oriented_like(geometry), form, source)
        check_same_grid(geometry, truth_geometry, (source.path, Path(label)), "image and label")
        if not (instances or form.truth_instances):
            truth, truth_labels = _components(truth, Path(label))
        elif form.instance_classes is not None:
            numbered = lesions_from_instances(truth, Path(label), form.instance_classes)
            truth_labels = {number: form.instance_classes.values[i] for number, i in numbered.classes.items()}
    names = _class_names(form, records)
    figure = draw_case(
        order.to_stored(voxels),
        stored.spacing,
        order.to_stored(predicted),
        records,
        None if truth is None else order.to_stored(truth),
        truth_classes={number: names.get(value, f"label {value}") for number, value in truth_labels.items()},
        prediction_classes={number: names.get(value, f"label {value}") for number, value in prediction_labels.items()},
        direction=stored.direction,
        maximum=maximum,
        title=case_id,
    )
    save_figure(figure, output)


def _in_order(records: list[dict[str, Any]], geometry: Geometry, order: StoredOrder) -> list[dict[str, Any]]:
    """Boxes in voxels of the file of ``geometry`` as boxes in voxels of a file of another order."""
    own = geometry.stored_order
    return [
        {**record, "box": list(order.box_to_stored(own.box_to_canonical(record["box"])))}
        if record.get("box") is not None
        else record
        for record in records
    ]


def _instance_map(prediction: Path, instances: bool) -> tuple[Path | None, str]:
    """The instance map that goes with a prediction, if there is one, and the name of the case."""
    case_id = strip_ending(prediction)
    if instances or PredictionFolder.holding_instances(prediction) is not None:
        return prediction, case_id
    beside = (PredictionFolder(prediction.parent).instances(case_id, ending) for ending in SUPPORTED_ENDINGS)
    return next((path for path in beside if path.is_file()), None), case_id


def _roi_file(map_file: Path, case_id: str, rois: str | Path | None) -> Path | None:
    if rois is not None:
        return Path(rois)
    folders = (map_file.parent.parent, map_file.parent)
    candidates = (PredictionFolder(folder).record(case_id) for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


def _components(label: AnyIntArray, file: Path) -> tuple[AnyIntArray, dict[int, int]]:
    """The lesions of a mask, and the value that each has in it."""
    values = sorted(label_values(label))
    if not values:
        return label, {}
    lesions = lesions_from_semantic(label, values, file)
    return lesions.instances, {number: values[index] for number, index in lesions.classes.items()}


def _class_names(form: LabelFormat, records: Sequence[Mapping[str, Any]] | None) -> dict[int, str]:
    """What the values of the labels are called: by dataset.json, else by the RoI file."""
    names = {record["label"]: record["class"] for record in records or () if isinstance(record.get("class"), str)}
    return {**names, **{value: name for name, value in (form.classes or {}).items()}}
