"""The results that a report shows: of one system, or of several systems side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detseg3d.evaluation.result import Comparison, EvaluationResult, SystemsResult

__all__ = ["Evaluated", "get_nested"]


@dataclass(frozen=True)
class Evaluated:
    """The result of one system, or of several systems on the same cases.

    Attributes
    ----------
    results : dict of str to EvaluationResult
        By the name of the system. The name of a single system is empty.
    comparisons : sequence of Comparison
        Paired comparison of each pair of systems.
    """

    results: Mapping[str, EvaluationResult]
    comparisons: Sequence[Comparison] = ()

    @classmethod
    def of(cls, result: EvaluationResult | SystemsResult) -> Evaluated:
        """Return the results of one system or of several systems."""
        if isinstance(result, SystemsResult):
            return cls(result.systems, result.comparisons)
        return cls({"": result})

    @property
    def several(self) -> bool:
        """Whether there is more than one system."""
        return len(self.results) > 1

    @property
    def first(self) -> EvaluationResult:
        """Result of the first system."""
        return next(iter(self.results.values()))

    @property
    def systems(self) -> SystemsResult:
        """The results as a comparison of systems."""
        return SystemsResult(self.results, tuple(self.comparisons))


def get_nested(data: Any, *keys: str) -> Any:
    """Return the value under ``keys`` in nested dicts, or ``None`` if a key is missing.

    Examples
    --------
    >>> get_nested({"dice": {"mean": 0.5}}, "dice", "mean"), get_nested({"dice": None}, "dice", "mean")
    (0.5, None)
    """
    for key in keys:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data
