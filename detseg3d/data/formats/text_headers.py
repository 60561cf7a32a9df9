"""Shared parts of the readers of MetaImage and NRRD: limits of the header, numbers, the data file, the geometry.

Both formats have text headers. This package does not use libraries for these formats, because the libraries trust the
headers. ITK uses file names as patterns for ``printf``, copies lines into buffers of fixed size, and opens any file of
the machine as voxels. pynrrd limits neither the size of the header nor the size of the voxels. MetaImage has no library
except ITK. Here every length is limited before the text is parsed, and a header that is not understood is refused.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry

__all__ = ["damaged", "data_file", "make_geometry", "parse_count", "parse_numbers", "parse_sizes", "read_header_lines"]

MAX_HEADER_BYTES: Final = 1 << 20
MAX_HEADER_LINES: Final = 10_000
_MAX_LINE_BYTES = 1 << 18
_MAX_NUMBER_CHARACTERS = 64
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,5})?")
_MAX_AXES = 16
# 17 TB: more than the memory of any machine, and small enough that products of sizes do not overflow.
_MAX_VOXELS = 1 << 44
# Directions are written with as few as four decimals. A larger deviation is not rounding: the grid is sheared.
_RIGHT_ANGLE_TOLERANCE = 1e-4
_SINGULAR = 1e-6


def damaged(path: Path, problem: str, value: object = None, remedy: str | None = None) -> DetSeg3DError:
    """Return the error for a header with impossible or unsupported content."""
    return DetSeg3DError(
        f"the image cannot be read: {problem}",
        file=path,
        value=value[:80] if isinstance(value, str) else value,
        remedy=remedy or "restore the file; it may be damaged",
    )


def read_header_lines(handle: io.BufferedIOBase, path: Path) -> Iterator[bytes]:
    """Yield the lines of a header, without their line ends.

    Raises
    ------
    DetSeg3DError
        If the header is longer than :data:`MAX_HEADER_BYTES`, has more than :data:`MAX_HEADER_LINES` lines, or has a
        line longer than 256 KiB.
    """
    total = 0
    for _ in range(MAX_HEADER_LINES):
        line = handle.readline(_MAX_LINE_BYTES)
        if not line:
            return
        total += len(line)
        if total > MAX_HEADER_BYTES or len(line) == _MAX_LINE_BYTES:
            break
        yield line.rstrip(b"\r\n")
    raise damaged(path, "its header is longer than any header should be", f"more than {total} bytes")


def parse_count(path: Path, name: str, text: str) -> int:
    """Parse a whole number from 0 with at most 18 digits.

    Raises
    ------
    DetSeg3DError
        If ``text`` is not such a number. The error names ``path`` and the field ``name``.
    """
    if re.fullmatch(r"[0-9]{1,18}", text) is None:
        raise damaged(path, f"{name} is not a count", text)
    return int(text)


def parse_numbers(path: Path, name: str, text: str, count: int | None = None) -> tuple[float, ...]:
    """Parse finite numbers that are separated by spaces.

    Parameters
    ----------
    path : Path
        The file that messages name.
    name : str
        The field that messages name.
    text : str
        Value of the field.
    count : int, optional
        Expected number of numbers; by default any number of numbers is accepted.

    Raises
    ------
    DetSeg3DError
        If an entry is not a finite number, or the number of entries differs from ``count``.
    """
    words = text.split()
    if not all(len(word) <= _MAX_NUMBER_CHARACTERS and _NUMBER.fullmatch(word) for word in words):
        raise damaged(path, f"{name} has an entry that is not a finite number", text)
    numbers = tuple(float(word) for word in words)
    if not all(math.isfinite(number) for number in numbers):
        raise damaged(path, f"{name} has an entry that is not a finite number", text)
    if count is not None and len(numbers) != count:
        raise damaged(path, f"{name} needs {count} numbers", text)
    return numbers


def parse_sizes(path: Path, name: str, text: str, axes: int) -> tuple[int, ...]:
    """Parse the number of voxels along each axis, the fastest axis first.

    Raises
    ------
    DetSeg3DError
        If a size is not positive, the number of sizes differs from the number of axes, or the product is impossible.
    """
    words = text.split()
    fits = 1 <= axes <= _MAX_AXES and len(words) == axes and all(re.fullmatch(r"[0-9]{1,9}", word) for word in words)
    sizes = tuple(int(word) for word in words) if fits else ()
    if not fits or 0 in sizes:
        raise damaged(path, f"{name} does not state a size for each of {axes} axes", text)
    if math.prod(sizes) > _MAX_VOXELS:
        raise damaged(path, "it claims an impossible size", sizes)
    return sizes


def data_file(header: Path, name: str, field: str) -> Path:
    """Return the path of the voxel file that a header names.

    The voxel file must lie in the folder of the header. Headers are not trusted: with any path allowed, a header from
    a stranger could turn every file that the user can read into voxels.

    Parameters
    ----------
    header : Path
        The header file.
    name : str
        Name of the voxel file, as the header states it.
    field : str
        Field of the header that states the name; messages repeat it.

    Raises
    ------
    DetSeg3DError
        If the name contains a folder, is a list or a pattern of files, or is a symbolic link out of the folder; or if
        the file does not exist or is the header itself.
    """
    file = header.parent / name if name and "\0" not in name else header.parent
    if not name or "\0" in name or name in (".", "..") or PureWindowsPath(name).name != name:
        raise damaged(
            header,
            f"{field} does not name a file in the folder of the header",
            name,
            "move the data file beside the header and state its name alone, or save the image as one file",
        )
    if name.split()[0].upper() in ("LIST", "SLICES") or ("%" in name and not file.exists()):
        raise damaged(
            header,
            f"{field} is a list or a pattern of several files, which is not supported",
            name,
            "save the image as one file, for example with SimpleITK or 3D Slicer",
        )
    if not file.exists():
        raise damaged(header, "the file with its voxels does not exist", name, "copy both files")
    if file.resolve().parent != header.parent.resolve():
        raise damaged(
            header,
            f"{field} names a symbolic link that leads out of the folder of the header",
            name,
            "copy the data file there, or save the image as one file",
        )
    if not file.is_file():
        raise damaged(header, f"{field} names something that is not a regular file", name, "copy the data file there")
    if file.resolve() == header.resolve():
        raise damaged(header, f"{field} names the header itself", name)
    return file


def make_geometry(
    path: Path,
    sizes: Sequence[int],
    spacing: Sequence[float],
    direction: npt.NDArray[Any],
    origin: Sequence[float],
    native_header: tuple[str, bytes],
) -> Geometry:
    """Return the geometry of a volume. If its axes are not at right angles, the geometry keeps the ``affine``.

    Parameters
    ----------
    path : Path
        The file that messages name.
    sizes : 3 ints
        Voxels ``(x, y, z)``.
    spacing : 3 floats
        Millimetres ``(x, y, z)``.
    direction : ndarray, shape ``(3, 3)``
        Unit vectors of the axes in the columns, LPS.
    origin : 3 floats
        Centre of the first voxel, mm LPS.
    native_header : (str, bytes)
        See :class:`~detseg3d.core.geometry.Geometry`.

    Raises
    ------
    DetSeg3DError
        If a spacing is not positive, or the axes do not span a volume.
    """
    if not all(length > 0 for length in spacing):
        raise damaged(path, "its spacing is not positive", list(spacing), "write the image again with its true spacing")
    if not abs(np.linalg.det(direction)) > _SINGULAR:
        raise damaged(path, "its directions do not span a volume", direction.tolist(), "write the image again")
    affine = None
    if np.abs(direction.T @ direction - np.eye(3)).max() > _RIGHT_ANGLE_TOLERANCE:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = direction * np.asarray(spacing), origin
        affine = tuple(float(value) for value in matrix.ravel())
        # Polar decomposition: of all orthonormal matrices, U V is nearest to the sheared axes.
        left, _, right = np.linalg.svd(direction)
        direction = left @ right
    try:
        return Geometry(
            shape=(sizes[2], sizes[1], sizes[0]),
            spacing=(spacing[2], spacing[1], spacing[0]),
            origin=(origin[0], origin[1], origin[2]),
            direction=tuple(float(value) for value in direction.ravel()),
            affine=affine,
            native_header=native_header,
        )
    except ValueError as error:
        raise damaged(path, f"it states an impossible geometry: {error}") from error
