"""Compare measured values with limits, with a tolerance for rounding errors.

Spacings are decimal numbers such as 0.4 mm, and a computer rounds decimal numbers. NIfTI headers store spacings in
single precision, and a spacing from an oblique affine is rounded a second time. Three slices of 0.4 mm then measure
1.2000000000000002 mm or 1.2000000477 mm, although they should be within a tolerance of 1.2 mm. Therefore the functions
of this module compare every value with a limit in mm or mm³.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["exceeds", "reaches", "within"]

RELATIVE_TOLERANCE = 1e-6
"""Relative difference up to which a value counts as equal to a limit. Single precision rounds a spacing by up to 6e-8
and the volume of a voxel by up to 1.8e-7."""

Values = float | npt.NDArray[Any]


def within(values: Values, limit: float) -> npt.NDArray[np.bool_]:
    """Return True for each value at or below a limit. Rounding errors count as equal to the limit.

    Parameters
    ----------
    values : float or ndarray
        Lengths or volumes, 0 or more.
    limit : float
        Limit in the same unit, 0 or more.

    Returns
    -------
    ndarray of bool
        Same shape as ``values``.

    Examples
    --------
    >>> bool(3 * 0.4 <= 1.2), bool(within(3 * 0.4, 1.2)), bool(within(1.21, 1.2))
    (False, True, False)
    """
    return np.asarray(np.asarray(values) <= limit * (1 + RELATIVE_TOLERANCE), np.bool_)


def exceeds(values: Values, limit: float) -> npt.NDArray[np.bool_]:
    """Return True for each value above a limit. Rounding errors count as equal to the limit.

    Examples
    --------
    >>> exceeds(np.array([3 * 0.4, 1.3]), 1.2).tolist()
    [False, True]
    """
    return np.asarray(~within(values, limit), np.bool_)


def reaches(values: Values, limit: float) -> npt.NDArray[np.bool_]:
    """Return True for each value at or above a limit. Rounding errors count as equal to the limit.

    Examples
    --------
    >>> volume = float(np.float32(0.7)) * 10  # ten voxels with a spacing from a NIfTI header
    >>> volume >= 7, bool(reaches(volume, 7)), bool(reaches(6.99, 7))
    (False, True, False)
    """
    return np.asarray(np.asarray(values) >= limit * (1 - RELATIVE_TOLERANCE), np.bool_)
