from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from detseg3d.cli.export_dicom import main
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image
from detseg3d.exports.dicom.options import DicomOptions, SegmentationKind
from detseg3d.pipeline.convert import ConvertOptions, convert_folders
from detseg3d.pipeline.export_dicom import export_dicom
from tests.data.formats.dicom.builders import SeriesBuilder, save, uid
from tests.exports.dicom.results import Results, identity_tags, make_source


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results", make_source("axial", tmp_path / "source")).write()


def change_record(results: Results, **entries: Any) -> None:
    record = json.loads(results.record.read_text(encoding="utf-8"))
    record["dicom"][0].update(entries)
    results.record.write_text(json.dumps(record), encoding="utf-8")


def failure(results: Results, source: Path, folder: Path) -> DetSeg3DError:
    """Return the error of the only case, and check that nothing was written."""
    exported = export_dicom(results.folder, source, folder)
    assert exported.files == {} and not list(folder.glob("*"))
    return exported.failures["case"]


def test_a_source_of_another_study_is_refused(results: Results, tmp_path: Path) -> None:
    SeriesBuilder(np.zeros((6, 9, 11), np.int16), study="another", extra=identity_tags()).write(tmp_path / "other")
    error = failure(results, tmp_path / "other", tmp_path / "out")
    assert (error.file, error.value) == (tmp_path / "other", uid("another"))
    assert error.expected is not None and uid("study") in error.expected


def test_a_source_without_the_series_is_refused(results: Results, tmp_path: Path) -> None:
    SeriesBuilder(np.zeros((6, 9, 11), np.int16), name="another", extra=identity_tags()).write(tmp_path / "other")
    error = failure(results, tmp_path / "other", tmp_path / "out")
    assert (error.file, error.value) == (tmp_path / "other", uid("study another"))


def test_another_frame_of_reference_is_refused(results: Results, tmp_path: Path) -> None:
    change_record(results, frame_of_reference_uid="1.2.3")
    error = failure(results, results.source, tmp_path / "out")
    assert (error.file, error.value) == (results.source, uid("study frame"))
    assert error.expected is not None and error.expected.startswith("1.2.3,")


def test_missing_slices_are_refused(results: Results, tmp_path: Path) -> None:
    last = max(results.source.iterdir(), key=lambda path: dcmread(path).InstanceNumber)
    last.unlink()
    error = failure(results, results.source, tmp_path / "out")
    assert (error.file, error.value) == (results.source, "5 slices, 0 of them unknown")


def test_a_source_of_another_shape_is_refused_without_identifiers(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("axial", tmp_path / "source"), with_identity=False).write()
    SeriesBuilder(np.zeros((6, 9, 12), np.int16), extra=identity_tags()).write(tmp_path / "other")
    error = failure(results, tmp_path / "other", tmp_path / "out")
    assert (error.file, error.value) == (results.instances, "6×9×11 voxels")


def test_two_patients_in_one_folder_are_refused(results: Results, tmp_path: Path) -> None:
    tags = {**identity_tags(), "PatientID": "another", "PatientName": "Secret"}
    SeriesBuilder(np.zeros((6, 9, 11), np.int16), study="another", name="b", extra=tags).write(results.source)
    error = failure(results, results.source, tmp_path / "out")
    assert error.file == results.source and str(error.value).startswith("2 patients")
    assert "Secret" not in str(error) and "another" not in str(error).replace("another folder", "")


def test_a_series_without_a_frame_of_reference_is_refused(tmp_path: Path) -> None:
    tags = {**identity_tags(), "FrameOfReferenceUID": None}
    SeriesBuilder(np.zeros((6, 9, 11), np.int16), extra=tags).write(tmp_path / "source")
    results = Results(tmp_path / "results", tmp_path / "source").write()
    error = failure(results, results.source, tmp_path / "out")
    assert error.file is not None and error.file.parent == results.source
    assert error.value == "without FrameOfReferenceUID"


def test_an_instance_map_that_was_edited_is_refused(results: Results, tmp_path: Path) -> None:
    image = nib.load(results.instances)
    array = np.asarray(image.dataobj).copy()
    array[array == 2] = 9
    nib.save(nib.Nifti1Image(array, image.affine, image.header), results.instances)
    error = failure(results, results.source, tmp_path / "out")
    assert (error.file, error.value) == (results.instances, "lesions 1, 3, 9 in the instance map")


def test_a_report_without_a_segmentation_is_refused() -> None:
    with pytest.raises(DetSeg3DError) as caught:
        DicomOptions(None, report=True)
    assert caught.value.value == "a report without a segmentation"


def test_the_results_of_an_image_in_another_format_are_placed_by_their_geometry(tmp_path: Path) -> None:
    results = Results(tmp_path / "results", make_source("oblique", tmp_path / "source"), with_identity=False).write()
    assert export_dicom(results.folder, results.source, tmp_path / "out").failures == {}


