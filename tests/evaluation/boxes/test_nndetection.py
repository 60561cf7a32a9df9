from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.core.boxes import boxes_from_instances, iou_matrix
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.boxes.nndetection import EXPORT_RECIPE, edges_from_nndetection, read_nndetection_boxes
from detseg3d.system.json_files import write_json

BOX = [4.0, 5.0, 7.0, 9.0, 6.0, 8.0]  # the lesion with the indices z 5..6, y 6..8, x 7
EDGES = [5.0, 6.0, 7.0, 7.0, 9.0, 8.0]


def their_box(indices: npt.NDArray[np.int64]) -> list[float]:
    """Return the box of nnDetection: smallest index - 1 to largest index + 1, with the third axis at the end."""
    low, high = indices.min(axis=0) - 1, indices.max(axis=0) + 1
    return [low[0], low[1], high[0], high[1], low[2], high[2]]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 8), st.integers(0, 9)), min_size=1, max_size=6))
def test_the_box_of_a_lesion_becomes_its_tight_half_open_box(voxels: list[tuple[int, int, int]]) -> None:
    instances = np.zeros((8, 9, 10), np.uint8)
    instances[tuple(np.array(voxels).T)] = 1
    _, expected = boxes_from_instances(instances)
    np.testing.assert_array_equal(edges_from_nndetection([their_box(np.array(voxels))]), expected)


@given(st.integers(1, 5), st.integers(0, 6), st.integers(1, 6))
def test_a_box_from_a_resampled_grid_is_right_with_the_size_of_its_voxels(scale: int, first: int, count: int) -> None:
    # The network saw each voxel of the image as one of `scale` voxels: nnDetection scales its box of these back.
    indices = np.arange(first * scale, (first + count) * scale)
    low, high = (indices[0] - 1) / scale, (indices[-1] + 1) / scale
    edges = edges_from_nndetection([[low] * 2 + [high] * 2 + [low, high]], [1 / scale] * 3)
    np.testing.assert_allclose(edges, [[first] * 3 + [first + count] * 3])


def test_small_boxes_lose_the_overlap_that_the_convention_adds() -> None:
    first, second = ([a - 1, a - 1, a + 3, a + 3, a - 1, a + 3] for a in (0, 1))
    ours = edges_from_nndetection([first, second])
    theirs = np.array([first, second], float)[:, [0, 1, 4, 2, 3, 5]]
    assert round(float(iou_matrix(theirs[:1], theirs[1:])[0, 0]), 2) == 0.27
    assert round(float(iou_matrix(ours[:1], ours[1:])[0, 0]), 2) == 0.17


def test_a_box_too_small_for_a_voxel_becomes_a_point_in_its_middle() -> None:
    # Their middle 5.2 counts indices; in edges it is 5.7.
    assert edges_from_nndetection([[5, 5, 5.4, 5.4, 5, 5.4]])[0] == pytest.approx([5.7] * 6)


