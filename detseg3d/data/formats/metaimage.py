"""Read and write MetaImage files: .mha, and .mhd with the voxels in a second file.

MetaIO of ITK defines the format (https://itk.org/Wiki/MetaIO/Documentation). The documentation leaves some questions
open. This reader decides them as follows:

- The rows of ``TransformMatrix`` (also ``Rotation``, ``Orientation``) are the directions of the axes, so the matrix is
  the transpose of SimpleITK's direction. ``Offset``, ``Position`` and ``Origin`` have the same meaning, in LPS as in
  DICOM.
- ``ElementSpacing`` is the spacing. ``ElementSize`` is used only if ``ElementSpacing`` is missing.
- ``AnatomicalOrientation``, ``CenterOfRotation`` and fields of other programs are not used, as in ITK.
- ``CompressedDataSize`` is not trusted: the compressed voxels mark their own end, and have a checksum.
- Further axes after the third are accepted if their size is 1.
- Voxels as text, several files, several values per voxel and an intensity function are refused. The error names them.
"""

from __future__ import annotations

import io
import logging
import math
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.decimals import meant_decimal
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.compressed import open_stream, read_stream
from detseg3d.data.formats.endings import HEAD_BYTES, describe_content, wrong_content
from detseg3d.data.formats.errors import not_a_volume, unreadable
from detseg3d.data.formats.text_headers import (
    damaged,
    data_file,
    make_geometry,
    parse_count,
    parse_numbers,
    parse_sizes,
    read_header_lines,
)
from detseg3d.system.files import atomic_path, open_regular_file
from detseg3d.system.native import escape_name

__all__ = ["is_whole_metaimage", "metaimage_geometry", "read_metaimage", "write_metaimage"]

logger = logging.getLogger(__name__)


_FIELD = re.compile(r"\s*([^=:]*?)\s*[=:]\s*(.*?)\s*", re.DOTALL)
# The last line of a header. In a .mha file the voxels follow.
_LAST = "ElementDataFile"
_ORIGINS = ("Offset", "Position", "Origin")
_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
_BYTE_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_SPACINGS = ("ElementSpacing", "ElementSize")
_KNOWN = frozenset(
    {
        *_ORIGINS,
        *_MATRICES,
        *_BYTE_ORDERS,
        *_SPACINGS,
        *("ObjectType", "NDims", "DimSize", "BinaryData", "CompressedData", "CompressedDataSize", "HeaderSize"),
        *("ElementType", "ElementNumberOfChannels", "DistanceUnits", "HeaderSizesPerDataFile", _LAST),
        *("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"),
    }
)
_KNOWN_IN_CAPITALS = {name.upper(): name for name in _KNOWN}
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # four bytes on every machine, as in MetaIO
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_TYPE_NAMES = {"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT"} | {
    "u4": "MET_UINT",
    "i8": "MET_LONG_LONG",
    "u8": "MET_ULONG_LONG",
    "f4": "MET_FLOAT",
    "f8": "MET_DOUBLE",
}
_UNIT_TOLERANCE = 1e-3
_BLOCK = 1 << 20
_COMPRESSION_LEVEL = 2  # as in MetaIO


@dataclass(frozen=True)
class _Header:
    """Content of the header of a MetaImage file, checked."""

    geometry: Geometry
    dtype: np.dtype[Any]
    compressed: bool
    compressed_bytes: int | None
    header_bytes: int
    data: Path
    start: int


def read_metaimage(path: Path) -> tuple[Array, Geometry]:
    """Read a .mha or .mhd file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    array : ndarray, shape ``(Z, Y, X)``
        In the file's data type.
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        If the header is damaged or not supported, the voxels are damaged, or the file has too few or far too many
        bytes.
    """
    header = _read_header(path)
    try:
        with open_regular_file(header.data) as handle:
            return _voxels(header, handle, path).reshape(header.geometry.shape), header.geometry
    except (OSError, EOFError, ValueError, zlib.error) as error:
        prefix = "the compressed voxels are damaged: " if isinstance(error, zlib.error) else ""
        raise damaged(path, f"{prefix}{error}") from error
    except MemoryError as error:
        raise unreadable(path, error) from error


