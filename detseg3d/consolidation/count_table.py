"""Counts of each case for each set of thresholds. Each is computed once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.outcomes import CaseCounts, CaseOutcomes, GroupKey, LesionOutcome, map_cases
from detseg3d.inference.candidates import load_candidates
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.run import Run

__all__ = ["CountTable"]

# Starting worker processes takes seconds. Work that is expected to take less time runs in this process.
_MIN_SECONDS_FOR_WORKERS = 20.0
_SECONDS_PER_COUNT = 0.05  # first estimate; replaced by measured times


@dataclass
class _Work:
    """A case, and the known outcomes of its groups of candidates."""

    case: PreparedCase
    known: dict[GroupKey, tuple[LesionOutcome, ...]]


class CountTable:
    """Counts of each case for each set of thresholds that was evaluated.

    Parameters
    ----------
    cases : sequence of PreparedCase
    plans : Plans
    run : Run

    Attributes
    ----------
    counts : dict of Thresholds to tuple of CaseCounts
        In the order of the cases.
    """

    def __init__(self, cases: Sequence[PreparedCase], plans: Plans, run: Run) -> None:
        self.counts: dict[Thresholds, tuple[CaseCounts, ...]] = {}
        self._works = [_Work(case, {}) for case in cases]
        self._plans, self._run = plans, run
        self._seconds = _SECONDS_PER_COUNT

    def evaluate(self, variants: Sequence[Thresholds], description: str) -> None:
        """Count the lesions for each set of thresholds that was not evaluated before.

        Parameters
        ----------
        variants : sequence of Thresholds
        description : str
            Text of the progress bar.
        """
        new = [thresholds for thresholds in dict.fromkeys(variants) if thresholds not in self.counts]
        if not new:
            return
        counts = len(new) * len(self._works)
        is_long = counts * self._seconds > _MIN_SECONDS_FOR_WORKERS
        run = self._run if is_long else Run(show_progress=self._run.show_progress)
        start = time.perf_counter()
        results = map_cases(
            partial(_count, self._plans, new),
            self._works,
            lambda work: work.case.stored.case_id,
            description,
            run,
        )
        self._seconds = (time.perf_counter() - start) * max(run.processes, 1) / counts
        for work, (_, learned) in zip(self._works, results, strict=True):
            work.known.update(learned)
        counts_of_cases = [of_case for of_case, _ in results]
        for thresholds, of_cases in zip(new, zip(*counts_of_cases, strict=True), strict=True):
            self.counts[thresholds] = of_cases


def _count(
    plans: Plans, variants: Sequence[Thresholds], work: _Work
) -> tuple[list[CaseCounts], dict[GroupKey, tuple[LesionOutcome, ...]]]:
    """Return the counts of a case for each set of thresholds, and the newly computed outcomes of its groups."""
    candidates = load_candidates(work.case.stored.candidates)
    outcomes = CaseOutcomes(candidates, work.case.truth, plans, work.known)
    counts = [outcomes.count(plans.inference.model_copy(update=thresholds.values())) for thresholds in variants]
    return counts, outcomes.new
