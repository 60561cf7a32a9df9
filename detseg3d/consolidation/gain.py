"""Decide whether one set of thresholds is better than another by more than noise, by comparing resampled patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from detseg3d.consolidation.outcomes import CaseCounts
from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.cross_validation import GainSummary
from detseg3d.evaluation.scores.bootstrap import Scale, bootstrap_weights, contributions, interval

__all__ = ["ONE_STANDARD_ERROR", "Gain", "PatientResamples", "ResampledMetrics", "expanded_tail"]

_RESAMPLES = 1000
_SEED = 0
_TAIL = 0.05
ONE_STANDARD_ERROR = 0.16
"""Tail of a normal distribution beyond one standard error.

A single step of the search must exceed one standard error. The result of the whole search is tested at 5 %.
"""
# A better outline may cost this much F1. The amount corresponds to the rounding of a few lesions.
_MAX_F1_LOSS = 0.005


def expanded_tail(patients: int, tail: float = _TAIL) -> float:
    """Return the tail of the bootstrap distribution that corresponds to a tail of the sampling distribution.

    A bootstrap over few patients is too narrow: it lacks the factor sqrt(n / (n - 1)) of the standard deviation and the
    wider tails of Student's t distribution.

    Parameters
    ----------
    patients : int
    tail : float, optional
        One-sided.

    Returns
    -------
    float
        0 for a single patient, for whom no bound exists.

    References
    ----------
    Hesterberg 2015, "What teachers should know about the bootstrap", section 5.3 ("expanded percentile interval").

    Examples
    --------
    >>> round(expanded_tail(5), 4), round(expanded_tail(40), 4)
    (0.0086, 0.044)
    """
    if patients < 2:
        return 0.0
    return float(ndtr(-math.sqrt(patients / (patients - 1)) * stdtrit(patients - 1, 1 - tail)))


@dataclass(frozen=True)
class Gain:
    """Gain of one set of thresholds over another on the same scans.

    Attributes
    ----------
    f1, f1_low : float
        Difference of the F1 at IoU ≥ 0.1, and its one-sided lower bound over resampled patients.
    dice, dice_low : float
        The same for the mean voxel Dice.
    """

    f1: float
    f1_low: float
    dice: float
    dice_low: float

    @property
    def is_more_than_noise(self) -> bool:
        """Whether the F1 is better by more than noise, or the outlines are."""
        return self.f1_low > 0 or self.outlines_better

    @property
    def outlines_better(self) -> bool:
        """Whether the Dice is better by more than noise, and the F1 is not worse by more than rounding."""
        return self.dice_low > 0 and self.f1 >= -_MAX_F1_LOSS

    def summary(self) -> GainSummary:
        """Return the gain for JSON, which has no infinity: the bound of a single patient is ``None``."""
        values = (self.f1, self.f1_low, self.dice, self.dice_low)
        return GainSummary(*(value if math.isfinite(value) else None for value in values))


@dataclass(frozen=True)
class ResampledMetrics:
    """F1 at IoU ≥ 0.1 and mean Dice with one set of thresholds, on all cases and on each resample.

    Attributes
    ----------
    f1, dice : float
        On all cases.
    resampled_f1, resampled_dice : ndarray of float64, shape ``(R,)``
        On each resample. The F1 of a resample without true lesions is ``NaN``, unless no case has a lesion.
    """

    f1: float
    dice: float
    resampled_f1: FloatArray
    resampled_dice: FloatArray


class PatientResamples:
    """Resamples of the patients of some cases. All comparisons use the same resamples.

    Parameters
    ----------
    patients : sequence of str
        Patient of each case. The cases of a patient are drawn together.
    tail : float, optional
        Fraction of the resamples that may lie below the lower bound of a gain. With few patients it is smaller, see
        :func:`expanded_tail`.
    shifted : int, optional
        The last ``shifted`` cases are shifted scans of the same patients. All metrics are then the mean of the metrics
        of the unchanged scans and of the metrics of the shifted scans.
    """

    def __init__(self, patients: Sequence[str], tail: float = _TAIL, shifted: int = 0) -> None:
        self.patients, self._groups = len(set(patients)), list(patients)
        first = len(patients) - shifted
        self._parts = [slice(0, first), slice(first, None)] if shifted else [slice(None)]
        drawn = bootstrap_weights(len(patients), _RESAMPLES, _SEED, list(patients))
        # The first row contains every case once: its metrics are those on all cases.
        self._weights = np.concatenate([np.ones((1, len(patients))), drawn])
        self._tail = expanded_tail(self.patients, tail)

    def metrics(self, counts: Sequence[CaseCounts]) -> ResampledMetrics:
        """Return the metrics of the counts of all cases, in their order."""
        table = np.array([(c.truth, c.predictions, c.outlined, c.dice, 1.0) for c in counts], np.float64)
        parts = [_f1_and_dice(self._weights[:, part] @ table[part]) for part in self._parts]
        f1, dice = np.mean(parts, axis=0)
        return ResampledMetrics(float(f1[0]), float(dice[0]), f1[1:], dice[1:])

    def gain(self, first: ResampledMetrics, second: ResampledMetrics) -> Gain:
        """Return the gain of ``second`` over ``first``, compared resample by resample.

        Examples
        --------
        >>> resamples = PatientResamples(["a", "b", "c"])
        >>> few, more = (resamples.metrics([CaseCounts(4, n, n, n, n, n / 4)] * 3) for n in (2, 4))
        >>> resamples.gain(few, more).is_more_than_noise, resamples.gain(few, few).is_more_than_noise
        (True, False)
        """
        return Gain(
            second.f1 - first.f1,
            self._lower_bound(second.resampled_f1 - first.resampled_f1),
            second.dice - first.dice,
            self._lower_bound(second.resampled_dice - first.resampled_dice),
        )

    def f1_interval(self, counts: Sequence[CaseCounts]) -> tuple[float, float] | None:
        """Return the 95 % interval of the F1 at IoU ≥ 0.1 as in metrics.json, or ``None`` if there is none."""
        if not any(count.truth for count in counts):
            return None
        metrics = self.metrics(counts)
        weight_of_case = [count.truth + count.predictions for count in counts]
        around = interval(metrics.resampled_f1, metrics.f1, contributions(weight_of_case, self._groups), Scale.SHARE)
        return None if around.low is None or around.high is None else (around.low, around.high)

    def _lower_bound(self, differences: FloatArray) -> float:
        """Return the difference that all resamples but the tail reach."""
        known = differences[np.isfinite(differences)]
        if self.patients < 2 or not len(known):
            return -math.inf
        # No interpolation: ties are common, and a value between two of them was not observed.
        index = int(self._tail * len(known))
        return float(np.partition(known, index)[index])


def _f1_and_dice(sums: FloatArray) -> FloatArray:
    """Return F1 and mean Dice, shape ``(2, R)``, from the summed counts of each resample, shape ``(R, 5)``.

    A metric that is undefined in a resample is ``NaN``.
    """
    truth, predictions, matched, dice, cases = sums.T
    lesions = truth + predictions
    f1 = np.where(lesions > 0, 2 * matched / np.maximum(lesions, 1.0), 1.0)
    if truth[0] > 0:
        f1[truth == 0] = np.nan
    with np.errstate(invalid="ignore"):  # a resample may contain no patient with shifted scans
        return np.stack([f1, dice / cases])
