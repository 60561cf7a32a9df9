"""Bring intensities to a common scale, as the plan says channel by channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.intensities import LARGEST_VALUE, intensity_scale
from detseg3d.planning.sections import ChannelNormalization, CtNormalization, ZScoreNormalization

__all__ = ["normalize"]


def normalize(
    images: Array,
    normalization: Sequence[ChannelNormalization],
    mask: npt.NDArray[np.bool_] | None = None,
    region: tuple[slice, ...] = (slice(None), slice(None), slice(None)),
) -> npt.NDArray[np.float32]:
    """Normalise each channel by its plan; the input is left alone.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    normalization : sequence of ChannelNormalization
        One per channel.
    mask : ndarray of bool, shape ``(Z, Y, X)``, optional
        What is not padding in some channel, for ``zscore``; by default what is not a channel's own padding. Air and
        outliers are left out, see :func:`detseg3d.core.intensities.intensity_scale`.
    region : 3 slices, optional
        The part that is returned. The whole images set its scale.

    Returns
    -------
    ndarray of float32, shape ``(C, z, y, x)``
        A constant channel becomes zero under ``zscore``.

    Raises
    ------
    DetSeg3DError
        If a channel that is left as it is has values beyond half precision.

    Examples
    --------
    >>> normalize(np.array([[[[1.0, 3.0]]]]), [ZScoreNormalization()]).tolist()
    [[[[-1.0, 1.0]]]]
    """
    if len(normalization) != len(images):
        raise ValueError(f"{len(normalization)} normalisations for {len(images)} channels")
    result = np.empty((len(images), *images[0][region].shape), np.float32)
    for source, target, plan in zip(images, result, normalization, strict=True):
        if isinstance(plan, CtNormalization):
            np.clip(source[region], plan.lower, plan.upper, out=target, casting="unsafe")
            target -= np.float32(plan.mean)
            target /= np.float32(plan.std)
        elif isinstance(plan, ZScoreNormalization):
            intensity_scale(source, mask).apply(source[region], target)
        else:
            target[...] = source[region]
            _check_range(target)
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
