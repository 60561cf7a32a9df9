from __future__ import annotations

import bz2
import gzip
import os
import random
import tracemalloc
from pathlib import Path
from typing import Any

import nrrd as pynrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_geometry, read_image, write_image
from tests.data.formats.test_metaimage import TYPES, assert_as_itk, read_as_stored, refusal

ARRAY = np.arange(6000, dtype=np.int16).reshape(10, 20, 30) % 77
DIRECTIONS = "space directions: (1,0,0) (0,1.5,0) (0,0,2)"
HEADER = f"""NRRD0004
# a comment
type: uint8
dimension: 3
space: left-posterior-superior
sizes: 4 3 2
{DIRECTIONS}
kinds: domain domain domain
endian: little
encoding: raw
space origin: (4,5,6)
a key:=a value

"""
VOXELS = bytes(range(24))


def write(path: Path, *changes: tuple[str, str], voxels: bytes = VOXELS) -> Path:
    header = HEADER
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    path.write_bytes(header.encode("utf-8", "surrogateescape") + voxels)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.nrrd"


def test_a_good_file_is_read(file: Path) -> None:
    array, geometry = read_image(write(file))
    assert array.ravel().tolist() == list(range(24))
    assert (geometry.shape, geometry.spacing, geometry.origin) == ((2, 3, 4), (2.0, 1.5, 1.0), (4.0, 5.0, 6.0))
    assert_as_itk(file)


def test_windows_line_ends_are_tolerated(file: Path) -> None:
    write(file, ("\n", "\r\n"))
    assert read_image(file)[0].ravel().tolist() == list(range(24))


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("dimension: 3", "dimension: x", "x"),
        ("dimension: 3", "dimension: 99", "4 3 2"),
        ("sizes: 4 3 2", "sizes: 4 3", "4 3"),
        ("sizes: 4 3 2", "sizes: 4 0 2", "4 0 2"),
        ("sizes: 4 3 2", "sizes: 4 -3 2", "4 -3 2"),
        ("sizes: 4 3 2", "sizes: 99999999 99999999 99999999", (99999999,) * 3),
        ("type: uint8", "type: block", "block"),
        ("type: uint8", "type: int128", "int128"),
        ("endian: little", "endian: middle", "middle"),
        ("encoding: raw", "encoding: hex", "hex"),
        ("encoding: raw", "encoding: txt", "txt"),
        ("encoding: raw", "encoding: " + "x" * 5000, "x" * 80),  # ended the process in ITK
        ("a key:=a value", "x" * 5000, "x" * 80),
        ("kinds:", "kindz:", "kindz: domain domain domain"),
        ("kinds: domain domain domain", "sizes: 4 3 2", "4 3 2"),
        ("space: left-posterior-superior", "space: 3D-left-handed", "3D-left-handed"),
        ("space: left-posterior-superior", "space: nonsense", "nonsense"),
        ("space: left-posterior-superior", "space dimension: 2", "2"),
        ("(0,1.5,0)", "(0,nan,0)", "(0,nan,0)"[1:-1].replace(",", " ")),
        ("(0,1.5,0)", "(0,1e999,0)", "0 1e999 0"),
        ("(0,1.5,0)", "(0,1.5)", "0 1.5"),
        ("(0,1.5,0)", "(0 1.5 0", "(1,0,0) (0 1.5 0 (0,0,2)"),
        ("space origin: (4,5,6)", "space origin: (4,5,inf)", "4 5 inf"),
        ("space origin: (4,5,6)", "space origin: 4,5,6", "4,5,6"),
        ("kinds: domain domain domain", 'space units: "cm" "cm" "cm"', ["cm"] * 3),
        ("kinds: domain domain domain", "spacings: 1 1 1", "1 1 1"),
        ("kinds: domain domain domain", "byte skip: -2", "-2"),
        ("kinds: domain domain domain", "line skip: 99999", "99999 lines, 0 bytes"),
    ],
)
def test_an_impossible_header_is_an_error_that_names_the_value(file: Path, old: str, new: str, value: object) -> None:
    assert refusal(write(file, (old, new))).value == value


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("type: uint8\n", ""),
        ("dimension: 3\n", ""),
        ("sizes: 4 3 2\n", ""),
        ("encoding: raw\n", ""),
        ("type: uint8", "type: uint16"),
        ("sizes: 4 3 2", "sizes: 4 3 3"),
        ("endian: little\n", "type: short\n"),
        ("(0,1.5,0)", "(0,0,0)"),
        ("(0,1.5,0)", "(2,0,0)"),
        ("NRRD0004", "NRRD0009"),
        ("NRRD0004", "nrrd0004"),
        ("space: left-posterior-superior", "space: LPS\nspace dimension: 3"),
        (DIRECTIONS, "spacings: 1 1 1"),
        (DIRECTIONS + "\n", ""),
        ("a key", "x" * (1 << 19)),
        ("a key:=a value\n", "# comment\n" * 10_001),
        ("a key:=a value\n", ("# " + "x" * 100_000 + "\n") * 11),
    ],
)
def test_an_incomplete_or_contradictory_header_is_an_error(file: Path, old: str, new: str) -> None:
    refusal(write(file, (old, new)))


