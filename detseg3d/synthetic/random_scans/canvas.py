"""Smooth random fields and smooth random shapes on a grid of voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import BoolArray, FloatArray, Triple

__all__ = ["Canvas", "Patch", "Volume"]

Volume = npt.NDArray[np.float32]

_ATTEMPTS = 200


@dataclass(frozen=True)
class Patch:
    """Part of a canvas with a value for each of its voxels.

    Attributes
    ----------
    slices : 3 slices
        Voxels ``(z, y, x)`` of the canvas.
    values : ndarray of float32
        One value for each voxel of ``slices``.
    """

    slices: tuple[slice, slice, slice]
    values: Volume


class Canvas:
    """A grid of cubic voxels, with functions that draw random shapes on it.

    All lengths are in voxels.

    Parameters
    ----------
    shape : 3 ints
        Voxels ``(z, y, x)``.
    random : Generator

    Attributes
    ----------
    shape : 3 ints
    random : Generator
    half : ndarray of float64, shape ``(3,)``
        Half of the shape.
    """

    def __init__(self, shape: Triple, random: np.random.Generator) -> None:
        self.shape = shape
        self.random = random
        self.half: FloatArray = np.asarray(shape, np.float64) / 2

    def smooth(self, scale: float | Sequence[float], shape: Sequence[int] | None = None) -> Volume:
        """Return a smooth random field with mean 0 and standard deviation 1.

        The field is a cubic B-spline with random coefficients. It is far faster than a blurred field, because only the
        coefficients are random.

        Parameters
        ----------
        scale : float or 3 floats
            Distance between two coefficients in voxels. Structures of the field are about twice as large.
        shape : 3 ints, optional
            Voxels of the field. By default, the field covers the canvas.

        Returns
        -------
        ndarray of float32
        """
        sizes = self.shape if shape is None else shape
        scales = np.broadcast_to(np.asarray(scale, np.float64), 3)
        z, y, x = (self._spline_weights(size, step) for size, step in zip(sizes, scales, strict=True))
        coefficients = self.random.standard_normal((z.shape[1], y.shape[1], x.shape[1]), dtype=np.float32)
        field = np.tensordot(z, coefficients, (1, 0))
        field = (y @ field) @ x.T
        field -= field.mean()
        field /= max(float(field.std()), 1e-6)
        return field

    def _spline_weights(self, size: int, step: float) -> Volume:
        """Return the weight of each coefficient at each voxel of an axis, with the coefficients at a random offset."""
        position = np.arange(size) / step + self.random.random()
        first = np.floor(position).astype(int)
        t = position - first
        weights = np.zeros((size, int(first.max()) + 4), np.float32)
        rows = np.arange(size)
        for offset, weight in enumerate(
            ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
        ):
            weights[rows, first + offset] = weight / 6
        return weights

    def radius(self, center: npt.ArrayLike, semi_axes: npt.ArrayLike) -> Volume:
        """Return the distance from ``center`` in units of the semi-axes, for the whole canvas.

        Parameters
        ----------
        center, semi_axes : array_like, shape ``(3,)``
            In voxels. An infinite semi-axis gives a cylinder.
        """
        squares = [
            (((np.arange(size) + 0.5 - c) / s) ** 2).astype(np.float32)
            for size, c, s in zip(self.shape, np.asarray(center, float), np.asarray(semi_axes, float), strict=True)
        ]
        return np.sqrt(squares[0][:, None, None] + squares[1][None, :, None] + squares[2][None, None, :])

    def blob(self, center: npt.ArrayLike, diameter: float, roughness: float, elongation: float = 0.22) -> Patch:
        """Return the normalised radius around ``center``: an irregular ellipsoid has values below 1.

        Parameters
        ----------
        center : array_like, shape ``(3,)``
        diameter : float
            Diameter of the ball of the same volume.
        roughness : float
            Standard deviation of the bumps on the surface, as a fraction of the radius.
        elongation : float, optional
            Standard deviation of the logarithms of the semi-axes.
        """
        random = self.random
        axes = np.exp(random.normal(0, elongation, 3))
        axes *= diameter / 2 / axes.prod() ** (1 / 3)
        slices, offsets = self._window(np.asarray(center, float), float(axes.max()) * (1 + 2 * roughness) * 1.6 + 2)
        rotation = (np.linalg.qr(random.standard_normal((3, 3)))[0] / axes[:, None]).astype(np.float32)
        z, y, x = offsets
        squared = np.zeros((len(z), len(y), len(x)), np.float32)
        for row in rotation:
            squared += (row[0] * z[:, None, None] + row[1] * y[None, :, None] + row[2] * x[None, None, :]) ** 2
        radius = np.sqrt(squared)
        if diameter > 2.5 and roughness > 0:
            bumps = self.smooth(max(1.0, diameter / 4), radius.shape)
            if diameter > 8:
                bumps += 0.5 * self.smooth(max(1.0, diameter / 9), radius.shape)
            radius *= 1 + np.float32(roughness) * np.clip(bumps, -2, 2)
        center_voxel = tuple(int(np.abs(offset).argmin()) for offset in offsets)
        radius[center_voxel] = min(float(radius[center_voxel]), 0.2)  # the smallest blob has one voxel
        return Patch(slices, radius)

    def tube(self, start: FloatArray, radius: float, length: float, allowed: BoolArray) -> BoolArray:
        """Return the mask of a winding tube that begins at ``start`` and ends where ``allowed`` ends.

        Parameters
        ----------
        start : ndarray, shape ``(3,)``
        radius, length : float
            In voxels.
        allowed : ndarray of bool
            The tube has no voxel outside this mask.
        """
        steps = max(2, int(length))
        turns = self.random.standard_normal((steps, 3)) * self.random.uniform(0.05, 0.3)
        turns[0] = self.random.standard_normal(3)
        turns[0] /= np.linalg.norm(turns[0])
        directions = np.cumsum(turns, axis=0)
        directions /= np.linalg.norm(directions, axis=1, keepdims=True) + 1e-9
        points = start + np.cumsum(directions, axis=0) * 0.8
        inside = np.all((points >= 0) & (points < self.shape), axis=1)
        voxels = points.astype(int)
        voxels[~inside] = 0
        inside &= allowed[tuple(voxels.T)]
        end = int(np.argmin(inside)) if not inside.all() else steps
        mask = np.zeros(self.shape, bool)
        reach = math.ceil(radius)
        ball = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
        ball = ball[np.linalg.norm(ball, axis=1) <= radius]
        covered = (voxels[:end, None] + ball[None]).reshape(-1, 3)
        covered = covered[np.all((covered >= 0) & (covered < self.shape), axis=1)]
        mask[tuple(covered.T)] = True
        return mask & allowed

    def place_in(self, mask: BoolArray) -> FloatArray | None:
        """Return a random point inside ``mask``, or ``None`` if 200 random points are outside."""
        points = self.random.random((_ATTEMPTS, 3)) * self.shape
        hits = np.flatnonzero(mask[tuple(points.astype(int).T)])
        return points[hits[0]] if len(hits) else None

    def _window(self, center: FloatArray, reach: float) -> tuple[tuple[slice, slice, slice], list[Volume]]:
        """Return the voxels within ``reach`` of ``center``, and their distances from it along each axis."""
        slices, offsets = [], []
        for c, size in zip(center, self.shape, strict=True):
            low = int(np.clip(math.floor(c - reach), 0, size - 1))
            high = int(np.clip(math.ceil(c + reach), low + 1, size))
            slices.append(slice(low, high))
            offsets.append((np.arange(low, high) + 0.5 - c).astype(np.float32))
        z, y, x = slices
        return (z, y, x), offsets
