"""An image in memory: its voxels together with their geometry."""

from __future__ import annotations

from typing import NamedTuple

from detseg3d.core.arrays import Array, Spacing, Triple, format_shape, format_spacing
from detseg3d.core.geometry import Geometry

__all__ = ["Image"]


class Image(NamedTuple):
    """One 3D image: voxels and geometry. It unpacks as ``array, geometry = image``.

    Attributes
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        Voxels in canonical order: z runs towards Superior, y towards Posterior, x towards Left.
    geometry : Geometry
        Position, spacing and direction of ``array``, and the axis order of the source.

    Examples
    --------
    >>> import numpy as np
    >>> image = Image(np.zeros((8, 32, 32), np.int16), Geometry((8, 32, 32), (3.0, 1.0, 1.0)))
    >>> image
    Image(8×32×32 voxels of 3×1×1 mm, int16)
    >>> array, geometry = image
    """

    array: Array
    geometry: Geometry

    @property
    def shape(self) -> Triple:
        """Size in voxels ``(Z, Y, X)``."""
        return self.geometry.shape

    @property
    def spacing(self) -> Spacing:
        """Voxel spacing in mm ``(z, y, x)``."""
        return self.geometry.spacing

    def __repr__(self) -> str:
        return f"Image({format_shape(self.shape)} voxels of {format_spacing(self.spacing)}, {self.array.dtype})"
