"""Intervals by resampling patients: a patient is drawn or left out with all of its lesions.

Percentiles of the resamples are too narrow for the few patients of most studies. The resamples therefore only give the
standard error; the interval is that of Student's t on a scale where the error is about symmetric (the logit of a share,
the logarithm of a count). ``benchmarks/coverage.py`` measures how often such an interval holds the true value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from detseg3d.core.arrays import FloatArray

__all__ = [
    "Contributions",
    "Interval",
    "Scale",
    "bootstrap_weights",
    "contributions",
    "interval",
    "pooled_share_interval",
]


_FEWEST_DEGREES = 0.5
_SAME = 1e-12


class Scale(Enum):
    """The values that a figure can have; its interval keeps within them."""

    SHARE = "share"
    """Between 0 and 1."""
    COUNT = "count"
    """Events per scan, 0 or more."""
    AMOUNT = "amount"
    """0 or more, without an upper limit: millimetres."""
    DIFFERENCE_OF_SHARES = "difference of shares"
    """Between -1 and 1."""
    DIFFERENCE = "difference"
    """Any number."""


@dataclass(frozen=True)
class Contributions:
    """How many patients a figure rests on.

    Attributes
    ----------
    patients : int
        Patients that have something which the figure counts: for recall, patients with lesions.
    effective : float
        As many patients with equally much of it would differ as much: (sum of w)² / (sum of w²), where w is what a
        patient contributes (Kish 1965, "Survey Sampling"). One patient with most of the lesions makes it small.
    leverage : float
        Mean share of a patient in the figure, (sum of w³) / (sum of w² times sum of w); 1 / n for n patients that
        contribute alike. A figure lies nearer to patients with a large share than it should, so that the resamples
        differ too little by the factor sqrt(1 - leverage).
    """

    patients: int
    effective: float
    leverage: float


@dataclass(frozen=True)
class Interval:
    """Where the true value lies with the stated confidence.

    Attributes
    ----------
    low, high : float or None
        ``None`` if no interval can be given.
    left_out : int
        Resamples in which the figure is undefined, such as recall where no patient with lesions was drawn.
    patients : int
        Patients that the figure rests on; see :class:`Contributions`.
    """

    low: float | None
    high: float | None
    left_out: int
    patients: int

    def to_dict(self) -> dict[str, float | None]:
        """For JSON."""
        return {"low": self.low, "high": self.high, "left_out": self.left_out, "patients": self.patients}


def bootstrap_weights(
    num_cases: int, samples: int = 1000, seed: int = 0, groups: Sequence[str] | None = None
) -> FloatArray:
    """How often each case is drawn in each resample, with replacement.

    Efron and Tibshirani (1993), "An Introduction to the Bootstrap". A statistic that is a sum over cases becomes one
    product with this matrix.

    Parameters
    ----------
    num_cases : int
    samples : int, optional
    seed : int, optional
    groups : sequence of str, optional
        Patient of each case; cases of one patient are drawn together. By default each case is a patient.

    Returns
    -------
    ndarray of float64, shape ``(samples, num_cases)``

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
    """Add up what the cases of each patient contribute to a figure.

    Parameters
    ----------
    of_case : array_like of float, shape ``(N,)``
        What each case adds to the denominator: its lesions, its predictions, or 1 for a mean over cases.
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
    resampled: npt.NDArray[Any], point: float, rests_on: Contributions, scale: Scale, level: float = 0.95
) -> Interval:
    """Interval of a figure from its values under resamples of the patients.

    Parameters
    ----------
    resampled : ndarray of float, shape ``(S,)``
        NaN where the figure is undefined; such a resample is left out.
    point : float
        The figure itself.
    rests_on : Contributions
    scale : Scale
    level : float, optional

    Returns
    -------
    Interval
        Around ``point``: Student's t with ``rests_on.effective - 1`` degrees of freedom times the standard error of the
        resamples, on the logit scale of a share and the logarithmic scale of a count. The standard error is divided by
        sqrt(1 - leverage); of n patients that contribute alike this is sqrt((n - 1) / n), as Hesterberg (2015), "What
        teachers should know about the bootstrap", The American Statistician 69, has it. Where all resamples agree, they
        say nothing about the error, and the interval is exact: see :func:`_of_agreement`.

    Examples
    --------
    Ten patients in whom every lesion was found: the share of patients with a miss may still be as high as 31 %.

    >>> found = interval(np.ones(1000), 1.0, contributions(np.ones(10)), Scale.SHARE)
    >>> round(found.low, 3), found.high
    (0.692, 1.0)
    """
    known = resampled[np.isfinite(resampled)]
    left_out = len(resampled) - len(known)
    if len(known) == 0 or not np.isfinite(point):
        return Interval(None, None, left_out, rests_on.patients)
    agree = bool(np.ptp(known) <= _SAME * max(1.0, abs(point)))
    error = 0.0 if agree else float(np.std(known))
    return Interval(*_limits(float(point), error, rests_on, scale, level), left_out, rests_on.patients)


def pooled_share_interval(
    part: npt.ArrayLike, whole: npt.ArrayLike, groups: Sequence[str] | None = None, level: float = 0.95
) -> Interval:
    """Interval of the sum of ``part`` over the sum of ``whole``, as that of :func:`interval` without resampling.

    The standard error is that of the linearised ratio, which the bootstrap approaches with many resamples (Cochran
    1977, "Sampling Techniques", chapter 6).

    Parameters
    ----------
    part, whole : array_like of float, shape ``(N,)``
        Of each case or lesion: for recall, 1 if it was found, and 1.
    groups : sequence of str, optional
        Patient of each of them. By default each is of another patient.
    level : float, optional

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
    error = 0.0 if error <= _SAME else error
    return Interval(*_limits(point, error, rests_on, Scale.SHARE, level), 0, rests_on.patients)


