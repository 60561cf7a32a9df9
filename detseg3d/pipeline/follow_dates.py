"""Dates of the scans of a follow-up, as the user gives them."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import read_bounded

__all__ = ["GivenDates", "read_dates"]

_MAX_TABLE_BYTES = 16 << 20
_FORMAT = "YYYY-MM-DD"


@dataclass(frozen=True)
class GivenDates:
    """Dates of the scans of patients.

    Attributes
    ----------
    only : tuple of datetime.date
        One date for each time point of the only patient.
    by_patient : mapping of str to tuple of datetime.date or None
        For each patient, one date for each time point; ``None`` if the user gave none.
    file : Path or None
        Table with the dates of ``by_patient``.
    """

    only: tuple[dt.date, ...] = ()
    by_patient: Mapping[str, tuple[dt.date | None, ...]] = field(default_factory=dict)
    file: Path | None = None

    def check_patients(self, patients: Sequence[str]) -> None:
        """Raise an error if dates belong to no patient, or to an unknown patient.

        Parameters
        ----------
        patients : sequence of str
            Names of all patients of the follow-up.
        """
        if self.only and len(patients) != 1:
            raise DetSeg3DError(
                "the dates fit only one patient",
                value=f"{len(patients)} patients",
                expected="a table with the dates of each patient",
                remedy="give --dates TABLE.csv",
            )
        unknown = sorted(set(self.by_patient) - set(patients))
        if unknown:
            raise DetSeg3DError(
                "the table of dates names patients that are not followed",
                file=self.file,
                value=unknown[:5],
                expected=f"names such as {', '.join(list(patients)[:3])}",
            )

    def of(self, patient: str, count: int) -> tuple[dt.date | None, ...]:
        """Return the dates of a patient, ``None`` for each of ``count`` time points without a date."""
        return self.only or self.by_patient.get(patient, (None,) * count)


def read_dates(words: Sequence[str], count: int) -> GivenDates:
    """Return the dates that the user gave on the command line.

    Parameters
    ----------
    words : sequence of str
        One date ``YYYY-MM-DD`` for each time point, or the path of a CSV table: a line with the names of the columns,
        then a line per patient with its name and one date for each time point. A cell may be empty.
    count : int
        Number of time points.

    Returns
    -------
    GivenDates

    Raises
    ------
    DetSeg3DError
        If the number of dates is wrong, a date is not valid, or the table cannot be read.
    """
    if len(words) == 1 and words[0].lower().endswith((".csv", ".txt")):
        return _read_table(Path(words[0]), count)
    if len(words) != count:
        raise DetSeg3DError(
            "the numbers of dates and of time points differ",
            value=f"{len(words)} dates, {count} time points",
            expected=f"{count} dates {_FORMAT}, or a table .csv",
        )
    return GivenDates(only=tuple(_date(word, None) for word in words))


def _read_table(path: Path, count: int) -> GivenDates:
    expected = f"a line of column names, then lines with a patient and {count} dates {_FORMAT} each"
    try:
        text = read_bounded(path, _MAX_TABLE_BYTES).decode("utf-8-sig")
        lines = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if any(row)]
    except FileNotFoundError as error:
        raise DetSeg3DError("the table of dates does not exist", file=path, remedy="check the path") from error
    except (OSError, ValueError, csv.Error) as error:
        raise DetSeg3DError(f"the table of dates cannot be read: {error}", file=path, expected=expected) from error
    dates: dict[str, tuple[dt.date | None, ...]] = {}
    for line in lines[1:]:
        patient, *cells = line
        if len(cells) != count or not patient or patient in dates:
            raise DetSeg3DError(
                "a line of the table of dates cannot be used", file=path, value=line, expected=f"{expected}, each once"
            )
        dates[patient] = tuple(_date(cell, path) if cell else None for cell in cells)
    if not dates:
        raise DetSeg3DError("the table of dates has no patient", file=path, expected=expected)
    return GivenDates(by_patient=dates, file=path)


def _date(text: str, file: Path | None) -> dt.date:
    try:
        if len(text) == len(_FORMAT):
            return dt.datetime.strptime(text, "%Y-%m-%d").date()  # fromisoformat also takes weeks
    except ValueError:
        pass
    raise DetSeg3DError("the date is not valid", file=file, value=text, expected=f"{_FORMAT}, for example 2024-05-31")
