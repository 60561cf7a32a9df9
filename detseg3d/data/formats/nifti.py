"""Read and write NIfTI files with nibabel.

A NIfTI file can state its geometry up to three times: as a matrix (sform), as a rotation with an offset (qform), and as
the spacing alone (pixdim). As in nibabel, the sform is used if ``sform_code`` is above 0, else the qform if
``qform_code`` is above 0, else ``pixdim``. If the statements disagree, a warning names the file.

NIfTI stores lengths in single precision, so a spacing of 1.2 mm is 1.2000000477 in the file. The reader returns the
decimal number that the writer meant.
"""

from __future__ import annotations

import functools
import gzip
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.volumeutils import apply_read_scaling

from detseg3d.core.arrays import Array, FloatArray
from detseg3d.core.decimals import FLOAT32_ROUNDING, decimal_of_float32, nearby_decimal
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.compressed import Stream, open_stream, read_stream
from detseg3d.data.formats.endings import HEAD_BYTES, describe_content, wrong_content
from detseg3d.data.formats.errors import not_a_volume, not_numbers, unreadable
from detseg3d.system.files import open_regular_file

__all__ = ["geometry_of_affine", "read_nifti", "read_nifti_geometry", "write_nifti"]

logger = logging.getLogger(__name__)


# The fields of a NIfTI header that state the geometry. All other fields describe the data.
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
# NIfTI's xyzt_units as powers of ten of a millimetre. 0 is "unknown", which all programs read as mm.
_UNIT_EXPONENT = {0: 0, 1: 3, 2: 0, 3: -3}
# Limit of the bytes before the first voxel. Header extensions are smaller. Unpacking the limit takes half a second.
_MAX_OFFSET_BYTES = 1 << 28
_SINGULAR = 1e-6
_SHEARED = 1e-6
# The norm of a column of the sform sums three rounded numbers, and some programs compute in single precision.
_NORM_ROUNDING = 2 * FLOAT32_ROUNDING
_SAME_SPACING = 8 * FLOAT32_ROUNDING
_MAX_NIFTI_1_SIZE = 32767
_MASK_COMPRESSION = 1  # ten times as fast as level 9, and masks are small at every level


def read_nifti(path: Path) -> tuple[Array, Geometry]:
    """Read a NIfTI file.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``, NIfTI-1 or NIfTI-2 of either byte order.

    Returns
    -------
    array : ndarray, shape ``(Z, Y, X)``
        In the order of the file and in its data type; float32 if the header scales the voxels.
    geometry : Geometry
        A sheared grid keeps its ``affine``.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, does not hold a 3D volume of real numbers, has too few voxels, has a wrong checksum,
        or states a geometry that is not valid.
    """
    with _reading(path) as (header, stream):
        geometry = _file_geometry(header, path)
        offset = header.get_data_offset()
        if offset > _MAX_OFFSET_BYTES:
            raise ValueError(f"its voxels begin {offset} bytes after the header")
        skip = offset - header.sizeof_hdr
        flat = read_stream(stream, header.get_data_dtype(), math.prod(geometry.shape), skip)
    # The first axis of the file varies fastest, so reshaping to (Z, Y, X) copies nothing.
    return _scaled(flat.reshape(geometry.shape), header), geometry


def read_nifti_geometry(path: Path) -> Geometry:
    """Read the geometry of a NIfTI file without its voxels; see :func:`read_nifti`."""
    with _reading(path) as (header, _):
        return _file_geometry(header, path)


@contextmanager
def _reading(path: Path) -> Iterator[tuple[Any, Stream]]:
    """Open a NIfTI file and yield its checked header and the stream after the header.

    All errors of the libraries are raised as :class:`DetSeg3DError`.
    """
    compressed = path.name.lower().endswith(".gz")
    try:
        with open_regular_file(path) as handle:
            head = handle.read(HEAD_BYTES)
            handle.seek(0)
            if head.startswith(b"\x1f\x8b") != compressed or not head:
                raise wrong_content(head, "compressed NIfTI (.nii.gz)" if compressed else "NIfTI (.nii)", path)
            stream = open_stream(handle, "gzip" if compressed else "raw")
            header = _read_header(stream, path)
            needed = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
            if needed > stream.max_bytes():
                raise EOFError("its header claims more voxels than the file holds")
            yield header, stream
    except DetSeg3DError:
        raise
    except Exception as error:  # nibabel raises many types of errors for a wrong header
        raise unreadable(path, error) from error


