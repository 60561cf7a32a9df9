"""Enumerations whose members are strings, as ``enum.StrEnum`` of Python 3.11."""

from __future__ import annotations

from enum import Enum

__all__ = ["StringEnum"]


class StringEnum(str, Enum):
    """Enumeration whose members are equal to their values and are printed as their values.

    Python 3.10 has no ``enum.StrEnum``. Replace this class by it when 3.10 is no longer supported.

    Examples
    --------
    >>> class Colour(StringEnum):
    ...     RED = "red"
    >>> str(Colour.RED), f"{Colour.RED}", Colour.RED == "red"
    ('red', 'red', True)
    """

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, specification: str) -> str:
        return format(str(self.value), specification)
