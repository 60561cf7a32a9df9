"""Search for the operating point: the stored candidates are merged again with many sets of thresholds.

The networks do not run again. One threshold is varied at a time, the score threshold first and last. A threshold leaves
the value of the plan only if the gain exceeds one standard error (:mod:`detseg3d.consolidation.gain`). The same search
is repeated without each fold in turn, so that the choice can be judged on cases that were not used for it. If this gain
is not positive in 95 % of the resampled patients, all thresholds of the plan are kept.

If there are shifted scans, a second search (:mod:`detseg3d.consolidation.robust_search`) begins with the result and
chooses thresholds for unchanged and shifted scans together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.gain import ONE_STANDARD_ERROR, Gain, PatientResamples, ResampledMetrics
from detseg3d.consolidation.goals import GoalChoice, JudgedCases
from detseg3d.consolidation.objective import Objective, mean_metrics, pool_counts
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.robust_search import ShiftedSearch, search_robust
from detseg3d.consolidation.search_state import MASK_STEPS, SearchState, score_steps, take_steps
from detseg3d.core.operating_goal import OperatingGoal
from detseg3d.evaluation.cross_validation import (
    ChoiceMetrics,
    PooledMetrics,
    ScanCounts,
    SettingMetrics,
    ThresholdChoice,
)
from detseg3d.evaluation.scores.calibration import apply_calibration
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import Thresholds
from detseg3d.system.run import Run

__all__ = ["SearchInput", "SearchResult", "search"]

_RAW_SCORES = tuple(round(0.05 * step, 2) for step in range(21))
_SMALLEST_VOXELS = (2, 3, 5, 8, 12)
# With fewer scans without lesions, the highest score in such scans is not known well enough.
_MIN_EMPTY_SCANS = 3
# With a single fold, the search is repeated without each of this many groups of patients.
_GROUPS_OF_SINGLE_FOLD = 5


@dataclass(frozen=True)
class SearchResult:
    """All thresholds that were tried, and the choice.

    Attributes
    ----------
    cases : tuple of CandidateCase
    counts : mapping of Thresholds to tuple of CaseCounts
        In the order of the cases.
    default : Thresholds
        Thresholds of the plan.
    chosen : Thresholds
        Equal to ``default`` if no gain exceeds noise.
    objective : Objective
    chosen_without : mapping of str to Thresholds
        For each fold, the thresholds that the *other* folds choose. Empty with a single fold. If the thresholds of the
        plan are kept, every fold has them.
    gain : Gain or None
        Gain over the plan on scans that were not used for the choice. ``None`` if the search found no better thresholds
        than those of the plan, or if there are too few patients.
    goal : OperatingGoal
        Goal of ``chosen``.
    goals : tuple of GoalChoice
        Choice for each goal, as far as it was made.
    unchanged, shifted : JudgedCases or None
        Counts of the unchanged and of the shifted scans with which the goals are compared.
    """

    cases: tuple[CandidateCase, ...]
    counts: Mapping[Thresholds, tuple[CaseCounts, ...]]
    default: Thresholds
    chosen: Thresholds
    objective: Objective
    chosen_without: Mapping[str, Thresholds] = field(default_factory=dict)
    gain: Gain | None = None
    goal: OperatingGoal = OperatingGoal.HOME
    goals: tuple[GoalChoice, ...] = ()
    unchanged: JudgedCases | None = None
    shifted: JudgedCases | None = None

    @property
    def plan_kept(self) -> bool:
        """Whether all thresholds of the plan are kept."""
        return self.chosen == self.default

    @property
    def description(self) -> str:
        """The objective in words."""
        if self.goal is OperatingGoal.HOME:
            return str(self.objective)
        return f"{self.objective}, mean of unchanged and shifted scans"

    @property
    def origin(self) -> ThresholdOrigin:
        """Scans on which the thresholds were chosen with which each scan is judged."""
        if self.plan_kept:
            return ThresholdOrigin.PLAN
        return ThresholdOrigin.OTHER_FOLDS if self.chosen_without else ThresholdOrigin.SAME_SCANS

    def thresholds_for(self, fold: str) -> Thresholds:
        """Return the thresholds with which the scans of a fold are judged: the choice of the other folds, if any."""
        return self.chosen_without.get(fold, self.chosen)

    def metrics(self, thresholds: Thresholds) -> PooledMetrics:
        """Return the metrics with some of the tried thresholds, pooled over all cases."""
        return pool_counts(self.counts[thresholds])

    def _metrics_of_goal(self) -> PooledMetrics:
        """Return the metrics with the chosen thresholds on the scans for which they were chosen."""
        home = self.metrics(self.chosen)
        if self.goal is OperatingGoal.HOME or self.shifted is None:
            return home
        return mean_metrics(home, pool_counts(self.shifted.counts[self.chosen]))

    def cross_fitted_counts(self) -> list[CaseCounts]:
        """Return the counts of each case with the thresholds that the other folds choose."""
        return [self.counts[self.thresholds_for(case.fold)][index] for index, case in enumerate(self.cases)]

    def cross_fitted(self) -> PooledMetrics | None:
        """Return the metrics with the thresholds that the *other* folds choose for each fold.

        They estimate the performance on new scans. If the plan is kept, they are the metrics of the plan. ``None`` if
        thresholds were chosen on a single fold.
        """
        return pool_counts(self.cross_fitted_counts()) if self.origin.is_honest else None

    def choice_metrics(self) -> ChoiceMetrics:
        """Return the metrics with the chosen thresholds and with those of the plan."""
        cross_fitted, interval = self.cross_fitted(), None
        if cross_fitted is not None:
            interval = PatientResamples([case.group for case in self.cases]).f1_interval(self.cross_fitted_counts())
        return ChoiceMetrics(cross_fitted, self.metrics(self.chosen), self.metrics(self.default), interval)

    def tried(self) -> tuple[SettingMetrics, ...]:
        """Return all thresholds that were tried, with their metrics."""
        return tuple(SettingMetrics(thresholds, self.metrics(thresholds)) for thresholds in self.counts)

    def describe(self, cases: Sequence[PreparedCase]) -> ThresholdChoice:
        """Return the choice for the reports.

        Parameters
        ----------
        cases : sequence of PreparedCase
            The cases of the search.
        """
        smallest = self.chosen.minimum_volume_mm3
        volumes = [voxels * math.prod(case.truth.spacing) for case in cases for voxels in case.truth.voxels]
        return ThresholdChoice(
            objective=self.description,
            target_reached=self.objective.is_reached(self._metrics_of_goal()),
            predicted_at_thresholds_of=self.origin,
            thresholds=self.chosen,
            thresholds_of_the_plan=self.default,
            thresholds_chosen_without_each_fold=dict(self.chosen_without),
            metrics=self.choice_metrics(),
            gain_on_other_folds=None if self.gain is None else self.gain.summary(),
            f1_without_minimum=self.metrics(self.chosen.evolve(minimum_volume_mm3=0.0)).f1_iou_0_1,
            true_lesions=len(volumes),
            true_lesions_below_minimum=sum(volume < smallest for volume in volumes),
            scans=_count_scans(self.counts[self.chosen]),
            settings_tried=len(self.counts),
        )


@dataclass(frozen=True)
class SearchInput:
    """Validation cases among which the thresholds are chosen.

    Attributes
    ----------
    cases : sequence of PreparedCase
        At least one. Unchanged scans.
    plans : Plans
        With the calibration in its inference section. The search begins with its thresholds.
    shifted : sequence of PreparedCase, optional
        Shifted scans of the same patients.
    """

    cases: Sequence[PreparedCase]
    plans: Plans
    shifted: Sequence[PreparedCase] = ()


def search(
    given: SearchInput, objective: Objective, goal: OperatingGoal = OperatingGoal.HOME, run: Run = Run()
) -> SearchResult:
    """Choose the thresholds that are best for the objective on all cases, or keep those of the plan.

    Parameters
    ----------
    given : SearchInput
    objective : Objective
        With a target, the score threshold follows the target, and only changes of the other thresholds must exceed
        noise.
    goal : OperatingGoal
        Goal of the returned thresholds. If there are shifted scans, the thresholds of the other goal are chosen, too,
        for comparison.
    run : Run

    Returns
    -------
    SearchResult

    Raises
    ------
    DetSeg3DError
        If the candidates of a case cannot be read.
    ValueError
        If the goal is robust and there are no shifted scans.
    """
    cases, plans = given.cases, given.plans
    if goal is OperatingGoal.ROBUST and not given.shifted:
        raise ValueError("robust thresholds need shifted scans")
    table = CountTable(cases, plans, run)
    default = plans.inference.thresholds
    table.evaluate([default], "thresholds of the plan")
    stored = tuple(case.stored for case in cases)
    group_of = _groups(stored)
    home, gain = _search_home(given, table, objective, group_of)
    # The report compares the choice with and without the smallest volume.
    table.evaluate([home.chosen.evolve(minimum_volume_mm3=0.0)], "without a smallest volume")
    goals: tuple[GoalChoice, ...] = (home,)
    shifted = None
    if given.shifted:
        of_shifted = tuple(case.stored for case in given.shifted)
        shifted_groups = _groups_like(of_shifted, stored, group_of)
        shifted_table = CountTable(given.shifted, plans, run)
        robust = search_robust(
            ShiftedSearch(cases, group_of, table, given.shifted, shifted_groups, shifted_table),
            _states(given, table, group_of),
            home,
            objective,
        )
        goals = (home, robust)
        shifted = JudgedCases(of_shifted, tuple(shifted_groups), shifted_table.counts)
    choice = goals[-1] if goal is OperatingGoal.ROBUST else home
    table.evaluate([choice.chosen.evolve(minimum_volume_mm3=0.0)], "without a smallest volume")
    folds = {case.fold for case in stored}
    unchanged = JudgedCases(stored, tuple(group_of), table.counts)
    if (choice.chosen, choice.without) != (home.chosen, home.without):
        gain = _gain(unchanged, choice, default)
    return SearchResult(
        stored,
        table.counts,
        default,
        choice.chosen,
        objective,
        {fold: choice.thresholds_for(fold) for fold in sorted(folds)} if len(folds) > 1 else {},
        gain,
        goal,
        goals,
        unchanged,
        shifted,
    )


def _search_home(
    given: SearchInput, table: CountTable, objective: Objective, group_of: Sequence[str]
) -> tuple[GoalChoice, Gain | None]:
    """Return the choice on the unchanged scans, and its gain over the plan on scans that were not used for it."""
    stored = tuple(case.stored for case in given.cases)
    default = given.plans.inference.thresholds
    states = _states(given, table, group_of)
    judged = JudgedCases(stored, tuple(group_of), table.counts)

    def choice() -> GoalChoice:
        without = {group: state.current for group, state in states.items() if group is not None}
        return GoalChoice(OperatingGoal.HOME, states[None].current, without)

    def gain() -> Gain | None:
        return None if len(states) == 1 or states[None].current == default else _gain(judged, choice(), default)

    def keep_plan() -> None:
        for state in states.values():
            state.current = default

    take_steps(states.values(), MASK_STEPS, Objective(), [table])
    if objective.has_target and _is_noise(gain()):
        keep_plan()  # the following steps still move the score threshold to the target
    take_steps(states.values(), score_steps(_volumes(given.cases, default)), objective, [table])
    measured = gain()
    if not objective.has_target and _is_noise(measured):
        keep_plan()
    return choice(), measured


def _gain(judged: JudgedCases, choice: GoalChoice, default: Thresholds) -> Gain:
    """Return the gain over the plan of each group with the thresholds that the other groups choose."""
    resamples = PatientResamples([case.group for case in judged.cases])
    return resamples.gain(resamples.metrics(judged.counts[default]), resamples.metrics(judged.of(choice)))


def _states(given: SearchInput, table: CountTable, group_of: Sequence[str]) -> dict[str | None, SearchState]:
    """Return a search on all cases (key ``None``) and one without each group, which begin with the plan."""
    groups = sorted(set(group_of))
    states: dict[str | None, SearchState] = {None: _begin(given, table, range(len(given.cases)))}
    for group in groups if len(groups) > 1 else []:
        states[group] = _begin(given, table, [index for index, other in enumerate(group_of) if other != group])
    return states


def _begin(given: SearchInput, table: CountTable, used: Sequence[int]) -> SearchState:
    """Return a search, on the cases with these indices, that begins with the thresholds of the plan."""
    cases, plans = given.cases, given.plans
    resamples = PatientResamples([cases[index].stored.group for index in used], ONE_STANDARD_ERROR)

    def counts(thresholds: Thresholds) -> list[CaseCounts]:
        return [table.counts[thresholds][index] for index in used]

    @cache
    def resampled(thresholds: Thresholds) -> ResampledMetrics:
        return resamples.metrics(counts(thresholds))

    default = plans.inference.thresholds
    return SearchState(
        default=default,
        current=default,
        joins=plans.inference.join_touching,
        scores=apply_calibration(plans.inference.calibration or ((0, 0), (1, 1)), _RAW_SCORES).tolist(),
        metrics=cache(lambda thresholds: pool_counts(counts(thresholds))),
        gain=lambda first, second: resamples.gain(resampled(first), resampled(second)),
        has_empty_scans=sum(len(cases[index].truth) == 0 for index in used) >= _MIN_EMPTY_SCANS,
    )


def _groups(cases: Sequence[CandidateCase]) -> list[str]:
    """Return the group of each case that is left out together: its fold, or with a single fold a group of patients."""
    if len({case.fold for case in cases}) > 1:
        return [case.fold for case in cases]
    patients = sorted({case.group for case in cases})
    number = {patient: str(index % _GROUPS_OF_SINGLE_FOLD) for index, patient in enumerate(patients)}
    return [number[case.group] for case in cases]


def _groups_like(shifted: Sequence[CandidateCase], cases: Sequence[CandidateCase], groups: Sequence[str]) -> list[str]:
    """Return the group of each shifted scan: that of the unchanged scan of the same case."""
    known = {case.case_id: group for case, group in zip(cases, groups, strict=True)}
    return [known[case.case_id] for case in shifted]


def _volumes(cases: Sequence[PreparedCase], default: Thresholds) -> list[float]:
    """Return the values of the smallest volume to try, mm³."""
    voxel = min(math.prod(case.truth.spacing) for case in cases)
    # Each value lies half-way between two numbers of voxels, so that rounding does not decide about a lesion.
    volumes = {round((count - 0.5) * voxel, 6) for count in _SMALLEST_VOXELS}
    return sorted(volumes | {default.minimum_volume_mm3} - {0.0})


def _is_noise(gain: Gain | None) -> bool:
    return gain is None or not gain.is_more_than_noise


def _count_scans(counts: Sequence[CaseCounts]) -> ScanCounts:
    """Count the scans with and without lesions that are reported without lesions."""
    silent = [case for case in counts if not case.predictions]
    return ScanCounts(
        with_lesions=sum(case.truth > 0 for case in counts),
        missed=sum(case.truth > 0 for case in silent),
        without_lesions=sum(case.truth == 0 for case in counts),
        clean=sum(case.truth == 0 for case in silent),
    )
