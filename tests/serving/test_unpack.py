"""Archives and names of strangers become one scan, or one error."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.images import read_image, write_image
from detseg3d.serving.records import PredictTask, ScanOptions, UploadedFile
from detseg3d.serving.unpack import case_of_task
from tests.data.formats.dicom.builders import SeriesBuilder

VOXELS = np.random.default_rng(0).normal(100, 10, (6, 8, 7)).astype("int16")


def task_of(folder: Path, files: list[tuple[str, bytes]], **settings: object) -> PredictTask:
    """Return a task with uploads, stored as the service stores them."""
    uploads = []
    for number, (name, content) in enumerate(files):
        ending = ".nii.gz" if name.endswith(".nii.gz") else ""
        stored = f"upload_{number:05d}{ending}"
        (folder / stored).write_bytes(content)
        uploads.append(UploadedFile(stored, name, "", len(content)))
    given = {"max_unpacked_bytes": 10**6, "max_files": 20, **settings}
    return PredictTask("scan", folder / "out", uploads=tuple(uploads), upload_folder=folder, **given)  # type: ignore[arg-type]


def nifti(folder: Path, value: int) -> bytes:
    path = folder / "made" / "image.nii.gz"
    write_image(np.full((4, 5, 6), value, np.int16), Geometry((4, 5, 6)), path)
    return path.read_bytes()


def dicom_zip(folder: Path, **series: object) -> bytes:
    SeriesBuilder(VOXELS, **series).write(folder / "made" / "series")  # type: ignore[arg-type]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(sorted((folder / "made" / "series").iterdir())):
            archive.write(path, f"../../../../tmp/{number}/{path.name}")
        archive.writestr("DICOMDIR", b"an index")
        archive.writestr("__MACOSX/._1.dcm", b"something")
    return stream.getvalue()


def archive_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def test_an_archive_with_dicom_is_one_scan_whatever_its_names_are(tmp_path: Path) -> None:
    case = case_of_task(task_of(tmp_path, [("x.zip", dicom_zip(tmp_path))]), ["T1"])
    np.testing.assert_array_equal(np.sort(read_image(case.images[0]).array, axis=None), np.sort(VOXELS, axis=None))
    inside = {path for path in tmp_path.rglob("*") if path.is_file() and "made" not in path.parts}
    assert {path.parent for path in inside} == {tmp_path, tmp_path / "scan" / "scan_0000"}


def test_dicom_files_are_one_scan_and_a_second_attempt_gives_the_same(tmp_path: Path) -> None:
    SeriesBuilder(VOXELS).write(tmp_path / "made" / "series")
    files = [(path.name, path.read_bytes()) for path in (tmp_path / "made" / "series").iterdir()]
    task = task_of(tmp_path, files)
    for _ in range(2):
        case = case_of_task(task, ["T1"])
        assert read_image(case.images[0]).array.shape == VOXELS.shape


def test_channels_follow_the_numbers_in_the_names(tmp_path: Path) -> None:
    files = [("a_0001.nii.gz", nifti(tmp_path, 1)), ("a_0000.nii.gz", nifti(tmp_path, 0))]
    case = case_of_task(task_of(tmp_path, files), ["T1", "T2"])
    assert [int(read_image(image).array.max()) for image in case.images] == [0, 1]


def test_channels_without_numbers_follow_the_order_of_the_files(tmp_path: Path) -> None:
    files = [("t1.nii.gz", nifti(tmp_path, 1)), ("flair.nii.gz", nifti(tmp_path, 0))]
    case = case_of_task(task_of(tmp_path, files), ["T1", "FLAIR"])
    assert [int(read_image(image).array.max()) for image in case.images] == [1, 0]


def test_one_archive_gives_all_channels_if_each_has_a_series(tmp_path: Path) -> None:
    task = task_of(tmp_path, [("x.zip", dicom_zip(tmp_path))], options=ScanOptions(series=("1", "1")))
    case = case_of_task(task, ["T1", "T2"])
    assert len({image.path for image in case.images}) == 1 and len(case.images) == 2


@pytest.mark.parametrize(
    ("files", "settings"),
    [
        ([("a.zip", archive_of(bomb=bytes(2_000_000)))], {}),
        ([("a.zip", archive_of(**{f"m{number}": b"x" for number in range(30)}))], {}),
        ([("a.zip", archive_of(text=b"no image"))], {}),
        ([("a.zip", archive_of())], {}),
        ([("a.zip", b"PK\x03\x04 and nothing else")], {}),
        ([("a.zip", archive_of(**{"1.dcm": bytes(500)})[:-30])], {}),
        ([("a.txt", b"a text")], {}),
        ([("a.mgz", b"a text")], {}),
        ([("a_0000.nii.gz", b"x"), ("a_0002.nii.gz", b"x")], {}),
        ([("a.nii.gz", b"x"), ("b.nii.gz", b"x")], {}),
        ([("a.nii.gz", b"x"), ("b.zip", archive_of(x=b"x"))], {}),
    ],
    ids=[
        "bomb", "many files", "no DICOM", "empty", "not an archive", "cut", "text", "another format",
        "a channel is missing", "too many channels", "two kinds",
    ],
)  # fmt: skip
def test_files_that_are_not_one_scan_are_an_error(
    tmp_path: Path, files: list[tuple[str, bytes]], settings: dict[str, object]
) -> None:
    with pytest.raises(DetSeg3DError):
        case_of_task(task_of(tmp_path, files, **settings), ["T1"])
    written = sum(path.stat().st_size for path in (tmp_path / "scan").rglob("*.dcm"))
    assert written <= 10**6


def test_an_encrypted_archive_is_an_error(tmp_path: Path) -> None:
    content = bytearray(archive_of(**{"1.dcm": b"x" * 50}))
    for place in (6, content.index(b"PK\x01\x02") + 8):
        content[place] |= 1  # the bit that says that a member is encrypted
    with pytest.raises(DetSeg3DError) as caught:
        case_of_task(task_of(tmp_path, [("a.zip", bytes(content))]), ["T1"])
    assert caught.value.file == tmp_path / "upload_00000"


def test_a_table_of_contents_that_is_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    content = bytearray(archive_of(**{"1.dcm": b"x"}))
    end = content.index(b"PK\x05\x06")
    content[end + 12 : end + 16] = (10**9).to_bytes(4, "little")
    with pytest.raises(DetSeg3DError) as caught:
        case_of_task(task_of(tmp_path, [("a.zip", bytes(content))]), ["T1"])
    assert caught.value.expected == "at most 20"


def test_a_scan_that_is_too_large_when_it_is_unpacked_is_refused_by_its_header(tmp_path: Path) -> None:
    content = nifti(tmp_path, 0)
    needed = 4 * 5 * 6 * 4
    case_of_task(task_of(tmp_path, [("a.nii.gz", content)], max_unpacked_bytes=needed), ["T1"])
    with pytest.raises(DetSeg3DError) as caught:
        case_of_task(task_of(tmp_path, [("a.nii.gz", content)], max_unpacked_bytes=needed - 1), ["T1"])
    assert caught.value.expected == f"at most {needed - 1} bytes of float32"
