"""Changes of the resolution of a window and of its noise: blur, thick slices, large voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.operators import (
    Matrix,
    apply_along_axes,
    gaussian_matrix,
    interpolation_matrix,
    sampling_matrix,
    slice_positions,
)
from detseg3d.training.augmentation.table import AugmentationTable, Change

__all__ = ["change_resolution"]

# An axis keeps at least this many slices.
_MIN_SLICES = 3
# No slice is thicker than 10 mm. Scans that are already coarse may lose half of their resolution.
_MAX_EDGE = 10.0
_ALWAYS_ALLOWED = 2.0
# Thickness of a slice as a fraction of the distance between slices: scans may have gaps, or slices that overlap.
_THICKNESS = (0.6, 1.3)
_RICIAN_FRACTION = 0.3
_CORRELATED_FRACTION = 0.4


def change_resolution(
    image: torch.Tensor,
    air: torch.Tensor,
    spacing: Sequence[float],
    table: AugmentationTable,
    random: np.random.Generator,
) -> torch.Tensor:
    """Blur some windows, lower the resolution of some, and add noise to some.

    Noise of a scan arises in its own voxels. So the noise of a window with low resolution is interpolated like the
    image.

    Parameters
    ----------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    air : Tensor of float32, shape ``(C,)``
        Intensity of air, where the signal of a magnitude image is 0.
    spacing : 3 floats
        Voxel size ``(z, y, x)`` in mm.
    table : AugmentationTable
    random : numpy Generator

    Returns
    -------
    Tensor of float32, shape ``(C, Z, Y, X)``
    """
    shape = image.shape[1:]
    positions = _draw_slices(shape, spacing, table, random)
    blur = table.blur.size(random) if table.blur.happens(random) else 0.0
    down: list[Matrix | None] = []
    up: list[Matrix | None] = []
    for length, step, slices in zip(shape, spacing, positions, strict=True):
        sigma = blur * min(spacing) / step
        matrix = gaussian_matrix(length, sigma) if sigma > 0 and length > 1 else None
        if slices is not None:
            distance = float(slices[1] - slices[0])
            sampling = sampling_matrix(slices, length, distance * random.uniform(*_THICKNESS))
            matrix = sampling if matrix is None else sampling @ matrix
        down.append(matrix)
        up.append(None if slices is None else interpolation_matrix(slices, length))
    image = apply_along_axes(apply_along_axes(image, down), up)
    if table.noise.happens(random):
        image = _add_noise(image, air, positions, table.noise, random)
    return image


def _draw_slices(
    shape: Sequence[int], spacing: Sequence[float], table: AugmentationTable, random: np.random.Generator
) -> list[npt.NDArray[np.float64] | None]:
    """Draw the centres of the slices along each axis, in voxels; ``None`` along an axis that keeps its resolution."""
    edges = [0.0, 0.0, 0.0]
    if table.thick_slices.happens(random):
        edges[int(random.integers(3))] = table.thick_slices.factor(random) * min(spacing)
    elif table.low_resolution.happens(random):
        edges = [table.low_resolution.factor(random) * min(spacing)] * 3
    largest = max(_MAX_EDGE, _ALWAYS_ALLOWED * min(spacing))
    edges = [min(edge, largest) for edge in edges]
    return [
        _slices(length, edge / step, float(random.random()))
        for length, edge, step in zip(shape, edges, spacing, strict=True)
    ]


def _slices(length: int, distance: float, phase: float) -> npt.NDArray[np.float64] | None:
    """Return the centres of slices with this distance in voxels, or ``None`` if the voxels are about as large."""
    distance = min(distance, length / _MIN_SLICES)
    return slice_positions(length, distance, phase) if distance > 1.1 else None


def _add_noise(
    image: torch.Tensor,
    air: torch.Tensor,
    positions: Sequence[npt.NDArray[np.float64] | None],
    noise: Change,
    random: np.random.Generator,
) -> torch.Tensor:
    """Add noise with the resolution of the scan; some noise is correlated, some that of a magnitude image."""
    sigma = noise.size(random)
    if random.random() < _CORRELATED_FRACTION:
        distance = random.uniform(1.2, 2.5)
        positions = [
            _slices(length, distance, 0.5) if slices is None else slices
            for length, slices in zip(image.shape[1:], positions, strict=True)
        ]
    added = _noise(image.shape, positions, random)
    if random.random() >= _RICIAN_FRACTION:
        return image + sigma * added
    lowest = air[:, None, None, None]
    return lowest + torch.hypot(image - lowest + sigma * added, sigma * _noise(image.shape, positions, random))


def _noise(
    shape: Sequence[int], positions: Sequence[npt.NDArray[np.float64] | None], random: np.random.Generator
) -> torch.Tensor:
    """Return noise with standard deviation 1, drawn in the slices and interpolated between them."""
    size = [length if slices is None else len(slices) for length, slices in zip(shape[1:], positions, strict=True)]
    noise = tensor_of(random.standard_normal((shape[0], *size), dtype=np.float32))
    matrices = [
        None if slices is None else interpolation_matrix(slices, length)
        for length, slices in zip(shape[1:], positions, strict=True)
    ]
    noise = apply_along_axes(noise, matrices)
    return noise / noise.std(correction=0).clamp_min(1e-6)