def test_a_header_without_end_is_an_error(file: Path) -> None:
    file.write_bytes(HEADER.rstrip("\n").encode())
    refusal(file)


def test_a_header_of_100_megabytes_takes_neither_memory_nor_time(file: Path) -> None:
    with file.open("wb") as handle:
        handle.write(b"NRRD0004\n")
        for _ in range(100):
            handle.write(b"key:=" + b"x" * 1_000_000)
    tracemalloc.start()
    assert "longer than any header" in refusal(file).problem
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


# -- Against ITK and pynrrd --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(TYPES), compressed=st.booleans())
def test_files_of_itk_are_read_as_itk_reads_them(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dtype: str, compressed: bool
) -> None:
    rng = np.random.default_rng(seed)
    image = SimpleITK.GetImageFromArray((rng.normal(size=rng.integers(1, 9, 3)) * 100).astype(dtype))
    image.SetSpacing(rng.uniform(0.01, 9, 3).tolist())
    image.SetOrigin(rng.normal(0, 300, 3).tolist())
    image.SetDirection(Rotation.random(rng=rng).as_matrix().ravel().tolist())
    file = tmp_path_factory.mktemp("itk") / "a.nrrd"
    SimpleITK.WriteImage(image, str(file), useCompression=compressed)
    assert_as_itk(file)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from((*TYPES, ">i2", ">f8", ">u4")),
    encoding=st.sampled_from(("raw", "gzip", "bzip2")),
    space=st.sampled_from(("RAS", "LPS", "LAS", "right-anterior-superior", "left-posterior-superior", "scanner-xyz")),
    extra=st.sampled_from(("", "first", "last")),
    detached=st.booleans(),
)
def test_files_of_pynrrd_are_read_as_itk_and_pynrrd_read_them(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    dtype: str,
    encoding: str,
    space: str,
    extra: str,
    detached: bool,
) -> None:
    rng = np.random.default_rng(seed)
    array = (rng.normal(size=rng.integers(1, 7, 3)) * 100).astype(dtype)
    axes = Rotation.random(rng=rng).as_matrix() * rng.uniform(0.1, 5, 3)
    none = np.full((1, 3), np.nan)
    rows = [axes.T] if not extra else [none, axes.T] if extra == "first" else [axes.T, none]
    header: dict[str, Any] = {"space": space, "space directions": np.vstack(rows), "space origin": rng.normal(0, 99, 3)}
    header |= {"encoding": encoding, "measurement frame": np.eye(3)}
    kinds = ["domain"] * 3
    header["kinds"] = kinds if not extra else ["list", *kinds] if extra == "first" else [*kinds, "list"]
    stored = array if not extra else array[None] if extra == "first" else array[..., None]
    folder = tmp_path_factory.mktemp("pynrrd")
    if detached:
        ending = {"raw": ".raw", "gzip": ".raw.gz", "bzip2": ".raw.bz2"}[encoding]
        pynrrd.write(str(folder / "a.nhdr"), stored, header, detached_header=True)
        (folder / "a.nhdr").rename(folder / "a.nrrd")
        assert (folder / f"a{ending}").exists()
    else:
        pynrrd.write(str(folder / "a.nrrd"), stored, header)
    read, geometry = read_as_stored(folder / "a.nrrd")
    np.testing.assert_array_equal(read, array.T)
    # Computed by hand: a step along each axis, in the space of the file and then in LPS.
    signs = {"R": (-1, -1, 1), "r": (-1, -1, 1), "LA": (1, -1, 1)}.get("LA" if space == "LAS" else space[0], (1, 1, 1))
    corner = geometry.voxel_edges_to_world([[0.5, 0.5, 0.5]])[0]
    np.testing.assert_allclose(corner, np.asarray(header["space origin"]) * signs, atol=1e-9)
    steps = geometry.voxel_edges_to_world(0.5 + np.eye(3)[::-1]) - corner
    np.testing.assert_allclose(steps, (np.asarray(signs)[:, None] * axes).T, atol=1e-9)
    if not detached and encoding != "bzip2":
        assert_as_itk(folder / "a.nrrd")


