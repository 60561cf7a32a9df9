"""A shift: a named change of a scan, at three strengths, that imitates another scanner, protocol or patient."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from detseg3d.core.enums import StringEnum
from detseg3d.synthetic.shifts.scan import Scan

__all__ = ["Shift", "Strength", "case_seed"]

Value = TypeVar("Value")


class Strength(StringEnum):
    """Strength of a shift."""

    MILD = "mild"
    MEDIUM = "medium"
    STRONG = "strong"

    def choose(self, mild: Value, medium: Value, strong: Value) -> Value:
        """Return the argument that belongs to this strength.

        Examples
        --------
        >>> Strength.MEDIUM.choose(3.0, 5.0, 8.0)
        5.0
        """
        return {Strength.MILD: mild, Strength.MEDIUM: medium, Strength.STRONG: strong}[self]


@dataclass(frozen=True)
class Shift:
    """A named change of a scan.

    Attributes
    ----------
    name : str
        Lower case with underscores; it names folders and rows of tables.
    description : str
        What is changed, with the values of the three strengths.
    function : callable
        Function of a scan, a strength and a random generator. It returns the changed scan and keeps its argument.
    sensible_for_ct : bool
        False if a CT scan cannot look like this. Channels in Hounsfield units then stay as they are.
    version : int
        Rises if the result changes for equal arguments, because programs keep changed scans.
    """

    name: str
    description: str
    function: Callable[[Scan, Strength, np.random.Generator], Scan]
    sensible_for_ct: bool = True
    version: int = 1

    def suits(self, is_ct: tuple[bool, ...]) -> bool:
        """Return true if the shift changes at least one of these channels."""
        return self.sensible_for_ct or not all(is_ct)

    def apply(self, scan: Scan, strength: Strength, seed: int) -> Scan:
        """Return the changed scan.

        The same seed gives the same result. The random directions of a change do not depend on the strength, so a
        stronger change of a scan is the same change by a larger amount.

        Parameters
        ----------
        scan : Scan
        strength : Strength
        seed : int
            From :func:`case_seed`, so that each case is changed in its own way.

        Returns
        -------
        Scan
            Lesions keep their numbers. A lesion outside the new field of view is missing.

        Raises
        ------
        ValueError
            If the shift does not suit the channels of the scan.
        """
        if not self.suits(scan.is_ct):
            raise ValueError(f"the shift {self.name} is not sensible for CT")
        return self.function(scan, strength, np.random.default_rng([seed, zlib.crc32(self.name.encode())]))


def case_seed(case_id: str, seed: int = 0) -> int:
    """Return the seed of a case: the same for equal arguments, on every machine.

    Examples
    --------
    >>> case_seed("case_001"), case_seed("case_001", 1) == case_seed("case_001")
    (2681520923, False)
    """
    return zlib.crc32(f"{seed} {case_id}".encode())
