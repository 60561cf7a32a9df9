"""MetaImage files, checked before ITK reads them.

ITK trusts their headers so far that a wrong number ends the whole process, and reads compressed voxels that are damaged
as whatever its memory holds.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = ["check_metaimage"]

_FIELD = re.compile(r"\s*([^=:]*?)\s*[=:]\s*(.*?)\s*", re.DOTALL)
# The last line of a header; in a .mha the voxels follow.
_LAST = "ElementDataFile"
_MOST_LINES, _LONGEST_LINE = 10_000, 40_000
# ITK copies these into arrays for ten axes, and texts into buffers of 255 bytes.
_MOST_AXES, _LONGEST_TEXT = 10, 250
_COUNTS = frozenset({"NDims", "ElementNumberOfChannels", "CompressedDataSize"})
_NUMBERS = frozenset(
    {
        *("ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "TransformMatrix", "Rotation"),
        *("Orientation", "CenterOfRotation"),
    }
)
_LENGTHS = frozenset({"ElementSpacing", "ElementSize"})
_TEXTS = frozenset(
    {
        *("ObjectType", "ObjectSubType", "Comment", "Name", "TransformType", "AnatomicalOrientation", "DistanceUnits"),
        *("Modality", "AcquisitionDate", "ElementType", _LAST),
    }
)
_BYTES = {"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4}
_BYTES |= {"MET_LONG": 4, "MET_ULONG": 4, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8}
_MOST_BYTES = 1 << 44
# More than this a deflated file never unfolds to.
_DEFLATE_LIMIT = 1032


@dataclass(frozen=True)
class _Voxels:
    """Where the voxels lie, and how many bytes they are."""

    file: Path
    start: int
    needed: int
    compressed: bool


def check_metaimage(path: Path, voxels: bool = True) -> None:
    """Check a .mha or .mhd file.

    Parameters
    ----------
    path : Path
    voxels : bool, optional
        Check compressed voxels as well, by unpacking them once.

    Raises
    ------
    DetSeg3DError
        If the header is damaged, or the file ends before its voxels do.
    """
    try:
        fields, end = _fields(path)
        sizes = _sizes(path, fields)
        place = _place(path, fields, sizes, end)
        if place is not None:
            _check_length(path, place)
            if voxels and place.compressed:
                _check_compressed(path, place)
    except OSError as error:
        raise DetSeg3DError(f"the image cannot be read: {error.strerror or error}", file=path) from error


def _fields(path: Path) -> tuple[dict[str, str], int]:
    """The fields of the header, and the position where the voxels of a .mha begin."""
    fields: dict[str, str] = {}
    with open(path, "rb") as handle:
        for _ in range(_MOST_LINES):
            line = handle.readline(_LONGEST_LINE)
            if not line.endswith(b"\n"):
                break
            match = _FIELD.fullmatch(line.decode("utf-8", "replace"))
            if match is None:
                continue
            name, value = match.groups()
            if name in fields and name in _COUNTS | _NUMBERS | {"DimSize"}:
                raise _damaged(path, f"it states {name} twice", value)
            if len(line) > _LONGEST_TEXT and name in _TEXTS:
                raise _damaged(path, f"{name} is too long", value[:80])
            fields[name] = value
            if name == _LAST:
                return fields, handle.tell()
    raise _damaged(path, f"there is no line {_LAST}", None)


def _sizes(path: Path, fields: dict[str, str]) -> list[int]:
    """Voxels along each axis, after all numbers of the header were checked."""
    for name in ("NDims", "DimSize", "ElementType"):
        if name not in fields:
            raise _damaged(path, f"it does not state {name}", list(fields)[:10])
    for name in _COUNTS & fields.keys():
        if not re.fullmatch(r"[0-9]{1,18}", fields[name]):
            raise _damaged(path, f"{name} is no count", fields[name])
    for name in _NUMBERS & fields.keys():
        if not all(_is_finite(word) for word in fields[name].split()):
            raise _damaged(path, f"{name} holds what is no finite number", fields[name])
    for name in _LENGTHS & fields.keys():
        # ITK turns the axis round where it reads the voxels, and does not where it reads the header alone.
        if not all(float(word) > 0 for word in fields[name].split()):
            raise _damaged(path, f"{name} is not positive", fields[name])
    axes, sizes = int(fields["NDims"]), fields["DimSize"].split()
    fits = 1 <= axes <= _MOST_AXES and len(sizes) == axes and all(re.fullmatch(r"[0-9]{1,9}", size) for size in sizes)
    if not fits or list(fields).index("NDims") > list(fields).index("DimSize"):
        raise _damaged(path, "NDims and DimSize do not state a size", f"{fields['NDims']}: {fields['DimSize']}")
    return [int(size) for size in sizes]


def _is_finite(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _is_true(fields: dict[str, str], name: str) -> bool:
    return fields.get(name, "False").upper().startswith(("T", "1"))


def _place(path: Path, fields: dict[str, str], sizes: list[int], end: int) -> _Voxels | None:
    """Where the voxels are; ``None`` where ITK must find out: several files, text, types of its own."""
    size = _BYTES.get(fields["ElementType"].upper(), 8)
    needed = math.prod(sizes) * size * int(fields.get("ElementNumberOfChannels", "1"))
    if needed > _MOST_BYTES:
        raise _damaged(path, "it claims an impossible size", sizes)
    local = fields[_LAST].upper() == "LOCAL"
    file = path if local else path.parent / fields[_LAST]
    plain = fields["ElementType"].upper() in _BYTES and _is_true(fields, "BinaryData") and "HeaderSize" not in fields
    if not plain or not file.is_file():
        return None
    return _Voxels(file, end if local else 0, needed, _is_true(fields, "CompressedData"))


def _check_length(path: Path, place: _Voxels) -> None:
    there = place.file.stat().st_size - place.start
    if place.needed > there * (_DEFLATE_LIMIT if place.compressed else 1):
        raise _damaged(path, "it claims more voxels than the file holds", f"{there} bytes for {place.needed}")


def _check_compressed(path: Path, place: _Voxels) -> None:
    unpacker, count = zlib.decompressobj(zlib.MAX_WBITS | 32), 0
    try:
        with open(place.file, "rb") as handle:
            handle.seek(place.start)
            while not unpacker.eof and (block := handle.read(1 << 20)):
                count += len(unpacker.decompress(block))
    except zlib.error as error:
        raise _damaged(path, f"the compressed voxels are damaged: {error}", None) from error
    if not unpacker.eof or count < place.needed:
        raise _damaged(path, "it claims more voxels than the file holds", f"{count} bytes for {place.needed}")


def _damaged(path: Path, what: str, value: object) -> DetSeg3DError:
    return DetSeg3DError(
        f"the image cannot be read: {what}", file=path, value=value, remedy="restore the file; it may be damaged"
    )
