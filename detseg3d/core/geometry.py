"""Where the voxels of a volume lie in the patient, and the way to and from millimetres.

Array axes are ``(z, y, x)``. In memory they are canonical: they run towards Superior, Posterior and Left, as nearly as
the scan allows (see :mod:`detseg3d.core.orientation`). A geometry remembers the order in which its file stores them.
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

from detseg3d.core.arrays import FloatArray
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.orientation import StoredOrder

__all__ = ["DEFAULT_TOLERANCE", "IDENTITY_DIRECTION", "SPACING_LIMITS", "Geometry", "check_spacing"]


DEFAULT_TOLERANCE = 1e-4
SPACING_LIMITS = (1e-6, 1e6)
"""Millimetres: a nanometre and a kilometre. Volumes of such voxels are still exact enough in double precision."""
IDENTITY_DIRECTION = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

# A direction that went through NIfTI's single-precision quaternion near a half turn is off by up to 3.5e-4 (the fourth
# component is the root of a difference), and an origin through single precision by 1e-4 mm at 1 m: harmless both.
_DIRECTION_FACTOR = 10.0
_ORIGIN_FACTOR = 100.0


def check_spacing(spacing: Sequence[float], case_id: str = "") -> None:
    """Raise unless each axis has a spacing between a nanometre and a kilometre.

    Parameters
    ----------
    spacing : 3 floats
        Millimetres ``(z, y, x)``.
    case_id : str, optional
        The case that the message names.

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
    least, most = SPACING_LIMITS
    # Headers hold single precision: 1e-6 comes back as 9.99999997e-07.
    if len(spacing) != 3 or not all(least * (1 - 1e-6) <= length <= most * (1 + 1e-6) for length in spacing):
        name = f" of case {case_id}" if case_id else ""
        raise DetSeg3DError(
            f"the spacing{name} is below a nanometre or above a kilometre",
            value=tuple(spacing),
            expected=f"three lengths (z, y, x) from {least:g} to {most:g} mm",
            remedy="state the spacing of all scans in another unit, for example micrometres in place of millimetres",
        )


