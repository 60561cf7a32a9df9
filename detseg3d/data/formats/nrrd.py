"""Read and write NRRD files (.nrrd).

Teem defines the format (https://teem.sourceforge.net/nrrd/format.html). The definition leaves some questions open. This
reader decides them as follows:

- ``space`` may be LPS, RAS or LAS, in any of their spellings, also with ``-time``. If ``space`` is missing, or is
  ``scanner-xyz`` or ``3D-right-handed``, LPS is assumed as in ITK, with a warning. ``3D-left-handed`` is refused.
- Without ``space directions`` the axes of the array are the axes of the space. The spacing is ``spacings``, or 1 mm.
- An axis with the direction ``none`` is not spatial. It must have one entry, except in a segmentation of 3D Slicer
  (:mod:`detseg3d.data.formats.slicer_segmentation`).
- ``measurement frame``, ``content``, ``min``, ``max`` and similar fields are not used. Unknown fields are refused, as
  in Teem: a misspelled ``spacings`` would otherwise mean 1 mm.
- Voxels are ``raw``, ``gzip`` or ``bzip2``. ``text`` and ``hex`` are refused. Checksums are compared.
- A separate data file must lie in the folder of the header. Lists and patterns of files are refused.
"""

from __future__ import annotations

import functools
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
import numpy.typing as npt

from detseg3d.core.arrays import Array
from detseg3d.core.decimals import meant_decimal, nearby_decimal
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.compressed import Encoding, Stream, open_stream, read_stream
from detseg3d.data.formats.endings import HEAD_BYTES, wrong_content
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

__all__ = ["NrrdHeader", "nrrd_geometry", "read_nrrd", "read_nrrd_header", "read_nrrd_layers", "write_nrrd"]

logger = logging.getLogger(__name__)


_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
# Signs of x and y that convert a space to LPS.
_SPACES = {
    "right-anterior-superior": (-1.0, -1.0),
    "left-anterior-superior": (1.0, -1.0),
    "left-posterior-superior": (1.0, 1.0),
}
_SPACES |= {"".join(word[0] for word in name.split("-")): signs for name, signs in _SPACES.items()}
_UNANATOMICAL = ("scanner-xyz", "3d-right-handed", "3dr")
_TIME_SUFFIXES = ("-time", "t")
# The spellings of each field that Teem accepts.
_FIELDS = {
    "axis maxs": ("axis maxs", "axismaxs"),
    "axis mins": ("axis mins", "axismins"),
    "block size": ("block size", "blocksize"),
    "byte skip": ("byte skip", "byteskip"),
    "centerings": ("centerings", "centers"),
    "content": ("content",),
    "data file": ("data file", "datafile"),
    "dimension": ("dimension",),
    "encoding": ("encoding",),
    "endian": ("endian",),
    "kinds": ("kinds",),
    "labels": ("labels",),
    "line skip": ("line skip", "lineskip"),
    "max": ("max",),
    "measurement frame": ("measurement frame",),
    "min": ("min",),
    "number": ("number",),
    "old max": ("old max", "oldmax"),
    "old min": ("old min", "oldmin"),
    "sample units": ("sample units", "sampleunits"),
    "sizes": ("sizes",),
    "space": ("space",),
    "space dimension": ("space dimension",),
    "space directions": ("space directions",),
    "space origin": ("space origin",),
    "space units": ("space units",),
    "spacings": ("spacings",),
    "thicknesses": ("thicknesses",),
    "type": ("type",),
    "units": ("units",),
}
_SPELLINGS = {spelling: field for field, spellings in _FIELDS.items() for spelling in spellings}
_VECTOR = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)
_NORM_ROUNDING = 1e-12
_MAX_SKIPPED_LINES = 10_000
_MAX_SKIPPED_BYTES = 1 << 24
_BLOCK = 1 << 20
_COMPRESSION_LEVEL = 2


@dataclass(frozen=True)
class NrrdHeader:
    """Content of the header of a NRRD file.

    Attributes
    ----------
    path : Path
    fields : mapping of str to str
        The fields of the format, under their usual spelling.
    pairs : mapping of str to str
        The ``key:=value`` pairs that programs add, unchanged.
    end : int
        Position in the file after the header.
    """

    path: Path
    fields: Mapping[str, str]
    pairs: Mapping[str, str]
    end: int

    @property
    def is_whole(self) -> bool:
        """True if the voxels follow the header in the same file."""
        return "data file" not in self.fields


