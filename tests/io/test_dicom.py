from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.dicom import is_dicom_folder
from detseg3d.io.images import read_geometry, read_image

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def write_series(folder: Path, positions: list[float], series: str = "1.2.3.4", lean: float = 0.0) -> None:
    """Write ARRAY's slices as DICOM files, in reversed order of names, each ``lean`` mm beside the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, position in enumerate(positions):
        image = SimpleITK.GetImageFromArray(ARRAY[index : index + 1])
        image.SetSpacing((0.5, 0.75, 2.5))
        tags = {
            "0008|0060": "CT",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{series}.{index + 1}",
            "0020|000d": "1.2.3",
            "0020|000e": series,
            "0020|0013": str(index),
            "0020|0032": f"-10\\{20 + lean * index}\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "2.5",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{series}_{9 - index}.dcm"))
        writer.Execute(image)


def test_a_series_is_one_volume_sorted_by_position(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 2.5, 5.0])
    array, geometry = read_image(tmp_path)
    np.testing.assert_array_equal(array, ARRAY)
    assert geometry.spacing == (2.5, 0.75, 0.5)
    assert geometry.origin == (-10.0, 20.0, 0.0)
    assert read_geometry(tmp_path) == geometry


def test_a_missing_slice_is_an_error(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 2.5, 7.5])
    with pytest.raises(DetSeg3DError, match="not evenly spaced"):
        read_image(tmp_path)


def test_a_tilted_gantry_is_an_error(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 2.5, 5.0], lean=0.9)
    with pytest.raises(DetSeg3DError, match=r"(?s)right angles.*1\.8 mm beside the first.*at most 1\.25 mm.*dcm2niix"):
        read_image(tmp_path)


def test_positions_that_are_rounded_are_none(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 2.5, 5.0], lean=0.01)
    assert read_image(tmp_path)[1].spacing == pytest.approx((2.5, 0.75, 0.5), rel=1e-3)


def test_two_series_in_a_folder_are_an_error(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 2.5, 5.0])
    write_series(tmp_path, [0.0, 2.5, 5.0], series="1.2.3.5")
    with pytest.raises(DetSeg3DError, match="holds 2 DICOM series"):
        read_image(tmp_path)


def test_a_folder_without_dicom_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert not is_dicom_folder(tmp_path)
    with pytest.raises(DetSeg3DError, match="holds no DICOM series"):
        read_image(tmp_path)
