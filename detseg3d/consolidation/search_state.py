"""State of one search for thresholds: the variants that each step tries, and how it chooses one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from detseg3d.consolidation.count_table import CountTable
from detseg3d.consolidation.gain import Gain
from detseg3d.consolidation.objective import Objective
from detseg3d.evaluation.cross_validation import PooledMetrics
from detseg3d.planning.thresholds import NO_GROWTH, Thresholds

__all__ = ["MASK_STEPS", "ROBUST_STEPS", "SearchState", "SearchStep", "score_steps", "take_steps"]

# Factors on the suppression distance of the plan. Candidates were stored with half of it and an IoU of 0.5, so weaker
# suppression cannot be tried.
_DISTANCE_FACTORS = (0.5, 0.75, 1.5, 2.0)
_OVERLAPS = (0.1, 0.2, 0.3, 0.5)
_MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
_CANDIDATE_THRESHOLDS = (0.15, 0.2, 0.3)
# Values of the growth threshold below the score threshold. With a lower value more candidates take part, which takes
# more time.
_MAX_GROWTH_VARIANTS = 6

# Two F1 or Dice values count as equal if they differ by at most this.
_EQUAL = 0.002
# A better outline may cost this much F1.
_MAX_F1_LOSS = 0.005


@dataclass
class SearchState:
    """State of a search on some of the cases.

    The methods of the first group return the variants of the current thresholds that a step tries. The methods of the
    second group choose one of the variants, or keep the current thresholds.

    Attributes
    ----------
    default : Thresholds
        Thresholds of the plan.
    current : Thresholds
        Best thresholds so far.
    joins : bool
        Whether masks that touch are one lesion.
    scores : list of float
        Score thresholds that were tried.
    metrics : callable
        Returns the pooled metrics with some thresholds.
    gain : callable
        Returns the gain of its second argument over the first.
    has_empty_scans : bool
        Whether there are enough scans without lesions to choose a scan threshold.
    objective : Objective
    admits : callable
        Returns whether some thresholds may be chosen. By default all may be chosen.
    start : Thresholds or None
        Thresholds with which the search began, if not those of the plan.
    """

    default: Thresholds
    current: Thresholds
    joins: bool
    scores: list[float]
    metrics: Callable[[Thresholds], PooledMetrics]
    gain: Callable[[Thresholds, Thresholds], Gain]
    has_empty_scans: bool
    objective: Objective = field(default_factory=Objective)
    admits: Callable[[Thresholds], bool] | None = None
    start: Thresholds | None = None

    def rank(self, thresholds: Thresholds) -> tuple[float, float, float]:
        """Return the rank of some thresholds, see :meth:`~detseg3d.consolidation.objective.Objective.rank`."""
        return self.objective.rank(self.metrics(thresholds))

    # -- Variants ------------------------------------------------------------------------------------------------------

    def score_grid(self) -> list[Thresholds]:
        """Return one variant for each known score threshold."""
        return [self.current.evolve(score_threshold=score) for score in self.scores]

    def suppressions(self) -> list[Thresholds]:
        """Return variants of the suppression distance, then of the suppression IoU."""
        distances = [factor * self.default.suppression_distance for factor in _DISTANCE_FACTORS]
        return [
            *(self.current.evolve(suppression_distance=distance) for distance in distances),
            *(self.current.evolve(suppression_iou=iou) for iou in _OVERLAPS),
        ]

    def masks(self) -> list[Thresholds]:
        """Return variants of the mask threshold."""
        return [self.current.evolve(mask_threshold=threshold) for threshold in _MASK_THRESHOLDS]

    def growths(self) -> list[Thresholds]:
        """Return variants of the growth threshold below the score threshold, and one without growth."""
        if not self.joins:
            return []
        lower = [score for score in self.scores if score < self.current.score_threshold][-_MAX_GROWTH_VARIANTS:]
        return [self.current.evolve(growth_threshold=score) for score in [*lower, NO_GROWTH]]

    def candidate_thresholds(self) -> list[Thresholds]:
        """Return variants of the candidate threshold above that of the plan. Lower candidates were never stored."""
        higher = [value for value in _CANDIDATE_THRESHOLDS if value > self.default.candidate_threshold]
        return [self.current.evolve(candidate_threshold=value) for value in higher]

    def nearby_scores(self) -> list[Thresholds]:
        """Return variants of the score threshold between the best values and their neighbours.

        Three values are tried in the gap on either side of the values that are as good as the current one.
        """
        known = sorted({*self.scores, self.current.score_threshold})
        value = self.rank(self.current)[0]
        is_best = [self.rank(self.current.evolve(score_threshold=score))[0] == value for score in known]
        low = high = known.index(self.current.score_threshold)
        while low > 0 and is_best[low - 1]:
            low -= 1
        while high + 1 < len(known) and is_best[high + 1]:
            high += 1
        gaps = {*pairwise(known[max(low - 1, 0) : low + 1]), *pairwise(known[high : high + 2])}
        new = [float(score) for first, last in sorted(gaps) for score in np.linspace(first, last, 5)[1:-1]]
        self.scores = [*known, *new]
        return [self.current.evolve(score_threshold=score) for score in new]

    def scan_thresholds(self) -> list[Thresholds]:
        """Return variants of the scan threshold above the score threshold, and one without a scan threshold."""
        higher = sorted(score for score in self.scores if score > self.current.score_threshold)
        new = [*higher, 0.0] if self.has_empty_scans else [0.0]
        return [self.current.evolve(scan_threshold=score) for score in new if score != self.current.scan_threshold]

    def smallest_volumes(self, volumes: Sequence[float]) -> list[Thresholds]:
        """Return one variant without a smallest volume, and one for each of the ``volumes`` (mm³)."""
        return [self.current.evolve(minimum_volume_mm3=volume) for volume in [0.0, *volumes]]

    # -- Choices -------------------------------------------------------------------------------------------------------

    def best(self, tried: list[Thresholds]) -> Thresholds:
        """Return the best variant if its gain exceeds noise.

        A loss of Dice counts against the gain: stronger suppression removes false positives, but also parts of the
        masks of large lesions.
        """
        better = [thresholds for thresholds in tried if self.gain(self.current, thresholds).f1_low > 0]
        first = max([self.current, *better], key=self._net_gain)
        return first if self._net_gain(first) > 0 else self.current

    def _net_gain(self, thresholds: Thresholds) -> float:
        """Return the gain of the objective over the current thresholds, minus the loss of Dice."""
        (value, _, dice), (new_value, _, new_dice) = self.rank(self.current), self.rank(thresholds)
        return new_value - value + min(0.0, new_dice - dice)

    def best_score(self, tried: list[Thresholds]) -> Thresholds:
        """Return the variant of highest rank.

        If the current score threshold is still the first one, usually that of the plan, the gain over it must exceed
        noise. With a target, the score threshold always follows the target.
        """
        if not tried:
            return self.current
        first = self.start or self.default
        may_move = self.objective.has_target or self.current.score_threshold != first.score_threshold
        if not may_move:
            tried = [thresholds for thresholds in tried if self.gain(self.current, thresholds).f1_low > 0]
        return max([self.current, *tried], key=self.rank)

    def best_outline(self, tried: list[Thresholds]) -> Thresholds:
        """Return the variant of highest Dice if its gain exceeds noise and it loses no lesion.

        Used for thresholds that mainly change the masks. First the best of the variants is taken that find more lesions
        by more than noise. Then a better outline may cost a little F1, but no lesion that the plan finds.
        """
        now = self.current
        better = [thresholds for thresholds in tried if self.gain(now, thresholds).f1_low > 0]
        # Among equal ranks, the variant nearest to the current thresholds is taken.
        start = max([now, *better], key=lambda thresholds: (self.rank(thresholds), -_distance(thresholds, now)))
        top = self.rank(start)[0]
        floor = max(top - _MAX_F1_LOSS, min(top, self.rank(self.default)[0]))
        good = [
            thresholds
            for thresholds in tried
            if self.rank(thresholds)[0] >= floor and self.gain(start, thresholds).dice_low > 0
        ]
        return max([start, *good], key=lambda thresholds: (self.rank(thresholds)[2], -_distance(thresholds, now)))

    def best_scan_threshold(self, tried: list[Thresholds]) -> Thresholds:
        """Return the variant of highest mean Dice if its gain exceeds noise and it loses no lesion.

        A scan without lesions has Dice 1 if nothing is predicted and 0 otherwise. A scan whose lesions are all dropped
        has Dice 0. Each scan therefore counts once. Among neighbouring thresholds that are equally good, the middle one
        is taken, because it is farthest from the scans on either side.
        """
        start = self.best([thresholds for thresholds in tried if not thresholds.scan_threshold])
        floor = self.rank(start)[0] - _EQUAL
        variants = [thresholds for thresholds in tried if thresholds.scan_threshold]
        if not variants:
            return start
        ranks = [self.rank(thresholds) for thresholds in variants]
        dice = [rank[2] if rank[0] >= floor else -1.0 for rank in ranks]
        first = last = dice.index(max(dice))
        if dice[first] < 0 or not self.gain(start, variants[first]).dice_low > 0:
            return start
        while last + 1 < len(dice) and dice[last + 1] >= dice[first] - _EQUAL:
            last += 1
        return variants[(first + last) // 2]

    def smallest_useful_volume(self, tried: list[Thresholds]) -> Thresholds:
        """Return the variant with the smallest volume among the best ones, if their gain exceeds noise."""
        better = [thresholds for thresholds in tried if self.gain(self.current, thresholds).f1_low > 0]
        if not better:
            return self.current
        top = max(self.rank(thresholds)[0] for thresholds in better)
        return next(thresholds for thresholds in better if self.rank(thresholds)[0] >= top - _EQUAL)


class SearchStep(NamedTuple):
    """A step of the search.

    Attributes
    ----------
    description : str
        Text of the progress bar.
    variants : callable
        Returns the thresholds to try.
    choose : callable
        Returns the thresholds with which the search continues.
    """

    description: str
    variants: Callable[[SearchState], list[Thresholds]]
    choose: Callable[[SearchState, list[Thresholds]], Thresholds]


MASK_STEPS: tuple[SearchStep, ...] = (
    SearchStep("score threshold", SearchState.score_grid, SearchState.best_score),
    SearchStep("suppression", SearchState.suppressions, SearchState.best),
    SearchStep("mask threshold", SearchState.masks, SearchState.best_outline),
    SearchStep("growth threshold", SearchState.growths, SearchState.best_outline),
    SearchStep("candidate threshold", SearchState.candidate_thresholds, SearchState.best),
)
"""Steps that choose the candidates and their masks.

