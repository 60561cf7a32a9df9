from __future__ import annotations

import gzip
import itertools
import os
import random
import re
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_geometry, read_image, write_image

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


def write(path: Path, *changes: tuple[str, str], count: int = 24, voxels: bytes | None = None) -> Path:
    header = HEADER
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    path.write_bytes(header.encode("latin-1") + (bytes(range(count)) if voxels is None else voxels))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.mha"


def refusal(file: Path) -> DetSeg3DError:
    """Return the error of reading a file. Reading its geometry alone must give the same error or none."""
    with pytest.raises(DetSeg3DError) as error:
        read_image(file)
    try:
        read_geometry(file)
    except DetSeg3DError as other:
        assert (other.problem, other.file) == (error.value.problem, file)
    assert error.value.file == file
    return error.value


def test_a_good_file_is_read(file: Path) -> None:
    array, geometry = read_image(write(file))
    assert array.ravel().tolist() == list(range(24))
    assert (geometry.shape, geometry.spacing, geometry.origin) == ((2, 3, 4), (2.0, 1.5, 1.0), (4.0, 5.0, 6.0))


@pytest.mark.parametrize(
    "line", ["0010|0010 = DOE^JANE", "two words : x", "no value", "", "Note = " + "x" * 3000, "Comment = ä"]
)
def test_lines_that_do_not_describe_the_image_are_ignored(file: Path, line: str) -> None:
    write(file, ("BinaryData", line + "\nBinaryData"))
    assert read_image(file)[0].shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("NDims = 3", "NDims = 99", "4 3 2"),  # this and the next two ended the process in ITK
        ("ObjectType = Image", "ObjectType = " + "x" * 300, "x" * 80),
        ("NDims = 3", "NDims = x", "x"),
        ("NDims = 3", "NDims = 3\nNDims = 4", "4"),
        ("DimSize = 4 3 2", "DimSize = 4 3", "4 3"),
        ("DimSize = 4 3 2", "DimSize = 4 -3 2", "4 -3 2"),
        ("DimSize = 4 3 2", "DimSize = 4 0 2", "4 0 2"),
        ("DimSize = 4 3 2", "DimSize = 4 .3 2", "4 .3 2"),
        ("NDims = 3\n", "DimSize = 4 3 2\nNDims = 3\n", "4 3 2"),
        ("Offset = 4 5 6", "Offset = 4 nan 6", "4 nan 6"),
        ("Offset = 4 5 6", "Offset = 4,5,6", "4,5,6"),
        ("Offset = 4 5 6", "Offset = 4 5", "4 5"),
        ("Offset = 4 5 6", "Offset = 4 5 6 7", "4 5 6 7"),
        ("Offset = 4 5 6", "offset = 4 5 6", "offset"),
        ("Offset = 4 5 6", "Offset = 4 5 6\nPosition = 4 5 7", ["4 5 6", "4 5 7"]),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 1,5 2", "1 1,5 2"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 -1.5 2", "1 -1.5 2"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 0 2", "1 0 2"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 1e999 2", "1 1e999 2"),
        ("ElementSpacing = 1 1.5 2", "ElementSpacing = 1 1_5 2", "1 1_5 2"),
        ("DimSize = 4 3 2", "DimSize = 99999999 99999999 99999999", (99999999,) * 3),
        ("MET_UCHAR", "MET_UCHAR_ARRAY", "MET_UCHAR_ARRAY"),
        ("MET_UCHAR", "MET_OTHER", "MET_OTHER"),
        ("BinaryData = True", "BinaryData = yes", "yes"),
        ("BinaryData = True", "BinaryData = True\nDistanceUnits = cm", "cm"),
        ("BinaryData = True", "BinaryData = True\nElementToIntensityFunctionSlope = 2", "2"),
        ("BinaryData = True", "BinaryData = True\nHeaderSize = 9", 9),
        ("BinaryData = True", "BinaryData = True\nHeaderSize = -2", "-2"),
        ("BinaryData = True", "BinaryData = True\nTransformMatrix = 1 0 0 0 1 0 0 0", "1 0 0 0 1 0 0 0"),
        ("Offset = 4 5 6", "Offset = 4 5 6\nElementSize = 1 nan 1", "1 nan 1"),
    ],
)
def test_an_impossible_header_is_an_error_that_names_the_value(file: Path, old: str, new: str, value: object) -> None:
    assert refusal(write(file, (old, new))).value == value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NDims = 3\n", ""),
        ("DimSize = 4 3 2\n", ""),
        ("ElementDataFile", "ElementFile"),
        ("BinaryData = True\n", ""),
        ("BinaryData = True", "BinaryData = False"),
        ("DimSize = 4 3 2", "DimSize = 4 3 3"),
        ("MET_UCHAR", "MET_SHORT"),
        ("Offset", "TransformMatrix = 1 0 0 1 0 0 0 0 1\nOffset"),
        ("Offset", "TransformMatrix = 2 0 0 0 2 0 0 0 2\nOffset"),
        ("Offset", "BinaryDataByteOrderMSB = True\nElementByteOrderMSB = False\nOffset"),
        ("Offset", "Note = " + "x" * (1 << 19) + "\nOffset"),
        ("Offset", "Note = x\n" * 10_001 + "Offset"),
        ("Offset", ("Note = " + "x" * 100_000 + "\n") * 11 + "Offset"),
    ],
)
def test_an_incomplete_or_contradictory_header_is_an_error(file: Path, old: str, new: str) -> None:
    refusal(write(file, (old, new)))


