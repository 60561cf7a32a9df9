"""Errors of image files, and NRRD headers that are kept verbatim, because computing them again rounds the geometry.

NRRD stores a direction multiplied by the spacing: reading and writing through SimpleITK changes the last digits.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry

__all__ = [
    "copy_nrrd_geometry",
    "last_line",
    "not_a_volume",
    "not_numbers",
    "nrrd_header",
    "unreadable",
]

logger = logging.getLogger(__name__)

_NRRD_GEOMETRY = (b"space", b"space dimension", b"space directions", b"space origin", b"space units", b"spacings")


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


def nrrd_header(path: Path) -> tuple[str, bytes] | None:
    """Return ``"nrrd"`` and the lines of its header that state the geometry; ``None`` for an unreadable header."""
    try:
        return "nrrd", b"\n".join(line for line in _nrrd_lines(path)[0] if _nrrd_key(line) in _NRRD_GEOMETRY)
    except Exception as error:
        # SimpleITK tolerates some headers that this does not; only the exact copy of the geometry is lost then.
        logger.debug("the header of %s is not kept: %s", path, error)
    return None


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
