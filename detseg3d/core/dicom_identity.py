"""Identity of the DICOM series from which a volume was read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["DicomIdentity"]


@dataclass(frozen=True)
class DicomIdentity:
    """Identifiers of a DICOM series. Programs need them to store results beside the series.

    Attributes
    ----------
    study_instance_uid, series_instance_uid : str
    frame_of_reference_uid : str
        Identifier of the coordinate system; empty if the series does not state it.
    sop_class_uid : str
        Kind of the objects, for example CT Image Storage.
    modality : str
    series_number, series_description : str
        Empty if the series does not state them.
    sop_instance_uids : tuple of str
        Identifier of the object of each slice, in the order of the slices of the volume.
    frame_numbers : tuple of int
        Frame number of each slice in its object, from 1.
    suv : bool
        True if the values were converted to standardised uptake values (SUV, body weight).
    date : str
        Date of the acquisition as ``YYYY-MM-DD``; the date of the series or of the study if the series does not state
        the date of the acquisition. Empty if the series states no valid date.
    patient_id : str
        PatientID, to compare the channels of a case. It is never written to a file, a log or a message.
    """

    study_instance_uid: str
    series_instance_uid: str
    frame_of_reference_uid: str
    sop_class_uid: str
    modality: str
    series_number: str
    series_description: str
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...]
    suv: bool = False
    date: str = ""
    patient_id: str = field(default="", repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the identifiers for ``rois/CASE.json``, without the patient.

        Examples
        --------
        >>> identity = DicomIdentity("1.2", "1.3", "1.4", "1.5", "CT", "1", "", (), (), patient_id="secret")
        >>> "secret" in str(identity.to_json()), "secret" in repr(identity)
        (False, False)
        """
        entries = asdict(self)
        del entries["patient_id"]
        return entries
