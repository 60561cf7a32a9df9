"""The DICOM series that a scan was read from, as results refer to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.uid import CTImageStorage, generate_uid

from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom.frames import Frame
from detseg3d.data.formats.dicom.reader import identified_geometry
from detseg3d.data.formats.dicom.series import DicomFolder, choose_series

__all__ = ["UTF_8", "SourcePlane", "SourceSeries", "read_source"]

UTF_8 = "ISO_IR 192"
"""Character set of all written objects. It holds names of patients and of classes in any language."""

_MAX_ELEMENT_BYTES = 1 << 20
_COPIED_GROUPS = (0x0010, 0x0012)  # patient and clinical trial
_COPIED = (
    *("SpecificCharacterSet", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "ReferringPhysicianIdentificationSequence", "ConsultingPhysicianName"),
    *("PhysiciansOfRecord", "NameOfPhysiciansReadingStudy", "AdmittingDiagnosesDescription", "ProcedureCodeSequence"),
    *("IssuerOfAccessionNumberSequence", "TimezoneOffsetFromUTC", "PositionReferenceIndicator", "Units"),
)
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_REQUIRED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class SourcePlane:
    """One slice of the source.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : str
        The object that holds the slice.
    frame_number : int or None
        Number of the frame in the object, from 1; ``None`` if the object holds only one slice.
    position : tuple of 3 floats
        Centre of the first voxel ``(x, y, z)``, mm LPS, as the source states it.
    """

    sop_class_uid: str
    sop_instance_uid: str
    frame_number: int | None
    position: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A DICOM series that is one volume, without its voxels.

    Attributes
    ----------
    path : Path
        Folder or file of the series.
    identity : DicomIdentity
        Identifiers of the series, as in ``rois/CASE.json``.
    geometry : Geometry
        In the order of the slices (along the normal), rows and columns; not canonical.
    planes : tuple of SourcePlane
        One plane per slice of ``geometry``.
    orientation : tuple of 6 floats
        Direction cosines along a row and along a column, as the source states them.
    slice_thickness : float
        Stated thickness in mm; the distance of the slices if the source does not state a thickness.
    header : pydicom.Dataset
        Attributes of the first object, without pixels, decoded.
    """

    path: Path
    identity: DicomIdentity
    geometry: Geometry
    planes: tuple[SourcePlane, ...]
    orientation: tuple[float, ...]
    slice_thickness: float
    header: Dataset

    @property
    def is_suv(self) -> bool:
        """True if the series states its values as SUV by body weight."""
        return str(self.header.get("Units", "")) == "GML"

    def slices_of(self, array: npt.NDArray[Any], geometry: Geometry, file: Path) -> npt.NDArray[Any]:
        """Return a volume in the order of the slices, rows and columns of the source.

        Parameters
        ----------
        array : ndarray, shape ``(Z, Y, X)``
            In canonical order.
        geometry : Geometry
            Geometry of ``array``.
        file : Path
            The file that a message names.

        Returns
        -------
        ndarray, shape ``self.geometry.shape``

        Raises
        ------
        DetSeg3DError
            If the volume does not lie on the grid of the source.
        """
        stored = geometry.as_stored()
        # Files of predictions have the order of the source. Their rounded directions must not decide about the order,
        # because at 45 degrees the smallest rounding changes the canonical order.
        if not self.geometry.difference(stored):
            return np.ascontiguousarray(geometry.stored_order.to_stored(array))
        canonical = self.geometry.canonical()
        differences = canonical.difference(geometry)
        if differences:
            raise DetSeg3DError(
                "the result does not lie on the grid of the DICOM series: " + "; ".join(differences),
                file=file,
                value=f"{_size(stored)} voxels",
                expected=f"the grid of {self.path.name}, {_size(self.geometry)} voxels",
                remedy="give the series from which the scan was predicted",
            )
        return np.ascontiguousarray(canonical.stored_order.to_stored(array))

    def stand_ins(self) -> list[Dataset]:
        """Return one classic CT slice per plane, from which highdicom makes a segmentation.

        highdicom takes either classic slices or one object with several frames. A series may also consist of several
        objects with several frames each, of an RT dose, or of frames in any order. Each plane is therefore presented as
        a classic slice with an invented SOP Instance UID, and :meth:`resolve` puts the true references in its place.
        """
        return [self._stand_in(index) for index in range(len(self.planes))]

    def _stand_in(self, index: int) -> Dataset:
        plane, dataset = self.planes[index], Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, self._stand_in_uid(index)
        dataset.StudyInstanceUID = self.identity.study_instance_uid
        dataset.SeriesInstanceUID = self.identity.series_instance_uid
        dataset.FrameOfReferenceUID = self.identity.frame_of_reference_uid
        dataset.PositionReferenceIndicator = self.header.get("PositionReferenceIndicator", None)
        dataset.Modality = self.identity.modality
        # highdicom needs these attributes. The attributes of the source replace them in `identify`.
        for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(dataset, keyword, "")
        dataset.StudyDate = dataset.StudyTime = dataset.ReferringPhysicianName = None
        dataset.Rows, dataset.Columns = self.geometry.shape[1:]
        dataset.PixelSpacing = [_decimal(value) for value in self.geometry.spacing[1:]]
        dataset.SliceThickness = _decimal(self.slice_thickness)
        dataset.SpacingBetweenSlices = _decimal(self.geometry.spacing[0])
        dataset.ImageOrientationPatient = [_decimal(value) for value in self.orientation]
        dataset.ImagePositionPatient = [_decimal(value) for value in plane.position]
        for keyword in _LOSSY:
            if keyword in self.header:
                dataset[keyword] = self.header[keyword]
        return dataset

    def _stand_in_uid(self, index: int) -> str:
        plane = self.planes[index]
        return str(generate_uid(entropy_srcs=["plane", plane.sop_instance_uid, str(plane.frame_number or 0)]))

    def resolve(self, written: Dataset) -> None:
        """Replace all references to the slices of :meth:`stand_ins` in an object by references to the source."""
        by_uid = {self._stand_in_uid(index): plane for index, plane in enumerate(self.planes)}
        for series in written.get("ReferencedSeriesSequence", []):
            seen, kept = set(), []
            for instance in series.ReferencedInstanceSequence:
                plane = by_uid.get(str(instance.ReferencedSOPInstanceUID))
                if plane is not None:
                    instance.ReferencedSOPClassUID = plane.sop_class_uid
                    instance.ReferencedSOPInstanceUID = plane.sop_instance_uid
                if str(instance.ReferencedSOPInstanceUID) not in seen:
                    seen.add(str(instance.ReferencedSOPInstanceUID))
                    kept.append(instance)
            series.ReferencedInstanceSequence = kept
        for groups in written.get("PerFrameFunctionalGroupsSequence", []):
            for derivation in groups.get("DerivationImageSequence", []):
                for image in derivation.SourceImageSequence:
                    plane = by_uid.get(str(image.ReferencedSOPInstanceUID))
                    if plane is None:
                        continue  # frames of several segments share their references, so this one is resolved already
                    image.ReferencedSOPClassUID = plane.sop_class_uid
                    image.ReferencedSOPInstanceUID = plane.sop_instance_uid
                    if plane.frame_number is not None:
                        image.ReferencedFrameNumber = plane.frame_number

    def objects(self) -> list[Dataset]:
        """Return one data set per object of the source, with the identifiers that references need."""
        objects = {}
        for plane in self.planes:
            dataset = Dataset()
            dataset.SOPClassUID, dataset.SOPInstanceUID = plane.sop_class_uid, plane.sop_instance_uid
            dataset.StudyInstanceUID = self.identity.study_instance_uid
            dataset.SeriesInstanceUID = self.identity.series_instance_uid
            objects[plane.sop_instance_uid] = dataset
        return list(objects.values())


