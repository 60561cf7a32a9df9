"""Search for thresholds that are good on unchanged and on shifted scans.

A shift lowers the scores of lesions. Thresholds that are best on unchanged scans may then reject most lesions of a
shifted scan. The robust thresholds maximise the mean of the objective on unchanged and on shifted scans. They may cost
at most :data:`MAX_HOME_LOSS` of the F1 on unchanged scans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from detseg3d.consolidation.cases import PreparedCase
from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.gain import ONE_STANDARD_ERROR, PatientResamples, ResampledMetrics
from detseg3d.consolidation.goals import GoalChoice, JudgedCases
from detseg3d.consolidation.objective import Objective, mean_metrics, pool_counts
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.search_state import ROBUST_STEPS, SearchState, take_steps
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.evaluation.cross_validation import PooledMetrics
from detseg3d.planning.thresholds import Thresholds

__all__ = ["MAX_HOME_LOSS", "ShiftedSearch", "search_robust"]

MAX_HOME_LOSS = 0.01
"""Largest loss of F1 on unchanged scans that robust thresholds may cost."""


@dataclass(frozen=True)
class ShiftedSearch:
    """Unchanged and shifted scans of a robust search, with the group of each and the tables of their counts."""

    cases: Sequence[PreparedCase]
    groups: Sequence[str]
    table: CountTable
    shifted: Sequence[PreparedCase]
    shifted_groups: Sequence[str]
    shifted_table: CountTable

    def evaluate(self, thresholds: Sequence[Thresholds], description: str) -> None:
        """Count the lesions of all scans for each set of thresholds."""
        for table in (self.table, self.shifted_table):
            table.evaluate(thresholds, description)

    def state(self, home: SearchState, start: Thresholds, left_out: str | None) -> SearchState:
        """Return a search that begins with the thresholds of the goal home, without one of the groups."""
        used = [index for index, group in enumerate(self.groups) if group != left_out]
        used_shifted = [index for index, group in enumerate(self.shifted_groups) if group != left_out]
        patients = [self.cases[index].stored.group for index in used]
        patients += [self.shifted[index].stored.group for index in used_shifted]
        resamples = PatientResamples(patients, ONE_STANDARD_ERROR, len(used_shifted))

        def counts(thresholds: Thresholds) -> tuple[list[CaseCounts], list[CaseCounts]]:
            unchanged, shifted = self.table.counts[thresholds], self.shifted_table.counts[thresholds]
            return [unchanged[index] for index in used], [shifted[index] for index in used_shifted]

        def metrics(thresholds: Thresholds) -> PooledMetrics:
            unchanged, shifted = counts(thresholds)
            return mean_metrics(pool_counts(unchanged), pool_counts(shifted)) if shifted else pool_counts(unchanged)

        @cache
        def resampled(thresholds: Thresholds) -> ResampledMetrics:
            unchanged, shifted = counts(thresholds)
            return resamples.metrics([*unchanged, *shifted])

        def home_f1(thresholds: Thresholds) -> float:
            return pool_counts(counts(thresholds)[0]).f1_iou_0_1

        lowest = home_f1(start) - MAX_HOME_LOSS
        return replace(
            home,
            current=start,
            start=start,
            metrics=cache(metrics),
            gain=lambda first, second: resamples.gain(resampled(first), resampled(second)),
            admits=cache(lambda thresholds: home_f1(thresholds) >= lowest),
        )

    def is_worth_it(self, home: GoalChoice, robust: GoalChoice) -> bool:
        """Return whether the robust thresholds gain more than noise on patients that did not choose them.

        The mean F1 of unchanged and shifted scans must rise by more than noise, and the F1 of unchanged scans may fall
        by at most :data:`MAX_HOME_LOSS`.
        """
        unchanged = JudgedCases(tuple(case.stored for case in self.cases), tuple(self.groups), self.table.counts)
        shifted = JudgedCases(
            tuple(case.stored for case in self.shifted), tuple(self.shifted_groups), self.shifted_table.counts
        )
        patients = [case.group for case in (*unchanged.cases, *shifted.cases)]
        resamples = PatientResamples(patients, shifted=len(shifted.cases))
        before, after = (resamples.metrics([*unchanged.of(goal), *shifted.of(goal)]) for goal in (home, robust))
        loss = pool_counts(unchanged.of(home)).f1_iou_0_1 - pool_counts(unchanged.of(robust)).f1_iou_0_1
        return resamples.gain(before, after).f1_low > 0 and loss <= MAX_HOME_LOSS


def search_robust(
    scans: ShiftedSearch, states: Mapping[str | None, SearchState], home: GoalChoice, objective: Objective
) -> GoalChoice:
    """Choose thresholds for unchanged and shifted scans together.

    Parameters
    ----------
    scans : ShiftedSearch
    states : mapping of str or None to SearchState
        Searches that begin with the plan: on all cases (key ``None``) and without each group.
    home : GoalChoice
        Thresholds of the goal home, with which the search begins.
    objective : Objective
        With a target, the mean of both kinds of scans must reach the target, and the F1 of unchanged scans may fall.

    Returns
    -------
    GoalChoice
        The thresholds of ``home`` if no others gain more than noise.
    """
    starts = {group: home.chosen if group is None else home.thresholds_for(group) for group in states}
    default = states[None].default
    scans.evaluate([default, *starts.values()], "shifted scans")
    robust_states = {group: scans.state(state, starts[group], group) for group, state in states.items()}
    if objective.has_target:
        robust_states = {group: replace(state, admits=None) for group, state in robust_states.items()}
    take_steps(robust_states.values(), ROBUST_STEPS, objective, [scans.table, scans.shifted_table])
    without = {group: state.current for group, state in robust_states.items() if group is not None}
    robust = GoalChoice(OperatingGoal.ROBUST, robust_states[None].current, without)
    if objective.has_target or (without and scans.is_worth_it(home, robust)):
        return robust
    return replace(home, goal=OperatingGoal.ROBUST)