@pytest.mark.parametrize(("axes", "sizes", "channels"), [(2, "6 4", 1), (4, "4 3 1 2", 1), (3, "2 3 2", 2)])
def test_data_that_are_not_one_volume_of_single_values_are_refused(
    file: Path, axes: int, sizes: str, channels: int
) -> None:
    changes = [("NDims = 3", f"NDims = {axes}"), ("DimSize = 4 3 2", f"DimSize = {sizes}")]
    changes += [("Offset = 4 5 6\n", f"ElementNumberOfChannels = {channels}\n"), ("ElementSpacing = 1 1.5 2\n", "")]
    assert "not a 3D volume" in refusal(write(file, *changes)).problem


# -- Against ITK -------------------------------------------------------------------------------------------------------


def place(image: SimpleITK.Image) -> Geometry:
    size, spacing = image.GetSize(), image.GetSpacing()
    axes = len(size)
    direction = np.asarray(image.GetDirection()).reshape(axes, axes)[:3, :3]
    return Geometry(size[2::-1], spacing[2::-1], image.GetOrigin()[:3], tuple(direction.ravel()))


def read_as_stored(file: Path) -> tuple[np.ndarray, Geometry]:
    """Return voxels and geometry in the order of the file, as ITK reads them."""
    array, geometry = read_image(file)
    assert geometry == read_geometry(file)
    return geometry.stored_order.to_stored(array), geometry.as_stored()


def assert_as_itk(file: Path) -> None:
    array, geometry = read_as_stored(file)
    image = SimpleITK.ReadImage(str(file))
    voxels = SimpleITK.GetArrayFromImage(image).reshape(geometry.shape)
    np.testing.assert_array_equal(array, voxels)
    assert array.dtype == voxels.dtype
    # Our spacing is the intended decimal number. ITK's differs in the last digits.
    expected = place(image)
    np.testing.assert_allclose(geometry.spacing, expected.spacing, rtol=1e-7)
    assert geometry == replace(expected, spacing=geometry.spacing)


TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(TYPES),
    ending=st.sampled_from((".mha", ".mhd")),
    compressed=st.booleans(),
    axes=st.sampled_from((3, 3, 4)),
)
def test_files_of_itk_are_read_as_itk_reads_them(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: str, ending: str, compressed: bool, axes: int
) -> None:
    rng = np.random.default_rng(seed)
    array = (rng.normal(size=rng.integers(1, 9, 3)) * 100).astype(dtype)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(rng.uniform(0.01, 9, 3).tolist())
    image.SetOrigin(rng.normal(0, 300, 3).tolist())
    image.SetDirection(Rotation.random(rng=rng).as_matrix().ravel().tolist())
    if axes == 4:
        image = SimpleITK.JoinSeries([image])
    file = tmp_path_factory.mktemp("itk") / f"a{ending}"
    SimpleITK.WriteImage(image, str(file), useCompression=compressed)
    assert_as_itk(file)


