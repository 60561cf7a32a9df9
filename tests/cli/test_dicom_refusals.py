"""Wrong DICOM input of the commands that read scans, segmentations and results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from detseg3d.cli import convert, export_dicom, follow
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image, write_image
from tests.data.formats.dicom.builders import SeriesBuilder, new_object, save, uid
from tests.exports.dicom.results import SHAPE, Results, make_source

REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
SECRET = "Secret^Name"


def two_patients(folder: Path) -> str:
    """Write a series of one patient, and a series of another patient with another number and name."""
    write_series(folder, "1")
    write_series(folder, "2")
    return "2 patients"


def derived_series_of_another_patient(folder: Path) -> str:
    """Without the check of patients, the only original series would be read."""
    write_series(folder, "1")
    write_series(folder, "2", ImageType=["DERIVED", "SECONDARY"])
    return "2 patients"


def only_a_report(folder: Path) -> str:
    """Write a structured report that refers to no image."""
    report = new_object(REPORT, "report")
    report.Modality, report.PatientID = "SR", "1"
    save(report, folder / "report.dcm")
    return "1 SR"


def write_series(folder: Path, patient: str, **tags: object) -> None:
    names = {"PatientID": patient, "PatientName": SECRET, **tags}
    SeriesBuilder(np.ones(SHAPE, np.int16), study=f"study {patient}", name=f"series {patient}", extra=names).write(
        folder
    )


BAD_SCANS = [two_patients, derived_series_of_another_patient, only_a_report]


@pytest.mark.parametrize("write", BAD_SCANS)
@pytest.mark.parametrize("command", ["convert", "follow", "export_dicom"])
def test_a_wrong_folder_of_dicom_files_is_refused_by_name(
    tmp_path: Path, command: str, write: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scans" / "case"
    named = write(scan)
    assert run(command, scan, tmp_path) == 1
    message = capsys.readouterr().err
    # The export looks for the series of its case first.
    assert (named if command != "export_dicom" else "perhaps of another patient") in message and str(scan) in message
    assert SECRET not in message
    assert not any((tmp_path / "out").rglob("*.nii.gz")) and not any((tmp_path / "out").rglob("*.dcm"))


def run(command: str, scan: Path, folder: Path) -> int:
    """Run a command on the DICOM folder ``scan``, or on its parent, which is a folder of scans."""
    output = str(folder / "out")
    write_image(np.ones(SHAPE, np.uint8), Geometry(SHAPE), folder / "masks" / "case.nii.gz")
    if command == "convert":
        words = ["--image_dir", str(scan.parent), "--label_dir", str(folder / "masks"), "--output_dir", output]
        return convert.main([*words, "-np", "0"])
    if command == "follow":
        maps = [str(folder / "masks")] * 2
        write_image(np.ones(SHAPE, np.uint8), Geometry(SHAPE), folder / "later" / "case.nii.gz")
        images = [str(scan.parent)] * 2
        return follow.main(["-i", maps[0], str(folder / "later"), "--images", *images, "-o", output])
    results = Results(folder / "results", make_source("axial", folder / "source")).write()
    return export_dicom.main(["-i", str(results.folder), "--source", str(scan), "-o", output])


@pytest.mark.parametrize("choice", ["1", "series 1"])
def test_a_number_or_description_does_not_choose_among_patients(tmp_path: Path, choice: str) -> None:
    write_series(tmp_path, "1", SeriesNumber=1)
    write_series(tmp_path, "2", SeriesNumber=2)
    with pytest.raises(DetSeg3DError) as error:
        read_image(ImageSource(tmp_path, series=choice))
    assert (error.value.file, error.value.value) == (tmp_path, "2 patients")
    # An identifier names one series in the world.
    assert read_image(ImageSource(tmp_path, series=uid("study 1 series 1"))).array.shape == SHAPE


def test_a_report_is_not_a_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "scans" / "case", "1")
    only_a_report(tmp_path / "labels")
    (tmp_path / "labels" / "report.dcm").rename(tmp_path / "labels" / "case.dcm")
    words = ["--image_dir", str(tmp_path / "scans"), "--label_dir", str(tmp_path / "labels")]
    assert convert.main([*words, "--output_dir", str(tmp_path / "out"), "-np", "0"]) == 1
    message = capsys.readouterr().err
    assert str(tmp_path / "labels" / "case.dcm") in message and "segmentations" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("tag", "value"), [("FrameOfReferenceUID", "1.2.3"), ("PatientID", "another")])
def test_a_segmentation_of_another_place_or_patient_is_not_a_label(
    tmp_path: Path, tag: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "images" / "case")).write()
    words = ["-i", str(results.folder), "--source", str(results.source), "-o", str(tmp_path / "labels")]
    assert export_dicom.main([*words, "--no_dicom_sr"]) == 0
    file = tmp_path / "labels" / "case.seg.dcm"
    dataset = dcmread(file)
    setattr(dataset, tag, value)
    if tag == "PatientID":  # the same place would prove that the segmentation belongs to the image
        del dataset.FrameOfReferenceUID
    save(dataset, file)
    words = ["--image_dir", str(tmp_path / "images"), "--label_dir", str(tmp_path / "labels")]
    assert convert.main([*words, "--output_dir", str(tmp_path / "out"), "-np", "0"]) == 1
    message = capsys.readouterr().err
    assert "case.seg.dcm" in message
    assert ("another patient" if tag == "PatientID" else "1.2.3") in message
    assert not (tmp_path / "out").exists()