They always use the F1. The score threshold of a target fits one set of masks only: with other masks, each variant would
miss the target, also the better ones.
"""


ROBUST_STEPS: tuple[SearchStep, ...] = (
    SearchStep("robust score threshold", SearchState.score_grid, SearchState.best_score),
    SearchStep("robust growth threshold", SearchState.growths, SearchState.best_outline),
    SearchStep("robust score threshold, second pass", SearchState.score_grid, SearchState.best_score),
    SearchStep("robust score threshold, finer", SearchState.nearby_scores, SearchState.best_score),
    SearchStep("robust score threshold, finest", SearchState.nearby_scores, SearchState.best_score),
)
"""Steps that choose thresholds for unchanged and shifted scans together, after the search on unchanged scans.

A shift mainly lowers the scores. The steps therefore vary the thresholds on scores only, which also takes little time.
"""


def score_steps(volumes: Sequence[float]) -> tuple[SearchStep, ...]:
    """Return the steps that choose the thresholds on scores and sizes.

    Parameters
    ----------
    volumes : sequence of float
        Values of the smallest volume to try, mm³, ascending.
    """
    return (
        SearchStep("score threshold, second pass", SearchState.score_grid, SearchState.best_score),
        SearchStep("score threshold, finer", SearchState.nearby_scores, SearchState.best_score),
        SearchStep("score threshold, finest", SearchState.nearby_scores, SearchState.best_score),
        SearchStep("scan threshold", SearchState.scan_thresholds, SearchState.best_scan_threshold),
        SearchStep(
            "smallest volume",
            partial(SearchState.smallest_volumes, volumes=volumes),
            SearchState.smallest_useful_volume,
        ),
    )


def take_steps(
    states: Iterable[SearchState], steps: Sequence[SearchStep], objective: Objective, tables: Sequence[CountTable]
) -> None:
    """Take the steps in all searches. The variants of all searches are counted together.

    Parameters
    ----------
    states : iterable of SearchState
        Their ``current`` thresholds change.
    steps : sequence of SearchStep
    objective : Objective
    tables : sequence of CountTable
        Tables that the metrics of the searches use.
    """
    states = list(states)
    for state in states:
        state.objective = objective
    for step in steps:
        variants = [step.variants(state) for state in states]
        for table in tables:
            table.evaluate([thresholds for tried in variants for thresholds in tried], step.description)
        for state, tried in zip(states, variants, strict=True):
            admitted = [thresholds for thresholds in tried if state.admits is None or state.admits(thresholds)]
            state.current = step.choose(state, admitted)


def _distance(first: Thresholds, second: Thresholds) -> float:
    """Return the distance between two sets of thresholds that differ in one value; other values have other units."""
    return sum(abs(a - b) for a, b in zip(first.values().values(), second.values().values(), strict=True))
