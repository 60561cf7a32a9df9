"""Detect the format of an image by the file name and by the content.

A file is read in the format that its ending names. If its first bytes belong to another format, the error names that
format.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "HEAD_BYTES",
    "SUPPORTED_ENDINGS",
    "describe_content",
    "file_ending",
    "segmentation_stem",
    "unread_format",
    "unread_images",
    "wrong_content",
]

SUPPORTED_ENDINGS: Final = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".npy")

HEAD_BYTES: Final = 540
"""Number of first bytes that :func:`describe_content` needs."""

_SLICER_SEGMENTATION = ".seg.nrrd"

_CONVERT = "convert it to .nii.gz: "
_NIBABEL = "in Python, nibabel.save(nibabel.load(FILE), 'CASE.nii.gz')"
_ANALYZE = _CONVERT + _NIBABEL
_FREESURFER = _CONVERT + "mri_convert FILE CASE.nii.gz, or " + _NIBABEL
_ITK = _CONVERT + "in Python, SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'CASE.nii.gz')"
_UNREAD = {
    ".nhdr": ("NRRD in two files", "save it as one file (.nrrd), or " + _ITK),
    ".seg.nhdr": ("a segmentation in two files", "save it as .seg.nrrd in 3D Slicer"),
    ".hdr": ("ANALYZE or NIfTI in two files (.hdr and .img)", _ANALYZE),
    ".img": ("ANALYZE or NIfTI in two files (.hdr and .img)", _ANALYZE),
    ".hdr.gz": ("ANALYZE or NIfTI in two files (.hdr and .img)", _ANALYZE),
    ".img.gz": ("ANALYZE or NIfTI in two files (.hdr and .img)", _ANALYZE),
    ".mgz": ("FreeSurfer's format", _FREESURFER),
    ".mgh": ("FreeSurfer's format", _FREESURFER),
    ".mnc": ("MINC", _ANALYZE),
    ".par": ("Philips PAR/REC", _CONVERT + "dcm2niix FOLDER"),
    ".rec": ("Philips PAR/REC", _CONVERT + "dcm2niix FOLDER"),
    ".head": ("AFNI's format (.HEAD and .BRIK)", _CONVERT + "3dAFNItoNIFTI FILE"),
    ".brik": ("AFNI's format (.HEAD and .BRIK)", _CONVERT + "3dAFNItoNIFTI FILE"),
    ".nii.bz2": ("NIfTI with another compression", "compress it with gzip: bunzip2 FILE && gzip CASE.nii"),
    ".nii.xz": ("NIfTI with another compression", "compress it with gzip: unxz FILE && gzip CASE.nii"),
    ".nii.zst": ("NIfTI with another compression", "compress it with gzip: unzstd FILE && gzip CASE.nii"),
    ".gipl": ("GIPL", _ITK),
    ".vtk": ("VTK", _ITK),
    ".vti": ("VTK", "save the image in a medical format, as .nii.gz or .mha"),
    ".h5": ("HDF5", "save the image in a medical format, as .nii.gz or .mha"),
    ".hdf5": ("HDF5", "save the image in a medical format, as .nii.gz or .mha"),
    ".mat": ("MATLAB", "save the image in a medical format, as .nii.gz or .mha"),
    ".npz": (
        "an archive of arrays",
        "save the image as .nii.gz, or alone with numpy.save (.npy)",
    ),
    ".zarr": ("Zarr", "save the image in a medical format, as .nii.gz or .mha"),
    ".tif": ("TIFF", "save the volume in a format that stores the spacing, as .nii.gz or .mha"),
    ".tiff": ("TIFF", "save the volume in a format that stores the spacing, as .nii.gz or .mha"),
    ".png": ("PNG, a picture", "save the volume, not its slices, as .nii.gz or .mha"),
    ".jpg": ("JPEG, a picture", "save the volume, not its slices, as .nii.gz or .mha"),
    ".jpeg": ("JPEG, a picture", "save the volume, not its slices, as .nii.gz or .mha"),
    ".bmp": ("BMP, a picture", "save the volume, not its slices, as .nii.gz or .mha"),
}

_MAGIC = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x89PNG", "PNG, a picture"),
    (b"\xff\xd8\xff", "JPEG, a picture"),
    (b"GIF8", "GIF, a picture"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"\x89HDF\r\n", "HDF5"),
    (b"CDF\x01", "NetCDF or MINC"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"NRRD0", "NRRD (.nrrd)"),
    (b"# vtk DataFile", "VTK"),
    (b"ObjectType", "MetaImage (.mha or .mhd)"),
    (b"NDims", "MetaImage (.mha or .mhd)"),
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself (run: git lfs pull)"),
    (b"\x7fELF", "a program"),
    (b"MATLAB 5.0", "MATLAB"),
)
_TEXT_STARTS = ((b"<!doctype html", "an HTML page"), (b"<html", "an HTML page"), (b"<?xml", "XML"), (b"{", "JSON"))
# A NIfTI header begins with the length of the header. The keys are this length in both byte orders.
_NIFTI_SIZES = {struct.pack(f"{order}i", size): size for size in (348, 540) for order in "<>"}


def file_ending(name: str | Path) -> str | None:
    """Return the supported ending of a file name (``".nii.gz"``), or ``None``. Upper and lower case are equal.

    Examples
    --------
    >>> file_ending("a.b.nii.gz"), file_ending("notes.txt")
    ('.nii.gz', None)
    """
    lower = Path(name).name.lower()
    return next((ending for ending in SUPPORTED_ENDINGS if lower.endswith(ending) and lower != ending), None)


def segmentation_stem(name: str | Path) -> str | None:
    """Return the name without ``.seg.nrrd``, the ending of segmentations of 3D Slicer; ``None`` for other files.

    Examples
    --------
    >>> segmentation_stem("labels/case_1.seg.nrrd"), segmentation_stem("case_1.nrrd")
    ('case_1', None)
    """
    text = Path(name).name
    ends = text.lower().endswith(_SLICER_SEGMENTATION) and len(text) > len(_SLICER_SEGMENTATION)
    return text[: -len(_SLICER_SEGMENTATION)] if ends else None


def unread_format(name: str | Path) -> DetSeg3DError | None:
    """Return the error for an image of a known format that is not supported; ``None`` for other names.

    The remedy of the error explains how to convert the image.

    Examples
    --------
    >>> error = unread_format("case_1.par")
    >>> error.problem, error.remedy
    ('this image format is not read: Philips PAR/REC', 'convert it to .nii.gz: dcm2niix FOLDER')
    """
    known = _unread(name)
    if known is None:
        return None
    format_name, remedy = known
    return DetSeg3DError(
        f"this image format is not read: {format_name}",
        file=name,
        expected=f"one of {' '.join(SUPPORTED_ENDINGS)}, or a folder with a DICOM series",
        remedy=remedy,
    )


def _unread(name: str | Path) -> tuple[str, str] | None:
    lower = Path(name).name.lower()
    if file_ending(name) is not None:
        return None
    endings = sorted((ending for ending in _UNREAD if lower.endswith(ending) and lower != ending), key=len)
    return _UNREAD[endings[-1]] if endings else None


def unread_images(folder: Path) -> list[Path]:
    """Return the files with endings of image formats that are not supported. Hidden files are left out."""
    return sorted(
        entry for entry in folder.iterdir() if not entry.name.startswith(".") and _unread(entry.name) is not None
    )


def describe_content(head: bytes) -> str | None:
    """Return a description of a file by its first bytes; ``None`` if the bytes do not identify a format.

    Parameters
    ----------
    head : bytes
        The first :data:`HEAD_BYTES` bytes, or all of a smaller file.

    Examples
    --------
    >>> describe_content(b"NRRD0004"), describe_content(b"<!DOCTYPE html><html>"), describe_content(b"anything")
    ('NRRD (.nrrd)', 'an HTML page', None)
    """
    if not head:
        return "empty"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:4] in _NIFTI_SIZES:
        magic = head[344:348] if _NIFTI_SIZES[head[:4]] == 348 else head[4:8]
        if magic[:3] in (b"n+1", b"n+2"):
            return "NIfTI (.nii)"
        in_two_files = "the header of NIfTI in two files (.hdr and .img)"
        return in_two_files if magic[:3] in (b"ni1", b"ni2") else "ANALYZE, or NIfTI with a damaged header"
    start = head.lstrip().lower()
    for text, name in _TEXT_STARTS:
        if start.startswith(text):
            return name
    return "zeros only" if not head.strip(b"\0") else None


def wrong_content(head: bytes, expected: str, path: Path) -> DetSeg3DError:
    """Return the error for a file whose first bytes do not belong to the format that its name states.

    Parameters
    ----------
    head : bytes
        As for :func:`describe_content`.
    expected : str
        Name of the format that the file should have.
    path : Path
        The file that the message names.
    """
    content = describe_content(head)
    if content is None:
        problem = f"this file is not {expected}"
    elif content == "empty":
        problem = "the file is empty"
    else:
        problem = f"this file is {content}, not {expected}"
    return DetSeg3DError(
        f"the image cannot be read: {problem}",
        file=path,
        value=head[:16] or None,
        expected=expected,
        remedy="restore the file" if content == "empty" else "give the file the ending of its format, or restore it",
    )
