"""What is mutated: a tiny data set with everything that the commands make of it, and its first scan in every format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import SimpleITK
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

from benchmarks.soak import NAME, prepare, run
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from detseg3d.system.files import write_text
from detseg3d.system.json_files import write_json

__all__ = ["CASE", "IMAGE_FORMATS", "NAME", "build"]

CASE = "held_out_001"
IMAGE_FORMATS = (
    "nii",
    "nii.gz",
    "mha",
    "mha raw",
    "mhd",
    "nrrd",
    "nrrd raw",
    "npy",
    "dicom",
    "dicom rle",
    "dicom frames",
)
"""Each is a folder of ``images`` that holds the same scan."""

_BOXES = f"case,z0,y0,x0,z1,y1,x1,score\n{CASE},1,2,3,8,9,10,0.9\nheld_out_002,1,2,3,8,9,10,0.5\n"


def build(folder: Path) -> None:
    """Fill an empty folder with data, a trained model, predictions, a model file and images of all formats."""
    prepare(folder)
    splits = folder / "preprocessed" / NAME / "splits_final.json"
    first, second, third, *_ = json.loads(splits.read_text(encoding="utf-8"))[0]["train"]
    write_json([{"train": [first, second], "val": [third]}], splits)  # a training of a second
    raw, trained = ("--raw", "raw"), ("--preprocessed", "preprocessed", "--results", "results")
    quiet = ("--no_progress",)
    run(folder, ("plan_and_preprocess", "-d", "999", "--keep_plans", *raw, *trained[:2], "-np", "0", *quiet))
    run(folder, ("train", "999", "0", "--steps", "10", "-device", "cpu", *raw, *trained, *quiet))
    run(folder, ("consolidate", "999", "-f", "0", *raw, *trained[2:], "-np", "0", *quiet))
    scans = ("-i", f"raw/{NAME}/imagesTs", "-d", "999", "-f", "0", "-device", "cpu", *trained[2:], *quiet)
    run(folder, ("predict", *scans, "-o", "predictions", "--save_probabilities"))
    run(folder, ("export_model", "999", "-o", "model.safetensors", *trained[2:]))
    write_text(_BOXES, folder / "boxes.csv")
    _write_images(folder / "images", *read_image(folder / "raw" / NAME / "imagesTs" / f"{CASE}_0000.nii.gz"))


def _write_images(folder: Path, image: npt.NDArray[np.generic], geometry: Geometry) -> None:
    whole = np.rint(image).astype(np.int16)
    place = Geometry(geometry.shape, geometry.spacing, geometry.origin)
    for name in IMAGE_FORMATS:
        (folder / name).mkdir(parents=True)
        if name.startswith("dicom"):
            series = folder / name / CASE
            series.mkdir()
            _write_dicom(series, whole, geometry.spacing, name)
        elif name == "npy":
            np.save(folder / name / f"{CASE}_0000.npy", whole)
        elif name.endswith("raw"):
            scan = SimpleITK.GetImageFromArray(whole)
            scan.SetSpacing(tuple(float(length) for length in reversed(geometry.spacing)))
            SimpleITK.WriteImage(scan, str(folder / name / f"{CASE}_0000.{name.split()[0]}"), False)
        else:
            write_image(whole, place, folder / name / f"{CASE}_0000.{name}")


def _write_dicom(folder: Path, image: npt.NDArray[np.int16], spacing: tuple[float, float, float], kind: str) -> None:
    """A CT series, one file per slice; ``dicom frames`` is one file with all slices, which has no positions."""
    if kind == "dicom frames":
        dataset = _dicom(image, 0, spacing)
        dataset.NumberOfFrames = len(image)
        dataset.save_as(folder / "frames.dcm", enforce_file_format=True)
        return
    for index, values in enumerate(image):
        dataset = _dicom(values, index, spacing)
        if kind == "dicom rle":
            dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(folder / f"{index:03d}.dcm", enforce_file_format=True)


def _dicom(values: npt.NDArray[np.int16], index: int, spacing: tuple[float, float, float]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"1.2.3.4.5.{index + 1}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.4", "1.2.3.4.5", "1.2.3.6"
    dataset.Modality, dataset.PatientID, dataset.SeriesDescription = "CT", "1", "made by the fuzzer"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.InstanceNumber = index + 1
    dataset.ImagePositionPatient = [0, 0, index * spacing[0]]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = values.tobytes()
    return dataset
