"""The corpus of scans that are broken, or only odd: a table of names, how each is made, and how reading it must end."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK

from detseg3d.core.geometry import Geometry
from detseg3d.data.images import write_image
from tests.scans import make_scan

__all__ = ["IMAGES", "READ", "UNREADABLE", "USABLE", "BadImage", "write_images"]

SCAN = make_scan(300)[0]
READ = "read"
DAMAGED = "the image cannot be read"
NO_VOLUME = "the image is not a 3D volume of single values"


@dataclass(frozen=True)
class BadImage:
    """One scan: what is the matter, the file's ending, what writes it, and the result.

    ``outcome`` is ``read``, or how the message of the reader begins; ``used`` how the message of a command begins that
    reads the scan and then cannot use it.
    """

    name: str
    ending: str
    write: Callable[[Path], Any]
    outcome: str
    used: str | None = None

    @property
    def case_id(self) -> str:
        """The name as part of a file name."""
        return "".join(character if character.isalnum() else "_" for character in self.name)


def write_images(folder: Path, images: Sequence[BadImage], channel: str = "") -> dict[str, Path]:
    """Write scans as ``CASE_0000.ending`` (``channel="_0000"``); returns their files by case."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for image in images:
        files[image.case_id] = path = folder / f"{image.case_id}{channel}{image.ending}"
        image.write(path)
    return files


# -- What writes them --------------------------------------------------------------------------------------------------


def plain(path: Path, array: Any = SCAN, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
    write_image(array, Geometry(array.shape, spacing), path)


def array_of(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    return lambda path: plain(path, change(SCAN.copy()))


def spaced(*spacing: float) -> Callable[[Path], None]:
    z, y, x = spacing
    return lambda path: plain(path, spacing=(z, y, x))


def cut(share: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        plain(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)


def changed_byte(path: Path) -> None:
    plain(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def nifti_fields(place: int, values: Sequence[float], dtype: str) -> Callable[[Path], None]:
    """Numbers at a place of the header, as the format counts bytes; the orientation is that of ``pixdim`` alone."""

    def write(path: Path) -> None:
        nibabel.save(nibabel.Nifti1Image(SCAN.T, None), path)
        whole = path.read_bytes()
        data = bytearray(gzip.decompress(whole) if path.suffix == ".gz" else whole)
        data[252:256] = b"\0\0\0\0"  # neither qform nor sform
        new = np.asarray(values, dtype).tobytes()
        data[place : place + len(new)] = new
        path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)

    return write


def affine(*rows: Sequence[float]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        image = nibabel.Nifti1Image(SCAN.T, None)
        image.header["sform_code"] = 1
        for name, row in zip(("srow_x", "srow_y", "srow_z"), rows, strict=True):
            image.header[name] = row
        nibabel.save(image, path)

    return write


def two_places(path: Path) -> None:
    image = nibabel.Nifti1Image(SCAN.T, np.eye(4))
    image.set_qform(np.diag([1.0, 1.0, 2.0, 1.0]), code=1)
    image.set_sform(np.eye(4), code=2)
    nibabel.save(image, path)


def nifti(array: np.ndarray, endian: str = "<") -> Callable[[Path], None]:
    header = nibabel.Nifti1Header(endianness=endian)
    header.set_data_dtype(array.dtype)
    return lambda path: nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), header), path)


def colour(components: int) -> Callable[[Path], None]:
    array = np.zeros((*SCAN.shape, components), np.uint8)
    return lambda path: SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(path))


def header_line(old: str, new: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(SCAN), str(path))
        data = path.read_bytes()
        assert old.encode() in data
        path.write_bytes(data.replace(old.encode(), new.encode(), 1))

    return write


def pickled(path: Path) -> None:
    with path.open("wb") as handle:
        np.save(handle, np.array([{"a": 1}], object), allow_pickle=True)


def archive(path: Path) -> None:
    with path.open("wb") as handle:
        np.savez(handle, a=SCAN)


def fortran(path: Path) -> None:
    with path.open("wb") as handle:
        np.save(handle, np.asfortranarray(SCAN.astype(">f4")))


MHD = """ObjectType = Image
NDims = 3
BinaryData = True
CompressedData = False
DimSize = 4 3 2
ElementType = MET_UCHAR
ElementDataFile = """
NRRD = """NRRD0004
type: uint8
dimension: 3
sizes: 4 3 2
encoding: raw
"""


def unzipped(path: Path) -> None:
    plain(path.with_name("whole.nii"))
    path.with_name("whole.nii").rename(path)


def zipped(path: Path) -> None:
    unzipped(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def nrrd_under_this_name(path: Path) -> None:
    plain(path.with_name("whole.nrrd"))
    path.with_name("whole.nrrd").rename(path)


def with_more_behind(path: Path) -> None:
    plain(path)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 24)) * 100)


def empty_members_first(path: Path) -> None:
    plain(path)
    path.write_bytes(gzip.compress(b"") * 50_000 + path.read_bytes())


def several_members(path: Path) -> None:
    plain(path)
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(
        b"".join(gzip.compress(data[start : start + 5000]) for start in range(0, len(data), 5000)) + bytes(512)
    )


