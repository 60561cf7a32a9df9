"""Write the measures of the lesions of a scan as a DICOM structured report (template TID 1500).

Each lesion has two measurement groups with the same tracking identifier. The standard does not allow coordinates in a
group that refers to a segment (TID 1411). The end points of the axes therefore stand in a second group (TID 1501).

In the report of a follow-up, the first group also states the change since the earlier scan and the Tracking UIDs of the
earlier lesions. A lesion that only the earlier scan shows has a group without measurements. The standard has codes for
growth and shrinkage only, so the codes of the other items are private.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentSequence,
    CoordinatesForMeasurement3D,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    GraphicTypeValues3D,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    TimePointContext,
    TrackingIdentifier,
    UIDRefContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code as DicomCode
from pydicom.uid import generate_uid

from detseg3d.core.codes import LESION, ClassCodes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.exports.dicom.export import Export, coded, identify
from detseg3d.exports.dicom.history import EarlierLesion, LesionHistory, LostLesion
from detseg3d.exports.dicom.source import UTF_8
from detseg3d.exports.dicom.texts import MANUFACTURER, model_title, serial_number
from detseg3d.exports.dicom.tracking import tracking_identifier
from detseg3d.exports.lesion_table import ExportedLesion
from detseg3d.measures.lesion import ChannelIntensities, LineEnds

__all__ = ["build_report"]

_PROCEDURES = {
    "CT": codes.cid100.CTUnspecifiedBodyRegion,
    "MR": codes.cid100.MRIUnspecifiedBodyRegion,
    "PT": codes.cid100.PETUnspecifiedBodyRegion,
    "NM": codes.cid100.NMUnspecifiedBodyRegion,
}
_QUALITATIVE_EVALUATIONS = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
_SUV = CodedConcept("126401", "DCM", "SUVbw")
_Group = MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations
_SCHEME = "99DETSEG3D"
_CHANGE = CodedConcept("CHANGE", _SCHEME, "Change since earlier scan")
_CHANGES = {
    LesionState.NEW: CodedConcept("NEW", _SCHEME, "New"),
    LesionState.ENLARGED: CodedConcept("15454001", "SCT", "Increase in size"),
    LesionState.STABLE: CodedConcept("STABLE", _SCHEME, "Stable in size"),
    LesionState.SHRUNK: CodedConcept("19776001", "SCT", "Decrease in size"),
    LesionState.DISAPPEARED: CodedConcept("DISAPPEARED", _SCHEME, "Disappeared"),
    LesionState.MERGED: CodedConcept("MERGED", _SCHEME, "Merged"),
    LesionState.SPLIT: CodedConcept("SPLIT", _SCHEME, "Split"),
    LesionState.REGROUPED: CodedConcept("REGROUPED", _SCHEME, "Merged and split"),
    LesionState.OUT_OF_VIEW: CodedConcept("OUT_OF_VIEW", _SCHEME, "Outside other scan"),
}
_VOLUME_CHANGE = CodedConcept("VOLUME_CHANGE", _SCHEME, "Change of volume since earlier scan")
_DOUBLING_TIME = CodedConcept("DOUBLING_TIME", _SCHEME, "Volume doubling time")
_EARLIER_UID = CodedConcept("EARLIER_UID", _SCHEME, "Tracking Unique Identifier of earlier lesion")
_EARLIER_SEGMENT = CodedConcept("EARLIER_SEGMENT", _SCHEME, "Segment of earlier lesion")
_VOXEL_VALUE = CodedConcept("VOXEL_VALUE", _SCHEME, "Voxel value")


def build_report(export: Export, segmentation: Dataset | None, series_number: int) -> Comprehensive3DSR:
    """Return the structured report of a scan.

    Without lesions, the report states that none was found. The report is preliminary and not verified. If the lesions
    have a history, the report states their changes.

    Parameters
    ----------
    export : Export
    segmentation : pydicom.Dataset or None
        Segmentation of the same lesions. The report refers to it. ``None`` if the scan has no lesion.
    series_number : int
        Number of the series that is written.

    Returns
    -------
    highdicom.sr.Comprehensive3DSR

    Raises
    ------
    DetSeg3DError
        If there are lesions but no segmentation, so that the measures would not refer to anything.
    """
    if export.lesions and segmentation is None:
        raise DetSeg3DError(
            "the structured report has no segmentation to which its measures refer",
            file=export.file,
            value=f"{len(export.lesions)} lesion(s) without a segmentation",
            expected="a segmentation of the same lesions",
            remedy="use --dicom_seg labelmap or --dicom_seg binary, or --no_dicom_sr",
        )
    content = _content(export, segmentation)
    evidence = [*export.source.objects(), *([] if segmentation is None else [segmentation])]
    if export.history is not None:
        evidence += [entry.evidence() for entry in export.history.objects]
    report = Comprehensive3DSR(
        evidence=_with_identity(evidence),
        content=content,
        series_instance_uid=str(generate_uid()),
        series_number=series_number,
        sop_instance_uid=str(generate_uid()),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=model_title(export.model),
        software_versions=export.model.version,
        device_serial_number=serial_number(export.model),
        is_complete=True,
        series_description="Lesions (measurements)",
        specific_character_set=UTF_8,
    )
    identify(report, export.source)
    return report


def _with_identity(evidence: Sequence[Dataset]) -> list[Dataset]:
    """Return the objects with the attributes that highdicom reads from the first one, empty for now."""
    first = Dataset()
    first.update(evidence[0])
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(first, keyword, "")
    first.StudyDate = first.StudyTime = first.ReferringPhysicianName = None
    return [first, *evidence[1:]]


def _content(export: Export, segmentation: Dataset | None) -> MeasurementReport:
    groups: list[_Group] = []
    if segmentation is not None:
        for lesion in export.lesions:
            groups += [_region_group(export, lesion, segmentation), _axes_group(export, lesion)]
    if export.history is not None:
        groups += [_lost_group(export, lost) for lost in export.history.lost]
    observer = ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=str(generate_uid(entropy_srcs=["DetSeg3D device", export.model.digest, export.model.version])),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=model_title(export.model),
            serial_number=serial_number(export.model),
        ),
    )
    report = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer),
        procedure_reported=_PROCEDURES.get(export.source.identity.modality, codes.cid100.ImagingProcedure),
        imaging_measurements=groups or [_placeholder()],
        title=codes.cid7021.ImagingMeasurementReport,
    )
    return report if export.lesions else _stating_no_lesion(report, bool(groups))


def _placeholder() -> MeasurementsAndQualitativeEvaluations:
    return MeasurementsAndQualitativeEvaluations(tracking_identifier=TrackingIdentifier(str(generate_uid()), "none"))


def _stating_no_lesion(report: MeasurementReport, has_groups: bool) -> MeasurementReport:
    """Add the evaluation "Finding: None" (row 12 of TID 1500), and remove the placeholder of the measurements.

    highdicom writes only measurements, and an empty container is not allowed. ``has_groups`` states that the
    measurements are not a placeholder, but groups of lesions that disappeared.
    """
    evaluations = ContainerContentItem(name=_QUALITATIVE_EVALUATIONS, relationship_type=RelationshipTypeValues.CONTAINS)
    contains = RelationshipTypeValues.CONTAINS
    none = CodeContentItem(name=codes.DCM.Finding, value=codes.SCT.None_, relationship_type=contains)
    evaluations.ContentSequence = ContentSequence([none])
    content = report[0].ContentSequence
    items = [item for item in content if has_groups or item.name != codes.DCM.ImagingMeasurements]
    report[0].ContentSequence = ContentSequence([*items, evaluations])
    return report


def _tracking(export: Export, lesion: ExportedLesion) -> TrackingIdentifier:
    return TrackingIdentifier(uid=export.tracking_uid(lesion), identifier=tracking_identifier(lesion.number))


def _algorithm(export: Export) -> AlgorithmIdentification:
    return AlgorithmIdentification(name=model_title(export.model), version=export.model.version)


def _sites(class_codes: ClassCodes) -> list[FindingSite] | None:
    return None if class_codes.site is None else [FindingSite(anatomic_location=coded(class_codes.site))]


def _region_group(
    export: Export, lesion: ExportedLesion, segmentation: Dataset
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Return the group that refers to the segment of a lesion and to the images that show it."""
    measures = lesion.measures
    millimetre = codes.UCUM.Millimeter
    values = [
        Measurement(codes.SCT.Volume, measures.volume_mm3, codes.UCUM.CubicMillimeter),
        Measurement(codes.SCT.LongAxis, measures.long_axis_mm, millimetre),
        Measurement(codes.SCT.ShortAxis, measures.short_axis_mm, millimetre),
        Measurement(codes.SCT.Diameter, measures.maximum_diameter_mm, millimetre, derivation=codes.SCT.Maximum),
        Measurement(codes.DCM.CertaintyOfFinding, 100 * lesion.score, codes.UCUM.Percent),
    ]
    for index, channel in enumerate(measures.intensities):
        values += _intensities(export, index, channel, len(measures.intensities) > 1)
    history = None if export.history is None else export.history.lesions[lesion.number]
    if history is not None:
        values += _growth(history)
    group = VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(export, lesion),
        referenced_segment=ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=lesion.number,
            source_images=[
                SourceImageForSegmentation(sop_class, uid, frames) for sop_class, uid, frames in _images(export, lesion)
            ],
        ),
        finding_type=coded(lesion.codes.finding or LESION),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_sites=_sites(lesion.codes),
        algorithm_id=_algorithm(export),
        measurements=values,
        time_point_context=_time_point(export),
        qualitative_evaluations=None if history is None else [_change(history.state)],
    )
    if history is not None:
        _add_earlier(group, history.earlier)
    return group


