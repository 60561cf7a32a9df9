"""Images with damaged or unusable voxels or geometry. For damaged MetaImage files see test_metaimage.py."""

from __future__ import annotations

import gzip
import time
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_geometry, read_image, write_image

ARRAY = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)


def nifti(path: Path, array: Any = ARRAY, affine: Any = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_truncated_compressed_nifti_is_an_error(tmp_path: Path, cut: int) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(DetSeg3DError) as caught:
        read_image(file)
    assert caught.value.file == file


def test_compressed_nifti_with_a_changed_voxel_is_an_error(tmp_path: Path) -> None:
    # The bytes are stored without compression, so the change alters one voxel, and only the checksum shows it.
    file = nifti(tmp_path / "a.nii.gz")
    stored = bytearray(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=0))
    stored[-300] ^= 1
    file.write_bytes(stored)
    with pytest.raises(DetSeg3DError, match=r"incorrect data check|Incorrect checksum"):
        read_image(file)


def stored_voxels(file: Path) -> np.ndarray:
    """Return the voxels in the order of the file, ``(z, y, x)``."""
    array, geometry = read_image(file)
    return geometry.stored_order.to_stored(array)


def member(count: int, level: int = 9) -> bytes:
    """Return a gzip member of this number of zeros."""
    return gzip.compress(bytes(count), level)


@pytest.mark.parametrize(
    "behind",
    [bytes(512), b"junk", gzip.compress(b"more"), b"\x1f\x8b", b"x" * 65000],
    ids=["zeros", "junk", "another member", "the beginning of a member", "text"],
)
def test_a_few_bytes_after_the_compressed_voxels_are_ignored(tmp_path: Path, behind: bytes) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    file.write_bytes(file.read_bytes() + behind)
    np.testing.assert_array_equal(stored_voxels(file), ARRAY.T)


def test_compressed_voxels_may_lie_in_several_members(tmp_path: Path) -> None:
    content = nifti(tmp_path / "a.nii").read_bytes()
    parts = [content[:100], content[100:360], content[360:700], b"", content[700:]]
    (tmp_path / "a.nii.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    np.testing.assert_array_equal(stored_voxels(tmp_path / "a.nii.gz"), ARRAY.T)
    whole = (tmp_path / "a.nii.gz").read_bytes()
    for start in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[start] ^= 4
        (tmp_path / "a.nii.gz").write_bytes(changed)
        try:
            np.testing.assert_array_equal(stored_voxels(tmp_path / "a.nii.gz"), ARRAY.T)
        except DetSeg3DError as error:
            assert error.file == tmp_path / "a.nii.gz"


@pytest.mark.parametrize("kind", ["members behind", "one member", "empty members first", "padding", "other data"])
def test_work_is_limited_by_the_size_in_the_header(tmp_path: Path, kind: str) -> None:
    content = nifti(tmp_path / "a.nii").read_bytes()
    bombs = {
        "members behind": gzip.compress(content) + member(1 << 24) * 300,
        "one member": gzip.compress(content + bytes(1 << 28)),
        "empty members first": gzip.compress(b"") * 300_000 + gzip.compress(content),
        "padding": gzip.compress(content) + bytes(1 << 24),
        "other data": gzip.compress(content) + b"x" * (1 << 17),
    }
    file = tmp_path / "a.nii.gz"
    file.write_bytes(bombs[kind])
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(DetSeg3DError) as error:
        read_image(file)
    assert error.value.file == file
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_a_plain_file_far_longer_than_its_voxels_is_refused(tmp_path: Path) -> None:
    file = nifti(tmp_path / "a.nii")
    with file.open("ab") as handle:
        handle.write(bytes(1 << 16))
        handle.flush()
        np.testing.assert_array_equal(stored_voxels(file), ARRAY.T)
        handle.truncate(1 << 40)  # sparse
    with pytest.raises(DetSeg3DError, match="follow the voxels"):
        read_image(file)


@pytest.mark.parametrize("offset", [1e30, -1.0, 353.0 + (1 << 29), np.nan])
def test_an_impossible_offset_of_the_voxels_is_an_error(tmp_path: Path, offset: float) -> None:
    content = bytearray(nifti(tmp_path / "a.nii").read_bytes())
    content[108:112] = np.float32(offset).tobytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content))
    with pytest.raises(DetSeg3DError) as error:
        read_image(tmp_path / "a.nii.gz")
    assert error.value.file == tmp_path / "a.nii.gz"


