"""Read volumes from .npy files, which store an array without spacing, origin or direction.

The voxels are read into memory. The file is not mapped into memory: if another program shortens a mapped file, the
operating system ends this process (SIGBUS).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import IDENTITY_DIRECTION, Geometry
from detseg3d.data.formats.compressed import open_stream, read_stream
from detseg3d.data.formats.endings import HEAD_BYTES, wrong_content
from detseg3d.data.formats.errors import not_a_volume, not_numbers, unreadable
from detseg3d.data.image_source import ImageSource
from detseg3d.system.files import open_regular_file

__all__ = ["npy_geometry", "read_array_header", "read_npy"]


# Headers of plain arrays have 118 bytes. NumPy accepts at most 10 000 characters.
_MAX_HEADER_BYTES = 1 << 14


@dataclass(frozen=True)
class ArrayHeader:
    """Content of the header of a .npy stream.

    Attributes
    ----------
    shape : tuple of int
    fortran_order : bool
        True if the first axis varies fastest in the stream.
    dtype : dtype
    """

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Header:
    """Content of the header of a .npy file, checked."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    fortran_order: bool
    end: int


def read_npy(source: ImageSource) -> tuple[Array, Geometry]:
    """Read the array of a .npy file.

    Returns
    -------
    array : ndarray, shape ``(Z, Y, X)``
        In the order of the file and in the byte order of the machine.
    geometry : Geometry
        With the spacing and orientation of ``source``.

    Raises
    ------
    DetSeg3DError
        If the file is not a volume of numbers, has fewer voxels than its header states, or the spacing is impossible.
    """
    path = source.path
    try:
        with open_regular_file(path) as handle:
            header = _read_header(path, handle)
            geometry = _geometry(source, header.shape)
            handle.seek(header.end)
            voxels = read_stream(open_stream(handle, "raw"), header.dtype, math.prod(header.shape))
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise unreadable(path, error) from error
    return np.ascontiguousarray(voxels.reshape(header.shape, order="F" if header.fortran_order else "C")), geometry


def npy_geometry(source: ImageSource) -> Geometry:
    """Read the shape of the array in a .npy file, and combine it with the spacing and orientation of ``source``.

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_npy`.
    """
    path = source.path
    try:
        with open_regular_file(path) as handle:
            header = _read_header(path, handle)
            handle.seek(header.end)
            if math.prod(header.shape) * header.dtype.itemsize > open_stream(handle, "raw").max_bytes():
                raise EOFError("its header claims more voxels than the file holds")
    except (OSError, EOFError) as error:
        raise unreadable(path, error) from error
    return _geometry(source, header.shape)


def read_array_header(stream: IO[bytes]) -> ArrayHeader:
    """Read the header of a .npy stream. The stream is then at the first voxel.

    The function of NumPy is not called directly, because it allocates memory for a header of any length.

    Raises
    ------
    ValueError
        If the stream does not begin with a header, if the header is too long for an array of numbers, or if the array
        holds Python objects. Objects are never unpickled.
    """
    start = stream.read(8)
    if not start.startswith(b"\x93NUMPY") or tuple(start[6:]) not in ((1, 0), (2, 0)):  # 3.0 is for named fields
        raise ValueError("it does not begin like an array of numbers")
    length_bytes = stream.read(2 if start[6] == 1 else 4)
    length = int.from_bytes(length_bytes, "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"its header of {length} bytes is too long for an array of numbers")
    whole = io.BytesIO(length_bytes + stream.read(length))
    read = np.lib.format.read_array_header_1_0 if start[6] == 1 else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, dtype = read(whole)
    except Exception as error:  # NumPy parses the header as Python, which raises many types of errors
        raise ValueError(f"its header is damaged: {error}") from error
    if dtype.hasobject:
        raise ValueError("it holds Python objects, and objects are never unpickled")
    return ArrayHeader(shape, fortran_order, dtype)


def _read_header(path: Path, handle: io.BufferedReader) -> _Header:
    head = handle.read(HEAD_BYTES)
    if head.startswith(b"PK"):
        raise DetSeg3DError("the file is an archive of arrays, not a single array", file=path, remedy="use numpy.save")
    if not head.startswith(b"\x93NUMPY"):
        raise wrong_content(head, "a NumPy array (.npy)", path)
    handle.seek(0)
    try:
        header = read_array_header(handle)
    except ValueError as error:
        raise unreadable(path, error) from error
    shape, dtype = header.shape, header.dtype
    if len(shape) != 3 or min(shape) < 1:
        raise not_a_volume(path, shape)
    if dtype.kind not in "biuf" or dtype.subdtype is not None:
        raise not_numbers(path, dtype)
    return _Header((shape[0], shape[1], shape[2]), dtype, header.fortran_order, handle.tell())


def _geometry(source: ImageSource, shape: tuple[int, int, int]) -> Geometry:
    try:
        return Geometry(shape, source.spacing or (1.0, 1.0, 1.0), direction=source.orientation or IDENTITY_DIRECTION)
    except ValueError as error:
        raise DetSeg3DError(
            f"the spacing given for .npy files is impossible: {error}",
            file=source.path,
            value=source.spacing,
            expected="three positive numbers, z y x in mm",
        ) from error
