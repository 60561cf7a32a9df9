"""Bring intensities to a common scale, as the plan says channel by channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from detseg3d.core.body import tissue_mask
from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.case_store import LARGEST_VALUE
from detseg3d.planning.plans import ChannelNormalization

__all__ = ["mean_and_std", "normalize"]

Array = npt.NDArray[Any]


def mean_and_std(channel: Array, mask: npt.NDArray[np.bool_] | None = None) -> tuple[float, float]:
    """Mean and standard deviation of a channel ``(Z, Y, X)`` inside ``mask``, in double precision.

    Works slice by slice, so that a whole-body scan needs no second copy.

    Examples
    --------
    >>> mean_and_std(np.array([[[1.0, 3.0]]]))
    (2.0, 1.0)
    """
    count, mean, squares = 0, 0.0, 0.0
    for index, plane in enumerate(channel):
        values = (plane if mask is None else plane[mask[index]]).astype(np.float64, copy=False)
        if values.size == 0:
            continue
        # Chan, Golub & LeVeque (1983): merging means loses no digits, unlike the difference of two large sums.
        plane_mean = float(values.mean())
        plane_squares = float(np.square(values - plane_mean).sum())
        total = count + values.size
        delta = plane_mean - mean
        squares += plane_squares + delta * delta * count * values.size / total
        mean += delta * values.size / total
        count = total
    return (mean, math.sqrt(squares / count)) if count else (0.0, 0.0)


def normalize(
    images: Array, normalization: Sequence[ChannelNormalization], mask: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.float32]:
    """Normalise each channel by its plan; the input is left alone.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    normalization : sequence of ChannelNormalization
        One per channel.
    mask : ndarray of bool, shape ``(Z, Y, X)``, optional
        What is not padding, for ``zscore``; every voxel by default. Air is left out, see
        :func:`detseg3d.core.body.tissue_mask`.

    Returns
    -------
    ndarray of float32, shape ``(C, Z, Y, X)``
        A constant channel becomes zero under ``zscore``.

    Raises
    ------
    DetSeg3DError
        If a channel that is left as it is has values beyond half precision.

    Examples
    --------
    >>> normalize(np.array([[[[1.0, 3.0]]]]), [ChannelNormalization(scheme="zscore")]).tolist()
    [[[[-1.0, 1.0]]]]
    """
    if len(normalization) != len(images):
        raise ValueError(f"{len(normalization)} normalisations for {len(images)} channels")
    result = np.empty(images.shape, np.float32)
    for source, target, plan in zip(images, result, normalization, strict=True):
        if plan.scheme == "none":
            target[...] = source
            _check_range(target)
            continue
        if plan.scheme == "ct":
            np.clip(source, plan.lower, plan.upper, out=target, casting="unsafe")
            mean, std = plan.mean, plan.std
        else:
            mean, std = mean_and_std(source, tissue_mask(source, mask))
            target[...] = source
        target -= np.float32(mean)
        # A constant channel says nothing; dividing by rounding noise would make it shout.
        target /= np.float32(std if std > 1e-6 * max(1.0, abs(mean)) else 1.0)
    return result


def _check_range(channel: npt.NDArray[np.float32]) -> None:
    """Raise if values that nothing brings to a common scale do not fit the half precision of preprocessed cases."""
    largest = float(max(channel.max(initial=0), -channel.min(initial=0)))
    if largest > LARGEST_VALUE:
        raise DetSeg3DError(
            "the values of a channel named noNorm, which is used as it is, are too large to be stored",
            value=largest,
            expected=f"at most {LARGEST_VALUE:g}",
            remedy="scale the images, or plan again with another name in dataset.json: then it is normalised",
        )