def test_extensions_before_the_voxels_are_skipped(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(ARRAY, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 300_000))
    for ending in (".nii", ".nii.gz"):
        nibabel.save(image, tmp_path / f"a{ending}")
        np.testing.assert_array_equal(stored_voxels(tmp_path / f"a{ending}"), ARRAY.T)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    code=st.sampled_from(("<i2", ">i2", "u1", "<i4", "<u4", ">f4", "<f8", "i1", "<i8")),
    slope=st.sampled_from((0.0, 1.0, 2.0, 0.3, -1.5, np.nan)),
    intercept=st.sampled_from((0.0, -1024.0, 0.1)),
    second=st.booleans(),
    ending=st.sampled_from((".nii", ".nii.gz")),
)
def test_voxels_are_those_of_nibabel(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    code: str,
    slope: float,
    intercept: float,
    second: bool,
    ending: str,
) -> None:
    rng = np.random.default_rng(seed)
    dtype = np.dtype(code)
    header = (nibabel.Nifti2Header if second else nibabel.Nifti1Header)(endianness="<" if code[0] != ">" else ">")
    header.set_data_dtype(dtype)
    voxels = (rng.normal(size=rng.integers(1, 6, 3)) * 99).astype(dtype)
    header.set_data_shape(voxels.shape)
    header.set_sform(np.eye(4), 1)
    header["magic"] = b"n+2" if second else b"n+1"
    header["vox_offset"] = 544 if second else 352
    header["scl_slope"], header["scl_inter"] = slope, intercept
    content = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    file = tmp_path_factory.mktemp("nifti") / f"a{ending}"
    file.write_bytes(content if ending == ".nii" else gzip.compress(content))
    proxy = nibabel.load(file).dataobj
    unscaled = (proxy.slope, proxy.inter) == (1, 0)
    expected = (proxy.get_unscaled() if unscaled else np.asarray(proxy, np.float32)).T
    array = stored_voxels(file)
    np.testing.assert_array_equal(array, expected)
    assert array.dtype == expected.dtype.newbyteorder("=")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".npy"])
