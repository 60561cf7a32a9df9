"""Write the outlines of the lesions of a scan as a DICOM RT structure set."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import numpy as np
import numpy.typing as npt
from highdicom.base import SOPClass
from pydicom import Dataset
from pydicom.uid import RTStructureSetStorage, generate_uid
from skimage.measure import find_contours

from detseg3d.core.arrays import FloatArray
from detseg3d.exports.colors import lesion_color
from detseg3d.exports.dicom.export import Export, identify
from detseg3d.exports.dicom.source import UTF_8, SourcePlane
from detseg3d.exports.dicom.texts import MANUFACTURER, lesion_label, model_title, serial_number

__all__ = ["build_contours"]


def build_contours(export: Export, series_number: int) -> Dataset:
    """Return the RT structure set of a scan, with one region per lesion.

    Each slice of a lesion has closed contours in the plane of the slice. The contours run half a voxel outside the
    centres of the outermost voxels, so that exactly the voxels of the lesion have their centres inside. A hole is a
    contour inside another contour; readers combine the contours of a slice by the even-odd rule.

    Parameters
    ----------
    export : Export
        With at least one lesion.
    series_number : int
        Number of the series that is written.

    Returns
    -------
    pydicom.Dataset
    """
    identity = export.source.identity
    structures = SOPClass(
        study_instance_uid=identity.study_instance_uid,
        series_instance_uid=str(generate_uid()),
        series_number=series_number,
        sop_instance_uid=str(generate_uid()),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=MANUFACTURER,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_id="",
        patient_name="",
        patient_birth_date="",
        patient_sex="",
        manufacturer_model_name=model_title(export.model),
        software_versions=export.model.version,
        device_serial_number=serial_number(export.model),
        series_description="Lesions (contours)",
        specific_character_set=UTF_8,
    )
    identify(structures, export.source)
    now = datetime.now()
    structures.OperatorsName = ""
    structures.StructureSetLabel, structures.ApprovalStatus = "LESIONS", "UNAPPROVED"
    structures.StructureSetDate, structures.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    structures.FrameOfReferenceUID = identity.frame_of_reference_uid
    structures.PositionReferenceIndicator = export.source.header.get("PositionReferenceIndicator", "")
    structures.ReferencedFrameOfReferenceSequence = [_frame_of_reference(export)]
    structures.StructureSetROISequence, structures.ROIContourSequence = [], []
    structures.RTROIObservationsSequence = []
    for lesion in export.lesions:
        label = lesion_label(lesion.number, lesion.class_name, lesion.score)
        region = Dataset()
        region.ROINumber, region.ROIName, region.ROIGenerationAlgorithm = lesion.number, label, "AUTOMATIC"
        region.ReferencedFrameOfReferenceUID = identity.frame_of_reference_uid
        structures.StructureSetROISequence.append(region)
        contours = Dataset()
        contours.ReferencedROINumber = lesion.number
        contours.ROIDisplayColor = list(lesion_color(lesion.number))
        contours.ContourSequence = list(_contours(export, lesion.number))
        structures.ROIContourSequence.append(contours)
        observation = Dataset()
        observation.ObservationNumber = observation.ReferencedROINumber = lesion.number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "", ""
        structures.RTROIObservationsSequence.append(observation)
    return structures


def _frame_of_reference(export: Export) -> Dataset:
    """Return the reference to all objects of the source."""
    identity = export.source.identity
    series = Dataset()
    series.SeriesInstanceUID = identity.series_instance_uid
    series.ContourImageSequence = [
        _reference(source.SOPClassUID, source.SOPInstanceUID) for source in export.source.objects()
    ]
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as the standard requires
    study.ReferencedSOPInstanceUID = identity.study_instance_uid
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = identity.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _reference(sop_class_uid: str, sop_instance_uid: str, frame_number: int | None = None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    if frame_number is not None:
        reference.ReferencedFrameNumber = frame_number
    return reference


def _contours(export: Export, number: int) -> Iterator[Dataset]:
    """Yield the contours of a lesion, slice by slice."""
    for index in export.planes[number]:
        plane = export.source.planes[index]
        for outline in outlines(export.slices[index] == number):
            points = _in_patient(export, plane, outline)
            contour = Dataset()
            contour.ContourImageSequence = [_reference(plane.sop_class_uid, plane.sop_instance_uid, plane.frame_number)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.6f}" for value in points.ravel()]
            yield contour


def outlines(mask: npt.NDArray[np.bool_]) -> list[FloatArray]:
    """Return the closed outlines of a mask ``(Y, X)``, each ``(N, 2)``: row and column in voxel centres.

    The first point is not repeated at the end.

    Examples
    --------
    >>> [outline.tolist() for outline in outlines(np.ones((1, 1), bool))]
    [[[0.5, 0.0], [0.0, -0.5], [-0.5, 0.0], [0.0, 0.5]]]
    """
    # A frame of zeros closes the outlines at the border of the image.
    padded = np.pad(mask.astype(np.float64), 1)
    return [np.asarray(outline[:-1] - 1.0, np.float64) for outline in find_contours(padded, 0.5)]


def _in_patient(export: Export, plane: SourcePlane, outline: FloatArray) -> FloatArray:
    """Return the points of an outline in mm LPS."""
    along_row, along_column = np.asarray(export.source.orientation, np.float64).reshape(2, 3)
    row_spacing, column_spacing = export.source.geometry.spacing[1:]
    steps = outline[:, :1] * row_spacing * along_column + outline[:, 1:] * column_spacing * along_row
    return np.asarray(np.asarray(plane.position, np.float64) + steps, np.float64)
