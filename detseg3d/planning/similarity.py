"""How unlike the training scans a scan is, measure by measure, and which differences are worth a warning.

The training scans give, for each measure, an interval in which one further scan of their kind is expected: a prediction
interval (Student's t for one further draw). A few scans cannot say how much scans vary. The interval therefore counts
eight assumed scans of usual variation beside them, so that it is wide for a few scans and follows the data for many. It
is never narrower than a difference that does not matter in practice, and it always includes the training scans.

Z-score channels are compared as the network sees them: a scan in other units, or with another gain, is not unlike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.special import stdtrit

from detseg3d.core.arrays import FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.appearance import LAYOUT_CELLS, QUANTILE_LEVELS, ChannelAppearance, ScanAppearance
from detseg3d.planning.limits import Count
from detseg3d.planning.plans import ChannelNormalization
from detseg3d.system.files import read_json, write_json

__all__ = [
    "ChannelReference",
    "Comparison",
    "Kind",
    "MeasureReference",
    "Similarity",
    "TrainingAppearance",
    "load_training_appearance",
    "save_training_appearance",
]

# Far beyond any scan, and small enough that no calculation overflows.
Figure = Annotated[float, Field(ge=-1e100, le=1e100)]
Axis = Literal["z", "y", "x"]

MOST_BYTES: Final = 16 << 20
"""Size of an appearance.json. One of a single channel has some kilobytes."""

# The probability that a scan of the training's kind gets a warning by chance, all measures together.
_FALSE_ALARMS = 0.005
_ASSUMED_SCANS = 8
# The assumed scans vary by this share of what does not matter in practice.
_ASSUMED_VARIATION = 1 / 3
# Noise below this share of the tissue's standard deviation is none, for a network.
_LEAST_NOISE = 0.01
# Correlations beyond it count as equal. Fisher's z would magnify differences that mean nothing.
_SAME_LAYOUT = 0.8


class Kind(str, Enum):
    """What a measure is about. The order is that of the reasons of a warning: causes before what follows from them."""

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
class _Rule:
    """How a kind of measure is judged.

    ``slack`` is the difference that does not matter in practice, on the scale on which differences are taken: of the
    value itself, of its logarithm (a ratio), or of Fisher's z (a correlation).
    """

    slack: float
    unit: str
    scale: Literal["value", "ratio", "correlation"] = "value"
    low_counts: bool = True
    high_counts: bool = True

    def to_scale(self, value: float) -> float:
        if self.scale == "ratio":
            return math.log(max(value, 1e-9))
        return math.atanh(max(-0.999, min(value, _SAME_LAYOUT))) if self.scale == "correlation" else value

    def from_scale(self, value: float) -> float:
        if self.scale == "ratio":
            return math.exp(min(value, 100.0))
        return math.tanh(value) if self.scale == "correlation" else value


_RULES: Final[Mapping[Kind, _Rule]] = {
    Kind.CONSTANT: _Rule(0.5, "share", low_counts=False),
    Kind.SPACING: _Rule(math.log(1.5), "mm", "ratio"),
    Kind.FIELD_OF_VIEW: _Rule(math.log(1.4), "mm", "ratio"),
    Kind.OBLIQUITY: _Rule(15.0, "degrees", low_counts=False),
    Kind.ABOVE_WINDOW: _Rule(0.15, "share"),
    Kind.BELOW_WINDOW: _Rule(0.15, "share"),
    Kind.CHANNEL_ORDER: _Rule(0.1, "standard deviations", high_counts=False),
    Kind.COMMONEST_VALUE: _Rule(0.15, "share"),
    Kind.BACKGROUND: _Rule(0.15, "share"),
    Kind.LAYOUT: _Rule(0.8, "correlation", "correlation", high_counts=False),
    Kind.DETAIL: _Rule(math.log(1.5), "mm", "ratio"),
    Kind.NOISE: _Rule(math.log(3.0), "standard deviations", "ratio"),
    Kind.HISTOGRAM: _Rule(0.2, "standard deviations", low_counts=False),
}


@dataclass(frozen=True)
class _Key:
    """One measure: its kind, the channel and the axis that it is of, if any."""

    kind: Kind
    channel: int | None = None
    axis: Axis | None = None


# -- The reference -----------------------------------------------------------------------------------------------------


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class MeasureReference(_Frozen):
    """One measure over the training scans.

    ``mean`` and ``standard_deviation`` are those of the logarithm, if the measure is compared by ratio (spacing, field
    of view, detail, noise), and those of Fisher's z, if it is a correlation (layout). ``minimum``, ``median`` and
    ``maximum`` are in the unit of the measure.
    """

    kind: Kind
    channel: Annotated[int, Field(ge=0, le=999)] | None
    axis: Axis | None
    cases: Count
    mean: Figure
    standard_deviation: Annotated[float, Field(ge=0, le=1e100)]
    minimum: Figure
    median: Figure
    maximum: Figure


class ChannelReference(_Frozen):
    """A channel over the training scans.

    ``quantiles`` are the mean over the scans of the quantiles of the normalised intensities, at
    :data:`~detseg3d.planning.appearance.QUANTILE_LEVELS`. ``layout`` is the mean of the standardised ranks of the parts
    of the volume by intensity. Both are ``None`` if the channel is constant in all scans.
    """

    name: Annotated[str, Field(max_length=1000)]
    normalization: ChannelNormalization
    quantiles: (
        Annotated[tuple[Figure, ...], Field(min_length=len(QUANTILE_LEVELS), max_length=len(QUANTILE_LEVELS))] | None
    )
    layout: Annotated[tuple[Figure, ...], Field(min_length=LAYOUT_CELLS**3, max_length=LAYOUT_CELLS**3)] | None


class TrainingAppearance(_Frozen):
    """What the scans of a training look like; it names no case, and its size does not grow with their number.

    Attributes
    ----------
    cases : int
    channels : tuple of ChannelReference
    measures : tuple of MeasureReference
    """

    version: Literal[1] = 1
    cases: Count
    channels: Annotated[tuple[ChannelReference, ...], Field(min_length=1, max_length=1000)]
    measures: Annotated[tuple[MeasureReference, ...], Field(max_length=20_000)]

    @classmethod
    def of(
        cls,
        scans: Sequence[ScanAppearance],
        channel_names: Sequence[str],
        normalization: Sequence[ChannelNormalization],
    ) -> TrainingAppearance:
        """Sum up the training scans.

        Parameters
        ----------
        scans : sequence of ScanAppearance
            One or more.
        channel_names : sequence of str
        normalization : sequence of ChannelNormalization
            Of the plans: the scans are compared as the network sees them.
        """
        if not scans:
            raise ValueError("an appearance is summed up from one scan or more")
        channels = []
        for index, (name, plan) in enumerate(zip(channel_names, normalization, strict=True)):
            there = [scan.channels[index] for scan in scans if not scan.channels[index].is_constant]
            quantiles = _mean([_normalized(channel, plan) for channel in there])
            layout = _mean([_standard_ranks(channel.layout) for channel in there])
            channels.append(ChannelReference(name=name, normalization=plan, quantiles=quantiles, layout=layout))
        values: dict[_Key, list[float]] = {}
        for scan in scans:
            for key, value in _measure(scan, channels, len(scans)).items():
                values.setdefault(key, []).append(value)
        measures = tuple(_summarize(key, found) for key, found in values.items())
        return cls(cases=len(scans), channels=tuple(channels), measures=measures)

    @classmethod
    def pooled(cls, references: Sequence[TrainingAppearance]) -> TrainingAppearance:
        """One reference for networks that predict together.

        Parameters
        ----------
        references : sequence of TrainingAppearance
            With the same channels. The folds share most of their scans, so the number of scans is that of the largest.
        """
        if len(references) == 1:
            return references[0]
        channels = []
        for versions in zip(*(reference.channels for reference in references), strict=True):
            quantiles = _mean([channel.quantiles for channel in versions if channel.quantiles is not None])
            layout = _mean([channel.layout for channel in versions if channel.layout is not None])
            channels.append(versions[0].model_copy(update={"quantiles": quantiles, "layout": layout}))
        same: dict[_Key, list[MeasureReference]] = {}
        for reference in references:
            for measure in reference.measures:
                same.setdefault(_Key(measure.kind, measure.channel, measure.axis), []).append(measure)
        return cls(
            cases=max(reference.cases for reference in references),
            channels=tuple(channels),
            measures=tuple(_pool(measures) for measures in same.values()),
        )

    def compare(self, scan: ScanAppearance) -> Similarity:
        """Compare a scan with the training scans.

        Parameters
        ----------
        scan : ScanAppearance
            With as many channels.
        """
        values = _measure(scan, self.channels)
        references = {_Key(measure.kind, measure.channel, measure.axis): measure for measure in self.measures}
        # What no training scan could be measured for is not compared.
        shared = [key for key in values if key in references]
        comparisons = []
        for key in shared:
            low, high = _interval(references[key], len(shared))
            comparisons.append(self._comparison(key, values[key], references[key], low, high))
        return Similarity(self.cases, tuple(comparisons))

    def _comparison(
        self, key: _Key, value: float, reference: MeasureReference, low: float | None, high: float | None
    ) -> Comparison:
        channel = None if key.channel is None else self.channels[key.channel].name
        if key.kind is Kind.CHANNEL_ORDER:
            # A channel that still looks most like itself is in order, however little.
            low = min(0.0, low if low is not None else 0.0)
        return Comparison(
            kind=key.kind,
            channel=channel if len(self.channels) > 1 else None,
            axis=key.axis,
            value=value,
            unit=_RULES[key.kind].unit,
            training_minimum=reference.minimum,
            training_median=reference.median,
            training_maximum=reference.maximum,
            lowest_expected=low,
            highest_expected=high,
        )


def _mean(rows: Sequence[npt.ArrayLike]) -> tuple[float, ...] | None:
    return tuple(float(value) for value in np.mean(np.asarray(rows, np.float64), axis=0)) if rows else None


def _summarize(key: _Key, values: Sequence[float]) -> MeasureReference:
    scaled = [_RULES[key.kind].to_scale(value) for value in values]
    return MeasureReference(
        kind=key.kind,
        channel=key.channel,
        axis=key.axis,
        cases=len(values),
        mean=float(np.mean(scaled)),
        standard_deviation=float(np.std(scaled, ddof=1)) if len(values) > 1 else 0.0,
        minimum=float(min(values)),
        median=float(np.median(values)),
        maximum=float(max(values)),
    )


def _pool(measures: Sequence[MeasureReference]) -> MeasureReference:
    """One measure over several sets of training scans, each of which counts by its number of scans."""
    weights = np.array([measure.cases for measure in measures], float)
    weights /= weights.sum()
    means = np.array([measure.mean for measure in measures])
    mean = float(weights @ means)
    variance = float(
        weights @ (np.array([measure.standard_deviation for measure in measures]) ** 2 + (means - mean) ** 2)
    )
    return measures[0].model_copy(
        update={
            "cases": max(measure.cases for measure in measures),
            "mean": mean,
            "standard_deviation": math.sqrt(variance),
            "minimum": min(measure.minimum for measure in measures),
            "median": float(weights @ np.array([measure.median for measure in measures])),
            "maximum": max(measure.maximum for measure in measures),
        }
    )


def _interval(reference: MeasureReference, measures: int) -> tuple[float | None, float | None]:
    """Lowest and highest value that is expected of one further scan, in the unit of the measure; ``None``: no limit.

    Parameters
    ----------
    reference : MeasureReference
    measures : int
        That are compared: the probability of a false alarm is shared among them.
    """
    rule = _RULES[reference.kind]
    half = rule.slack
    if reference.kind is not Kind.CONSTANT:
        drawn = reference.cases - 1
        freedom = _ASSUMED_SCANS + drawn
        assumed = _ASSUMED_VARIATION * rule.slack
        variance = (_ASSUMED_SCANS * assumed**2 + drawn * reference.standard_deviation**2) / freedom
        quantile = float(stdtrit(freedom, 1 - _FALSE_ALARMS / (2 * measures)))
        half = max(half, quantile * math.sqrt(variance * (1 + 1 / reference.cases)))
    low = min(rule.from_scale(reference.mean - half), reference.minimum)
    high = max(rule.from_scale(reference.mean + half), reference.maximum)
    return low if rule.low_counts else None, high if rule.high_counts else None


# -- Measures of one scan ----------------------------------------------------------------------------------------------


def _measure(scan: ScanAppearance, channels: Sequence[ChannelReference], member_of: int = 0) -> dict[_Key, float]:
    """All measures of a scan, as the network of these channels sees it.

    Parameters
    ----------
    scan : ScanAppearance
    channels : sequence of ChannelReference
    member_of : int
        Number of the scans that ``channels`` are the mean of, if this scan is one of them: the distance to the others
        is then a little larger than that to the mean.
    """
    measured = dict(_measure_grid(scan))
    for index, channel in enumerate(scan.channels):
        measured[_Key(Kind.CONSTANT, index)] = float(channel.is_constant)
        if not channel.is_constant:
            measured |= _measure_channel(index, channel, channels[index].normalization)
    for index, (channel, reference) in enumerate(zip(scan.channels, channels, strict=True)):
        own = _distance(channel, reference)
        if own is None:
            continue
        # The mean includes a scan of the training itself: its distance to the mean of the others is larger.
        own *= member_of / (member_of - 1) if member_of > 1 else 1.0
        measured[_Key(Kind.HISTOGRAM, index)] = own
        others = [_distance(channel, other) for number, other in enumerate(channels) if number != index]
        nearest = min((distance for distance in others if distance is not None), default=None)
        if nearest is not None:
            measured[_Key(Kind.CHANNEL_ORDER, index)] = nearest - own
        if reference.layout is not None and member_of != 1:
            ranks = _standard_ranks(channel.layout)
            mean = np.asarray(reference.layout)
            if member_of:
                mean = (member_of * mean - ranks) / (member_of - 1)
            measured[_Key(Kind.LAYOUT, index)] = _correlation(ranks, mean)
    return measured


def _measure_grid(scan: ScanAppearance) -> Iterable[tuple[_Key, float]]:
    axes: tuple[Axis, Axis, Axis] = ("z", "y", "x")
    for axis, spacing, extent in zip(axes, scan.spacing, scan.field_of_view, strict=True):
        yield _Key(Kind.SPACING, axis=axis), spacing
        yield _Key(Kind.FIELD_OF_VIEW, axis=axis), extent
    yield _Key(Kind.OBLIQUITY), scan.obliquity


def _measure_channel(index: int, channel: ChannelAppearance, plan: ChannelNormalization) -> dict[_Key, float]:
    measured = {_Key(Kind.COMMONEST_VALUE, index): channel.commonest}
    if plan.scheme == "ct":
        measured[_Key(Kind.ABOVE_WINDOW, index)] = _share_above(channel.voxels, plan.upper)
        measured[_Key(Kind.BELOW_WINDOW, index)] = _share_above([-v for v in reversed(channel.voxels)], -plan.lower)
    else:
        measured[_Key(Kind.BACKGROUND, index)] = channel.background
    axes: tuple[Axis, Axis, Axis] = ("z", "y", "x")
    for axis, detail in zip(axes, channel.detail_mm, strict=True):
        if detail is not None:
            measured[_Key(Kind.DETAIL, index, axis)] = detail
    if channel.noise is not None:
        unit = plan.std if plan.scheme == "ct" else (channel.std or 1.0) if plan.scheme == "zscore" else 1.0
        measured[_Key(Kind.NOISE, index)] = max(channel.noise, _LEAST_NOISE * channel.std) / unit
    return measured


def _standard_ranks(values: Sequence[float]) -> FloatArray:
    """Ranks with mean 0 and standard deviation 1, the mean rank for equal values; all 0 if all are equal."""
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
    """Share of the voxels above a limit.

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


