"""The conditions of the benchmark: the clean scans and every shift at every strength."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detseg3d.core.errors import DetSeg3DError
from detseg3d.synthetic.shifts.catalogue import SHIFTS, shifts_for
from detseg3d.synthetic.shifts.scan import Scan
from detseg3d.synthetic.shifts.shift import Shift, Strength, case_seed

__all__ = ["CLEAN", "Condition", "conditions_of", "named_shifts"]


@dataclass(frozen=True)
class Condition:
    """One row of the table.

    Attributes
    ----------
    shift : Shift or None
        ``None`` for the clean scans.
    strength : Strength
        Not used for the clean scans.
    """

    shift: Shift | None
    strength: Strength = Strength.MEDIUM

    @property
    def name(self) -> str:
        """Name of the row, for example ``gamma_strong``."""
        return "clean" if self.shift is None else f"{self.shift.name}_{self.strength}"

    @property
    def folder(self) -> str:
        """Name of the folders that keep scans and results of this condition. It contains the version of the shift."""
        version = 1 if self.shift is None else self.shift.version
        return self.name if version == 1 else f"{self.name}_v{version}"

    def apply(self, scan: Scan, case_id: str, seed: int) -> Scan:
        """Return the scan of a case under this condition."""
        return scan if self.shift is None else self.shift.apply(scan, self.strength, case_seed(case_id, seed))


CLEAN = Condition(None)
"""The scans as they are."""


def conditions_of(
    channel_names: Sequence[str], shifts: Sequence[str], strengths: Sequence[Strength]
) -> tuple[Condition, ...]:
    """Return the clean condition and the shifts that suit the channels, in the order of the catalogue.

    Parameters
    ----------
    channel_names : sequence of str
        Of the data set.
    shifts : sequence of str
        Names of shifts; empty for all.
    strengths : sequence of Strength

    Raises
    ------
    DetSeg3DError
        If a shift does not exist.
    """
    suitable = shifts_for(channel_names)
    chosen = named_shifts(shifts) if shifts else SHIFTS
    changed = (Condition(shift, strength) for shift in chosen if shift in suitable for strength in strengths)
    return (CLEAN, *changed)


def named_shifts(names: Sequence[str]) -> tuple[Shift, ...]:
    """Return the shifts with these names, in the order of the catalogue."""
    unknown = sorted(set(names) - {shift.name for shift in SHIFTS})
    if unknown:
        raise DetSeg3DError(
            "these shifts do not exist", value=unknown, expected=", ".join(shift.name for shift in SHIFTS)
        )
    return tuple(shift for shift in SHIFTS if shift.name in names)
