"""Whether one setting is better than another by more than noise: both are compared on resampled patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.scores.bootstrap import Scale, bootstrap_weights, contributions, interval

__all__ = ["ONE_STANDARD_ERROR", "Gain", "PatientResamples", "ResampledFigures", "expanded_tail"]


_RESAMPLES = 1000
_SEED = 0
_TAIL = 0.05
ONE_STANDARD_ERROR = 0.16
"""Tail of a normal distribution beyond one standard error.

A single step of the search is held to this. The result of the search is tested once more.
"""
# A better outline may cost this much F1: so little is within rounding of a few lesions.
_MOST_F1_LOST = 0.005


def expanded_tail(patients: int, tail: float = _TAIL) -> float:
    """Tail of the bootstrap distribution that stands for ``tail`` of the sampling distribution.

    A bootstrap over few patients is too narrow: it misses the factor sqrt(n / (n - 1)) of the standard deviation and
    the tails of Student's t. Hesterberg (2015), "What teachers should know about the bootstrap", section 5.3 ("expanded
    percentile interval").

    Parameters
    ----------
    patients : int
    tail : float, optional
        One-sided.

    Returns
    -------
    float
        0 for a single patient: nothing can be said.

    Examples
    --------
    >>> round(expanded_tail(5), 4), round(expanded_tail(40), 4)
    (0.0086, 0.044)
    """
    if patients < 2:
        return 0.0
    return float(norm.cdf(-math.sqrt(patients / (patients - 1)) * t.ppf(1 - tail, patients - 1)))


@dataclass(frozen=True)
class Gain:
    """What a setting gains over another on the same scans.

    Attributes
    ----------
    f1, f1_low : float
        Difference of the F1 at IoU ≥ 0.1, and its lower bound over resampled patients (one-sided).
    dice, dice_low : float
        The same of the mean voxel Dice.
    """

    f1: float
    f1_low: float
    dice: float
    dice_low: float

    @property
    def is_more_than_noise(self) -> bool:
        """Whether more lesions are found, or outlines are better and (nearly) no lesion is lost."""
        return self.f1_low > 0 or self.outlines_better

    @property
    def outlines_better(self) -> bool:
        """Whether the Dice gains more than noise, and the F1 does not lose more than rounding."""
        return self.dice_low > 0 and self.f1 >= -_MOST_F1_LOST


@dataclass(frozen=True)
class ResampledFigures:
    """F1 at IoU ≥ 0.1 and mean Dice of some counts: on all cases, and on each resample.

    The F1 of a resample without any true lesion is ``NaN``, unless no case has a lesion.
    """

    f1: float
    dice: float
    drawn_f1: FloatArray
    drawn_dice: FloatArray


class PatientResamples:
    """Resamples of the patients of some cases, drawn once: every comparison uses the same.

    Parameters
    ----------
    patients : sequence of str
        Patient of each case; the cases of a patient are drawn together.
    tail : float, optional
        How many of the resamples may fall below the lower bound of a gain; widened for few patients.
    """

    def __init__(self, patients: Sequence[str], tail: float = _TAIL) -> None:
        self.patients, self._groups = len(set(patients)), list(patients)
        drawn = bootstrap_weights(len(patients), _RESAMPLES, _SEED, list(patients))
        self._weights = np.concatenate([np.ones((1, len(patients))), drawn])  # the first row: every case once
        self._tail = expanded_tail(self.patients, tail)

    def figures(self, counts: Sequence[CaseCounts]) -> ResampledFigures:
        """Figures of the counts of all cases, in their order."""
        table = np.array([(c.truth, c.predictions, c.outlined, c.dice, 1.0) for c in counts], np.float64)
        truth, predictions, matched, dice, cases = (self._weights @ table).T
        sides = truth + predictions
        f1 = np.where(sides > 0, 2 * matched / np.maximum(sides, 1.0), 1.0)
        if truth[0] > 0:
            f1[truth == 0] = np.nan
        dice = dice / cases
        return ResampledFigures(float(f1[0]), float(dice[0]), f1[1:], dice[1:])

    def gain(self, first: ResampledFigures, second: ResampledFigures) -> Gain:
        """What the ``second`` figures gain over the ``first``, resample by resample.

        Examples
        --------
        >>> resamples = PatientResamples(["a", "b", "c"])
        >>> few, more = (resamples.figures([CaseCounts(4, n, n, n, n, n / 4)] * 3) for n in (2, 4))
        >>> resamples.gain(few, more).is_more_than_noise, resamples.gain(few, few).is_more_than_noise
        (True, False)
        """
        return Gain(
            second.f1 - first.f1,
            self._low(second.drawn_f1 - first.drawn_f1),
            second.dice - first.dice,
            self._low(second.drawn_dice - first.drawn_dice),
        )

    def f1_interval(self, counts: Sequence[CaseCounts]) -> tuple[float, float] | None:
        """95 % interval of the F1 at IoU ≥ 0.1, as in metrics.json; ``None`` where the evaluation has none either."""
        if not any(count.truth for count in counts):
            return None
        figures = self.figures(counts)
        weight_of_case = [count.truth + count.predictions for count in counts]
        around = interval(figures.drawn_f1, figures.f1, contributions(weight_of_case, self._groups), Scale.SHARE)
        return None if around.low is None or around.high is None else (around.low, around.high)

    def _low(self, differences: FloatArray) -> float:
        """The difference that all but the tail of the resamples reach; no interpolation, since ties are common."""
        known = differences[np.isfinite(differences)]
        if self.patients < 2 or not len(known):
            return -math.inf
        place = int(self._tail * len(known))
        return float(np.partition(known, place)[place])
