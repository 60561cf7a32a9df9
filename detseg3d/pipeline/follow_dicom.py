"""Write the lesions of a follow-up as DICOM objects, with one Tracking UID per lesion over all scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.lesion_state import LesionState
from detseg3d.data.folders import PredictionFolder
from detseg3d.data.images import strip_ending
from detseg3d.exports.dicom.export import Export
from detseg3d.exports.dicom.history import (
    EarlierLesion,
    EarlierObject,
    LesionHistory,
    LostLesion,
    ScanHistory,
    read_earlier_object,
)
from detseg3d.exports.dicom.objects import write_objects
from detseg3d.exports.dicom.options import DicomOptions, DicomPaths
from detseg3d.follow.result import Comparison, FollowUp, LesionChange
from detseg3d.pipeline.export_dicom import prepare_export

__all__ = ["FollowedScan", "write_follow_up_objects"]

_ONE_LESION = (LesionState.ENLARGED, LesionState.STABLE, LesionState.SHRUNK)


@dataclass(frozen=True)
class FollowedScan:
    """Files of one scan of a follow-up.

    Attributes
    ----------
    instances : Path
        Instance map in a folder of ``detseg3d_predict``.
    image : Path or None
        Folder or file with the DICOM series of the scan.
    """

    instances: Path
    image: Path | None


@dataclass(frozen=True)
class _Tracked:
    """The lesions of a scan, their Tracking UIDs by number, and the DICOM objects that hold them."""

    export: Export
    uids: Mapping[int, str]
    objects: tuple[EarlierObject, ...]

    @property
    def segmentation(self) -> EarlierObject | None:
        return next((entry for entry in self.objects if entry.tracking_uids), None)

    def lesions(self, numbers: Sequence[int]) -> tuple[EarlierLesion, ...]:
        return tuple(EarlierLesion(number, self.uids[number], self.segmentation) for number in numbers)


def write_follow_up_objects(
    result: FollowUp, scans: Sequence[FollowedScan], folder: Path, options: DicomOptions
) -> tuple[Path, ...]:
    """Write a segmentation and a structured report for each scan after the first.

    A lesion that one earlier lesion became has the Tracking UID of that lesion. New lesions, and lesions after a merger
    or a split, have a new Tracking UID. The report refers to all lesions from which a lesion came.

    The Tracking UIDs of the first scan are those of ``dicom/CASE.seg.dcm`` in its results. Without this file, they are
    computed as :func:`~detseg3d.pipeline.export_dicom.export_case` computes them.

    Parameters
    ----------
    result : FollowUp
    scans : sequence of FollowedScan
        One per time point of the result.
    folder : Path
        Folder of the objects ``CASE_2.seg.dcm``, ``CASE_2.sr.dcm``, ``CASE_3.seg.dcm``, …
    options : DicomOptions

    Returns
    -------
    tuple of Path
        The files that were written.

    Raises
    ------
    DetSeg3DError
        If a scan is not DICOM, its lesions are not results of ``detseg3d_predict``, or a file cannot be written.
    """
    earlier = _first(scans[0])
    written: list[Path] = []
    for index, comparison in enumerate(result.comparisons):
        export = _export_of(scans[index + 1])
        history = _history(comparison, earlier, export, index + 2)
        export = replace(export, history=history)
        paths = DicomPaths(folder, f"{result.case_id}_{index + 2}")
        written += write_objects(export, paths, options)
        uids = {number: entry.tracking_uid for number, entry in history.lesions.items()}
        earlier = _Tracked(export, uids, _objects(paths, export))
    return tuple(written)


def _export_of(scan: FollowedScan) -> Export:
    folder = PredictionFolder.holding_instances(scan.instances)
    case_id = strip_ending(scan.instances)
    if folder is None or not folder.record(case_id).is_file():
        raise DetSeg3DError(
            "DICOM objects need results of detseg3d_predict",
            file=scan.instances,
            value="an instance map without a record",
            expected="rois/CASE.json beside instances/CASE",
            remedy="give folders of detseg3d_predict, or leave out --dicom_sr",
        )
    if scan.image is None or not _is_dicom(scan.image):
        raise DetSeg3DError(
            "DICOM objects need the DICOM series of the scan",
            file=scan.image or scan.instances,
            expected="a folder of DICOM files for each scan after --images",
            remedy="give the DICOM folders, or leave out --dicom_sr",
        )
    return prepare_export(folder.path, case_id, scan.image)


def _is_dicom(path: Path) -> bool:
    from detseg3d.data.formats.dicom import is_dicom_file

    return path.is_dir() or is_dicom_file(path)


def _first(scan: FollowedScan) -> _Tracked:
    """Return the lesions of the first scan."""
    export = _export_of(scan)
    folder = PredictionFolder.holding_instances(scan.instances)
    assert folder is not None
    objects = _objects(DicomPaths(folder.dicom_folder, strip_ending(scan.instances)), export)
    uids = {lesion.number: export.tracking_uid(lesion) for lesion in export.lesions}
    tracked = _Tracked(export, uids, objects)
    return tracked if tracked.segmentation is None else replace(tracked, uids=tracked.segmentation.tracking_uids)


def _objects(paths: DicomPaths, export: Export) -> tuple[EarlierObject, ...]:
    """Return the segmentation and the report of a scan, as far as they exist."""
    series = export.source.identity.series_instance_uid
    numbers = frozenset(lesion.number for lesion in export.lesions)
    return tuple(
        read_earlier_object(path, series, numbers) for path in (paths.segmentation, paths.report) if path.is_file()
    )


def _history(comparison: Comparison, earlier: _Tracked, export: Export, time_point: int) -> ScanHistory:
    """Return the history of the lesions of a scan."""
    lesions: dict[int, LesionHistory] = {}
    lost: list[LostLesion] = []
    codes = {lesion.number: lesion.codes for lesion in earlier.export.lesions}
    new_uids = {lesion.number: export.tracking_uid(lesion) for lesion in export.lesions}
    for change in comparison.changes:
        before = earlier.lesions(change.earlier)
        if not change.later:
            lost += [LostLesion(lesion, change.state, codes[lesion.number]) for lesion in before]
        for number in change.later:
            lesions[number] = _lesion_history(change, before, new_uids[number])
    return ScanHistory(time_point, lesions, tuple(lost), earlier.objects)


def _lesion_history(change: LesionChange, before: tuple[EarlierLesion, ...], new_uid: str) -> LesionHistory:
    return LesionHistory(
        tracking_uid=before[0].tracking_uid if change.state in _ONE_LESION else new_uid,
        state=change.state,
        earlier=before,
        volume_change_percent=change.volume_change_percent,
        doubling_time_days=change.doubling_time_days,
    )
