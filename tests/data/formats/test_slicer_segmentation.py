from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nrrd as pynrrd
import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.dataset import load_raw_dataset
from detseg3d.data.formats.nrrd import read_nrrd_header
from detseg3d.data.formats.slicer_segmentation import Segment, place_on_grid, read_segments
from detseg3d.data.images import read_image, read_label_array, write_image
from detseg3d.data.verify import verify_dataset
from detseg3d.system.run import Run
from tests.conversions import convert
from tests.evaluations import evaluate_pair

# Axis order (x, y, z), as in Slicer and pynrrd.
SHAPE = (8, 7, 6)
ORIGIN = (5.0, -3.0, 2.0)
AXES = np.array([[0.0, 2.0, 0.0], [-1.5, 0.0, 0.0], [0.0, 0.0, 3.0]])  # a row for each axis
FIRST, SECOND = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
FIRST[2:4, 1:3, 4] = 1
SECOND[5:7, 3:6, 1:3] = 1


def write_segmentation(
    path: Path,
    array: np.ndarray,
    segments: Sequence[tuple[str, int, int]],
    origin: Sequence[float] = ORIGIN,
    without: str = "",
) -> Path:
    """Write a segmentation as 3D Slicer does. The first of four axes numbers the layers."""
    header: dict[str, Any] = {"space": "left-posterior-superior", "space origin": origin, "encoding": "gzip"}
    none = np.full((1, 3), np.nan)
    layered = array.ndim == 4
    header["space directions"] = np.vstack([none, AXES]) if layered else AXES
    header["kinds"] = ["list"] * layered + ["domain"] * 3
    for number, (name, value, layer) in enumerate(segments):
        entry = {"ID": f"Segment_{number + 1}", "Name": name, "LabelValue": str(value), "Layer": str(layer)}
        entry |= {"Color": "0.5 0.6 0.7", "Extent": "0 7 0 6 0 5", "Tags": "Segmentation.Status:inprogress|"}
        header |= {f"Segment{number}_{key}": text for key, text in entry.items() if key not in without.split()}
    header["Segmentation_ReferenceImageExtentOffset"] = "0 0 0"
    path.parent.mkdir(parents=True, exist_ok=True)
    pynrrd.write(str(path), array, header)
    return path