def _normalized(channel: ChannelAppearance, plan: ChannelNormalization) -> FloatArray:
    """Quantiles of the intensities as the network sees them; of a z-score channel, of its tissue."""
    if plan.scheme == "zscore":
        return (np.asarray(channel.tissue) - channel.mean) / (channel.std or 1.0)
    voxels = np.asarray(channel.voxels)
    if plan.scheme == "ct":
        voxels = (np.clip(voxels, plan.lower, plan.upper) - plan.mean) / plan.std
    return voxels


def _distance(channel: ChannelAppearance, reference: ChannelReference) -> float | None:
    """Mean distance of the quantiles (the Wasserstein distance of the histograms), in standard deviations."""
    if channel.is_constant or reference.quantiles is None:
        return None
    levels = np.diff(QUANTILE_LEVELS)
    expected = np.asarray(reference.quantiles)
    unit = 1.0
    if reference.normalization.scheme == "none":
        middle = (expected[1:] + expected[:-1]) / 2
        unit = math.sqrt(float(levels @ (middle - levels @ middle) ** 2)) or 1.0
    apart = np.abs(_normalized(channel, reference.normalization) - expected)
    return float(levels @ (apart[1:] + apart[:-1])) / 2 / unit


# -- The result --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """One measure of a scan beside the training scans.

    Attributes
    ----------
    kind : Kind
    channel : str or None
        Name of the channel, if the measure is of one channel and there are several.
    axis : {"z", "y", "x"} or None
    value : float
        Of the scan, in ``unit``.
    unit : str
    training_minimum, training_median, training_maximum : float
    lowest_expected, highest_expected : float or None
        The scan is unlike the training scans outside these; ``None`` is no limit.
    """

    kind: Kind
    channel: str | None
    axis: Axis | None
    value: float
    unit: str
    training_minimum: float
    training_median: float
    training_maximum: float
    lowest_expected: float | None
    highest_expected: float | None

    @property
    def unlike(self) -> bool:
        """Whether the scan differs from the training scans by more than scans of one kind do."""
        low, high = self.lowest_expected, self.highest_expected
        return (low is not None and self.value < low) or (high is not None and self.value > high)

    @property
    def excess(self) -> float:
        """How far the value lies outside, as a share of the distance between the median and the limit."""
        limit = self.lowest_expected if self.value < self.training_median else self.highest_expected
        if limit is None or not self.unlike:
            return 0.0
        scale = _RULES[self.kind].to_scale
        middle, edge = scale(self.training_median), scale(limit)
        return (scale(self.value) - edge) / (edge - middle) if edge != middle else math.inf

    def describe(self) -> str:
        """The difference in words, with figures."""
        return _WORDS[self.kind](self)


@dataclass(frozen=True)
class Similarity:
    """A scan beside the training scans.

    Attributes
    ----------
    cases : int
        Number of the training scans.
    comparisons : tuple of Comparison
    """

    cases: int
    comparisons: tuple[Comparison, ...]

    @property
    def unlike(self) -> bool:
        """Whether the scan is unlike the training scans in any measure."""
        return any(comparison.unlike for comparison in self.comparisons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Each kind of difference in words; causes before what follows from them, of each kind the largest."""
        worst: dict[tuple[Kind, str | None], Comparison] = {}
        for comparison in self.comparisons:
            key = (comparison.kind, comparison.channel)
            if comparison.unlike and (key not in worst or comparison.excess > worst[key].excess):
                worst[key] = comparison
        return tuple(comparison.describe() for comparison in sorted(worst.values(), key=_rank))

    def summary(self, most: int = 2) -> str:
        """The first reasons in one line; empty if the scan is like the training scans."""
        reasons = self.reasons
        more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
        return "; ".join(reasons[:most]) + more

    def to_json(self) -> dict[str, Any]:
        """The entry ``similarity`` of ``rois/CASE.json``."""
        return {
            "unlike_training": self.unlike,
            "reasons": list(self.reasons),
            "training_cases": self.cases,
            "measures": [
                {
                    "kind": comparison.kind.value,
                    "channel": comparison.channel,
                    "axis": comparison.axis,
                    "value": comparison.value,
                    "unit": comparison.unit,
                    "training": {
                        "minimum": comparison.training_minimum,
                        "median": comparison.training_median,
                        "maximum": comparison.training_maximum,
                    },
                    "expected": [comparison.lowest_expected, comparison.highest_expected],
                    "unlike_training": comparison.unlike,
                }
                for comparison in self.comparisons
            ],
        }


