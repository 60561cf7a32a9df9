"""Search for the operating point: the stored candidates are merged again with many sets of thresholds.

The networks do not run again. One threshold is varied at a time, the score threshold first and last. A threshold leaves
the value of the plan only if the gain exceeds one standard error (:mod:`detseg3d.consolidation.gain`). The same search
is repeated without each fold in turn, so that the choice can be judged on cases that were not used for it. If this gain
is not positive in 95 % of the resampled patients, all thresholds of the plan are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.gain import ONE_STANDARD_ERROR, Gain, PatientResamples, ResampledMetrics
from detseg3d.consolidation.objective import Objective, pool_counts
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.search_state import MASK_STEPS, SearchState, SearchStep, score_steps
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

__all__ = ["SearchResult", "search"]

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
    """

    cases: tuple[CandidateCase, ...]
    counts: Mapping[Thresholds, tuple[CaseCounts, ...]]
    default: Thresholds
    chosen: Thresholds
    objective: Objective
    chosen_without: Mapping[str, Thresholds] = field(default_factory=dict)
    gain: Gain | None = None

    @property
    def plan_kept(self) -> bool:
        """Whether all thresholds of the plan are kept."""
        return self.chosen == self.default

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
            objective=str(self.objective),
            target_reached=self.objective.is_reached(self.metrics(self.chosen)),
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


def search(cases: Sequence[PreparedCase], plans: Plans, objective: Objective, run: Run = Run()) -> SearchResult:
    """Choose the thresholds that are best for the objective on all cases, or keep those of the plan.

    Parameters
    ----------
    cases : sequence of PreparedCase
        At least one.
    plans : Plans
        With the calibration in its inference section. The search begins with its thresholds.
    objective : Objective
        With a target, the score threshold follows the target, and only changes of the other thresholds must exceed
        noise.
    run : Run

    Returns
    -------
    SearchResult

    Raises
    ------
    DetSeg3DError
        If the candidates of a case cannot be read.
    """
    table = CountTable(cases, plans, run)
    default = plans.inference.thresholds
    table.evaluate([default], "thresholds of the plan")
    stored = tuple(case.stored for case in cases)
    group_of = _groups(stored)
    groups = sorted(set(group_of))
    whole = _begin(cases, plans, table, range(len(cases)))
    without = {
        group: _begin(cases, plans, table, [index for index, other in enumerate(group_of) if other != group])
        for group in (groups if len(groups) > 1 else [])
    }
    states = [whole, *without.values()]
    resamples = PatientResamples([case.group for case in stored])

    def cross_fitted_gain() -> Gain | None:
        """Return the gain over the plan of each group with the thresholds that the other groups choose."""
        if not without or whole.current == default:
            return None
        judged = [table.counts[without[group].current][index] for index, group in enumerate(group_of)]
        return resamples.gain(resamples.metrics(table.counts[default]), resamples.metrics(judged))

    def keep_plan() -> None:
        for state in states:
            state.current = default

    _take_steps(states, MASK_STEPS, Objective(), table)
    if objective.has_target and _is_noise(cross_fitted_gain()):
        keep_plan()  # the following steps still move the score threshold to the target
    _take_steps(states, score_steps(_volumes(cases, default)), objective, table)
    gain = cross_fitted_gain()
    if not objective.has_target and _is_noise(gain):
        keep_plan()
    # The report compares the choice with and without the smallest volume.
    table.evaluate([whole.current.evolve(minimum_volume_mm3=0.0)], "without a smallest volume")
    folds = {case.fold for case in stored}
    chosen_without = {fold: without[fold].current for fold in sorted(folds)} if len(folds) > 1 else {}
    return SearchResult(stored, table.counts, default, whole.current, objective, chosen_without, gain)


def _begin(cases: Sequence[PreparedCase], plans: Plans, table: CountTable, used: Sequence[int]) -> SearchState:
    """Return a search, on the cases with these indices, that begins with the thresholds of the plan."""
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


def _volumes(cases: Sequence[PreparedCase], default: Thresholds) -> list[float]:
    """Return the values of the smallest volume to try, mm³."""
    voxel = min(math.prod(case.truth.spacing) for case in cases)
    # Each value lies half-way between two numbers of voxels, so that rounding does not decide about a lesion.
    volumes = {round((count - 0.5) * voxel, 6) for count in _SMALLEST_VOXELS}
    return sorted(volumes | {default.minimum_volume_mm3} - {0.0})


def _is_noise(gain: Gain | None) -> bool:
    return gain is None or not gain.is_more_than_noise


def _take_steps(
    states: Sequence[SearchState], steps: Sequence[SearchStep], objective: Objective, table: CountTable
) -> None:
    """Take the steps in all searches. The variants of all searches are counted together."""
    for state in states:
        state.objective = objective
    for step in steps:
        variants = [step.variants(state) for state in states]
        table.evaluate([thresholds for tried in variants for thresholds in tried], step.description)
        for state, tried in zip(states, variants, strict=True):
            state.current = step.choose(state, tried)


def _count_scans(counts: Sequence[CaseCounts]) -> ScanCounts:
    """Count the scans with and without lesions that are reported without lesions."""
    silent = [case for case in counts if not case.predictions]
    return ScanCounts(
        with_lesions=sum(case.truth > 0 for case in counts),
        missed=sum(case.truth > 0 for case in silent),
        without_lesions=sum(case.truth == 0 for case in counts),
        clean=sum(case.truth == 0 for case in silent),
    )
