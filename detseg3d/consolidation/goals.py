"""The thresholds that are chosen for one goal, and the scans on which goals are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from detseg3d.consolidation.cases import CandidateCase
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.planning.thresholds import Thresholds

__all__ = ["GoalChoice", "JudgedCases"]


@dataclass(frozen=True)
class GoalChoice:
    """Thresholds that are chosen for one goal.

    Attributes
    ----------
    goal : OperatingGoal
    chosen : Thresholds
        Choice on all scans.
    without : mapping of str to Thresholds
        For each group of patients, the choice of all *other* groups. Empty if there is only one group.
    """

    goal: OperatingGoal
    chosen: Thresholds
    without: Mapping[str, Thresholds] = field(default_factory=dict)

    def thresholds_for(self, group: str) -> Thresholds:
        """Return the thresholds with which the scans of a group are judged: the choice of the other groups, if any."""
        return self.without.get(group, self.chosen)


@dataclass(frozen=True)
class JudgedCases:
    """Cases with their counts for many sets of thresholds.

    Attributes
    ----------
    cases : tuple of CandidateCase
    groups : tuple of str
        Group of each case. The scans of a patient, unchanged and shifted, are in one group.
    counts : mapping of Thresholds to tuple of CaseCounts
        In the order of the cases.
    """

    cases: tuple[CandidateCase, ...]
    groups: tuple[str, ...]
    counts: Mapping[Thresholds, tuple[CaseCounts, ...]]

    def of(self, choice: GoalChoice) -> list[CaseCounts]:
        """Return the counts of each case with the thresholds that the other groups choose."""
        return [self.counts[choice.thresholds_for(group)][index] for index, group in enumerate(self.groups)]
