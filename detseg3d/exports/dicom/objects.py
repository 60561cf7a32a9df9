"""Write the DICOM objects of one scan: segmentation, structured report and contours."""

from __future__ import annotations

import logging
from pathlib import Path

from pydicom import Dataset
from pydicom.config import disable_value_validation

from detseg3d.exports.dicom.contours import build_contours
from detseg3d.exports.dicom.export import Export
from detseg3d.exports.dicom.options import DicomOptions, DicomPaths
from detseg3d.exports.dicom.report import build_report
from detseg3d.exports.dicom.segmentation import build_segmentation
from detseg3d.system.files import atomic_path, remove_files

__all__ = ["write_objects"]

logger = logging.getLogger(__name__)

_MAX_SERIES_NUMBER = 10_000_000


def write_objects(export: Export, paths: DicomPaths, options: DicomOptions) -> tuple[Path, ...]:
    """Write the DICOM objects of a scan, and remove those of an earlier export.

    Without lesions, neither a segmentation nor contours are written, because the standard requires at least one segment
    and one region. The report then states that no lesion was found.

    Parameters
    ----------
    export : Export
    paths : DicomPaths
    options : DicomOptions

    Returns
    -------
    tuple of Path
        The files that were written.

    Raises
    ------
    DetSeg3DError
        If an object cannot hold the result, or a file cannot be written.
    """
    number = _series_number(export)
    objects: list[tuple[Path, Dataset]] = []
    with disable_value_validation():  # attributes of the source are copied as they are
        segmentation = None
        if options.segmentation is not None and export.lesions:
            segmentation = build_segmentation(export, options.segmentation, number + 1)
            objects.append((paths.segmentation, segmentation))
        if options.report:
            objects.append((paths.report, build_report(export, segmentation, number + 2)))
        if options.contours and export.lesions:
            objects.append((paths.contours, build_contours(export, number + 3)))
        remove_files(*paths.all)
        for path, dataset in objects:
            with atomic_path(path) as temporary:
                dataset.save_as(temporary, enforce_file_format=True)
    if not export.lesions:
        logger.info("%s: no lesion, so no DICOM segmentation is written", paths.case_id)
    return tuple(path for path, _ in objects)


def _series_number(export: Export) -> int:
    """Return a number below those of the written series. It is a hundred times that of the source."""
    text = export.source.identity.series_number
    number = int(text) if text.isdecimal() and len(text) < 9 else 0
    return 100 * number if 0 < number < _MAX_SERIES_NUMBER else 0
