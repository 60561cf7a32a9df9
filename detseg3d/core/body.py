"""Where the patient is: images are often padded with one constant value that carries nothing.

Nothing here depends on the unit of the intensities or on an offset: an image in other units has the same body.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array

__all__ = ["body_box", "body_mask", "channel_mask", "drawn_values", "padding_value", "plausible_range", "tissue_mask"]


# Share of the way from the lowest value to the body's mean below which a voxel is air: noise of a magnitude image lies
# below it, nearly all tissue above.
_AIR_SHARE = 0.2
_ROUNDS = 3
# Share of the voxels that are air at least, if there is any: the dark tail of a body without air is thinner.
_LEAST_AIR = 0.005
# Edge, in voxels, of the block in a corner that must be constant if its value is neither 0 nor the smallest.
_CORNER = 3
# What lies farther outside these percentiles than so many times their distance is an outlier: a defect of the detector
# or of a file, metal, burnt-in text. Noise reaches 1 time, vessels and bladders in PET some times.
_PERCENTILES = (0.5, 99.5)
_SPANS = 10.0
# Voxels drawn to find percentiles.
_DRAWN = 1_000_000


def padding_value(channel: Array) -> float | None:
    """The value a channel ``(Z, Y, X)`` is padded with, or ``None``.

    It must fill at least half of the eight corners and be 0 or the smallest value of the channel: what surrounds a
    head (0), a brain extraction (0, even after normalisation, where it is no longer the smallest) or the round field
    of view of a CT scanner (below air). Another value is padding if blocks of 3 × 3 × 3 voxels have it in half of the
    corners: chance does not make them equal. Noise in the corners is not padding.

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
    """Corners of a channel at which a block of 3×3×3 voxels has a single value."""
    ends = (slice(None, _CORNER), slice(-_CORNER, None))
    return sum(bool((channel[corner] == value).all()) for corner in product(ends, repeat=3))


def body_mask(images: Array) -> npt.NDArray[np.bool_] | None:
    """Voxels that are not padding in every channel.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None`` if there is no padding, or nothing but padding (a constant image): every voxel counts.

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
    """Voxels of one channel that are not padding.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        The :func:`body_mask` of all channels. It counts if there is one, since what one channel shows is body.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None``: every voxel.
    """
    if mask is None:
        value = padding_value(channel)
        mask = None if value is None else np.asarray(channel != value)
    return mask if mask is not None and mask.any() else None


def body_box(images: Array, mask: npt.NDArray[np.bool_] | None = None) -> tuple[int, int, int, int, int, int]:
    """Smallest box ``z0 y0 x0 z1 y1 x1`` (half-open) around everything that is not padding.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    mask : ndarray of bool, optional
        The :func:`body_mask`, if it is known already.

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
    """Up to about a million voxels of a channel ``(Z, Y, X)``, the same at every call; of a larger one drawn at random.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        Voxels to draw from; all by default.

    Returns
    -------
    ndarray, shape ``(N,)``
        Empty if no voxel is in ``mask``.
    """
    if channel.size <= _DRAWN:
        return channel.reshape(-1) if mask is None else channel[mask]
    where = np.unravel_index(np.random.default_rng(0).integers(0, channel.size, _DRAWN), channel.shape)
    if mask is None:
        return channel[where]
    values: Array = channel[where][mask[where]]
    # A mask of a small part of the volume is looked through; for a large one the places would take too much memory.
    return values if values.size >= _DRAWN // 20 else channel[mask]


def plausible_range(values: npt.ArrayLike) -> tuple[float, float]:
    """Lowest and highest intensity that is not an outlier.

    An outlier lies more than ten times the distance of the percentiles 0.5 and 99.5 outside them.

    Parameters
    ----------
    values : array_like
        Intensities, finite.

    Returns
    -------
    low, high : float
        Infinite where the percentiles are equal, since then nothing says how far the values spread.

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
    """Voxels of the body in one channel ``(Z, Y, X)``, for its statistics.

    Inside ``mask`` (see :func:`body_mask`), air is left out: what lies below a fifth of the way from the lowest value
    to the body's mean. Otherwise a large field of view would count as a dark body. Body and mean are found in turns,
    beginning with the mean of everything. Where so few voxels are that dark that they cannot be air around a body, all
    of ``mask`` is the body.

    Parameters
    ----------
    channel : ndarray, shape ``(Z, Y, X)``
    mask : ndarray of bool, optional
        Every voxel by default.
    limits : 2 floats, optional
        The :func:`plausible_range` of the voxels in ``mask``, if it is known already.
    lowest : float, optional
        Intensity of no signal, if it is known already; the lowest of the plausible ones by default.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None``: every voxel.

    Examples
    --------
    >>> tissue_mask(np.array([[[0.1, 0.2, 8.0, 9.0]]])).tolist()
    [[[False, False, True, True]]]
    """
    low, high = plausible_range(drawn_values(channel, mask)) if limits is None else limits
    least = float(channel.min())
    if least < low or channel.max() > high:
        least = float(channel.min(where=channel >= low, initial=high))
        channel = np.clip(channel, low, high)  # else a few outliers would move the mean beyond all tissue
    if lowest is None:
        lowest = least
    tissue = mask
    everything = count = channel.size if mask is None else int(np.count_nonzero(mask))
    for _ in range(_ROUNDS):
        total = channel.sum(dtype=np.float64) if tissue is None else channel.sum(where=tissue, dtype=np.float64)
        brighter = channel > lowest + _AIR_SHARE * (float(total) / max(count, 1) - lowest)
        if mask is not None:
            np.logical_and(brighter, mask, out=brighter)
        previous, count = count, int(np.count_nonzero(brighter))
        if count == 0:
            return mask
        tissue = brighter
        if count == previous:
            break
    return tissue if count < (1 - _LEAST_AIR) * everything else mask