@dataclass(frozen=True)
class _Grid:
    """Axes of a file: all sizes, the number of volumes (layers) on the axis that is not spatial, and the geometry."""

    sizes: tuple[int, ...]
    layers: int
    layers_first: bool
    geometry: Geometry


def read_nrrd_header(path: Path) -> NrrdHeader:
    """Read the header of a .nrrd file.

    Raises
    ------
    DetSeg3DError
        If the file is not NRRD, or its header is too long or has a line that the format does not define.
    """
    try:
        with open_regular_file(path) as handle:
            head = handle.read(HEAD_BYTES)
            if re.match(rb"NRRD000[1-6]\r?\n", head) is None:
                raise wrong_content(head, "NRRD (.nrrd)", path)
            handle.seek(0)
            return _parse_lines(path, handle)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error


def _parse_lines(path: Path, handle: io.BufferedIOBase) -> NrrdHeader:
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    lines = read_header_lines(handle, path)
    next(lines)
    for raw in lines:
        line = raw.decode("utf-8", "surrogateescape")
        if not line.strip():
            return NrrdHeader(path, fields, pairs, handle.tell())
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if colon and value.startswith("="):
            pairs[name] = value[1:]
            continue
        field = _SPELLINGS.get(name.strip().lower())
        if not colon or field is None:
            raise damaged(path, "its header has a line that the format does not define", line)
        if field in fields:
            raise damaged(path, f'it states "{field}" twice', value.strip())
        fields[field] = value.strip()
    if "data file" not in fields:
        raise damaged(path, "its header does not end")
    return NrrdHeader(path, fields, pairs, handle.tell())


