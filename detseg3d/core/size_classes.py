"""Size classes of lesions for all tables of the package."""

from __future__ import annotations

from itertools import pairwise
from typing import Final, NamedTuple

__all__ = ["VOXEL_EDGES", "size_classes"]

VOXEL_EDGES: Final = (15, 50, 150, 500)
"""Boundaries between the size classes, in voxels."""


class SizeClass(NamedTuple):
    """Class of the lesions with ``low`` to less than ``high`` voxels.

    Attributes
    ----------
    name : str
        Text for tables, for example ``15 to under 50 voxels``.
    low, high : float
        Limits in voxels; ``high`` is infinite for the class of the largest lesions.
    """

    name: str
    low: float
    high: float


def size_classes() -> list[SizeClass]:
    """Return all size classes, from the smallest lesions to the largest.

    Examples
    --------
    >>> [size.name for size in size_classes()][:2]
    ['under 15 voxels', '15 to under 50 voxels']
    """
    edges = [0.0, *VOXEL_EDGES, float("inf")]
    names = [
        f"under {VOXEL_EDGES[0]} voxels",
        *(f"{low} to under {high} voxels" for low, high in pairwise(VOXEL_EDGES)),
        f"{VOXEL_EDGES[-1]} voxels or more",
    ]
    return [SizeClass(name, low, high) for name, (low, high) in zip(names, pairwise(edges), strict=True)]
