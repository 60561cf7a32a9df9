"""Errors that several readers of images raise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = [
    "not_a_volume",
    "not_numbers",
    "unreadable",
]


def unreadable(path: Path, error: Exception) -> DetSeg3DError:
    """Return the error for a file that cannot be read."""
    reason = str(error).strip() or type(error).__name__
    return DetSeg3DError(f"the image cannot be read: {reason}", file=path, remedy="restore the file; it may be damaged")


def not_a_volume(path: Path, size: Sequence[int], components: int = 1) -> DetSeg3DError:
    """Return the error for a 2D, 4D or colour image; ``components`` is the number of values per voxel."""
    description = f"{len(size)}D, size {tuple(size)}" + (f", {components} values a voxel" if components > 1 else "")
    return DetSeg3DError(
        "the image is not a 3D volume of single values",
        file=path,
        value=description,
        expected="three axes, one value per voxel",
        remedy="split channels or time points into one file each (CASE_0000, CASE_0001, …)",
    )


def not_numbers(path: Path, dtype: object) -> DetSeg3DError:
    """Return the error for voxels of a type other than real numbers."""
    return DetSeg3DError(
        "the voxels are not real numbers",
        file=path,
        value=str(dtype),
        expected="integers or floating point",
        remedy="store the magnitude, or another real quantity",
    )