@pytest.mark.parametrize(
    "lines",
    [
        "TransformMatrix = 0 1 0 0 0 1 1 0 0",  # not symmetric, so a transposed matrix would fail
        "Rotation = 0 1 0 0 0 1 1 0 0",
        "Orientation = 0 1 0 0 0 1 1 0 0",
        "TransformMatrix = 0 1 0 0 0 1 1 0 0\nCenterOfRotation = 7 8 9",
        "AnatomicalOrientation = RAS",
        "BinaryDataByteOrderMSB = True",
        "ElementByteOrderMSB = True",
        "ElementByteOrderMSB = 1",
        "ElementSize = 7 8 9",
        "HeaderSize = -1",
        "ElementMin = 0\nElementMax = 9\nModality = MET_MOD_MR",
    ],
)
def test_other_headers_are_read_as_itk_reads_them(file: Path, lines: str) -> None:
    write(file, ("MET_UCHAR", "MET_SHORT"), ("Offset", lines + "\nOffset"), count=48)
    assert_as_itk(file)


@pytest.mark.parametrize("name", ["Position", "Origin"])
def test_other_names_of_the_origin_and_size_in_place_of_spacing(file: Path, name: str) -> None:
    write(file, ("Offset", name), ("ElementSpacing", "ElementSize"))
    assert read_geometry(file).spacing == (2.0, 1.5, 1.0)
    assert_as_itk(file)


@pytest.mark.parametrize(("name", "code"), [("MET_LONG", "<i4"), ("MET_ULONG", "<u4"), ("MET_CHAR", "i1")])
def test_long_has_four_bytes(file: Path, name: str, code: str) -> None:
    write(file, ("MET_UCHAR", name), voxels=np.arange(24).astype(code).tobytes())
    assert read_image(file)[0].dtype == np.dtype(code)
    assert_as_itk(file)


def test_directions_that_are_not_at_right_angles_make_a_sheared_grid_and_are_written_back(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mha", ("Offset", "TransformMatrix = 1 0 0 0.6 0.8 0 0 0 1\nOffset"))
    array, geometry = read_image(file)
    # Voxel (x, y, z) = (0, 1, 0) by hand: one step of 1.5 mm along (0.6, 0.8, 0) from (4, 5, 6).
    np.testing.assert_allclose(geometry.voxel_edges_to_world([[0.5, 1.5, 0.5]])[0], [4.9, 6.2, 6])
    image = SimpleITK.ReadImage(str(file))
    assert image.TransformIndexToPhysicalPoint((0, 1, 0)) == pytest.approx((4.9, 6.2, 6))
    write_image(array, geometry, tmp_path / "b.mha")
    assert read_geometry(tmp_path / "b.mha") == geometry
    assert SimpleITK.ReadImage(str(tmp_path / "b.mha")).GetDirection() == image.GetDirection()


# -- Voxels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_compressed_voxels_that_are_damaged_are_an_error(tmp_path: Path, ending: str) -> None:
    # ITK prints a warning and returns uninitialised memory.
    file = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(file), useCompression=True)
    data = file if ending == ".mha" else tmp_path / "a.zraw"
    whole = data.read_bytes()
    np.testing.assert_array_equal(read_image(file)[0], ARRAY)
    changed = bytearray(whole)
    changed[-200] ^= 1
    data.write_bytes(changed)
    assert "the compressed voxels are damaged" in refusal(file).problem
    data.write_bytes(whole[:-20])
    assert "cut off" in refusal(file).problem


@pytest.mark.parametrize("stated", ["", "CompressedDataSize = 0\n", "CompressedDataSize = 1e9\n"])
def test_a_compressed_size_that_is_missing_or_wrong_does_not_matter(file: Path, stated: str) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(file), useCompression=True)
    content = file.read_bytes()
    file.write_bytes(re.sub(rb"CompressedDataSize = \d+\n", stated.encode(), content))
    assert file.read_bytes() != content
    np.testing.assert_array_equal(read_image(file)[0], ARRAY)


