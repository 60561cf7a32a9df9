from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.images import read_geometry, read_image
from detseg3d.io.metaimage import check_metaimage

ARRAY = np.arange(6000, dtype=np.int16).reshape(10, 20, 30) % 77
HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = False
ElementSpacing = 1 1.5 2
Offset = 4 5 6
DimSize = 4 3 2
ElementType = MET_UCHAR
ElementDataFile = LOCAL
"""


def write(path: Path, *changes: tuple[str, str], count: int = 24) -> Path:
    header = HEADER
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    path.write_bytes(header.encode("latin-1") + bytes(range(count)))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.mha"


def test_a_good_file_passes_and_is_read(file: Path) -> None:
    array, geometry = read_image(write(file))
    assert array.ravel().tolist() == list(range(24))
    assert (geometry.shape, geometry.spacing, geometry.origin) == ((2, 3, 4), (2.0, 1.5, 1.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    "line", ["0010|0010 = DOE^JANE", "two words : x", "no value", "", "Note = " + "x" * 3000, "Comment = ä"]
)
def test_lines_that_state_nothing_of_the_image_are_tolerated(file: Path, line: str) -> None:
    write(file, ("BinaryData", line + "\nBinaryData"))
    assert read_image(file)[0].shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("NDims = 3", "NDims = 99", "NDims and DimSize do not state a size"),  # these two end the process in ITK
        ("ObjectType = Image", "ObjectType = " + "x" * 300, "ObjectType is too long"),
        ("NDims = 3", "NDims = x", "NDims is no count"),
        ("NDims = 3", "NDims = 3\nNDims = 4", "it states NDims twice"),
        ("NDims = 3\n", "", "it does not state NDims"),
        ("DimSize = 4 3 2", "DimSize = 4 3", "NDims and DimSize do not state a size"),
        ("DimSize = 4 3 2", "DimSize = 4 -3 2", "NDims and DimSize do not state a size"),
        ("DimSize = 4 3 2", "DimSize = 4 .3 2", "NDims and DimSize do not state a size"),
        ("NDims = 3\n", "DimSize = 4 3 2\nNDims = 3\n", "it states DimSize twice"),
        ("Offset = 4 5 6", "Offset = 4 nan 6", "Offset holds what is no finite number"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 1,5 2", "ElementSpacing holds what is no finite number"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 -1.5 2", "ElementSpacing is not positive"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 0 2", "ElementSpacing is not positive"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 1e999 2", "ElementSpacing holds what is no finite number"),
        ("DimSize = 4 3 2", "DimSize = 4 3 3", "it claims more voxels than the file holds"),
        ("DimSize = 4 3 2", "DimSize = 99999999 99999999 99999999", "it claims an impossible size"),
        ("ElementDataFile", "ElementFile", "there is no line ElementDataFile"),
    ],
)
def test_a_damaged_header_is_an_error(file: Path, old: str, new: str, message: str) -> None:
    write(file, (old, new))
    for function in (read_image, read_geometry):
        with pytest.raises(DetSeg3DError, match=rf"cannot be read: {message}(.|\n)*{re.escape(str(file))}"):
            function(file)


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_compressed_voxels_that_are_damaged_are_an_error(tmp_path: Path, ending: str) -> None:
    # ITK prints a warning and goes on with whatever its memory holds.
    file = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(file), useCompression=True)
    data = file if ending == ".mha" else tmp_path / "a.zraw"
    whole = data.read_bytes()
    np.testing.assert_array_equal(read_image(file)[0], ARRAY)
    changed = bytearray(whole)
    changed[-200] ^= 1
    data.write_bytes(changed)
    with pytest.raises(DetSeg3DError, match="the compressed voxels are damaged"):
        read_image(file)
    data.write_bytes(whole[:-20])
    with pytest.raises(DetSeg3DError, match="claims more voxels than the file holds"):
        read_image(file)


def test_voxels_in_a_file_that_is_not_there_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.mhd", ("LOCAL", "gone.raw"))
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_image(tmp_path / "a.mhd")


def test_the_voxels_need_not_be_checked(file: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(file), useCompression=True)
    file.write_bytes(file.read_bytes()[:-20])
    check_metaimage(file, voxels=False)
    assert read_geometry(file).shape == ARRAY.shape
