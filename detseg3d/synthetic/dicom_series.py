"""Write a simulated scan as a DICOM series, with a simulated patient."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg3d.data.image import Image
from detseg3d.system.files import atomic_path

__all__ = ["SimulatedStudy", "write_dicom_series"]

_STEP = 0.1
"""Intensities are stored as whole multiples of this number."""


@dataclass(frozen=True)
class SimulatedStudy:
    """Patient and study of a simulated scan.

    Attributes
    ----------
    patient_id : str
    name : str
        Name of the scan, which becomes the description of the series.
    date : datetime.date
        Day of the study and of the acquisition.
    seed : int
        Scans with equal names and other seeds get other identifiers.
    """

    patient_id: str
    name: str
    date: dt.date
    seed: int = 0


def write_dicom_series(image: Image, study: SimulatedStudy, folder: Path) -> None:
    """Write a scan as an MR series with one file per slice.

    Equal scans get equal identifiers.

    Parameters
    ----------
    image : Image
        In canonical order. Intensities are rounded to multiples of 0.1.
    study : SimulatedStudy
    folder : Path
        Folder of the files ``0001.dcm``, ``0002.dcm``, …, from the feet to the head.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    origin = ["DetSeg3D simulation", study.patient_id, study.name, str(study.seed)]
    geometry = image.geometry
    x, y, _ = np.asarray(geometry.direction).reshape(3, 3).T
    limits = np.iinfo(np.int16)
    stored = np.clip(np.round(image.array / _STEP), limits.min, limits.max).astype("<i2")
    for index, pixels in enumerate(stored):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[*origin, str(index)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, meta.MediaStorageSOPInstanceUID
        dataset.PatientName, dataset.PatientID = "Simulated", study.patient_id
        dataset.PatientBirthDate = dataset.PatientSex = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
        dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = study.date.strftime("%Y%m%d")
        dataset.StudyTime, dataset.StudyID = "120000", "1"
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=[*origin, "study"])
        dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[*origin, "series"])
        dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[*origin, "frame of reference"])
        dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = "MR", 1, study.name
        dataset.Manufacturer, dataset.ImageType = "DetSeg3D simulation", ["ORIGINAL", "PRIMARY"]
        dataset.InstanceNumber = index + 1
        dataset.PixelSpacing = [float(step) for step in geometry.spacing[1:]]
        dataset.SliceThickness = dataset.SpacingBetweenSlices = float(geometry.spacing[0])
        dataset.ImageOrientationPatient = [round(float(value), 8) for value in (*x, *y)]
        corner = geometry.voxel_edges_to_world([[index + 0.5, 0.5, 0.5]])[0]
        dataset.ImagePositionPatient = [round(float(value), 6) for value in corner]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleSlope, dataset.RescaleIntercept = _STEP, 0
        dataset.PixelData = pixels.tobytes()
        with atomic_path(folder / f"{index + 1:04d}.dcm") as temporary:
            dataset.save_as(temporary, enforce_file_format=True)
