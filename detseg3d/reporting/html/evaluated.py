"""The results that a report shows, for one system or for several systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from detseg3d.evaluation.result import Comparison, EvaluationResult, SystemsResult

__all__ = ["Evaluated"]


@dataclass(frozen=True)
class Evaluated:
    """The result of one system, or of several systems on the same cases.

    Attributes
    ----------
    results : dict of str to EvaluationResult
        Result of each system, by the name of the system. If there is only one system, its name is empty.
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
        """True if there is more than one system."""
        return len(self.results) > 1

    @property
    def first(self) -> EvaluationResult:
        """Result of the first system."""
        return next(iter(self.results.values()))

    @property
    def systems(self) -> SystemsResult:
        """Results as a :class:`SystemsResult`, also for a single system."""
        return SystemsResult(self.results, tuple(self.comparisons))
