from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK

from detseg3d.core.codes import ClassCodes, Code
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_geometry
from detseg3d.exports.colors import lesion_color
from detseg3d.exports.viewers.export import ViewerFormat, export_for_viewers
from tests.exports.results import GEOMETRIES, two_lesions, write_results


@pytest.fixture(params=sorted(GEOMETRIES))
def geometry(request: pytest.FixtureRequest) -> Geometry:
    return GEOMETRIES[request.param]


def export(folder: Path, geometry: Geometry, instances: np.ndarray | None = None, codes: Any = None) -> dict[str, Any]:
    lesions = two_lesions(geometry.shape) if instances is None else instances
    record = write_results(folder, geometry, lesions, codes=codes)
    export_for_viewers(folder, "a", [ViewerFormat.SLICER])
    return {lesion["id"]: lesion for lesion in record["lesions"]}


def instance_map(folder: Path) -> SimpleITK.Image:
    return SimpleITK.ReadImage(str(folder / "instances" / "a.nii.gz"))


def world_centroid(folder: Path, number: int) -> np.ndarray:
    """Return the centroid of a lesion in LPS by SimpleITK, from the instance map alone."""
    image = instance_map(folder)
    voxels = np.argwhere(SimpleITK.GetArrayFromImage(image) == number).mean(axis=0)
    return np.array(image.TransformContinuousIndexToPhysicalPoint(voxels[::-1].tolist()))


def markups(folder: Path) -> list[dict[str, Any]]:
    data = json.loads((folder / "slicer" / "a.mrk.json").read_text(encoding="utf-8"))
    assert data["@schema"].endswith("markups-schema-v1.0.3.json#")
    return list(data["markups"])


