"""Numbers and texts as the report shows them."""

from __future__ import annotations

import math

__all__ = ["DASH", "count", "interval", "number", "significant", "sphere_diameter"]

DASH = "–"
"""Text that replaces a missing value."""


def number(value: object, digits: int = 2) -> str:
    """Return a number as text: ``digits`` decimals, thin spaces between thousands, a dash for a missing value.

    Examples
    --------
    >>> number(0.666), number(None), number(float("nan")), number(12345.6, 0), number(-0.0), number(-0.5, 1)
    ('0.67', '–', '–', '12\u202f346', '0.00', '−0.5')
    """
    if not _is_number(value):
        return DASH
    rounded = round(float(value), digits) + 0.0  # type: ignore[arg-type]  # adding 0.0 turns -0.0 into 0.0
    return f"{rounded:,.{digits}f}".replace(",", "\u202f").replace("-", "−")


def significant(value: object, digits: int = 3) -> str:
    """Return a number with at least ``digits`` significant digits, never as a power of ten below a million.

    Examples
    --------
    >>> significant(0.01234), significant(1234.5), significant(-45.67), significant(None)
    ('0.0123', '1\u202f234', '−45.7', '–')
    """
    if not _is_number(value):
        return DASH
    magnitude = abs(float(value))  # type: ignore[arg-type]
    if magnitude >= 1e6 or 0 < magnitude < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return number(value, max(0, digits - 1 - math.floor(math.log10(magnitude))) if magnitude else 0)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return an interval as text. The text is empty if a limit is missing.

    Examples
    --------
    >>> interval(0.25, 0.5), interval(None, 0.5)
    ('0.25 to 0.50', '')
    """
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def count(quantity: int, noun: str) -> str:
    """Return a quantity with its noun, in the singular or plural.

    Examples
    --------
    >>> count(1, "scan"), count(0, "false positive")
    ('1 scan', '0 false positives')
    """
    return f"{number(quantity, 0)} {noun}{'' if quantity == 1 else 's'}"


def sphere_diameter(volume: float) -> float:
    """Return the diameter in mm of a sphere with this volume in mm³.

    Examples
    --------
    >>> round(sphere_diameter(1000), 1)
    12.4
    """
    return float((6 * volume / math.pi) ** (1 / 3))
