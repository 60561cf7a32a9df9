"""Codes of a terminology such as SNOMED CT, by which other programs recognise a finding."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClassCodes", "Code"]


@dataclass(frozen=True)
class Code:
    """Coded term, with the three parts that DICOM gives a code.

    Attributes
    ----------
    value : str
        Code value, for example ``4147007``.
    scheme : str
        Coding scheme designator, for example ``SCT`` for SNOMED CT.
    meaning : str
        The term in words, for example ``Mass``.
    """

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class ClassCodes:
    """Codes of the lesions of one class.

    Attributes
    ----------
    finding : Code or None
        Kind of the lesion; ``None`` if it is not stated.
    site : Code or None
        Part of the body; ``None`` if it is not stated.
    """

    finding: Code | None = None
    site: Code | None = None