def test_a_header_that_states_terabytes_takes_no_memory(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"a{ending}"
    if ending == ".npy":
        with open(file, "wb") as handle:
            np.lib.format.write_array_header_1_0(
                handle, {"descr": "<i2", "fortran_order": False, "shape": (9999, 9999, 9999)}
            )
    else:
        nifti(tmp_path / "b.nii")
        content = bytearray((tmp_path / "b.nii").read_bytes())
        content[42:48] = np.array([9999, 9999, 9999], np.int16).tobytes()
        file.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    tracemalloc.start()
    with pytest.raises(DetSeg3DError) as caught:
        read_image(file)
    assert caught.value.file == file
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_voxels_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", ARRAY.astype(dtype))
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.npy")
    assert caught.value.file == tmp_path / "a.npy" and caught.value.value == str(np.dtype(dtype))
    nifti(tmp_path / "a.nii.gz", ARRAY.astype(dtype))
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii.gz")
    assert caught.value.file == tmp_path / "a.nii.gz" and caught.value.value == str(np.dtype(dtype))


def test_complex_voxels_on_a_sheared_grid_are_refused(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.4
    nifti(tmp_path / "a.nii.gz", ARRAY.astype("complex64"), shear)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii.gz")
    assert caught.value.file == tmp_path / "a.nii.gz" and caught.value.expected == "integers or floating point"


def test_colour_in_a_nifti_is_named(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nifti(tmp_path / "a.nii", colour)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii")
    assert caught.value.file == tmp_path / "a.nii" and "3 values a voxel" in str(caught.value.value)


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 1.0, 0.0, 1.0]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.array([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_a_singular_affine_is_refused(tmp_path: Path, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(ARRAY, None)
    image.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(DetSeg3DError) as caught:
        read_geometry(tmp_path / "a.nii")
    assert caught.value.file == tmp_path / "a.nii" and caught.value.value is not None


def test_a_sheared_grid_of_micrometres_is_not_singular(tmp_path: Path) -> None:
    shear = np.diag([0.02, 0.02, 0.05, 1.0])
    shear[0, 1] = 0.004
    image = nibabel.Nifti1Image(ARRAY, shear)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_geometry(tmp_path / "a.nii").spacing[2] == pytest.approx(2e-5)


def test_an_origin_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    content = bytearray(nifti(tmp_path / "a.nii").read_bytes())
    content[252:256] = np.array([1, 0], np.int16).tobytes()  # qform_code, sform_code
    content[268:272] = np.float32(np.nan).tobytes()  # qoffset_x
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.nii")
    assert caught.value.file == tmp_path / "a.nii" and caught.value.value is not None


def test_npy_that_is_an_archive_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as handle:
        np.savez(handle, first=ARRAY)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.npy")
    assert caught.value.file == tmp_path / "a.npy" and caught.value.remedy == "use numpy.save"


def test_npy_that_is_cut_while_it_is_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # If the file were mapped into memory, shortening it would end the process.
    file = tmp_path / "a.npy"
    np.save(file, np.zeros((20, 512, 512), np.float32))
    empty = np.empty

    def cut_and_allocate(*arguments: Any) -> np.ndarray:
        with file.open("r+b") as handle:
            handle.truncate(1000)
        return empty(*arguments)

    monkeypatch.setattr("detseg3d.data.formats.compressed.np.empty", cut_and_allocate)
    with pytest.raises(DetSeg3DError, match="claims more voxels than the file holds"):
        read_image(file)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_with_a_header_of_gigabytes_is_refused(tmp_path: Path, version: tuple[int, int]) -> None:
    length = b"\xff\xff" if version == (1, 0) else b"\xff\xff\xff\x7f"
    with (tmp_path / "a.npy").open("wb") as handle:
        handle.write(b"\x93NUMPY" + bytes(version) + length + b"{" * 100)
        handle.truncate(1 << 31)
    tracemalloc.start()
    with pytest.raises(DetSeg3DError) as error:
        read_image(tmp_path / "a.npy")
    assert error.value.file == tmp_path / "a.npy"
    assert tracemalloc.get_traced_memory()[1] < 5 << 20
    tracemalloc.stop()


def test_npy_with_a_header_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes().replace(b"}", b"("))
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.npy")
    assert caught.value.file == tmp_path / "a.npy"


def test_npy_of_another_byte_order_or_layout_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(ARRAY.astype(">i2")))
    array, _ = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype.isnative and array.flags.c_contiguous and array.flags.owndata


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, np.nan)])
def test_an_impossible_spacing_of_npy_files_is_refused(tmp_path: Path, spacing: Spacing) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(ImageSource(tmp_path / "a.npy", spacing))
    assert (caught.value.file, caught.value.value) == (tmp_path / "a.npy", spacing)


def test_an_image_without_voxels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY[:0])
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path / "a.npy")
    assert caught.value.file == tmp_path / "a.npy" and str(caught.value.value).startswith("3D")


def test_complete_files_are_read(tmp_path: Path) -> None:
    for ending in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".npy"):
        write_image(ARRAY, Geometry(ARRAY.shape), tmp_path / f"a{ending}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}")[0], ARRAY)
