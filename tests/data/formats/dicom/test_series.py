from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import generate_uid

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.reader import describe_source
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image
from tests.data.formats.dicom.builders import (
    CT,
    MR,
    PET,
    SECONDARY_CAPTURE,
    SeriesBuilder,
    enhanced,
    new_object,
    save,
    set_pixels,
    uid,
)

ARRAY = np.random.default_rng(0).integers(-1000, 3000, (6, 7, 8)).astype(np.int16)
SIDE_OBJECTS = {
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "RTPLAN": "1.2.840.10008.5.1.4.1.1.481.5",
    "SR": "1.2.840.10008.5.1.4.1.1.88.33",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
    "KO": "1.2.840.10008.5.1.4.1.1.88.59",
    "REG": "1.2.840.10008.5.1.4.1.1.66.1",
}


def read(folder: Path, series: str | None = None) -> Any:
    return read_image(ImageSource(folder, series=series))[0]


def error_of(folder: Path, series: str | None = None) -> DetSeg3DError:
    with pytest.raises(DetSeg3DError) as caught:
        read(folder, series)
    return caught.value


@pytest.fixture
def two_series(tmp_path: Path) -> Path:
    SeriesBuilder(ARRAY, name="T1 axial", number=3, sop_class=MR).write(tmp_path)
    SeriesBuilder(ARRAY + 1, name="FLAIR", number=4, sop_class=MR, spacing=(5.0, 1.0, 1.0)).write(tmp_path)
    return tmp_path


def test_two_volumes_are_refused_with_a_table(two_series: Path) -> None:
    error = error_of(two_series)
    assert error.file == two_series
    assert "--series" in str(error.remedy)
    rows = [line.split() for line in error.problem.splitlines()[1:]]
    assert rows[0][:5] == ["number", "description", "modality", "slices", "size"]
    assert rows[1][:6] == ["3", "T1", "axial", "MR", "6", "8×7"]
    assert rows[1][6] == "0.5×0.75×2.5"
    assert rows[2][:6] == ["4", "FLAIR", "MR", "6", "8×7", "1×1×5"]


@pytest.mark.parametrize("choice", ["3", "T1 axial", "t1 AXIAL", uid("study T1 axial")])
def test_a_series_is_chosen_by_number_description_or_identifier(two_series: Path, choice: str) -> None:
    np.testing.assert_array_equal(read(two_series, choice), ARRAY)
    np.testing.assert_array_equal(read(two_series, "FLAIR"), ARRAY + 1)


def test_a_choice_that_does_not_exist_is_refused_with_the_table(two_series: Path) -> None:
    error = error_of(two_series, "T2")
    assert error.value == "T2"
    assert "FLAIR" in error.problem


def test_a_choice_of_several_is_refused_with_their_identifiers(tmp_path: Path) -> None:
    for study in ("monday", "tuesday"):
        SeriesBuilder(ARRAY, name="T1", study=study, sop_class=MR).write(tmp_path / study)
    error = error_of(tmp_path, "T1")
    assert uid("monday T1") in str(error.expected)
    assert uid("tuesday T1") in str(error.expected)
    np.testing.assert_array_equal(read(tmp_path, uid("monday T1")), ARRAY)


@pytest.mark.parametrize("tags", [{"PatientID": "P2"}, {"StudyInstanceUID": uid("another study")}])
def test_patients_and_studies_are_never_one_series(tmp_path: Path, tags: dict[str, str]) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(6):
        save(builder.slice(index, **(tags if index > 2 else {})), tmp_path / f"{index}.dcm")
    assert "2 DICOM series" in error_of(tmp_path).problem


