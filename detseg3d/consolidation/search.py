"""The search for the operating point: stored candidates merged again under many settings, the networks at rest.

One parameter is varied at a time, the score threshold first and last. A parameter leaves the plan's value only if the
gain exceeds one standard error (:mod:`detseg3d.consolidation.gain`). The same search is made once more without each
fold in turn, so that the choice can be judged on cases that had no say in it. If 95 % of the resampled patients do not
share that honest gain, all of the plan's values are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise

import numpy as np

from detseg3d.consolidation.cases import CandidateCase, PreparedCase
from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.gain import ONE_STANDARD_ERROR, Gain, PatientResamples, ResampledFigures
from detseg3d.consolidation.objective import Objective, pooled
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.evaluation.cross_validation import ChoiceMetrics, PooledMetrics, SettingMetrics
from detseg3d.evaluation.scores.calibration import apply_calibration
from detseg3d.evaluation.threshold_origin import ThresholdOrigin
from detseg3d.planning.plans import Plans
from detseg3d.planning.thresholds import NO_GROWTH, Thresholds
from detseg3d.system.run import Run

__all__ = ["Sweep", "search"]

_RAW_SCORES = tuple(round(0.05 * step, 2) for step in range(21))
# Shares of the plan's suppression distance. What is stored was suppressed at half of it, and at an IoU of 0.5 or more:
# nothing looser can be tried.
_DISTANCES = (0.5, 0.75, 1.5, 2.0)
_OVERLAPS = (0.1, 0.2, 0.3, 0.5)
_MASKS = (0.3, 0.4, 0.5, 0.6, 0.7)
_DETECTIONS = (0.15, 0.2, 0.3)
_SIZES_VOXELS = (2, 3, 5, 8, 12)
# Score thresholds below the current one; the lower, the more candidates take part, and the longer it takes.
_MOST_GROWTHS = 6

# Two settings count as equally good if their F1 or Dice differ by no more than this.
_AS_GOOD = 0.002
# A better outline may cost this much F1.
_MOST_F1_LOST = 0.005

# With fewer scans without lesions nothing is learnt about where their scores end.
_FEWEST_WITHOUT_LESIONS = 3

# A single fold is searched again without each of so many groups of its patients.
_GROUPS_OF_ONE_FOLD = 5


@dataclass(frozen=True)
class Sweep:
    """All settings that were tried, ``counts[setting][case]``, and the choice.

    Attributes
    ----------
    cases : tuple of CandidateCase
    counts : mapping
    default : Thresholds
        The plan's.
    chosen : Thresholds
        The plan's as well if nothing gained more than noise.
    objective : Objective
    chosen_without : mapping of str to Thresholds
        For each fold, the setting that the *other* folds choose; empty if there is a single fold. If the plan's setting
        is kept, each fold has it.
    gain : Gain or None
        Gain over the plan, measured on scans that took no part in the choice; ``None`` if the search found only the
        plan's setting, or if there are too few patients.
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
        """Whether the search left every threshold of the plan as it is."""
        return self.chosen == self.default

    @property
    def origin(self) -> ThresholdOrigin:
        """On which scans the thresholds were chosen at which each scan is judged."""
        if self.plan_kept:
            return ThresholdOrigin.PLAN
        return ThresholdOrigin.OTHER_FOLDS if self.chosen_without else ThresholdOrigin.SAME_SCANS

    def setting_for(self, fold: str) -> Thresholds:
        """The setting at which the scans of a fold are judged: the choice of the other folds, if there are any."""
        return self.chosen_without.get(fold, self.chosen)

    def figures(self, setting: Thresholds) -> PooledMetrics:
        """Pooled over all cases."""
        return pooled(self.counts[setting])

    def cross_fitted_counts(self) -> list[CaseCounts]:
        """Counts of each case at the setting that the other folds choose."""
        return [self.counts[self.setting_for(case.fold)][index] for index, case in enumerate(self.cases)]

    def cross_fitted(self) -> PooledMetrics | None:
        """Pooled figures where each fold is judged at the setting that the *other* folds choose.

        What the choice is worth on new scans. The plan's figures if the plan is kept, since nobody chose it on these
        scans; ``None`` if thresholds were chosen on a single fold.
        """
        return pooled(self.cross_fitted_counts()) if self.origin.is_honest else None

    def choice_metrics(self) -> ChoiceMetrics:
        """Cross-fitted, chosen and judged on the same scans, and of the plan."""
        cross_fitted, interval = self.cross_fitted(), None
        if cross_fitted is not None:
            interval = PatientResamples([case.group for case in self.cases]).f1_interval(self.cross_fitted_counts())
        return ChoiceMetrics(cross_fitted, self.figures(self.chosen), self.figures(self.default), interval)

    def rows(self) -> tuple[SettingMetrics, ...]:
        """Return the metrics of each setting that was tried."""
        return tuple(SettingMetrics(setting, self.figures(setting)) for setting in self.counts)