@pytest.mark.parametrize(
    "lines",
    [
        "spacings: 2 3 4",
        "spacings: 2 3 4\naxis mins: 5 6 7",
        "spacings: 2 3 4\naxis mins: 5 6 7\ncenterings: node node node",
        "spacings: 2 3 4\naxis mins: 5 6 7\ncenterings: cell cell cell",
        "thicknesses: 2 3 4",
        'labels: "a" "b" "c"',
    ],
)
def test_files_without_directions_are_read_as_itk_reads_them(file: Path, lines: str) -> None:
    changes = ((DIRECTIONS, lines), ("space: left-posterior-superior\n", ""), ("space origin: (4,5,6)\n", ""))
    assert_as_itk(write(file, *changes))
    array, geometry = read_image(file)
    write_image(array, geometry, file.with_name("b.nrrd"))
    assert read_geometry(file.with_name("b.nrrd")) == geometry


@pytest.mark.parametrize("lines", ["space dimension: 3", "space: 3D-right-handed", "space: scanner-xyz"])
def test_a_space_that_is_not_anatomical_is_read_as_lps_with_a_warning(
    file: Path, lines: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(file, ("space: left-posterior-superior", lines))
    assert_as_itk(file)
    assert "are assumed to run to left, posterior, superior" in caplog.text


@pytest.mark.parametrize(
    ("lines", "content"),
    [
        ("line skip: 1\nbyte skip: 2", b"a line\nxx" + VOXELS),
        ("byte skip: -1", b"anything" + VOXELS),
        ("encoding: gzip\nbyte skip: 5", gzip.compress(b"12345" + VOXELS)),
        ("encoding: gzip\nline skip: 1", b"a line\n" + gzip.compress(VOXELS)),
        ("encoding: gzip", gzip.compress(VOXELS[:7]) + gzip.compress(VOXELS[7:])),
        ("encoding: bz2", bz2.compress(VOXELS[:7]) + bz2.compress(VOXELS[7:])),
        ("encoding: gz", gzip.compress(VOXELS) + bytes(512)),
    ],
    ids=["lines and bytes", "the end", "bytes in gzip", "a line before gzip", "two members", "two streams", "padding"],
)
def test_all_spellings_and_encodings_of_the_data_are_read(file: Path, lines: str, content: bytes) -> None:
    old = "encoding: raw" if "encoding" in lines else "kinds: domain domain domain"
    write(file, (old, lines), voxels=content)
    assert read_image(file)[0].ravel().tolist() == list(range(24))


def test_a_time_axis_of_one_entry_is_dropped(file: Path) -> None:
    space = ("left-posterior-superior", "left-posterior-superior-time")
    directions = (DIRECTIONS, "space directions: (1,0,0,0) (0,1.5,0,0) (0,0,2,0) (0,0,0,1)")
    sizes = (("dimension: 3", "dimension: 4"), ("4 3 2", "4 3 2 1"), ("(4,5,6)", "(4,5,6,7)"))
    write(file, space, directions, *sizes, ("kinds: domain domain domain\n", ""))
    assert read_image(file)[1].spacing == (2.0, 1.5, 1.0)
    assert read_image(file)[0].shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("dimension", "sizes", "directions"),
    [
        (2, "6 4", "(1,0,0) (0,1,0)"),
        (3, "3 4 2", "none (1,0,0) (0,1,0)"),
        (4, "2 4 3 1", "none (1,0,0) (0,1,0) (0,0,1)"),
        (4, "4 3 1 2", "(1,0,0) (0,1,0) (0,0,1) none"),
        (5, "2 4 3 1 1", "none (1,0,0) (0,1,0) (0,0,1) none"),
    ],
)
def test_data_that_are_not_one_volume_of_single_values_are_refused(
    file: Path, dimension: int, sizes: str, directions: str
) -> None:
    changes = [("dimension: 3", f"dimension: {dimension}"), ("4 3 2", sizes), ("kinds: domain domain domain\n", "")]
    write(file, *changes, (DIRECTIONS, f"space directions: {directions}"))
    assert "not a 3D volume" in refusal(file).problem


