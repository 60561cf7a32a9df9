"""Find the scans, labels and predictions that the viewer of a report can show."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from detseg3d.core.arrays import Box
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.image_source import ImageSource
from detseg3d.data.labels import read_roi_lesions
from detseg3d.evaluation.case_files import files_by_case, image_case, roi_case

__all__ = ["CaseFiles", "PredictedBox", "find_case_files"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictedBox:
    """The box of a predicted lesion.

    Attributes
    ----------
    box : Box
        Box in voxel edges of the file of the prediction.
    score : float or None
        Score of the lesion; ``None`` if it has no score.
    """

    box: Box
    score: float | None = None


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case for the viewer.

    Attributes
    ----------
    case_id : str
        Name of the case.
    image : ImageSource
        One channel of the scan. The spacing of the source also applies to the other ``.npy`` files of the case.
    truth : Path or None
        Mask or instance map on the grid of the image.
    prediction : Path or None
        Mask or instance map on the grid of the image. Each value except 0 has its own outline.
    boxes : tuple of PredictedBox
        Boxes of the predicted lesions.
    system : str or None
        Name of the system that made the prediction, if the report compares several systems.
    """

    case_id: str
    image: ImageSource
    truth: Path | None = None
    prediction: Path | None = None
    boxes: tuple[PredictedBox, ...] = ()
    system: str | None = None


def find_case_files(
    images: str | Path | ImageSource | Mapping[str, ImageSource],
    truths: str | Path | Mapping[str, Path],
    prediction_folders: Mapping[str, str | Path],
) -> list[CaseFiles]:
    """Return the files of each case that has a scan, a label and a prediction.

    Parameters
    ----------
    images : path, ImageSource or dict of str to ImageSource
        Folder of files ``CASE_0000.nii.gz`` or ``CASE.nii.gz``, or the image of each case. If a case has several
        channels, the viewer shows the first channel. The spacing of an ``ImageSource`` applies to every file
        in its folder. A case is left out if its scan is not a file, for example if it is a DICOM series.
    truths : path or dict of str to path
        Folder of the labels, or the label of each case.
    prediction_folders : dict of str to path
        Folder of the predictions of each system, with ``instances`` and ``rois`` if they exist.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist.
    """
    labels = _files_of(truths, "truth", image_case)
    scans = named_like(_scans_of(images), labels)
    cases = []
    for name, folder in prediction_folders.items():
        files = PredictionFolder(Path(folder))
        instances, rois = files.instances_folder, files.records_folder
        source = instances if instances.is_dir() else files.path
        predictions = named_like(files_by_case(source, "prediction", image_case, []), labels)
        roi_files = named_like(_files_of(rois, "RoI file", roi_case), labels) if rois.is_dir() else {}
        cases += [
            CaseFiles(
                case_id,
                scans[case_id],
                labels[case_id],
                predictions[case_id],
                _read_boxes(roi_files.get(case_id)),
                name if len(prediction_folders) > 1 else None,
            )
            for case_id in sorted(set(scans) & set(labels) & set(predictions))
        ]
    if not cases:
        place = "the data set" if isinstance(images, Mapping) else ImageSource.of(images).path
        logger.warning("the report has no viewer: no scan in %s belongs to an evaluated case", place)
    return cases


def _scans_of(images: str | Path | ImageSource | Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """Return the image of each case, by the name of the case."""
    if isinstance(images, Mapping):
        return {case_id: image for case_id, image in images.items() if image.path.is_file()}
    source = ImageSource.of(images)
    numbered = any(source.path.glob("*_0000.*"))
    files = _files_of(source.path, "scan", _first_channel if numbered else image_case)
    return {case_id: replace(source, path=path) for case_id, path in files.items()}


def _files_of(
    source: str | Path | Mapping[str, Path], description: str, case_of: Callable[[Path], str | None]
) -> dict[str, Path]:
    if isinstance(source, Mapping):
        return {case_id: path for case_id, path in source.items() if path.is_file()}
    return files_by_case(Path(source), description, case_of, [])


def _first_channel(path: Path) -> str | None:
    """Return the name of the case if the file is the first channel of its scan, else ``None``."""
    name = image_case(path)
    channel = None if name is None else re.search(r"_(\d{4})$", name)
    if name is None or channel is None:
        return name
    return name.removesuffix(channel.group()) if channel.group(1) == "0000" else None


def _read_boxes(file: Path | None) -> tuple[PredictedBox, ...]:
    if file is None:
        return ()
    try:
        lesions = read_roi_lesions(file)
    except DetSeg3DError as error:  # the pictures are useful without boxes
        logger.warning("%s", error)
        return ()
    return tuple(PredictedBox(lesion.box, lesion.score) for lesion in lesions if lesion.box is not None)
