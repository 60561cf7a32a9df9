"""The DICOM objects of a follow-up, read with highdicom, with pydicom only, and by a validator."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from pydicom import Dataset, dcmread

from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind
from detseg3d.follow.compare import FollowOptions
from detseg3d.follow.registration import RegistrationMethod
from detseg3d.pipeline.export_dicom import export_dicom
from detseg3d.pipeline.follow import FollowInputs, FollowOutcome, follow_folders
from tests.data.formats.dicom.builders import SeriesBuilder
from tests.exports.dicom.results import Results, identity_tags, read_with_pydicom, true_lesions

SHAPE = (12, 24, 30)
Boxes = dict[int, tuple[slice, slice, slice]]


def cube(z: int, y: int, x: int, columns: int = 4) -> tuple[slice, slice, slice]:
    return slice(z, z + 4), slice(y, y + 4), slice(x, x + columns)


# Lesion 1 of the first scan is lesion 3 of the second and lesion 1 of the third scan. Lesions 2 and 3 merge. Lesion 4
# disappears. Lesion 5 splits. Lesion 5 of the second scan is new, and grows.
FIRST: Boxes = {1: cube(1, 1, 1), 2: cube(1, 8, 1), 3: cube(1, 8, 6), 4: cube(1, 16, 1), 5: cube(7, 1, 14, 9)}
SECOND: Boxes = {1: cube(1, 8, 1, 9), 2: cube(7, 1, 14), 3: cube(1, 1, 1), 4: cube(7, 1, 19), 5: cube(7, 16, 20)}
THIRD: Boxes = {1: cube(1, 1, 1), 2: cube(7, 16, 20, 8)}


@dataclass
class Patient:
    """Scans of a patient with results, and the follow-up of them."""

    folder: Path
    results: list[Results]

    def export(self, index: int, kind: SegmentationKind = SegmentationKind.LABELMAP) -> None:
        """Write the DICOM objects of a scan as ``detseg3d_predict`` writes them."""
        entry = self.results[index]
        exported = export_dicom(entry.folder, entry.source, entry.folder / "dicom", DicomOptions(kind))
        assert exported.failures == {}

    def follow(self, kind: SegmentationKind = SegmentationKind.LABELMAP) -> FollowOutcome:
        inputs = FollowInputs(
            tuple(entry.folder for entry in self.results), tuple(entry.source for entry in self.results)
        )
        options = FollowOptions(RegistrationMethod.NONE)
        return follow_folders(inputs, self.folder / "out", options, pictures=False, dicom=DicomOptions(kind))

    def written(self, scan: int, name: str) -> Dataset:
        return dcmread(self.folder / "out" / "dicom" / f"case_{scan}.{name}.dcm")

    def uids(self, scan: int) -> dict[int, str]:
        """Return the Tracking UID of each segment."""
        return tracking_uids(self.written(scan, "seg"))


def tracking_uids(segmentation: Dataset) -> dict[int, str]:
    """Return the Tracking UID of each segment. Segment 0 of a label map is the background."""
    segments = [entry for entry in segmentation.SegmentSequence if entry.SegmentNumber]
    return {int(entry.SegmentNumber): str(entry.TrackingUID) for entry in segments}


def make_patient(folder: Path, *scans: Boxes) -> Patient:
    results = []
    for index, boxes in enumerate(scans):
        array = np.random.default_rng(index).integers(0, 900, SHAPE).astype(np.int16)
        builder = SeriesBuilder(array, name=f"scan {index}", study=f"study {index}", extra=identity_tags())
        builder.extra["AcquisitionDate"] = f"2024030{index + 1}"
        builder.write(folder / f"dicom_{index}")
        results.append(Results(folder / f"results_{index}", folder / f"dicom_{index}", boxes=boxes).write())
    return Patient(folder, results)


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return make_patient(tmp_path, FIRST, SECOND)


def items(group: Dataset, meaning: str) -> list[Dataset]:
    return [entry for entry in group.ContentSequence if entry.ConceptNameCodeSequence[0].CodeMeaning == meaning]


def groups(report: Dataset) -> list[Dataset]:
    """Return the measurement groups of a report with pydicom only."""
    (container,) = items(report, "Imaging Measurements")
    return items(container, "Measurement Group")


def uid_of(group: Dataset) -> str:
    return str(items(group, "Tracking Unique Identifier")[0].UID)


def change_of(group: Dataset) -> str:
    return str(items(group, "Change since earlier scan")[0].ConceptCodeSequence[0].CodeMeaning)


def earlier_of(group: Dataset) -> set[str]:
    return {str(entry.UID) for entry in items(group, "Tracking Unique Identifier of earlier lesion")}


def evidence(report: Dataset) -> set[str]:
    return {
        str(instance.ReferencedSOPInstanceUID)
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword, ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def first_uids(patient: Patient) -> dict[int, str]:
    patient.export(0)
    file = patient.results[0].folder / "dicom" / "case.seg.dcm"
    return tracking_uids(dcmread(file))


def test_a_lesion_keeps_its_tracking_uid_and_other_lesions_have_new_ones(patient: Patient) -> None:
    before = first_uids(patient)
    assert patient.follow().failures == ()
    after = patient.uids(2)
    assert after[3] == before[1]
    assert len({after[number] for number in (1, 2, 4, 5)} | set(before.values())) == 4 + 5


def test_the_report_states_each_change_and_all_earlier_lesions(patient: Patient) -> None:
    before = first_uids(patient)
    assert patient.follow().failures == ()
    after = patient.uids(2)
    stated = {
        uid_of(group): (change_of(group), earlier_of(group))
        for group in groups(patient.written(2, "sr"))
        if items(group, "Change since earlier scan")
    }
    assert stated == {
        after[1]: ("Merged", {before[2], before[3]}),
        after[2]: ("Split", {before[5]}),
        after[3]: ("Stable in size", {before[1]}),
        after[4]: ("Split", {before[5]}),
        after[5]: ("New", set()),
        before[4]: ("Disappeared", {before[4]}),
    }


def test_highdicom_reads_the_groups_with_the_same_identifiers(patient: Patient) -> None:
    assert patient.follow().failures == ()
    after = patient.uids(2)
    content: Any = highdicom.sr.Comprehensive3DSR.from_dataset(patient.written(2, "sr")).content
    regions = content.get_volumetric_roi_measurement_groups()
    assert {group.referenced_segment[0].referenced_segment_numbers[0]: group.tracking_uid for group in regions} == after
    assert len(content.get_image_measurement_groups()) == 5 + 1  # the axes, and the lesion that disappeared


def test_the_segments_of_earlier_lesions_are_referenced_if_there_is_a_segmentation(patient: Patient) -> None:
    before = first_uids(patient)
    assert patient.follow().failures == ()
    folder = patient.results[0].folder / "dicom"
    objects = [str(dcmread(folder / f"case.{name}.dcm").SOPInstanceUID) for name in ("seg", "sr")]
    report = patient.written(2, "sr")
    assert set(objects) <= evidence(report)
    for group in groups(report):
        for image in items(group, "Segment of earlier lesion"):
            reference = image.ReferencedSOPSequence[0]
            assert reference.ReferencedSOPInstanceUID == objects[0]
            assert before[reference.ReferencedSegmentNumber] in earlier_of(group)
    assert sum(len(items(group, "Segment of earlier lesion")) for group in groups(report)) == 2 + 1 + 1 + 1 + 1


def test_without_earlier_objects_the_tracking_uids_are_those_that_an_export_gives(patient: Patient) -> None:
    assert patient.follow().failures == ()
    uid = patient.uids(2)[3]
    assert uid == first_uids(patient)[1]
    assert [
        entry for group in groups(patient.written(2, "sr")) for entry in items(group, "Segment of earlier lesion")
    ] == []


def test_a_lesion_keeps_its_tracking_uid_over_three_scans(tmp_path: Path) -> None:
    patient = make_patient(tmp_path, FIRST, SECOND, THIRD)
    before = first_uids(patient)
    assert patient.follow().failures == ()
    assert patient.uids(3) == {1: before[1], 2: patient.uids(2)[5]}
    by_uid = {uid_of(group): group for group in groups(patient.written(3, "sr")) if items(group, "Volume")}
    grown = by_uid[patient.uids(2)[5]]
    values = {
        entry.ConceptNameCodeSequence[0].CodeMeaning: float(entry.MeasuredValueSequence[0].NumericValue)
        for entry in grown.ContentSequence
        if entry.ValueType == "NUM"
    }
    assert change_of(grown) == "Increase in size"
    assert values["Change of volume since earlier scan"] == 100.0
    assert values["Volume doubling time"] == 1.0
    assert values["Time Point Order"] == 3
    assert str(patient.written(2, "seg").SOPInstanceUID) in evidence(patient.written(3, "sr"))


def test_the_segmentation_has_the_voxels_and_the_study_of_the_later_scan(patient: Patient) -> None:
    assert patient.follow(SegmentationKind.BINARY).failures == ()
    later = patient.results[1]
    file = patient.folder / "out" / "dicom" / "case_2.seg.dcm"
    assert read_with_pydicom(file, later.instances) == true_lesions(later.instances)
    source = dcmread(next(later.source.iterdir()))
    for name in ("seg", "sr"):
        assert patient.written(2, name).StudyInstanceUID == source.StudyInstanceUID


def test_lesions_that_all_disappeared_are_in_the_report(tmp_path: Path) -> None:
    patient = make_patient(tmp_path, {1: cube(1, 1, 1)}, {})
    patient.results[1].numbers = ()
    patient.results[1].write()
    before = first_uids(patient)
    assert patient.follow().failures == ()
    assert not (tmp_path / "out" / "dicom" / "case_2.seg.dcm").exists()
    report = patient.written(2, "sr")
    assert [(uid_of(group), change_of(group)) for group in groups(report)] == [(before[1], "Disappeared")]
    assert len(items(report, "Qualitative Evaluations")) == 1


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy of the package dicom3tools")
def test_a_validator_finds_no_error(patient: Patient) -> None:
    patient.export(0, SegmentationKind.BINARY)  # the program of 2022 does not know label maps
    assert patient.follow(SegmentationKind.BINARY).failures == ()
    for name in ("seg", "sr"):
        file = patient.folder / "out" / "dicom" / f"case_2.{name}.dcm"
        outcome = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, text=True, check=False)
        assert [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.startswith("Error")] == []


def test_an_instance_map_without_a_record_is_refused_and_the_tables_stay(patient: Patient) -> None:
    patient.results[1].record.unlink()
    outcome = patient.follow()
    assert [failure.case_id for failure in outcome.failures] == ["case"]
    assert str(patient.results[1].instances) in outcome.failures[0].problem
    assert [result.case_id for result in outcome.results] == ["case"]
    assert (patient.folder / "out" / "follow_up" / "case.json").is_file()


def test_a_segmentation_of_another_scan_is_refused(patient: Patient) -> None:
    patient.export(1)
    folder = patient.results[0].folder / "dicom"
    folder.mkdir()
    shutil.copy(patient.results[1].folder / "dicom" / "case.seg.dcm", folder / "case.seg.dcm")
    (failure,) = patient.follow().failures
    assert str(folder / "case.seg.dcm") in failure.problem


def test_a_segmentation_with_other_lesions_than_the_record_is_refused(patient: Patient) -> None:
    patient.export(0)
    del patient.results[0].boxes[5]
    patient.results[0].write()
    (failure,) = patient.follow().failures
    assert str(patient.results[0].folder / "dicom" / "case.seg.dcm") in failure.problem


def test_a_damaged_segmentation_of_the_earlier_scan_is_named(patient: Patient) -> None:
    patient.export(0)
    file = patient.results[0].folder / "dicom" / "case.seg.dcm"
    file.write_bytes(file.read_bytes()[:200])
    (failure,) = patient.follow().failures
    assert str(file) in failure.problem
