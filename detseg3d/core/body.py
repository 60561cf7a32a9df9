"""Separation of the patient's body from padding and air.

Images are often padded with one constant value that carries no information. The results do not depend on the unit of
the intensities or on an offset.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array, IntArray

__all__ = ["body_box", "body_mask", "channel_mask", "drawn_values", "padding_value", "plausible_range", "tissue_mask"]


# A voxel is air if its intensity lies below this fraction of the way from the lowest value to the mean of the body.
# Noise of a magnitude image lies below the limit, nearly all tissue above it.
_AIR_FRACTION = 0.2
_ROUNDS = 3
# If fewer than this fraction of the voxels are dark, they are the dark tail of the body and not air.
_MIN_AIR_FRACTION = 0.005
# Edge length of a corner block in voxels. A padding value that is neither 0 nor the smallest value fills such blocks.
_CORNER = 3
# An intensity is an outlier if it lies outside these percentiles by more than _SPANS times their distance. Outliers are
# defects of a detector or a file, metal and burnt-in text. Noise reaches 1 times the distance. Vessels and bladders in
# PET reach a few times the distance.
_PERCENTILES = (0.5, 99.5)
_SPANS = 10.0
# Number of voxels from which percentiles are estimated.
_DRAWN = 1_000_000


def padding_value(channel: Array) -> float | None:
    """Return the value with which a channel is padded, or ``None``.

    A padding value fills at least half of the eight corner voxels. In addition it must be 0 or the smallest value of
    the channel, or it must fill blocks of 3×3×3 voxels in at least half of the corners. 0 surrounds heads and extracted
    brains, even after a normalisation that makes other values smaller. The smallest value surrounds the round field of
    view of a CT scanner. Noise in the corners is not padding.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``

    Examples
    --------
    >>> channel = np.zeros((4, 4, 4)); channel[1:3, 1:3, 1:3] = 5
    >>> padding_value(channel), padding_value(np.arange(27.0).reshape(3, 3, 3) + 1)
    (0.0, None)
    """
    corners = [float(channel[z, y, x]) for z, y, x in product((0, -1), repeat=3)]
    for value in sorted(set(corners), key=lambda value: (-corners.count(value), value)):
        if corners.count(value) < 4:
            continue
        if value == 0 or value == float(channel.min()) or _constant_corners(channel, value) >= 4:
            return value
    return None


def _constant_corners(channel: Array, value: float) -> int:
    """Count the corners of a channel at which a block of 3×3×3 voxels has one value."""
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    return sum(bool((channel[corner] == value).all()) for corner in product(ends, repeat=3))


def body_mask(images: Array) -> npt.NDArray[np.bool_] | None:
    """Return a mask of the voxels that are not padding in at least one channel.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None`` means that every voxel belongs to the body: a channel has no padding, or all channels are constant.

    Examples
    --------
    >>> images = np.zeros((1, 4, 4, 4)); images[0, 1:3, 1:3, 1:3] = 5
    >>> int(body_mask(images).sum()), body_mask(np.zeros((1, 4, 4, 4))) is None
    (8, True)
    """
    mask: Array | None = None
    for channel in images:
        value = padding_value(channel)
        if value is None:
            return None
        inside = channel != value
        mask = inside if mask is None else np.logical_or(mask, inside, out=mask)
    return mask if mask is not None and mask.any() else None


def channel_mask(channel: Array, mask: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_] | None:
    """Return a mask of the voxels of one channel that are not padding.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        The :func:`body_mask` of all channels. If given, this mask is returned, because a voxel that is not padding in
        another channel belongs to the body.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None`` means every voxel.
    """
    if mask is None:
        value = padding_value(channel)
        mask = None if value is None else np.asarray(channel != value)
    return mask if mask is not None and mask.any() else None


def body_box(images: Array, mask: npt.NDArray[np.bool_] | None = None) -> tuple[int, int, int, int, int, int]:
    """Return the smallest half-open box ``z0 y0 x0 z1 y1 x1`` around all voxels that are not padding.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    mask : ndarray of bool, optional
        The :func:`body_mask`, if it is already known.

    Returns
    -------
    6 ints
        The whole volume if there is no padding or the images are constant.

    Examples
    --------
    >>> images = np.zeros((1, 4, 4, 4)); images[0, 1:3, 2, 0:4] = 5
    >>> body_box(images)
    (1, 2, 0, 3, 3, 4)
    """
    if mask is None:
        mask = body_mask(images)
    if mask is None:
        return (0, 0, 0, *images.shape[1:])
    bounds = []
    for others in ((1, 2), (0, 2), (0, 1)):
        where = np.flatnonzero(np.any(mask, axis=others))
        bounds.append((int(where[0]), int(where[-1]) + 1))
    (z0, z1), (y0, y1), (x0, x1) = bounds
    return z0, y0, x0, z1, y1, x1


def drawn_values(channel: Array, mask: npt.NDArray[np.bool_] | None = None) -> Array:
    """Return a sample of about a million intensities of a channel, or all intensities of a smaller channel.

    The sample is random but the same in every call.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        Voxels from which the sample is drawn; by default all voxels.

    Returns
    -------
    ndarray, shape ``(N,)``
        Empty if no voxel is in ``mask``.
    """
    if channel.size <= _DRAWN:
        return channel.reshape(-1) if mask is None else channel[mask]
    places = np.random.default_rng(0).integers(0, channel.size, _DRAWN)
    drawn = _at(channel, places)
    if mask is None:
        return drawn
    values: Array = drawn[_at(mask, places)]
    # A small mask leaves too few voxels in the sample, so take all of them. For a large mask, the indices of all voxels
    # would need too much memory.
    return values if values.size >= _DRAWN // 20 else channel[mask]


def _at(array: Array, places: IntArray) -> Array:
    """Return the values at ``places``, counted in the order of C, without a copy of the array."""
    if array.flags.c_contiguous:
        return array.reshape(-1)[places]
    return np.asarray(array[np.unravel_index(places, array.shape)])


def plausible_range(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the range of the intensities that are not outliers.

    An outlier lies outside the percentiles 0.5 and 99.5 by more than ten times their distance.

    Parameters
    ----------
    values : array_like
        Finite intensities.

    Returns
    -------
    low, high : float
        Infinite if both percentiles are equal, because the spread of the values is then unknown.

    Examples
    --------
    >>> plausible_range([*range(1000), 1e9])
    (-9895.0, 10895.0)
    """
    array = np.asarray(values)
    if array.size == 0:
        return -np.inf, np.inf
    low, high = (float(value) for value in np.percentile(array.astype(np.float64), _PERCENTILES))
    span = high - low
    return (low - _SPANS * span, high + _SPANS * span) if span > 0 else (-np.inf, np.inf)


