"""Where the patient is: images are often padded with one constant value that carries nothing."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["body_box", "body_mask", "padding_value", "tissue_mask"]

Array = npt.NDArray[Any]

# Share of the body's mean below which a voxel of a non-negative image is air: noise of a magnitude image lies below it,
# nearly all tissue above.
_AIR_SHARE = 0.2
_ROUNDS = 3


def padding_value(channel: Array) -> float | None:
    """The value a channel ``(Z, Y, X)`` is padded with, or ``None``.

    It must fill at least half of the eight corners and be 0 or the smallest value of the channel: what surrounds a
    head (0), a brain extraction (0, even after normalisation, where it is no longer the smallest) or the round field
    of view of a CT scanner (below air). Noise in the corners is no padding.

    Examples
    --------
    >>> channel = np.zeros((4, 4, 4)); channel[1:3, 1:3, 1:3] = 5
    >>> padding_value(channel), padding_value(np.arange(27.0).reshape(3, 3, 3) + 1)
    (0.0, None)
    """
    corners = [float(channel[z, y, x]) for z, y, x in product((0, -1), repeat=3)]
    for value in sorted(set(corners), key=lambda value: (-corners.count(value), value)):
        if corners.count(value) >= 4 and (value == 0 or value == float(channel.min())):
            return value
    return None


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


def tissue_mask(channel: Array, mask: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_] | None:
    """Voxels of the body in one channel ``(Z, Y, X)``, for its statistics.

    Inside ``mask`` (see :func:`body_mask`), air is left out where the image tells it apart: in an image without
    negative values, air lies below a fifth of the body's mean. Otherwise a large field of view would count as a dark
    body. Body and mean are found in turns, beginning with the mean of everything.

    Returns
    -------
    ndarray of bool, shape ``(Z, Y, X)``, or None
        ``None``: every voxel.

    Examples
    --------
    >>> tissue_mask(np.array([[[0.1, 0.2, 8.0, 9.0]]])).tolist()
    [[[False, False, True, True]]]
    >>> tissue_mask(np.array([[[-1000.0, 40.0]]])) is None
    True
    """
    if float(channel.min()) < 0:
        return mask
    tissue = mask
    count = channel.size if mask is None else int(np.count_nonzero(mask))
    for _ in range(_ROUNDS):
        total = channel.sum(dtype=np.float64) if tissue is None else channel.sum(where=tissue, dtype=np.float64)
        brighter = channel > _AIR_SHARE * float(total) / max(count, 1)
        if mask is not None:
            np.logical_and(brighter, mask, out=brighter)
        previous, count = count, int(np.count_nonzero(brighter))
        if count == 0:
            return mask
        tissue = brighter
        if count == previous:
            break
    return tissue
