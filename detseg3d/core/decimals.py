"""The decimal number that was meant by a number which a file stores rounded."""

from __future__ import annotations

import numpy as np

__all__ = ["FLOAT32_ROUNDING", "decimal_of_float32", "nearby_decimal"]

FLOAT32_ROUNDING = 2.0**-24
"""Largest relative error of a number that was rounded to single precision."""

_MOST_DIGITS = 17


def decimal_of_float32(value: float | np.floating) -> float:  # type: ignore[type-arg]
    """Return the shortest decimal that single precision rounds to ``value``.

    A spacing of 1.2 mm is 1.2000000476837158 in a file that stores single precision.

    Parameters
    ----------
    value : float
        A number in single precision. A float64 is rounded to single precision first.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> decimal_of_float32(np.float32(1.2)), decimal_of_float32(0.48828125)
    (1.2, 0.48828125)
    """
    return float(str(np.float32(value)))


def nearby_decimal(value: float, relative_error: float) -> float:
    """Return the decimal with the fewest digits that differs from ``value`` by no more than ``relative_error`` of it.

    Parameters
    ----------
    value : float
    relative_error : float
        Rounding error of ``value``, for example of a norm that was computed from rounded numbers.

    Returns
    -------
    float

    Examples
    --------
    >>> nearby_decimal(1.1999999602, 1e-7), nearby_decimal(0.488281249999, 1e-7), nearby_decimal(1 / 3, 1e-15)
    (1.2, 0.48828125, 0.333333333333333)
    """
    for digits in range(1, _MOST_DIGITS):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) <= relative_error * abs(value):
            return rounded
    return value
