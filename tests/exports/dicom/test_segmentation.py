from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import UID

from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind
from detseg3d.pipeline.export_dicom import export_dicom
from tests.exports.dicom.results import (
    SOURCES,
    Results,
    make_source,
    read_with_highdicom,
    read_with_pydicom,
    true_lesions,
)

KINDS = list(SegmentationKind)


def export(results: Results, folder: Path, kind: SegmentationKind = SegmentationKind.LABELMAP) -> Path:
    exported = export_dicom(results.folder, results.source, folder, DicomOptions(kind, report=False))
    assert exported.failures == {}
    return folder / f"{results.case_id}.seg.dcm"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOURCES)
def test_two_readers_find_each_voxel_of_the_instance_map(name: str, kind: SegmentationKind, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    file = export(results, tmp_path / "dicom", kind)
    expected = true_lesions(results.instances)
    assert len(expected) == 8 + 9 + 10
    assert read_with_pydicom(file, results.instances) == expected
    assert read_with_highdicom(file, results.instances) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOURCES)
def test_each_frame_refers_to_the_slice_at_its_place(name: str, kind: SegmentationKind, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    written = dcmread(export(results, tmp_path / "dicom", kind))
    objects = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, sorted(results.source.iterdir()))}
    for frame in written.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0]
        source = objects[reference.ReferencedSOPInstanceUID]
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        place = np.array(source.get("ImagePositionPatient", (0, 0, 0)), float)
        if "PerFrameFunctionalGroupsSequence" in source:
            groups = source.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
            place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        elif "GridFrameOffsetVector" in source:
            place[2] += source.GridFrameOffsetVector[reference.ReferencedFrameNumber - 1]
        else:
            assert "ReferencedFrameNumber" not in reference
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, place, atol=1e-6)
    series = written.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == next(iter(objects.values())).SeriesInstanceUID
    listed = [instance.ReferencedSOPInstanceUID for instance in series.ReferencedInstanceSequence]
    assert sorted(listed) == sorted(objects)
    assert {i.ReferencedSOPClassUID for i in series.ReferencedInstanceSequence} == {
        dataset.SOPClassUID for dataset in objects.values()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_segments_describe_the_lesions(kind: SegmentationKind, tmp_path: Path) -> None:
    liver = {"finding": ["103552005", "SCT", "Cyst"], "site": ["10200004", "SCT", "Liver"]}
    source = make_source("axial", tmp_path / "source")
    results = Results(tmp_path / "results", source, codes=liver).write()
    segmentation = highdicom.seg.segread(export(results, tmp_path / "dicom", kind))
    assert segmentation.SOPClassUID == UID(
        "1.2.840.10008.5.1.4.1.1.66.7" if kind is SegmentationKind.LABELMAP else "1.2.840.10008.5.1.4.1.1.66.4"
    )
    assert segmentation.segment_numbers == [1, 2, 3]
    for number in (1, 2, 3):
        segment = segmentation.get_segment_description(number)
        assert segment.SegmentLabel == f"Lesion {number}: Läsion ({0.5 + 0.1 * number:.2f})"
        assert segment.tracking_id == f"Lesion {number}"
        assert segment.algorithm_type == highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC
        assert segment.algorithm_identification[0].AlgorithmVersion == "1.2.3"
        assert "Dataset007_Test" in segment.algorithm_identification[0].AlgorithmName
        assert segment.segmented_property_type.meaning == "Cyst"
        assert [region.meaning for region in segment.anatomic_regions] == ["Liver"]
    colours = {
        tuple(segmentation.get_segment_description(number).RecommendedDisplayCIELabValue) for number in (1, 2, 3)
    }
    assert len(colours) == 3


@pytest.mark.parametrize("numbers", [(1,), (2, 300)])
def test_one_lesion_and_numbers_with_gaps_are_written_as_labelmap(numbers: tuple[int, ...], tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("oblique", tmp_path / "source"), numbers=numbers).write()
    file = export(results, tmp_path / "dicom")
    assert read_with_pydicom(file, results.instances) == true_lesions(results.instances)
    assert read_with_highdicom(file, results.instances) == true_lesions(results.instances)


def test_numbers_with_gaps_cannot_be_binary(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source"), numbers=(1, 3)).write()
    exported = export_dicom(
        results.folder, results.source, tmp_path / "dicom", DicomOptions(SegmentationKind.BINARY, report=False)
    )
    error = exported.failures["case"]
    assert (error.file, error.value) == (results.instances, "1, 3")
    assert not (tmp_path / "dicom" / "case.seg.dcm").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_one_binary_or_labelmap_lesion_is_read_by_both_readers(kind: SegmentationKind, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("flipped", tmp_path / "source"), numbers=(1,)).write()
    file = export(results, tmp_path / "dicom", kind)
    assert read_with_pydicom(file, results.instances) == true_lesions(results.instances)
    assert read_with_highdicom(file, results.instances) == true_lesions(results.instances)


def test_patient_and_study_follow_the_source(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    written = dcmread(export(results, tmp_path / "dicom"))
    source = dcmread(next(results.source.iterdir()))
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID", "StudyDate"),
        *("StudyTime", "StudyID", "AccessionNumber", "StudyDescription", "ReferringPhysicianName"),
        "FrameOfReferenceUID",
    ):
        assert written[keyword].value == source[keyword].value, keyword
    assert str(written.PatientName) == "Müller^Änne"
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    assert written.SeriesNumber == 101


def test_attributes_that_the_source_lacks_stay_empty(tmp_path: Path) -> None:
    source = make_source("enhanced", tmp_path / "source")
    results = Results(tmp_path / "results", source).write()
    written = dcmread(export(results, tmp_path / "dicom"))
    assert written.PatientName == "Synthetic" and written.PatientID == "P1"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID"):
        assert not written[keyword].value, keyword
    assert "PatientAge" not in written


def test_a_second_export_has_the_same_tracking_and_new_objects(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    first, second = (dcmread(export(results, tmp_path / name)) for name in ("first", "second"))
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    identifiers = [[str(s.TrackingUID) for s in d.SegmentSequence[1:]] for d in (first, second)]
    assert identifiers[0] == identifiers[1] and len(set(identifiers[0])) == 3
