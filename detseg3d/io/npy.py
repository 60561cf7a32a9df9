"""Volumes in .npy files: plain arrays that say nothing of where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.io.headers import not_a_volume, not_numbers, unreadable

__all__ = ["map_npy", "npy_geometry", "read_npy"]

Array = npt.NDArray[Any]


def map_npy(path: Path) -> Array:
    """The array of a .npy file, mapped: a header that claims more voxels than the file holds costs no memory."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is parsed as Python, which fails in a dozen ways
        raise unreadable(path, error) from error
    if not isinstance(array, np.ndarray):  # numpy opens an archive by its first bytes, whatever its name
        raise DetSeg3DError("the file is an archive of arrays, not one array", file=path, remedy="use numpy.save")
    return array


def read_npy(path: Path, spacing: Sequence[float] | None) -> tuple[Array, Geometry]:
    """The array of a .npy file, in the machine's byte order, with the spacing that it is said to have (1 mm else)."""
    array = map_npy(path)
    geometry = npy_geometry(array, path, spacing)
    # A copy: the file may be replaced while its voxels are in use.
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C", subok=False), geometry


def npy_geometry(array: Array, path: Path, spacing: Sequence[float] | None) -> Geometry:
    """Shape of an array and spacing ``(z, y, x)`` in mm.

    Raises
    ------
    DetSeg3DError
        If it is no volume of numbers, or the spacing is none.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise not_a_volume(path, array.shape)
    if array.dtype.kind not in "biuf":
        raise not_numbers(path, array.dtype)
    z, y, x = (1.0, 1.0, 1.0) if spacing is None else (float(value) for value in spacing)
    try:
        return Geometry(array.shape, (z, y, x))
    except ValueError as error:
        raise DetSeg3DError(
            f"the spacing given for .npy files is none: {error}", file=path, expected="three positive numbers, z y x mm"
        ) from error
