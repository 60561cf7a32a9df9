from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from detseg3d.data.labels import LabelFormat, Lesions
from detseg3d.evaluation.layout import LayoutFiles, lesions_from_layout
from detseg3d.system.json_files import write_json

GRID = Geometry((2, 3, 8), (2.0, 1.0, 1.0))
FORM = LabelFormat({"core": 1, "rim": 2})


def volume(*values: int, dtype: Any = np.uint8) -> npt.NDArray[Any]:
    array = np.zeros(GRID.shape, dtype)
    array[0, 0, : len(values)] = values
    return array


INSTANCES = volume(3, 3, 0, 9, 9, dtype=np.uint16)
MASK = volume(1, 1, 0, 2, 2)
LESIONS = [{"id": 3, "label": 1, "score": 0.9, "voxels": 2}, {"id": 9, "label": 2, "score": 0.4, "voxels": 2}]


def read(
    folder: Path, instances: npt.NDArray[Any], mask: npt.NDArray[Any] | None, lesions: list[dict[str, Any]] | None
) -> Lesions:
    files = LayoutFiles(folder / "i.nii.gz", folder / "r.json" if lesions is not None else None, None)
    write_image(instances, GRID, files.instances)
    if lesions is not None:
        write_json({"lesions": lesions}, folder / "r.json")
    if mask is not None:
        files = LayoutFiles(files.instances, files.rois, folder / "m.nii.gz")
        write_image(mask, GRID, folder / "m.nii.gz")
    return lesions_from_layout(instances, GRID, files, {"core": 1, "rim": 2}, FORM)


@pytest.mark.parametrize("mask", [MASK, None])
def test_files_that_agree_give_classes_and_scores(tmp_path: Path, mask: npt.NDArray[Any] | None) -> None:
    lesions = read(tmp_path, INSTANCES, mask, LESIONS)
    assert (lesions.classes, lesions.scores) == ({3: 0, 9: 1}, {3: 0.9, 9: 0.4})


@pytest.mark.parametrize(
    ("mask", "value"),
    [
        (volume(1, 1), "0 voxels are foreground only in the mask, and 2 only in the instance map"),
        (volume(1, 1, 1, 2, 2), "1 voxels are foreground only in the mask, and 0 only in the instance map"),
        (volume(1, 0, 0, 2, 2), "0 voxels are foreground only in the mask, and 1 only in the instance map"),
        (volume(), "0 voxels are foreground only in the mask, and 4 only in the instance map"),
        (volume(2, 2, 0, 2, 2), "2 voxels have another class"),
        (volume(1, 1, 0, 2, 1), "1 voxels have another class"),
    ],
)
def test_an_edited_mask_is_an_error(tmp_path: Path, mask: npt.NDArray[Any], value: str) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        read(tmp_path, INSTANCES, mask, LESIONS)
    assert caught.value.file == tmp_path / "m.nii.gz"
    assert caught.value.value == value
    assert "i.nii.gz" in str(caught.value.expected)


def test_without_a_roi_file_the_foreground_is_compared(tmp_path: Path) -> None:
    files = LayoutFiles(tmp_path / "i.nii.gz", None, tmp_path / "m.nii.gz")
    write_image(volume(1), GRID, tmp_path / "m.nii.gz")
    with pytest.raises(DetSeg3DError, match="differ"):
        lesions_from_layout(volume(5, 5), GRID, files, {"lesion": 1}, LabelFormat())


def test_a_mask_on_another_grid_is_an_error(tmp_path: Path) -> None:
    write_image(MASK, Geometry(GRID.shape, (2.0, 1.0, 1.5)), tmp_path / "m.nii.gz")
    files = LayoutFiles(tmp_path / "i.nii.gz", None, tmp_path / "m.nii.gz")
    with pytest.raises(DetSeg3DError, match="not on the same grid"):
        lesions_from_layout(volume(5), GRID, files, {"lesion": 1}, LabelFormat())


@pytest.mark.parametrize(
    ("lesions", "problem", "value"),
    [
        (LESIONS[:1], "not in the RoI file", [9]),
        ([*LESIONS, {"id": 12, "label": 1, "score": 0.1}], "not in the instance map", [12]),
        ([LESIONS[0], {**LESIONS[1], "voxels": 3}], "different numbers of voxels", "lesion 9: 3 voxels"),
        ([*LESIONS, LESIONS[0]], "contains a lesion twice", 3),
        ([LESIONS[0], {**LESIONS[1], "label": 7}], "unknown label", [7]),
    ],
)
def test_a_roi_file_of_other_lesions_is_an_error(
    tmp_path: Path, lesions: list[dict[str, Any]], problem: str, value: object
) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        read(tmp_path, INSTANCES, MASK, lesions)
    assert problem in caught.value.problem
    assert (caught.value.file, caught.value.value) == (tmp_path / "r.json", value)
