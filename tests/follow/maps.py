"""Small instance maps for the tests of the follow-up."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from detseg3d.core.arrays import Box, Spacing
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.follow.time_point import LesionFacts, TimePoint

SHAPE = (20, 30, 30)


def instance_map(
    boxes: Mapping[int, Box], spacing: Spacing = (1.0, 1.0, 1.0), shape: tuple[int, int, int] = SHAPE
) -> Image:
    """Return an instance map with cuboids; a box is ``z0 y0 x0 z1 y1 x1`` in voxels."""
    array = np.zeros(shape, np.int32)
    for number, (z0, y0, x0, z1, y1, x1) in boxes.items():
        array[int(z0) : int(z1), int(y0) : int(y1), int(x0) : int(x1)] = number
    return Image(array, Geometry(shape, spacing))


def time_point(
    boxes: Mapping[int, Box], facts: Mapping[int, LesionFacts] | None = None, image: Image | None = None
) -> TimePoint:
    return TimePoint.of_instances("scan", instance_map(boxes), facts, image)
