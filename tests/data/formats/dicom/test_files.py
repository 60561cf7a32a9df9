from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom import files, is_dicom_file, is_dicom_folder
from detseg3d.data.images import read_image
from tests.data.formats.dicom.builders import SeriesBuilder

ARRAY = np.random.default_rng(0).integers(-1000, 3000, (6, 7, 8)).astype(np.int16)


def write_without_preamble(folder: Path, implicit: bool, little: bool = True) -> None:
    folder.mkdir(parents=True)
    syntax = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}.get((implicit, little))
    builder = SeriesBuilder(ARRAY, transfer_syntax=syntax or "1.2.840.10008.1.2.2")
    for index in range(6):
        dataset = builder.slice(index)
        dataset.file_meta, dataset.preamble = FileMetaDataset(), None
        with open(folder / f"{index:03d}.IMA", "wb") as handle:
            pydicom.dcmwrite(
                handle, Dataset(dataset), implicit_vr=implicit, little_endian=little, enforce_file_format=False
            )


@pytest.mark.parametrize(("implicit", "little"), [(True, True), (False, True), (False, False)])
def test_files_without_preamble_are_read(tmp_path: Path, implicit: bool, little: bool) -> None:
    write_without_preamble(tmp_path / "a", implicit, little)
    np.testing.assert_array_equal(read_image(tmp_path / "a")[0], ARRAY)
    assert is_dicom_folder(tmp_path / "a")
    assert all(is_dicom_file(file) for file in (tmp_path / "a").iterdir())


@pytest.mark.parametrize("name", ["IM{:05d}", "{}", "1.2.840.113619.2.{}", "MR.{}.dcm", "slice{}.IMA", "a {} ü.dicom"])
def test_files_may_have_any_name(tmp_path: Path, name: str) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [name.format(index) for index in range(6)])
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


def test_slices_may_lie_in_nested_folders(tmp_path: Path) -> None:
    names = [f"PATIENT/STUDY/SERIES{index % 2}/IM{index}" for index in range(6)]
    SeriesBuilder(ARRAY).write(tmp_path, names)
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)
    assert is_dicom_folder(tmp_path)
    assert not is_dicom_folder(tmp_path, recursive=False)


def test_other_files_of_exports_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [f"IM{index}" for index in range(6)])
    companions = {"README": b"read me", "DICOMDIR": b"\0" * 200, "Thumbs.db": b"\0" * 900, "viewer.exe": b"MZ"}
    companions |= {"a.json": b"{}", "LOCKFILE": b"", "volume.nii.gz": b"\x1f\x8b", "INDEX.HTM": b"<html>"}
    for name, content in {**companions, ".DS_Store": b"\0"}.items():
        (tmp_path / name).write_bytes(content)
    with caplog.at_level(logging.INFO, "detseg3d"):
        np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)
    assert f"{len(companions)} file(s) that are not DICOM" in caplog.text


def test_a_dicomdir_is_not_an_image(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [f"IM{index}" for index in range(6)])
    directory = get_testdata_file("DICOMDIR", download=False)
    assert isinstance(directory, str)
    shutil.copyfile(directory, tmp_path / "INDEX")
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


@pytest.mark.parametrize("name", ["7.dcm", "7.DCM", "7.ima", "7"])
@pytest.mark.parametrize("content", [b"", b"no slice", b"\0" * 5000])
def test_a_file_that_looks_like_a_slice_but_is_not_dicom_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    SeriesBuilder(ARRAY).write(tmp_path, [f"{index}" for index in range(6)])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.file == tmp_path / name


def test_a_folder_of_empty_slices_is_a_dicom_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").touch()
    assert is_dicom_folder(tmp_path)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.file == tmp_path / "1.dcm"


def test_a_file_without_ending_beside_slices_that_have_one_is_not_a_slice(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    (tmp_path / "notes").write_text("text", encoding="utf-8")
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX systems")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    os.mkfifo(tmp_path / "slice.dcm")
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.file == tmp_path / "slice.dcm"


def test_broken_and_circular_links(tmp_path: Path) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path)
    np.testing.assert_array_equal(read_image(tmp_path)[0], ARRAY)
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.file == tmp_path / "gone.dcm"


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SeriesBuilder(ARRAY).write(tmp_path)
    monkeypatch.setattr(files, "MAX_FILES", 5)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.value == "more than 5"


def test_a_folder_without_dicom_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x", encoding="utf-8")
    assert not is_dicom_folder(tmp_path)
    with pytest.raises(DetSeg3DError) as caught:
        read_image(tmp_path)
    assert caught.value.file == tmp_path
