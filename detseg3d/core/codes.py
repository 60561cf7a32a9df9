"""Codes of a terminology such as SNOMED CT, by which other programs recognise a finding."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ClassCodes", "Code", "LESION"]


@dataclass(frozen=True)
class Code:
    """Coded term, with the three parts that DICOM gives a code.

    Attributes
    ----------
    value : str
        Code value, for example ``4147007``; at most 16 characters.
    scheme : str
        Coding scheme designator, for example ``SCT`` for SNOMED CT; at most 16 characters.
    meaning : str
        The term in words, for example ``Mass``; at most 64 characters.
    """

    value: str
    scheme: str
    meaning: str

    def to_json(self) -> list[str]:
        """Return value, scheme and meaning, as in dataset.json."""
        return [self.value, self.scheme, self.meaning]


LESION = Code("52988006", "SCT", "Lesion")
"""The finding of classes that do not state one."""


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

    def to_json(self) -> dict[str, list[str]]:
        """Return the codes as in dataset.json."""
        parts = {"finding": self.finding, "site": self.site}
        return {name: code.to_json() for name, code in parts.items() if code is not None}
