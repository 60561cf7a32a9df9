"""Records of the jobs of the service: the request, the state and the error of a job."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from detseg3d.core.arrays import Spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.exports.dicom.options import SegmentationKind
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "ErrorRecord",
    "Job",
    "JobState",
    "PredictTask",
    "ScanOptions",
    "Stage",
    "TaskOutcome",
    "UploadedFile",
    "without_paths",
]

# The folders of an absolute path of Linux, macOS or Windows. The name of the file after them stays.
_FOLDERS = re.compile(r"(?<![\w./\\-])(?:[A-Za-z]:)?(?:[/\\][^\s/\\'\",;:]+)+[/\\](?=[^\s/\\'\"])")


class JobState(str, Enum):
    """State of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """True if the state never changes again."""
        return self in (JobState.SUCCEEDED, JobState.FAILED)


class Stage(str, Enum):
    """Step of the work on a scan, in the order of the work."""

    UNPACKING = "unpacking"
    READING = "reading"
    SEARCHING = "searching"
    DESCRIBING = "describing"
    WRITING = "writing"


@dataclass(frozen=True)
class ErrorRecord(JsonRecord):
    """An error as programs read it: the fields of a :class:`~detseg3d.core.errors.DetSeg3DError` as text.

    Attributes
    ----------
    problem : str
        The problem, as a plain sentence fragment.
    file : str or None
        Name of the file that has the problem.
    value, expected : str or None
        The wrong value, and a correct value in words.
    remedy : str or None
        Advice, as an imperative.
    """

    problem: str
    file: str | None = None
    value: str | None = None
    expected: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> ErrorRecord:
        """Return the record of any error. An error of another type is described by its type and message."""
        if not isinstance(error, DetSeg3DError):
            return cls(f"an unexpected error occurred: {type(error).__name__}: {error}")
        return cls(
            error.problem,
            None if error.file is None else str(error.file),
            None if error.value is None else str(error.value),
            error.expected,
            error.remedy,
        )

    def to_error(self) -> DetSeg3DError:
        """Return the error for a command line."""
        return DetSeg3DError(self.problem, file=self.file, value=self.value, expected=self.expected, remedy=self.remedy)

    def for_client(self, names: Mapping[str, str], folder: Path | None = None) -> ErrorRecord:
        """Return the record without folders of this machine.

        Parameters
        ----------
        names : mapping of str to str
            The client's name of each stored file, by its name on this machine.
        folder : Path, optional
            Folder of the files. Its name may have spaces, by which a path in a text cannot be told from words.
        """
        texts = (self.problem, self.file, self.value, self.expected, self.remedy)
        return ErrorRecord(*(None if text is None else without_paths(text, names, folder) for text in texts))  # type: ignore[arg-type]


def without_paths(text: str, names: Mapping[str, str] | None = None, folder: Path | None = None) -> str:
    """Return a text in which each absolute path is reduced to the name of its file.

    Parameters
    ----------
    text : str
    names : mapping of str to str, optional
        Replacements of the names.
    folder : Path, optional
        A folder that is removed even if its name has spaces.

    Examples
    --------
    >>> without_paths("/var/jobs/7f/input/scan_0000.nii.gz is empty", {"scan_0000.nii.gz": "brain.nii.gz"})
    'brain.nii.gz is empty'
    """
    if folder is not None:
        text = text.replace(f"{folder}{os.sep}", os.sep).replace(str(folder), "the folder of the job")
    text = _FOLDERS.sub("", text)
    for stored, name in (names or {}).items():
        text = text.replace(stored, name)
    return text


@dataclass(frozen=True)
class UploadedFile(JsonRecord):
    """One file of a job.

    Attributes
    ----------
    stored : str
        Name in the folder of the job, which the service chose.
    name : str
        The client's name of the file. It is shown, and it never becomes part of a path.
    media_type : str
        The media type that the client states.
    size : int
        Number of bytes.
    """

    stored: str
    name: str
    media_type: str
    size: int


@dataclass(frozen=True)
class ScanOptions(JsonRecord):
    """Options of a client for one scan.

    Attributes
    ----------
    series : tuple of str
        Series to read from DICOM: one for all channels, or one for each channel.
    spacing : 3 floats or None
        Voxel spacing ``(z, y, x)`` in mm of ``.npy`` files.
    segmentation : SegmentationKind
        Type of the DICOM segmentation.
    """

    series: tuple[str, ...] = ()
    spacing: Spacing | None = None
    segmentation: SegmentationKind = SegmentationKind.LABELMAP


@dataclass(frozen=True)
class Job(JsonRecord):
    """A scan that a client sent.

    Attributes
    ----------
    id : str
        32 hexadecimal digits, drawn at random, so that nobody can guess the number of another job.
    state : JobState
    created : float
        Time of the upload, in seconds since 1970, UTC.
    files : tuple of UploadedFile
    options : ScanOptions
    stage : Stage or None
        Present step; ``None`` if the job is not running.
    started, finished : float or None
        Times of the begin and the end of the work.
    lesions : int or None
        Number of lesions; ``None`` before the end.
    warnings : tuple of str
        Warnings about the scan, for example that it is unlike the training scans.
    error : ErrorRecord or None
        Reason of a failure.
    attempts : int
        How often the work began. A service that ends begins its unfinished job again when it is started again.
    """

    id: str
    state: JobState
    created: float
    files: tuple[UploadedFile, ...] = ()
    options: ScanOptions = field(default_factory=ScanOptions)
    stage: Stage | None = None
    started: float | None = None
    finished: float | None = None
    lesions: int | None = None
    warnings: tuple[str, ...] = ()
    error: ErrorRecord | None = None
    attempts: int = 0


@dataclass(frozen=True)
class PredictTask(JsonRecord):
    """A scan for the worker process.

    Attributes
    ----------
    case_id : str
        Name of the result files.
    output : Path
        Folder of the results, with the files of ``detseg3d_predict``.
    images : tuple of Path
        One image per channel: a file, or a folder with DICOM. One DICOM folder may stand for all channels. Empty if
        ``uploads`` are given.
    uploads : tuple of UploadedFile
        Files of a client in ``upload_folder``, which the worker unpacks and sorts first.
    upload_folder : Path or None
    options : ScanOptions
    max_unpacked_bytes : int or None
        Largest size of the scan, unpacked, in bytes.
    max_files : int or None
        Largest number of files in an archive.
    for_page : bool
        Also write the report of the patient and the volumes for the page of the service.
    """

    case_id: str
    output: Path
    images: tuple[Path, ...] = ()
    uploads: tuple[UploadedFile, ...] = ()
    upload_folder: Path | None = None
    options: ScanOptions = field(default_factory=ScanOptions)
    max_unpacked_bytes: int | None = None
    max_files: int | None = None
    for_page: bool = False


@dataclass(frozen=True)
class TaskOutcome(JsonRecord):
    """Outcome of a task.

    Attributes
    ----------
    lesions : int
        Number of lesions.
    warnings : tuple of str
        Warnings about the scan.
    """

    lesions: int
    warnings: tuple[str, ...] = ()