def _rank(comparison: Comparison) -> tuple[float, float]:
    """Place among the reasons of a warning: by kind, then by size. Noise causes fine detail, so it comes first then."""
    order = list(Kind)
    noisy = comparison.kind is Kind.DETAIL and comparison.value < comparison.training_median
    return order.index(Kind.NOISE) + 0.5 if noisy else order.index(comparison.kind), -comparison.excess


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _percent(comparison: Comparison) -> tuple[str, str]:
    low, high = (f"{100 * value:.0f} %" for value in (comparison.training_minimum, comparison.training_maximum))
    return f"{100 * comparison.value:.0f} %", _range(low, high)


def _amount(comparison: Comparison, unit: str) -> tuple[str, str]:
    low, high = (f"{value:.2g}" for value in (comparison.training_minimum, comparison.training_maximum))
    if comparison.training_minimum >= 10:
        low, high = (f"{value:.0f}" for value in (comparison.training_minimum, comparison.training_maximum))
    value = f"{comparison.value:.0f}" if comparison.value >= 10 else f"{comparison.value:.2g}"
    return f"{value} {unit}", f"{_range(low, high)} {unit}"


def _of(comparison: Comparison) -> str:
    return "" if comparison.channel is None else f" of channel {comparison.channel}"


def _share(text: str) -> Any:
    def describe(comparison: Comparison) -> str:
        value, training = _percent(comparison)
        return f"{value} of the voxels{_of(comparison)} {text}; {training} did there"

    return describe


