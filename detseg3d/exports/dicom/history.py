"""History of the lesions of a scan: the same lesions in an earlier scan of the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from detseg3d.core.codes import ClassCodes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState

__all__ = ["EarlierLesion", "EarlierObject", "LesionHistory", "LostLesion", "ScanHistory", "read_earlier_object"]


@dataclass(frozen=True)
class EarlierObject:
    """A DICOM object of an earlier scan.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid : str
    tracking_uids : mapping of int to str
        Of a segmentation: the Tracking UID of each segment by its number. Empty for other objects.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    tracking_uids: Mapping[int, str] = field(default_factory=dict)

    def evidence(self) -> Dataset:
        """Return the identifiers, as highdicom takes the evidence of a report."""
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = self.sop_class_uid, self.sop_instance_uid
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = self.study_instance_uid, self.series_instance_uid
        return dataset


@dataclass(frozen=True)
class EarlierLesion:
    """A lesion in an earlier scan.

    Attributes
    ----------
    number : int
        Number in the instance map of the earlier scan.
    tracking_uid : str
    segmentation : EarlierObject or None
        Segmentation of the earlier scan, in which the segment of the lesion has its number. ``None`` if there is none.
    """

    number: int
    tracking_uid: str
    segmentation: EarlierObject | None = None


@dataclass(frozen=True)
class LesionHistory:
    """History of a lesion.

    Attributes
    ----------
    tracking_uid : str
        That of the earlier lesion if one lesion became this lesion alone; otherwise a new one.
    state : LesionState
    earlier : tuple of EarlierLesion
        The lesions from which this lesion came; empty for a new lesion.
    volume_change_percent, doubling_time_days : float or None
        Change of the whole group of lesions.
    """

    tracking_uid: str
    state: LesionState
    earlier: tuple[EarlierLesion, ...] = ()
    volume_change_percent: float | None = None
    doubling_time_days: float | None = None


@dataclass(frozen=True)
class LostLesion:
    """A lesion that only the earlier scan shows.

    Attributes
    ----------
    lesion : EarlierLesion
    state : LesionState
        ``DISAPPEARED`` or ``OUT_OF_VIEW``.
    codes : ClassCodes
    """

    lesion: EarlierLesion
    state: LesionState
    codes: ClassCodes = field(default_factory=ClassCodes)


@dataclass(frozen=True)
class ScanHistory:
    """History of all lesions of a scan.

    Attributes
    ----------
    time_point : int
        Number of the scan in the order of time, from 1.
    lesions : mapping of int to LesionHistory
        By the number of the lesion.
    lost : tuple of LostLesion
    objects : tuple of EarlierObject
        Segmentation and report of the earlier scan, as far as they exist.
    """

    time_point: int
    lesions: Mapping[int, LesionHistory]
    lost: tuple[LostLesion, ...] = ()
    objects: tuple[EarlierObject, ...] = ()


def read_earlier_object(path: Path, series_instance_uid: str, numbers: frozenset[int]) -> EarlierObject:
    """Read the identifiers of a segmentation or a report of an earlier scan.

    Parameters
    ----------
    path : Path
    series_instance_uid : str
        Series of the earlier scan.
    numbers : frozenset of int
        Numbers of the lesions of the earlier scan.

    Returns
    -------
    EarlierObject

    Raises
    ------
    DetSeg3DError
        If the file is not a DICOM object, does not refer to the series, or is a segmentation with other segments.
    """
    try:
        dataset = dcmread(path, stop_before_pixels=True)
        sop_class, sop_instance, study, own_series = (
            str(dataset[keyword].value)
            for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
        )
        segments = dataset.get("SegmentSequence")
        # Segment 0 of a label map is its background.
        tracking = {int(entry.SegmentNumber): str(entry.TrackingUID) for entry in segments or () if entry.SegmentNumber}
        series = _referenced_series(dataset)
    except (OSError, InvalidDicomError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise DetSeg3DError(
            f"the DICOM object of the earlier scan cannot be read: {error}",
            file=path,
            expected="a segmentation or a report of detseg3d_predict",
            remedy="write it again with detseg3d_export_dicom, or remove it",
        ) from error
    if series_instance_uid not in series:
        raise DetSeg3DError(
            "the DICOM object of the earlier scan belongs to another series",
            file=path,
            value=sorted(series)[:3],
            expected=f"series {series_instance_uid}",
            remedy="write it again with detseg3d_export_dicom, or remove it",
        )
    if segments is not None and set(tracking) != numbers:
        raise DetSeg3DError(
            "the segmentation of the earlier scan has other lesions than its record",
            file=path,
            value=sorted(tracking)[:10],
            expected=f"segments {sorted(numbers)[:10]}",
            remedy="write it again with detseg3d_export_dicom",
        )
    return EarlierObject(sop_class, sop_instance, study, own_series, tracking)


def _referenced_series(dataset: Dataset) -> set[str]:
    """Return the identifiers of the series to which a segmentation or a report refers."""
    series = {str(entry.SeriesInstanceUID) for entry in dataset.get("ReferencedSeriesSequence", ())}
    for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"):
        for study in dataset.get(keyword, ()):
            series |= {str(entry.SeriesInstanceUID) for entry in study.ReferencedSeriesSequence}
    return series
