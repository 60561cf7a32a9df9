"""Recovery of decimal numbers that were rounded when they were stored."""

from __future__ import annotations

import numpy as np

__all__ = ["FLOAT32_ROUNDING", "decimal_of_float32", "meant_decimal", "nearby_decimal"]

FLOAT32_ROUNDING = 2.0**-24
"""Maximum relative error of rounding to single precision."""

# Relative error of a double-precision number that was computed in a few steps or written with 15 digits.
_DOUBLE_ROUNDING = 1e-12
_MAX_DIGITS = 9  # 9 digits identify every number in single precision


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


def meant_decimal(value: float) -> float:
    """Return the decimal behind a number that may have been rounded to single precision.

    Programs that read 1.2 mm from a NIfTI file write 1.2000000476837158 to files of any format.

    Parameters
    ----------
    value : float

    Returns
    -------
    float
        The shortest decimal, if ``value`` is a single-precision number; otherwise ``value``.

    Examples
    --------
    >>> meant_decimal(1.2000000476837158), meant_decimal(1.20000005), meant_decimal(0.48828125)
    (1.2, 1.20000005, 0.48828125)
    """
    with np.errstate(over="ignore", under="ignore"):
        single = float(np.float32(value))
    return decimal_of_float32(single) if abs(single - value) <= _DOUBLE_ROUNDING * abs(value) else value


def nearby_decimal(value: float, relative_error: float) -> float:
    """Return the decimal with the fewest digits that is equal to ``value`` within ``relative_error``.

    If no decimal of at most 9 digits is near enough, ``value`` is returned.

    Parameters
    ----------
    value : float
    relative_error : float
        Maximum difference, as a fraction of ``value``: for example the error of a norm that was computed from rounded
        numbers.

    Returns
    -------
    float

    Examples
    --------
    >>> nearby_decimal(1.1999999602, 1e-7), nearby_decimal(0.48828124999999, 1e-12), nearby_decimal(1 / 3, 1e-12)
    (1.2, 0.48828125, 0.3333333333333333)
    """
    for digits in range(1, _MAX_DIGITS + 1):
        rounded = float(f"{value:.{digits}g}")
        if abs(rounded - value) <= relative_error * abs(value):
            return rounded
    return value
