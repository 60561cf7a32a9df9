"""Which files belong to the cases of a report: scans, labels, predictions."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.names import named_like
from detseg3d.data.labels import read_roi_lesions
from detseg3d.evaluation.case_files import files_by_case, image_case, roi_case
from detseg3d.reporting.html.volumes import CaseView

__all__ = ["find_views"]

logger = logging.getLogger(__name__)


def find_views(
    images: str | Path | Mapping[str, Path],
    truths: str | Path | Mapping[str, Path],
    prediction_folders: Mapping[str, str | Path],
    npy_spacing: Sequence[float] | None = None,
) -> list[CaseView]:
    """The cases that have a scan, a label and a prediction, for the viewer of a report.

    Parameters
    ----------
    images : path or dict of str to path
        Folder of ``CASE_0000.nii.gz`` (of several channels the first is shown) or ``CASE.nii.gz``; or the file to show
        of each case. A case whose scan is no file, as a DICOM series, is left out.
    truths : path or dict of str to path
        Folder of the labels, or the label of each case.
    prediction_folders : dict of str to path
        Of each system; with ``instances`` and ``rois`` where they are.
    npy_spacing : 3 floats, optional
        Millimetres ``(z, y, x)`` of ``.npy`` files.

    Raises
    ------
    DetSeg3DError
        If a folder does not exist.
    """
    numbered = not isinstance(images, Mapping) and any(Path(images).glob("*_0000.*"))
    scans = _files_of(images, "scan", _first_channel if numbered else image_case)
    labels = _files_of(truths, "truth", image_case)
    scans = named_like(scans, labels)
    spacing = None
    if npy_spacing is not None:
        z, y, x = (float(value) for value in npy_spacing)
        spacing = (z, y, x)
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
                    spacing,
                    name if len(prediction_folders) > 1 else None,
                )
            )
    if not views:
        place = "the data set" if isinstance(images, Mapping) else images
        logger.warning("no scan in %s belongs to an evaluated case, so the report has no viewer", place)
    return views


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