def test_directions_that_are_not_at_right_angles_make_a_sheared_grid(file: Path) -> None:
    _, geometry = read_image(write(file, ("(0,1.5,0)", "(0.9,1.2,0)")))
    np.testing.assert_allclose(geometry.voxel_edges_to_world([[0.5, 1.5, 0.5]])[0], [4.9, 6.2, 6])
    assert SimpleITK.ReadImage(str(file)).TransformIndexToPhysicalPoint((0, 1, 0)) == pytest.approx((4.9, 6.2, 6))
    write_image(ARRAY[:2, :3, :4], geometry, file.with_name("b.nrrd"))
    assert read_geometry(file.with_name("b.nrrd")) == geometry


# -- Voxels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_compressed_voxels_that_are_damaged_are_never_read_as_other_voxels(file: Path, compress: Any) -> None:
    # ITK does not compare the checksum of gzip. It read a third of these files with wrong voxels.
    whole = ARRAY.tobytes()
    encoding = "gzip" if compress is gzip.compress else "bzip2"
    changes = [("4 3 2", "30 20 10"), ("type: uint8", "type: short"), ("encoding: raw", f"encoding: {encoding}")]
    content = compress(whole)
    source, refused = random.Random(0), 0
    for _ in range(150):
        changed = bytearray(content)
        changed[source.randrange(len(changed))] ^= 1 << source.randrange(8)
        write(file, *changes, voxels=bytes(changed))
        try:
            np.testing.assert_array_equal(read_image(file)[0], ARRAY)
        except DetSeg3DError as error:
            assert error.file == file
            refused += 1
    assert refused > 100
    write(file, *changes, voxels=content[:-3])
    assert "cut off" in refusal(file).problem


def test_compressed_data_far_longer_than_the_voxels_take_neither_memory_nor_time(file: Path) -> None:
    bomb = gzip.compress(bytes(1 << 24), 9) * 200
    write(file, ("encoding: raw", "encoding: gzip"), voxels=bomb)
    tracemalloc.start()
    assert "follow the voxels" in refusal(file).problem
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_a_million_empty_members_are_an_error(file: Path) -> None:
    write(file, ("encoding: raw", "encoding: gzip"), voxels=gzip.compress(b"") * 100_000 + gzip.compress(VOXELS))
    assert "hold almost no bytes" in refusal(file).problem


def test_a_header_that_states_terabytes_takes_no_memory(file: Path) -> None:
    for encoding in ("raw", "gzip"):
        write(file, ("4 3 2", "9999 9999 9999"), ("encoding: raw", f"encoding: {encoding}"))
        assert "claims more voxels" in refusal(file).problem


# -- The file with the voxels ------------------------------------------------------------------------------------------


