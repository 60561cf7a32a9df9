"""Counts of every case under every setting that a search asks for; each is made once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.outcomes import CaseCounts, CaseOutcomes, GroupKey, LesionOutcome, for_every_case
from detseg3d.inference.candidates import load_candidates
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.run import Run

__all__ = ["CountTable"]

# Worker processes take seconds to start, each time: what is expected to take less than this is done without.
_WORTH_WORKERS = 20.0
_SECONDS_A_COUNT = 0.05  # a guess, until it has been measured


@dataclass
class _Work:
    """A case, and what is already known of its groups of candidates."""

    case: PreparedCase
    known: dict[GroupKey, tuple[LesionOutcome, ...]]


class CountTable:
    """The counts of every case under every setting that was asked for."""

    def __init__(self, cases: Sequence[PreparedCase], plans: Plans, run: Run) -> None:
        self.counts: dict[Thresholds, tuple[CaseCounts, ...]] = {}
        self._works = [_Work(case, {}) for case in cases]
        self._plans, self._run = plans, run
        self._seconds = _SECONDS_A_COUNT

    def evaluate(self, settings: Sequence[Thresholds], what: str) -> None:
        """Count what has not been counted yet; ``what`` names it in the progress bar."""
        new = [setting for setting in dict.fromkeys(settings) if setting not in self.counts]
        if not new:
            return
        counts = len(new) * len(self._works)
        run = self._run if counts * self._seconds > _WORTH_WORKERS else replace(self._run, processes=0)
        start = time.perf_counter()
        done = for_every_case(
            partial(_count_settings, self._plans, new),
            self._works,
            lambda work: work.case.stored.case_id,
            what,
            run,
        )
        self._seconds = (time.perf_counter() - start) * max(run.processes, 1) / counts
        for work, (_, learnt) in zip(self._works, done, strict=True):
            work.known.update(learnt)
        rows = [of_case for of_case, _ in done]
        for setting, of_cases in zip(new, zip(*rows, strict=True), strict=True):
            self.counts[setting] = of_cases


def _count_settings(
    plans: Plans, settings: Sequence[Thresholds], work: _Work
) -> tuple[list[CaseCounts], dict[GroupKey, tuple[LesionOutcome, ...]]]:
    candidates = load_candidates(work.case.stored.candidates)
    outcomes = CaseOutcomes(candidates, work.case.truth, plans, work.known)
    counts = [outcomes.count(plans.inference.model_copy(update=setting.values())) for setting in settings]
    return counts, outcomes.new