def _length(name: str) -> Any:
    def describe(comparison: Comparison) -> str:
        value, training = _amount(comparison, "mm")
        return f"{name}{_of(comparison)} along {comparison.axis} is {value}; {training} in the training"

    return describe


def _detail_words(comparison: Comparison) -> str:
    value, training = _amount(comparison, "mm")
    blurred = comparison.value > comparison.training_median
    cause = "thick slices or blur" if blurred else "noise or finer slices"
    return (
        f"the finest detail{_of(comparison)} along {comparison.axis} is {value}, as with {cause}; "
        f"{training} in the training"
    )


def _constant(comparison: Comparison) -> str:
    return f"all voxels{_of(comparison)} have one and the same value"


def _tilt(comparison: Comparison) -> str:
    value, training = f"{comparison.value:.0f}°", f"{comparison.training_maximum:.0f}°"
    return f"the volume is tilted by {value} against the axes of the patient; by at most {training} in the training"


def _channel_order(comparison: Comparison) -> str:
    return f"the intensities{_of(comparison)} look more like those of another channel of the training"


def _layout_words(comparison: Comparison) -> str:
    return (
        f"bright and dark places{_of(comparison)} lie elsewhere than in the training: their correlation is "
        f"{comparison.value:.2f}; at least {comparison.training_minimum:.2f} there"
    )


