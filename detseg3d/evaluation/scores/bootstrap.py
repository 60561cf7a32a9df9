"""Compute bootstrap intervals by resampling patients. A patient is drawn with all lesions.

The percentiles of the resamples give too narrow intervals for the few patients of most studies. The resamples therefore
only give the standard error. The interval is computed with Student's t, on a scale on which the error is about
symmetric: the logit of a share, the logarithm of a count. ``benchmarks/coverage.py`` measures how often such an
interval contains the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from scipy.special import gammaincinv, stdtrit

from detseg3d.core.arrays import FloatArray
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "Contributions",
    "Interval",
    "Scale",
    "bootstrap_weights",
    "contributions",
    "interval",
    "pooled_share_interval",
]


_MIN_DEGREES = 0.5  # minimum degrees of freedom
_EQUAL = 1e-12  # resamples that differ by at most this value differ only by rounding


class Scale(Enum):
    """Range of values that a metric can take. Its interval stays within this range."""

    SHARE = "share"
    """Between 0 and 1."""
    COUNT = "count"
    """Events per scan, 0 or more."""
    AMOUNT = "amount"
    """0 or more, without an upper limit, for example millimetres."""
    DIFFERENCE_OF_SHARES = "difference of shares"
    """Between -1 and 1."""
    DIFFERENCE = "difference"
    """Any number."""


@dataclass(frozen=True)
class Contributions:
    """Contributions of the patients to a metric.

    Attributes
    ----------
    patients : int
        Number of patients that add to the denominator of the metric. For recall, these are the patients with lesions.
    effective : float
        Effective number of patients, (sum of w)² / (sum of w²), with the contribution w of each patient. It is small if
        one patient has most of the lesions.
    leverage : float
        Mean share of a patient in the metric, (sum of w³) / (sum of w² times sum of w); 1 / n for n patients that
        contribute equally. A patient with a large share pulls the metric towards its value. The spread of the resamples
        is then too small by the factor sqrt(1 - leverage).

    References
    ----------
    Kish (1965), "Survey Sampling", for the effective number.
    """

    patients: int
    effective: float
    leverage: float


@dataclass(frozen=True)
class Interval(JsonRecord):
    """Confidence interval of a metric.

    Attributes
    ----------
    low, high : float or None
        Limits of the interval; ``None`` if no interval can be given.
    left_out : int
        Number of resamples in which the metric is undefined. For example, the recall is undefined if no patient with
        lesions was drawn.
    patients : int
        Number of patients that contribute to the metric; see :class:`Contributions`.
    """

    low: float | None
    high: float | None
    left_out: int
    patients: int


def bootstrap_weights(
    num_cases: int, samples: int = 1000, seed: int = 0, groups: Sequence[str] | None = None
) -> FloatArray:
    """Draw the number of times that each case is in each resample, with replacement.

    The product of this matrix with the values of the cases gives the sum over cases in each resample.

    Parameters
    ----------
    num_cases : int
        Number of cases.
    samples : int, optional
        Number of resamples.
    seed : int, optional
        Seed of the random draws.
    groups : sequence of str, optional
        Patient of each case. The cases of a patient are drawn together. By default each case is a patient.

    Returns
    -------
    ndarray of float64, shape ``(samples, num_cases)``
        Number of times that each case is in each resample.

    Raises
    ------
    ValueError
        If the number of groups is not ``num_cases``.

    References
    ----------
    Efron and Tibshirani (1993), "An Introduction to the Bootstrap".

    Examples
    --------
    >>> bootstrap_weights(4, samples=2).sum(axis=1).tolist()
    [4.0, 4.0]
    """
    if groups is not None and len(groups) != num_cases:
        raise ValueError(f"{len(groups)} groups for {num_cases} cases")
    if num_cases == 0:
        return np.zeros((samples, 0))
    random = np.random.default_rng(seed)
    if groups is None:
        return random.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=samples).astype(np.float64)
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=samples)
    return drawn[:, member].astype(np.float64)


def contributions(of_case: npt.ArrayLike, groups: Sequence[str] | None = None) -> Contributions:
    """Add up the contributions of the cases of each patient to a metric.

    Parameters
    ----------
    of_case : array_like of float, shape ``(N,)``
        Contribution of each case to the denominator: its lesions, its predictions, or 1 for a mean over cases.
    groups : sequence of str, optional
        Patient of each case. By default each case is a patient.

    Examples
    --------
    >>> contributions([4, 4, 0, 8], ["a", "a", "b", "c"])
    Contributions(patients=2, effective=2.0, leverage=0.5)
    """
    amounts = np.asarray(of_case, np.float64)
    if groups is not None:
        _, member = np.unique(np.asarray(groups), return_inverse=True)
        amounts = np.asarray(np.bincount(member, weights=amounts), np.float64)
    total = float(amounts.sum())
    if total <= 0:
        return Contributions(0, 0.0, 1.0)
    shares = amounts / total
    squares = float((shares**2).sum())
    return Contributions(int(np.count_nonzero(amounts)), 1 / squares, float((shares**3).sum()) / squares)


def interval(
    resampled: FloatArray, point: float, rests_on: Contributions, scale: Scale, level: float = 0.95
) -> Interval:
    """Return the interval of a metric from its values under resamples of the patients.

    Parameters
    ----------
    resampled : ndarray of float, shape ``(S,)``
        Value in each resample; NaN if the metric is undefined. Resamples with NaN are left out.
    point : float
        Value of the metric without resampling.
    rests_on : Contributions
        Contributions of the patients to the metric.
    scale : Scale
        Range of the values of the metric.
    level : float, optional
        Confidence level, 0 to 1.

    Returns
    -------
    Interval
        Interval around ``point``.

    Notes
    -----
    The half width is Student's t with ``rests_on.effective - 1`` degrees of freedom times the standard error of the
    resamples, on the logit scale of a share and on the logarithmic scale of a count. The standard error is divided by
    sqrt(1 - leverage). For n patients that contribute equally, this factor is sqrt((n - 1) / n), as in Hesterberg
    (2015). If all resamples have the same value, their standard error is 0. In this case, the limits are exact, see
    :func:`_exact_limits`.

    References
    ----------
    Hesterberg (2015), "What teachers should know about the bootstrap", The American Statistician 69.

    Examples
    --------
    Every lesion of ten patients was found. The share of patients with a miss may still be as high as 31 %.

    >>> found = interval(np.ones(1000), 1.0, contributions(np.ones(10)), Scale.SHARE)
    >>> round(found.low, 3), found.high
    (0.692, 1.0)
    """
    known = resampled[np.isfinite(resampled)]
    left_out = len(resampled) - len(known)
    if len(known) == 0 or not np.isfinite(point):
        return Interval(None, None, left_out, rests_on.patients)
    agree = bool(np.ptp(known) <= _EQUAL * max(1.0, abs(point)))
    error = 0.0 if agree else float(np.std(known))
    return Interval(*_limits(float(point), error, rests_on, scale, level), left_out, rests_on.patients)


def pooled_share_interval(
    part: npt.ArrayLike, whole: npt.ArrayLike, groups: Sequence[str] | None = None, level: float = 0.95
) -> Interval:
    """Return the interval of a ratio of sums, ``part`` over ``whole``, without resampling.

    The standard error is computed from the linearised ratio. The bootstrap converges to this error with many resamples.
    The limits are computed as in :func:`interval`.

    Parameters
    ----------
    part, whole : array_like of float, shape ``(N,)``
        Numerator and denominator of each case or lesion. For the recall of lesions, ``part`` is 1 for a found
        lesion and 0 for a missed lesion, and ``whole`` is 1.
    groups : sequence of str, optional
        Patient of each case or lesion. By default, each entry belongs to a different patient.
    level : float, optional
        Confidence level, 0 to 1.

    References
    ----------
    Cochran (1977), "Sampling Techniques", chapter 6.

    Examples
    --------
    >>> found = pooled_share_interval([1, 0, 1, 1, 1, 0], [1] * 6, ["a", "a", "b", "b", "c", "c"])
    >>> found.patients, round(found.low, 2), round(found.high, 2)
    (3, 0.07, 0.98)
    """
    parts, wholes = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    rests_on = contributions(wholes, groups)
    if rests_on.patients == 0:
        return Interval(None, None, 0, 0)
    point = float(parts.sum() / wholes.sum())
    residual = parts - point * wholes
    if groups is not None:
        _, member = np.unique(np.asarray(groups), return_inverse=True)
        residual = np.asarray(np.bincount(member, weights=residual), np.float64)
    error = float(np.sqrt((residual**2).sum()) / wholes.sum())
    error = 0.0 if error <= _EQUAL else error
    return Interval(*_limits(point, error, rests_on, Scale.SHARE, level), 0, rests_on.patients)


def _limits(
    point: float, error: float, rests_on: Contributions, scale: Scale, level: float
) -> tuple[float | None, float | None]:
    """Return the limits for a standard error. An error of 0 means that all patients agree."""
    if rests_on.patients == 0:
        return None, None
    if error == 0:
        return _exact_limits(point, rests_on.patients, scale, level)
    if rests_on.patients < 2:
        return None, None
    degrees = max(rests_on.effective - 1, _MIN_DEGREES)
    reach = error / math.sqrt(1 - rests_on.leverage) * float(stdtrit(degrees, (1 + level) / 2))
    return _around(point, reach, scale)


def _around(point: float, reach: float, scale: Scale) -> tuple[float | None, float | None]:
    """Return the limits at the distance ``reach`` from ``point``, on the scale on which the error is symmetric."""
    if scale is Scale.DIFFERENCE:
        return point - reach, point + reach
    if scale is Scale.DIFFERENCE_OF_SHARES:
        return max(point - reach, -1.0), min(point + reach, 1.0)
    if point <= 0 or (scale is Scale.SHARE and point >= 1):
        return None, None  # the resamples differ, but the metric is at the end of its scale
    if scale is Scale.SHARE:
        logit = math.log(point / (1 - point))
        reach = reach / (point * (1 - point))  # the derivative of the logit is 1 / (p (1 - p))
        low, high = (1 / (1 + math.exp(-max(min(logit + side, 700.0), -700.0))) for side in (-reach, reach))
        return low, high
    factor = math.exp(min(reach / point, 700.0))
    return point / factor, point * factor


def _exact_limits(point: float, patients: int, scale: Scale, level: float) -> tuple[float | None, float | None]:
    """Return exact limits if all patients have the same value.

    If n patients have the same value, a share of up to 1 - a^(1/n) of all patients may still differ, with
    a = (1 - level) / 2. For a share, the limits assume that the differing patients are at the other end of the scale.
    If n patients have no failure, the interval is [a^(1/n), 1]. A count has the exact limits of a Poisson number of
    events. An amount has no upper limit, so it has no interval.

    References
    ----------
    Share: Clopper and Pearson (1934), "The use of confidence or fiducial limits illustrated in the case of the
    binomial", Biometrika 26. Count: Garwood (1936), "Fiducial limits for the Poisson distribution", Biometrika 28.
    """
    rest = (1 - level) / 2
    agreeing = rest ** (1 / patients)
    if scale in (Scale.SHARE, Scale.DIFFERENCE_OF_SHARES):
        lowest = 0.0 if scale is Scale.SHARE else -1.0
        return agreeing * point + (1 - agreeing) * lowest, agreeing * point + (1 - agreeing)
    if scale is Scale.COUNT:
        events = point * patients
        # Half of a quantile of the chi-squared distribution with 2n degrees of freedom is a quantile of the gamma
        # distribution of shape n. scipy.special imports in a fraction of the time of scipy.stats.
        low = float(gammaincinv(events, rest)) if events > 0 else 0.0
        return low / patients, float(gammaincinv(events + 1, 1 - rest)) / patients
    return None, None