def tissue_mask(
    channel: Array,
    mask: npt.NDArray[np.bool_] | None = None,
    limits: tuple[float, float] | None = None,
    lowest: float | None = None,
) -> npt.NDArray[np.bool_] | None:
    """Return a mask of the body without air in one channel, for the statistics of the channel.

    A voxel of ``mask`` is air if its intensity lies below a fifth of the way from the lowest value to the mean of the
    body. Without this step, a large field of view would count as a dark body. Body and mean are estimated alternately,
    starting with the mean of all voxels. If very few voxels are dark, they are not air, and the body is all of
    ``mask``.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        See :func:`body_mask`; by default every voxel.
    limits : 2 floats, optional
        The :func:`plausible_range` of the voxels in ``mask``, if it is already known.
    lowest : float, optional
        Intensity without signal; by default the lowest intensity that is not an outlier.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None`` means every voxel.

    Examples
    --------
    >>> tissue_mask(np.array([[[0.1, 0.2, 8.0, 9.0]]])).tolist()
    [[[False, False, True, True]]]
    """
    low, high = plausible_range(drawn_values(channel, mask)) if limits is None else limits
    least = float(channel.min())
    if least < low or channel.max() > high:
        least = float(channel.min(where=channel >= low, initial=high))
        channel = np.clip(channel, low, high)  # a few outliers could move the mean beyond all tissue
    if lowest is None:
        lowest = least
    tissue = mask
    everything = count = channel.size if mask is None else int(np.count_nonzero(mask))
    for _ in range(_ROUNDS):
        total = channel.sum(dtype=np.float64) if tissue is None else channel.sum(where=tissue, dtype=np.float64)
        brighter = channel > lowest + _AIR_FRACTION * (float(total) / max(count, 1) - lowest)
        if mask is not None:
            np.logical_and(brighter, mask, out=brighter)
        previous, count = count, int(np.count_nonzero(brighter))
        if count == 0:
            return mask
        tissue = brighter
        if count == previous:
            break
    return tissue if count < (1 - _MIN_AIR_FRACTION) * everything else mask
