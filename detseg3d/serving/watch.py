"""The watch folder: predict each scan that appears in a folder, once.

The folder is listed again and again. Messages of the system about new files (inotify) are not used, because they do not
report changes that other machines make. A scan is complete if its files did not change for some time. The times of the
files are not compared with the clock of this machine, because the clocks of two machines may differ.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from enum import Enum
from functools import cached_property
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom import is_dicom_folder
from detseg3d.data.formats.endings import file_ending
from detseg3d.data.roots import check_case_id
from detseg3d.inference.prediction_files import write_tables
from detseg3d.serving.flat_dicom import DicomGroup, FlatDicom
from detseg3d.serving.records import ErrorRecord, PredictTask, ScanOptions
from detseg3d.serving.worker import ModelWorker
from detseg3d.system.files import check_writable, files_signature, link_or_copy, write_text
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.json_records import JsonRecord
from detseg3d.system.lock import locked

__all__ = ["ScanState", "WatchOptions", "WatchState", "WatchedScan", "watch_folder"]

logger = logging.getLogger(__name__)

_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_MAX_ATTEMPTS = 2  # a scan during which the program ended twice may be the reason of the end
_COLUMNS = ("scan", "state", "lesions", "finished", "problem", "file", "value", "expected", "remedy")


class ScanState(str, Enum):
    """State of a scan in the watch folder."""

    BEGUN = "begun"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True)
class WatchedScan(JsonRecord):
    """A scan that was predicted, or whose prediction began.

    Attributes
    ----------
    name : str
        Name of the scan and of its results.
    signature : str
        Digest of names, sizes and times of the files. A scan whose files change is predicted again.
    state : ScanState
    attempts : int
        How often the prediction began.
    finished : str or None
        Time of the end in UTC, ISO 8601.
    lesions : int or None
        Number of lesions.
    error : ErrorRecord or None
        Reason of a failure.
    """

    name: str
    signature: str
    state: ScanState
    attempts: int = 1
    finished: str | None = None
    lesions: int | None = None
    error: ErrorRecord | None = None


@dataclass(frozen=True)
class WatchState(JsonRecord):
    """Content of ``watch.json`` in the folder of the results: all scans so far, in the order of their beginnings."""

    scans: tuple[WatchedScan, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, WatchedScan]:
        return {scan.name: scan for scan in self.scans}

    def find(self, name: str) -> WatchedScan | None:
        """Return the scan with a name, or ``None``."""
        return self._by_name.get(name)

    def with_scan(self, scan: WatchedScan) -> WatchState:
        """Return the state with a scan that is new or replaces the scan of the same name."""
        return WatchState((*(other for other in self.scans if other.name != scan.name), scan))


@dataclass(frozen=True)
class WatchOptions:
    """Options of the watch folder.

    Attributes
    ----------
    quiet_seconds : float
        A scan is complete if its files did not change for this time.
    poll_seconds : float
        Time between two listings of the folder.
    max_seconds : float
        Time limit for one scan.
    series : tuple of str
        Series to read from DICOM folders: one for all channels, or one for each channel.
    once : bool
        End when every scan of the folder is predicted or failed, instead of waiting for further scans.
    """

    quiet_seconds: float = 30.0
    poll_seconds: float = 5.0
    max_seconds: float = 1800.0
    series: tuple[str, ...] = ()
    once: bool = False


@dataclass(frozen=True)
class _Input:
    """A scan in the folder.

    Attributes
    ----------
    name : str
    images : tuple of Path
        Images by channel. For ``dicom``, the folder in which its files are arranged.
    signature : str
        Digest of the files.
    dicom : DicomGroup or None
        DICOM files of the watched folder itself. They are complete.
    """

    name: str
    images: tuple[Path, ...]
    signature: str
    dicom: DicomGroup | None = None


@dataclass
class _Seen:
    """The signature of a scan that was not complete at the last look, and the time since which it did not change."""

    signature: str
    since: float


def watch_folder(
    source: Path,
    output: Path,
    worker: ModelWorker,
    options: WatchOptions,
    is_stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> WatchState:
    """Predict the scans of a folder as they become complete, until ``is_stopped`` returns True.

    A scan is a file per channel (``CASE.nii.gz``, or ``CASE_0000.nii.gz``, …), a subfolder with DICOM files, or a
    series of DICOM files in the folder itself (:mod:`~detseg3d.serving.flat_dicom`). A scan that fails does not stop
    the others. ``watch.json`` and ``watch.csv`` in the output list all scans.

    Parameters
    ----------
    source : Path
    output : Path
        Folder of the results, with the files of ``detseg3d_predict``.
    worker : ModelWorker
    options : WatchOptions
    is_stopped : callable, optional
        Checked between two scans.
    clock : callable, optional
        Returns a time in seconds that never goes back.

    Returns
    -------
    WatchState

    Raises
    ------
    DetSeg3DError
        If the source does not exist, the output lies in the source, another process writes there, or the model cannot
        be loaded.
    """
    if not source.is_dir():
        raise DetSeg3DError("the folder to watch does not exist", file=source, remedy="check the path")
    if output.resolve().is_relative_to(source.resolve()):
        raise DetSeg3DError(
            "the results would lie in the folder that is watched",
            file=output,
            expected=f"a folder outside {source}",
            remedy="choose another output folder",
        )
    check_writable(output)
    with locked(output / ".watch.lock", "watching", "another process writes the results of a watch folder here"):
        channels = len(worker.start().channels)
        return _Watch(source, output, worker, options, channels).run(is_stopped, clock)


class _Watch:
    """The loop over the listings of one folder."""

    def __init__(self, source: Path, output: Path, worker: ModelWorker, options: WatchOptions, channels: int) -> None:
        self._source, self._output, self._worker, self._options = source, output, worker, options
        self._channels = channels
        self._file = output / "watch.json"
        self._state = WatchState.from_json(read_json(self._file)) if self._file.is_file() else WatchState()
        self._seen: dict[str, _Seen] = {}
        self._warned: set[str] = set()
        self._series_folder = output / ".series"
        by_series = channels == 1 and not options.series
        self._flat = FlatDicom(source, options.quiet_seconds, by_series)

    def run(self, is_stopped: Callable[[], bool], clock: Callable[[], float]) -> WatchState:
        while not is_stopped():
            inputs = self._list(clock())
            waiting = [scan for scan in inputs if not self._is_done(scan)]
            self._seen = {scan.name: self._seen[scan.name] for scan in waiting if scan.name in self._seen}
            predicted = 0
            for scan in waiting:
                if is_stopped():
                    break
                if self._is_quiet(scan, clock()):
                    predicted += self._predict(scan)
            if predicted:
                write_tables(self._output)  # once for all scans, because it reads all results
            if self._options.once and not self._flat.is_waiting and all(self._is_done(scan) for scan in waiting):
                return self._state
            end = clock() + self._options.poll_seconds
            while clock() < end and not is_stopped():
                time.sleep(min(0.1, self._options.poll_seconds))
        return self._state

    def _is_done(self, scan: _Input) -> bool:
        known = self._state.find(scan.name)
        return known is not None and known.signature == scan.signature and known.state is not ScanState.BEGUN

    def _is_quiet(self, scan: _Input, now: float) -> bool:
        if scan.dicom is not None:
            return True
        seen = self._seen.get(scan.name)
        if seen is None or seen.signature != scan.signature:
            self._seen[scan.name] = _Seen(scan.signature, now)
            return self._options.quiet_seconds <= 0
        return now - seen.since >= self._options.quiet_seconds

    def _predict(self, scan: _Input) -> bool:
        """Predict a scan and store the outcome; return whether it succeeded."""
        known = self._state.find(scan.name)
        attempts = known.attempts if known is not None and known.signature == scan.signature else 0
        record = WatchedScan(scan.name, scan.signature, ScanState.BEGUN, attempts + 1)
        try:
            check_case_id(scan.name)
            if attempts >= _MAX_ATTEMPTS:
                raise DetSeg3DError(
                    "the program ended while it predicted this scan",
                    value=f"{attempts} times",
                    remedy="the scan may be too large: look at the memory of the machine",
                )
            if scan.dicom is not None and scan.dicom.error is not None:
                raise scan.dicom.error
            self._store(record)
            task = PredictTask(scan.name, self._output, scan.images, options=ScanOptions(self._options.series))
            with self._arranged(scan):
                outcome = self._worker.run(task, max_seconds=self._options.max_seconds)
        except DetSeg3DError as error:
            logger.error("%s failed: %s", scan.name, error)
            self._store(replace(record, state=ScanState.FAILED, finished=_now(), error=ErrorRecord.of(error)))
            return False
        logger.info("%s: %d lesion(s)", scan.name, outcome.lesions)
        self._store(replace(record, state=ScanState.SUCCEEDED, finished=_now(), lesions=outcome.lesions))
        return True

    @contextmanager
    def _arranged(self, scan: _Input) -> Iterator[None]:
        """Give the DICOM files of a scan that lies in the watched folder itself a folder, which errors do not name."""
        if scan.dicom is None:
            yield
            return
        folder = self._series_folder
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
            for path in scan.dicom.files:
                link_or_copy(path, folder / path.name)
            yield
        except OSError as error:
            raise DetSeg3DError(
                f"the files of the series cannot be arranged in a folder: {error.strerror or error}",
                file=folder,
                remedy="check free space and write permission of the folder; the scan is tried again if a file changes",
            ) from error
        except DetSeg3DError as error:
            fields = (error.problem, error.file, error.value, error.expected, error.remedy)
            texts = [None if field is None else str(field).replace(str(folder), str(self._source)) for field in fields]
            raise ErrorRecord(texts[0] or "", *texts[1:]).to_error() from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _store(self, scan: WatchedScan) -> None:
        self._state = self._state.with_scan(scan)
        write_json(self._state.to_json(), self._file)
        write_text(_table(self._state), self._output / "watch.csv")

    def _list(self, now: float) -> list[_Input]:
        """List the scans of which all channels have arrived.

        A folder that cannot be listed now is listed again later. With ``once``, it is an error.
        """
        try:
            return sorted(self._inputs(now), key=lambda scan: scan.name)
        except OSError as error:
            reason = error.strerror or str(error)
            if self._options.once:
                raise DetSeg3DError(
                    "the folder to watch cannot be listed",
                    file=self._source,
                    value=reason,
                    remedy="check that the folder exists and that you may read it",
                ) from error
            self._warn(f"the folder cannot be listed: {reason}; it is listed again")
            return []

    def _inputs(self, now: float) -> Iterator[_Input]:
        files: dict[str, dict[int, Path]] = {}
        others: list[Path] = []
        for entry in sorted(self._source.iterdir()):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if is_dicom_folder(entry):
                    yield _Input(
                        entry.name, (entry,), files_signature([path for path in entry.rglob("*") if path.is_file()])
                    )
                continue
            ending = file_ending(entry)
            if ending is not None:
                stem = entry.name[: -len(ending)]
                match = _CHANNEL.fullmatch(stem)
                name, channel = (match[1], int(match[2])) if match is not None else (stem, 0)
                if channel in files.setdefault(name, {}):
                    self._warn(f"{entry.name}: another file has the same name and channel; this file is left out")
                files[name].setdefault(channel, entry)
            else:
                others.append(entry)
        for group in self._flat.groups(others, now):
            yield self._dicom_input(group)
        for name, channels in files.items():
            if sorted(channels) == list(range(self._channels)):
                images = tuple(channels[channel] for channel in range(self._channels))
                yield _Input(name, images, files_signature(images))
            else:
                self._warn(f"{name}: {len(channels)} of {self._channels} channel(s) are here; the scan waits")

    def _dicom_input(self, group: DicomGroup) -> _Input:
        """Return the scan of DICOM files of the folder itself. A damaged file does not change a scan that succeeded."""
        signature = files_signature(group.files)
        known = self._state.find(group.name)
        if group.error is not None:
            if known is not None and known.signature == signature and known.state is ScanState.SUCCEEDED:
                return _Input(group.name, (self._series_folder,), signature, DicomGroup(group.name, group.files))
            signature = files_signature({*group.files, *self._flat.damaged_files()})
        return _Input(group.name, (self._series_folder,), signature, group)

    def _warn(self, text: str) -> None:
        """Log a warning once."""
        if text not in self._warned:
            self._warned.add(text)
            logger.warning("%s: %s", self._source, text)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _table(state: WatchState) -> str:
    """Return a table with one row per scan."""
    handle = io.StringIO()
    writer = csv.writer(handle, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for scan in state.scans:
        error = scan.error
        reasons = ("",) * 5 if error is None else (error.problem, error.file, error.value, error.expected, error.remedy)
        lesions = "" if scan.lesions is None else scan.lesions
        writer.writerow([scan.name, scan.state.value, lesions, scan.finished or "", *(text or "" for text in reasons)])
    return handle.getvalue()