def _noise_words(comparison: Comparison) -> str:
    ratio, low, high = (
        value / comparison.training_median
        for value in (comparison.value, comparison.training_minimum, comparison.training_maximum)
    )
    return (
        f"the noise{_of(comparison)} is {ratio:.2g} times that of the usual training scan; "
        f"{_range(f'{low:.2g}', f'{high:.2g}')} times in the training"
    )


def _histogram_words(comparison: Comparison) -> str:
    return (
        f"the normalised intensities{_of(comparison)} lie {comparison.value:.2g} standard deviations from those of the "
        f"training, on average; at most {comparison.training_maximum:.2g} there"
    )


_WORDS: Final[Mapping[Kind, Any]] = {
    Kind.CONSTANT: _constant,
    Kind.SPACING: _length("the spacing"),
    Kind.FIELD_OF_VIEW: _length("the field of view"),
    Kind.OBLIQUITY: _tilt,
    Kind.ABOVE_WINDOW: _share("lie above the CT window of the training"),
    Kind.BELOW_WINDOW: _share("lie below the CT window of the training"),
    Kind.CHANNEL_ORDER: _channel_order,
    Kind.COMMONEST_VALUE: _share("have one and the same value, as a masked background has"),
    Kind.BACKGROUND: _share("are background"),
    Kind.LAYOUT: _layout_words,
    Kind.DETAIL: _detail_words,
    Kind.NOISE: _noise_words,
    Kind.HISTOGRAM: _histogram_words,
}


# -- Files -------------------------------------------------------------------------------------------------------------


def load_training_appearance(path: str | Path) -> TrainingAppearance:
    """Read and validate an appearance.json.

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged.
    """
    try:
        return TrainingAppearance.model_validate(read_json(path, MOST_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(the whole)"
        raise DetSeg3DError(
            f"the file does not describe the training scans: {where}: {first['msg']}",
            file=path,
            remedy="write it again with detseg3d_train and --val",
        ) from error


def save_training_appearance(appearance: TrainingAppearance, path: str | Path) -> None:
    """Write an appearance.json atomically."""
    write_json(appearance.model_dump(mode="json"), path)
