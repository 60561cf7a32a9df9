"""Normalise the intensities of each channel as planned."""

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
    """Normalise each channel. The input is not changed.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
    normalization : sequence of ChannelNormalization
        One per channel.
    mask : ndarray of bool, shape ``(Z, Y, X)``, optional
        Voxels that are not padding in at least one channel. Only ``zscore`` uses them. By default each channel leaves
        out its own padding. Air and outliers are always left out, see
        :func:`detseg3d.core.intensities.intensity_scale`.
    region : 3 slices, optional
        The part that is returned. The scale of ``zscore`` is computed from the whole images.

    Returns
    -------
    ndarray of float32, shape ``(C, z, y, x)``
        A constant channel becomes zero under ``zscore``.

    Raises
    ------
    DetSeg3DError
        If a channel that is not normalised has values that half precision cannot store.
    ValueError
        If the number of normalisations differs from the number of channels.

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
    """Raise an error if a channel has values that the half precision of preprocessed cases cannot store."""
    largest = float(max(channel.max(initial=0), -channel.min(initial=0)))
    if largest > LARGEST_VALUE:
        raise DetSeg3DError(
            "a channel named noNorm, which is not normalised, has values that are too large to be stored",
            value=largest,
            expected=f"at most {LARGEST_VALUE:g}",
            remedy="scale the images, or give the channel another name in dataset.json and plan again",
        )