def read_source(path: Path, content: DicomFolder, series_choice: str | None = None) -> SourceSeries:
    """Return the series of a folder that the reader of scans would choose.

    Parameters
    ----------
    path : Path
        A folder of DICOM files, or a file with several frames.
    content : DicomFolder
        The headers of ``path``, from :func:`~detseg3d.data.formats.dicom.reader.describe_source`.
    series_choice : str, optional
        SeriesInstanceUID, number or description of a series.

    Returns
    -------
    SourceSeries

    Raises
    ------
    DetSeg3DError
        If the objects do not form one volume, if a file is damaged, if files in one folder belong to several patients,
        or if the series lacks an identifier that results need to refer to it.
    """
    with disable_value_validation():
        _check_one_patient(content)
        series = choose_series(content, series_choice)
        geometry = identified_geometry(series)
        assert series.layout is not None
        frames = [series.frames[index] for index in series.layout.order]
        _check_identifiers(frames)
        header = _read_header(frames[0].header.path)
    identity = geometry.dicom[0]
    assert identity is not None
    return SourceSeries(
        path=path,
        identity=identity,
        geometry=geometry,
        planes=tuple(_plane(frame) for frame in frames),
        orientation=frames[0].orientation or (),
        slice_thickness=abs(frames[0].thickness or 0.0) or geometry.spacing[0],
        header=header,
    )


