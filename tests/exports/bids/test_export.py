from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.bids.names import BidsFile, parse_bids_name
from detseg3d.data.bids.tables import read_class_names
from detseg3d.exports.bids.export import write_case, write_description
from detseg3d.system.json_files import read_json
from tests.exports.bids.validation import needs_validator, validate
from tests.exports.results import GEOMETRIES, two_lesions, write_results

CLASSES = {"kind 1": 1, "kind 2": 2}


def write_prediction(folder: Path, case_id: str, name: str = "oblique", empty: bool = False) -> Path:
    """Write the result of a scan with lesions of two classes, or without lesions; return the folder."""
    geometry = GEOMETRIES[name]
    instances = two_lesions(geometry.shape) * (0 if empty else 1)
    write_results(folder, geometry, instances, case_id)
    (folder / f"{case_id}.nii.gz").write_bytes((folder / "instances" / f"{case_id}.nii.gz").read_bytes())
    return folder


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@needs_validator
def test_the_validator_of_bids_finds_no_errors(tmp_path: Path) -> None:
    results, output = tmp_path / "results", tmp_path / "out"
    cases = ("sub-01", "sub-02_ses-1", "sub-02_ses-2_acq-x_run-1_FLAIR", "sub-03_rec-TRACE_dwi", "sub-04_space-MNI_T1w")
    write_description(output)
    for index, case_id in enumerate(cases):
        write_prediction(results, case_id, sorted(GEOMETRIES)[index], empty=index == 1)
        write_case(results, case_id, output, CLASSES)
    issues = validate(output)
    assert [issue for issue in issues if issue.startswith("error")] == [], issues
    # The validator must notice a wrong file.
    wrong = output / "sub-01/anat/sub-01_desc-lesions_label-x_dseg.nii.gz"
    wrong.write_bytes((output / "sub-01/anat/sub-01_desc-lesions_dseg.nii.gz").read_bytes())
    assert f"/{wrong.relative_to(output)}" in set().union(
        *(files for issue, files in validate(output).items() if issue.startswith("error"))
    )


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_voxels_and_grid_are_those_of_the_instance_map(tmp_path: Path, name: str) -> None:
    results = write_prediction(tmp_path / "results", "sub-01", name)
    source = nibabel.load(results / "instances/sub-01.nii.gz")
    write_case(results, "sub-01", tmp_path / "out", CLASSES)
    place = tmp_path / "out/sub-01/anat"
    lesions = place / "sub-01_desc-lesions_dseg.nii.gz"
    assert lesions.read_bytes() == (results / "instances/sub-01.nii.gz").read_bytes()
    mask = nibabel.load(place / "sub-01_label-lesion_mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), np.asarray(source.dataobj) > 0)
    assert np.array_equal(mask.affine, source.affine)


def test_the_table_has_one_row_per_lesion_with_its_number_in_the_map(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01")
    record = read_json(results / "rois/sub-01.json")
    write_case(results, "sub-01", tmp_path / "out")
    place = tmp_path / "out/sub-01/anat"
    with (place / "sub-01_desc-lesions_dseg.tsv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [row["index"] for row in rows] == ["1", "2"]
    assert [row["class"] for row in rows] == ["kind 1", "kind 2"]
    by_number = {str(lesion["id"]): lesion for lesion in record["lesions"]}
    for row in rows:
        lesion = by_number[row["index"]]
        assert float(row["score"]) == lesion["score"]
        assert float(row["volume_mm3"]) == pytest.approx(lesion["volume_mm3"], rel=1e-5)
        assert float(row["center_front_back_mm"]) == pytest.approx(lesion["centroid_world"][1], rel=1e-4)
        assert row["border_distance_mm"] == "n/a"
    sidecar = read_json(place / "sub-01_desc-lesions_dseg.json")
    assert set(rows[0]) - {"index", "name"} <= set(sidecar)


def test_the_classes_of_a_result_are_read_as_the_classes_of_labels(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01")
    written = write_case(results, "sub-01", tmp_path / "out", CLASSES)
    file = tmp_path / "out/sub-01/anat/sub-01_desc-classes_dseg.nii.gz"
    name = parse_bids_name(file)
    assert file in written and name is not None
    assert read_class_names([BidsFile(file, name)], tmp_path) == CLASSES


def test_a_new_export_leaves_no_file_of_an_earlier_one(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01")
    first = write_case(results, "sub-01", tmp_path / "out", CLASSES)
    second = write_case(results, "sub-01", tmp_path / "out", {"kind 1": 1})
    left = {path for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left == set(second) < set(first)


def test_a_scan_without_lesions_has_an_empty_mask_and_an_empty_table(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01", empty=True)
    write_case(results, "sub-01", tmp_path / "out")
    place = tmp_path / "out/sub-01/anat"
    assert not voxels(place / "sub-01_label-lesion_mask.nii.gz").any()
    assert len((place / "sub-01_desc-lesions_dseg.tsv").read_text(encoding="utf-8").splitlines()) == 1


def test_results_in_another_format_become_nifti(tmp_path: Path) -> None:
    import SimpleITK

    results = write_prediction(tmp_path / "results", "sub-01")
    instances = results / "instances/sub-01.nii.gz"
    expected = SimpleITK.ReadImage(str(instances))
    SimpleITK.WriteImage(expected, str(results / "instances/sub-01.nrrd"))
    instances.unlink()
    write_case(results, "sub-01", tmp_path / "out")
    written = SimpleITK.ReadImage(str(tmp_path / "out/sub-01/anat/sub-01_desc-lesions_dseg.nii.gz"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(written), SimpleITK.GetArrayFromImage(expected))
    assert np.allclose(written.GetDirection(), expected.GetDirection())


def test_an_edited_instance_map_is_refused(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01")
    record = read_json(results / "rois/sub-01.json")
    record["lesions"] = record["lesions"][:1]
    (results / "rois/sub-01.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        write_case(results, "sub-01", tmp_path / "out")
    assert (error.value.file, error.value.value) == (results / "instances/sub-01.nii.gz", [1])
    assert not (tmp_path / "out").exists()


def test_the_model_and_the_program_are_named(tmp_path: Path) -> None:
    results = write_prediction(tmp_path / "results", "sub-01")
    record = read_json(results / "rois/sub-01.json")
    record["model"] = {"name": "Dataset001_X", "digest": "abc", "version": "9.9"}
    (results / "rois/sub-01.json").write_text(json.dumps(record), encoding="utf-8")
    write_case(results, "sub-01", tmp_path / "out")
    sidecar = read_json(tmp_path / "out/sub-01/anat/sub-01_label-lesion_mask.json")
    names = [sidecar[key] for key in ("Program", "Model", "ModelWeightsSHA256", "Type")]
    assert names == ["DetSeg3D 9.9", "Dataset001_X", "abc", "Lesion"]
    write_description(tmp_path / "new")
    description = read_json(tmp_path / "new/dataset_description.json")
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"][0]["Name"] == "DetSeg3D"


@pytest.mark.parametrize(
    "content", ['{"Name": "Study", "BIDSVersion": "1.9.0"}', '{"GeneratedBy": [{"Name": "x"}]}', "[]", None]
)
def test_a_folder_of_another_data_set_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "sub-01").mkdir()
    file = tmp_path / "dataset_description.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        write_description(tmp_path)
    assert error.value.file == tmp_path
    assert file.exists() is (content is not None) and not (tmp_path / "README.md").exists()


def test_a_derivative_of_this_program_is_extended(tmp_path: Path) -> None:
    write_description(tmp_path)
    (tmp_path / "sub-01").mkdir()
    write_description(tmp_path)
