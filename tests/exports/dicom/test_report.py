from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from highdicom.sr import MeasurementReport
from pydicom import Dataset, dcmread

from detseg3d.exports.dicom.options import DicomOptions
from detseg3d.pipeline.export_dicom import export_dicom
from tests.exports.dicom.results import Results, make_source


def export(results: Results, folder: Path, **options: Any) -> tuple[Dataset, Dataset]:
    """Return the report and the segmentation as pydicom reads them."""
    exported = export_dicom(results.folder, results.source, folder, DicomOptions(**options))
    assert exported.failures == {}
    return dcmread(folder / "case.sr.dcm"), dcmread(folder / "case.seg.dcm")


def content(dataset: Dataset) -> MeasurementReport:
    return highdicom.sr.Comprehensive3DSR.from_dataset(dataset).content


def values(group: Any) -> dict[tuple[str, str], tuple[float, str]]:
    """Return value and unit of the measurements of a group, by their names and derivations."""
    return {
        (m.name.meaning, "" if m.derivation is None else m.derivation.meaning): (m.value, m.unit.value)
        for m in group.get_measurements()
    }


def lesions(results: Results) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(results.record.read_text(encoding="utf-8"))["lesions"]
    return entries


@pytest.mark.parametrize("name", ["oblique", "several enhanced objects"])
def test_each_lesion_has_its_measures(name: str, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    report, segmentation = export(results, tmp_path / "dicom")
    groups = content(report).get_volumetric_roi_measurement_groups()
    tracking = {segment.SegmentNumber: segment.get("TrackingUID") for segment in segmentation.SegmentSequence}
    assert len(groups) == 3
    for group, lesion in zip(groups, lesions(results), strict=True):
        number = lesion["id"]
        assert (group.tracking_identifier, group.tracking_uid) == (f"Lesion {number}", tracking[number])
        assert group.finding_type.meaning == "Lesion" and group.finding_sites == []
        found = values(group)
        expected = {
            ("Volume", ""): (lesion["volume_mm3"], "mm3"),
            ("Long axis", ""): (lesion["long_axis_mm"], "mm"),
            ("Short axis", ""): (lesion["short_axis_mm"], "mm"),
            ("Diameter", "Maximum"): (lesion["maximum_diameter_mm"], "mm"),
            ("Certainty of Finding", ""): (100 * lesion["score"], "%"),
            ("Attenuation Coefficient", "Mean"): (lesion["intensities"][0]["mean"], "[hnsf'U]"),
            ("Attenuation Coefficient", "Standard Deviation"): (
                lesion["intensities"][0]["standard_deviation"],
                "[hnsf'U]",
            ),
        }
        for key, (value, unit) in expected.items():
            assert found[key][0] == pytest.approx(value, rel=1e-9) and found[key][1] == unit, key
        segment = group.referenced_segment[0]
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert segment.referenced_segment_numbers == [number]


@pytest.mark.parametrize("name", ["axial", "enhanced, frames in mixed order"])
def test_the_end_points_of_the_axes_are_in_the_frame_of_reference(name: str, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    report, segmentation = export(results, tmp_path / "dicom")
    groups = content(report).get_image_measurement_groups()
    regions = content(report).get_volumetric_roi_measurement_groups()
    assert len(groups) == 3
    for group, region, lesion in zip(groups, regions, lesions(results), strict=True):
        assert group.tracking_uid == region.tracking_uid
        for name_, key in (("Long axis", "long_axis"), ("Short axis", "short_axis"), ("Diameter", "maximum_diameter")):
            (measurement,) = (m for m in group.get_measurements() if m.name.meaning == name_)
            (line,) = measurement.referenced_coordinates
            assert line.value_type.value == "SCOORD3D" and line.graphic_type.value == "POLYLINE"
            assert line.frame_of_reference_uid == segmentation.FrameOfReferenceUID
            np.testing.assert_allclose(line.value, lesion[f"{key}_ends"]["world"], atol=1e-4)
            assert measurement.value == pytest.approx(lesion[f"{key}_mm"])


@pytest.mark.parametrize("name", ["sagittal", "enhanced, frames in mixed order", "several enhanced objects"])
def test_the_images_of_a_lesion_are_those_of_its_frames_in_the_segmentation(name: str, tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source(name, tmp_path / "source")).write()
    report, segmentation = export(results, tmp_path / "dicom")
    pixels = segmentation.pixel_array
    for group in content(report).get_volumetric_roi_measurement_groups():
        segment, *images = group.referenced_segment
        (number,) = segment.referenced_segment_numbers
        expected = set()
        for frame, own in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
            if (frame == number).any():
                image = own.DerivationImageSequence[0].SourceImageSequence[0]
                expected.add((image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")))
        found = set()
        for image in images:
            frames = image.referenced_frame_numbers or [None]
            found |= {(image.referenced_sop_instance_uid, frame) for frame in frames}
        assert found == expected


def test_finding_and_site_are_those_of_the_class(tmp_path: Path) -> None:
    codes = {"finding": ["4147007", "SCT", "Mass"], "site": ["10200004", "SCT", "Liver"]}
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source"), codes=codes).write()
    report, _ = export(results, tmp_path / "dicom")
    for group in content(report).get_volumetric_roi_measurement_groups():
        assert (group.finding_type.value, group.finding_type.scheme_designator) == ("4147007", "SCT")
        assert [site.value.meaning for site in group.finding_sites] == ["Liver"]


def test_the_report_belongs_to_the_study_and_lists_all_its_evidence(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    report, segmentation = export(results, tmp_path / "dicom")
    source = dcmread(next(results.source.iterdir()))
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber"):
        assert report[keyword].value == source[keyword].value
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    listed = {
        instance.ReferencedSOPInstanceUID
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword, ())
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    slices = {str(dcmread(path).SOPInstanceUID) for path in results.source.iterdir()}
    assert listed == slices | {segmentation.SOPInstanceUID}


def test_values_of_another_kind_are_not_hounsfield_units(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    record = json.loads(results.record.read_text(encoding="utf-8"))
    for modality, suv, name, unit in (
        ("PT", True, "SUVbw", "g/ml{SUVbw}"),
        ("MR", False, "MR signal intensity", "1"),
        ("PT", False, "Voxel value", "1"),
    ):
        record["dicom"][0].update(modality=modality, suv=suv)
        results.record.write_text(json.dumps(record), encoding="utf-8")
        report, _ = export(results, tmp_path / "dicom")
        group = content(report).get_volumetric_roi_measurement_groups()[0]
        assert values(group)[name, "Mean"][1] == unit


def test_without_lesions_the_report_states_that_none_was_found(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()
    export(results, tmp_path / "dicom", contours=True)
    assert len(list((tmp_path / "dicom").iterdir())) == 3
    results.numbers = ()
    results.write()
    exported = export_dicom(results.folder, results.source, tmp_path / "dicom", DicomOptions(contours=True))
    assert exported.files["case"] == (tmp_path / "dicom" / "case.sr.dcm",)
    assert [path.name for path in (tmp_path / "dicom").iterdir()] == ["case.sr.dcm"]
    report = dcmread(tmp_path / "dicom" / "case.sr.dcm")
    assert content(report).get_volumetric_roi_measurement_groups() == []
    (container,) = (item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "C0034375")
    (finding,) = container.ContentSequence
    assert finding.ConceptNameCodeSequence[0].CodeMeaning == "Finding"
    assert finding.ConceptCodeSequence[0].CodeMeaning == "None"