def compressed_size(text: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        plain(path)
        lines = path.read_bytes().split(b"\n", 20)
        kept = [line for line in lines if not line.startswith(b"CompressedDataSize")]
        path.write_bytes(b"\n".join([text.encode(), *kept] if text else kept))

    return write


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[15, 15, 15] = value
        return array

    return change


def with_large(array: np.ndarray) -> np.ndarray:
    return with_value(1e300)(array.astype(np.float64))


LIST_OF_FILES = "is a list or a pattern of several files"
NO_SPACING = "the spacing of the image is not positive"
TOO_LARGE = "the scan is too large on the grid of the plans"
IMPOSSIBLE = "the spacing is below a nanometre or above a kilometre"
NOT_FINITE = "the image has NaN or infinite voxels in channel"
IMAGES = (
    BadImage("truncated gzip", ".nii.gz", cut(0.5), DAMAGED),
    BadImage("gzip without its last bytes", ".nii.gz", cut(0.9999), DAMAGED),
    BadImage("gzip with a changed byte", ".nii.gz", changed_byte, DAMAGED),
    BadImage("truncated nii", ".nii", cut(0.5), f"{DAMAGED}: its header claims more voxels than the file holds"),
    BadImage("truncated mha", ".mha", cut(0.5), f"{DAMAGED}: the compressed data have no end mark"),
    BadImage("mha with a changed byte", ".mha", changed_byte, f"{DAMAGED}: the compressed voxels are damaged"),
    BadImage("truncated nrrd", ".nrrd", cut(0.5), DAMAGED),
    BadImage("truncated npy", ".npy", cut(0.5), DAMAGED),
    BadImage("wrong magic", ".nii.gz", content(b"<html>404</html>" * 99), DAMAGED),
    BadImage("text named nrrd", ".nrrd", content(b"NRRD0004\nnothing else"), DAMAGED),
    BadImage("empty file", ".nii.gz", content(b""), DAMAGED),
    BadImage("header larger than the file", ".nii", nifti_fields(42, [500, 500, 500], "<i2"), DAMAGED),
    BadImage("header of negative size", ".nii", nifti_fields(42, [33, -36, 30], "<i2"), NO_VOLUME),
    BadImage("spacing zero", ".nii.gz", nifti_fields(84, [0.0], "<f4"), NO_SPACING),
    BadImage("spacing NaN", ".nii.gz", nifti_fields(80, [np.nan], "<f4"), NO_SPACING),
    BadImage("spacing negative", ".nii.gz", nifti_fields(80, [-1.0], "<f4"), NO_SPACING),
    BadImage("spacing negative mha", ".mha", header_line("ElementSpacing = 1", "ElementSpacing = -1"), DAMAGED),
    BadImage("spacing zero mha", ".mha", header_line("ElementSpacing = 1", "ElementSpacing = 0"), DAMAGED),
    BadImage("spacing NaN mha", ".mha", header_line("ElementSpacing = 1", "ElementSpacing = nan"), DAMAGED),
    BadImage("qform and sform disagree", ".nii.gz", two_places, READ),
    BadImage("sagittal slices, first one right", ".nii", affine((0, 0, -1, 5), (1, 0, 0, 6), (0, -1, 0, 7)), READ),
    BadImage("sheared affine", ".nii.gz", affine((1, 0.2, 0, 5), (0, 1, 0, 6), (0, 0, 1, 7)), READ),
    BadImage("singular affine", ".nii.gz", affine((1, 0, 0, 5), (1, 0, 0, 6), (0, 0, 1, 7)), "the affine of the image"),
    BadImage("affine NaN", ".nii.gz", affine((1, 0, 0, np.nan), (0, 1, 0, 6), (0, 0, 1, 7)), "the affine of the image"),
    BadImage("99 axes", ".mha", header_line("NDims = 3", "NDims = 99"), f"{DAMAGED}: DimSize does not state a size"),
    BadImage("2D", ".nii.gz", nifti(SCAN[0]), NO_VOLUME),
    BadImage("4D", ".nii.gz", nifti(np.stack([SCAN, SCAN])), NO_VOLUME),
    BadImage("RGB", ".mha", colour(3), NO_VOLUME),
    BadImage("RGBA", ".nrrd", colour(4), NO_VOLUME),
    BadImage("complex", ".nii.gz", nifti(SCAN.astype(np.complex64)), "the voxels are not real numbers"),
    BadImage("pickled npy", ".npy", pickled, DAMAGED),
    BadImage("npz named npy", ".npy", archive, "the file is an archive of arrays"),
    BadImage("symlink loop", ".nii.gz", lambda path: path.symlink_to(path), "the image does not exist"),
    BadImage("dangling symlink", ".mha", lambda path: path.symlink_to("gone"), "the image does not exist"),
    BadImage("folder instead of a file", ".nii.gz", Path.mkdir, "the folder holds no DICOM series"),
    BadImage("NIfTI without compression", ".nii.gz", unzipped, f"{DAMAGED}: this file is NIfTI (.nii), not compressed"),
    BadImage("NIfTI with compression", ".nii", zipped, f"{DAMAGED}: this file is gzip, not NIfTI"),
    BadImage("NRRD", ".nii.gz", nrrd_under_this_name, f"{DAMAGED}: this file is NRRD (.nrrd), not compressed NIfTI"),
    BadImage("gigabytes behind the voxels", ".nii.gz", with_more_behind, f"{DAMAGED}: more than 65536 bytes follow"),
    BadImage("50 000 empty gzip members first", ".nii.gz", empty_members_first, f"{DAMAGED}: it begins with"),
    BadImage("many gzip members, zeros behind", ".nii.gz", several_members, READ),
    BadImage("mha without the compressed size", ".mha", compressed_size(""), READ),
    BadImage("mha with a wrong compressed size", ".mha", compressed_size("CompressedDataSize = 7"), READ),
    BadImage(
        "mhd of a pattern of files",
        ".mhd",
        content(f"{MHD}s%s%s%s.raw 1 24 1\n".encode()),
        f"{DAMAGED}: ElementDataFile {LIST_OF_FILES}",
    ),
    BadImage(
        "mhd of a pattern without steps",
        ".mhd",
        content(f"{MHD}f%d.raw 1 10 0\n".encode()),
        f"{DAMAGED}: ElementDataFile {LIST_OF_FILES}",
    ),
    BadImage(
        "mhd of a list of files",
        ".mhd",
        content(f"{MHD}LIST\na.raw\n".encode()),
        f"{DAMAGED}: ElementDataFile {LIST_OF_FILES}",
    ),
    BadImage(
        "mhd with the voxels elsewhere", ".mhd", content(f"{MHD}/etc/passwd\n".encode()), f"{DAMAGED}: ElementDataFile"
    ),
    BadImage("mhd with its voxels gone", ".mhd", content(f"{MHD}gone.raw\n".encode()), f"{DAMAGED}: the file with its"),
    BadImage("nrrd with a changed byte", ".nrrd", changed_byte, f"{DAMAGED}: the compressed voxels are damaged"),
    BadImage(
        "nrrd with a long wrong line", ".nrrd", content(NRRD.encode() + b"x" * 5000 + b"\n\n"), f"{DAMAGED}: its header"
    ),
    BadImage(
        "nrrd of a pattern of files",
        ".nrrd",
        content(f"{NRRD}data file: s%0300d.raw 1 2 1\n\n".encode()),
        f'{DAMAGED}: "data file" {LIST_OF_FILES}',
    ),
    BadImage(
        "nrrd with the voxels elsewhere",
        ".nrrd",
        content(f"{NRRD}data file: ../x\n\n".encode()),
        f'{DAMAGED}: "data file"',
    ),
    BadImage(
        "nrrd header of 2 MB",
        ".nrrd",
        content(NRRD.encode() + b"# x\n" * 500_000 + b"\n"),
        f"{DAMAGED}: its header is longer",
    ),
    BadImage("a named pipe", ".nrrd", lambda path: os.mkfifo(path), "the path is not a regular file"),
    BadImage("a device", ".mha", lambda path: path.symlink_to("/dev/zero"), "the path is not a regular file"),
    BadImage("NaN voxel", ".nii.gz", array_of(with_value(np.nan)), READ, NOT_FINITE),
    BadImage("infinite voxel", ".nii", array_of(with_value(np.inf)), READ, NOT_FINITE),
    BadImage("float64 beyond float32", ".mha", array_of(with_large), READ, NOT_FINITE),
    BadImage("spacing of metres", ".mha", spaced(900.0, 900.0, 900.0), READ, TOO_LARGE),
    BadImage("spacing of kilometres", ".mha", spaced(1.0, 1e7, 1.0), READ, IMPOSSIBLE),
    BadImage("one slice", ".nii.gz", array_of(lambda a: a[10:11]), READ),
    BadImage("one voxel", ".nii.gz", array_of(lambda a: a[10:11, 10:11, 10:11]), READ),
    BadImage("smaller than the stride", ".mha", array_of(lambda a: a[10:12, 10:13, 10:12]), READ),
    BadImage("3000×20×20", ".nii.gz", array_of(lambda a: np.tile(a[:, 8:28, 8:28], (100, 1, 1))), READ),
    BadImage("far anisotropy", ".nii.gz", spaced(10.0, 0.3, 0.3), READ),
    BadImage("constant image", ".mha", array_of(lambda a: a * 0 + 7), READ),
    BadImage("int64", ".nii.gz", array_of(lambda a: a.astype(np.int64)), READ),
    BadImage("uint64", ".nii.gz", array_of(lambda a: np.abs(a).astype(np.uint64)), READ),
    BadImage("float64", ".nrrd", array_of(lambda a: a.astype(np.float64)), READ),
    BadImage("big-endian", ".nii.gz", nifti(SCAN.astype(">i2"), ">"), READ),
    BadImage("big-endian Fortran npy", ".npy", fortran, READ),
    BadImage("naïve name with 日本", ".nii.gz", plain, READ),
)
UNREADABLE = tuple(image for image in IMAGES if image.outcome != READ)
USABLE = tuple(image for image in IMAGES if image.outcome == READ and image.used is None)
