"""DICOM files that lie in the watched folder itself: their studies, and the series to predict.

The files of a study are complete if they did not change for some time. Then its series are found by the rules of
``detseg3d_predict``: localizers, single slices, derived images beside original images, and RT doses are left out. Each
other series is one scan. The header of a file is read again only if the file changes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.files import is_dicom_file, is_other_kind, like_slices, not_dicom
from detseg3d.system.files import files_signature

if TYPE_CHECKING:
    from detseg3d.data.formats.dicom.headers import DicomHeader

__all__ = ["DicomGroup", "FlatDicom"]

logger = logging.getLogger(__name__)

_UNNAMED = "series without a UID"


@dataclass(frozen=True)
class DicomGroup:
    """Files of one series, or of one study.

    Attributes
    ----------
    name : str
        SeriesInstanceUID or StudyInstanceUID.
    files : tuple of Path
    error : DetSeg3DError or None
        Error of a damaged file of the folder that may belong to this group.
    """

    name: str
    files: tuple[Path, ...]
    error: DetSeg3DError | None = None


@dataclass(frozen=True)
class _KnownFile:
    """A file that was looked at: its size and time, and the study of a DICOM object or the error of a damaged one.

    ``since`` is the time at which the file was seen first with this content.
    """

    status: tuple[int, int]
    since: float
    study: str | None = None
    error: DetSeg3DError | None = None


@dataclass
class _Study:
    """A study at the last look, the time since which its files did not change, and its groups once it was complete."""

    signature: str
    since: float
    groups: tuple[DicomGroup, ...] | None = None


class FlatDicom:
    """The DICOM files of one folder, without those of its subfolders.

    Parameters
    ----------
    folder : Path
    quiet_seconds : float
        A study is complete if its files did not change for this time.
    by_series : bool
        Each series is a scan. Otherwise each study is a scan, in which the user chooses series.
    """

    def __init__(self, folder: Path, quiet_seconds: float, by_series: bool) -> None:
        self._folder, self._quiet_seconds, self._by_series = folder, quiet_seconds, by_series
        self._files: dict[Path, _KnownFile] = {}
        self._settled: dict[Path, DetSeg3DError] = {}
        self._studies: dict[str, _Study] = {}
        self.is_waiting = False

    def groups(self, entries: Iterable[Path], now: float) -> Iterator[DicomGroup]:
        """Yield the scans of all complete studies. ``is_waiting`` then tells whether a study is not complete.

        Parameters
        ----------
        entries : iterable of Path
            Files of the folder that are not images of another format.
        now : float
            Time in seconds.

        Raises
        ------
        OSError
            If a file vanishes.
        """
        self._look(entries, now)
        found = self._damaged()
        # A file that is still being copied looks damaged. It must not delay the scans of other studies.
        damaged = self._settled = {
            path: error for path, error in found.items() if now - self._files[path].since >= self._quiet_seconds
        }
        error = next(iter(damaged.values()), None)
        studies: dict[str, list[Path]] = {}
        for path, known in self._files.items():
            if known.study is not None:
                studies.setdefault(known.study, []).append(path)
        if damaged and not studies:
            # Without any header, the damaged files are one scan that fails.
            studies[next(iter(damaged)).name] = list(damaged)
        self._studies = {name: study for name, study in self._studies.items() if name in studies}
        self.is_waiting = len(damaged) < len(found)
        for name, files in studies.items():
            signature = files_signature({*files, *damaged})
            study = self._studies.get(name)
            if study is None or study.signature != signature:
                study = self._studies[name] = _Study(signature, now)
            if study.groups is None and now - study.since >= self._quiet_seconds:
                study.groups = tuple(self._split(DicomGroup(name or _UNNAMED, tuple(files), error)))
            if study.groups is None:
                self.is_waiting = True
            else:
                yield from study.groups

    def damaged_files(self) -> list[Path]:
        """Return the files that look like slices but cannot be read, and did not change for the quiet time."""
        return list(self._settled)

    def _look(self, entries: Iterable[Path], now: float) -> None:
        """Read the headers of the files that are new or changed."""
        files: dict[Path, _KnownFile] = {}
        for path in entries:
            if is_other_kind(path):
                continue
            status = path.stat()
            known = self._files.get(path)
            if known is None or known.status != (status.st_size, status.st_mtime_ns):
                known = _read(path, (status.st_size, status.st_mtime_ns), now)
            files[path] = known
        self._files = files

    def _damaged(self) -> dict[Path, DetSeg3DError]:
        """Return the error of each file that looks like a slice but cannot be read."""
        objects = [path for path, known in self._files.items() if known.study is not None]
        damaged = {path: known.error for path, known in self._files.items() if known.error is not None}
        others = [path for path, known in self._files.items() if known.study is None and known.error is None]
        return {**damaged, **{path: not_dicom(path) for path in like_slices(others, objects)}}

    def _split(self, study: DicomGroup) -> Iterator[DicomGroup]:
        """Yield the series of a study that may be read without a choice; the study if there is none."""
        series = self._series(study) if self._by_series else {}
        if not series:
            yield study
        for name, files in series.items():
            yield DicomGroup(name or _UNNAMED, tuple(files), study.error)
        left_out = len(study.files) - sum(map(len, series.values()))
        if series and left_out:
            logger.info("study %s: %d file(s) do not belong to a series that is predicted", study.name, left_out)

    def _series(self, study: DicomGroup) -> dict[str, list[Path]]:
        from detseg3d.data.formats.dicom.headers import read_header
        from detseg3d.data.formats.dicom.series import candidate_series, describe_folder

        try:
            headers = [read_header(path) for path in study.files]
            candidates = {series.uid for series in candidate_series(describe_folder(self._folder, headers))}
        except DetSeg3DError:
            return {}  # the prediction of the study raises this error again
        return {uid: _files_of_series(headers, uid) for uid in sorted(candidates)}


def _files_of_series(headers: Sequence[DicomHeader], uid: str) -> list[Path]:
    return [header.path for header in headers if header.text("SeriesInstanceUID") == uid]


def _read(path: Path, status: tuple[int, int], now: float) -> _KnownFile:
    if not is_dicom_file(path):
        return _KnownFile(status, now)
    # Imported here, because pydicom takes half a second.
    from detseg3d.data.formats.dicom.headers import damaged, read_header
    from detseg3d.data.formats.dicom.series import describe_folder

    try:
        header = read_header(path)
        describe_folder(path, [header])  # an error if the file is cut off before it names its series
        return _KnownFile(status, now, header.text("StudyInstanceUID"))
    except DetSeg3DError as error:
        return _KnownFile(status, now, error=error)
    except Exception as error:  # an error that nobody foresaw must not end the watch
        return _KnownFile(status, now, error=damaged(path, f"{type(error).__name__}: {error}"))