# -- The search --------------------------------------------------------------------------------------------------------


def search(
    cases: Sequence[PreparedCase],
    plans: Plans,
    objective: Objective,
    run: Run = Run(),
) -> Sweep:
    """Choose the setting that serves the objective best on all cases together, or keep the plan's.

    Parameters
    ----------
    cases : sequence of PreparedCase
        At least one.
    plans : Plans
        With the calibration in its inference section; its thresholds are where the search begins.
    objective : Objective
        With a target of recall or false positives the score threshold goes where the target asks, and only what else
        changes must gain more than noise.
    run : Run

    Raises
    ------
    DetSeg3DError
        If the candidates of a case cannot be read.
    """
    table = CountTable(cases, plans, run)
    default = plans.inference.thresholds
    table.evaluate([default], "the plan's thresholds")
    scores = apply_calibration(plans.inference.calibration or ((0, 0), (1, 1)), _RAW_SCORES).tolist()
    stored = tuple(case.stored for case in cases)
    group_of = _groups(stored)
    groups = sorted(set(group_of))

    def path(left_out: str | None) -> _Path:
        voters = [index for index, group in enumerate(group_of) if group != left_out]
        resamples = PatientResamples([stored[index].group for index in voters], ONE_STANDARD_ERROR)

        @cache
        def resampled(setting: Thresholds) -> ResampledFigures:
            return resamples.figures([table.counts[setting][index] for index in voters])

        return _Path(
            default=default,
            current=default,
            joins=plans.inference.join_touching,
            scores=scores,
            figures=cache(lambda setting: pooled([table.counts[setting][index] for index in voters])),
            gain=lambda first, second: resamples.gain(resampled(first), resampled(second)),
            knows_healthy=sum(len(cases[index].truth) == 0 for index in voters) >= _FEWEST_WITHOUT_LESIONS,
        )

    everyone = path(None)
    others = {group: path(group) for group in groups} if len(groups) > 1 else {}
    paths = [everyone, *others.values()]
    resamples = PatientResamples([case.group for case in stored])

    def honest_gain() -> Gain | None:
        """What the choice of the other groups gains over the plan on the group that was left out."""
        if not others or everyone.current == default:
            return None
        judged = [table.counts[others[group].current][index] for index, group in enumerate(group_of)]
        return resamples.gain(resamples.figures(table.counts[default]), resamples.figures(judged))

    def keep_plan() -> None:
        for one in paths:
            one.current = default

    voxel = min(math.prod(case.truth.spacing) for case in cases)
    # Halfway between two numbers of voxels: no rounding decides.
    sizes = sorted({round((n - 0.5) * voxel, 6) for n in _SIZES_VOXELS} | {default.minimum_volume_mm3} - {0.0})
    _walk(paths, _STEPS_OF_MASKS, Objective(), table)
    if objective.has_target and _is_noise(honest_gain()):
        keep_plan()  # of the masks; the score threshold goes where the target asks
    _walk(paths, _steps_of_scores(sizes), objective, table)
    gain = honest_gain()
    if not objective.has_target and _is_noise(gain):
        keep_plan()
    # The report says what leaving out small lesions has changed.
    table.evaluate([everyone.current.evolve(minimum_volume_mm3=0.0)], "without a smallest lesion")
    folds = {case.fold for case in stored}
    without = {fold: others[fold].current for fold in sorted(folds)} if len(folds) > 1 else {}
    return Sweep(stored, table.counts, default, everyone.current, objective, without, gain)


def _groups(cases: Sequence[CandidateCase]) -> list[str]:
    """Which part of the cases is left out with each: its fold, or one of five groups of patients of a single fold."""
    if len({case.fold for case in cases}) > 1:
        return [case.fold for case in cases]
    patients = sorted({case.group for case in cases})
    number = {patient: str(index % _GROUPS_OF_ONE_FOLD) for index, patient in enumerate(patients)}
    return [number[case.group] for case in cases]


