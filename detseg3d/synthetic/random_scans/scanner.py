"""Random intensities of the regions, and random effects of scanner and protocol."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from detseg3d.core.arrays import Spacing
from detseg3d.synthetic.random_scans.anatomy import AIR, Anatomy
from detseg3d.synthetic.random_scans.canvas import Canvas, Volume

__all__ = ["Protocol", "Acquired", "acquire", "paint_regions"]

_THICKEST = 8.0
_FEWEST_SLICES = 10


@dataclass(frozen=True)
class Protocol:
    """Properties of one acquisition.

    Attributes
    ----------
    blur : float
        Standard deviation of the point spread in voxels of the canvas.
    noise : float
        Standard deviation of the noise. Intensities are about 0 to 1.
    noise_blur : float
        Standard deviation of the blur of the noise, in voxels. Images that were resampled have blurred noise.
    is_magnitude : bool
        The noise has a Rician distribution, as in magnitude images of MRI.
    bias : float
        Standard deviation of the logarithm of the bias field.
    gamma : float
        Exponent of the intensities.
    thickness : float
        Thickness of a slice in voxels of the canvas. 1 keeps all slices.
    axis : int
        Axis of the thick slices.
    voxel : float
        Edge of a voxel of the canvas in mm.
    scale : float
        Factor from intensities to values of the file.
    offset : float
        Value of the file at intensity 0.
    """

    blur: float
    noise: float
    noise_blur: float
    is_magnitude: bool
    bias: float
    gamma: float
    thickness: float
    axis: int
    voxel: float
    scale: float
    offset: float

    @classmethod
    def draw(cls, random: np.random.Generator) -> Protocol:
        """Draw a protocol.

        Parameters
        ----------
        random : Generator
        """
        is_thick = random.random() < 0.35
        return cls(
            blur=random.uniform(0.3, 0.9),
            noise=float(np.exp(random.uniform(np.log(0.006), np.log(0.08)))),
            noise_blur=random.uniform(0, 0.8),
            is_magnitude=random.random() < 0.5,
            bias=random.uniform(0, 0.3) if random.random() < 0.6 else 0.0,
            gamma=float(np.exp(random.normal(0, 0.2))),
            thickness=float(np.exp(random.uniform(np.log(1.5), np.log(_THICKEST)))) if is_thick else 1.0,
            axis=int(random.choice(3, p=(0.7, 0.15, 0.15))),
            voxel=float(np.exp(random.normal(0, 0.12))),
            scale=float(np.exp(random.uniform(np.log(200), np.log(3000)))),
            offset=float(random.choice((0.0, -1000.0), p=(0.8, 0.2))),
        )


@dataclass(frozen=True)
class Acquired:
    """Image and lesion weights on the grid of a file.

    Attributes
    ----------
    image : ndarray of float32, shape ``(Z, Y, X)``
    weights : ndarray of float32, shape ``(Z, Y, X)``
        Fraction of lesion in each voxel.
    spacing : 3 floats
        In mm, ``(z, y, x)``.
    """

    image: Volume
    weights: Volume
    spacing: Spacing


def paint_regions(canvas: Canvas, anatomy: Anatomy) -> Volume:
    """Give each region a random intensity and a random texture.

    Parameters
    ----------
    canvas : Canvas
    anatomy : Anatomy

    Returns
    -------
    ndarray of float32, shape ``(Z, Y, X)``
        Intensities, about 0 to 1. Air is dark in most scans.
    """
    random = canvas.random
    count = anatomy.count
    means = random.uniform(0.05, 1.0, count)
    fine, coarse = np.exp(random.uniform(np.log(0.004), np.log(0.06), (2, count)))
    if random.random() < 0.85:
        means[AIR], fine[AIR], coarse[AIR] = random.uniform(0, 0.04), 0, 0
    image: Volume = means.astype(np.float32)[anatomy.regions]
    image += fine.astype(np.float32)[anatomy.regions] * canvas.smooth(random.uniform(1.2, 2.5))
    image += coarse.astype(np.float32)[anatomy.regions] * canvas.smooth(random.uniform(4, 14))
    return image


def acquire(canvas: Canvas, image: Volume, weights: Volume, protocol: Protocol) -> Acquired:
    """Change an image as a scanner and a protocol would.

    Parameters
    ----------
    canvas : Canvas
    image, weights : ndarray of float32, shape ``(Z, Y, X)``
        Intensities, and weights of the lesions.
    protocol : Protocol

    Returns
    -------
    Acquired
    """
    random = canvas.random
    image = ndimage.gaussian_filter(np.maximum(image, 0), protocol.blur, truncate=3)
    if protocol.gamma != 1:
        image = image ** np.float32(protocol.gamma)
    if protocol.bias:
        image *= np.exp(np.float32(protocol.bias) * canvas.smooth(float(canvas.half.min()) * 0.8))
    if protocol.thickness > 1:
        image = _thick_slices(image, protocol)
        weights = _thick_slices(weights, protocol)
    noise = _noise(image.shape, protocol, random)
    if protocol.is_magnitude:
        image = np.hypot(image + noise, _noise(image.shape, protocol, random))
    else:
        image = image + noise
    spacing = [protocol.voxel] * 3
    spacing[protocol.axis] *= canvas.shape[protocol.axis] / image.shape[protocol.axis]
    z, y, x = spacing
    values: Volume = image * np.float32(protocol.scale) + np.float32(protocol.offset)
    return Acquired(values, weights, (z, y, x))


def _noise(shape: tuple[int, ...], protocol: Protocol, random: np.random.Generator) -> Volume:
    """Return noise with the standard deviation of the protocol."""
    noise = random.standard_normal(shape, dtype=np.float32)
    if protocol.noise_blur > 0.3:
        noise = ndimage.gaussian_filter(noise, protocol.noise_blur, truncate=2)
        noise /= noise.std()
    return noise * np.float32(protocol.noise)


def _thick_slices(volume: Volume, protocol: Protocol) -> Volume:
    """Average neighbouring slices along the axis of the protocol."""
    length = volume.shape[protocol.axis]
    count = max(min(length, _FEWEST_SLICES), round(length / protocol.thickness))
    edges = np.linspace(0, length, count + 1)
    # Each slice is the mean of the interval between two edges. A cut voxel counts in part.
    low, high = edges[:-1, None], edges[1:, None]
    position = np.arange(length)
    overlap = np.clip(np.minimum(high, position + 1) - np.maximum(low, position), 0, None)
    matrix = (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
    moved = np.moveaxis(volume, protocol.axis, 0)
    averaged = np.tensordot(matrix, moved, (1, 0))
    return np.ascontiguousarray(np.moveaxis(averaged, 0, protocol.axis))
