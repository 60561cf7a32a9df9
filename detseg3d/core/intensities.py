"""Normalisation of intensities, and detection of images that carry no information after the normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array
from detseg3d.core.body import channel_mask, drawn_values, plausible_range, tissue_mask

__all__ = [
    "LARGEST_VALUE",
    "IntensityScale",
    "Scheme",
    "channel_scheme",
    "degeneration",
    "degeneration_of_scan",
    "intensity_scale",
    "is_image_of_label",
    "mean_and_std",
]

Scheme = Literal["ct", "zscore", "none"]

LARGEST_VALUE = float(np.finfo(np.float16).max)
"""Largest value of a preprocessed image, which is stored in half precision. Larger values are clipped."""

# A standard deviation below this fraction of the mean is rounding noise: adjacent float32 values differ by 1.2e-7.
_ROUNDING = 1e-7
# A normalised image should have a standard deviation of about 1. Below this value the image is degenerate.
_MIN_STD = 1e-3
# Smallest distance of the percentiles 5 and 95, in standard deviations. A smaller distance means that a few extreme
# values determine the scale.
_MIN_SPREAD = 0.02


def channel_scheme(name: str) -> Scheme:
    """Return the normalisation scheme of a channel from its full name, with the rules of nnU-Net.

    Upper and lower case are not distinguished.

    Examples
    --------
    >>> channel_scheme("CT"), channel_scheme("noNorm"), channel_scheme("CT portal")
    ('ct', 'none', 'zscore')
    """
    plain = name.strip().lower()
    return "ct" if plain == "ct" else "none" if plain == "nonorm" else "zscore"


@dataclass(frozen=True)
class IntensityScale:
    """Scale of one channel of one scan, in the units of the file.

    Attributes
    ----------
    mean, std : float
        Mean and standard deviation of the body without outliers. ``std`` is 0 for a constant channel.
    low, high : float
        Limits to which outliers are clipped.
    """

    mean: float
    std: float
    low: float
    high: float

    def apply(self, channel: Array, out: npt.NDArray[np.float32]) -> None:
        """Normalise a channel to mean 0 and standard deviation 1; a constant channel becomes 0.

        Parameters
        ----------
        channel : ndarray, shape ``(Z, Y, X)``
        out : ndarray of float32, shape ``(Z, Y, X)``
            Receives the normalised values.
        """
        if self.std == 0:
            out[...] = 0
            return
        # Double precision keeps the digits of values with a large offset. One plane at a time needs little memory.
        for plane, target in zip(channel, out, strict=True):
            values = np.clip(plane, self.low, self.high, dtype=np.float64)
            values -= self.mean
            values /= self.std
            target[...] = values


def intensity_scale(channel: Array, mask: npt.NDArray[np.bool_] | None = None) -> IntensityScale:
    """Return the mean and standard deviation of the body in a channel, without outliers, air and padding.

    The normalised image does not depend on the unit and the offset of the intensities, except for rounding.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, shape ``(Z, Y, X)``, optional
        Voxels that are not padding, see :func:`detseg3d.core.body.body_mask`; by default the voxels that do not have
        the padding value of this channel.

    Examples
    --------
    >>> scale = intensity_scale(np.array([[[1.0, 3.0]]]))
    >>> scale.mean, scale.std
    (2.0, 1.0)
    """
    mask = channel_mask(channel, mask)
    limits = plausible_range(drawn_values(channel, mask))
    mean, std = mean_and_std(channel, tissue_mask(channel, mask, limits), limits)
    if not _varies(mean, std):
        # A binary image is constant outside its zeros, so zeros are content here and not padding.
        limits = -np.inf, np.inf
        mean, std = mean_and_std(channel)
    return IntensityScale(mean, std if _varies(mean, std) else 0.0, *limits)


def _varies(mean: float, std: float) -> bool:
    return std > _ROUNDING * abs(mean)


def mean_and_std(
    channel: Array, mask: npt.NDArray[np.bool_] | None = None, limits: tuple[float, float] = (-np.inf, np.inf)
) -> tuple[float, float]:
    """Return the mean and standard deviation of a channel in double precision.

    The computation goes slice by slice, so a whole-body scan needs no second copy.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        Voxels that count; by default every voxel.
    limits : 2 floats, optional
        Values outside the limits are left out.

    Returns
    -------
    mean, std : float
        0 if no voxel counts.

    Examples
    --------
    >>> mean_and_std(np.array([[[1.0, 3.0]]]))
    (2.0, 1.0)
    """
    low, high = limits
    outliers = channel.size > 0 and bool(channel.min() < low or channel.max() > high)
    count, mean, squares = 0, 0.0, 0.0
    for index, plane in enumerate(channel):
        values = (plane if mask is None else plane[mask[index]]).astype(np.float64, copy=False)
        if outliers:
            values = values[(values >= low) & (values <= high)]
        if values.size == 0:
            continue
        # Merge the statistics of slices as in Chan, Golub & LeVeque (1983). A difference of two large sums would lose
        # digits.
        plane_mean = float(values.mean())
        plane_squares = float(np.square(values - plane_mean).sum())
        total = count + values.size
        delta = plane_mean - mean
        squares += plane_squares + delta * delta * count * values.size / total
        mean += delta * values.size / total
        count = total
    return (mean, math.sqrt(squares / count)) if count else (0.0, 0.0)


def degeneration(normalized: Array, mask: npt.NDArray[np.bool_] | None = None) -> str | None:
    """Return the reason why a normalised channel carries no information, or ``None``.

    Parameters
    ----------
    normalized : ndarray, shape ``(Z, Y, X)``
        The channel as the network reads it.
    mask : ndarray of bool, optional
        Voxels that are not padding; by default every voxel.

    Examples
    --------
    >>> degeneration(np.zeros((2, 2, 2)))
    'it is constant'
    >>> degeneration(np.random.default_rng(0).normal(size=(8, 8, 8))) is None
    True
    """
    values = drawn_values(normalized, mask).astype(np.float64)
    if values.size == 0:
        return None
    if float(values.max()) == float(values.min()):
        same = mask is None or bool((normalized == normalized.flat[0]).all())
        return "it is constant" if same else "it has one value outside the padding"
    std = float(values.std())
    if std < _MIN_STD:
        return f"its standard deviation is {std:.2g} after normalisation, about 1 is expected"
    beyond = float(np.mean(np.abs(values) >= LARGEST_VALUE))
    if beyond:
        return f"{beyond:.2%} of its voxels are at the limit of half precision, ±{LARGEST_VALUE:g}"
    low, high = np.percentile(values, (5, 95))
    if high - low < _MIN_SPREAD * std:
        share = (high - low) / std
        return (
            f"90 % of its voxels lie within {share:.2g} standard deviations: a few extreme values determine the scale, "
            "or nearly all voxels have one value"
        )
    return None


def degeneration_of_scan(channel: Array, scheme: Scheme, mask: npt.NDArray[np.bool_] | None = None) -> str | None:
    """Predict the result of :func:`degeneration` from a channel that is not normalised yet.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
        The channel before normalisation.
    scheme : str
        Normalisation scheme. The plans decide to which range CT intensities are clipped. This range is not known yet,
        so only constant CT scans are detected.
    mask : ndarray of bool, optional
        See :func:`intensity_scale`.

    Examples
    --------
    >>> degeneration_of_scan(np.full((4, 4, 4), 7.0), "zscore")
    'it is constant'
    """
    inside = channel_mask(channel, mask)
    values = drawn_values(channel, inside)[None, None]
    if scheme == "none":
        return degeneration(values)
    if scheme == "ct":
        return degeneration(np.zeros(1)) if values.size and values.min() == values.max() else None
    scale = intensity_scale(channel, inside)
    normalized = np.empty(values.shape, np.float32)
    scale.apply(values, normalized)
    if scale.std > 0 and normalized.size and normalized.min() == normalized.max():
        return "it has one value outside the padding"
    return degeneration(normalized)


def is_image_of_label(channel: Array, label: npt.NDArray[np.integer[Any]]) -> bool:
    """Return whether a channel shows only the label: it has one value for each value of the label.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    label : ndarray of int, shape ``(Z, Y, X)``
        Classes or instances.

    Returns
    -------
    bool
        False for a constant channel and for a label without lesions.

    Examples
    --------
    >>> label = np.array([[[0, 0, 1, 1]]])
    >>> is_image_of_label(label * 300.0, label), is_image_of_label(np.array([[[1.0, 2.0, 9.0, 9.0]]]), label)
    (True, False)
    """
    if channel.shape != label.shape or channel.size == 0:
        return False
    background = label == 0
    if background.all() or not background.any():
        return False
    outside = float(channel.max(where=background, initial=channel.min()))
    if outside != float(channel.min(where=background, initial=channel.max())):
        return False
    lesion = ~background
    values, inside = label[lesion], channel[lesion]
    order = np.argsort(values, kind="stable")
    values, inside = values[order], inside[order]
    one_each = bool(((inside[1:] == inside[:-1]) | (values[1:] != values[:-1])).all())
    return one_each and bool((inside != outside).any())