def is_whole_metaimage(path: Path) -> bool:
    """Return whether the voxels of a MetaImage file follow its header in the same file.

    Raises
    ------
    DetSeg3DError
        If the header is damaged.
    """
    return _read_header(path).data == path


def metaimage_geometry(path: Path) -> Geometry:
    """Read the geometry of a .mha or .mhd file without its voxels. The size of uncompressed voxels is checked.

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_metaimage`.
    """
    header = _read_header(path)
    try:
        with open_regular_file(header.data) as handle:
            handle.seek(header.start)
            needed = math.prod(header.geometry.shape) * header.dtype.itemsize
            if needed > open_stream(handle, "zlib" if header.compressed else "raw").max_bytes():
                raise EOFError(f"its header claims more voxels than the file holds ({needed} bytes)")
    except (OSError, EOFError) as error:
        raise damaged(path, str(error)) from error
    return header.geometry


def _voxels(header: _Header, handle: io.BufferedIOBase, path: Path) -> Array:
    count = math.prod(header.geometry.shape)
    if header.header_bytes == -1:
        # HeaderSize -1 means that the voxels are the last bytes of the file.
        size = handle.seek(0, 2)
        if count * header.dtype.itemsize > size - header.start:
            raise EOFError(f"its header claims more voxels than the file holds ({size} bytes)")
        handle.seek(size - count * header.dtype.itemsize)
    else:
        handle.seek(header.start)
    stream = open_stream(handle, "zlib" if header.compressed else "raw")
    # If HeaderSize points into the data file, other data may follow the voxels.
    voxels = read_stream(stream, header.dtype, count, alone=header.header_bytes <= 0)
    taken = stream.position() - header.start
    if header.compressed_bytes not in (None, 0, taken):
        logger.warning(
            "%s: CompressedDataSize is %d, but the voxels take %d bytes; their checksum is correct",
            path,
            header.compressed_bytes,
            taken,
        )
    return voxels


def _read_header(path: Path) -> _Header:
    try:
        with open_regular_file(path) as handle:
            head = handle.read(HEAD_BYTES)
            content = describe_content(head)
            unlike = not re.search(rb"[=:]", head) or b"\0" in head.split(b"\n", 1)[0]
            if unlike or (content is not None and "MetaImage" not in content):
                raise wrong_content(head, "MetaImage (.mha or .mhd)", path)
            handle.seek(0)
            fields = dict(_fields(handle, path))
            return _check(path, fields, handle.tell())
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error


