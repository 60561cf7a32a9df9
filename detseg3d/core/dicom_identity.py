"""Which DICOM series a volume was read from, so that results can be stored beside it later."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DicomIdentity"]


@dataclass(frozen=True)
class DicomIdentity:
    """The identifiers of a DICOM series. They name no person; the patient's name and number are not kept.

    Attributes
    ----------
    study_instance_uid, series_instance_uid : str
    frame_of_reference_uid : str
        Empty if the series states none.
    sop_class_uid : str
        Kind of the objects, for example CT Image Storage.
    modality : str
    series_number, series_description : str
        Empty if the series states none.
    sop_instance_uids : tuple of str
        Object of each slice, in the order of the slices of the volume as it was read.
    frame_numbers : tuple of int
        Frame of each slice in its object, counted from 1.
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
