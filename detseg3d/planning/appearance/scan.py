"""Describe the appearance of a scan in a few numbers: grid, field of view, background, intensities, noise, detail.

:func:`measure_appearance` measures one scan. :mod:`detseg3d.planning.appearance.training` compares it with the
training scans.
A large scan is measured on a regular grid of about 40 000 voxels, so the time hardly grows with the scan.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Annotated, Final

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from detseg3d.core.arrays import Array
from detseg3d.core.body import body_box, padding_value, plausible_range, tissue_mask
from detseg3d.core.boxes import box_slices
from detseg3d.core.geometry import Geometry
from detseg3d.planning.limits import FiniteFloat, Length

__all__ = ["LAYOUT_CELLS", "QUANTILE_LEVELS", "ChannelAppearance", "ScanAppearance", "measure_appearance", "obliquity"]


QUANTILE_LEVELS: Final = (0.0, 0.005, 0.01, *(step / 40 for step in range(1, 40)), 0.99, 0.995, 1.0)
"""Levels of the intensity quantiles, 0 to 1."""
LAYOUT_CELLS: Final = 4
"""Number of parts along each axis. The mean intensity of each part is measured."""

Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Quantiles = Annotated[tuple[FiniteFloat, ...], Field(min_length=len(QUANTILE_LEVELS), max_length=len(QUANTILE_LEVELS))]
Cells = Annotated[tuple[FiniteFloat, ...], Field(min_length=LAYOUT_CELLS**3, max_length=LAYOUT_CELLS**3)]
PerAxis = tuple[NonNegative | None, NonNegative | None, NonNegative | None]

_SITES = 40_000
# A smaller difference, as a fraction of the value, is rounding noise of float32.
_ROUNDING = 1e-7
# The median absolute value of a normal distribution, and the gain of the stencil [1 -2 1] × [1 -2 1] on white noise.
_NORMAL_MEDIAN = 0.6744897501960817
_STENCIL_GAIN = 6.0


class FrozenModel(BaseModel):
    """Base of the pydantic models of this package. They are immutable and refuse unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ChannelAppearance(FrozenModel):
    """Appearance of one channel of a scan.

    Attributes
    ----------
    voxels : tuple of float
        Quantiles of all voxels in the box around the body, in the units of the file, at :data:`QUANTILE_LEVELS`.
    tissue : tuple of float
        Quantiles of the voxels from which a z-score is computed (no padding, no air), see
        :func:`detseg3d.core.body.tissue_mask`. Outliers are clipped, as in the normalisation.
    mean, std : float
        Mean and standard deviation of the tissue without outliers, see
        :func:`detseg3d.core.intensities.intensity_scale`.
    commonest : float
        Fraction of the box that has the most frequent value. It is large if the background is exactly constant.
    background : float
        Fraction of the box that is padding or air.
    layout : tuple of float
        Mean intensities of 4 × 4 × 4 equal parts of the box, ``(z, y, x)`` in C order.
    noise : float or None
        Robust standard deviation of the noise in the tissue, in the units of the file. ``None`` if it cannot be
        measured. Voxels that have the lowest or the highest value of the channel do not count: they may be saturated.
    detail_mm : 3 floats or None
        Size of the finest detail along ``(z, y, x)`` in mm. Noise gives about 0.6 voxels, a wave of length L gives
        about L/π. ``None`` if it cannot be measured.
    """

    voxels: Quantiles
    tissue: Quantiles
    mean: FiniteFloat
    std: NonNegative
    commonest: Share
    background: Share
    layout: Cells
    noise: NonNegative | None
    detail_mm: PerAxis

    @property
    def is_constant(self) -> bool:
        """True if all voxels of the channel have the same value."""
        return self.voxels[-1] - self.voxels[0] <= _ROUNDING * abs(self.voxels[0])


class ScanAppearance(FrozenModel):
    """Appearance of a scan.

    Attributes
    ----------
    spacing : 3 floats
        ``(z, y, x)`` in mm.
    field_of_view : 3 floats
        Edges ``(z, y, x)`` in mm of the box around everything that is not padding.
    obliquity : float
        Largest angle in degrees between an axis of the volume and the nearest axis of the patient.
    channels : tuple of ChannelAppearance
    """

    spacing: tuple[Length, Length, Length]
    field_of_view: tuple[NonNegative, NonNegative, NonNegative]
    obliquity: NonNegative
    channels: Annotated[tuple[ChannelAppearance, ...], Field(min_length=1, max_length=1000)]


