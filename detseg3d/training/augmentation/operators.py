"""Linear operators on windows: resampling along an axis, smooth random fields, and filling from the surroundings.

Blur, slices of any thickness and their interpolation are linear along an axis. Each is a small matrix, so several of
them along one axis cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from detseg3d.core.tensors import tensor_of

__all__ = [
    "Matrix",
    "apply_along_axes",
    "blur_widely",
    "fill_from_surroundings",
    "gaussian_matrix",
    "interpolation_matrix",
    "sampling_matrix",
    "slice_positions",
    "smooth",
    "smooth_field",
    "widen",
]

Matrix = npt.NDArray[np.float64]

# Ratio of the full width at half maximum of a Gaussian to its standard deviation.
_FULL_WIDTH = 2.355


def gaussian_matrix(length: int, sigma: float) -> Matrix:
    """Return the matrix ``(length, length)`` of a Gaussian blur; ``sigma`` is in voxels.

    The kernel is cut off at the border and has sum 1 everywhere.

    Examples
    --------
    >>> gaussian_matrix(3, 0.5).round(2).tolist()
    [[0.88, 0.12, 0.0], [0.11, 0.79, 0.11], [0.0, 0.12, 0.88]]
    """
    return sampling_matrix(np.arange(length, dtype=np.float64), length, sigma * _FULL_WIDTH)


def slice_positions(length: int, distance: float, phase: float) -> npt.NDArray[np.float64]:
    """Return the centres of the slices along an axis of ``length`` voxels, in voxels; voxel 0 has its centre at 0.

    Parameters
    ----------
    length : int
    distance : float
        Distance between two slices in voxels, at least 1.
    phase : float
        Position of the first slice within the first distance, 0 to 1.

    Examples
    --------
    >>> slice_positions(8, 4, 0.5).tolist()
    [1.5, 5.5]
    """
    first = phase * distance - 0.5
    count = max(1, int(np.ceil((length - 0.5 - first) / distance)))
    return first + distance * np.arange(count, dtype=np.float64)


def sampling_matrix(positions: npt.NDArray[np.float64], length: int, width: float) -> Matrix:
    """Return the matrix ``(slices, length)`` that averages voxels into slices with a Gaussian profile.

    Parameters
    ----------
    positions : ndarray, shape ``(slices,)``
        Centres of the slices in voxels.
    length : int
        Voxels along the axis.
    width : float
        Thickness of a slice in voxels: the full width at half maximum of its profile.
    """
    sigma = max(width / _FULL_WIDTH, 0.05)
    away = (np.arange(length)[None, :] - positions[:, None]) / sigma
    # Subtracting the smallest exponent keeps the sum above 0 for slices between or beyond the voxels.
    exponent = -0.5 * np.square(away)
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def interpolation_matrix(positions: npt.NDArray[np.float64], length: int) -> Matrix:
    """Return the matrix ``(length, slices)`` that interpolates linearly between slices and repeats the outer slices.

    Examples
    --------
    >>> interpolation_matrix(np.array([0.0, 2.0]), 4).tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]]
    """
    identity = np.eye(len(positions))
    columns = [np.interp(np.arange(length), positions, row) for row in identity]
    return np.stack(columns, axis=1)


def apply_along_axes(image: torch.Tensor, matrices: Sequence[Matrix | None]) -> torch.Tensor:
    """Multiply an image by one matrix along each axis.

    Parameters
    ----------
    image : Tensor, shape ``(C, Z, Y, X)``
    matrices : 3 matrices or None
        Along z, y and x, ``(new length, length)``. ``None`` leaves the axis as it is.

    Returns
    -------
    Tensor, shape ``(C, z, y, x)``
    """
    along_z, along_y, along_x = (
        None if matrix is None else tensor_of(matrix, np.float32).to(image.device) for matrix in matrices
    )
    if along_x is not None:
        image = image @ along_x.T
    if along_y is not None:
        image = torch.matmul(along_y, image)
    if along_z is not None:
        channels, _, height, width = image.shape
        image = torch.matmul(along_z, image.reshape(channels, image.shape[1], -1)).reshape(channels, -1, height, width)
    return image


def blur_widely(image: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Blur an image by a wide Gaussian, computed on fewer points and interpolated.

    Parameters
    ----------
    image : Tensor, shape ``(C, Z, Y, X)``
    sigma : 3 floats
        Standard deviation along z, y and x in voxels, at least about 1.
    """
    down: list[Matrix] = []
    up: list[Matrix] = []
    for length, deviation in zip(image.shape[1:], sigma, strict=True):
        points = slice_positions(length, min(max(1.0, deviation), float(length)), 0.5)
        down.append(sampling_matrix(points, length, deviation * _FULL_WIDTH))
        up.append(interpolation_matrix(points, length))
    return apply_along_axes(apply_along_axes(image, down), up)


