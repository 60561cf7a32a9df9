"""Measures by which scans are compared.

Z-score channels are compared as the network sees them. A scan with another unit or another gain is therefore not
unlike the training scans.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from detseg3d.core.arrays import FloatArray
from detseg3d.planning.appearance.scan import (
    LAYOUT_CELLS,
    QUANTILE_LEVELS,
    ChannelAppearance,
    FrozenModel,
    ScanAppearance,
)
from detseg3d.planning.sections import ChannelNormalization

__all__ = [
    "Axis",
    "ChannelReference",
    "Measured",
    "Kind",
    "MeasureKey",
    "RULES",
    "measure_scan",
    "normalized_quantiles",
    "standard_ranks",
]


# Far larger than any measured value, and small enough that no calculation overflows.
Measured = Annotated[float, Field(ge=-1e100, le=1e100)]
Axis = Literal["z", "y", "x"]
# Smallest noise, as a fraction of the standard deviation of the tissue. Less noise makes no difference to a network.
_MIN_NOISE = 0.01
# Higher correlations count as equal, because Fisher's z would magnify differences that mean nothing.
_SAME_LAYOUT = 0.8


class Kind(str, Enum):
    """Kind of a measure. A warning lists its reasons in this order, causes before their consequences."""

    CONSTANT = "constant"
    SPACING = "spacing"
    FIELD_OF_VIEW = "field_of_view"
    OBLIQUITY = "obliquity"
    ABOVE_WINDOW = "above_window"
    BELOW_WINDOW = "below_window"
    CHANNEL_ORDER = "channel_order"
    COMMONEST_VALUE = "commonest_value"
    BACKGROUND = "background"
    LAYOUT = "layout"
    DETAIL = "detail"
    NOISE = "noise"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class ComparisonRule:
    """Rule by which measures of one kind are compared.

    Attributes
    ----------
    slack : float
        Difference that does not matter in practice, on the scale of the comparison.
    unit : str
    scale : {"value", "ratio", "correlation"}
        Differences are taken between values, between their logarithms, or between Fisher's z of correlations.
    low_counts, high_counts : bool
        Whether values that are too low, or too high, count as different.
    """

    slack: float
    unit: str
    scale: Literal["value", "ratio", "correlation"] = "value"
    low_counts: bool = True
    high_counts: bool = True

    def to_scale(self, value: float) -> float:
        """Convert a value of the measure to the scale on which differences are taken."""
        if self.scale == "ratio":
            return math.log(max(value, 1e-9))
        return math.atanh(max(-0.999, min(value, _SAME_LAYOUT))) if self.scale == "correlation" else value

    def from_scale(self, value: float) -> float:
        """Convert a value on the scale of differences to a value of the measure."""
        if self.scale == "ratio":
            return math.exp(min(value, 100.0))
        return math.tanh(value) if self.scale == "correlation" else value


RULES: Final[Mapping[Kind, ComparisonRule]] = {
    Kind.CONSTANT: ComparisonRule(0.5, "share", low_counts=False),
    Kind.SPACING: ComparisonRule(math.log(1.5), "mm", "ratio"),
    Kind.FIELD_OF_VIEW: ComparisonRule(math.log(1.4), "mm", "ratio"),
    Kind.OBLIQUITY: ComparisonRule(15.0, "degrees", low_counts=False),
    Kind.ABOVE_WINDOW: ComparisonRule(0.15, "share"),
    Kind.BELOW_WINDOW: ComparisonRule(0.15, "share"),
    Kind.CHANNEL_ORDER: ComparisonRule(0.1, "standard deviations", high_counts=False),
    Kind.COMMONEST_VALUE: ComparisonRule(0.15, "share"),
    Kind.BACKGROUND: ComparisonRule(0.15, "share"),
    Kind.LAYOUT: ComparisonRule(0.8, "correlation", "correlation", high_counts=False),
    Kind.DETAIL: ComparisonRule(math.log(1.5), "mm", "ratio"),
    Kind.NOISE: ComparisonRule(math.log(3.0), "standard deviations", "ratio"),
    Kind.HISTOGRAM: ComparisonRule(0.2, "standard deviations", low_counts=False),
}


@dataclass(frozen=True)
class MeasureKey:
    """Key of one measure: its kind, and its channel and axis if it has any."""

    kind: Kind
    channel: int | None = None
    axis: Axis | None = None


class ChannelReference(FrozenModel):
    """One channel, averaged over the training scans.

    Attributes
    ----------
    name : str
    normalization : ChannelNormalization
    quantiles : tuple of float or None
        Mean over the scans of the quantiles of the normalised intensities, at
        :data:`~detseg3d.planning.appearance.scan.QUANTILE_LEVELS`. ``None`` if the channel is constant in all scans.
    layout : tuple of float or None
        Mean over the scans of the standardised intensity ranks of the parts of the volume. ``None`` if the channel is
        constant in all scans.
    """

    name: Annotated[str, Field(max_length=1000)]
    normalization: ChannelNormalization
    quantiles: (
        Annotated[tuple[Measured, ...], Field(min_length=len(QUANTILE_LEVELS), max_length=len(QUANTILE_LEVELS))] | None
    )
    layout: Annotated[tuple[Measured, ...], Field(min_length=LAYOUT_CELLS**3, max_length=LAYOUT_CELLS**3)] | None


def measure_scan(
    scan: ScanAppearance, channels: Sequence[ChannelReference], member_of: int = 0
) -> dict[MeasureKey, float]:
    """Return all measures of a scan, as the network sees it.

    Parameters
    ----------
    scan : ScanAppearance
    channels : sequence of ChannelReference
    member_of : int
        Number of scans from which ``channels`` were averaged, if this scan is one of them; otherwise 0. The distance to
        the mean of the other scans is then slightly larger than the distance to ``channels``.

    Returns
    -------
    dict of MeasureKey to float
    """
    measured = dict(_measure_grid(scan))
    for index, channel in enumerate(scan.channels):
        measured[MeasureKey(Kind.CONSTANT, index)] = float(channel.is_constant)
        if not channel.is_constant:
            measured |= _measure_channel(index, channel, channels[index].normalization)
    for index, (channel, reference) in enumerate(zip(scan.channels, channels, strict=True)):
        own = _distance(channel, reference)
        if own is None:
            continue
        # The mean contains this training scan, so its distance to the mean of the other scans is larger.
        own *= member_of / (member_of - 1) if member_of > 1 else 1.0
        measured[MeasureKey(Kind.HISTOGRAM, index)] = own
        others = [_distance(channel, other) for number, other in enumerate(channels) if number != index]
        nearest = min((distance for distance in others if distance is not None), default=None)
        if nearest is not None:
            measured[MeasureKey(Kind.CHANNEL_ORDER, index)] = nearest - own
        if reference.layout is not None and member_of != 1:
            ranks = standard_ranks(channel.layout)
            mean = np.asarray(reference.layout)
            if member_of:
                mean = (member_of * mean - ranks) / (member_of - 1)
            measured[MeasureKey(Kind.LAYOUT, index)] = _correlation(ranks, mean)
    return measured


def _measure_grid(scan: ScanAppearance) -> Iterable[tuple[MeasureKey, float]]:
    axes: tuple[Axis, Axis, Axis] = ("z", "y", "x")
    for axis, spacing, extent in zip(axes, scan.spacing, scan.field_of_view, strict=True):
        yield MeasureKey(Kind.SPACING, axis=axis), spacing
        yield MeasureKey(Kind.FIELD_OF_VIEW, axis=axis), extent
    yield MeasureKey(Kind.OBLIQUITY), scan.obliquity


def _measure_channel(index: int, channel: ChannelAppearance, plan: ChannelNormalization) -> dict[MeasureKey, float]:
    measured = {MeasureKey(Kind.COMMONEST_VALUE, index): channel.commonest}
    if plan.scheme == "ct":
        measured[MeasureKey(Kind.ABOVE_WINDOW, index)] = _share_above(channel.voxels, plan.upper)
        measured[MeasureKey(Kind.BELOW_WINDOW, index)] = _share_above(
            [-v for v in reversed(channel.voxels)], -plan.lower
        )
    else:
        measured[MeasureKey(Kind.BACKGROUND, index)] = channel.background
    axes: tuple[Axis, Axis, Axis] = ("z", "y", "x")
    for axis, detail in zip(axes, channel.detail_mm, strict=True):
        if detail is not None:
            measured[MeasureKey(Kind.DETAIL, index, axis)] = detail
    if channel.noise is not None:
        unit = plan.std if plan.scheme == "ct" else (channel.std or 1.0) if plan.scheme == "zscore" else 1.0
        measured[MeasureKey(Kind.NOISE, index)] = max(channel.noise, _MIN_NOISE * channel.std) / unit
    return measured


def standard_ranks(values: Sequence[float]) -> FloatArray:
    """Return ranks with mean 0 and standard deviation 1. Equal values get their mean rank."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.ravel()]
    ranks -= ranks.mean()
    deviation = float(ranks.std())
    return np.asarray(ranks / deviation if deviation > 0 else ranks, np.float64)