def measure_appearance(
    images: Array, geometry: Geometry, box: tuple[int, int, int, int, int, int] | None = None
) -> ScanAppearance:
    """Measure the appearance of a scan.

    Parameters
    ----------
    images : ndarray, shape ``(C, Z, Y, X)``
        Intensities as they were read. All voxels must be finite.
    geometry : Geometry
        Only its spacing and its direction are used.
    box : 6 ints, optional
        The :func:`~detseg3d.core.body.body_box`. By default it is computed.

    Returns
    -------
    ScanAppearance

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(100, 5, (1, 20, 30, 30)).astype(np.float32)
    >>> scan = measure_appearance(noise, Geometry((20, 30, 30), (3.0, 1.0, 1.0)))
    >>> scan.field_of_view, round(scan.channels[0].noise, 1), [round(mm, 1) for mm in scan.channels[0].detail_mm]
    ((60.0, 30.0, 30.0), 5.0, [1.7, 0.6, 0.6])
    """
    if box is None:
        box = body_box(images)
    extent = [float((box[axis + 3] - box[axis]) * geometry.spacing[axis]) for axis in range(3)]
    cut = box_slices(box)
    return ScanAppearance(
        spacing=geometry.spacing,
        field_of_view=(extent[0], extent[1], extent[2]),
        obliquity=obliquity(geometry),
        channels=tuple(_measure_channel(channel[cut], padding_value(channel), geometry.spacing) for channel in images),
    )


def obliquity(geometry: Geometry) -> float:
    """Return the largest angle in degrees between an axis of the volume and the nearest axis of the patient.

    Examples
    --------
    >>> obliquity(Geometry((1, 1, 1)))
    0.0
    >>> c, s = np.cos(np.pi / 18), np.sin(np.pi / 18)
    >>> round(obliquity(Geometry((1, 1, 1), direction=(c, -s, 0, s, c, 0, 0, 0, 1))), 3)
    10.0
    """
    cosines = np.abs(np.asarray(geometry.direction, np.float64).reshape(3, 3)).max(axis=0)
    return round(float(np.degrees(np.arccos(np.clip(cosines.min(), 0.0, 1.0)))), 4)


def _measure_channel(channel: Array, padding: float | None, spacing: tuple[float, float, float]) -> ChannelAppearance:
    """Measure a channel ``(Z, Y, X)`` that is cropped to the box around the body."""
    sites = _Sites(channel)
    values = sites.values()
    inside = np.ones(values.shape, np.bool_) if padding is None else values != padding
    if not inside.any():
        inside[:] = True
    lowest, highest = float(channel.min()), float(channel.max())
    low, high = plausible_range(values[inside])
    # The value without signal comes from the whole volume: padding, or the lowest value that is not an outlier.
    dark = max(lowest, low) if padding is None else min(max(lowest, low), padding)
    tissue = tissue_mask(values, inside, (low, high), dark)
    assert tissue is not None
    tissue_values = values[tissue].clip(low, high)
    plain = tissue_values[(tissue_values > low) & (tissue_values < high)]
    ordered = np.sort(values, axis=None)
    ordered[0], ordered[-1] = lowest, highest
    varied = tissue & (values > lowest) & (values < highest)
    std = float(plain.std(dtype=np.float64)) if plain.size else 0.0
    return ChannelAppearance(
        voxels=_quantiles(ordered, std),
        tissue=_quantiles(np.sort(tissue_values), std),
        mean=_rounded(float(plain.mean(dtype=np.float64)) if plain.size else lowest, std),
        std=_rounded(std),
        commonest=_rounded(_longest_run(ordered) / ordered.size),
        background=_rounded(1 - float(tissue.mean())),
        layout=_layout(values, std),
        noise=_noise(sites, padding, varied, spacing),
        detail_mm=_detail(sites, padding, varied, spacing),
    )


class _Sites:
    """A regular grid of voxels of a channel ``(Z, Y, X)``; about 40 000 voxels of a large channel."""

    def __init__(self, channel: Array) -> None:
        self.channel = channel
        self._step = max(1, round((channel.size / _SITES) ** (1 / 3)))

    def values(self, offset: tuple[int, int, int] = (0, 0, 0)) -> npt.NDArray[np.float64]:
        """Return the voxels at an offset of -1, 0 or 1 along each axis from the sites, shape ``(z, y, x)``."""
        cuts = []
        for length, shift in zip(self.channel.shape, offset, strict=True):
            # Along an axis with three voxels or more, every site has both neighbours.
            first, last = (1, length - 1) if length >= 3 else (0, length)
            cuts.append(slice(first + shift, last + shift, min(self._step, last - first)))
        return self.channel[tuple(cuts)].astype(np.float64)  # In float64, no sum overflows.