def _fields(handle: io.BufferedIOBase, path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and value of each line of the header, including the last line."""
    seen = set()
    for line in read_header_lines(handle, path):
        match = _FIELD.fullmatch(line.decode("utf-8", "surrogateescape"))
        if match is None:
            continue
        name, value = match.groups()
        if name not in _KNOWN and name.upper() in _KNOWN_IN_CAPITALS:
            raise damaged(path, f"the field {_KNOWN_IN_CAPITALS[name.upper()]} is spelled differently", name)
        if name in seen and name in _KNOWN:
            raise damaged(path, f"it states {name} twice", value)
        seen.add(name)
        yield name, value
        if name == _LAST:
            return
    raise damaged(path, f"the line {_LAST} is missing")


def _check(path: Path, fields: Mapping[str, str], end: int) -> _Header:
    for name in ("NDims", "DimSize", "ElementType"):
        if name not in fields:
            raise damaged(path, f"it does not state {name}", list(fields)[:10])
    if fields.get("ObjectType", "Image") != "Image":
        raise damaged(path, "ObjectType is not Image", fields["ObjectType"])
    if not _flag(path, fields, "BinaryData"):
        raise damaged(path, "its voxels are text, or BinaryData is missing", remedy="save the voxels as binary data")
    geometry = _geometry(path, fields)
    _check_intensities(path, fields)
    dtype = _dtype(path, fields)
    compressed = _flag(path, fields, "CompressedData")
    stated = fields.get("CompressedDataSize")
    local = fields[_LAST].upper() == "LOCAL"
    header_bytes = -1 if (size := fields.get("HeaderSize", "0")) == "-1" else parse_count(path, "HeaderSize", size)
    if header_bytes and compressed:
        raise damaged(path, "HeaderSize is not possible with compressed voxels", header_bytes)
    if local and 0 < header_bytes < end:
        raise damaged(path, "HeaderSize leads into the header", header_bytes)
    return _Header(
        geometry=geometry,
        dtype=dtype,
        compressed=compressed,
        compressed_bytes=None if stated is None else _stated_bytes(path, stated),
        header_bytes=header_bytes,
        data=path if local else data_file(path, fields[_LAST], _LAST),
        start=header_bytes if header_bytes > 0 else (end if local else 0),
    )


def _stated_bytes(path: Path, text: str) -> int:
    # Some versions of MetaIO wrote large sizes as 1.5e+09.
    return int(parse_numbers(path, "CompressedDataSize", text, 1)[0])


def _flag(path: Path, fields: Mapping[str, str], name: str) -> bool:
    value = fields.get(name, "False").lower()
    if value not in ("true", "false", "1", "0", "t", "f"):
        raise damaged(path, f"{name} is neither True nor False", fields[name])
    return value in ("true", "1", "t")


def _check_intensities(path: Path, fields: Mapping[str, str]) -> None:
    for name, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if name in fields and parse_numbers(path, name, fields[name], 1) != (neutral,):
            raise damaged(
                path, f"{name} is not {neutral:g}", fields[name], "apply it to the voxels and save the image again"
            )


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype[Any]:
    code = _TYPES.get(fields["ElementType"])
    if code is None:
        raise damaged(path, "ElementType is not supported", fields["ElementType"], f"one of {' '.join(_TYPES)}")
    orders = {_flag(path, fields, name) for name in _BYTE_ORDERS if name in fields}
    if len(orders) > 1:
        raise damaged(path, f"{' and '.join(_BYTE_ORDERS)} contradict each other")
    return np.dtype((">" if True in orders else "<") + code)


def _geometry(path: Path, fields: Mapping[str, str]) -> Geometry:
    axes = parse_count(path, "NDims", fields["NDims"])
    sizes = parse_sizes(path, "DimSize", fields["DimSize"], axes)
    channels = parse_count(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    # Some converters write a fourth axis of length 1. The file still holds one volume.
    if axes < 3 or channels != 1 or any(size != 1 for size in sizes[3:]):
        raise not_a_volume(path, sizes, channels)
    if fields.get("DistanceUnits", "mm") not in ("mm", "?", "", "unknown"):
        raise damaged(
            path, "DistanceUnits is not mm", fields["DistanceUnits"], "state lengths in mm and save the image again"
        )
    spacing, spacing_text = _alternative(path, fields, _SPACINGS, axes, "1 " * axes)
    for name in _SPACINGS:
        if name in fields and not all(length > 0 for length in parse_numbers(path, name, fields[name], axes)):
            raise damaged(path, f"{name} is not positive", fields[name], "write the image again with its true spacing")
    origin, origin_text = _alternative(path, fields, _ORIGINS, axes, "0 " * axes, equal=True)
    identity = " ".join(str(int(value)) for value in np.eye(axes).ravel())
    numbers, _ = _alternative(path, fields, _MATRICES, axes * axes, identity, equal=True)
    rows = np.asarray(numbers).reshape(axes, axes)
    if np.abs(rows[:3, 3:]).max(initial=0) > _UNIT_TOLERANCE:
        raise damaged(path, "its directions mix a spatial axis with another axis", rows.tolist())
    direction = rows[:3, :3].T
    if np.abs(np.linalg.norm(direction, axis=0) - 1).max() > _UNIT_TOLERANCE:
        raise damaged(path, "its directions are not of length 1", rows.tolist(), "write the image again")
    lengths = [meant_decimal(length) for length in spacing[:3]]
    native = [
        f"TransformMatrix = {' '.join(repr(float(value)) for value in rows[:3, :3].ravel())}",
        f"Offset = {' '.join(origin_text.split()[:3])}",
        f"ElementSpacing = {' '.join(spacing_text.split()[:3])}",
    ]
    return make_geometry(
        path, sizes[:3], lengths, direction, origin[:3], ("metaimage", "\n".join(native).encode("ascii"))
    )


def _alternative(
    path: Path, fields: Mapping[str, str], names: tuple[str, ...], count: int, default: str, equal: bool = False
) -> tuple[tuple[float, ...], str]:
    """Return the numbers of the first existing field of ``names``, and their text.

    With ``equal``, all existing fields must state the same numbers.
    """
    texts = [(name, fields[name]) for name in names if name in fields]
    alternatives = [parse_numbers(path, name, text, count) for name, text in texts]
    if equal and len(set(alternatives)) > 1:
        raise damaged(path, f"{' and '.join(name for name, _ in texts)} contradict each other", [t for _, t in texts])
    return (alternatives[0], texts[0][1]) if alternatives else (parse_numbers(path, names[0], default, count), default)


def write_metaimage(array: Array, geometry: Geometry, path: Path) -> None:
    """Write a .mha file, or a .mhd file and a .zraw file, atomically and with compressed voxels.

    When a .mhd file is replaced, the old header is removed first and the new header is written last. A header therefore
    never lies beside the voxels of another image.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        Integers or floating point, in the machine's byte order.
    geometry : Geometry
        A sheared grid is written with directions that are not at right angles.
    path : Path

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    blocks = list(_compress(array))
    size = sum(map(len, blocks))
    if path.suffix.lower() == ".mha":
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            handle.write(_header_text(array, geometry, size, "LOCAL").encode("ascii"))
            handle.writelines(blocks)
        return
    voxels = path.with_name(escape_name(path.stem) + ".zraw")  # the header states this name as text
    with atomic_path(voxels) as temporary, open(temporary, "wb") as handle:
        handle.writelines(blocks)
    path.unlink(missing_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(_header_text(array, geometry, size, voxels.name), encoding="utf-8", newline="\n")


def _compress(array: Array) -> Iterator[bytes]:
    compressor = zlib.compressobj(_COMPRESSION_LEVEL)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    for start in range(0, len(content), _BLOCK):
        yield compressor.compress(content[start : start + _BLOCK])
    yield compressor.flush()


def _header_text(array: Array, geometry: Geometry, size: int, data: str) -> str:
    kind, native = geometry.native_header or ("", b"")
    lines = _geometry_lines(geometry)
    if kind == "metaimage":
        fields = dict(line.split(" = ", 1) for line in native.decode("ascii").split("\n"))
        counts = {"NDims": "3", "DimSize": " ".join(map(str, array.shape[::-1]))}
        # The geometry may have changed since it was read. Copy the native lines only if they still state it.
        if _geometry(Path(data), fields | counts) == geometry:
            lines = native.decode("ascii").split("\n")
    return "\n".join(
        [
            "ObjectType = Image",
            "NDims = 3",
            "BinaryData = True",
            f"BinaryDataByteOrderMSB = {sys.byteorder == 'big'}",
            "CompressedData = True",
            f"CompressedDataSize = {size}",
            *lines,
            f"DimSize = {' '.join(str(count) for count in array.shape[::-1])}",
            f"ElementType = {_TYPE_NAMES[array.dtype.str[1:]]}",
            f"{_LAST} = {data}\n",
        ]
    )


def _geometry_lines(geometry: Geometry) -> list[str]:
    direction, spacing = np.asarray(geometry.direction).reshape(3, 3), np.asarray(geometry.spacing[::-1])
    if geometry.affine is not None:
        matrix = np.asarray(geometry.affine).reshape(4, 4)[:3, :3]
        spacing = np.linalg.norm(matrix, axis=0)
        direction = matrix / spacing
    return [
        f"TransformMatrix = {_numbers(direction.T.ravel())}",
        f"Offset = {_numbers(geometry.origin)}",
        f"ElementSpacing = {_numbers(spacing)}",
    ]


def _numbers(values: Any) -> str:
    return " ".join(repr(float(value)) for value in values)
