"""Axis order of volumes: permutations and flips between a file and memory, without interpolation.

In memory, every volume has the canonical order: its axes ``(z, y, x)`` run towards Superior, Posterior and Left, as
closely as the scan allows. A file may store the axes in any order and direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import as_spacing, as_triple

__all__ = ["SLICE_SIDES", "StoredOrder"]

CANONICAL_AXES = "SPL"
"""Directions of the canonical axes z, y and x: Superior, Posterior, Left."""

SLICE_SIDES = (("R", "L", "A", "P"), ("R", "L", "S", "I"), ("A", "P", "S", "I"))
"""Letters of the left, right, upper and lower side of a picture of an axial, a coronal and a sagittal slice.

The letters are those of NIfTI (RAS) and of reports of radiologists: S (Superior) and I (Inferior) are the head and the
feet, which DICOM calls H and F.
"""

_OPPOSITE = dict(zip("SPLIAR", "IARSPL", strict=True))
# Directions in files are rounded. Two assignments of axes are equally near if their cosines differ by less than this.
_EQUALLY_NEAR = 1e-3
# Among equally near assignments, the one with the highest weighted sum of direction cosines is chosen. The sum depends
# on the resulting axes only, so the choice does not depend on the axis order of the file. The weights are square roots
# of primes, so different assignments practically never have the same sum.
_WEIGHTS = np.sqrt([[2.0, 3.0, 5.0], [7.0, 11.0, 13.0], [17.0, 19.0, 23.0]])


@dataclass(frozen=True)
class StoredOrder:
    """Order and direction in which a file stores the axes of a volume.

    Parameters
    ----------
    shape : tuple of 3 ints
        Shape of the stored volume, along its stored axes.
    permutation : tuple of 3 ints, optional
        Indices of the stored axes that run along the canonical axes z, y and x.
    flipped : tuple of 3 bools, optional
        For each canonical axis, true if the file stores the axis in the opposite direction.

    Examples
    --------
    >>> upside_down = StoredOrder.of_direction((1, 0, 0, 0, 1, 0, 0, 0, -1), (2, 1, 1))
    >>> upside_down.to_canonical(np.array([[[1]], [[2]]])).ravel().tolist()
    [2, 1]
    >>> upside_down.box_to_canonical((0, 0, 0, 1, 1, 1))
    (1.0, 0.0, 0.0, 2.0, 1.0, 1.0)
    >>> upside_down.axes
    'IPL'
    """

    shape: tuple[int, int, int]
    permutation: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @staticmethod
    def of_direction(direction: Sequence[float], shape: Sequence[int]) -> StoredOrder:
        """Return the order of a volume, in which each axis is assigned to the nearest axis of the patient.

        All 48 orders in which one volume can be stored lead to the same canonical volume. If several assignments are
        equally near, as at 45 degrees, the choice does not depend on the stored order.

        Parameters
        ----------
        direction : 9 floats
            Direction cosines, row-major, ``(x, y, z)``, as in :class:`~detseg3d.core.geometry.Geometry`.
        shape : 3 ints
            Shape ``(Z, Y, X)`` of the stored volume.
        """
        # Rows: patient z, y, x; columns: array axes 0, 1, 2.
        matrix = np.asarray(direction, np.float64).reshape(3, 3)[::-1, ::-1]
        choices = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]
        turned = np.stack([matrix[:, order] * signs for order, signs in choices])
        nearness = np.trace(turned, axis1=1, axis2=2)
        equally_near = nearness >= nearness.max() - _EQUALLY_NEAR
        preference = np.where(equally_near, (turned * _WEIGHTS).sum(axis=(1, 2)), -np.inf)
        (first, second, third), signs = choices[int(np.argmax(preference))]
        return StoredOrder(as_triple(shape), (first, second, third), (signs[0] < 0, signs[1] < 0, signs[2] < 0))

    @staticmethod
    def from_axes(axes: str, shape: Sequence[int]) -> StoredOrder:
        """Return the order of a volume from the directions of its axes, for example ``"SPL"``.

        This is the inverse of :attr:`axes`.

        Raises
        ------
        ValueError
            If ``axes`` does not hold one direction along each axis of the patient.
        """
        stored = [
            CANONICAL_AXES.find(letter if letter in CANONICAL_AXES else _OPPOSITE.get(letter, "?")) for letter in axes
        ]
        if sorted(stored) != [0, 1, 2]:
            raise ValueError(f"axes must name three directions such as SPL, found {axes!r}")
        order = [stored.index(axis) for axis in range(3)]
        flipped = [axes[order[axis]] not in CANONICAL_AXES for axis in range(3)]
        return StoredOrder(as_triple(shape), (order[0], order[1], order[2]), (flipped[0], flipped[1], flipped[2]))

    @property
    def axes(self) -> str:
        """Directions of the stored axes, one letter each: S or I, P or A, L or R."""
        letters = [""] * 3
        for axis, (stored, flip) in enumerate(zip(self.permutation, self.flipped, strict=True)):
            letters[stored] = _OPPOSITE[CANONICAL_AXES[axis]] if flip else CANONICAL_AXES[axis]
        return "".join(letters)

    @property
    def is_canonical(self) -> bool:
        """True if the file stores the axes in canonical order."""
        return self.permutation == (0, 1, 2) and not any(self.flipped)

    def to_canonical(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a volume ``(…, Z, Y, X)`` in canonical order instead of the stored order."""
        if self.is_canonical:
            return array
        before = array.ndim - 3
        turned = array.transpose(*range(before), *(before + axis for axis in self.permutation))
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return turned[..., z, y, x]

    def to_stored(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a view of a volume ``(…, Z, Y, X)`` in the stored order instead of canonical order."""
        if self.is_canonical:
            return array
        before = array.ndim - 3
        z, y, x = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        unflipped = array[..., z, y, x]
        return unflipped.transpose(*range(before), *(before + self.permutation.index(axis) for axis in range(3)))

    def triple_to_canonical(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Reorder three numbers that belong to the stored axes, for example a spacing."""
        return as_spacing(values[axis] for axis in self.permutation)

    def triple_to_stored(self, values: Sequence[float]) -> tuple[float, float, float]:
        """Reorder three numbers that belong to the canonical axes."""
        return as_spacing(values[self.permutation.index(axis)] for axis in range(3))

    def box_to_canonical(self, box: Sequence[float]) -> tuple[float, float, float, float, float, float]:
        """Convert a box ``z0 y0 x0 z1 y1 x1`` in voxel edges from the stored to the canonical order."""
        low, high = [], []
        for axis, flip in zip(self.permutation, self.flipped, strict=True):
            first, last = float(box[axis]), float(box[axis + 3])
            size = self.shape[axis]
            low.append(size - last if flip else first)
            high.append(size - first if flip else last)
        return low[0], low[1], low[2], high[0], high[1], high[2]

    def box_to_stored(self, box: Sequence[float]) -> tuple[float, float, float, float, float, float]:
        """Convert a box ``z0 y0 x0 z1 y1 x1`` in voxel edges from the canonical to the stored order."""
        edges = [0.0] * 6
        for axis, (stored, flip) in enumerate(zip(self.permutation, self.flipped, strict=True)):
            first, last = float(box[axis]), float(box[axis + 3])
            size = self.shape[stored]
            edges[stored], edges[stored + 3] = (size - last, size - first) if flip else (first, last)
        return edges[0], edges[1], edges[2], edges[3], edges[4], edges[5]

    def point_to_stored(self, point: Sequence[float]) -> tuple[float, float, float]:
        """Convert a position ``(z, y, x)`` in voxel edges from the canonical to the stored order."""
        return self.box_to_stored((*point, *point))[:3]

    def stored_slice(self, axis: int, index: int) -> tuple[str, int]:
        """Return the position at which the file stores a slice.

        Parameters
        ----------
        axis : int
            Canonical axis at a right angle to the slice: 0 for z, 1 for y, 2 for x.
        index : int
            Index of the slice along ``axis``.

        Returns
        -------
        axis : str
            Stored axis, ``"z"``, ``"y"`` or ``"x"``.
        index : int
            Index of the slice along the stored axis.
        """
        stored = self.permutation[axis]
        return "zyx"[stored], self.shape[stored] - 1 - index if self.flipped[axis] else index
