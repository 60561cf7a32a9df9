"""Turn a volume so that it is seen as radiologists see it, however it was stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Orientation"]


@dataclass(frozen=True)
class Orientation:
    """A permutation and flips of the axes of an array ``(Z, Y, X)``: views, nothing is interpolated.

    After :meth:`turn`, the first axis runs to the head, the second to the back and the third to the left of the
    patient, as nearly as the voxel axes allow.

    Examples
    --------
    >>> upside_down = Orientation.from_direction((1, 0, 0, 0, 1, 0, 0, 0, -1), (2, 1, 1))
    >>> upside_down.turn(np.array([[[1]], [[2]]])).ravel().tolist()
    [2, 1]
    >>> upside_down.turn_box((0, 0, 0, 1, 1, 1))
    (1.0, 0.0, 0.0, 2.0, 1.0, 1.0)
    """

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @staticmethod
    def from_direction(direction: Sequence[float], shape: Sequence[int]) -> Orientation:
        """The turn for a volume with this direction matrix.

        Parameters
        ----------
        direction : 9 floats
            Row-major, ``(x, y, z)``, as in :class:`~detseg3d.core.geometry.Geometry`.
        shape : 3 ints
            ``(Z, Y, X)`` of the volume as stored.
        """
        # Rows: world z, y, x; columns: array axes 0, 1, 2.
        matrix = np.asarray(direction, np.float64).reshape(3, 3)[::-1, ::-1]
        remaining = {0, 1, 2}
        permutation, flipped = [0, 0, 0], [False, False, False]
        # The clearest correspondence is settled first, so that an oblique volume cannot use an axis twice.
        for world in np.argsort(-np.abs(matrix).max(axis=1), kind="stable").tolist():
            axis = max(remaining, key=lambda candidate: abs(matrix[world, candidate]))
            remaining.remove(axis)
            permutation[world], flipped[world] = axis, bool(matrix[world, axis] < 0)
        z, y, x = (int(size) for size in shape)
        first, second, third = permutation
        return Orientation((z, y, x), (first, second, third), (flipped[0], flipped[1], flipped[2]))

    def turn(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The volume as seen, a view."""
        turned = array.transpose(self.permutation)
        return turned[tuple(slice(None, None, -1) if flip else slice(None) for flip in self.flipped)]

    def turn_triple(self, values: Sequence[float]) -> tuple[float, float, float]:
        """A spacing as seen."""
        z, y, x = (float(values[axis]) for axis in self.permutation)
        return z, y, x

    def turn_box(self, box: Sequence[float]) -> tuple[float, float, float, float, float, float]:
        """A box in voxel edges as seen."""
        low, high = [], []
        for axis, flip in zip(self.permutation, self.flipped, strict=True):
            first, last = float(box[axis]), float(box[axis + 3])
            size = self.shape[axis]
            low.append(size - last if flip else first)
            high.append(size - first if flip else last)
        return low[0], low[1], low[2], high[0], high[1], high[2]

    def stored_slice(self, axis: int, index: int) -> tuple[str, int]:
        """Name of the stored axis and index in it of a slice as seen, for people who look it up in the file."""
        stored = self.permutation[axis]
        return "zyx"[stored], self.shape[stored] - 1 - index if self.flipped[axis] else index
