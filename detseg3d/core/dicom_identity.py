"""Identity of the DICOM series from which a volume was read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DicomIdentity"]


@dataclass(frozen=True)
class DicomIdentity:
    """Identifiers of a DICOM series, without the name and number of the patient.

    Programs need these identifiers to store results beside the series.

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