def _read_header(stream: Stream, path: Path) -> Any:
    """Read and check the header. The stream is then at the first byte after the header."""
    start = stream.read(nibabel.Nifti1Header.sizeof_hdr)
    second = start[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 540, the length of a NIfTI-2 header
    kind = nibabel.Nifti2Header if second else nibabel.Nifti1Header
    block = start + stream.read(kind.sizeof_hdr - len(start))
    if len(block) < kind.sizeof_hdr or describe_content(block) != "NIfTI (.nii)":
        raise wrong_content(block, "NIfTI", path)
    header = kind(block)
    # Some converters write a fourth axis of length 1. The file still holds one volume.
    shape, dtype = header.get_data_shape(), header.get_data_dtype()
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape) < 1 or dtype.fields:
        raise not_a_volume(path, shape, len(dtype.fields or "1"))
    if dtype.kind not in "iuf":
        raise not_numbers(path, dtype)
    _check_spacing(kind(block, check=False), path)
    return header


def _check_spacing(header: Any, path: Path) -> None:
    """Refuse a spacing that is not positive if the header has no sform: nibabel would replace 0 by 1 mm."""
    spacing = header["pixdim"][1:4]
    if header["sform_code"] == 0 and not (spacing > 0).all():  # NaN included
        raise DetSeg3DError(
            "the spacing of the image is not positive",
            file=path,
            value=[float(length) for length in spacing],
            expected="millimetres (x, y, z)",
            remedy="write the image again with its true spacing",
        )


def _scaled(voxels: Array, header: Any) -> Array:
    """Apply the slope and intercept of the header.

    The result is float32. If the slope is 1 and the intercept is 0, the voxels are returned unchanged.
    """
    slope, intercept = header.get_slope_inter()
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if (slope, intercept) == (1, 0):
        return voxels
    values = np.empty(voxels.shape, np.float32)
    with np.errstate(over="ignore"):  # values beyond single precision become infinite, which later checks refuse
        for target, source in zip(values, voxels, strict=True):  # slice by slice: the scaling is done in float64
            target[:] = apply_read_scaling(source, slope, intercept)
    return values


# -- Geometry ----------------------------------------------------------------------------------------------------------


def _file_geometry(header: Any, path: Path) -> Geometry:
    """Return the geometry that a header states, with the header attached, and warn if the header contradicts itself."""
    affine = np.asarray(header.get_best_affine(), np.float64)
    x, y, z = (int(size) for size in header.get_data_shape()[:3])
    geometry = geometry_of_affine(header, affine, (z, y, x))
    if geometry is None:
        raise DetSeg3DError(
            "the affine of the image is singular or not finite",
            file=path,
            value=affine.tolist(),
            remedy="write the image again with a valid affine",
        )
    caveat = _caveat(header, geometry)
    contradicted = bool(caveat) and int(header["sform_code"]) > 0
    if contradicted:
        _warn(path, caveat)
    kind = "nifti2" if int(header["sizeof_hdr"]) == 540 else "nifti1"
    return replace(geometry, native_header=(kind, header.binaryblock), caveat=caveat, contradicted=contradicted)


@functools.lru_cache(maxsize=100_000)
def _warn(path: Path, caveat: str) -> None:
    """Log a warning about a file only once, even if the file is read several times."""
    logger.warning("%s: %s", path, caveat)


def geometry_of_affine(header: Any, affine: FloatArray, shape: tuple[int, int, int]) -> Geometry | None:
    """Return the geometry of an affine from voxels ``(x, y, z)`` to RAS.

    Parameters
    ----------
    header : nibabel.Nifti1Header or nibabel.Nifti2Header
        Header that states the unit of length and ``pixdim``.
    affine : ndarray of float, shape ``(4, 4)``
        In the unit of the header.
    shape : 3 ints
        Shape ``(Z, Y, X)`` of the volume.

    Returns
    -------
    Geometry or None
        ``None`` if the affine is singular or not finite.
    """
    if not np.isfinite(affine).all():
        return None
    unit = float(Decimal(1).scaleb(_exponent(header)))
    affine = affine * np.array([[-unit], [-unit], [unit], [1.0]])  # RAS to LPS, millimetres
    matrix = affine[:3, :3]
    norms = np.linalg.norm(matrix, axis=0)
    # Use the determinant of the unit vectors. The determinant of the matrix is tiny for the small voxels of microscopy.
    if not norms.all() or abs(np.linalg.det(matrix / norms)) < _SINGULAR:
        return None
    unit_axes = matrix / norms
    # Polar decomposition: of all orthonormal matrices, U V is nearest to the sheared axes.
    left, _, right = np.linalg.svd(unit_axes)
    sheared = bool(np.abs(unit_axes - left @ right).max() > _SHEARED)
    x, y, z = (_spacing(float(norm), length) for norm, length in zip(norms, _pixdim(header), strict=True))
    return Geometry(
        shape=shape,
        spacing=(z, y, x),
        origin=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=tuple((left @ right if sheared else unit_axes).ravel()),
        affine=tuple(float(value) for value in affine.ravel()) if sheared else None,
    )