@dataclass(frozen=True)
class Geometry:
    """Size and place of a volume.

    Parameters
    ----------
    shape : tuple of 3 ints
        Voxels ``(Z, Y, X)``.
    spacing : tuple of 3 floats
        Millimetres per voxel ``(z, y, x)``.
    origin : tuple of 3 floats
        World position ``(x, y, z)`` of the *centre* of the first voxel, mm LPS, as SimpleITK has it.
    direction : tuple of 9 floats
        Direction cosines, row-major, rows and columns ``(x, y, z)``, as SimpleITK has them.
    affine : tuple of 16 floats, optional
        Only for a sheared grid, which spacing and direction cannot describe: the row-major 4×4 matrix from voxel index
        ``(x, y, z)`` (centres, not edges) to mm LPS. Spacing and direction are then the nearest unsheared ones.
    native_header : (str, bytes), optional
        Format and verbatim header of the file this geometry was read from. It lets :mod:`detseg3d.data.images` write
        the
        same geometry to the bit and takes no part in comparisons.
    stored : Geometry, optional
        The geometry in the order of the file, with the file's header, if that is another order. It takes no part in
        comparisons.
    caveat : str, optional
        Why the place may not be the one that was meant, for example that the file states two places. Messages about a
        difference name it. It takes no part in comparisons.
    dicom : tuple of DicomIdentity or None, optional
        The DICOM series of each channel that was read, ``None`` for a channel of another format; empty if no channel
        is DICOM. It takes no part in comparisons.
    contradicted : bool, optional
        Whether the file states two different places. It takes no part in comparisons.

    Raises
    ------
    ValueError
        If a number of elements is wrong, a spacing is not positive, or anything is not finite.

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
        """Volume of one voxel, mm³: the product of the spacing, and less than that in a sheared grid."""
        volume, exact = math.prod(self.spacing), float(abs(np.linalg.det(self.index_to_world()[0])))
        # A direction is rounded in files; that must not move lesions across the limits of sizes.
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
        """The order in which the file stores the volume; the canonical one for a volume that was made in memory."""
        if self.stored is None:
            return StoredOrder(self.shape)
        return StoredOrder.of_direction(self.stored.direction, self.stored.shape)

    def as_stored(self) -> Geometry:
        """Return the geometry of the same voxels in the order in which the file stores them."""
        if self.stored is None:
            return self
        order = self.stored_order
        if self.stored._in_order(order) == self:
            return self.stored
        # The geometry was changed since it was read, so the header of the file is not its own.
        flips = [order.flipped[order.permutation.index(axis)] for axis in range(3)]
        first, second, third = (order.permutation.index(axis) for axis in range(3))
        back = StoredOrder(self.shape, (first, second, third), (flips[0], flips[1], flips[2]))
        return replace(self._in_order(back), stored=None)

    def _in_order(self, order: StoredOrder) -> Geometry:
        """Return the geometry along the axes ``order.permutation`` of this one, of which some are flipped."""
        columns = [2 - axis for axis in reversed(order.permutation)]  # of the matrices, whose axes are x, y, z
        signs = np.where(order.flipped[::-1], -1.0, 1.0)
        matrix, offset = self.index_to_world()
        last = np.array(self.shape[::-1], np.float64)[columns] - 1
        offset = offset + matrix[:, columns] @ np.where(order.flipped[::-1], last, 0.0)
        direction = np.asarray(self.direction, np.float64).reshape(3, 3)[:, columns] * signs + 0.0  # no minus zero
        affine = None
        if self.affine is not None:
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = matrix[:, columns] * signs, offset
        z, y, x = (self.shape[axis] for axis in order.permutation)
        return Geometry(
            shape=(z, y, x),
            spacing=order.triple_to_canonical(self.spacing),
            origin=(float(offset[0]), float(offset[1]), float(offset[2])),
            direction=tuple(direction.ravel().tolist()),
            affine=None if affine is None else tuple(affine.ravel().tolist()),
            stored=self,
            caveat=self.caveat,
            dicom=self.dicom,
            contradicted=self.contradicted,
        )

    def voxel_edges_to_world(self, points: npt.ArrayLike) -> FloatArray:
        """World coordinates of positions in the array.

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
        """Inverse of :meth:`voxel_edges_to_world`.

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
        """What differs between two geometries, for people to read; empty if they are the same place.

        Sizes must be equal. A spacing may differ by ``tolerance`` of itself, a direction cosine by ``10 * tolerance``
        and the origin by ``100 * tolerance`` of the smallest spacing: by default 0.01 %, 0.001 and a hundredth of a
        voxel. That is far below what moves a lesion and above the rounding that file formats do.

        Examples
        --------
        >>> Geometry((4, 4, 4)).difference(Geometry((4, 4, 4), spacing=(1.0, 1.0, 2.0)))
        ['spacing (z, y, x) 1 1 1 against 1 1 2 mm']
        """
        found = []
        if self.shape != other.shape:
            found.append(f"size (z, y, x) {_numbers(self.shape)} against {_numbers(other.shape)} voxels")
        spacing = np.asarray(self.spacing)
        if np.any(np.abs(spacing - other.spacing) > tolerance * spacing):
            found.append(f"spacing (z, y, x) {_numbers(self.spacing)} against {_numbers(other.spacing)} mm")
        if not _close(self.origin, other.origin, _ORIGIN_FACTOR * tolerance * float(spacing.min())):
            found.append(f"origin (x, y, z) {_numbers(self.origin)} against {_numbers(other.origin)} mm")
        if not _close(self.direction, other.direction, _DIRECTION_FACTOR * tolerance):
            found.append(f"direction {_numbers(self.direction)} against {_numbers(other.direction)}")
        if (self.affine is not None or other.affine is not None) and not found:
            mine, theirs = self.index_to_world()[0], other.index_to_world()[0]
            if not _close(mine, theirs, _DIRECTION_FACTOR * tolerance * float(spacing.min())):
                found.append(f"shear: affine {_numbers(mine.ravel())} against {_numbers(theirs.ravel())}")
        if not found:
            return found
        axes = [
            StoredOrder.of_direction(one.direction, one.shape).axes for one in (self.as_stored(), other.as_stored())
        ]
        if axes[0] != axes[1]:
            found[-1] += f" (the axes z y x are stored towards {' '.join(axes[0])} against {' '.join(axes[1])})"
        caveats = [
            f"of the {which} file: {geometry.caveat}"
            for which, geometry in (("first", self), ("second", other))
            if geometry.caveat
        ]
        if caveats:
            found[-1] += f" ({'; '.join(caveats)})"
        return found


def _points(points: npt.ArrayLike) -> FloatArray:
    array = np.asarray(points, np.float64)
    if array.size == 0:
        return array.reshape(0, 3)
    if array.ndim != 2 or array.shape[1] != 3:
        raise ValueError(f"points must have shape (N, 3), found {array.shape}")
    return array


def _close(first: Any, second: Any, limit: float) -> bool:
    # "not any greater" would let NaN pass as equal.
    return bool(np.all(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)) <= limit))


def _numbers(values: Sequence[float] | FloatArray) -> str:
    # Adding 0 turns the minus zero that directions are full of into zero.
    return " ".join(f"{round(float(value), 6) + 0.0:.8g}" for value in values)
