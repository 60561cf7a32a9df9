"""Which files belong to the cases of a report: scans, labels, predictions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.image_source import ImageSource
from detseg3d.data.labels import read_roi_lesions
from detseg3d.evaluation.case_files import files_by_case, image_case, roi_case
from detseg3d.reporting.html.volumes import CaseView

__all__ = ["find_views"]

logger = logging.getLogger(__name__)


def find_views(
    images: str | Path | ImageSource | Mapping[str, ImageSource],
    truths: str | Path | Mapping[str, Path],
    prediction_folders: Mapping[str, str | Path],
) -> list[CaseView]:
    """The cases that have a scan, a label and a prediction, for the viewer of a report.

    Parameters
    ----------
    images : path, ImageSource or dict of str to ImageSource
        Folder of ``CASE_0000.nii.gz`` (of several channels the first is shown) or ``CASE.nii.gz``; or the image to show
        of each case. The spacing of the source of a folder is that of its files. A case whose scan is not a file, for
        example a DICOM series, is left out.
    truths : path or dict of str to path
        Folder of the labels, or the label of each case.
    prediction_folders : dict of str to path
        Of each system; with ``instances`` and ``rois`` where they are.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist.
    """
    scans = _scans_of(images)
    labels = _files_of(truths, "truth", image_case)
    scans = named_like(scans, labels)
    views = []
    for name, folder in prediction_folders.items():
        instances = Path(folder) / "instances"
        source = instances if instances.is_dir() else Path(folder)
        rois = _files_of(Path(folder) / "rois", "RoI file", roi_case) if (Path(folder) / "rois").is_dir() else {}
        rois = named_like(rois, labels)
        predictions = named_like(files_by_case(source, "prediction", image_case, []), labels)
        for case_id in sorted(set(scans) & set(labels) & set(predictions)):
            views.append(
                CaseView(
                    case_id,
                    scans[case_id],
                    labels[case_id],
                    predictions[case_id],
                    _lesions(rois.get(case_id)),
                    name if len(prediction_folders) > 1 else None,
                )
            )
    if not views:
        place = "the data set" if isinstance(images, Mapping) else ImageSource.of(images).path
        logger.warning("no scan in %s belongs to an evaluated case, so the report has no viewer", place)
    return views


def _scans_of(images: str | Path | ImageSource | Mapping[str, ImageSource]) -> dict[str, ImageSource]:
    """Return the image to show of each case."""
    if isinstance(images, Mapping):
        return {case_id: image for case_id, image in images.items() if image.path.is_file()}
    source = ImageSource.of(images)
    numbered = any(source.path.glob("*_0000.*"))
    files = _files_of(source.path, "scan", _first_channel if numbered else image_case)
    return {case_id: replace(source, path=path) for case_id, path in files.items()}


def _files_of(
    source: str | Path | Mapping[str, Path], what: str, case_of: Callable[[Path], str | None]
) -> dict[str, Path]:
    if isinstance(source, Mapping):
        return {case_id: path for case_id, path in source.items() if path.is_file()}
    return files_by_case(Path(source), what, case_of, [])


def _first_channel(path: Path) -> str | None:
    """The case of a scan's first channel; ``None`` for further channels and other files."""
    name = image_case(path)
    channel = None if name is None else re.search(r"_(\d{4})$", name)
    if name is None or channel is None:
        return name
    return name.removesuffix(channel.group()) if channel.group(1) == "0000" else None


def _lesions(file: Path | None) -> list[dict[str, Any]]:
    if file is None:
        return []
    try:
        return read_roi_lesions(file)
    except DetSeg3DError as error:  # the viewer does without boxes
        logger.warning("%s", error)
        return []