def _lost_group(export: Export, lost: LostLesion) -> MeasurementsAndQualitativeEvaluations:
    """Return the group of a lesion that only the earlier scan shows."""
    lesion = lost.lesion
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=lesion.tracking_uid, identifier=f"{tracking_identifier(lesion.number)} of earlier scan"
        ),
        finding_type=coded(lost.codes.finding or LESION),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_sites=_sites(lost.codes),
        algorithm_id=_algorithm(export),
        time_point_context=_time_point(export),
        qualitative_evaluations=[_change(lost.state)],
    )
    _add_earlier(group, (lesion,))
    return group


def _time_point(export: Export) -> TimePointContext | None:
    if export.history is None:
        return None
    number = export.history.time_point
    return TimePointContext(time_point=str(number), time_point_order=number)


def _change(state: LesionState) -> QualitativeEvaluation:
    return QualitativeEvaluation(name=_CHANGE, value=_CHANGES[state])


def _growth(history: LesionHistory) -> list[Measurement]:
    """Return the change of the volume, as far as it is known."""
    pairs = (
        (_VOLUME_CHANGE, history.volume_change_percent, codes.UCUM.Percent),
        (_DOUBLING_TIME, history.doubling_time_days, codes.UCUM.Day),
    )
    return [Measurement(name, value, unit) for name, value, unit in pairs if value is not None]


