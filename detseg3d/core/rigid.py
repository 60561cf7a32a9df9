"""Rigid motion of a patient between two scans, in millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray

__all__ = ["IDENTITY", "RigidTransform"]


@dataclass(frozen=True)
class RigidTransform:
    """A rigid motion that maps a place in the earlier scan to the same place of the patient in the later scan.

    This is the direction in which ITK, SimpleITK and 3D Slicer state the transform that resamples the later scan onto
    the grid of the earlier scan.

    Attributes
    ----------
    rotation : tuple of 9 floats
        Rotation matrix, row-major, rows and columns ``(x, y, z)``.
    translation : tuple of 3 floats
        ``(x, y, z)`` in mm: a point ``p`` moves to ``rotation @ p + translation``, LPS.

    Examples
    --------
    >>> shift = RigidTransform(IDENTITY.rotation, (0.0, 0.0, 5.0))
    >>> shift.apply([[1.0, 2.0, 3.0]]).tolist(), shift.inverse().translation
    ([[1.0, 2.0, 8.0]], (0.0, 0.0, -5.0))
    """

    rotation: tuple[float, float, float, float, float, float, float, float, float]
    translation: tuple[float, float, float]

    @classmethod
    def of_matrix(cls, rotation: npt.ArrayLike, translation: npt.ArrayLike) -> RigidTransform:
        """Return the motion of a matrix ``(3, 3)`` and an offset ``(3,)``, in the axis order ``(x, y, z)``."""
        a, b, c, d, e, f, g, h, i = (float(value) for value in np.asarray(rotation, np.float64).ravel())
        x, y, z = (float(value) + 0.0 for value in np.asarray(translation, np.float64))
        return cls((a, b, c, d, e, f, g, h, i), (x, y, z))

    @property
    def matrix(self) -> FloatArray:
        """Rotation matrix ``(3, 3)``."""
        return np.asarray(self.rotation, np.float64).reshape(3, 3)

    @property
    def angle_degrees(self) -> float:
        """Angle of the rotation in degrees, 0 to 180."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.matrix) - 1) / 2, -1, 1))))

    def apply(self, points: npt.ArrayLike) -> FloatArray:
        """Return points ``(N, 3)`` of the later scan, in mm LPS ``(x, y, z)``, for points of the earlier scan."""
        return np.asarray(np.asarray(points, np.float64) @ self.matrix.T + self.translation, np.float64)

    def inverse(self) -> RigidTransform:
        """Return the motion from the later scan to the earlier scan."""
        back = self.matrix.T
        return RigidTransform.of_matrix(back, -back @ np.asarray(self.translation))

    def distances(self, other: RigidTransform, points: npt.ArrayLike) -> FloatArray:
        """Return the distance in mm between the images of each point under both motions, shape ``(N,)``."""
        return np.asarray(np.linalg.norm(self.apply(points) - other.apply(points), axis=1))


IDENTITY = RigidTransform((1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0))
"""No motion: both scans have the patient at the same place."""