def test_a_wrong_compressed_size_gives_a_warning(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(file, ("CompressedData = False", "CompressedData = True\nCompressedDataSize = 5"))
    file.write_bytes(file.read_bytes()[:-24] + zlib.compress(bytes(range(24))))
    assert read_image(file)[0].ravel().tolist() == list(range(24))
    assert "CompressedDataSize is 5" in caplog.text


def test_voxels_compressed_as_gzip_are_read(file: Path) -> None:
    write(file, ("CompressedData = False", "CompressedData = True"), voxels=gzip.compress(bytes(range(24))))
    assert read_image(file)[0].ravel().tolist() == list(range(24))


def test_padding_after_the_voxels_is_accepted_and_more_is_an_error(file: Path) -> None:
    write(file, count=24)
    with file.open("ab") as handle:
        handle.write(bytes(1 << 16))
        handle.flush()
        assert read_image(file)[0].ravel().tolist() == list(range(24))
        handle.write(b"\0")
    assert "follow the voxels" in refusal(file).problem


def test_compressed_zeros_of_a_gigabyte_take_neither_memory_nor_time(file: Path) -> None:
    compressor, blocks = zlib.compressobj(9), []
    for _ in range(256):
        blocks.append(compressor.compress(bytes(1 << 22)))
    write(file, ("CompressedData = False", "CompressedData = True"), voxels=b"".join([*blocks, compressor.flush()]))
    tracemalloc.start()
    assert "follow the voxels" in refusal(file).problem
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_a_header_that_states_terabytes_takes_no_memory(file: Path) -> None:
    for changes in ([], [("CompressedData = False", "CompressedData = True")]):
        write(file, ("DimSize = 4 3 2", "DimSize = 9999 9999 9999"), *changes)
        assert "claims more voxels" in refusal(file).problem


# -- The file with the voxels ------------------------------------------------------------------------------------------


def header_file(folder: Path, data: str, *changes: tuple[str, str]) -> Path:
    return write(folder / "a.mhd", ("LOCAL", data), *changes, count=0)


@pytest.mark.parametrize("name", ["v.raw", "50%.raw", "%d.raw", "name with spaces.raw", "größe.raw"])
def test_voxels_are_read_from_a_file_beside_the_header(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bytes(range(24)))
    file = tmp_path / "a.mhd"
    file.write_bytes(HEADER.replace("LOCAL", name).encode())
    assert read_image(file)[0].ravel().tolist() == list(range(24))


def test_bytes_before_the_voxels_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_bytes(b"x" * 7 + bytes(range(24)) + b"another volume" * 9999)
    file = header_file(tmp_path, "v.raw", ("Offset", "HeaderSize = 7\nOffset"))
    assert read_image(file)[0].ravel().tolist() == list(range(24))
    (tmp_path / "v.raw").write_bytes(b"x" * 70000 + bytes(range(24)))
    file = header_file(tmp_path, "v.raw", ("Offset", "HeaderSize = -1\nOffset"))
    with pytest.raises(DetSeg3DError):  # with a wrong header, 70 000 bytes would follow the voxels
        read_image(header_file(tmp_path, "v.raw"))
    file = header_file(tmp_path, "v.raw", ("Offset", "HeaderSize = -1\nOffset"))
    assert read_image(file)[0].ravel().tolist() == list(range(24))


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../v.raw", "sub/v.raw", "./v.raw", "sub\\v.raw", "C:v.raw", "..", ".", "/dev/zero"),
        *("gone.raw", "LIST", "LIST\nv.raw", "s%s%s%s%s.raw 1 24 1", "f%n%n.raw 1 2 1", "f%d.raw 1 10 0", "f%d.raw"),
        *("a.mhd", "link_outside", "pipe", "folder", "v\0.raw"),
    ],
)
def test_other_files_than_a_plain_one_in_the_same_folder_are_never_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "folder").mkdir()
    for place in (tmp_path, folder, folder / "sub"):
        (place / "v.raw").write_bytes(bytes(24))
    (folder / "link_outside").symlink_to(tmp_path / "v.raw")
    os.mkfifo(folder / "pipe")
    error = refusal(header_file(folder, name, ("DimSize = 4 3 2", "DimSize = 1 1 1")))
    assert error.remedy