@pytest.mark.parametrize("kind", SIDE_OBJECTS)
@pytest.mark.parametrize("same_series", [False, True])
def test_objects_without_an_image_are_skipped_and_counted(
    tmp_path: Path, kind: str, same_series: bool, caplog: pytest.LogCaptureFixture
) -> None:
    builder = SeriesBuilder(ARRAY)
    builder.write(tmp_path)
    other = new_object(SIDE_OBJECTS[kind], kind)
    other.Modality, other.StudyInstanceUID = kind, uid("study")
    other.SeriesInstanceUID = uid("study series") if same_series else uid(kind)
    save(other, tmp_path / "other.dcm")
    with caplog.at_level(logging.INFO, "detseg3d"):
        np.testing.assert_array_equal(read(tmp_path), ARRAY)
    assert any(f"1 {kind}" in message for message in caplog.messages)


def test_a_segmentation_beside_a_series_is_skipped(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    positions = [SeriesBuilder(ARRAY).position(index) for index in range(6)]
    dataset = enhanced((ARRAY > 0).astype(np.uint8), positions, name="seg")
    dataset.Modality = "SEG"
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    save(dataset, tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read(tmp_path), ARRAY)


def localizer(number: int, **tags: Any) -> SeriesBuilder:
    extra = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], **tags}
    return SeriesBuilder(ARRAY[:2], name="scout", number=number, orientation=(1, 0, 0, 0, 0, -1), extra=extra)


def test_localizers_beside_a_series_are_skipped_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SeriesBuilder(ARRAY, number=2).write(tmp_path)
    localizer(1).write(tmp_path)
    with caplog.at_level(logging.INFO, "detseg3d"):
        np.testing.assert_array_equal(read(tmp_path), ARRAY)
    assert any("scout" in message and "localizer" in message for message in caplog.messages)


def test_localizers_in_the_same_series_are_left_out_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    localizer(1, SeriesInstanceUID=uid("study series")).write(tmp_path)
    with caplog.at_level(logging.INFO, "detseg3d"):
        np.testing.assert_array_equal(read(tmp_path), ARRAY)
    assert any("2 localizer image(s)" in message for message in caplog.messages)


def test_derived_series_beside_an_original_one_are_skipped_and_can_be_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    SeriesBuilder(ARRAY + 5, name="MPR", number=9, extra={"ImageType": ["DERIVED", "SECONDARY", "MPR"]}).write(tmp_path)
    with caplog.at_level(logging.WARNING, "detseg3d"):
        np.testing.assert_array_equal(read(tmp_path), ARRAY)
    assert any("MPR" in message for message in caplog.messages)
    np.testing.assert_array_equal(read(tmp_path, "9"), ARRAY + 5)


def test_a_derived_series_alone_is_read(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, extra={"ImageType": ["DERIVED", "SECONDARY", "MPR"]}).write(tmp_path)
    np.testing.assert_array_equal(read(tmp_path), ARRAY)


def test_screen_captures_and_time_series_are_not_candidates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SeriesBuilder(ARRAY, number=2).write(tmp_path)
    report = new_object(SECONDARY_CAPTURE, "dose report")
    report.StudyInstanceUID, report.SeriesInstanceUID, report.SeriesNumber = uid("study"), uid("report"), 999
    set_pixels(report, ARRAY[0].astype(np.uint8))
    save(report, tmp_path / "report.dcm")
    cine = SeriesBuilder(ARRAY, name="cine", number=5, sop_class=MR, extra={"ImagePositionPatient": [0, 0, 0]})
    cine.write(tmp_path)
    with caplog.at_level(logging.WARNING, "detseg3d"):
        np.testing.assert_array_equal(read(tmp_path), ARRAY)
    (message,) = caplog.messages
    assert "no positions" in message
    assert "time series" in message
    assert "time series" in error_of(tmp_path, "cine").problem


def test_a_broken_series_is_not_replaced_by_another_one(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, name="T1", number=1, sop_class=MR).write(tmp_path / "t1")
    SeriesBuilder(ARRAY, name="T2", number=2, sop_class=MR).write(tmp_path / "t2", [f"{index}" for index in range(6)])
    (tmp_path / "t2" / "3").unlink()
    error = error_of(tmp_path)
    assert "1 slice(s) missing" in error.problem
    assert "--series" in str(error.remedy)
    np.testing.assert_array_equal(read(tmp_path, "T1"), ARRAY)


