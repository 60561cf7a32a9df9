"""The validation cases that a consolidation works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detseg3d.consolidation.outcomes import CaseTruth

__all__ = ["CandidateCase", "PreparedCase"]


@dataclass(frozen=True)
class CandidateCase:
    """A validation case whose candidates one fold has stored.

    Attributes
    ----------
    case_id : str
    fold : str
        Name of the fold that predicted the case and did not train on it.
    candidates : Path
        File of the stored candidates.
    label : Path
        The label file. For a shifted scan the file of its stored true lesions.
    patient : str
        Empty if the data set does not name the patient.
    shift : str
        Name of the shift that changed the scan. Empty for an unchanged scan.
    """

    case_id: str
    fold: str
    candidates: Path
    label: Path
    patient: str = ""
    shift: str = ""

    @property
    def group(self) -> str:
        """The patient, or the case if the data set does not name the patient. A bootstrap resample draws patients."""
        return self.patient or self.case_id


@dataclass(frozen=True)
class PreparedCase:
    """A validation case with its true lesions, which are read once."""

    stored: CandidateCase
    truth: CaseTruth