def _check_one_patient(content: DicomFolder) -> None:
    """Check that no folder, without its subfolders, holds images of several patients. The message names no patient."""
    patients: dict[Path, dict[str, Path]] = {}
    for series in content.series:
        for header in series.headers:
            patients.setdefault(header.path.parent, {}).setdefault(series.patient_id, header.path)
    for folder, files in patients.items():
        if len(files) > 1:
            first, second = list(files.values())[:2]
            raise DetSeg3DError(
                "the folder holds DICOM files of several patients",
                file=folder,
                value=f"{len(files)} patients, for example in {first.name} and {second.name}",
                expected="files of one patient",
                remedy="put the files of each patient into a separate folder",
            )


def _check_identifiers(frames: Sequence[Frame]) -> None:
    for frame in frames:
        missing = [keyword for keyword in _REQUIRED if not frame.header.text(keyword)]
        if missing:
            raise DetSeg3DError(
                f"the DICOM file does not state {missing[0]}, so a result cannot refer to it",
                file=frame.header.path,
                value=f"without {' and '.join(missing)}",
                expected="the identifiers of study, series, object and frame of reference",
                remedy="give the original series; masks and tables can be written without these identifiers",
            )


def _plane(frame: Frame) -> SourcePlane:
    assert frame.position is not None
    several = "NumberOfFrames" in frame.header.dataset
    return SourcePlane(
        sop_class_uid=frame.header.text("SOPClassUID"),
        sop_instance_uid=frame.header.text("SOPInstanceUID"),
        frame_number=frame.index + 1 if several else None,
        position=frame.position,
    )


def _read_header(path: Path) -> Dataset:
    """Read the attributes of an object that results copy. Other attributes may be damaged."""
    dataset = dcmread(path, stop_before_pixels=True, force=True, defer_size=_MAX_ELEMENT_BYTES)
    header = Dataset()
    try:
        for group in _COPIED_GROUPS:
            header.update(dataset.group_dataset(group))
        for keyword in (*_COPIED, *_LOSSY):
            if keyword in dataset:
                header[keyword] = dataset[keyword]
        header.decode()  # text of any character set, so that it can be written in UTF-8
    except Exception as error:
        raise DetSeg3DError(
            f"patient and study of the DICOM file cannot be read: {error}",
            file=path,
            expected="values that the DICOM standard allows, in the stated character set",
            remedy="correct the attributes of patient and study, or SpecificCharacterSet",
        ) from error
    header.SpecificCharacterSet = UTF_8
    return header


def _size(geometry: Geometry) -> str:
    return "×".join(map(str, geometry.shape))


def _decimal(value: float) -> float:
    """Return a number that a decimal string of 16 characters states exactly."""
    return float(f"{value:.10g}")
