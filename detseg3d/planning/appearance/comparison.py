"""The comparison of a scan with the training scans, and the reasons for a warning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from detseg3d.planning.appearance.measures import RULES, Axis, Kind
from detseg3d.planning.appearance.wording import WORDS
from detseg3d.system.json_records import JsonRecord

__all__ = ["Comparison", "Difference", "Similarity"]


@dataclass(frozen=True)
class Difference(JsonRecord):
    """A kind of measure in which a scan is unlike the training scans, without its channel and its axis.

    Attributes
    ----------
    kind : Kind
    is_higher : bool
        Whether the value of the scan is higher than the values of the training scans.
    size : float
        Distance of the scan from the median training scan, on the scale of the comparison (for example the logarithm
        of a ratio). Sizes of one kind can be compared with each other, sizes of different kinds cannot.
    """

    kind: Kind
    is_higher: bool
    size: float


@dataclass(frozen=True)
class Comparison:
    """One measure of a scan, compared with the training scans.

    Attributes
    ----------
    kind : Kind
    channel : str or None
        Name of the channel, if the measure belongs to one of several channels.
    axis : {"z", "y", "x"} or None
    value : float
        Value of the scan in ``unit``.
    unit : str
    training_minimum, training_median, training_maximum : float
    lowest_expected, highest_expected : float or None
        Outside these limits, the scan is unlike the training scans. ``None`` means no limit.
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
        """True if the scan differs from the training scans more than scans of one kind differ."""
        low, high = self.lowest_expected, self.highest_expected
        return (low is not None and self.value < low) or (high is not None and self.value > high)

    @property
    def excess(self) -> float:
        """Distance beyond the limit, as a fraction of the distance between the median and the limit."""
        limit = self.lowest_expected if self.value < self.training_median else self.highest_expected
        if limit is None or not self.unlike:
            return 0.0
        scale = RULES[self.kind].to_scale
        middle, edge = scale(self.training_median), scale(limit)
        return (scale(self.value) - edge) / (edge - middle) if edge != middle else math.inf

    @property
    def difference(self) -> Difference:
        """The difference from the median training scan, without channel and axis."""
        scale = RULES[self.kind].to_scale
        distance = scale(self.value) - scale(self.training_median)
        return Difference(self.kind, distance > 0, abs(distance))

    def describe(self) -> str:
        """Describe the difference in words and numbers."""
        return WORDS[self.kind](self)


@dataclass(frozen=True)
class Similarity:
    """A scan compared with the training scans.

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
        """True if the scan is unlike the training scans in at least one measure."""
        return any(comparison.unlike for comparison in self.comparisons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The largest difference of each kind in words, causes before their consequences."""
        worst: dict[tuple[Kind, str | None], Comparison] = {}
        for comparison in self.comparisons:
            key = (comparison.kind, comparison.channel)
            if comparison.unlike and (key not in worst or comparison.excess > worst[key].excess):
                worst[key] = comparison
        return tuple(comparison.describe() for comparison in sorted(worst.values(), key=_rank))

    @property
    def differences(self) -> tuple[Difference, ...]:
        """The kinds of measures in which the scan is unlike the training scans, with the largest size of each."""
        largest: dict[tuple[Kind, bool], Difference] = {}
        for difference in (comparison.difference for comparison in self.comparisons if comparison.unlike):
            key = (difference.kind, difference.is_higher)
            if key not in largest or difference.size > largest[key].size:
                largest[key] = difference
        return tuple(largest.values())

    def summary(self, limit: int = 2) -> str:
        """Return the first reasons in one line; empty if the scan is similar to the training scans."""
        reasons = self.reasons
        more = f"; and {len(reasons) - limit} more" if len(reasons) > limit else ""
        return "; ".join(reasons[:limit]) + more

    def to_json(self) -> dict[str, Any]:
        """Return the entry ``similarity`` of ``rois/CASE.json``."""
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
    """Return the sort key of a reason: by kind, then by size. Noise causes fine detail, so noise comes before it."""
    order = list(Kind)
    noisy = comparison.kind is Kind.DETAIL and comparison.value < comparison.training_median
    return order.index(Kind.NOISE) + 0.5 if noisy else order.index(comparison.kind), -comparison.excess
