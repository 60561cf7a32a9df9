"""Synthetic DICOM objects for the tests of the reader, made with pydicom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from detseg3d.core.arrays import Array

MR = "1.2.840.10008.5.1.4.1.1.4"
CT = "1.2.840.10008.5.1.4.1.1.2"
PET = "1.2.840.10008.5.1.4.1.1.128"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
MODALITIES = {MR: "MR", CT: "CT", PET: "PT", SECONDARY_CAPTURE: "OT", ENHANCED_MR: "MR", ENHANCED_CT: "CT"}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def uid(text: str) -> str:
    return str(generate_uid(entropy_srcs=[text]))


@dataclass
class SeriesBuilder:
    """Writer of the slices of a volume ``(Z, Y, X)`` as classic objects; ``extra`` sets or (None) removes tags."""

    array: Array
    spacing: tuple[float, float, float] = (2.5, 0.75, 0.5)
    origin: tuple[float, float, float] = (-10.0, 20.0, -7.5)
    orientation: Sequence[float] = AXIAL
    sop_class: str = CT
    name: str = "series"
    number: int = 1
    study: str = "study"
    extra: dict[str, Any] = field(default_factory=dict)
    transfer_syntax: str = ExplicitVRLittleEndian

    def position(self, index: float) -> list[float]:
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        return [round(float(value), 6) for value in np.asarray(self.origin) + index * self.spacing[0] * normal]

    def slice(self, index: int, **tags: Any) -> FileDataset:
        pixels = self.array[index]
        dataset = new_object(self.sop_class, f"{self.name} {index}", self.transfer_syntax)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid(self.study), uid(f"{self.study} {self.name}")
        dataset.FrameOfReferenceUID = uid(f"{self.study} frame")
        dataset.SeriesNumber, dataset.InstanceNumber, dataset.SeriesDescription = self.number, index + 1, self.name
        dataset.PixelSpacing, dataset.SliceThickness = list(self.spacing[1:]), self.spacing[0]
        dataset.ImageOrientationPatient = list(self.orientation)
        dataset.ImagePositionPatient = self.position(index)
        set_pixels(dataset, pixels)
        set_tags(dataset, {**self.extra, **tags})
        return dataset

    def write(self, folder: Path, names: Sequence[str] | None = None) -> None:
        """Write all slices. By default, the order of the names differs from the order of the positions."""
        for index in range(len(self.array)):
            name = names[index] if names else f"{(index * 7 + 3) % 97:03d}_{self.name}.dcm"
            save(self.slice(index), folder / name)


def new_object(sop_class: str, name: str, transfer_syntax: str = ExplicitVRLittleEndian) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid(name)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = transfer_syntax, "1.2.3.4"
    syntax = meta.TransferSyntaxUID
    dataset = FileDataset(
        "",
        {},
        file_meta=meta,
        preamble=b"\0" * 128,
        is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
    )
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, uid(name)
    dataset.PatientID, dataset.PatientName = "P1", "Synthetic"
    dataset.Modality = MODALITIES.get(sop_class, "OT")
    return dataset


def set_pixels(dataset: Dataset, pixels: Array) -> None:
    """Set the pixels ``(Y, X)`` or ``(frames, Y, X)`` of an integer type, and the attributes that describe them."""
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    bits = 8 * pixels.dtype.itemsize
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    dataset.PixelData = np.ascontiguousarray(pixels).astype(pixels.dtype.newbyteorder(order)).tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"


def set_tags(dataset: Dataset, tags: dict[str, Any]) -> None:
    for keyword, value in tags.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def item(**tags: Any) -> Dataset:
    dataset = Dataset()
    set_tags(dataset, tags)
    return dataset


def enhanced(
    array: Array,
    positions: Sequence[Sequence[float]],
    *,
    thickness: float = 2.5,
    sop_class: str = ENHANCED_MR,
    name: str = "enhanced",
    per_frame: Sequence[dict[str, Dataset]] | None = None,
) -> FileDataset:
    """Return an axial object with the frames of ``array`` at ``positions``, 0.75 × 0.5 mm within the plane.

    ``per_frame`` gives further functional groups of each frame, by the keywords of their sequences.
    """
    dataset = new_object(sop_class, name)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(name)
    dataset.FrameOfReferenceUID = uid("frame")
    dataset.SeriesNumber, dataset.SeriesDescription = 3, name
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    set_pixels(dataset, array)
    groups = {
        "PixelMeasuresSequence": item(PixelSpacing=[0.75, 0.5], SliceThickness=thickness),
        "PlaneOrientationSequence": item(ImageOrientationPatient=list(AXIAL)),
    }
    dataset.SharedFunctionalGroupsSequence = DicomSequence([functional_groups(groups)])
    own = []
    for index, position in enumerate(positions):
        frame = {"PlanePositionSequence": item(ImagePositionPatient=[float(value) for value in position])}
        own.append(functional_groups({**frame, **(per_frame[index] if per_frame else {})}))
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(own)
    return dataset


def functional_groups(groups: dict[str, Dataset]) -> Dataset:
    return item(**{keyword: DicomSequence([value]) for keyword, value in groups.items()})
