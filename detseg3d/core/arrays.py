"""Shared types of arrays, shapes and spacings, and their text for messages.

Every triple is in the axis order ``(z, y, x)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "AnyFloatArray",
    "AnyIntArray",
    "Array",
    "BoolArray",
    "Box",
    "FloatArray",
    "IntArray",
    "Spacing",
    "Triple",
    "as_spacing",
    "as_triple",
    "format_shape",
    "format_spacing",
]

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]
AnyFloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
AnyIntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]

Triple = tuple[int, int, int]
"""Three whole numbers ``(z, y, x)``: a shape in voxels, a stride, a kernel size."""

Spacing = tuple[float, float, float]
"""Distance of neighbouring voxel centres in mm, ``(z, y, x)``."""

Box = tuple[float, float, float, float, float, float]
"""Low and high corner of a box in voxel edges, ``(z0, y0, x0, z1, y1, x1)``."""


def as_triple(values: Iterable[float]) -> Triple:
    """Return three whole numbers as a tuple of Python integers.

    Parameters
    ----------
    values : iterable of 3 numbers
        Each is truncated by ``int``.

    Examples
    --------
    >>> as_triple(np.array([4, 16, 16]))
    (4, 16, 16)
    """
    z, y, x = values
    return int(z), int(y), int(x)


def as_spacing(values: Iterable[float]) -> Spacing:
    """Return three numbers as a tuple of Python floats.

    Parameters
    ----------
    values : iterable of 3 numbers
        Spacing in mm, ``(z, y, x)``. The values are not checked.

    Examples
    --------
    >>> as_spacing(np.array([3, 1, 1]))
    (3.0, 1.0, 1.0)
    """
    z, y, x = values
    return float(z), float(y), float(x)


def format_shape(shape: Iterable[int]) -> str:
    """Return a shape as text.

    Parameters
    ----------
    shape : iterable of int
        Sizes along the axes.

    Examples
    --------
    >>> format_shape((48, 96, 96))
    '48×96×96'
    """
    return "×".join(str(int(size)) for size in shape)


def format_spacing(spacing: Iterable[float]) -> str:
    """Return a spacing in mm as text, with three significant digits.

    Parameters
    ----------
    spacing : iterable of float
        Spacing in mm along the axes.

    Examples
    --------
    >>> format_spacing((3.0, 0.7813, 0.7813))
    '3×0.781×0.781 mm'
    """
    return "×".join(f"{size:.3g}" for size in spacing) + " mm"