def test_a_truncated_slice_of_another_series_does_not_prevent_a_choice(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, name="T1", sop_class=MR).write(tmp_path / "t1")
    SeriesBuilder(ARRAY, name="T2", sop_class=MR).write(tmp_path / "t2", [f"{index}" for index in range(6)])
    file = tmp_path / "t2" / "3"
    file.write_bytes(file.read_bytes()[:-50])
    np.testing.assert_array_equal(read(tmp_path, "T1"), ARRAY)
    assert error_of(tmp_path, "T2").file == file
    assert "damaged file 3" in error_of(tmp_path).problem


def test_pet_beside_ct_is_a_choice(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, name="CT", sop_class=CT).write(tmp_path)
    SeriesBuilder(ARRAY, name="PET", sop_class=PET).write(tmp_path)
    assert "2 DICOM series" in error_of(tmp_path).problem


def test_a_dose_beside_its_scan_is_skipped(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    dose = SeriesBuilder(ARRAY.astype(np.uint16), name="dose").slice(
        0, SOPInstanceUID=generate_uid(), Modality="RTDOSE"
    )
    set_pixels(dose, np.abs(ARRAY).astype(np.uint16))
    dose.GridFrameOffsetVector, dose.DoseGridScaling = [2.5 * index for index in range(6)], 0.001
    save(dose, tmp_path / "dose.dcm")
    np.testing.assert_array_equal(read(tmp_path), ARRAY)
    expected = (np.abs(ARRAY).astype(np.uint16) * 0.001).astype(np.float32)
    np.testing.assert_array_equal(read(tmp_path, "dose"), expected)


def test_a_choice_for_another_format_is_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    assert error_of(tmp_path / "a.npy", "T1").value == "T1"


def test_a_single_slice_beside_a_volume_is_not_a_candidate(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY, number=2).write(tmp_path)
    SeriesBuilder(ARRAY[:1], name="scout", number=1).write(tmp_path)
    np.testing.assert_array_equal(read(tmp_path), ARRAY)


def test_an_original_series_that_is_broken_is_not_replaced_by_a_derived_one(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path / "ct", [f"{index}" for index in range(6)])
    (tmp_path / "ct" / "2").unlink()
    SeriesBuilder(ARRAY, name="MPR", number=9, extra={"ImageType": ["DERIVED", "SECONDARY", "MPR"]}).write(tmp_path)
    assert "1 slice(s)" in error_of(tmp_path).problem


@pytest.mark.parametrize(
    ("tags", "date"),
    [
        ({"AcquisitionDate": "20240131", "StudyDate": "20240101", "SeriesDate": "20240202"}, dt.date(2024, 1, 31)),
        ({"AcquisitionDate": "", "StudyDate": "2024.02.29"}, dt.date(2024, 2, 29)),
        ({"StudyDate": "00000000"}, None),
        ({"AcquisitionDate": "202402"}, None),
    ],
)
def test_the_date_of_a_series_is_that_of_its_acquisition_or_the_nearest_other_date(
    tags: dict[str, str], date: dt.date | None, tmp_path: Path
) -> None:
    SeriesBuilder(ARRAY, extra=tags).write(tmp_path)
    assert describe_source(tmp_path).series[0].date == date


def test_a_scan_past_midnight_has_the_day_of_its_beginning(tmp_path: Path) -> None:
    builder = SeriesBuilder(ARRAY)
    for index in range(len(ARRAY)):
        save(builder.slice(index, AcquisitionDate="20240301" if index < 2 else "20240229"), tmp_path / f"{index}.dcm")
    assert describe_source(tmp_path).series[0].date == dt.date(2024, 2, 29)