def read_nrrd(path: Path) -> tuple[Array, Geometry]:
    """Read a .nrrd file with one volume.

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
    header = read_nrrd_header(path)
    grid = _volume(header)
    return _read_voxels(header, grid).reshape(grid.geometry.shape), grid.geometry


def read_nrrd_layers(header: NrrdHeader) -> tuple[Array, Geometry]:
    """Read a .nrrd file with one or several volumes on one grid.

    Returns
    -------
    array : ndarray, shape ``(layers, Z, Y, X)``
    geometry : Geometry

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_nrrd`, except for the number of volumes.
    """
    grid = _grid(header)
    voxels = _read_voxels(header, grid)
    if grid.layers_first:
        return np.moveaxis(voxels.reshape(*grid.geometry.shape, grid.layers), -1, 0), grid.geometry
    return voxels.reshape(grid.layers, *grid.geometry.shape), grid.geometry


def nrrd_geometry(path: Path) -> Geometry:
    """Read the geometry of a .nrrd file without its voxels. The size of uncompressed voxels is checked.

    Raises
    ------
    DetSeg3DError
        For the same reasons as in :func:`read_nrrd`.
    """
    header = read_nrrd_header(path)
    grid = _volume(header)
    _check_size(header, grid)
    return grid.geometry


def _volume(header: NrrdHeader) -> _Grid:
    grid = _grid(header)
    if grid.layers != 1:
        raise not_a_volume(header.path, grid.sizes)
    return grid


# -- Voxels ------------------------------------------------------------------------------------------------------------


def _check_size(header: NrrdHeader, grid: _Grid) -> None:
    dtype, encoding = _dtype(header), _encoding(header)
    needed = math.prod(grid.sizes) * dtype.itemsize
    file, start = _voxel_file(header)
    try:
        with open_regular_file(file) as handle:
            handle.seek(start)
            if needed > open_stream(handle, encoding).max_bytes():
                raise EOFError(f"its header claims more voxels than the file holds ({needed} bytes)")
    except (OSError, EOFError) as error:
        raise damaged(header.path, str(error)) from error


def _read_voxels(header: NrrdHeader, grid: _Grid) -> Array:
    dtype, encoding = _dtype(header), _encoding(header)
    count = math.prod(grid.sizes)
    file, start = _voxel_file(header)
    if _space(header)[0] not in _SPACES:
        _warn_of_space(header.path, header.fields.get("space", "no space"))
    lines, skip = _skips(header, encoding)
    try:
        with open_regular_file(file) as handle:
            handle.seek(start)
            for _ in range(lines):
                if not handle.readline(_MAX_SKIPPED_BYTES).endswith(b"\n"):
                    raise EOFError('it has fewer lines than "line skip" states')
            stream = open_stream(handle, encoding)
            if skip == -1:
                _seek_last(stream, handle, count * dtype.itemsize)
            return read_stream(stream, dtype, count, max(skip, 0), alone=skip <= 0 and lines == 0)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        prefix = "the compressed voxels are damaged: " if encoding != "raw" and not isinstance(error, EOFError) else ""
        raise damaged(header.path, f"{prefix}{error}") from error
    except MemoryError as error:
        raise unreadable(header.path, error) from error


def _seek_last(stream: Stream, handle: io.BufferedIOBase, needed: int) -> None:
    if needed > stream.max_bytes():
        raise EOFError(f"its header claims more voxels than the file holds ({needed} bytes)")
    handle.seek(-needed, 2)


def _skips(header: NrrdHeader, encoding: Encoding) -> tuple[int, int]:
    """Return the number of lines to skip in the file, and the number of bytes to skip in the unpacked data.

    A number of -1 bytes means that the voxels are the last bytes of the file.
    """
    lines = parse_count(header.path, "line skip", header.fields.get("line skip", "0"))
    text = header.fields.get("byte skip", "0")
    skip = -1 if text == "-1" else parse_count(header.path, "byte skip", text)
    if skip == -1 and encoding != "raw":
        raise damaged(header.path, '"byte skip: -1" is not possible with compressed voxels')
    if lines > _MAX_SKIPPED_LINES or (encoding != "raw" and skip > _MAX_SKIPPED_BYTES):
        raise damaged(header.path, "it skips more lines or bytes than any file needs", f"{lines} lines, {skip} bytes")
    return lines, skip


def _voxel_file(header: NrrdHeader) -> tuple[Path, int]:
    name = header.fields.get("data file")
    if name is None:
        return header.path, header.end
    return data_file(header.path, name, '"data file"'), 0


def _encoding(header: NrrdHeader) -> Encoding:
    text = _required(header, "encoding")
    encoding = _ENCODINGS.get(text.lower())
    if encoding is None:
        raise damaged(header.path, "its encoding is not supported", text, "save it with the encoding gzip or raw")
    return encoding


def _dtype(header: NrrdHeader) -> np.dtype[Any]:
    text = _required(header, "type")
    code = _CODES.get(text.lower())
    if code is None:
        raise damaged(header.path, "its type is not supported", text, "save it as integers or floating point")
    order = header.fields.get("endian", "little" if code[1] == "1" else "").lower()
    if order not in ("little", "big"):
        raise damaged(header.path, "it does not state whether its byte order is little or big", order or None)
    return np.dtype(("<" if order == "little" else ">") + code)


def _required(header: NrrdHeader, field: str) -> str:
    if field not in header.fields:
        raise damaged(header.path, f'it does not state "{field}"', list(header.fields))
    return header.fields[field]


# -- Geometry ----------------------------------------------------------------------------------------------------------


def _grid(header: NrrdHeader) -> _Grid:
    path, fields = header.path, header.fields
    axes = parse_count(path, "dimension", _required(header, "dimension"))
    sizes = parse_sizes(path, "sizes", _required(header, "sizes"), axes)
    units = re.findall(r'"([^"]*)"', fields.get("space units", "")) + re.findall(r'"([^"]*)"', fields.get("units", ""))
    if any(unit.lower() in ("m", "cm", "um", "µm", "micron", "microns", "inches") for unit in units):
        raise damaged(path, "its lengths are not in mm", units, "state lengths in mm and save the image again")
    if "space directions" in fields:
        spatial, spacing, direction, native = _directions(header, axes)
    else:
        spatial, spacing, direction, native = _spacings(header, sizes)
    if len(spatial) != 3:
        raise not_a_volume(path, sizes)
    others = [axis for axis in range(axes) if axis not in spatial]
    layers = math.prod(sizes[axis] for axis in others)
    long = [axis for axis in others if sizes[axis] > 1]
    first, last = all(axis < spatial[0] for axis in long), all(axis > spatial[-1] for axis in long)
    if len(long) > 1 or not (first or last):
        raise not_a_volume(path, sizes)
    signs = np.asarray((*_signs(header), 1.0))
    origin = tuple(float(value) for value in signs * _origin(header, spatial, spacing))
    geometry = make_geometry(
        path,
        [sizes[axis] for axis in spatial],
        spacing,
        signs[:, None] * direction,
        origin,
        ("nrrd", "\n".join(native).encode("utf-8", "surrogateescape")),
    )
    return _Grid(sizes, layers, bool(long) and first, geometry)


def _directions(
    header: NrrdHeader, axes: int
) -> tuple[list[int], tuple[float, ...], npt.NDArray[np.float64], list[str]]:
    """Return the spatial axes, their spacing, their directions in columns, and the header lines that state them."""
    path, text = header.path, header.fields["space directions"]
    if "spacings" in header.fields:
        raise damaged(path, '"space directions" and "spacings" are both stated', header.fields["spacings"])
    tokens = [match.group() for match in _VECTOR.finditer(text)]
    if _VECTOR.sub("", text).strip() or len(tokens) != axes:
        raise damaged(path, f'"space directions" does not state a vector for each of {axes} axes', text)
    dimension = _space_dimension(header)
    vectors = {}
    for axis, token in enumerate(tokens):
        if token.lower() == "none" or set(token.lower()) <= set("(nan, )"):
            continue
        vector = parse_numbers(path, "space directions", token[1:-1].replace(",", " "), dimension)
        if any(vector[:3]) or not any(vector):
            vectors[axis] = vector
    spatial = list(vectors)
    matrix = np.asarray([vectors[axis][:3] for axis in spatial], np.float64).reshape(-1, 3)
    if any(any(vector[3:]) for vector in vectors.values()):
        raise damaged(path, "a spatial axis has a component along the time", text)
    norms = [math.sqrt(x * x + y * y + z * z) for x, y, z in matrix.tolist()]
    if len(spatial) == 3 and not all(norms):
        raise damaged(path, "its spacing is not positive", text, "write the image again with its true spacing")
    direction = np.asarray([row * (1.0 / norm) if norm else row for row, norm in zip(matrix, norms, strict=True)])
    native = [*_space_lines(header), "space directions: " + " ".join(tokens[axis] for axis in spatial)]
    if "space origin" in header.fields:
        native.append(f"space origin: {header.fields['space origin']}")
    # The last digits of the norms are rounding errors.
    spacing = tuple(nearby_decimal(meant_decimal(norm), _NORM_ROUNDING) for norm in norms)
    return spatial, spacing, direction.T, native


def _space_lines(header: NrrdHeader) -> list[str]:
    return [f"{field}: {header.fields[field]}" for field in ("space", "space dimension") if field in header.fields]


def _space_dimension(header: NrrdHeader) -> int:
    stated = header.fields.get("space dimension")
    if stated is not None:
        dimension = parse_count(header.path, "space dimension", stated)
    else:
        dimension = 4 if _space(header)[1] else 3
    if "space" in header.fields and stated is not None:
        raise damaged(header.path, '"space" and "space dimension" are both stated', stated)
    if dimension not in (3, 4):
        raise damaged(header.path, "its space does not have three dimensions", stated)
    return dimension


def _space(header: NrrdHeader) -> tuple[str, bool]:
    """Return the space in lower case without a time suffix, and whether the file states the suffix."""
    text = header.fields.get("space", "").lower()
    for suffix in _TIME_SUFFIXES:
        name = text.removesuffix(suffix)
        if name != text and (name in _SPACES or name in _UNANATOMICAL):
            return name, True
    return text, False


def _signs(header: NrrdHeader) -> tuple[float, float]:
    name, _ = _space(header)
    if name in _SPACES:
        return _SPACES[name]
    if name in ("", *_UNANATOMICAL):
        return 1.0, 1.0
    raise damaged(
        header.path,
        "its space is not supported",
        header.fields["space"],
        "state left-posterior-superior, right-anterior-superior or left-anterior-superior",
    )


@functools.lru_cache(maxsize=10_000)  # one warning for each file
def _warn_of_space(path: Path, stated: str) -> None:
    logger.warning("%s states %s: its axes are assumed to run to left, posterior, superior", path, stated)


def _spacings(
    header: NrrdHeader, sizes: tuple[int, ...]
) -> tuple[list[int], tuple[float, ...], npt.NDArray[np.float64], list[str]]:
    """Return the same as :func:`_directions`, for a file without directions."""
    path, fields = header.path, header.fields
    if "space" in fields or "space dimension" in fields:
        raise damaged(path, '"space" needs "space directions"', list(fields), "write the image again")
    words = fields.get("spacings", " ".join(["1"] * len(sizes))).split()
    if len(words) != len(sizes):
        raise damaged(path, f'"spacings" does not state a length for each of {len(sizes)} axes', fields["spacings"])
    kinds = fields.get("kinds", "").lower().split()
    spatial = [axis for axis, word in enumerate(words) if word.lower() != "nan"]
    if len(kinds) == len(sizes):
        spatial = [axis for axis in spatial if kinds[axis] in ("domain", "space", "???", "none")]
    while len(spatial) > 3 and sizes[spatial[-1]] == 1:
        spatial.pop()
    spacing = tuple(
        meant_decimal(length) for length in parse_numbers(path, "spacings", " ".join(words[axis] for axis in spatial))
    )
    native = [f"spacings: {' '.join(words[axis] for axis in spatial)}"]
    for field in ("axis mins", "centerings"):
        entries = fields.get(field, "").split()
        if len(entries) == len(sizes):
            native.append(f"{field}: {' '.join(entries[axis] for axis in spatial)}")
    return spatial, spacing, np.eye(3), native


def _origin(header: NrrdHeader, spatial: list[int], spacing: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """Return the centre of the first voxel in the space of the file."""
    path, fields = header.path, header.fields
    if "space directions" in fields:
        text = fields.get("space origin")
        if text is None:
            return np.zeros(3)
        if not (text.startswith("(") and text.endswith(")")):
            raise damaged(path, '"space origin" is not a vector', text)
        origin = parse_numbers(path, "space origin", text[1:-1].replace(",", " "), _space_dimension(header))
        return np.asarray(origin[:3])
    if "space origin" in fields:
        raise damaged(path, '"space origin" needs "space directions"', fields["space origin"])
    mins = fields.get("axis mins", "").split()
    centerings = fields.get("centerings", "").lower().split()
    if not mins:
        return np.zeros(3)
    if max(spatial) >= len(mins):
        raise damaged(path, '"axis mins" does not state a position for each axis', fields["axis mins"])
    values = []
    for axis, length in zip(spatial, spacing, strict=True):
        [start] = parse_numbers(path, "axis mins", mins[axis], 1) if mins[axis].lower() != "nan" else (math.nan,)
        at_node = axis < len(centerings) and centerings[axis] == "node"
        # With cell centering the minimum is the edge of the first voxel, half a voxel before its centre.
        values.append(0.0 if math.isnan(start) else start + (0.0 if at_node else length / 2))
    return np.asarray(values)


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_nrrd(array: Array, geometry: Geometry, path: Path, pairs: Mapping[str, str] | None = None) -> None:
    """Write a .nrrd file atomically, with gzip compression.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        Integers or floating point, in the machine's byte order.
    geometry : Geometry
        If the geometry was read from a NRRD file, the header lines of that file are copied. NRRD stores each direction
        multiplied by the spacing, so computing the directions again would round them.
    path : Path
    pairs : dict of str to str, optional
        Key/value pairs of the header. Keys and values have one line each.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written.
    """
    lines = [*_header_lines(array, geometry), *(f"{key}:={value}" for key, value in (pairs or {}).items())]
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write("\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        for start in range(0, len(content), _BLOCK):
            handle.write(compressor.compress(content[start : start + _BLOCK]))
        handle.write(compressor.flush())


def _header_lines(array: Array, geometry: Geometry) -> Iterator[str]:
    code = array.dtype.str[1:]
    general = ["NRRD0004", f"type: {_TYPES[code][-1]}", "dimension: 3"]
    general.append(f"sizes: {' '.join(str(size) for size in array.shape[::-1])}")
    geometry_lines = _computed_lines(geometry)
    kind, native = geometry.native_header or ("", b"")
    if kind == "nrrd":
        lines = native.decode("utf-8", "surrogateescape").split("\n")
        fields = dict(line.split(": ", 1) for line in [*general[1:], *lines])
        # The geometry may have changed since it was read. Copy the native lines only if they still state it.
        if _grid(NrrdHeader(Path("header"), fields, {}, 0)).geometry == geometry:
            geometry_lines = lines
    yield from general
    yield from geometry_lines
    yield "kinds: domain domain domain"
    yield f"endian: {sys.byteorder}"
    yield "encoding: gzip"


def _computed_lines(geometry: Geometry) -> list[str]:
    if geometry.affine is not None:
        matrix = np.asarray(geometry.affine).reshape(4, 4)[:3, :3]
    else:
        matrix = np.asarray(geometry.direction).reshape(3, 3) * np.asarray(geometry.spacing[::-1])
    return [
        "space: left-posterior-superior",
        f"space directions: {' '.join(_vector(column) for column in matrix.T)}",
        f"space origin: {_vector(geometry.origin)}",
    ]


def _vector(values: Any) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
