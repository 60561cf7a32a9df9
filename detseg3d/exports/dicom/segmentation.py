"""Write the lesions of a scan as a DICOM segmentation, with one segment per lesion."""

from __future__ import annotations

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from detseg3d.core.codes import LESION
from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.colors import lesion_color
from detseg3d.exports.dicom.export import Export, coded, identify, listing
from detseg3d.exports.dicom.options import SegmentationKind
from detseg3d.exports.dicom.source import UTF_8
from detseg3d.exports.dicom.texts import MANUFACTURER, as_short_text, lesion_label, model_title, serial_number
from detseg3d.exports.dicom.tracking import tracking_identifier
from detseg3d.exports.lesion_table import ExportedLesion

__all__ = ["build_segmentation"]

MAX_SEGMENTS = 65_535
"""Largest number of a segment, which is an unsigned number of 16 bits."""


def build_segmentation(export: Export, kind: SegmentationKind, series_number: int) -> Segmentation:
    """Return the segmentation of a scan.

    The number of a segment is the number of the lesion. Frames without lesions are left out.

    Parameters
    ----------
    export : Export
        With at least one lesion: the standard does not allow a segmentation without segments.
    kind : SegmentationKind
    series_number : int
        Number of the series that is written.

    Returns
    -------
    highdicom.seg.Segmentation

    Raises
    ------
    DetSeg3DError
        If there are too many lesions, or numbers are missing in a ``BINARY`` segmentation.
    ValueError
        If the scan has no lesion.
    """
    numbers = [lesion.number for lesion in export.lesions]
    if not numbers:
        raise ValueError("a segmentation needs at least one lesion")
    if max(numbers) > MAX_SEGMENTS:
        raise DetSeg3DError(
            "a DICOM segmentation cannot hold so many lesions",
            file=export.file,
            value=max(numbers),
            expected=f"at most {MAX_SEGMENTS}",
            remedy="raise --score_threshold",
        )
    if kind is SegmentationKind.BINARY and numbers != list(range(1, len(numbers) + 1)):
        raise DetSeg3DError(
            "the numbers of the lesions have gaps, which a segmentation of the type BINARY cannot have",
            file=export.file,
            value=listing(numbers),
            expected="numbers from 1 without gaps",
            remedy="use --dicom_seg labelmap",
        )
    segmentation = Segmentation(
        source_images=export.source.stand_ins(),
        pixel_array=export.slices.astype(np.uint16 if max(numbers) > 255 else np.uint8),
        segmentation_type=SegmentationTypeValues[kind.name],
        segment_descriptions=[_describe(export, lesion) for lesion in export.lesions],
        series_instance_uid=str(generate_uid()),
        series_number=series_number,
        sop_instance_uid=str(generate_uid()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model_title(export.model),
        software_versions=export.model.version,
        device_serial_number=serial_number(export.model),
        content_label="LESIONS",
        content_description="Lesions, one per segment",
        series_description="Lesions (segmentation)",
        specific_character_set=UTF_8,
    )
    identify(segmentation, export.source)
    export.source.resolve(segmentation)
    return segmentation


def _describe(export: Export, lesion: ExportedLesion) -> SegmentDescription:
    description = SegmentDescription(
        segment_number=lesion.number,
        segment_label=lesion_label(lesion.number, lesion.class_name, lesion.score),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=coded(lesion.codes.finding or LESION),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model_title(export.model),
            family=codes.cid7162.ArtificialIntelligence,
            version=export.model.version,
            source=MANUFACTURER,
        ),
        tracking_uid=export.tracking_uid(lesion),
        tracking_id=tracking_identifier(lesion.number),
        anatomic_regions=None if lesion.codes.site is None else [coded(lesion.codes.site)],
        display_color=CIELabColor.from_rgb(*lesion_color(lesion.number)),
    )
    # detseg3d_convert reads the class of a segment here.
    description.SegmentDescription = as_short_text(lesion.class_name)
    return description