def test_a_linked_header_finds_its_voxels_beside_the_link(tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    header_file(tmp_path, "v.raw")
    (tmp_path / "v.raw").write_bytes(bytes(24))
    (tmp_path / "linked" / "a.mhd").symlink_to(tmp_path / "a.mhd")
    with pytest.raises(DetSeg3DError):
        read_image(tmp_path / "linked" / "a.mhd")
    (tmp_path / "linked" / "v.raw").write_bytes(bytes(range(24)))
    assert read_image(tmp_path / "linked" / "a.mhd")[0].ravel().tolist() == list(range(24))


def test_another_format_under_this_name_is_named(file: Path) -> None:
    file.write_bytes(b"NRRD0004\ntype: short\n")
    assert "NRRD (.nrrd), not MetaImage" in refusal(file).problem


# -- Writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".mha", ".mhd"])
@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_is_what_itk_reads(tmp_path: Path, ending: str, dtype: str) -> None:
    direction = tuple(Rotation.from_euler("xyz", [0.1, 0.2, 3]).as_matrix().ravel())
    geometry = Geometry(ARRAY.shape, (0.1 + 0.2, 1 / 3, 5e-324), (1e300, -0.0, 1 / 7), direction)
    write_image(ARRAY.astype(dtype), geometry, tmp_path / f"a{ending}")
    assert read_geometry(tmp_path / f"a{ending}").as_stored() == geometry
    geometry = Geometry(ARRAY.shape, (0.1 + 0.2, 1 / 3, 1e-3), (1e30, -0.0, 1 / 7), direction)
    write_image(ARRAY.astype(dtype), geometry, tmp_path / f"a{ending}")
    assert_as_itk(tmp_path / f"a{ending}")
    assert read_geometry(tmp_path / f"a{ending}").as_stored() == geometry


# -- Mutations ---------------------------------------------------------------------------------------------------------

WORDS = ["", "0", "1", "-1", "2", "3", "4", "99999999999999999999", "nan", "1e400", "%s%n", "x" * 5000, "LOCAL", "True"]
WORDS += ["False", "MET_SHORT", "MET_DOUBLE", "LIST", "/etc/passwd", "\0", "=", "0.5", "1 0 0", "é"]


@pytest.mark.parametrize("compressed", [False, True])
def test_mutated_headers_are_errors_or_read_as_stated(file: Path, compressed: bool) -> None:
    source = random.Random(f"metaimage {compressed}")
    image = SimpleITK.GetImageFromArray(ARRAY)
    SimpleITK.WriteImage(image, str(file), useCompression=compressed)
    content = file.read_bytes()
    end = content.index(b"LOCAL\n") + 6
    lines = content[:end].decode().splitlines()
    outcomes = {"refused": 0, "read": 0}
    for _ in range(300):
        mutated = [line.split(" ") for line in lines]
        for _ in range(source.randint(1, 2)):
            line = source.randrange(len(mutated))
            action = source.randrange(4)
            if action == 0:
                mutated[line][source.randrange(len(mutated[line]))] = source.choice(WORDS)
            elif action == 1 and len(mutated) > 1:
                del mutated[line]
            elif action == 2:
                mutated.insert(source.randrange(len(mutated)), mutated[line].copy())
            else:
                source.shuffle(mutated[line])
        text = "\n".join(" ".join(words) for words in mutated) + "\n"
        file.write_bytes(text.encode() + content[end:])
        try:
            array, geometry = read_image(file)
        except DetSeg3DError as error:
            assert error.file == file
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        assert array.shape == geometry.shape
        stated = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
        voxels = zlib.decompress(content[end:]) if compressed else content[end:]
        code = np.dtype({"MET_SHORT": "i2", "MET_DOUBLE": "f8"}[stated["ElementType"]])
        order = ">" if stated.get("BinaryDataByteOrderMSB") in ("True", "1") else "<"
        # A mutated header may end earlier (at another line "ElementDataFile"), so that the voxels follow other bytes.
        start = (text.encode() + content[end:]).index(b"ElementDataFile = LOCAL\n") + len(b"ElementDataFile = LOCAL\n")
        if stated.get("CompressedData") != "True":
            voxels = (text.encode() + content[end:])[start:]
            if stated.get("HeaderSize") == "-1":
                voxels = voxels[-array.nbytes :]
        expected = np.frombuffer(voxels, code.newbyteorder(order), array.size)
        np.testing.assert_array_equal(array.ravel(), expected)
        assert geometry.shape == tuple(int(size) for size in stated["DimSize"].split()[::-1][-3:])
        if "ElementSpacing" in stated:
            assert geometry.spacing == tuple(float(word) for word in stated["ElementSpacing"].split()[2::-1])
    assert min(outcomes.values()) > 30, outcomes


def test_flipped_bits_of_compressed_voxels_are_never_read_as_other_voxels(file: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(ARRAY), str(file), useCompression=True)
    content = file.read_bytes()
    start = content.index(b"LOCAL\n") + 6
    source = random.Random(0)
    for place, bit in itertools.product(source.sample(range(start, len(content)), 60), range(0, 8, 3)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        file.write_bytes(changed)
        try:
            np.testing.assert_array_equal(read_image(file)[0], ARRAY)
        except DetSeg3DError as error:
            assert error.file == file
