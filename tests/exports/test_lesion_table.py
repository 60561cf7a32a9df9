from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.exports.lesion_table import list_predicted_cases, read_lesion_table

ENDS = {"voxel": [[0.5, 0.5, 0.0], [0.5, 0.5, 2.0]], "world": [[-0.5, 0.0, 0.0], [1.5, 0.0, 0.0]]}
LESION: dict[str, Any] = {
    "id": 2,
    "class": "metastasis",
    "label": 3,
    "score": 0.75,
    "detection_score": 0.8,
    "box": [0.0, 0.0, 0.0, 1.0, 1.0, 2.0],
    "voxels": 2,
    "volume_mm3": 2.0,
    "diameter_mm": 1.563,
    "centroid": [0.5, 0.5, 1.0],
    "centroid_world": [0.5, 0.0, 0.0],
    "long_axis_mm": 2.0,
    "short_axis_mm": 1.0,
    "long_axis_ends": ENDS,
    "short_axis_ends": ENDS,
    "slice_axis": "z",
    "slice_index": 0,
    "maximum_diameter_mm": 2.0,
    "maximum_diameter_ends": ENDS,
    "surface_mm2": 8.0,
    "sphericity": 0.8,
    "intensities": [
        {"channel": "CT", "mean": 40.0, "standard_deviation": 1.5, "minimum": 38.5, "maximum": 41.5},
    ],
    "border_distance_mm": None,
}


def write_record(folder: Path, lesions: list[dict[str, Any]], case_id: str = "case.1") -> Path:
    (folder / "rois").mkdir(exist_ok=True)
    record = folder / "rois" / f"{case_id}.json"
    record.write_text(json.dumps({"case_id": case_id, "lesions": lesions}), encoding="utf-8")
    (folder / "instances").mkdir(exist_ok=True)
    write_image(np.zeros((1, 1, 2), np.uint16), Geometry((1, 1, 2)), folder / "instances" / f"{case_id}.nii.gz")
    return record


def test_lesions_are_listed_by_ascending_number(tmp_path: Path) -> None:
    write_record(tmp_path, [LESION, {**LESION, "id": 1, "score": 0.5}])
    table = read_lesion_table(tmp_path, "case.1")
    assert [(lesion.number, lesion.score) for lesion in table.lesions] == [(1, 0.5), (2, 0.75)]
    assert table.instances == tmp_path / "instances" / "case.1.nii.gz"
    assert table.dicom == ()


def test_a_lesion_keeps_class_box_and_measures(tmp_path: Path) -> None:
    write_record(tmp_path, [LESION])
    [lesion] = read_lesion_table(tmp_path, "case.1").lesions
    assert (lesion.class_name, lesion.label, lesion.box) == ("metastasis", 3, (0, 0, 0, 1, 1, 2))
    assert lesion.measures.long_axis_ends.world == ((-0.5, 0.0, 0.0), (1.5, 0.0, 0.0))
    assert lesion.measures.intensities[0].mean == 40
    assert lesion.measures.border_distance_mm is None
    assert lesion.codes == ClassCodes()


def test_stated_codes_are_read(tmp_path: Path) -> None:
    finding = {"value": "4147007", "scheme": "SCT", "meaning": "Mass"}
    write_record(tmp_path, [{**LESION, "codes": {"finding": finding, "site": None}}])
    [lesion] = read_lesion_table(tmp_path, "case.1").lesions
    assert lesion.codes == ClassCodes(Code("4147007", "SCT", "Mass"))


def test_a_case_without_lesions_has_an_empty_table(tmp_path: Path) -> None:
    write_record(tmp_path, [])
    assert read_lesion_table(tmp_path, "case.1").lesions == ()


@pytest.mark.parametrize("key", ["id", "class", "score", "long_axis_ends", "sphericity"])
def test_a_record_without_an_entry_is_refused(tmp_path: Path, key: str) -> None:
    record = write_record(tmp_path, [{name: value for name, value in LESION.items() if name != key}])
    with pytest.raises(DetSeg3DError) as error:
        read_lesion_table(tmp_path, "case.1")
    assert error.value.file == record


@pytest.mark.parametrize("content", ["[]", "{}", '{"lesions": 1}', '{"lesions": [1]}'])
def test_another_json_file_is_refused(tmp_path: Path, content: str) -> None:
    record = write_record(tmp_path, [])
    record.write_text(content, encoding="utf-8")
    with pytest.raises(DetSeg3DError) as error:
        read_lesion_table(tmp_path, "case.1")
    assert error.value.file == record


def test_a_missing_instance_map_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, [LESION])
    (tmp_path / "instances" / "case.1.nii.gz").unlink()
    with pytest.raises(DetSeg3DError) as error:
        read_lesion_table(tmp_path, "case.1")
    assert error.value.file == tmp_path / "instances"


def test_the_cases_of_a_folder_are_listed(tmp_path: Path) -> None:
    write_record(tmp_path, [], "b")
    write_record(tmp_path, [], "a")
    assert list_predicted_cases(tmp_path) == ("a", "b")


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as error:
        list_predicted_cases(tmp_path)
    assert error.value.file == tmp_path
