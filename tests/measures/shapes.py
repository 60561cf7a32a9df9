"""Masks of analytic shapes."""

from __future__ import annotations

import math

import numpy as np

from detseg3d.core.arrays import BoolArray, Spacing


def ellipsoid(semi_axes: tuple[float, float, float], spacing: Spacing) -> BoolArray:
    """Return the mask of the voxels with their centre in an ellipsoid; the semi-axes ``(z, y, x)`` are in mm."""
    sides = [
        np.arange(-math.ceil(a / s) - 1, math.ceil(a / s) + 2) * s for a, s in zip(semi_axes, spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*sides, indexing="ij")
    a, b, c = semi_axes
    return np.asarray((z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2 <= 1)
