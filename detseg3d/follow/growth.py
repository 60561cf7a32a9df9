"""Growth of a lesion per time."""

from __future__ import annotations

import math

__all__ = ["doubling_time"]


def doubling_time(before: float | None, after: float | None, days: int | None) -> float | None:
    """Return the volume doubling time in days; ``None`` if the volume did not grow or a value is unknown.

    Parameters
    ----------
    before, after : float or None
        Volumes in the same unit.
    days : int or None
        Time between both scans.

    Notes
    -----
    The volume is taken to grow by the same factor in each day: ``days · ln 2 / ln(after / before)``. Two scans
    of the same day have no doubling time.

    References
    ----------
    Schwartz (1961), "A biomathematical approach to clinical tumor growth", Cancer 14(6).

    Examples
    --------
    A lesion that grows from 100 to 400 mm³ in 180 days doubles its volume twice:

    >>> doubling_time(100, 400, 180)
    90.0
    >>> doubling_time(100, 80, 180) is None
    True
    """
    if before is None or after is None or days is None or days <= 0 or not 0 < before < after:
        return None
    return days * math.log(2) / math.log(after / before)