def save(path: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {"pred_boxes": [BOX], "pred_scores": [0.8], "pred_labels": [1], "restore": True, **changes}
    values = {name: value for name, value in values.items() if value is not None}
    if path.suffix == ".json":
        write_json(values, path)
    else:
        np.savez(path, **values)
    return path


@pytest.mark.parametrize("name", ["a_boxes.npz", "a_boxes.json"])
def test_both_formats_are_read(tmp_path: Path, name: str) -> None:
    boxes, scores, labels = read_nndetection_boxes(save(tmp_path / name))
    assert (boxes.tolist(), scores.tolist(), labels) == ([EDGES], [0.8], [1])


def test_the_output_of_boxes2nii_is_read(tmp_path: Path) -> None:
    write_json({"1": {"box": [4, 5, 7, 9, 6, 8], "score": 0.8, "label": 0}}, tmp_path / "a.json")
    boxes, scores, labels = read_nndetection_boxes(tmp_path / "a.json")
    assert (boxes.tolist(), scores.tolist(), labels) == ([EDGES], [0.8], [0])
    write_json({}, tmp_path / "b.json")
    assert len(read_nndetection_boxes(tmp_path / "b.json")[0]) == 0


@pytest.mark.parametrize("shape", [(0,), (0, 6), (1, 0)])
def test_a_case_without_boxes_is_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    file = save(tmp_path / "a.npz", pred_boxes=np.zeros(shape), pred_scores=[], pred_labels=[])
    assert read_nndetection_boxes(file)[0].shape == (0, 6)


def test_the_spacing_of_the_network_sets_the_size_of_its_voxels(tmp_path: Path) -> None:
    file = save(tmp_path / "a.npz", itk_spacing=(0.5, 1.0, 4.0))  # x y z
    boxes, _, _ = read_nndetection_boxes(file, (2.0, 1.0, 1.0))
    assert boxes.tolist() == [[4.5, 6.0, 8.0, 7.0, 9.0, 8.0]]


def test_the_spacing_of_the_network_requires_the_spacing_of_the_image(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="needs the spacing of the image"):
        read_nndetection_boxes(save(tmp_path / "a.npz"), (1.0, 1.0, 1.0))
    with pytest.raises(DetSeg3DError, match="a spacing is not a positive number"):
        read_nndetection_boxes(save(tmp_path / "b.npz", itk_spacing=(1, 1, 1)), (1.0, -1.0, 1.0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restore": False}, "grid of the preprocessed data of nnDetection"),
        ({"pred_scores": None}, r"the form of nnDetection predictions.*\n.*\n.*'pred_scores': 'missing'"),
        ({"pred_boxes": [BOX[:4]]}, "the form of nnDetection predictions"),
        ({"pred_boxes": [[4, 5, 6, 7, 9, 8]]}, "the form of nnDetection predictions"),  # as z0 y0 x0 z1 y1 x1 would be
        ({"pred_scores": [0.5, 0.5]}, "the form of nnDetection predictions"),
        ({"pred_labels": [0.5]}, "the form of nnDetection predictions"),
        ({"pred_labels": [-1]}, "the form of nnDetection predictions"),
        ({"pred_labels": [1e300]}, "the form of nnDetection predictions"),
        ({"pred_labels": ["lesion"]}, "the form of nnDetection predictions"),
        ({"pred_scores": [np.nan]}, "not a finite number"),
        ({"pred_boxes": [[4, 5, np.inf, 9, 6, 8]]}, "not a finite number"),
        ({"pred_boxes": [[1e308, 0, 1e308, 2, 0, 2.5]]}, "outside any image"),
        ({"pred_boxes": [[-1e308, 0, 1, 2, 0, 2.5]]}, "outside any image"),
        ({"pred_scores": np.array([None])}, "cannot be read"),
    ],
)
def test_a_file_in_another_format_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DetSeg3DError, match=message) as caught:
        read_nndetection_boxes(save(tmp_path / "a.npz", **changes))
    assert caught.value.file == tmp_path / "a.npz"


@pytest.mark.parametrize("data", [[1, 2], {"1": [4, 5]}, {"1": {"box": BOX}}, {"pred_boxes": [[1, 2], [3]]}])
def test_json_in_another_format_is_refused(tmp_path: Path, data: Any) -> None:
    write_json(data, tmp_path / "a.json")
    with pytest.raises(DetSeg3DError, match="the form of nnDetection predictions"):
        read_nndetection_boxes(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"PK", b"nothing"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DetSeg3DError, match="the boxes cannot be read"):
        read_nndetection_boxes(tmp_path / "a.npz")


def test_the_recipe_for_the_owner_of_the_pickles_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    case = {
        "pred_boxes": np.array([BOX], np.float32),
        "pred_scores": np.array([0.8], np.float32),
        "pred_labels": np.array([0.0], np.float32),
        "restore": True,
        "original_size_of_raw_data": np.array([20, 20, 20]),
        "itk_origin": (0.0, 0.0, 0.0),
        "itk_spacing": (1.0, 1.0, 2.0),
        "itk_direction": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
    }
    (tmp_path / "a_boxes.pkl").write_bytes(pickle.dumps(case))
    assert EXPORT_RECIPE.count("\n") == 1
    exec(EXPORT_RECIPE, {})
    boxes, scores, labels = read_nndetection_boxes(tmp_path / "a_boxes.npz", (2.0, 1.0, 1.0))
    assert (boxes.tolist(), labels) == ([EDGES], [0])
    assert scores.tolist() == pytest.approx([0.8])


def test_an_archive_of_gigabytes_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "a_boxes.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("pred_boxes.npy", "w", force_zip64=True) as handle,
    ):
        for _ in range(260):
            handle.write(bytes(1 << 22))
    with pytest.raises(DetSeg3DError, match="more than") as error:
        read_nndetection_boxes(tmp_path / "a_boxes.npz")
    assert error.value.file == tmp_path / "a_boxes.npz"