def _exponent(header: Any) -> int:
    return _UNIT_EXPONENT.get(int(header["xyzt_units"]) & 7, 0)


def _pixdim(header: Any) -> list[float]:
    """Return the spacing ``(x, y, z)`` in ``pixdim`` as decimal numbers, in mm."""
    exponent = _exponent(header)
    lengths = [decimal_of_float32(length) for length in header["pixdim"][1:4]]
    return [float(Decimal(repr(length)).scaleb(exponent)) if exponent else length for length in lengths]


def _spacing(norm: float, pixdim: float) -> float:
    """Return the decimal number that a length of the affine means: ``pixdim`` if both agree within rounding."""
    return pixdim if abs(norm - pixdim) <= _SAME_SPACING * norm else nearby_decimal(norm, _NORM_ROUNDING)


def _caveat(header: Any, geometry: Geometry) -> str:
    """Return the reason why the geometry may not be the intended one; an empty text if the file is consistent."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if not sform_code and not qform_code:
        return "qform_code and sform_code are 0, so only pixdim states the geometry"
    if not sform_code:
        return ""
    unsheared = replace(geometry, affine=None)
    if qform_code:
        try:
            other = geometry_of_affine(header, np.asarray(header.get_qform(), np.float64), geometry.shape)
        except Exception as error:  # a quaternion longer than 1, a negative pixdim
            return f"the qform is not valid ({error}); the sform is used"
        if other is None:
            return "the qform is singular or not finite; the sform is used"
        differences = unsheared.difference(replace(other, affine=None))
        if differences:
            return f"the sform (used) and the qform (not used) disagree: {'; '.join(differences)}"
        return ""
    x, y, z = _pixdim(header)
    if min(x, y, z) > 0:
        differences = unsheared.difference(replace(unsheared, spacing=(z, y, x)))
        if differences:
            return f"the sform (used) and pixdim (not used) disagree: {'; '.join(differences)}"
    return ""


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_nifti(array: Array, geometry: Geometry, path: Path, compressed: bool) -> None:
    """Write a NIfTI file.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        C-contiguous, in the byte order of the machine, in a data type that NIfTI has.
    geometry : Geometry
        Its ``native_header`` is copied if it is the header of a NIfTI file and states the same geometry.
    path : Path
    compressed : bool
        Compress the file with gzip. The file name does not matter.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    header = _copied_header(array, geometry)
    if header is None:
        header = _new_header(array, geometry)
    header.set_slope_inter(1, 0)
    size = len(header.binaryblock) + 4
    header["vox_offset"] = size
    with open(path, "wb") as plain:
        if compressed:
            # Without file name and time in the gzip header, equal masks give equal files.
            with gzip.GzipFile("", "wb", _MASK_COMPRESSION, plain, mtime=0) as handle:
                handle.write(header.binaryblock + bytes(4))
                handle.write(array.data)
        else:
            plain.write(header.binaryblock + bytes(4))
            plain.write(array.data)


def _copied_header(array: Array, geometry: Geometry) -> Any:
    """Return a header with the geometric fields of the native header; ``None`` if the fields state another geometry."""
    kind, block = geometry.native_header or ("", b"")
    header = _blank_header(kind, array)
    if header is None:
        return None
    source = type(header)(block, check=False)
    for name in _GEOMETRY_FIELDS:
        header[name] = source[name]
    header["pixdim"][:4] = source["pixdim"][:4]
    return (
        header if geometry_of_affine(header, np.asarray(header.get_best_affine()), geometry.shape) == geometry else None
    )


def _new_header(array: Array, geometry: Geometry) -> Any:
    header = _blank_header("nifti1" if max(array.shape) <= _MAX_NIFTI_1_SIZE else "nifti2", array)
    header.set_xyzt_units("mm")
    matrix, offset = geometry.index_to_world()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, offset
    affine[:2] *= -1  # LPS to RAS
    header.set_sform(affine, code=1)
    if geometry.affine is None:
        header.set_qform(affine, code=1)
    header["pixdim"][1:4] = geometry.spacing[::-1]
    return header


def _blank_header(kind: str, array: Array) -> Any:
    if kind not in ("nifti1", "nifti2") or (kind == "nifti1" and max(array.shape) > _MAX_NIFTI_1_SIZE):
        return None
    header = nibabel.Nifti2Header() if kind == "nifti2" else nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    return header