def _layout(values: Array, unit: float = 0.0) -> tuple[float, ...]:
    """Return the means of 4 × 4 × 4 equal parts of ``(z, y, x)``. Parts of a short axis share its values.

    >>> _layout(np.arange(8.0).reshape(8, 1, 1))[::16]
    (0.5, 2.5, 4.5, 6.5)
    """
    for axis, length in enumerate(values.shape):
        edges = np.arange(LAYOUT_CELLS + 1) * length / LAYOUT_CELLS
        first = np.floor(edges[:-1]).astype(int)
        last = np.maximum(np.floor(edges[1:]).astype(int), first + 1)
        parts = [values.take(range(a, b), axis).mean(axis, dtype=np.float64) for a, b in zip(first, last, strict=True)]
        values = np.stack(parts, axis)
    return tuple(_rounded(float(value), unit) for value in values.ravel())


def _detail(sites: _Sites, padding: float | None, varied: Array, spacing: tuple[float, float, float]) -> PerAxis:
    """Return the finest detail along ``(z, y, x)`` in mm: the ratio of first to second differences in the tissue."""
    center = sites.values()
    details: list[float | None] = []
    for axis, length in enumerate(sites.channel.shape):
        if length < 3:
            details.append(None)
            continue
        before, after = sites.values(_step(axis, -1)), sites.values(_step(axis, 1))
        valid = varied if padding is None else varied & (before != padding) & (after != padding)
        first = float(np.abs(after - before).sum(where=valid, dtype=np.float64))
        second = float(np.abs(before + after - 2 * center).sum(where=valid, dtype=np.float64))
        voxels = min(first / second, length) if second > 0 else length
        details.append(_rounded(voxels * spacing[axis]) if first > 0 else None)
    return details[0], details[1], details[2]


def _noise(sites: _Sites, padding: float | None, varied: Array, spacing: tuple[float, float, float]) -> float | None:
    """Estimate the standard deviation of the noise with the stencil [1 -2 1] × [1 -2 1] along the two finest axes.

    The stencil is 0 at edges along either axis (Immerkær 1996), and the median ignores most other edges.
    """
    shape = sites.channel.shape
    axes = sorted((axis for axis in range(3) if shape[axis] >= 3), key=lambda axis: (spacing[axis], -axis))[:2]
    if len(axes) < 2:
        return None
    weights = {-1: 1.0, 0: -2.0, 1: 1.0}
    total, valid = np.zeros(varied.shape), varied.copy()
    for first, second in product(weights, repeat=2):
        offset = [0, 0, 0]
        offset[axes[0]], offset[axes[1]] = first, second
        values = sites.values((offset[0], offset[1], offset[2]))
        total += weights[first] * weights[second] * values
        if padding is not None:
            valid &= values != padding
    if not valid.any():
        return None
    return _rounded(float(np.median(np.abs(total[valid]))) / (_NORMAL_MEDIAN * _STENCIL_GAIN))


def _step(axis: int, sign: int) -> tuple[int, int, int]:
    offset = [0, 0, 0]
    offset[axis] = sign
    return offset[0], offset[1], offset[2]


def _longest_run(ordered: Array) -> int:
    """Count how often the most frequent value occurs in sorted values.

    >>> _longest_run(np.array([0, 1, 1, 1, 2]))
    3
    """
    edges = np.flatnonzero(np.diff(ordered)) + 1
    return int(np.diff(np.concatenate(([0], edges, [ordered.size]))).max())


def _quantiles(ordered: Array, unit: float) -> tuple[float, ...]:
    """Return the quantiles of sorted values at :data:`QUANTILE_LEVELS`, without interpolation."""
    index = np.rint(np.asarray(QUANTILE_LEVELS) * (ordered.size - 1)).astype(np.int64)
    return tuple(_rounded(float(value), unit) for value in ordered[index])


def _rounded(value: float, unit: float = 0.0) -> float:
    """Round to five digits, or to more digits if they are needed to resolve ten-thousandths of ``unit``.

    >>> _rounded(30001.2345), _rounded(30001.2345, 5.0)
    (30001.0, 30001.2345)
    """
    digits = 5
    if unit > 0 and value != 0:
        digits = min(17, max(digits, math.ceil(math.log10(abs(value) / unit)) + 5))
    return float(f"{value:.{digits}g}")
