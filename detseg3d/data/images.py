"""Read and write volumes with their geometry: NIfTI, MetaImage, NRRD, NumPy and DICOM series.

Arrays have the shape ``(Z, Y, X)`` in canonical order: z runs towards Superior, y towards Posterior, x towards Left, as
nearly as the axes of the file allow. The reader brings files in any axis order to canonical order by a permutation and
flips. The writer restores the axis order of the file. A ``.npy`` file does not state a direction and is assumed to be
in canonical order.

A result that is written with the :class:`Geometry` of a scan in the same format has exactly the same geometry as the
scan, bit for bit. For this purpose the header fields of the scan are copied. Computing them again would round them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom import is_dicom_file, is_dicom_folder
from detseg3d.data.formats.endings import SUPPORTED_ENDINGS, file_ending, segmentation_stem, unread_format
from detseg3d.data.formats.metaimage import metaimage_geometry, read_metaimage, write_metaimage
from detseg3d.data.formats.nifti import read_nifti, read_nifti_geometry, write_nifti
from detseg3d.data.formats.npy import npy_geometry, read_npy
from detseg3d.data.formats.nrrd import nrrd_geometry, read_nrrd, read_nrrd_header, write_nrrd
from detseg3d.data.formats.slicer_segmentation import place_on_grid, read_segmentation, segments_of
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.system.files import atomic_path

__all__ = [
    "SUPPORTED_ENDINGS",
    "file_ending",
    "is_dicom_folder",
    "read_channels",
    "read_geometry",
    "read_image",
    "read_label_array",
    "strip_ending",
    "write_image",
]

Scalar = TypeVar("Scalar", bound=np.generic)

# Largest difference of a label from a whole number. Interpolation causes far larger differences. Labels in float16 or
# scaled integers have smaller differences.
LABEL_TOLERANCE = 1e-3


def strip_ending(name: str | Path) -> str:
    """Return a file name without folder and supported ending, and without the ``.seg`` of 3D Slicer.

    Examples
    --------
    >>> strip_ending("scans/patient.1_0000.nii.gz"), strip_ending("labels/patient.1.seg.nrrd")
    ('patient.1_0000', 'patient.1')
    """
    segmentation = segmentation_stem(name)
    if segmentation is not None:
        return segmentation
    ending = file_ending(name)
    text = Path(name).name
    return text if ending is None else text[: -len(ending)]


def read_image(source: str | Path | ImageSource) -> Image:
    """Read one volume.

    Parameters
    ----------
    source : path or ImageSource
        A file with one of the endings :data:`SUPPORTED_ENDINGS`, a folder of DICOM files, or a DICOM file with several
        frames.

    Returns
    -------
    Image
        ``array`` has shape ``(Z, Y, X)``, canonical order and the data type of the file, and is C-contiguous.
        ``geometry.stored_order`` is the axis order of the file.

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged, has an unknown format, or is not a 3D volume with one value per voxel.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(np.zeros((8, 32, 32), np.int16), Geometry((8, 32, 32), (3, 1, 1)), f"{folder}/scan.nii.gz")
    ...     read_image(f"{folder}/scan.nii.gz")
    Image(8×32×32 voxels of 3×1×1 mm, int16)
    """
    array, geometry = _read_view(ImageSource.of(source))
    return Image(np.ascontiguousarray(array), geometry)


def read_geometry(source: str | Path | ImageSource) -> Geometry:
    """Read the geometry of a volume, in canonical order, without its voxels.

    Parameters
    ----------
    source : path or ImageSource
        As in :func:`read_image`.

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_image`. Damaged voxels are not detected.
    """
    source = ImageSource.of(source)
    path, kind = source.path, _kind(source)
    if kind == ".npy":
        stored = npy_geometry(source)
    elif kind == "dicom":
        from detseg3d.data.formats.dicom.reader import read_dicom_geometry

        stored = read_dicom_geometry(source)
    elif kind in (".nii", ".nii.gz"):
        stored = read_nifti_geometry(path)
    else:
        stored = nrrd_geometry(path) if kind == ".nrrd" else metaimage_geometry(path)
    return stored.canonical()


def _read_view(source: ImageSource) -> tuple[Array, Geometry]:
    """Read a volume as a view in canonical order, so that a caller who converts it copies it only once."""
    array, stored = _read_stored(source)
    geometry = stored.canonical()
    return geometry.stored_order.to_canonical(array), geometry


def _read_stored(source: ImageSource) -> tuple[Array, Geometry]:
    """Read a volume in the axis order of the file."""
    path, kind = source.path, _kind(source)
    if kind == ".npy":
        return read_npy(source)
    if kind == "dicom":
        from detseg3d.data.formats.dicom.reader import (
            read_dicom,  # imported here because importing pydicom takes half a second
        )

        return read_dicom(source)
    if kind in (".nii", ".nii.gz"):
        return read_nifti(path)
    return read_nrrd(path) if kind == ".nrrd" else read_metaimage(path)


def read_channels(sources: Sequence[str | Path | ImageSource]) -> tuple[npt.NDArray[np.float32], Geometry]:
    """Read the channels of one case.

    Parameters
    ----------
    sources : sequence of path or ImageSource
        One image per channel; see :func:`read_image`.

    Returns
    -------
    images : ndarray of float32, shape ``(C, Z, Y, X)``
        In canonical order. The files may store the channels in different orders.
    geometry : Geometry
        Geometry of the first channel, with the DICOM identifiers of all channels.

    Raises
    ------
    DetSeg3DError
        If a channel cannot be read, or the geometries of a channel and of the first channel differ by more than the
        tolerance of :meth:`Geometry.difference`.
    ValueError
        If ``sources`` is empty.
    """
    if not sources:
        raise ValueError("a case needs at least one channel")
    channels = [ImageSource.of(source) for source in sources]
    first, geometry = _read_view(channels[0])
    images = np.empty((len(channels), *first.shape), np.float32)
    _put(first, images[0])
    series = [geometry.dicom[:1] or (None,)]
    for channel, source in enumerate(channels[1:], start=1):
        array, other = _read_view(source)
        series.append(other.dicom[:1] or (None,))
        differences = geometry.difference(other)
        if differences:
            raise DetSeg3DError(
                f"channel {channel} does not lie on the grid of channel 0: " + "; ".join(differences),
                file=source.path,
                expected=f"the grid of {channels[0].name}",
                remedy="resample the channels of a case to one grid",
            )
        _put(array, images[channel])
    identities = tuple(identity for (identity,) in series)
    _check_one_patient(identities, channels)
    return images, replace(geometry, dicom=identities if any(identities) else ())


def _check_one_patient(identities: Sequence[DicomIdentity | None], channels: Sequence[ImageSource]) -> None:
    """Raise an error if the channels of a case are DICOM series of different patients."""
    stated = [
        (identity.patient_id, source.path)
        for identity, source in zip(identities, channels, strict=True)
        if identity is not None and identity.patient_id
    ]
    for patient, path in stated[1:]:
        if patient != stated[0][0]:
            raise DetSeg3DError(
                "the channels of the case belong to different patients",
                file=path,
                value=f"another PatientID than {stated[0][1]}",
                expected="channels of one patient",
                remedy="give series of one patient, or anonymise all channels with the same PatientID",
            )


def _put(array: Array, target: npt.NDArray[np.float32]) -> None:
    with np.errstate(over="ignore"):  # values beyond single precision become infinite, which later checks refuse
        target[:] = array


def read_label_array(
    source: str | Path | ImageSource,
    names: Mapping[str, int] | None = None,
    beside: str | Path | ImageSource | None = None,
) -> tuple[npt.NDArray[Any], Geometry]:
    """Read a label or instance map as whole numbers.

    Labels stored as floating point are accepted if every value is within 0.001 of a whole number. Segmentations of 3D
    Slicer are read by the rules of :mod:`detseg3d.data.formats.slicer_segmentation`, and DICOM segmentations by those
    of :mod:`detseg3d.data.formats.dicom.segmentation`.

    Parameters
    ----------
    source : path or ImageSource
        As in :func:`read_image`.
    names : mapping of str to int, optional
        Value of each label by its name, for segments of 3D Slicer and of DICOM.
    beside : path or ImageSource, optional
        The image that the label belongs to. If 3D Slicer cropped the label, it is put on the grid of this image. A
        DICOM segmentation is always put on this grid.

    Returns
    -------
    label : ndarray of int, shape ``(Z, Y, X)``
        In canonical order and in the integer type of the file. Floating-point labels become int32, or int64 if a value
        does not fit into int32.
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_image`, or if a value is NaN, infinite or not a whole number.
    """
    source = ImageSource.of(source)
    array, geometry = _read_any_label(source, names, beside)
    if array.dtype == np.bool_:
        return array.astype(np.uint8), geometry
    if array.dtype.kind in "iu":
        return array, geometry
    rounded = np.rint(array)
    # "not (difference <= limit)" is also true for NaN, and infinity minus infinity is NaN.
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(array - rounded) <= LABEL_TOLERANCE)
    if wrong.any():
        raise DetSeg3DError(
            f"{int(wrong.sum())} voxel(s) of the label are not whole numbers",
            file=source.path,
            value=[float(value) for value in np.unique(array[wrong])[:3]],
            expected=f"whole numbers (a deviation of {LABEL_TOLERANCE:g} is rounded away)",
            remedy="threshold a probability map; resample labels with nearest neighbour, not with interpolation",
        )
    fits = array.size == 0 or float(np.abs(rounded).max()) < 2**31
    return rounded.astype(np.int32 if fits else np.int64), geometry


def _read_any_label(
    source: ImageSource, names: Mapping[str, int] | None, beside: str | Path | ImageSource | None
) -> tuple[Array, Geometry]:
    if _kind(source) == ".nrrd":
        header = read_nrrd_header(source.path)
        if segments_of(header):
            array, stored = read_segmentation(header, names)
            geometry = stored.canonical()
            label = np.ascontiguousarray(geometry.stored_order.to_canonical(array))
            if beside is None:
                return label, geometry
            return place_on_grid(label, geometry, read_geometry(beside), source.path)
    if _kind(source) == "dicom" and source.path.is_file():
        from detseg3d.data.formats.dicom.segmentation import is_segmentation, read_dicom_segmentation

        if is_segmentation(source.path):
            if beside is None:
                raise DetSeg3DError(
                    "a DICOM segmentation is read onto the grid of its image, and the image is unknown",
                    file=source.path,
                    remedy="convert images and segmentations with detseg3d_convert",
                )
            grid = read_geometry(beside)
            return read_dicom_segmentation(source.path, grid, names, source.segments), grid
    return read_image(source)


def write_image(array: Array, geometry: Geometry, path: str | Path) -> None:
    """Write a volume atomically, in the format of the ending of ``path``.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        The formats have neither bool nor float16: bool is written as uint8 and float16 as float32.
    geometry : Geometry
        Geometry of the same shape. If ``geometry`` was read from a file, the new file has the axis order of that file.
        If both files have the same format, their geometries are equal bit for bit.
    path : path

    Raises
    ------
    DetSeg3DError
        If the ending is unknown or the file cannot be written.
    ValueError
        If the shapes of array and geometry differ.
    """
    path = Path(path)
    if array.shape != geometry.shape:
        raise ValueError(f"array {array.shape} and geometry {geometry.shape} differ in shape")
    ending = file_ending(path)
    if ending is None:
        raise _unknown_format(path)
    array = _writable(geometry.stored_order.to_stored(array))
    geometry = geometry.as_stored()
    if ending == ".npy":
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, array, allow_pickle=False)
        return
    if ending == ".nrrd":
        write_nrrd(array, geometry, path)
    elif ending in (".mha", ".mhd"):
        write_metaimage(array, geometry, path)
    else:
        with atomic_path(path) as temporary:
            write_nifti(array, geometry, temporary, compressed=ending == ".nii.gz")


def _kind(source: ImageSource) -> str:
    """Return the format of an image: a supported ending or ``dicom``."""
    kind = _kind_of_path(source.path)
    if kind != "dicom" and source.series is not None:
        raise DetSeg3DError(
            "a series can be chosen only in a folder of DICOM files",
            file=source.path,
            value=source.series,
            remedy="leave out --series for images of other formats",
        )
    return kind


def _kind_of_path(path: Path) -> str:
    if path.is_dir():
        return "dicom"
    if not path.exists():
        raise DetSeg3DError("the image does not exist", file=path, remedy="check the path")
    ending = file_ending(path)
    if ending is None:
        if is_dicom_file(path):
            return "dicom"
        raise _unknown_format(path)
    return ending


def _unknown_format(path: Path) -> DetSeg3DError:
    return unread_format(path) or DetSeg3DError(
        "this image format is not supported",
        file=path,
        expected="one of " + " ".join(SUPPORTED_ENDINGS) + ", or a folder of DICOM files to read",
    )


def _writable(array: Array) -> Array:
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))
