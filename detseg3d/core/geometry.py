"""Position of voxels in the patient, and conversion to and from millimetres.

Array axes are ``(z, y, x)``. In memory they are canonical: they run towards Superior, Posterior and Left, as nearly as
the scan allows (see :mod:`detseg3d.core.orientation`). A geometry also states the axis order of its file.
World coordinates are ``(x, y, z)`` millimetres in the LPS system of DICOM and SimpleITK. Positions in an array are
*voxel edges*: voxel ``i`` covers ``[i, i + 1)``, so its centre is ``i + 0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray, as_spacing, as_triple
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.orientation import StoredOrder

__all__ = ["IDENTITY_DIRECTION", "Geometry", "check_spacing"]


DEFAULT_TOLERANCE = 1e-4
SPACING_LIMITS = (1e-6, 1e6)
"""Smallest and largest spacing in mm: a nanometre and a kilometre. Volumes remain accurate in double precision."""
IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# NIfTI stores a direction as a quaternion in single precision. Near a half turn this changes the direction by up to
# 3.5e-4, because one component is the root of a difference. Single precision changes an origin at 1 m by 1e-4 mm. Both
# errors are harmless.
_DIRECTION_FACTOR = 10.0
_ORIGIN_FACTOR = 100.0


def check_spacing(spacing: Sequence[float], case_id: str = "") -> None:
    """Raise an error if the spacing along an axis is below a nanometre or above a kilometre.

    Parameters
    ----------
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    case_id : str, optional
        Name of the case, for the message.

    Raises
    ------
    DetSeg3DError
        If a spacing is outside :data:`SPACING_LIMITS`.

    Examples
    --------
    >>> check_spacing((3.0, 0.7, 0.7))
    >>> check_spacing((1e-7, 1.0, 1.0))
    Traceback (most recent call last):
        ...
    detseg3d.core.errors.DetSeg3DError: the spacing is below a nanometre or above a kilometre
    ...
    """
    minimum, maximum = SPACING_LIMITS
    # Headers store single precision, in which 1e-6 becomes 9.99999997e-07.
    if len(spacing) != 3 or not all(minimum * (1 - 1e-6) <= length <= maximum * (1 + 1e-6) for length in spacing):
        name = f" of case {case_id}" if case_id else ""
        raise DetSeg3DError(
            f"the spacing{name} is below a nanometre or above a kilometre",
            value=tuple(spacing),
            expected=f"three lengths (z, y, x) from {minimum:g} to {maximum:g} mm",
            remedy="state the spacing of all scans in another unit, for example micrometres in place of millimetres",
        )


@dataclass(frozen=True)
class Geometry:
    """Shape, spacing and position of a volume.

    Parameters
    ----------
    shape : tuple of 3 ints
        Voxels ``(Z, Y, X)``.
    spacing : tuple of 3 floats
        Millimetres per voxel ``(z, y, x)``.
    origin : tuple of 3 floats
        World position ``(x, y, z)`` of the *centre* of the first voxel in mm LPS, as in SimpleITK.
    direction : tuple of 9 floats
        Direction cosines, row-major, rows and columns ``(x, y, z)``, as in SimpleITK.
    affine : tuple of 16 floats, optional
        Only for a sheared grid, which spacing and direction cannot describe: the row-major 4×4 matrix from voxel index
        ``(x, y, z)`` (centres, not edges) to mm LPS. Spacing and direction then describe the nearest unsheared grid.
    native_header : (str, bytes), optional
        Format and header of the file from which this geometry was read. :mod:`detseg3d.data.images` uses them to write
        exactly the same geometry. Ignored in comparisons.
    stored : Geometry, optional
        The geometry in the axis order of the file, with the header of the file. ``None`` if the order of the file is
        canonical. Ignored in comparisons.
    caveat : str, optional
        Reason to doubt the position, for example a file that states two positions. Messages about a difference quote
        the reason. Ignored in comparisons.
    dicom : tuple of DicomIdentity or None, optional
        DICOM series of each channel, ``None`` for a channel of another format; empty if no channel is DICOM. Ignored in
        comparisons.
    contradicted : bool, optional
        True if the file states two different positions. Ignored in comparisons.

    Raises
    ------
    ValueError
        If a tuple has the wrong length, a spacing is not positive, or a number is not finite.

    Examples
    --------
    >>> geometry = Geometry((10, 20, 30), spacing=(3.0, 1.0, 1.0))
    >>> geometry.voxel_edges_to_world([[0.5, 0.5, 0.5], [1.5, 0.5, 0.5]]).tolist()
    [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = IDENTITY_DIRECTION
    affine: tuple[float, ...] | None = None
    native_header: tuple[str, bytes] | None = field(default=None, compare=False, repr=False)
    stored: Geometry | None = field(default=None, compare=False, repr=False)
    caveat: str = field(default="", compare=False, repr=False)
    dicom: tuple[DicomIdentity | None, ...] = field(default=(), compare=False, repr=False)
    contradicted: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, count in (("shape", 3), ("spacing", 3), ("origin", 3), ("direction", 9)):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name} needs {count} numbers, found {getattr(self, name)}")
        if self.affine is not None and len(self.affine) != 16:
            raise ValueError(f"affine needs 16 numbers, found {len(self.affine)}")
        if not all(np.isfinite(s) and s > 0 for s in self.spacing):
            raise ValueError(f"spacing must be positive and finite, found {self.spacing}")
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        for name in ("spacing", "origin", "direction"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        for name in ("origin", "direction", "affine"):
            if not np.isfinite(getattr(self, name) or 0.0).all():
                raise ValueError(f"{name} must be finite, found {getattr(self, name)}")

    @property
    def voxel_volume(self) -> float:
        """Volume of one voxel in mm³: the product of the spacing, or less in a sheared grid."""
        volume, exact = math.prod(self.spacing), float(abs(np.linalg.det(self.index_to_world()[0])))
        # Directions are rounded in files. The rounding must not move a lesion into another size class.
        return volume if abs(exact - volume) <= _DIRECTION_FACTOR * DEFAULT_TOLERANCE * volume else exact

    def index_to_world(self) -> tuple[FloatArray, FloatArray]:
        """Return matrix ``(3, 3)`` and offset ``(3,)`` from voxel index ``(x, y, z)`` to world ``(x, y, z)``, LPS."""
        if self.affine is not None:
            affine = np.asarray(self.affine, np.float64).reshape(4, 4)
            return affine[:3, :3], affine[:3, 3]
        direction = np.asarray(self.direction, np.float64).reshape(3, 3)
        return direction * np.asarray(self.spacing[::-1], np.float64), np.asarray(self.origin, np.float64)

    def canonical(self) -> Geometry:
        """Return the geometry of the same voxels in the canonical order.

        Examples
        --------
        >>> feet_first = Geometry((10, 4, 4), (3.0, 1.0, 1.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, -1))
        >>> canonical = feet_first.canonical()
        >>> canonical.origin, canonical.direction[8], canonical.stored_order.axes
        ((0.0, 0.0, -27.0), 1.0, 'IPL')
        >>> canonical.as_stored() is feet_first
        True
        """
        order = StoredOrder.of_direction(self.direction, self.shape)
        return self if order.is_canonical else self._in_order(order)

    @property
    def stored_order(self) -> StoredOrder:
        """Axis order of the file; the canonical order for a volume that was not read from a file."""
        if self.stored is None:
            return StoredOrder(self.shape)
        return StoredOrder.of_direction(self.stored.direction, self.stored.shape)

    def as_stored(self) -> Geometry:
        """Return the geometry of the same voxels in the axis order of the file."""
        if self.stored is None:
            return self
        order = self.stored_order
        if self.stored._in_order(order) == self:
            return self.stored
        # The geometry was changed after reading, so the header of the file no longer describes it.
        flips = [order.flipped[order.permutation.index(axis)] for axis in range(3)]
        first, second, third = (order.permutation.index(axis) for axis in range(3))
        back = StoredOrder(self.shape, (first, second, third), (flips[0], flips[1], flips[2]))
        return replace(self._in_order(back), stored=None)

    def _in_order(self, order: StoredOrder) -> Geometry:
        """Return the geometry with its axes permuted and flipped by ``order``."""
        # The columns of the matrices have the axis order x, y, z.
        columns = [2 - axis for axis in reversed(order.permutation)]
        signs = np.where(order.flipped[::-1], -1.0, 1.0)
        matrix, offset = self.index_to_world()
        last = np.array(self.shape[::-1], np.float64)[columns] - 1
        offset = offset + matrix[:, columns] @ np.where(order.flipped[::-1], last, 0.0)
        direction = np.asarray(self.direction, np.float64).reshape(3, 3)[:, columns] * signs + 0.0  # no minus zero
        affine = None
        if self.affine is not None:
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = matrix[:, columns] * signs, offset
        return Geometry(
            shape=as_triple(self.shape[axis] for axis in order.permutation),
            spacing=order.triple_to_canonical(self.spacing),
            origin=as_spacing(offset),
            direction=tuple(direction.ravel().tolist()),
            affine=None if affine is None else tuple(affine.ravel().tolist()),
            stored=self,
            caveat=self.caveat,
            dicom=self.dicom,
            contradicted=self.contradicted,
        )

    def voxel_edges_to_world(self, points: npt.ArrayLike) -> FloatArray:
        """Return the world coordinates of positions in the array.

        Parameters
        ----------
        points : array_like, shape ``(N, 3)``
            ``(z, y, x)`` in voxel edges; the centre of voxel ``i`` is ``i + 0.5``.

        Returns
        -------
        ndarray of float64, shape ``(N, 3)``
            ``(x, y, z)``, mm LPS.
        """
        matrix, offset = self.index_to_world()
        index = _points(points)[:, ::-1] - 0.5
        return np.asarray(index @ matrix.T + offset, np.float64)

    def world_to_voxel_edges(self, points: npt.ArrayLike) -> FloatArray:
        """Return the array positions of world coordinates; the inverse of :meth:`voxel_edges_to_world`.

        Parameters
        ----------
        points : array_like, shape ``(N, 3)``
            ``(x, y, z)``, mm LPS.

        Returns
        -------
        ndarray of float64, shape ``(N, 3)``
            ``(z, y, x)`` in voxel edges.
        """
        matrix, offset = self.index_to_world()
        index = np.linalg.solve(matrix, (_points(points) - offset).T).T
        return np.asarray(index[:, ::-1] + 0.5, np.float64)

    def difference(self, other: Geometry, tolerance: float = DEFAULT_TOLERANCE) -> list[str]:
        """Describe the differences between two geometries.

        Sizes must be equal. The relative difference of a spacing may reach ``tolerance``, the difference of a direction
        cosine ``10 * tolerance``, and the difference of the origin ``100 * tolerance`` times the smallest spacing. The
        default limits are 0.01 %, 0.001 and a hundredth of a voxel. They exceed the rounding in file formats and are
        far too small to move a lesion.

        Parameters
        ----------
        other : Geometry
        tolerance : float, optional

        Returns
        -------
        list of str
            One text per difference; empty if both geometries describe the same grid.

        Examples
        --------
        >>> Geometry((4, 4, 4)).difference(Geometry((4, 4, 4), spacing=(1.0, 1.0, 2.0)))
        ['spacing (z, y, x) 1 1 1 against 1 1 2 mm']
        """
        differences = []
        if self.shape != other.shape:
            differences.append(f"size (z, y, x) {_numbers(self.shape)} against {_numbers(other.shape)} voxels")
        spacing = np.asarray(self.spacing)
        if np.any(np.abs(spacing - other.spacing) > tolerance * spacing):
            differences.append(f"spacing (z, y, x) {_numbers(self.spacing)} against {_numbers(other.spacing)} mm")
        if not _close(self.origin, other.origin, _ORIGIN_FACTOR * tolerance * float(spacing.min())):
            differences.append(f"origin (x, y, z) {_numbers(self.origin)} against {_numbers(other.origin)} mm")
        if not _close(self.direction, other.direction, _DIRECTION_FACTOR * tolerance):
            differences.append(f"direction {_numbers(self.direction)} against {_numbers(other.direction)}")
        if (self.affine is not None or other.affine is not None) and not differences:
            mine, theirs = self.index_to_world()[0], other.index_to_world()[0]
            if not _close(mine, theirs, _DIRECTION_FACTOR * tolerance * float(spacing.min())):
                differences.append(f"shear: affine {_numbers(mine.ravel())} against {_numbers(theirs.ravel())}")
        if not differences:
            return differences
        axes = [
            StoredOrder.of_direction(geometry.direction, geometry.shape).axes
            for geometry in (self.as_stored(), other.as_stored())
        ]
        if axes[0] != axes[1]:
            differences[-1] += f" (the axes z y x are stored towards {' '.join(axes[0])} against {' '.join(axes[1])})"
        caveats = [
            f"of the {which} file: {geometry.caveat}"
            for which, geometry in (("first", self), ("second", other))
            if geometry.caveat
        ]
        if caveats:
            differences[-1] += f" ({'; '.join(caveats)})"
        return differences


def _points(points: npt.ArrayLike) -> FloatArray:
    array = np.asarray(points, np.float64)
    if array.size == 0:
        return array.reshape(0, 3)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), found {array.shape}")
    return array


def _close(first: Any, second: Any, limit: float) -> bool:
    # The comparison is false for NaN, so NaN is never close.
    return bool(np.all(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)) <= limit))


def _numbers(values: Sequence[float] | FloatArray) -> str:
    # Adding 0 turns minus zero, which is frequent in directions, into zero.
    return " ".join(f"{round(float(value), 6) + 0.0:.8g}" for value in values)
