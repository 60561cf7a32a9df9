"""Images whose voxels or place are not what an image is made of. Damaged MetaImage files: test_metaimage.py."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.io.images import read_geometry, read_image, write_image

ARRAY = np.random.default_rng(0).integers(0, 99, (8, 9, 10)).astype(np.int16)


def nifti(path: Path, array: Any = ARRAY, affine: Any = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


@pytest.mark.parametrize("cut", [1, 8, 30])
def test_compressed_nifti_that_misses_its_end_is_an_error(tmp_path: Path, cut: int) -> None:
    file = nifti(tmp_path / "a.nii.gz")
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_image(file)


def test_compressed_nifti_with_a_changed_voxel_is_an_error(tmp_path: Path) -> None:
    # Stored, not deflated: the change alters one voxel and nothing but the checksum tells.
    file = nifti(tmp_path / "a.nii.gz")
    stored = bytearray(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=0))
    stored[-300] ^= 1
    file.write_bytes(stored)
    with pytest.raises(DetSeg3DError, match="CRC check failed"):
        read_image(file)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".npy"])
def test_a_header_that_claims_terabytes_takes_no_memory(tmp_path: Path, ending: str) -> None:
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
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_image(file)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_voxels_are_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", ARRAY.astype(dtype))
    with pytest.raises(DetSeg3DError, match=rf"no real numbers(.|\n)*{dtype}"):
        read_image(tmp_path / "a.npy")
    nifti(tmp_path / "a.nii.gz", ARRAY.astype(dtype))
    with pytest.raises(DetSeg3DError, match=rf"no real numbers(.|\n)*{dtype}"):
        read_image(tmp_path / "a.nii.gz")


def test_complex_voxels_on_a_sheared_grid_are_refused(tmp_path: Path) -> None:
    shear = np.eye(4)
    shear[0, 1] = 0.4
    nifti(tmp_path / "a.nii.gz", ARRAY.astype("complex64"), shear)
    with pytest.raises(DetSeg3DError, match="no real numbers"):
        read_image(tmp_path / "a.nii.gz")


def test_colour_in_a_nifti_is_named(tmp_path: Path) -> None:
    colour = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nifti(tmp_path / "a.nii", colour)
    with pytest.raises(DetSeg3DError, match="3 values a voxel"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize(
    "affine",
    [
        np.diag([1.0, 1.0, 0.0, 1.0]),
        np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
        np.diag([1.0, np.nan, 1.0, 1.0]),
        np.array([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]),
    ],
)
def test_an_affine_that_spans_no_volume_is_refused(tmp_path: Path, affine: np.ndarray) -> None:
    image = nibabel.Nifti1Image(ARRAY, None)
    image.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = affine[row]
    nibabel.save(image, tmp_path / "a.nii")
    with pytest.raises(DetSeg3DError, match="the affine of the image is singular or not finite"):
        read_geometry(tmp_path / "a.nii")


def test_a_sheared_grid_of_micrometres_is_not_singular(tmp_path: Path) -> None:
    shear = np.diag([0.02, 0.02, 0.05, 1.0])
    shear[0, 1] = 0.004
    image = nibabel.Nifti1Image(ARRAY, shear)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_geometry(tmp_path / "a.nii").spacing[2] == pytest.approx(2e-5)


def test_an_origin_that_is_no_number_is_refused(tmp_path: Path) -> None:
    content = bytearray(nifti(tmp_path / "a.nii").read_bytes())
    content[252:256] = np.array([1, 0], np.int16).tobytes()  # qform_code, sform_code
    content[268:272] = np.float32(np.nan).tobytes()  # qoffset_x
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(DetSeg3DError, match="singular or not finite"):
        read_image(tmp_path / "a.nii")


def test_npy_that_is_an_archive_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.npy", "wb") as handle:
        np.savez(handle, first=ARRAY)
    with pytest.raises(DetSeg3DError, match="an archive of arrays"):
        read_image(tmp_path / "a.npy")


def test_npy_with_a_header_that_is_no_python_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes().replace(b"}", b"("))
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_image(tmp_path / "a.npy")


def test_npy_of_another_byte_order_or_layout_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(ARRAY.astype(">i2")))
    array, _ = read_image(tmp_path / "a.npy")
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype.isnative and array.flags.c_contiguous and array.flags.owndata


@pytest.mark.parametrize("spacing", [(0, 1, 1), (1, -1, 1), (1, 1, np.nan)])
def test_an_impossible_spacing_of_npy_files_is_refused(tmp_path: Path, spacing: tuple[float, ...]) -> None:
    np.save(tmp_path / "a.npy", ARRAY)
    with pytest.raises(DetSeg3DError, match=r"spacing given for \.npy files"):
        read_image(tmp_path / "a.npy", spacing)


def test_an_image_without_voxels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ARRAY[:0])
    with pytest.raises(DetSeg3DError, match="not a 3D volume"):
        read_image(tmp_path / "a.npy")


def test_whole_files_are_read_as_before(tmp_path: Path) -> None:
    for ending in (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".npy"):
        write_image(ARRAY, Geometry(ARRAY.shape), tmp_path / f"a{ending}")
        np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}")[0], ARRAY)