def segments(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of each segment in the header, without the prefix."""
    found: dict[int, dict[str, Any]] = {}
    for key, value in header.items():
        if key.startswith("Segment") and key[7].isdigit():
            number, name = key[7:].split("_", 1)
            found.setdefault(int(number), {})[name] = value
    return [found[number] for number in sorted(found)]


# -- The segmentation --------------------------------------------------------------------------------------------------


def test_the_segmentation_has_the_voxels_and_the_grid_of_the_instance_map(tmp_path: Path, geometry: Geometry) -> None:
    export(tmp_path, geometry)
    expected, image = instance_map(tmp_path), SimpleITK.ReadImage(str(tmp_path / "slicer" / "a.seg.nrrd"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(expected))
    np.testing.assert_allclose(image.GetOrigin(), expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(image.GetSpacing(), expected.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), expected.GetDirection(), atol=1e-4)


def test_a_second_reader_finds_the_segments(tmp_path: Path, geometry: Geometry) -> None:
    export(tmp_path, geometry)
    voxels, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    assert header["space"] == "left-posterior-superior"
    first, second = segments(header)
    assert (first["Name"], first["LabelValue"], first["Layer"], first["ID"]) == ("1 kind 1", "1", "0", "lesion_1")
    assert (second["Name"], second["LabelValue"]) == ("2 kind 2", "2")
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    for segment in (first, second):
        x0, x1, y0, y1, z0, z1 = (int(value) for value in segment["Extent"].split())
        inside = np.zeros(voxels.shape, bool)
        inside[x0 : x1 + 1, y0 : y1 + 1, z0 : z1 + 1] = True
        mask = voxels == int(segment["LabelValue"])
        assert mask.any() and not (mask & ~inside).any()
        assert (x1 - x0 + 1, y1 - y0 + 1, z1 - z0 + 1) == tuple(np.ptp(np.argwhere(mask), axis=0) + 1)


def test_segments_have_different_colours(tmp_path: Path) -> None:
    export(tmp_path, GEOMETRIES["axial"])
    _, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    colors = [[float(value) for value in segment["Color"].split()] for segment in segments(header)]
    assert all(0 <= value <= 1 for color in colors for value in color)
    assert np.abs(np.subtract(*colors)).max() > 0.3


def test_hundred_lesions_have_different_colours() -> None:
    assert len({lesion_color(number) for number in range(1, 101)}) == 100


def test_the_terminology_has_the_codes_of_the_class(tmp_path: Path) -> None:
    codes = ClassCodes(Code("4147007", "SCT", "Mass"), Code("10200004", "SCT", "Liver"))
    stated = {"finding": vars(codes.finding), "site": vars(codes.site)}
    export(tmp_path, GEOMETRIES["axial"], codes=stated)
    _, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    tags = dict(tag.split(":", 1) for tag in segments(header)[0]["Tags"].split("|") if tag)
    # Seven parts: context, category, type, modifier, context of regions, region, modifier of the region.
    parts = tags["TerminologyEntry"].split("~")
    assert parts[1:4] == ["SCT^49755003^Morphologically Altered Structure", "SCT^4147007^Mass", "^^"]
    assert parts[5:] == ["SCT^10200004^Liver", "^^"]
    assert tags["Score"] == "0.9000"


def test_without_codes_the_terminology_is_a_lesion(tmp_path: Path) -> None:
    export(tmp_path, GEOMETRIES["axial"])
    _, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    assert "~SCT^52988006^Lesion~^^~" in segments(header)[0]["Tags"]


def test_a_class_name_cannot_add_lines_or_parts_to_the_header(tmp_path: Path) -> None:
    record = write_results(tmp_path, GEOMETRIES["axial"], two_lesions((8, 9, 10)))
    record["lesions"][0]["class"] = "a|b~c^d\nSegment7_Name:=evil"
    (tmp_path / "rois" / "a.json").write_text(json.dumps(record), encoding="utf-8")
    export_for_viewers(tmp_path, "a", [ViewerFormat.SLICER])
    _, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    assert len(segments(header)) == 2
    assert segments(header)[1]["Name"] == "2 a b c d Segment7_Name:=evil"


# -- The markups -------------------------------------------------------------------------------------------------------


def test_each_point_is_the_centroid_of_its_lesion_in_lps(tmp_path: Path, geometry: Geometry) -> None:
    export(tmp_path, geometry)
    points, *_ = markups(tmp_path)
    assert (points["type"], points["coordinateSystem"], points["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    assert [point["label"] for point in points["controlPoints"]] == ["1 kind 1", "2 kind 2"]
    for number, point in enumerate(points["controlPoints"], start=1):
        np.testing.assert_allclose(point["position"], world_centroid(tmp_path, number), atol=1e-3)
        assert point["id"] == str(number) and f"score {1 - number / 10:.3f}" in point["description"]
        assert point["positionStatus"] == "defined"


def test_each_box_encloses_the_voxels_of_its_lesion(tmp_path: Path, geometry: Geometry) -> None:
    export(tmp_path, geometry)
    _, *boxes = markups(tmp_path)
    image = instance_map(tmp_path)
    array = SimpleITK.GetArrayFromImage(image)
    assert [box["type"] for box in boxes] == ["ROI", "ROI"]
    for number, box in enumerate(boxes, start=1):
        assert (box["coordinateSystem"], box["roiType"]) == ("LPS", "Box")
        axes = np.array(box["orientation"]).reshape(3, 3)
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        assert np.linalg.det(axes) == pytest.approx(1)
        corners = np.argwhere(array == number)[:, None] + np.array(
            [[z, y, x] for z in (-0.5, 0.5) for y in (-0.5, 0.5) for x in (-0.5, 0.5)]
        )
        world = [image.TransformContinuousIndexToPhysicalPoint(c[::-1].tolist()) for c in corners.reshape(-1, 3)]
        # In the coordinate system of the box, the lesion reaches each face exactly.
        own = (np.array(world) - box["center"]) @ axes
        np.testing.assert_allclose(own.max(axis=0), np.array(box["size"]) / 2, atol=1e-3)
        np.testing.assert_allclose(own.min(axis=0), -np.array(box["size"]) / 2, atol=1e-3)


def test_the_points_have_the_documented_fields(tmp_path: Path) -> None:
    export(tmp_path, GEOMETRIES["axial"])
    points, *boxes = markups(tmp_path)
    for markup in (points, *boxes):
        for point in markup["controlPoints"]:
            assert {type(point[name]) for name in ("id", "label", "description", "associatedNodeID")} == {str}
            assert {type(point[name]) for name in ("selected", "locked", "visibility")} == {bool}
            assert len(point["position"]) == 3 and len(point["orientation"]) == 9


@pytest.mark.parametrize("name", ["a.seg.nrrd", "a.mrk.json"])
def test_a_case_without_lesions_has_files_without_segments_and_points(tmp_path: Path, name: str) -> None:
    export(tmp_path, GEOMETRIES["axial"], np.zeros((8, 9, 10), np.uint16))
    assert (tmp_path / "slicer" / name).is_file()
    [points] = markups(tmp_path)
    assert points["controlPoints"] == []
    voxels, header = nrrd.read(str(tmp_path / "slicer" / "a.seg.nrrd"))
    assert segments(header) == [] and not voxels.any()


# -- A sheared grid ----------------------------------------------------------------------------------------------------

# From voxels x y z to mm in RAS: the three axes are not at right angles.
SHEARED = np.array([[0.9, 0.2, 0.1, 5.0], [0.1, 1.1, 0.4, -7.0], [0.0, 0.3, 2.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture
def sheared(tmp_path: Path) -> Path:
    """Return the results of a scan with a sheared grid."""
    scan = tmp_path / "scan.nii.gz"
    nibabel.Nifti1Image(np.zeros((10, 9, 8), np.uint8), SHEARED).to_filename(scan)
    export(tmp_path / "results", read_geometry(scan))
    return tmp_path / "results"


def test_a_sheared_grid_keeps_the_place_of_each_voxel(sheared: Path) -> None:
    expected = nibabel.load(sheared / "instances" / "a.nii.gz")
    np.testing.assert_allclose(expected.affine, SHEARED, atol=1e-5)
    voxels, header = nrrd.read(str(sheared / "slicer" / "a.seg.nrrd"))  # in the order x y z, as nibabel
    assert np.array_equal(voxels, np.asarray(expected.dataobj))
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_allclose(header["space directions"].T, RAS_TO_LPS @ SHEARED[:3, :3], atol=1e-5)
    np.testing.assert_allclose(header["space origin"], RAS_TO_LPS @ SHEARED[:3, 3], atol=1e-4)


def test_points_and_boxes_of_a_sheared_grid_lie_at_the_lesions(sheared: Path) -> None:
    array = np.asarray(nibabel.load(sheared / "instances" / "a.nii.gz").dataobj)
    points, *boxes = markups(sheared)
    offsets = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
    for number, (point, box) in enumerate(zip(points["controlPoints"], boxes, strict=True), start=1):
        indices = np.argwhere(array == number)
        world = [(RAS_TO_LPS @ (SHEARED[:3, :3] @ index + SHEARED[:3, 3])) for index in (indices.mean(axis=0),)]
        np.testing.assert_allclose(point["position"], world[0], atol=1e-3)
        axes = np.array(box["orientation"]).reshape(3, 3)
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        assert np.linalg.det(axes) == pytest.approx(1)
        corners = (indices[:, None] + offsets).reshape(-1, 3)
        own = ((corners @ SHEARED[:3, :3].T + SHEARED[:3, 3]) @ RAS_TO_LPS.T - box["center"]) @ axes
        half = np.array(box["size"]) / 2
        assert (own <= half + 1e-3).all() and (own >= -half - 1e-3).all()
        # Lesion 2 is a block of voxels, so its box is not larger than needed.
        if number == 2:
            np.testing.assert_allclose(own.max(axis=0), half, atol=1e-3)
