"""Summarise the appearance of the training scans, and compare other scans with it.

For each measure, the training scans give a prediction interval: the interval in which one further scan of their kind is
expected (Student's t for one further draw). The variance of a few scans is uncertain. Therefore the interval also
counts eight assumed scans of usual variation, so that it is wide for a few scans and follows the data for many scans.
The interval is never narrower than a difference that does not matter in practice, and it always contains the training
scans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError
from scipy.special import stdtrit

from detseg3d.core.errors import DetSeg3DError
from detseg3d.planning.appearance.comparison import Comparison, Similarity
from detseg3d.planning.appearance.measures import (
    RULES,
    Axis,
    ChannelReference,
    Kind,
    Measured,
    MeasureKey,
    measure_scan,
    normalized_quantiles,
    standard_ranks,
)
from detseg3d.planning.appearance.scan import FrozenModel, ScanAppearance
from detseg3d.planning.limits import Count
from detseg3d.planning.sections import ChannelNormalization
from detseg3d.system.json_files import read_json, write_json

__all__ = ["MeasureReference", "TrainingAppearance", "load_training_appearance", "save_training_appearance"]


MAX_APPEARANCE_BYTES: Final = 16 << 20
"""Largest appearance.json that is read. A file of one channel has some kilobytes."""
# Probability that a scan of the same kind as the training scans gets a warning by chance, over all measures.
_FALSE_ALARMS = 0.005
_ASSUMED_SCANS = 8
# Standard deviation of the assumed scans, as a fraction of the difference that does not matter in practice.
_ASSUMED_VARIATION = 1 / 3


class MeasureReference(FrozenModel):
    """Distribution of one measure over the training scans.

    If the measure is compared by ratio (spacing, field of view, detail, noise), ``mean`` and ``standard_deviation`` are
    computed from its logarithm. If the measure is a correlation (layout), they are computed from Fisher's z.
    ``minimum``, ``median`` and ``maximum`` are in the unit of the measure.
    """

    kind: Kind
    channel: Annotated[int, Field(ge=0, le=999)] | None
    axis: Axis | None
    cases: Count
    mean: Measured
    standard_deviation: Annotated[float, Field(ge=0, le=1e100)]
    minimum: Measured
    median: Measured
    maximum: Measured


class TrainingAppearance(FrozenModel):
    """Appearance of the scans of a training. It names no case, and its size does not depend on the number of scans.

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
        """Summarise the training scans.

        Parameters
        ----------
        scans : sequence of ScanAppearance
            At least one scan.
        channel_names : sequence of str
        normalization : sequence of ChannelNormalization
            Normalisation of each channel in the plans, because scans are compared as the network sees them.

        Returns
        -------
        TrainingAppearance

        Raises
        ------
        ValueError
            If there is no scan.
        """
        if not scans:
            raise ValueError("at least one scan is needed")
        channels = []
        for index, (name, plan) in enumerate(zip(channel_names, normalization, strict=True)):
            varied = [scan.channels[index] for scan in scans if not scan.channels[index].is_constant]
            quantiles = _mean([normalized_quantiles(channel, plan) for channel in varied])
            layout = _mean([standard_ranks(channel.layout) for channel in varied])
            channels.append(ChannelReference(name=name, normalization=plan, quantiles=quantiles, layout=layout))
        values: dict[MeasureKey, list[float]] = {}
        for scan in scans:
            for key, value in measure_scan(scan, channels, len(scans)).items():
                values.setdefault(key, []).append(value)
        measures = tuple(_summarize(key, observed) for key, observed in values.items())
        return cls(cases=len(scans), channels=tuple(channels), measures=measures)

    @classmethod
    def pooled(cls, references: Sequence[TrainingAppearance]) -> TrainingAppearance:
        """Combine the references of networks that predict together.

        Parameters
        ----------
        references : sequence of TrainingAppearance
            References with the same channels. Folds share most of their scans, so the largest number of scans counts.

        Returns
        -------
        TrainingAppearance
        """
        if len(references) == 1:
            return references[0]
        channels = []
        for versions in zip(*(reference.channels for reference in references), strict=True):
            quantiles = _mean([channel.quantiles for channel in versions if channel.quantiles is not None])
            layout = _mean([channel.layout for channel in versions if channel.layout is not None])
            channels.append(versions[0].model_copy(update={"quantiles": quantiles, "layout": layout}))
        same: dict[MeasureKey, list[MeasureReference]] = {}
        for reference in references:
            for measure in reference.measures:
                same.setdefault(MeasureKey(measure.kind, measure.channel, measure.axis), []).append(measure)
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
            A scan with the same number of channels.

        Returns
        -------
        Similarity
        """
        values = measure_scan(scan, self.channels)
        references = {MeasureKey(measure.kind, measure.channel, measure.axis): measure for measure in self.measures}
        # Measures without a value in any training scan are not compared.
        shared = [key for key in values if key in references]
        comparisons = []
        for key in shared:
            low, high = _interval(references[key], len(shared))
            comparisons.append(self._comparison(key, values[key], references[key], low, high))
        return Similarity(self.cases, tuple(comparisons))

    def _comparison(
        self, key: MeasureKey, value: float, reference: MeasureReference, low: float | None, high: float | None
    ) -> Comparison:
        channel = None if key.channel is None else self.channels[key.channel].name
        if key.kind is Kind.CHANNEL_ORDER:
            # The order of the channels is right if a channel is more similar to itself than to any other channel.
            low = min(0.0, low if low is not None else 0.0)
        return Comparison(
            kind=key.kind,
            channel=channel if len(self.channels) > 1 else None,
            axis=key.axis,
            value=value,
            unit=RULES[key.kind].unit,
            training_minimum=reference.minimum,
            training_median=reference.median,
            training_maximum=reference.maximum,
            lowest_expected=low,
            highest_expected=high,
        )


def _mean(rows: Sequence[npt.ArrayLike]) -> tuple[float, ...] | None:
    return tuple(float(value) for value in np.mean(np.asarray(rows, np.float64), axis=0)) if rows else None


def _summarize(key: MeasureKey, values: Sequence[float]) -> MeasureReference:
    scaled = [RULES[key.kind].to_scale(value) for value in values]
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
    """Combine one measure over several sets of training scans, weighted by their numbers of scans."""
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
    """Return the lowest and the highest expected value of one further scan; ``None`` means no limit.

    Parameters
    ----------
    reference : MeasureReference
    measures : int
        Number of measures that are compared, among which the probability of a false alarm is divided.
    """
    rule = RULES[reference.kind]
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


def load_training_appearance(path: str | Path) -> TrainingAppearance:
    """Read and validate an appearance.json.

    Returns
    -------
    TrainingAppearance

    Raises
    ------
    DetSeg3DError
        If the file is missing or damaged.
    """
    try:
        return TrainingAppearance.model_validate(read_json(path, MAX_APPEARANCE_BYTES))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "(the whole)"
        raise DetSeg3DError(
            f"the file does not describe the training scans: {field}: {first['msg']}",
            file=path,
            remedy="write it again with detseg3d_train and --val",
        ) from error


def save_training_appearance(appearance: TrainingAppearance, path: str | Path) -> None:
    """Write an appearance.json atomically."""
    write_json(appearance.model_dump(mode="json"), path)
