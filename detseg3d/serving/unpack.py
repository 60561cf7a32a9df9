"""Sort the files of a client into the images of one scan.

This runs in the worker process, because the files may be hostile. Only the content of an archive is used. The
names in it, like all names of a client, never become part of a path.
"""

from __future__ import annotations

import math
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.dataset import RawCase
from detseg3d.data.formats.dicom import is_dicom_file
from detseg3d.data.formats.endings import unread_format
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import SUPPORTED_ENDINGS, file_ending, read_geometry
from detseg3d.serving.channels import arranged_name, in_channel_order
from detseg3d.serving.records import PredictTask, UploadedFile
from detseg3d.system.files import link_or_copy

__all__ = ["case_of_task", "scan_folder"]

_PIECE_BYTES = 1 << 20
_ZIP_HEAD = b"PK\x03\x04"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# The record at the end of an archive, and the longest comment after it.
_END_RECORD = struct.Struct("<4s4H2LH")
_ZIP64_BYTES = 20
_MAX_COMMENT_BYTES = (1 << 16) - 1
_MAX_ENTRY_BYTES = 1024  # of the table of contents, for each file; names of files are shorter
_VOXEL_BYTES = 4  # scans are converted to float32


def case_of_task(task: PredictTask, channels: Sequence[str]) -> RawCase:
    """Return the images of a task as a case. The uploads of a client are unpacked and sorted first.

    Parameters
    ----------
    task : PredictTask
    channels : sequence of str
        Names of the channels of the model.

    Returns
    -------
    RawCase

    Raises
    ------
    DetSeg3DError
        If the files are not one scan of this model, an archive is damaged or too large, or the scan is too large.
    """
    images = task.images
    if task.uploads:
        assert task.upload_folder is not None
        images = tuple(_sorted_uploads(task, task.upload_folder, scan_folder(task.upload_folder)))
    if len(images) != len(channels) and len(images) == 1 and images[0].is_dir() and len(task.options.series) > 1:
        images *= len(channels)
    if len(images) != len(channels):
        raise DetSeg3DError(
            "the number of images is not the number of channels of the model",
            value=len(images),
            expected=f"{len(channels)}: {', '.join(channels)}",
            remedy="send one image per channel, in this order; or one DICOM archive, and one series per channel",
        )
    case = RawCase(task.case_id, tuple(ImageSource(path, task.options.spacing) for path in images))
    if task.max_unpacked_bytes is not None:
        _check_size(case, task)
    return case


def _check_size(case: RawCase, task: PredictTask) -> None:
    """Raise an error if the scan is too large, as its header states, before its voxels are read."""
    series = task.options.series
    first = ImageSource(case.images[0].path, task.options.spacing, series[0] if series else None)
    shape = read_geometry(first).shape
    needed = math.prod(shape) * _VOXEL_BYTES * len(case.images)
    assert task.max_unpacked_bytes is not None
    if needed > task.max_unpacked_bytes:
        raise DetSeg3DError(
            "the scan is too large",
            file=first.path,
            value=f"{'×'.join(map(str, shape))} voxels in {len(case.images)} channel(s), {needed} bytes",
            expected=f"at most {task.max_unpacked_bytes} bytes of float32",
            remedy="crop the scan, or start the service with a larger --max_unpacked_gb",
        )


def scan_folder(upload_folder: Path) -> Path:
    """Return the folder in which the uploads are arranged as a scan."""
    return upload_folder / "scan"


def _sorted_uploads(task: PredictTask, folder: Path, scan: Path) -> list[Path]:
    """Arrange the uploads as images in the folder ``scan``, and return these images by channel.

    The uploads stay, because the service begins a job again that was interrupted.
    """
    shutil.rmtree(scan, ignore_errors=True)
    scan.mkdir()
    images, archives, slices = [], [], []
    for upload in task.uploads:
        path = folder / upload.stored
        if file_ending(path) is not None:
            images.append(upload)
        elif _is_archive(path):
            archives.append(upload)
        elif is_dicom_file(path):
            slices.append(upload)
        else:
            unread = unread_format(Path(Path(upload.name).name))
            raise DetSeg3DError(
                "the file is not an image" if unread is None else f"the file is not readable: {unread.problem}",
                file=path,
                expected=f"a name that ends in {' '.join(SUPPORTED_ENDINGS)}, a DICOM file, or a zip archive of them",
                remedy=None if unread is None else unread.remedy,
            )
    if sum(map(bool, (images, archives, slices))) > 1:
        raise DetSeg3DError(
            "the files are of different kinds",
            value=f"{len(images)} image(s), {len(archives)} archive(s), {len(slices)} DICOM file(s)",
            expected="only one kind",
            remedy="send each scan as a separate job",
        )
    if slices:
        place = scan / f"{task.case_id}_0000"
        place.mkdir()
        for number, upload in enumerate(slices):
            link_or_copy(folder / upload.stored, place / f"{number:05d}.dcm")
        return [place]
    if archives:
        return list(_unpacked(task, archives, folder, scan))
    places = []
    for channel, upload in enumerate(in_channel_order(images)):
        places.append(link_or_copy(folder / upload.stored, scan / arranged_name(task.case_id, channel, upload)))
    return places


