"""Intervals by resampling patients: a case stands or falls with all of its lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bootstrap_weights", "interval"]

FloatArray = npt.NDArray[np.float64]


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


def interval(values: npt.NDArray[Any], level: float = 0.95) -> tuple[float | None, float | None]:
    """Percentile interval of the resampled ``values``; NaN (undefined in that resample) does not count.

    Examples
    --------
    >>> interval(np.arange(101.0), level=0.5)
    (25.0, 75.0)
    """
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return None, None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