def _add_earlier(group: _Group, lesions: Sequence[EarlierLesion]) -> None:
    """Add the identifiers and the segments of earlier lesions to a group. The template may be extended."""
    contains = RelationshipTypeValues.CONTAINS
    items = group[0].ContentSequence
    for lesion in lesions:
        items.append(UIDRefContentItem(name=_EARLIER_UID, value=lesion.tracking_uid, relationship_type=contains))
        if lesion.segmentation is not None:
            items.append(
                ImageContentItem(
                    name=_EARLIER_SEGMENT,
                    referenced_sop_class_uid=lesion.segmentation.sop_class_uid,
                    referenced_sop_instance_uid=lesion.segmentation.sop_instance_uid,
                    referenced_segment_numbers=[lesion.number],
                    relationship_type=contains,
                )
            )


def _axes_group(export: Export, lesion: ExportedLesion) -> MeasurementsAndQualitativeEvaluations:
    """Return the group with the end points of the axes of a lesion."""
    measures = lesion.measures
    lines: list[tuple[DicomCode, float, LineEnds, DicomCode | None]] = [
        (codes.SCT.LongAxis, measures.long_axis_mm, measures.long_axis_ends, None),
        (codes.SCT.ShortAxis, measures.short_axis_mm, measures.short_axis_ends, None),
        (codes.SCT.Diameter, measures.maximum_diameter_mm, measures.maximum_diameter_ends, codes.SCT.Maximum),
    ]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(export, lesion),
        finding_type=coded(lesion.codes.finding or LESION),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_sites=_sites(lesion.codes),
        algorithm_id=_algorithm(export),
        time_point_context=_time_point(export),
        measurements=[
            Measurement(
                name,
                value,
                codes.UCUM.Millimeter,
                derivation=derivation,
                referenced_coordinates=[
                    CoordinatesForMeasurement3D(
                        graphic_type=GraphicTypeValues3D.POLYLINE,
                        graphic_data=np.asarray(ends.world, np.float64),
                        frame_of_reference_uid=export.source.identity.frame_of_reference_uid,
                    )
                ],
            )
            for name, value, ends, derivation in lines
        ],
        source_images=[
            SourceImageForMeasurementGroup(sop_class, uid, frames) for sop_class, uid, frames in _images(export, lesion)
        ],
    )


def _images(export: Export, lesion: ExportedLesion) -> list[tuple[str, str, list[int] | None]]:
    """Return class, identifier and frame numbers of the objects that show a lesion."""
    frames: dict[tuple[str, str], list[int]] = {}
    for index in export.planes[lesion.number]:
        plane = export.source.planes[index]
        numbers = frames.setdefault((plane.sop_class_uid, plane.sop_instance_uid), [])
        if plane.frame_number is not None:
            numbers.append(plane.frame_number)
    return [(sop_class, uid, sorted(numbers) or None) for (sop_class, uid), numbers in frames.items()]


def _intensities(export: Export, index: int, channel: ChannelIntensities, named: bool) -> list[Measurement]:
    """Return mean and standard deviation of a channel; ``named`` adds the name of the channel."""
    name, unit = _quantity(export, index)
    pairs = (
        (channel.mean, codes.SCT.Mean),
        (channel.standard_deviation, codes.SCT.StandardDeviation),
        (channel.minimum, codes.SCT.Minimum),
        (channel.maximum, codes.SCT.Maximum),
    )
    identifier = TrackingIdentifier(uid=str(generate_uid()), identifier=channel.channel) if named else None
    return [
        Measurement(name, value, unit, derivation=derivation, tracking_identifier=identifier)
        for value, derivation in pairs
        if math.isfinite(value)
    ]


def _quantity(export: Export, index: int) -> tuple[DicomCode | CodedConcept, DicomCode]:
    """Return the coded quantity and the unit of a channel."""
    modality = export.modality(index)
    if export.is_suv(index):
        return _SUV, codes.UCUM.StandardizedUptakeValueBodyWeight
    if modality == "CT":
        return codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit
    if modality == "MR":
        return codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits
    return _VOXEL_VALUE, codes.UCUM.NoUnits