def _unpacked(task: PredictTask, archives: Sequence[UploadedFile], folder: Path, scan: Path) -> Iterator[Path]:
    """Unpack each archive into a folder, and yield the folders."""
    left_bytes, left_files = task.max_unpacked_bytes, task.max_files
    for channel, upload in enumerate(archives):
        path, place = folder / upload.stored, scan / f"{task.case_id}_{channel:04d}"
        place.mkdir()
        try:
            size, count = _unpack(path, place, left_bytes, left_files)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise DetSeg3DError(
                f"the archive cannot be unpacked: {error}",
                file=path,
                expected="a zip archive without a password",
                remedy="make the archive again",
            ) from error
        left_bytes = None if left_bytes is None else left_bytes - size
        left_files = None if left_files is None else left_files - count
        yield place


def _unpack(path: Path, place: Path, max_bytes: int | None, max_files: int | None) -> tuple[int, int]:
    """Write the files of an archive under numbers; return the number of their bytes and of the files.

    The bytes are counted while they are unpacked, because the sizes in the archive may be wrong.
    """
    if max_files is not None:
        _check_contents(path, max_files)
    total = count = 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.rsplit("/", 1)[-1]
            if entry.is_dir() or name.startswith(".") or name.upper() == "DICOMDIR" or "__MACOSX" in entry.filename:
                continue
            if entry.compress_type not in _METHODS:
                raise NotImplementedError("a file in it has an unusual compression")
            if max_files is not None and count >= max_files:
                raise _too_many(path, max_files)
            with archive.open(entry) as source, (place / f"{count:05d}.dcm").open("wb") as target:
                while piece := source.read(_PIECE_BYTES):
                    total += len(piece)
                    if max_bytes is not None and total > max_bytes:
                        raise DetSeg3DError(
                            "the archive is too large when it is unpacked",
                            file=path,
                            expected=f"at most {max_bytes} bytes",
                            remedy="send fewer files, or start the service with a larger --max_unpacked_gb",
                        )
                    target.write(piece)
            count += 1
    if count == 0:
        raise DetSeg3DError("the archive holds no file", file=path, remedy="add the DICOM files of one scan")
    if not any(is_dicom_file(file) for file in place.iterdir()):
        raise DetSeg3DError(
            "the archive holds no DICOM file",
            file=path,
            remedy="send images of other formats as they are, without an archive",
        )
    return total, count


def _check_contents(path: Path, max_files: int) -> None:
    """Raise an error if the table of contents of an archive is too long, before the table takes memory."""
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        handle.seek(max(0, size - _END_RECORD.size - _MAX_COMMENT_BYTES - _ZIP64_BYTES))
        tail = handle.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END_RECORD.size:
        raise zipfile.BadZipFile("the end of the archive is missing")
    if tail[max(0, place - _ZIP64_BYTES) : place].startswith(b"PK\x06\x07"):
        raise zipfile.BadZipFile("archives of the type Zip64 are not read")
    _, _, _, _, count, table_bytes, _, _ = _END_RECORD.unpack_from(tail, place)
    if count > max_files or table_bytes > max_files * _MAX_ENTRY_BYTES:
        raise _too_many(path, max_files)


def _too_many(path: Path, max_files: int) -> DetSeg3DError:
    return DetSeg3DError(
        "there are too many files in the archive",
        file=path,
        expected=f"at most {max_files}",
        remedy="send one series, or start the service with a larger --max_files",
    )


def _is_archive(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(len(_ZIP_HEAD)) == _ZIP_HEAD