def test_voxels_are_read_from_a_file_beside_the_header(tmp_path: Path) -> None:
    (tmp_path / "v 1.raw").write_bytes(VOXELS)
    write(tmp_path / "a.nrrd", ("a key:=a value", "data file: v 1.raw"), voxels=b"")
    assert read_image(tmp_path / "a.nrrd")[0].ravel().tolist() == list(range(24))
    (tmp_path / "b.nrrd").write_bytes(
        (tmp_path / "a.nrrd").read_bytes().rstrip(b"\n")
    )  # a header in a separate file may end without an empty line
    assert read_image(tmp_path / "b.nrrd")[0].ravel().tolist() == list(range(24))


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "../v.raw", "sub/v.raw", "sub\\v.raw", "..", "/dev/zero", "gone.raw", "LIST", "LIST 2\nv.raw"),
        *("s%s%s%s.raw 1 24 1", "s%0300d.raw 1 24 1", "s%99999999d.raw 1 24 1", "a.nrrd", "link_outside", "pipe", ""),
    ],
)
def test_other_files_than_a_plain_one_in_the_same_folder_are_never_opened(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        (place / "v.raw").write_bytes(VOXELS)
    (folder / "link_outside").symlink_to(tmp_path / "v.raw")
    os.mkfifo(folder / "pipe")
    assert refusal(write(folder / "a.nrrd", ("a key:=a value", f"data file: {name}"), voxels=b"")).remedy


def test_another_format_under_this_name_is_named(file: Path) -> None:
    file.write_bytes(gzip.compress(VOXELS))
    assert "gzip, not NRRD" in refusal(file).problem


# -- Writing -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_written_is_what_itk_reads(file: Path, dtype: str) -> None:
    direction = tuple(Rotation.from_euler("xyz", [0.1, 0.2, 3]).as_matrix().ravel())
    geometry = Geometry(ARRAY.shape, (0.1 + 0.2, 1 / 3, 1e-3), (1e30, -0.0, 1 / 7), direction)
    write_image(ARRAY.astype(dtype), geometry, file)
    assert_as_itk(file)
    assert geometry.difference(read_geometry(file).as_stored()) == []


@pytest.mark.parametrize("space", ["RAS", "LAS", "left-posterior-superior"])
def test_a_result_has_the_geometry_of_its_input_to_the_bit_in_every_space(tmp_path: Path, space: str) -> None:
    rng = np.random.default_rng(3)
    for number in range(10):
        axes = Rotation.random(rng=rng).as_matrix() * rng.uniform(0.1, 5, 3)
        header = {"space": space, "space directions": axes.T, "space origin": rng.normal(0, 99, 3)}
        pynrrd.write(str(tmp_path / f"{number}.nrrd"), ARRAY.T, header)
        array, geometry = read_image(tmp_path / f"{number}.nrrd")
        write_image(array, geometry, tmp_path / "result.nrrd")
        assert read_geometry(tmp_path / "result.nrrd") == geometry
        np.testing.assert_array_equal(pynrrd.read_header(str(tmp_path / "result.nrrd"))["space directions"], axes.T)


# -- Mutations ---------------------------------------------------------------------------------------------------------

WORDS = ["", "0", "1", "-1", "2", "3", "4", "99999999999999999999", "nan", "1e400", "%s%n", "x" * 5000, "none", "raw"]
WORDS += ["gzip", "short", "double", "LIST", "/etc/passwd", "\0", ":", ":=", "(0,0,1)", "(1,0,0)", "()", "RAS", "big"]


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_mutated_headers_are_errors_or_read_as_stated(file: Path, encoding: str) -> None:
    source = random.Random(f"nrrd {encoding}")
    lines = HEADER.replace("encoding: raw", f"encoding: {encoding}").splitlines()[:-1]
    content = gzip.compress(VOXELS) if encoding == "gzip" else VOXELS
    outcomes = {"refused": 0, "read": 0}
    for _ in range(400):
        mutated = [line.split(" ") for line in lines]
        for _ in range(source.randint(1, 2)):
            line = source.randrange(len(mutated))
            action = source.randrange(4)
            if action == 0:
                mutated[line][source.randrange(len(mutated[line]))] = source.choice(WORDS)
            elif action == 1:
                del mutated[line]
            elif action == 2:
                mutated.insert(source.randrange(len(mutated)), mutated[line].copy())
            else:
                source.shuffle(mutated[line])
        text = "\n".join(" ".join(words) for words in mutated) + "\n\n"
        whole = text.encode() + content
        file.write_bytes(whole)
        try:
            array, geometry = read_image(file)
        except DetSeg3DError as error:
            assert error.file == file
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        stated = dict(line.split(": ", 1) for line in text.split("\n\n")[0].splitlines() if ": " in line)
        assert geometry.shape == tuple(int(size) for size in stated["sizes"].split()[::-1])
        voxels = VOXELS if stated["encoding"] == "gzip" else whole[whole.index(b"\n\n") + 2 :]
        code = {"uint8": "u1", "short": "i2", "double": "f8"}[stated["type"]]
        order = ">" if stated.get("endian") == "big" else "<"
        np.testing.assert_array_equal(array.ravel(), np.frombuffer(voxels, np.dtype(order + code), array.size))
        if "space directions" in stated:
            spacing = [max(float(n) for n in word[1:-1].split(",")) for word in stated["space directions"].split()]
            assert geometry.spacing == tuple(spacing[::-1])
        else:
            assert geometry.spacing == (1.0, 1.0, 1.0) and not {"space", "space origin"} & stated.keys()
    assert min(outcomes.values()) > 30, outcomes
