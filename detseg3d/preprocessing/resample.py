"""Resample volumes: separable, edge-aligned, with anti-aliasing when the grid becomes coarser.

Both grids share the outer edges of the volume (``align_corners=False``), so a box is converted by scaling its edges.
Each axis is resampled by one matrix product, which is exact, differentiable and fast. The peak memory is the input, the
output and at most one volume between them. The weights are a triangle (linear) or a cubic kernel (Keys 1981,
a = -0.5). The kernel is widened when the grid becomes coarser, because otherwise a lesion of one voxel could lie
between the samples. ``torch.nn.functional.interpolate(..., antialias=True)`` does the same, but only in two dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["axis_matrix", "resample_image", "resampled_shape"]

# Voxels of a temporary result: bounds the memory of one matrix product.
_CHUNK_VOXELS = 1 << 24


def resampled_shape(
    shape: Sequence[int], spacing: Sequence[float], new_spacing: Sequence[float]
) -> tuple[int, int, int]:
    """Return the shape ``(z, y, x)`` at ``new_spacing`` that fits the volume best, at least one voxel along each axis.

    Examples
    --------
    >>> resampled_shape((10, 100, 100), (3.0, 0.5, 0.5), (3.0, 1.0, 1.0))
    (10, 50, 50)
    """
    z, y, x = (max(1, round(n * old / new)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return z, y, x


def axis_matrix(old: int, new: int, order: int = 1) -> npt.NDArray[np.float32]:
    """Return the weights that resample one axis from ``old`` to ``new`` voxels.

    Parameters
    ----------
    old, new : int
        Number of voxels, at least 1.
    order : {1, 3}
        Linear or cubic.

    Returns
    -------
    ndarray of float32, shape ``(new, old)``
        Each row sums to 1.

    Raises
    ------
    ValueError
        If the order is not 1 or 3, or an axis has no voxel.

    Examples
    --------
    >>> axis_matrix(2, 4).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    >>> axis_matrix(4, 2).astype(float).round(3).tolist()
    [[0.429, 0.429, 0.143, 0.0], [0.0, 0.143, 0.429, 0.429]]
    """
    if order not in (1, 3):
        raise ValueError(f"order must be 1 or 3, found {order}")
    if min(old, new) < 1:
        raise ValueError(f"an axis needs at least one voxel, found {old} and {new}")
    if old == new:
        return np.eye(old, dtype=np.float32)
    step = old / new
    width = max(1.0, step)
    middles = (np.arange(new) + 0.5) * step - 0.5
    distance = np.abs(middles[:, None] - np.arange(old)[None]) / width
    weights = np.clip(1 - distance, 0, None) if order == 1 else _cubic(distance)
    normalized: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return normalized


def _cubic(distance: npt.NDArray[np.float64], a: float = -0.5) -> npt.NDArray[np.float64]:
    """Evaluate the cubic kernel of Keys (1981) at non-negative distances."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))


def resample_image(image: torch.Tensor, new_shape: Sequence[int], order: int = 1) -> torch.Tensor:
    """Resample an image from edge to edge.

    Parameters
    ----------
    image : Tensor of floating point, shape ``(C, Z, Y, X)``
    new_shape : 3 ints
        ``(z, y, x)``.
    order : {1, 3}
        Linear (never overshoots) or cubic (sharper).

    Returns
    -------
    Tensor, shape ``(C, *new_shape)``
        The result is ``image`` if the shape does not change.

    Raises
    ------
    ValueError
        If the image does not have 4 axes, or the shape does not have 3 axes.

    Examples
    --------
    >>> resample_image(torch.tensor([[[[0.0, 4.0]]]]), (1, 1, 4)).tolist()
    [[[[0.0, 1.0, 3.0, 4.0]]]]
    """
    if image.ndim != 4 or len(new_shape) != 3:
        raise ValueError(f"expected an image (C, Z, Y, X) and a shape (z, y, x), found {tuple(image.shape)}")
    # The axis that shrinks most is resampled first, so that the other axes need less work.
    for axis in sorted(range(3), key=lambda axis: new_shape[axis] / image.shape[axis + 1]):
        if new_shape[axis] != image.shape[axis + 1]:
            matrix = torch.from_numpy(axis_matrix(image.shape[axis + 1], new_shape[axis], order))
            image = _apply(matrix.to(image), image, axis)
    return image


def _apply(matrix: torch.Tensor, image: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply one spatial axis of ``(C, Z, Y, X)`` by ``matrix``, a chunk of the volume at a time."""
    if axis == 2:
        return image @ matrix.T
    channels, depth, height, width = image.shape
    if axis == 0:
        result = image.new_empty((channels, len(matrix), height, width))
        step = max(1, _CHUNK_VOXELS // (width * max(depth, len(matrix))))
        for channel in range(channels):
            for start in range(0, height, step):
                rows = image[channel, :, start : start + step]
                product = matrix @ rows.reshape(depth, -1)
                result[channel, :, start : start + step] = product.view(len(matrix), -1, width)
        return result
    result = image.new_empty((channels, depth, len(matrix), width))
    step = max(1, _CHUNK_VOXELS // (width * max(height, len(matrix))))
    for channel in range(channels):
        for start in range(0, depth, step):
            result[channel, start : start + step] = matrix @ image[channel, start : start + step]
    return result