def _correlation(first: FloatArray, second: FloatArray) -> float:
    first, second = first - first.mean(), second - second.mean()
    length = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / length if length > 0 else 0.0


def _share_above(quantiles: Sequence[float], limit: float) -> float:
    """Return the fraction of the voxels above a limit, by interpolation between quantiles.

    >>> ramp = [1000 * level for level in QUANTILE_LEVELS]
    >>> round(_share_above(ramp, 250), 3), _share_above(ramp, 1000), _share_above(ramp, -1)
    (0.75, 0.0, 1.0)
    """
    above = int(np.searchsorted(quantiles, limit, "right"))
    if above in (0, len(quantiles)):
        return 0.0 if above else 1.0
    below, beyond = quantiles[above - 1], quantiles[above]
    part = (limit - below) / (beyond - below)
    return 1 - (QUANTILE_LEVELS[above - 1] + part * (QUANTILE_LEVELS[above] - QUANTILE_LEVELS[above - 1]))


def normalized_quantiles(channel: ChannelAppearance, plan: ChannelNormalization) -> FloatArray:
    """Return the quantiles of the normalised intensities; only tissue counts in a z-score channel."""
    if plan.scheme == "zscore":
        return (np.asarray(channel.tissue) - channel.mean) / (channel.std or 1.0)
    voxels = np.asarray(channel.voxels)
    if plan.scheme == "ct":
        voxels = (np.clip(voxels, plan.lower, plan.upper) - plan.mean) / plan.std
    return voxels


def _distance(channel: ChannelAppearance, reference: ChannelReference) -> float | None:
    """Return the Wasserstein distance of the histograms (mean distance of quantiles) in standard deviations."""
    if channel.is_constant or reference.quantiles is None:
        return None
    levels = np.diff(QUANTILE_LEVELS)
    expected = np.asarray(reference.quantiles)
    unit = 1.0
    if reference.normalization.scheme == "none":
        middle = (expected[1:] + expected[:-1]) / 2
        unit = math.sqrt(float(levels @ (middle - levels @ middle) ** 2)) or 1.0
    differences = np.abs(normalized_quantiles(channel, reference.normalization) - expected)
    return float(levels @ (differences[1:] + differences[:-1])) / 2 / unit
