"""What is wanted of a DICOM folder."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DicomOptions"]


@dataclass(frozen=True)
class DicomOptions:
    """What is read of a DICOM folder, and in which unit.

    Parameters
    ----------
    series : str, optional
        SeriesInstanceUID, SeriesNumber or SeriesDescription; needed if several series can be read.
    suv : bool
        Convert PET to standardised uptake values (SUV, body weight).
    """

    series: str | None = None
    suv: bool = False
