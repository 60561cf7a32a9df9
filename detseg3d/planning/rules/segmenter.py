"""Rules for the segmenter: channels, strides and kernels of the U-Net that reads an RoI."""

from __future__ import annotations

from collections.abc import Sequence

from detseg3d.core.arrays import Spacing, Triple
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.rules.rois import MIN_POOLED_SAMPLES
from detseg3d.planning.sections import Stage2Plan

__all__ = ["stage2_plan"]


STAGE2_CHANNELS = (16, 32, 64, 160)
POOLING_RATIO = 2.0


def stage2_plan(size: Triple, fine_spacing: Spacing) -> Stage2Plan:
    """Plan the U-Net that segments an RoI.

    An axis is pooled if it has an even number of samples, at least 8 samples, and at most twice the finest spacing. An
    axis that is over 2 times coarser than the finest axis has kernel 1. Only axes with enough samples to be pooled
    count for the finest spacing. Scales that no axis reaches are dropped.

    Parameters
    ----------
    size : 3 ints
        Samples of an RoI.
    fine_spacing : 3 floats
        In mm.

    Returns
    -------
    Stage2Plan

    Raises
    ------
    DetSeg3DError
        If no axis can be halved.

    Examples
    --------
    >>> stage2_plan((32, 32, 32), (1, 1, 1)).strides
    ((2, 2, 2), (2, 2, 2), (2, 2, 2))
    >>> flat = stage2_plan((8, 32, 32), (3, 0.72, 0.72))
    >>> flat.strides, flat.kernels
    (((1, 2, 2), (1, 2, 2), (2, 2, 2)), ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3)))
    """
    current, samples = list(fine_spacing), list(size)
    strides: list[Triple] = []
    kernels = [_kernel(current, samples)]
    for _ in STAGE2_CHANNELS[1:]:
        limit = _pooling_limit(current, samples)
        sz, sy, sx = (
            2 if _can_be_halved(n) and spacing <= limit else 1 for n, spacing in zip(samples, current, strict=True)
        )
        if max(sz, sy, sx) == 1:
            break
        strides.append((sz, sy, sx))
        samples = [n // stride for n, stride in zip(samples, strides[-1], strict=True)]
        current = [spacing * stride for spacing, stride in zip(current, strides[-1], strict=True)]
        kernels.append(_kernel(current, samples))
    if not strides:
        raise DetSeg3DError(
            "an RoI of this size cannot be halved along any axis",
            value=size,
            expected=f"an even number of samples, at least {MIN_POOLED_SAMPLES}, along the finest axis",
        )
    return Stage2Plan(channels=STAGE2_CHANNELS[: len(kernels)], strides=tuple(strides), kernels=tuple(kernels))


def _can_be_halved(samples: int) -> bool:
    return samples >= MIN_POOLED_SAMPLES and samples % 2 == 0


def _pooling_limit(spacing: Sequence[float], samples: Sequence[int]) -> float:
    """Return the largest spacing of an axis that is pooled: twice the finest spacing of the axes that can be halved."""
    halved = [length for length, n in zip(spacing, samples, strict=True) if _can_be_halved(n)]
    return POOLING_RATIO * min(halved or spacing) * (1 + 1e-6)


def _kernel(spacing: Sequence[float], samples: Sequence[int]) -> Triple:
    limit = _pooling_limit(spacing, samples)
    z, y, x = (3 if length <= limit else 1 for length in spacing)
    return z, y, x