def test_one_bad_case_does_not_lose_the_others(tmp_path: Path) -> None:
    for name, orientation in (("a", "axial"), ("b", "coronal"), ("c", "sagittal")):
        Results(tmp_path / "results", make_source(orientation, tmp_path / "source" / name), case_id=name).write()
    (tmp_path / "results" / "instances" / "b.nii.gz").write_bytes(b"damaged")
    exported = export_dicom(tmp_path / "results", tmp_path / "source", tmp_path / "out")
    assert sorted(exported.files) == ["a", "c"] and sorted(exported.failures) == ["b"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("a.seg.dcm", "a.sr.dcm", "c.seg.dcm", "c.sr.dcm")
    ]


def test_the_command_writes_the_objects_and_returns_1_after_a_failure(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["-i", str(results.folder), "--source", str(results.source), "-o", str(tmp_path / "out"), "--rtstruct"]
    assert main([*words, "--dicom_seg", "binary", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["result"]["files"]["case"]
    assert [Path(file).name for file in files] == ["case.seg.dcm", "case.sr.dcm", "case.rtstruct.dcm"]
    assert dcmread(files[0]).SegmentationType == "BINARY"
    assert main([*words, "--dicom_seg", "none"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.rtstruct.dcm"]
    change_record(results, frame_of_reference_uid="1.2.3")
    assert main(words) == 1
    assert main([*words, "--dicom_seg", "none", "--dicom_sr"]) == 1


def test_codes_of_a_dataset_json_replace_those_of_the_results(results: Results, tmp_path: Path) -> None:
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "Läsion": 1},
        "codes": {"Läsion": {"finding": ["4147007", "SCT", "Mass"]}},
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    words = ["-i", str(results.folder), "--source", str(results.source), "-o", str(tmp_path / "out")]
    assert main([*words, "--codes", str(tmp_path / "dataset.json")]) == 0
    segment = dcmread(tmp_path / "out" / "case.seg.dcm").SegmentSequence[1]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Mass"


@pytest.mark.parametrize("kind", list(SegmentationKind))
@pytest.mark.parametrize("source", ["oblique", "enhanced, frames in mixed order"])
@pytest.mark.parametrize("instances", [True, False])
def test_written_segmentations_are_labels_of_a_data_set(
    kind: SegmentationKind, source: str, instances: bool, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    results = Results(tmp_path / "results", make_source(source, images / "case")).write()
    assert export_dicom(results.folder, images, tmp_path / "labels", DicomOptions(kind)).failures == {}
    folder = convert_folders(
        images, tmp_path / "labels", tmp_path / "raw", ConvertOptions("Dataset001_X", instances=instances)
    )
    label = read_image(ImageSource(folder / "labelsTr" / "case.nii.gz"))
    expected = read_image(ImageSource(results.instances)).array
    np.testing.assert_array_equal(label.array, expected if instances else expected > 0)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {"background": 0, ("lesion" if instances else "Läsion"): 1}


def test_segments_become_classes_by_a_table(results: Results, tmp_path: Path) -> None:
    from detseg3d.cli.convert import main as convert

    export_dicom(results.folder, results.source, tmp_path / "labels")
    (tmp_path / "images").mkdir()
    results.source.rename(tmp_path / "images" / "case")
    (tmp_path / "table.json").write_text(json.dumps({"1": "a", "2": None, "3": "b"}), encoding="utf-8")
    words = ["--image_dir", str(tmp_path / "images"), "--label_dir", str(tmp_path / "labels")]
    words += ["--output_dir", str(tmp_path / "raw"), "--dataset_name", "Dataset001_X"]
    words += ["--segments", str(tmp_path / "table.json"), "--labels", "a=2", "b=1"]
    assert convert(words) == 0
    label = read_image(ImageSource(tmp_path / "raw" / "Dataset001_X" / "labelsTr" / "case.nii.gz")).array
    expected = read_image(ImageSource(results.instances)).array
    np.testing.assert_array_equal(label, np.select([expected == 1, expected == 3], [2, 1], 0))
    assert convert([*words, "--overwrite", "--instances"]) == 0
    classes = json.loads((tmp_path / "raw" / "Dataset001_X" / "labelsTr" / "case.json").read_text(encoding="utf-8"))
    assert classes["instances"] == {"1": 1, "3": 0}


def test_segmentations_on_another_frame_of_reference_are_no_labels(results: Results, tmp_path: Path) -> None:
    export_dicom(results.folder, results.source, tmp_path / "labels", DicomOptions(report=False))
    file = tmp_path / "labels" / "case.seg.dcm"
    dataset = dcmread(file)
    dataset.FrameOfReferenceUID = "1.2.3"
    save(dataset, file)
    (tmp_path / "images").mkdir()
    results.source.rename(tmp_path / "images" / "case")
    with pytest.raises(DetSeg3DError) as caught:
        convert_folders(tmp_path / "images", tmp_path / "labels", tmp_path / "raw", ConvertOptions("Dataset001_X"))
    assert "1.2.3" in str(caught.value) and uid("study frame") in str(caught.value)