def _limits(
    point: float, error: float, rests_on: Contributions, scale: Scale, level: float
) -> tuple[float | None, float | None]:
    """The limits for a standard error, which is 0 if all patients agree."""
    if rests_on.patients == 0:
        return None, None
    if error == 0:
        return _of_agreement(point, rests_on.patients, scale, level)
    if rests_on.patients < 2:
        return None, None
    degrees = max(rests_on.effective - 1, _FEWEST_DEGREES)
    reach = error / math.sqrt(1 - rests_on.leverage) * float(stats.t.ppf((1 + level) / 2, degrees))
    return _around(point, reach, scale)


def _around(point: float, reach: float, scale: Scale) -> tuple[float | None, float | None]:
    """``point`` less and more ``reach``, on the scale where the error is about symmetric."""
    if scale is Scale.DIFFERENCE:
        return point - reach, point + reach
    if scale is Scale.DIFFERENCE_OF_SHARES:
        return max(point - reach, -1.0), min(point + reach, 1.0)
    if point <= 0 or (scale is Scale.SHARE and point >= 1):
        return None, None  # the resamples differ, but the figure is at the end of its scale
    if scale is Scale.SHARE:
        logit = math.log(point / (1 - point))
        reach = reach / (point * (1 - point))  # the derivative of the logit is 1 / (p (1 - p))
        low, high = (1 / (1 + math.exp(-max(min(logit + side, 700.0), -700.0))) for side in (-reach, reach))
        return low, high
    factor = math.exp(min(reach / point, 700.0))
    return point / factor, point * factor


def _of_agreement(point: float, patients: int, scale: Scale, level: float) -> tuple[float | None, float | None]:
    """Exact limits where all patients agree.

    Of n patients that all agree, a share of up to 1 - a^(1/n) of all patients may be otherwise, where a = (1 - level) /
    2 (Clopper and Pearson 1934, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26). For a share these others are taken to be as far away as can be: of n patients without a failure the
    interval is [a^(1/n), 1]. A count has the exact limits of a Poisson number of events (Garwood 1936, "Fiducial limits
    for the Poisson distribution", Biometrika 28). An amount has no upper limit, so it has no interval.
    """
    rest = (1 - level) / 2
    agreeing = rest ** (1 / patients)
    if scale in (Scale.SHARE, Scale.DIFFERENCE_OF_SHARES):
        lowest = 0.0 if scale is Scale.SHARE else -1.0
        return agreeing * point + (1 - agreeing) * lowest, agreeing * point + (1 - agreeing)
    if scale is Scale.COUNT:
        events = point * patients
        low = float(stats.chi2.ppf(rest, 2 * events)) / 2 if events > 0 else 0.0
        return low / patients, float(stats.chi2.ppf(1 - rest, 2 * events + 2)) / 2 / patients
    return None, None