def write_scan(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    header = {"space": "left-posterior-superior", "space directions": AXES, "space origin": ORIGIN}
    pynrrd.write(str(path), voxels, header)
    return path


def cropped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the array cropped to its foreground, and the position of its first voxel in mm."""
    spatial = array if array.ndim == 3 else array.max(0)
    where = np.argwhere(spatial)
    low, high = where.min(0), where.max(0) + 1
    window = (..., *(slice(a, b) for a, b in zip(low, high, strict=True)))
    return array[window], np.asarray(ORIGIN) + low @ AXES


OVERLAP = "4 voxel(s) of b are also in other segments"


def read_stored(
    path: Path, names: Mapping[str, int] | None = None, beside: Path | None = None
) -> tuple[np.ndarray, Geometry]:
    """Read a label in the order of its file, ``(z, y, x)``."""
    label, geometry = read_label_array(path, names=names, beside=beside)
    return geometry.stored_order.to_stored(label), geometry.as_stored()


LABEL = (FIRST + 2 * SECOND).T


def test_the_segments_of_a_file_are_listed(tmp_path: Path) -> None:
    file = write_segmentation(tmp_path / "a.seg.nrrd", FIRST + 2 * SECOND, [("tumour", 1, 0), ("node 2", 2, 0)])
    assert read_segments(file) == (Segment("tumour", 1, 0), Segment("node 2", 2, 0))
    assert read_segments(write_scan(tmp_path / "scan.nrrd")) == ()


def test_without_names_the_values_of_the_file_are_used(tmp_path: Path) -> None:
    file = write_segmentation(tmp_path / "a.seg.nrrd", FIRST + 2 * SECOND, [("tumour", 1, 0), ("node", 2, 0)])
    for names in (None, {"background": 0, "lesion": 1, "other": 2}):
        label, geometry = read_stored(file, names)
        np.testing.assert_array_equal(label, LABEL)
        assert geometry.spacing == (3.0, 1.5, 2.0)


@pytest.mark.parametrize("shape", ["one layer", "two layers", "values of layers"])
def test_segments_get_the_values_of_the_labels_with_their_names(tmp_path: Path, shape: str) -> None:
    names = {"background": 0, "Node": 1, "tumour": 2}
    if shape == "one layer":
        file = write_segmentation(tmp_path / "a.nrrd", FIRST + 2 * SECOND, [("tumour", 1, 0), (" node ", 2, 0)])
    elif shape == "two layers":
        layers = np.stack([FIRST, SECOND])
        file = write_segmentation(tmp_path / "a.nrrd", layers, [("tumour", 1, 0), ("node", 1, 1)])
    else:  # as before version 4.11
        layers = np.stack([FIRST, SECOND])
        segments = [("tumour", 1, 0), ("node", 1, 1)]
        file = write_segmentation(tmp_path / "a.nrrd", layers, segments, without="LabelValue Layer")
    np.testing.assert_array_equal(read_stored(file, names)[0], (2 * FIRST + SECOND).T)


def test_layers_of_different_values_need_no_names(tmp_path: Path) -> None:
    layers = np.stack([FIRST, 2 * SECOND])
    file = write_segmentation(tmp_path / "a.nrrd", layers, [("a", 1, 0), ("b", 2, 1)])
    np.testing.assert_array_equal(read_stored(file)[0], LABEL)


def test_values_beyond_eight_bits(tmp_path: Path) -> None:
    array = FIRST.astype(np.uint16) * 70 + SECOND.astype(np.uint16) * 300
    file = write_segmentation(tmp_path / "a.nrrd", array, [("a", 70, 0), ("b", 300, 0)])
    label, _ = read_label_array(file)
    assert (label.dtype, int(label.max())) == (np.uint16, 300)


@pytest.mark.parametrize(
    ("array", "segments", "names", "value"),
    [
        (FIRST + 2 * SECOND, [("tumour", 1, 0), ("node", 2, 0)], {"tumour": 1}, ["tumour", "node"]),
        (np.stack([FIRST, SECOND]), [("a", 1, 0), ("b", 1, 1)], None, ["a: 1", "b: 1"]),
        (np.stack([FIRST, FIRST]), [("a", 1, 0), ("b", 2, 1)], {"x": 1}, [1]),
        (np.stack([FIRST, FIRST]), [("a", 1, 0), ("b", 1, 1)], {"a": 1, "b": 2}, OVERLAP),
        (FIRST * 3, [("a", 1, 0)], None, [3]),
        (FIRST, [("a", 1, 0), ("b", 2, 1)], None, [1]),
    ],
)  # fmt: skip
def test_segments_that_a_label_cannot_hold_are_refused(
    tmp_path: Path, array: np.ndarray, segments: Any, names: Mapping[str, int] | None, value: object
) -> None:
    file = write_segmentation(tmp_path / "a.seg.nrrd", array, segments)
    with pytest.raises(DetSeg3DError) as error:
        read_label_array(file, names=names)
    assert (error.value.file, error.value.value) == (file, value)
    assert error.value.remedy or error.value.expected


def test_overlapping_segments_with_one_label_are_accepted(tmp_path: Path) -> None:
    segments = [("tumour", 1, 0), ("Tumour", 1, 1)]
    file = write_segmentation(tmp_path / "a.nrrd", np.stack([FIRST, np.maximum(FIRST, SECOND)]), segments)
    np.testing.assert_array_equal(read_stored(file, {"tumour": 4})[0], 4 * np.maximum(FIRST, SECOND).T)


@pytest.mark.parametrize(("value", "layer"), [("0", "0"), ("-1", "0"), ("x", "0"), ("1", "-1"), ("9" * 12, "0")])
def test_impossible_segments_are_refused(tmp_path: Path, value: str, layer: str) -> None:
    file = write_segmentation(tmp_path / "a.nrrd", FIRST, [("a", value, layer)])  # type: ignore[list-item]
    with pytest.raises(DetSeg3DError) as error:
        read_label_array(file)
    assert error.value.file == file


# -- Cropped -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layered", [False, True])
def test_a_cropped_segmentation_is_put_on_the_grid_of_its_image(tmp_path: Path, layered: bool) -> None:
    whole = np.stack([FIRST, 2 * SECOND]) if layered else FIRST + 2 * SECOND
    part, origin = cropped(whole)
    assert part.size < whole.size / 3
    segments = [("a", 1, 0), ("b", 2, 1 if layered else 0)]
    file = write_segmentation(tmp_path / "a.seg.nrrd", part, segments, origin)
    scan = write_scan(tmp_path / "a.nrrd")
    label, geometry = read_stored(file, beside=scan)
    np.testing.assert_array_equal(label, LABEL)
    assert geometry == read_image(scan)[1].as_stored()
    assert read_stored(file)[0].shape == part.shape[::-1][:3]


def test_a_larger_segmentation_is_cut_to_the_image_if_nothing_is_lost(tmp_path: Path) -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    label[1, 1, 1] = 1
    here, grid = Geometry((3, 3, 3), origin=(-1.0, -1.0, -1.0)), Geometry((2, 2, 2))
    assert place_on_grid(label, here, grid, Path("a"))[0].tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 0]]]
    label[0, 0, 0] = 1
    with pytest.raises(DetSeg3DError) as error:
        place_on_grid(label, here, grid, Path("a"))
    assert error.value.value == "1 voxel(s)"


@pytest.mark.parametrize(
    "here",
    [
        Geometry((1, 1, 1), origin=(0.5, 0.0, 0.0)),
        Geometry((1, 1, 1), (1.0, 1.0, 1.1)),
        Geometry((1, 1, 1), direction=(0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_a_label_between_the_voxels_of_the_image_is_unchanged(here: Geometry) -> None:
    label = np.ones((1, 1, 1), np.uint8)
    placed, geometry = place_on_grid(label, here, Geometry((4, 4, 4)), Path("a"))
    assert placed is label and geometry is here


def test_a_label_outside_the_image_is_refused() -> None:
    with pytest.raises(DetSeg3DError):
        place_on_grid(
            np.ones((1, 1, 1), np.uint8),
            Geometry((1, 1, 1), origin=(9.0, 9.0, -9.0)),
            Geometry((4, 4, 4)),
            Path("a"),
        )


# -- Commands ----------------------------------------------------------------------------------------------------------


def write_folders(root: Path, segments_of_case: Sequence[Sequence[tuple[str, int]]]) -> None:
    for number, segments in enumerate(segments_of_case):
        write_scan(root / f"images/c{number}.nrrd", number)
        array = sum(value * mask for (_, value), mask in zip(segments, (FIRST, SECOND), strict=False))
        part, origin = cropped(np.asarray(array, np.uint8))
        file = root / f"labels/c{number}.seg.nrrd"
        write_segmentation(file, part, [(name, value, 0) for name, value in segments], origin)


def test_a_folder_of_cropped_segmentations_becomes_a_data_set(tmp_path: Path) -> None:
    write_folders(tmp_path, [[("tumour", 1), ("node", 2)], [("tumour", 1)]])
    dataset = convert(tmp_path / "images", tmp_path / "labels", tmp_path / "raw")
    assert json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["labels"] == {
        "background": 0,
        "tumour": 1,
        "node": 2,
    }
    np.testing.assert_array_equal(read_stored(dataset / "labelsTr/c0.nrrd")[0], LABEL)
    np.testing.assert_array_equal(read_stored(dataset / "labelsTr/c1.nrrd")[0], FIRST.T)
    assert read_segments(dataset / "labelsTr/c0.nrrd") == ()
    assert [p for p in verify_dataset(load_raw_dataset(dataset)) if p.stops] == []


def test_values_that_differ_between_files_are_refused_until_names_are_given(tmp_path: Path) -> None:
    write_folders(tmp_path, [[("tumour", 1), ("node", 2)], [("node", 1), ("tumour", 2)]])
    with pytest.raises(DetSeg3DError) as error:
        convert(tmp_path / "images", tmp_path / "labels", tmp_path / "raw")
    assert error.value.file == tmp_path / "labels/c1.seg.nrrd" and "--labels" in (error.value.remedy or "")
    for labels in ({"tumour": 1, "node": 2}, ["tumour", "node"]):
        dataset = convert(
            tmp_path / "images",
            tmp_path / "labels",
            tmp_path / "raw",
            labels=labels,
            overwrite=True,
            run=Run(show_progress=False),
        )
        np.testing.assert_array_equal(read_stored(dataset / "labelsTr/c0.nrrd")[0], LABEL)
        np.testing.assert_array_equal(read_stored(dataset / "labelsTr/c1.nrrd")[0], (2 * FIRST + SECOND).T)


def test_segmentations_may_belong_to_images_of_other_formats(tmp_path: Path) -> None:
    write_folders(tmp_path, [[("tumour", 1), ("node", 2)]])
    array, geometry = read_image(tmp_path / "images/c0.nrrd")
    write_image(array, geometry, tmp_path / "others/c0.nii.gz")
    dataset = convert(tmp_path / "others", tmp_path / "labels", tmp_path / "raw")
    label, place = read_stored(dataset / "labelsTr/c0.nii.gz")
    np.testing.assert_array_equal(label, LABEL)
    assert geometry.as_stored().difference(place) == []


def test_a_data_set_may_hold_segmentations_under_the_names_of_labels(tmp_path: Path) -> None:
    write_scan(tmp_path / "imagesTr/c0_0000.nrrd")
    part, origin = cropped(FIRST + 2 * SECOND)
    write_segmentation(tmp_path / "labelsTr/c0.nrrd", part, [("node", 1, 0), ("tumour", 2, 0)], origin)
    description = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "tumour": 1, "node": 2}}
    description |= {"numTraining": 1, "file_ending": ".nrrd"}  # type: ignore[dict-item]
    (tmp_path / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    assert verify_dataset(load_raw_dataset(tmp_path)) == []


def test_cropped_segmentations_are_evaluated_as_truth(tmp_path: Path) -> None:
    write_folders(tmp_path, [[("lesion", 1)]])
    _, geometry = read_image(tmp_path / "images/c0.nrrd")
    write_image(geometry.stored_order.to_canonical(FIRST.T), geometry, tmp_path / "predictions/c0.nrrd")
    result = evaluate_pair(tmp_path / "labels", tmp_path / "predictions")
    assert not result.problems
    assert [case.case_id for case in result.cases] == ["c0"]


def test_the_header_is_read_once_and_has_a_limited_length(tmp_path: Path) -> None:
    file = write_segmentation(tmp_path / "a.nrrd", FIRST, [("x" * 2000, 1, 0)] * 200)
    assert len(read_nrrd_header(file).pairs) > 1000
    assert len(read_segments(file)) == 200
