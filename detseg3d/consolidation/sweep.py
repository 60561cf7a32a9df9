"""The search for the operating point: stored candidates merged again under many settings, the networks at rest.

One parameter is varied at a time, the score threshold first and last; every setting that was tried is kept with its
counts by case. The same search is made once more without each fold in turn, so that the choice can be judged on cases
that had no say in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.objective import Objective, pooled
from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.consolidation.setting import NO_GROWTH, PreparedCase, Setting, StoredCase
from detseg3d.evaluation.calibration import apply_calibration
from detseg3d.planning.plans import Plans

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

# A parameter leaves the plan's value only for a gain that is more than noise, and small lesions go only for a real one.
_PAYS = 0.002
_PAYS_SIZE = 0.005

# With fewer scans without lesions nothing is learnt about where their scores end; and the mean Dice, in which each such
# scan counts as much as any other, must gain what no change of masks would give.
_FEWEST_WITHOUT_LESIONS = 3
_PAYS_SCANS = 0.01


@dataclass(frozen=True)
class Sweep:
    """All settings that were tried, ``counts[setting][case]``, and the choice.

    ``chosen_without`` holds, for each fold, what the search chooses on the cases of the *other* folds; it is empty if
    there is but one fold.
    """

    cases: tuple[StoredCase, ...]
    counts: Mapping[Setting, tuple[CaseCounts, ...]]
    default: Setting
    chosen: Setting
    objective: Objective
    chosen_without: Mapping[str, Setting] = field(default_factory=dict)

    def figures(self, setting: Setting) -> dict[str, float]:
        """Pooled over all cases."""
        return pooled(self.counts[setting])

    def without_own_fold(self) -> dict[str, float]:
        """Pooled figures where each fold is judged at the setting that the *other* folds choose.

        What the choice is worth on new cases; with a single fold no more than its own figures.
        """
        at = [self.chosen_without.get(case.fold, self.chosen) for case in self.cases]
        return pooled([self.counts[setting][index] for index, setting in enumerate(at)])

    def rows(self) -> list[dict[str, Any]]:
        """One row per setting, for JSON."""
        return [{"setting": asdict(setting), **self.figures(setting)} for setting in self.counts]


# -- The search --------------------------------------------------------------------------------------------------------


def search(
    cases: Sequence[PreparedCase],
    plans: Plans,
    objective: Objective,
    num_processes: int = 0,
    progress: bool = True,
) -> Sweep:
    """Choose the setting that serves the objective best on all cases together.

    Parameters
    ----------
    cases : sequence of PreparedCase
        At least one.
    plans : Plans
        With the calibration in its inference section; its thresholds are where the search begins, but for the smallest
        volume and the scan threshold, which begin at 0.
    objective : Objective
    num_processes : int
    progress : bool

    Raises
    ------
    DetSeg3DError
        If the candidates of a case cannot be read.
    """
    table = CountTable(cases, plans, num_processes, progress)
    default = Setting.of(plans)
    folds = sorted({case.stored.fold for case in cases})
    scores = apply_calibration(plans.inference.calibration or ((0, 0), (1, 1)), _RAW_SCORES).tolist()

    def path(left_out: str | None) -> _Path:
        voters = [index for index, case in enumerate(cases) if case.stored.fold != left_out]
        return _Path(
            default,
            replace(default, minimum_volume_mm3=0.0, scan_threshold=0.0),
            plans.inference.join_touching,
            scores,
            lambda setting: pooled([table.counts[setting][index] for index in voters]),
            sum(len(cases[index].truth) == 0 for index in voters) >= _FEWEST_WITHOUT_LESIONS,
        )

    everyone = path(None)
    others = {fold: path(fold) for fold in folds} if len(folds) > 1 else {}
    paths = [everyone, *others.values()]
    voxel = min(math.prod(case.truth.spacing) for case in cases)
    # Halfway between two numbers of voxels: no rounding decides.
    sizes = sorted({round((n - 0.5) * voxel, 6) for n in _SIZES_VOXELS} | {default.minimum_volume_mm3} - {0.0})
    for aim, steps in ((Objective(), _STEPS_OF_MASKS), (objective, _steps_of_scores(sizes))):
        for one in paths:
            one.objective = aim
        for what, variants, choose in steps:
            tried = [variants(one) for one in paths]
            table.evaluate([setting for settings in tried for setting in settings], what)
            for one, settings in zip(paths, tried, strict=True):
                one.current = choose(one, settings)
    # The report says what leaving out small lesions has changed.
    table.evaluate([replace(everyone.current, minimum_volume_mm3=0.0)], "without a smallest lesion")
    return Sweep(
        tuple(case.stored for case in cases),
        table.counts,
        default,
        everyone.current,
        objective,
        {fold: one.current for fold, one in others.items()},
    )


@dataclass
class _Path:
    """Where a search stands: the setting it holds for best, and the score thresholds it knows of."""

    default: Setting
    current: Setting
    joins: bool  # whether masks that touch are one lesion
    scores: list[float]
    figures: Callable[[Setting], dict[str, float]]
    knows_healthy: bool  # whether there are scans without lesions enough to choose a scan threshold
    objective: Objective = field(default_factory=Objective)

    def rank(self, setting: Setting) -> tuple[float, float, float]:
        return self.objective.rank(self.figures(setting))

    def scores_of_grid(self) -> list[Setting]:
        return [self.current, *(replace(self.current, score_threshold=score) for score in self.scores)]

    def suppressions(self) -> list[Setting]:
        now, plan = self.current, self.default
        return [
            *(replace(now, suppression_distance=share * plan.suppression_distance) for share in _DISTANCES),
            *(replace(now, suppression_iou=iou) for iou in _OVERLAPS),
        ]

    def masks(self) -> list[Setting]:
        return [self.default, *(replace(self.current, mask_threshold=mask) for mask in _MASKS)]

    def growths(self) -> list[Setting]:
        if not self.joins:
            return [self.default]
        lower = [score for score in self.scores if score < self.current.score_threshold][-_MOST_GROWTHS:]
        return [self.default, *(replace(self.current, growth_threshold=score) for score in [*lower, NO_GROWTH])]

    def detections(self) -> list[Setting]:
        # Candidates below the plan's own threshold were never stored.
        return [replace(self.current, det_threshold=low) for low in _DETECTIONS if low > self.default.det_threshold]

    def scores_nearby(self) -> list[Setting]:
        """Three values in each of the gaps beside the thresholds that are as good as the current one."""
        known = sorted({*self.scores, self.current.score_threshold})
        value = self.rank(self.current)[0]
        good = [self.rank(replace(self.current, score_threshold=score))[0] == value for score in known]
        low = high = known.index(self.current.score_threshold)
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(known) and good[high + 1]:
            high += 1
        edges = {*pairwise(known[max(low - 1, 0) : low + 1]), *pairwise(known[high : high + 2])}
        new = [float(score) for first, last in sorted(edges) for score in np.linspace(first, last, 5)[1:-1]]
        self.scores = [*known, *new]
        return [replace(self.current, score_threshold=score) for score in new]

    def scans(self) -> list[Setting]:
        higher = sorted(score for score in self.scores if score > self.current.score_threshold)
        return [replace(self.current, scan_threshold=score) for score in higher] if self.knows_healthy else []

    def sizes(self, sizes: Sequence[float]) -> list[Setting]:
        return [replace(self.current, minimum_volume_mm3=size) for size in sizes]

    def best(self, tried: list[Setting], pays: float) -> Setting:
        """The best of those tried, if it gains more than ``pays``; without a price any better rank will do.

        Where there is a price, what is lost in Dice counts against the gain: with fewer candidates that overlap, fewer
        false positives are left, but also less of the masks of large lesions.
        """
        if not tried:
            return self.current
        first = max(tried, key=self._gain if pays else self.rank)
        better = self._gain(first) > pays if pays else self.rank(first) > self.rank(self.current)
        return first if better else self.current

    def _gain(self, setting: Setting) -> float:
        """What the objective gains, less what the Dice loses."""
        (value, _, dice), (new_value, _, new_dice) = self.rank(self.current), self.rank(setting)
        return new_value - value + min(0.0, new_dice - dice)

    def best_outline(self, tried: list[Setting]) -> Setting:
        """The setting of the highest Dice among those that serve the objective as well, within what is noise.

        For what changes the masks more than which lesions there are. F1 at any overlap alone would take ever larger
        masks, which touch more, so none is chosen that costs F1 at IoU ≥ 0.1. The plan's own thresholds are the other
        floor: a better outline is not paid for with fewer lesions than they find. They are among those ``tried``, so
        that their rank is known, but not chosen here.
        """
        now = self.current
        lowest = self.figures(now)["f1_iou_0.1"] - _PAYS_SIZE
        others = (setting for setting in tried if setting != self.default)
        variants = [now, *(setting for setting in others if self.figures(setting)["f1_iou_0.1"] >= lowest)]
        top = max(self.rank(setting)[0] for setting in variants)
        floor = max(top - _PAYS_SIZE, min(top, self.rank(self.default)[0]))
        good = [setting for setting in variants if self.rank(setting)[0] >= floor]
        best = max(good, key=lambda setting: (self.rank(setting)[2], -_distance(setting, now)))
        return now if now in good and self.rank(now)[2] >= self.rank(best)[2] - _PAYS else best

    def best_scans(self, tried: list[Setting]) -> Setting:
        """The scan threshold of the highest mean Dice that costs the objective no more than noise.

        A scan without lesions has a Dice of 1 if nothing is found and 0 otherwise, one whose lesions are all left out
        has 0: so each scan has one vote. Of neighbouring thresholds that are as good, the one in the middle, as far as
        can be from the scans on either side.
        """
        floor, now = self.rank(self.current)[0] - _PAYS, self.rank(self.current)[2]
        dice = [self.rank(setting)[2] if self.rank(setting)[0] >= floor else -1.0 for setting in tried]
        if not dice or max(dice) < now + _PAYS_SCANS:
            return self.current
        first = last = dice.index(max(dice))
        while last + 1 < len(dice) and dice[last + 1] >= dice[first] - _PAYS:
            last += 1
        return tried[(first + last) // 2]

    def smallest_that_pays(self, tried: list[Setting]) -> Setting:
        """The current setting, which leaves out no lesion, unless a size pays; then the smallest as good as any."""
        top = max(self.rank(setting)[0] for setting in tried)
        if not top > self.rank(self.current)[0] + _PAYS_SIZE:
            return self.current
        return next(setting for setting in tried if self.rank(setting)[0] >= top - _PAYS)


_Step = tuple[str, Callable[[_Path], list[Setting]], Callable[[_Path, list[Setting]], Setting]]

# What candidates and masks there are is chosen by F1 whatever the target: beside a score threshold that fits another
# mask, each variant would miss a recall or a number of false positives, the better ones as well.
_STEPS_OF_MASKS: tuple[_Step, ...] = (
    ("score threshold", _Path.scores_of_grid, partial(_Path.best, pays=0.0)),
    ("suppression", _Path.suppressions, partial(_Path.best, pays=_PAYS)),
    ("mask threshold", _Path.masks, _Path.best_outline),
    ("growth", _Path.growths, _Path.best_outline),
    ("detection threshold", _Path.detections, partial(_Path.best, pays=_PAYS)),
)


def _steps_of_scores(sizes: Sequence[float]) -> tuple[_Step, ...]:
    return (
        ("score threshold, again", _Path.scores_of_grid, partial(_Path.best, pays=0.0)),
        ("score threshold, closer", _Path.scores_nearby, partial(_Path.best, pays=0.0)),
        ("score threshold, closest", _Path.scores_nearby, partial(_Path.best, pays=0.0)),
        ("scans without lesions", _Path.scans, _Path.best_scans),
        ("smallest lesion", partial(_Path.sizes, sizes=sizes), _Path.smallest_that_pays),
        ("the plan's own", lambda one: [one.default], partial(_Path.best, pays=0.0)),
    )


def _distance(first: Setting, second: Setting) -> float:
    """How far apart two settings are that differ in one value: the units of the others would not add up."""
    return sum(abs(a - b) for a, b in zip(asdict(first).values(), asdict(second).values(), strict=True))