def smooth_field(
    shape: Sequence[int], lengths: Sequence[float], random: np.random.Generator, channels: int = 1
) -> torch.Tensor:
    """Return a smooth random field with mean 0 and standard deviation 1.

    Parameters
    ----------
    shape : 3 ints
    lengths : 3 floats
        Distance over which the field changes, in voxels along each axis.
    random : numpy Generator
    channels : int, optional

    Returns
    -------
    Tensor of float32, shape ``(channels, *shape)``
    """
    matrices = []
    for size, length in zip(shape, lengths, strict=True):
        knots = np.linspace(-0.5, size - 0.5, max(2, round(size / length) + 1))
        # Each voxel is a weighted mean of the knots around it. The transpose of the sampling normalises over the knots.
        distance = (knots[1] - knots[0]) * 0.6
        weights = np.exp(-0.5 * np.square((np.arange(size)[:, None] - knots[None, :]) / distance))
        matrices.append(weights / weights.sum(axis=1, keepdims=True))
    values = random.standard_normal((channels, *(matrix.shape[1] for matrix in matrices)))
    field = apply_along_axes(tensor_of(values, np.float32), matrices)
    field = field - field.mean(dim=(1, 2, 3), keepdim=True)
    return field / field.std(dim=(1, 2, 3), keepdim=True, correction=0).clamp_min(1e-6)


def smooth(image: torch.Tensor) -> torch.Tensor:
    """Smooth an image ``(C, Z, Y, X)`` with the kernel (1, 2, 1) / 4 along each axis; the border is repeated."""
    for axis in (1, 2, 3):
        length = image.shape[axis]
        if length < 2:
            continue
        result = image * 0.5
        inner, first, last = length - 1, image.narrow(axis, 0, 1), image.narrow(axis, length - 1, 1)
        result.narrow(axis, 1, inner).add_(image.narrow(axis, 0, inner), alpha=0.25)
        result.narrow(axis, 0, inner).add_(image.narrow(axis, 1, inner), alpha=0.25)
        result.narrow(axis, 0, 1).add_(first, alpha=0.25)
        result.narrow(axis, length - 1, 1).add_(last, alpha=0.25)
        image = result
    return image


def widen(image: torch.Tensor) -> torch.Tensor:
    """Return the maximum over the 3×3×3 neighbourhood of each voxel of an image ``(C, Z, Y, X)``."""
    for axis in (1, 2, 3):
        length = image.shape[axis]
        if length < 2:
            continue
        result = image.clone()
        inner = length - 1
        low, high = result.narrow(axis, 0, inner), result.narrow(axis, 1, inner)
        torch.maximum(low, image.narrow(axis, 1, inner), out=low)
        torch.maximum(high, image.narrow(axis, 0, inner), out=high)
        image = result
    return image


def fill_from_surroundings(image: torch.Tensor, known: torch.Tensor, spacing: Sequence[float]) -> torch.Tensor:
    """Estimate the unknown voxels of an image from the known voxels around them.

    The known voxels are averaged in blocks of twice the size until every block has a known voxel. Unknown voxels take
    the interpolated value of the smallest block with known voxels (Gortler et al., "The Lumigraph", 1996: pull and
    push). The cost does not depend on the number or size of the gaps.

    Parameters
    ----------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    known : Tensor of float32, shape ``(1, Z, Y, X)``
        Weight of each voxel, 0 to 1. At least one voxel must be known.
    spacing : 3 floats
        Voxel size. Along a coarse axis, blocks grow later.

    Returns
    -------
    Tensor of float32, shape ``(C, Z, Y, X)``
        Known voxels keep their values.
    """
    shape = image.shape[1:]
    if bool((known > 0.99).all()) or max(shape) == 1:
        return image
    finest = min(step for step, n in zip(spacing, shape, strict=True) if n > 1)
    block = [2 if n > 1 and step < 2 * finest else 1 for n, step in zip(shape, spacing, strict=True)]
    sums = functional.avg_pool3d((image * known)[None], block, ceil_mode=True)[0]
    weight = functional.avg_pool3d(known[None], block, ceil_mode=True)[0]
    coarse = fill_from_surroundings(
        sums / weight.clamp_min(1e-6),
        (weight * 4).clamp_max(1),
        [step * factor for step, factor in zip(spacing, block, strict=True)],
    )
    filled = functional.interpolate(coarse[None], size=shape, mode="trilinear")[0]
    return torch.lerp(filled, image, known)
