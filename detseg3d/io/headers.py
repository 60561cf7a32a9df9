"""File headers that are kept verbatim, because computing them again would round the geometry.

NIfTI stores a direction in single precision and twice (quaternion and matrix), NRRD stores it multiplied by the
spacing: reading and writing through SimpleITK changes the last digits of both. NIfTI voxels, and sheared grids,
which SimpleITK refuses, are read here through nibabel.
"""

from __future__ import annotations

import gzip
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry

__all__ = [
    "copy_nrrd_geometry",
    "last_line",
    "native_header",
    "nifti_geometry",
    "not_a_volume",
    "not_numbers",
    "open_nifti",
    "read_nifti_voxels",
    "unreadable",
    "write_nifti",
]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

# Fields of a NIfTI header that say where the voxels are; all others describe the data.
_NIFTI_GEOMETRY = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
_NRRD_GEOMETRY = (b"space", b"space dimension", b"space directions", b"space origin", b"space units", b"spacings")

# Millimetres per unit of NIfTI's xyzt_units; 0 is "unknown", which everybody takes for mm.
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
# More than this a deflated file never unfolds to.
_DEFLATE_LIMIT = 1032
_SINGULAR = 1e-6
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def last_line(error: Exception) -> str:
    """What an error of ITK says: its messages are a page of C++ paths, and the last line tells the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def unreadable(path: Path, error: Exception) -> DetSeg3DError:
    """Return the error for a file that cannot be read."""
    return DetSeg3DError(
        f"the image cannot be read: {last_line(error)}", file=path, remedy="restore the file; it may be damaged"
    )


def not_a_volume(path: Path, size: Sequence[int], components: int = 1) -> DetSeg3DError:
    """Return the error for a 2D, 4D or colour image."""
    what = f"{len(size)}D, size {tuple(size)}" + (f", {components} values a voxel" if components > 1 else "")
    return DetSeg3DError(
        "the image is not a 3D volume of single values",
        file=path,
        value=what,
        expected="three axes, one value a voxel",
        remedy="split channels or time points into one file each (CASE_0000, CASE_0001, …)",
    )


def not_numbers(path: Path, dtype: object) -> DetSeg3DError:
    """Return the error for voxels that are complex or no numbers at all."""
    return DetSeg3DError(
        "the voxels are no real numbers",
        file=path,
        value=str(dtype),
        expected="integers or floating point",
        remedy="store the magnitude, or another real quantity",
    )


def native_header(path: Path) -> tuple[str, bytes] | None:
    """Format and bytes of the header of a NIfTI or NRRD file; ``None`` for formats that keep geometry exactly."""
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            header: Any = nibabel.load(path).header
            return ("nifti2" if int(header["sizeof_hdr"]) == 540 else "nifti1"), header.binaryblock
        if name.endswith(".nrrd"):
            return "nrrd", b"\n".join(line for line in _nrrd_lines(path)[0] if _nrrd_key(line) in _NRRD_GEOMETRY)
    except Exception as error:
        # SimpleITK tolerates some headers that nibabel does not; only the exact copy of the geometry is lost then.
        logger.debug("the header of %s is not kept: %s", path, error)
    return None


def open_nifti(path: Path) -> Any:
    """Open a NIfTI file through nibabel; its voxels are read when they are asked for.

    Raises
    ------
    DetSeg3DError
        If it cannot be read, is no 3D volume of real numbers, ends before its voxels do or its place is not finite.
    """
    try:
        # Without memory mapping: the file may be replaced while its voxels are in use.
        image: Any = nibabel.load(path, mmap=False)
        # Some converters write a fourth axis of length 1: still one volume.
        shape = image.shape
    except Exception as error:
        raise unreadable(path, error) from error
    dtype = image.get_data_dtype()
    if len(shape) < 3 or any(n != 1 for n in shape[3:]) or min(shape) < 1 or dtype.fields:
        raise not_a_volume(path, shape, len(dtype.fields or "1"))
    if dtype.kind not in "iuf":
        raise not_numbers(path, dtype)
    _check_length(path, image)
    # ITK makes 0 of an origin that is no number.
    if not np.isfinite(image.affine).all():
        raise _singular(path, image)
    _check_spacing(path, image)
    return image


def _check_spacing(path: Path, image: Any) -> None:
    """Refuse a spacing that is not positive where nothing else states one: nibabel and ITK make 1 mm of 0."""
    with image.file_map["image"].get_prepare_fileobj("rb") as handle:
        header = type(image.header).from_fileobj(handle, check=False)
    spacing = header["pixdim"][1:4]
    if header["sform_code"] == 0 and not (spacing > 0).all():
        raise DetSeg3DError(
            "the spacing of the image is not positive",
            file=path,
            value=[float(length) for length in spacing],
            expected="millimetres (x, y, z)",
            remedy="write the image again with its true spacing",
        )


def _check_length(path: Path, image: Any) -> None:
    """Refuse a header that claims more voxels than the file can hold, before memory is taken for them."""
    claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
    length = path.stat().st_size
    if claimed > (length * _DEFLATE_LIMIT if path.name.lower().endswith(".gz") else length):
        raise DetSeg3DError(
            "the image cannot be read: its header claims more voxels than the file holds",
            file=path,
            value=f"{length} bytes for a size of {image.shape}",
            remedy="restore the file; it may be damaged or not be copied to its end",
        )


def _singular(path: Path, image: Any) -> DetSeg3DError:
    return DetSeg3DError(
        "the affine of the image is singular or not finite: it places the voxels nowhere",
        file=path,
        value=np.asarray(image.affine).tolist(),
        remedy="write the image again with a valid affine",
    )


def nifti_geometry(path: Path) -> Geometry:
    """Return the geometry of a NIfTI file as nibabel sees it; a sheared grid keeps its ``affine``.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, is no 3D volume or its affine is singular.
    """
    image = open_nifti(path)
    unit = _UNIT_MM.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affine = _RAS_TO_LPS @ np.diag([unit, unit, unit, 1.0]) @ np.asarray(image.affine, np.float64)
    matrix = affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    # The volume that unit steps along the axes span; the volume of a voxel may be tiny in microscopy.
    if not spacing.all() or abs(np.linalg.det(matrix / spacing)) < _SINGULAR:
        raise _singular(path, image)
    # Polar decomposition: of all orthonormal matrices, U V is nearest to the sheared axes.
    left, _, right = np.linalg.svd(matrix / spacing)
    direction = left @ right
    sheared = bool(np.abs(matrix / spacing - direction).max() > 1e-6)
    x, y, z = (int(n) for n in image.shape[:3])
    return Geometry(
        shape=(z, y, x),
        spacing=(float(spacing[2]), float(spacing[1]), float(spacing[0])),
        origin=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=tuple(direction.ravel()),
        affine=tuple(float(value) for value in affine.ravel()) if sheared else None,
        native_header=native_header(path),
    )


def read_nifti_voxels(path: Path, shape: tuple[int, int, int]) -> Array:
    """Voxels ``(Z, Y, X)`` of a NIfTI file, in the file's type; float32 if the header scales them.

    nibabel reads them rather than SimpleITK, which fills what is missing of a truncated file with zeros and turns NaN
    in uncompressed files to 0, both without a word. The checksum of compressed files is compared.

    Raises
    ------
    DetSeg3DError
        If the voxels are damaged or their number is not that of ``shape``.
    """
    image = open_nifti(path)
    try:
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as stream:
                array = _voxels(type(image).from_stream(stream))
                # The checksum is compared at the end of the file, which the voxels alone do not reach.
                while stream.read(1 << 20):
                    pass
        else:
            array = _voxels(image)
        array = array.reshape(shape[::-1], order="F").transpose(2, 1, 0)
    except Exception as error:
        raise unreadable(path, error) from error
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False))


def _voxels(image: Any) -> Array:
    proxy = image.dataobj
    scaled = (proxy.slope, proxy.inter) != (1, 0)
    array: Array = np.asarray(proxy, dtype=np.float32) if scaled else proxy.get_unscaled()
    return array


def write_nifti(array: Array, geometry: Geometry, path: Path) -> None:
    """Write a NIfTI file with the header fields of ``geometry.native_header``, else with ``geometry.affine``."""
    kind, block = geometry.native_header or ("", b"")
    second = kind == "nifti2"
    header = nibabel.Nifti2Header() if second else nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape[::-1])
    if kind in ("nifti1", "nifti2"):
        source = (nibabel.Nifti2Header if second else nibabel.Nifti1Header)(block, check=False)
        for name in _NIFTI_GEOMETRY:
            header[name] = source[name]
        header["pixdim"][:4] = source["pixdim"][:4]
    else:
        header.set_sform(_RAS_TO_LPS @ np.asarray(geometry.affine, np.float64).reshape(4, 4), code=1)
        header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    image_class = nibabel.Nifti2Image if second else nibabel.Nifti1Image
    nibabel.save(image_class(array.transpose(2, 1, 0), None, header, dtype=array.dtype), path)


def _nrrd_lines(path: Path) -> tuple[list[bytes], int]:
    """Header lines of a NRRD file and the position where its data begin."""
    lines: list[bytes] = []
    with open(path, "rb") as handle:
        while True:
            line = handle.readline(1 << 20)
            if not line:
                raise ValueError("the NRRD header has no end")
            if not line.strip():
                return lines, handle.tell()
            lines.append(line.rstrip(b"\r\n"))


def _nrrd_key(line: bytes) -> bytes:
    # "field: value" is a field of the format; "key:=value" is the user's own and no concern of ours.
    key, colon, value = line.partition(b":")
    return key.strip().lower() if colon and not value.startswith(b"=") and not line.startswith(b"#") else b""


def copy_nrrd_geometry(path: Path, geometry: Geometry) -> None:
    """Put the geometric header lines of ``geometry.native_header`` in place of those of the NRRD file ``path``."""
    assert geometry.native_header is not None
    lines, start = _nrrd_lines(path)
    content = path.read_bytes()[start:]
    kept = [line for line in lines if _nrrd_key(line) not in _NRRD_GEOMETRY]
    path.write_bytes(b"\n".join([*kept, geometry.native_header[1], b"", content]))
