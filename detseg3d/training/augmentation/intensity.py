"""Changes of the intensities of a window: curves, gamma, contrast, offset, inversion, local contrast and bias field.

All changes that map an intensity to an intensity are combined into one curve, so each voxel is looked up once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.operators import blur_widely, smooth_field
from detseg3d.training.augmentation.table import AugmentationTable

__all__ = ["change_intensities", "change_local_contrast", "multiply_bias", "random_curve"]

# Points of a combined curve. Between them it is linear.
_CURVE_POINTS = 256
# Largest number of voxels from which quantiles, means and standard deviations of a window are computed.
_SAMPLE = 8192
# Quantiles of the intensities at which the logarithm of the slope of a random curve is drawn.
_KNOTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0)
# Half of the windows with gamma get it from the bright end.
_GAMMA_FROM_ABOVE = 0.5
# Distance over which a bias field and the local contrast change, in multiples of the finest voxel edge.
_BIAS_LENGTH = 60.0
_REGION_LENGTH = 24.0
# Standard deviation of the blur that separates small structures from their region.
_REGION_BLUR = 4.0


def random_curve(
    values: npt.NDArray[np.float64], points: npt.NDArray[np.float64], amount: float, random: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return a random increasing curve at the given points.

    The logarithm of the slope is a normal variable at quantiles of the intensities, and linear between them. So no
    slope is 0 or negative, and bends occur in the range of most voxels.

    Parameters
    ----------
    values : ndarray
        Sample of the intensities, sorted.
    points : ndarray, shape ``(n,)``
        Increasing.
    amount : float
        Standard deviation of the logarithm of the slope.
    random : numpy Generator

    Returns
    -------
    ndarray, shape ``(n,)``
        Increasing. It begins at the first point.
    """
    knots = values[(np.asarray(_KNOTS) * (len(values) - 1)).astype(np.int64)]
    slope = np.exp(np.interp(points, knots, random.normal(0, amount, len(knots))))
    steps = np.diff(points) * (slope[1:] + slope[:-1]) / 2
    return points[0] + np.concatenate([[0.0], np.cumsum(steps)])


def change_intensities(
    image: torch.Tensor, air: torch.Tensor, table: AugmentationTable, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Replace the intensities of some windows by a curve of them. Each channel has a different curve.

    Gamma, random curves and inversion keep mean and standard deviation of the window. Only ``scale`` and ``offset``
    change them.

    Parameters
    ----------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    air : Tensor of float32, shape ``(C,)``
        Intensity of air; not above the lowest intensity of the window.
    table : AugmentationTable
    random : numpy Generator

    Returns
    -------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    air : Tensor of float32, shape ``(C,)``
        The changed intensity of air.
    """
    happens = {
        name: getattr(table, name).happens(random) for name in ("curve", "gamma", "inversion", "scale", "offset")
    }
    if not any(happens.values()):
        return image, air
    result, air = torch.empty_like(image), air.clone()
    for index, (channel, target) in enumerate(zip(image, result, strict=True)):
        low, high = float(air[index]), float(channel.max())
        if not high > low:
            target.copy_(channel)
            continue
        flat = channel.reshape(-1)
        sample = np.sort(flat[:: max(1, len(flat) // _SAMPLE)].numpy().astype(np.float64))
        points = np.linspace(low, high, _CURVE_POINTS)
        curve = points
        if happens["curve"]:
            curve = random_curve(sample, curve, table.curve.size(random), random)
        if happens["gamma"]:
            curve = _gamma(curve, table.gamma.factor(random), bool(random.random() < _GAMMA_FROM_ABOVE))
        if happens["inversion"]:
            curve = -curve
        mapped = np.interp(sample, points, curve)
        mean, std = sample.mean(), sample.std()
        factor = std / max(mapped.std(), 1e-6)
        curve = (curve - mapped.mean()) * factor
        if happens["scale"]:
            curve = curve * table.scale.factor(random)
        curve = curve + mean
        if happens["offset"]:
            curve = curve + table.offset.size(random)
        _look_up(channel, low, high, tensor_of(curve, np.float32), target)
        air[index] = float(curve[0])
    return result, air


def _gamma(curve: npt.NDArray[np.float64], gamma: float, from_above: bool) -> npt.NDArray[np.float64]:
    """Apply a power to a curve between its smallest and its largest value."""
    low, span = curve.min(), max(float(np.ptp(curve)), 1e-6)
    share = np.clip((curve - low) / span, 0, 1)
    result: npt.NDArray[np.float64] = low + span * (1 - (1 - share) ** gamma if from_above else share**gamma)
    return result


def _look_up(channel: torch.Tensor, low: float, high: float, curve: torch.Tensor, target: torch.Tensor) -> None:
    """Write a curve of the intensities, given at equal distances from ``low`` to ``high``, to ``target``."""
    place = (channel - low) * ((len(curve) - 1) / (high - low))
    index = place.int().clamp_(0, len(curve) - 2)
    place -= index
    steps = curve.diff()
    flat = index.reshape(-1)
    torch.addcmul(curve[flat].reshape(channel.shape), steps[flat].reshape(channel.shape), place, out=target)


def change_local_contrast(
    image: torch.Tensor, spacing: Sequence[float], table: AugmentationTable, random: np.random.Generator
) -> torch.Tensor:
    """Make the contrast of small structures vary from region to region in some windows."""
    if not table.local_contrast.happens(random):
        return image
    shape = image.shape[1:]
    voxels = [min(spacing) / step for step in spacing]
    region = blur_widely(image, [_REGION_BLUR * v for v in voxels])
    field = smooth_field(shape, [_REGION_LENGTH * v for v in voxels], random)
    return torch.lerp(region, image, torch.exp(table.local_contrast.size(random) * field))


def multiply_bias(
    image: torch.Tensor,
    air: torch.Tensor,
    spacing: Sequence[float],
    table: AugmentationTable,
    random: np.random.Generator,
) -> torch.Tensor:
    """Multiply the intensities above air by a smooth field in some windows. Each channel has a different field."""
    if not table.bias.happens(random):
        return image
    lengths = [_BIAS_LENGTH * min(spacing) / step for step in spacing]
    field = smooth_field(image.shape[1:], lengths, random, len(image))
    lowest = air[:, None, None, None]
    return lowest + (image - lowest) * torch.exp(table.bias.size(random) * field)