def _is_noise(gain: Gain | None) -> bool:
    return gain is None or not gain.is_more_than_noise


def _walk(paths: Sequence[_Path], steps: Sequence[_Step], objective: Objective, table: CountTable) -> None:
    """Take every path through the steps; what all of them want to try is counted together."""
    for one in paths:
        one.objective = objective
    for what, variants, choose in steps:
        tried = [variants(one) for one in paths]
        table.evaluate([setting for settings in tried for setting in settings], what)
        for one, settings in zip(paths, tried, strict=True):
            one.current = choose(one, settings)


@dataclass
class _Path:
    """Where a search stands: the setting it holds for best, and the score thresholds it knows of."""

    default: Thresholds
    current: Thresholds
    joins: bool  # whether masks that touch are one lesion
    scores: list[float]
    figures: Callable[[Thresholds], PooledMetrics]
    gain: Callable[[Thresholds, Thresholds], Gain]  # of the second over the first
    knows_healthy: bool  # whether there are enough scans without lesions to choose a scan threshold
    objective: Objective = field(default_factory=Objective)

    def rank(self, setting: Thresholds) -> tuple[float, float, float]:
        return self.objective.rank(self.figures(setting))

    # -- What is tried --

    def scores_of_grid(self) -> list[Thresholds]:
        return [self.current.evolve(score_threshold=score) for score in self.scores]

    def suppressions(self) -> list[Thresholds]:
        now, plan = self.current, self.default
        return [
            *(now.evolve(suppression_distance=share * plan.suppression_distance) for share in _DISTANCES),
            *(now.evolve(suppression_iou=iou) for iou in _OVERLAPS),
        ]

    def masks(self) -> list[Thresholds]:
        return [self.current.evolve(mask_threshold=mask) for mask in _MASKS]

    def growths(self) -> list[Thresholds]:
        if not self.joins:
            return []
        lower = [score for score in self.scores if score < self.current.score_threshold][-_MOST_GROWTHS:]
        return [self.current.evolve(growth_threshold=score) for score in [*lower, NO_GROWTH]]

    def detections(self) -> list[Thresholds]:
        # Candidates below the plan's own threshold were never stored.
        return [
            self.current.evolve(candidate_threshold=low)
            for low in _DETECTIONS
            if low > self.default.candidate_threshold
        ]

    def scores_nearby(self) -> list[Thresholds]:
        """Three values in each of the gaps beside the thresholds that are as good as the current one."""
        known = sorted({*self.scores, self.current.score_threshold})
        value = self.rank(self.current)[0]
        good = [self.rank(self.current.evolve(score_threshold=score))[0] == value for score in known]
        low = high = known.index(self.current.score_threshold)
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(known) and good[high + 1]:
            high += 1
        edges = {*pairwise(known[max(low - 1, 0) : low + 1]), *pairwise(known[high : high + 2])}
        new = [float(score) for first, last in sorted(edges) for score in np.linspace(first, last, 5)[1:-1]]
        self.scores = [*known, *new]
        return [self.current.evolve(score_threshold=score) for score in new]

    def scans(self) -> list[Thresholds]:
        higher = sorted(score for score in self.scores if score > self.current.score_threshold)
        new = [*higher, 0.0] if self.knows_healthy else [0.0]
        return [self.current.evolve(scan_threshold=score) for score in new if score != self.current.scan_threshold]

    def sizes(self, sizes: Sequence[float]) -> list[Thresholds]:
        return [self.current.evolve(minimum_volume_mm3=size) for size in [0.0, *sizes]]

    # -- What is chosen --

    def best(self, tried: list[Thresholds]) -> Thresholds:
        """The best of those tried, if it gains more than noise.

        What is lost in Dice counts against the gain: with fewer candidates that overlap, fewer false positives are
        left, but also less of the masks of large lesions.
        """
        better = [setting for setting in tried if self.gain(self.current, setting).f1_low > 0]
        first = max([self.current, *better], key=self._net_gain)
        return first if self._net_gain(first) > 0 else self.current

    def _net_gain(self, setting: Thresholds) -> float:
        """What the objective gains, less what the Dice loses."""
        (value, _, dice), (new_value, _, new_dice) = self.rank(self.current), self.rank(setting)
        return new_value - value + min(0.0, new_dice - dice)

    def best_score(self, tried: list[Thresholds]) -> Thresholds:
        """The score threshold of the highest rank, if it gains more than noise over the plan's.

        A threshold that has left the plan's value already is free to be any that is better. With a target it always
        goes where the target asks.
        """
        if not tried:
            return self.current
        free = self.objective.has_target or self.current.score_threshold != self.default.score_threshold
        if not free:
            tried = [setting for setting in tried if self.gain(self.current, setting).f1_low > 0]
        return max([self.current, *tried], key=self.rank)

    def best_outline(self, tried: list[Thresholds]) -> Thresholds:
        """The setting of the highest Dice, if it gains more than noise and costs no lesion.

        For what changes the masks more than which lesions there are. Of settings that find more lesions by more than
        noise the best is taken first. Then a better outline may cost no more than noise of the F1, and it may not cost
        the lesions that the plan's own thresholds find.
        """
        now = self.current
        better = [setting for setting in tried if self.gain(now, setting).f1_low > 0]
        start = max([now, *better], key=lambda setting: (self.rank(setting), -_distance(setting, now)))
        top = self.rank(start)[0]
        floor = max(top - _MOST_F1_LOST, min(top, self.rank(self.default)[0]))
        good = [
            setting for setting in tried if self.rank(setting)[0] >= floor and self.gain(start, setting).dice_low > 0
        ]
        return max([start, *good], key=lambda setting: (self.rank(setting)[2], -_distance(setting, now)))

    def best_scans(self, tried: list[Thresholds]) -> Thresholds:
        """The scan threshold of the highest mean Dice, if it gains more than noise and costs no lesion.

        A scan without lesions has a Dice of 1 if nothing is found and 0 otherwise, one whose lesions are all left out
        has 0: so each scan has one vote. Of neighbouring thresholds that are as good, the one in the middle, as far as
        can be from the scans on either side.
        """
        start = self.best([setting for setting in tried if not setting.scan_threshold])
        floor = self.rank(start)[0] - _AS_GOOD
        rules = [setting for setting in tried if setting.scan_threshold]
        if not rules:
            return start
        dice = [self.rank(setting)[2] if self.rank(setting)[0] >= floor else -1.0 for setting in rules]
        first = last = dice.index(max(dice))
        if dice[first] < 0 or not self.gain(start, rules[first]).dice_low > 0:
            return start
        while last + 1 < len(dice) and dice[last + 1] >= dice[first] - _AS_GOOD:
            last += 1
        return rules[(first + last) // 2]

    def smallest_that_pays(self, tried: list[Thresholds]) -> Thresholds:
        """The current setting, unless a size gains more than noise; then the smallest as good as any."""
        better = [setting for setting in tried if self.gain(self.current, setting).f1_low > 0]
        if not better:
            return self.current
        top = max(self.rank(setting)[0] for setting in better)
        return next(setting for setting in better if self.rank(setting)[0] >= top - _AS_GOOD)


_Step = tuple[str, Callable[[_Path], list[Thresholds]], Callable[[_Path, list[Thresholds]], Thresholds]]

# What candidates and masks there are is chosen by F1 whatever the target: beside a score threshold that fits another
# mask, each variant would miss a recall or a number of false positives, the better ones as well.
_STEPS_OF_MASKS: tuple[_Step, ...] = (
    ("score threshold", _Path.scores_of_grid, _Path.best_score),
    ("suppression", _Path.suppressions, _Path.best),
    ("mask threshold", _Path.masks, _Path.best_outline),
    ("growth", _Path.growths, _Path.best_outline),
    ("detection threshold", _Path.detections, _Path.best),
)


def _steps_of_scores(sizes: Sequence[float]) -> tuple[_Step, ...]:
    return (
        ("score threshold, again", _Path.scores_of_grid, _Path.best_score),
        ("score threshold, closer", _Path.scores_nearby, _Path.best_score),
        ("score threshold, closest", _Path.scores_nearby, _Path.best_score),
        ("scans without lesions", _Path.scans, _Path.best_scans),
        ("smallest lesion", partial(_Path.sizes, sizes=sizes), _Path.smallest_that_pays),
    )


def _distance(first: Thresholds, second: Thresholds) -> float:
    """How far apart two settings are that differ in one value: the units of the others would not add up."""
    return sum(abs(a - b) for a, b in zip(first.values().values(), second.values().values(), strict=True))
