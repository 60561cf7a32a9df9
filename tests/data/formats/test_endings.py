from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.endings import (
    HEAD_BYTES,
    SUPPORTED_ENDINGS,
    describe_content,
    segmentation_stem,
    unread_format,
    unread_images,
)
from detseg3d.data.images import read_geometry, read_image, strip_ending, write_image

ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def written(folder: Path, ending: str) -> bytes:
    """Return a valid image of a format, as bytes."""
    write_image(ARRAY, Geometry(ARRAY.shape), folder / f"source{ending}")
    return (folder / f"source{ending}").read_bytes()


def pair(folder: Path) -> bytes:
    nibabel.save(nibabel.Nifti1Pair(ARRAY, np.eye(4)), folder / "pair.img")
    return (folder / "pair.hdr").read_bytes()


def itk(folder: Path, name: str) -> bytes:
    image = SimpleITK.GetImageFromArray(ARRAY[0] if name.endswith("png") else ARRAY)
    SimpleITK.WriteImage(SimpleITK.Cast(image, SimpleITK.sitkUInt8), str(folder / name))
    return (folder / name).read_bytes()


CONTENTS: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "NIfTI": (lambda folder: written(folder, ".nii"), "NIfTI (.nii)"),
    "compressed NIfTI": (lambda folder: written(folder, ".nii.gz"), "gzip"),
    "MetaImage": (lambda folder: written(folder, ".mha"), "MetaImage"),
    "NRRD": (lambda folder: written(folder, ".nrrd"), "NRRD"),
    "NumPy": (lambda folder: written(folder, ".npy"), "NumPy"),
    "pair": (pair, "two files"),
    "ANALYZE": (lambda folder: pair(folder)[:344] + bytes(4), "ANALYZE"),
    "PNG": (lambda folder: itk(folder, "a.png"), "PNG"),
    "TIFF": (lambda folder: itk(folder, "a.tif"), "TIFF"),
    "VTK": (lambda folder: itk(folder, "a.vtk"), "VTK"),
    "page": (lambda folder: b"\n<!DOCTYPE html><html>404 not found</html>", "HTML"),
    "LFS": (lambda folder: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS"),
    "zip": (lambda folder: b"PK\x03\x04" + bytes(100), "zip"),
    "DICOM": (lambda folder: bytes(128) + b"DICM" + bytes(100), "DICOM"),
    "empty": (lambda folder: b"", "empty"),
    "zeros": (lambda folder: bytes(5000), "zeros only"),
}
OWN = {"NIfTI": (".nii",), "compressed NIfTI": (".nii.gz",), "MetaImage": (".mha", ".mhd"), "NRRD": (".nrrd",)}
OWN |= {"NumPy": (".npy",)}


@pytest.mark.parametrize("ending", SUPPORTED_ENDINGS)
@pytest.mark.parametrize("content", CONTENTS)
def test_a_file_with_another_format_than_its_ending_is_refused_by_name(
    tmp_path: Path, content: str, ending: str
) -> None:
    make, name = CONTENTS[content]
    (tmp_path / f"a{ending}").write_bytes(make(tmp_path))
    if ending in OWN.get(content, ()):
        np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}")[0], ARRAY)
        return
    for read in (read_image, read_geometry):
        with pytest.raises(DetSeg3DError) as error:
            read(tmp_path / f"a{ending}")
        assert error.value.file == tmp_path / f"a{ending}"
        found = name if not (content == "zip" and ending == ".npy") else "archive"
        assert found in error.value.problem and error.value.remedy


def test_the_content_of_a_compressed_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(written(tmp_path, ".nrrd")))
    with pytest.raises(DetSeg3DError) as error:
        read_image(tmp_path / "a.nii.gz")
    assert "NRRD (.nrrd), not NIfTI" in error.value.problem


def test_the_first_bytes_identify_the_formats(tmp_path: Path) -> None:
    for make, name in CONTENTS.values():
        assert name in (describe_content(make(tmp_path)[:HEAD_BYTES]) or "")
    assert describe_content(b"nothing known") is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "a.nhdr",
            "a.hdr",
            "a.img",
            "a.img.gz",
            "a.mgz",
            "a.mgh",
            "a.vtk",
            "a.h5",
            "a.tif",
            "A.TIFF",
            "a.png",
            "a.npz",
        ),
        *("a.npz", "a.jpg", "a.mnc", "a.PAR", "a.nii.bz2", "a.HEAD", "a.BRIK", "a.zarr", "a.seg.nhdr"),
    ],
)
def test_formats_that_are_not_read_are_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    for read in (read_image, read_geometry):
        with pytest.raises(DetSeg3DError) as error:
            read(tmp_path / name)
        assert error.value.file == tmp_path / name
        assert error.value.remedy and "not read" in error.value.problem


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img.nii", "notes.txt", "png", ".png", "a"])
def test_other_endings_are_not_unsupported_formats(name: str) -> None:
    assert unread_format(name) is None


def test_images_of_unsupported_formats_in_a_folder_are_listed(tmp_path: Path) -> None:
    for name in ("b.mgz", "a.hdr", "a.img", "c.nii.gz", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in unread_images(tmp_path)] == ["a.hdr", "a.img", "b.mgz"]


def test_names_of_segmentations_are_recognised() -> None:
    assert segmentation_stem("A.SEG.NRRD") == "A"
    assert segmentation_stem(".seg.nrrd") is None
    assert strip_ending("x/case_1.seg.nrrd") == "case_1"
    assert strip_ending("x/case_1.seg.nii.gz") == "case_1.seg"


@pytest.mark.parametrize("ending", SUPPORTED_ENDINGS)
def test_special_files_are_refused_without_waiting(tmp_path: Path, ending: str) -> None:
    os.mkfifo(tmp_path / f"pipe{ending}")
    (tmp_path / f"device{ending}").symlink_to("/dev/zero")
    (tmp_path / f"dangling{ending}").symlink_to("nowhere")
    for name in ("pipe", "device", "dangling"):
        for read in (read_image, read_geometry):
            with pytest.raises(DetSeg3DError) as error:
                read(tmp_path / f"{name}{ending}")
            assert error.value.file == tmp_path / f"{name}{ending}"
