"""Two scans of a patient on one grid, so that the same place has the same voxel in both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import BoolArray
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.core.geometry import Geometry
from detseg3d.core.orientation import StoredOrder
from detseg3d.core.rigid import IDENTITY
from detseg3d.data.image import Image
from detseg3d.follow.resampling import image_on_grid, instances_on_grid
from detseg3d.follow.result import Comparison, FollowUp, LesionChange
from detseg3d.follow.time_point import TimePoint
from detseg3d.reporting.pictures.slices import TurnedCase

__all__ = ["AlignedPair"]


@dataclass(frozen=True)
class AlignedPair:
    """A comparison with both scans on the grid of the earlier scan.

    Attributes
    ----------
    comparison : Comparison
    earlier, later : TurnedCase
        ``prediction`` is the instance map. The axes point to the head, to the back and to the left.
    geometry : Geometry
        Grid of both scans.
    """

    comparison: Comparison
    earlier: TurnedCase
    later: TurnedCase
    geometry: Geometry

    @classmethod
    def of(cls, result: FollowUp, index: int) -> AlignedPair:
        """Return the pair of scan ``index`` and the next scan, counted from 0."""
        comparison = result.comparisons[index]
        earlier, later = result.scans[index], result.scans[index + 1]
        grid, transform = earlier.geometry, comparison.registration.transform
        order = StoredOrder(grid.shape)
        first = TurnedCase(_image(earlier, grid), grid.spacing, None, earlier.instances.array, order)
        moved = np.zeros(grid.shape, np.float32)
        if later.image is not None:
            moved = image_on_grid(later.image, grid, transform)
        second = TurnedCase(moved, grid.spacing, None, instances_on_grid(later, grid, transform), order)
        return cls(comparison, first, second, grid)

    @property
    def sides(self) -> tuple[TurnedCase, TurnedCase]:
        """The earlier and the later scan."""
        return self.earlier, self.later

    def mask(self, change: LesionChange) -> BoolArray:
        """Return the mask of the lesions of a change in both scans together."""
        mask = np.zeros(self.geometry.shape, bool)
        for case, numbers in zip(self.sides, (change.earlier, change.later), strict=True):
            if numbers and case.prediction is not None:
                mask |= np.isin(case.prediction, numbers)
        return mask

    def box(self, change: LesionChange) -> tuple[float, ...]:
        """Return the box around the lesions of a change in both scans, ``z0 y0 x0 z1 y1 x1`` in voxel edges.

        A change outside the grid has a box of one voxel at the nearest place of the grid.
        """
        _, boxes = boxes_from_instances(self.mask(change).astype(np.uint8))
        if len(boxes):
            return tuple(float(edge) for edge in boxes[0])
        place = self.geometry.world_to_voxel_edges([change.center_world])[0]
        low = np.clip(np.floor(place), 0, np.asarray(self.geometry.shape) - 1)
        return (*low.tolist(), *(low + 1).tolist())


def _image(point: TimePoint, grid: Geometry) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the image of a scan on the grid of its instance map; zeros without an image."""
    if point.image is None:
        return np.zeros(grid.shape, np.float32)
    if not point.image.geometry.difference(grid):
        return np.nan_to_num(point.image.array.astype(np.float32))
    return image_on_grid(Image(point.image.array, point.image.geometry), grid, IDENTITY)
