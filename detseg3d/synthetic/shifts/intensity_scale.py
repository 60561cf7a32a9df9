"""Intensities of air and tissue in a scan. Strengths of shifts are stated in these units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.core.arrays import BoolArray
from detseg3d.core.body import channel_mask, padding_value, tissue_mask
from detseg3d.synthetic.shifts.scan import Scan

__all__ = ["ChannelScale", "air_like", "body_outline", "measure_channel"]

AIR_HU = -1000.0
"""Air in Hounsfield units."""

# Bone, soft tissue and vessels are above, air, lung and most padding below.
_TISSUE_HU = -500.0
# The mean of a region of lung is above, the mean of a region of air below.
_BODY_HU, _BODY_SMOOTHING_MM = -950.0, 2.0
# Distance of the percentiles 5 and 95 of a normal distribution, in standard deviations.
_SPAN_OF_NORMAL = 3.29
# With fewer voxels of air, their distribution is unknown.
_MIN_AIR_VOXELS = 500


@dataclass(frozen=True)
class ChannelScale:
    """Intensities of one channel.

    Attributes
    ----------
    air : float
        Intensity without signal.
    low, high, highest : float
        Percentiles 5, 95 and 99.9 of the tissue. Percentiles do not depend on a few extreme voxels.
    """

    air: float
    low: float
    high: float
    highest: float

    @property
    def spread(self) -> float:
        """Robust standard deviation of the tissue: the distance of the percentiles 5 and 95, divided by 3.29."""
        return (self.high - self.low) / _SPAN_OF_NORMAL


def measure_channel(channel: npt.NDArray[np.float32], is_ct: bool) -> ChannelScale:
    """Measure the intensities of a channel of shape ``(Z, Y, X)``."""
    tissue = tissue_of(channel, is_ct)
    values = channel[tissue] if tissue.any() else channel.ravel()
    low, high, highest = (float(value) for value in np.percentile(values, (5, 95, 99.9)))
    if is_ct:
        return ChannelScale(AIR_HU, low, high, highest)
    padding = padding_value(channel)
    if padding is not None:
        air = padding
    else:
        outside = channel[~tissue]
        air = float(np.percentile(outside, 5)) if outside.size >= _MIN_AIR_VOXELS else float(channel.min())
    return ChannelScale(min(air, low), low, high, highest)


def tissue_of(channel: npt.NDArray[np.float32], is_ct: bool) -> BoolArray:
    """Return a mask of the voxels with signal, shape ``(Z, Y, X)``."""
    if is_ct:
        return np.asarray(channel > _TISSUE_HU)
    tissue = tissue_mask(channel, channel_mask(channel))
    return np.ones(channel.shape, np.bool_) if tissue is None else np.asarray(tissue)


def body_outline(scan: Scan) -> BoolArray:
    """Return a mask of the body with everything that its surface encloses in an axial slice, lungs included.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``
    """
    tissue = np.zeros(scan.geometry.shape, np.bool_)
    for channel, is_ct in zip(scan.images, scan.is_ct, strict=True):
        if is_ct:
            sigma = _BODY_SMOOTHING_MM / np.array(scan.geometry.spacing)
            tissue |= ndimage.gaussian_filter(channel, sigma) > _BODY_HU
        else:
            tissue |= tissue_of(channel, is_ct)
    # Two rounds of closing bridge thin dark layers, such as the outer table of the skull.
    closed = ndimage.binary_closing(tissue, iterations=2) | tissue
    filled = np.stack([ndimage.binary_fill_holes(layer) for layer in closed])
    parts, count = ndimage.label(filled)
    if count < 2:
        return np.asarray(filled)
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:])))


def air_like(
    channel: npt.NDArray[np.float32], body: BoolArray, air: float, shape: tuple[int, ...], random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Return voxels that look like the air around the body: drawn from this air, or the padding of the channel.

    Parameters
    ----------
    channel : ndarray of float32, shape ``(Z, Y, X)``
    body : ndarray of bool, shape ``(Z, Y, X)``
        From :func:`body_outline`.
    air : float
        Used if there are too few voxels outside the body.
    shape : tuple of int
        Of the result.
    random : Generator
    """
    padding = padding_value(channel)
    outside = channel[~body]
    if padding is not None or outside.size < _MIN_AIR_VOXELS:
        return np.full(shape, air if padding is None else padding, np.float32)
    # The brighter half may hold tissue that the outline missed.
    dark = outside[outside <= np.median(outside)]
    return np.asarray(random.choice(dark, size=shape), np.float32)
