"""The lesions of one scan, ready to be written as DICOM objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.uid import CTImageStorage

from detseg3d.core.codes import Code
from detseg3d.core.dicom_identity import DicomIdentity
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.model_identity import ModelIdentity
from detseg3d.exports.dicom.history import ScanHistory
from detseg3d.exports.dicom.source import SourceSeries
from detseg3d.exports.dicom.tracking import tracking_uid
from detseg3d.exports.lesion_table import ExportedLesion

__all__ = ["Export", "coded", "identify", "listing"]


@dataclass(frozen=True, eq=False)
class Export:
    """The lesions of one scan, ready to be written as DICOM objects.

    Attributes
    ----------
    source : SourceSeries
    slices : ndarray of unsigned int, shape ``source.geometry.shape``
        Instance map in the order of the slices of the source.
    lesions : tuple of ExportedLesion
        By ascending number.
    model : ModelIdentity
        The model that found the lesions.
    file : Path
        The instance map that messages name.
    channels : tuple of DicomIdentity or None
        Series of each channel of the scan, as in the record; empty if it is unknown.
    history : ScanHistory or None
        The same lesions in an earlier scan; ``None`` without an earlier scan.
    """

    source: SourceSeries
    slices: npt.NDArray[np.unsignedinteger[Any]]
    lesions: tuple[ExportedLesion, ...]
    model: ModelIdentity
    file: Path
    channels: tuple[DicomIdentity | None, ...] = ()
    history: ScanHistory | None = None

    def __post_init__(self) -> None:
        stated = [lesion.number for lesion in self.lesions]
        present = sorted(self.planes)
        if stated != present:
            raise DetSeg3DError(
                "the instance map and the record name different lesions",
                file=self.file,
                value=f"lesions {listing(present)} in the instance map",
                expected=f"lesions {listing(stated)}, as in the record",
                remedy="predict the case again",
            )
        if self.history is not None and set(self.history.lesions) != set(stated):
            raise ValueError("the history does not have the lesions of the scan")

    @cached_property
    def planes(self) -> dict[int, tuple[int, ...]]:
        """Indices of the slices that show each lesion, by its number."""
        planes: dict[int, list[int]] = {}
        for index, numbers in enumerate(map(np.unique, self.slices)):
            for number in numbers.tolist():
                planes.setdefault(number, []).append(index)
        return {number: tuple(indices) for number, indices in planes.items() if number}

    def tracking_uid(self, lesion: ExportedLesion) -> str:
        """Return the Tracking UID of a lesion, which is the same in every export.

        A lesion that is followed has the Tracking UID that its history states.
        """
        if self.history is not None:
            return self.history.lesions[lesion.number].tracking_uid
        return tracking_uid(self.source.identity.series_instance_uid, self.model.digest, lesion.number)

    def is_suv(self, channel: int) -> bool:
        """Return whether a channel holds standardised uptake values by body weight."""
        identity = self._channel(channel)
        return identity is not None and (identity.suv or (identity == self.source.identity and self.source.is_suv))

    def modality(self, channel: int) -> str:
        """Return the modality of a channel; empty if the channel is not DICOM."""
        identity = self._channel(channel)
        return "" if identity is None else identity.modality

    def _channel(self, channel: int) -> DicomIdentity | None:
        if channel < len(self.channels):
            return self.channels[channel]
        return self.source.identity if channel == 0 else None


def identify(written: Any, source: SourceSeries) -> None:
    """Copy the attributes of patient and study from the source to an object of highdicom, unchanged."""
    header = Dataset()
    header.update(source.header)
    # highdicom chooses the attributes by the class of the object, and knows only the standard classes.
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, written.SOPInstanceUID
    written.copy_patient_and_study_information(header)


def coded(code: Code) -> CodedConcept:
    """Return a code as highdicom takes it."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def listing(numbers: Sequence[int]) -> str:
    """Return the first ten numbers as text."""
    return "none" if not numbers else ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
