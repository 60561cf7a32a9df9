from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.exports.viewers.export import ViewerFormat, export_for_viewers
from tests.exports.results import GEOMETRIES, two_lesions, write_results


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_each_lesion_has_a_point_inside_and_its_box(tmp_path: Path, name: str) -> None:
    geometry = GEOMETRIES[name]
    write_results(tmp_path, geometry, two_lesions(geometry.shape))
    export_for_viewers(tmp_path, "a", [ViewerFormat.PROMPTS])
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "instances" / "a.nii.gz")))
    prompts = json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8"))
    assert list(prompts) == ["1", "2"]
    for number, prompt in prompts.items():
        mask = array == int(number)
        # The centroid of the curved lesion 1 lies outside, but the point does not.
        assert mask[tuple(prompt["point"])]
        z0, z1, y0, y1, x0, x1 = prompt["box"]
        assert np.count_nonzero(mask[z0:z1, y0:y1, x0:x1]) == np.count_nonzero(mask)
        assert (z1 - z0, y1 - y0, x1 - x0) == tuple(np.ptp(np.argwhere(mask), axis=0) + 1)
    assert prompts["2"]["score"] == 0.8 and prompts["2"]["class"] == "kind 2"


def test_the_point_is_the_voxel_nearest_to_the_centroid(tmp_path: Path) -> None:
    instances = np.zeros((8, 9, 10), np.uint16)
    instances[2:5, 3:6, 4:9] = 1
    write_results(tmp_path, GEOMETRIES["axial"], instances)
    export_for_viewers(tmp_path, "a", [ViewerFormat.PROMPTS])
    prompts = json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8"))
    assert prompts["1"]["point"] == [3, 4, 6]


def test_without_lesions_the_file_is_an_empty_object(tmp_path: Path) -> None:
    write_results(tmp_path, GEOMETRIES["axial"], np.zeros((8, 9, 10), np.uint16))
    export_for_viewers(tmp_path, "a", [ViewerFormat.PROMPTS])
    assert json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8")) == {}


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_the_file_has_the_form_that_lesion_locator_documents(tmp_path: Path, name: str) -> None:
    """Its reader goes through the keys "1", "2", … and reads z y x, or six numbers with ends after starts."""
    geometry = GEOMETRIES[name]
    write_results(tmp_path, geometry, two_lesions(geometry.shape))
    export_for_viewers(tmp_path, "a", [ViewerFormat.PROMPTS])
    prompts = json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8"))
    shape = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "instances" / "a.nii.gz"))).shape
    assert [prompts.get(str(number)) is not None for number in range(1, max(map(int, prompts)) + 1)] == [True, True]
    for prompt in prompts.values():
        z, y, x = (float(value) for value in prompt["point"])
        z0, z1, y0, y1, x0, x1 = (float(value) for value in prompt["box"])
        assert 0 <= z0 <= z < z1 <= shape[0] and 0 <= y0 <= y < y1 <= shape[1] and 0 <= x0 <= x < x1 <= shape[2]


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_the_box_of_a_slice_has_the_form_that_nn_interactive_documents(tmp_path: Path, name: str) -> None:
    """Its models take half-open boxes with exactly one slice."""
    geometry = GEOMETRIES[name]
    write_results(tmp_path, geometry, two_lesions(geometry.shape))
    export_for_viewers(tmp_path, "a", [ViewerFormat.PROMPTS])
    array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "instances" / "a.nii.gz")))
    for number, prompt in json.loads((tmp_path / "prompts" / "a.json").read_text(encoding="utf-8")).items():
        z0, z1, y0, y1, x0, x1 = prompt["slice_box"]
        assert (z0, z1) == (prompt["point"][0], prompt["point"][0] + 1)
        rows, columns = np.nonzero(array[z0] == int(number))
        assert (y0, y1, x0, x1) == (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
