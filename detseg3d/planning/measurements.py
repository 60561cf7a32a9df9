"""Measurements of single cases on disk, from which an interrupted measurement of a data set continues.

Each case has one file, which the process that measured the case writes. So a measurement on a cluster sends no arrays
through the scheduler, and the measuring process holds one case at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from detseg3d.core.arrays import Array
from detseg3d.core.version import __version__
from detseg3d.planning.fingerprint import FINGERPRINT_VERSION, DatasetFacts, ScanFingerprint
from detseg3d.system.files import atomic_path

__all__ = ["ChannelSamples", "MeasuredScan", "Measurements"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelSamples:
    """Intensities drawn at random from one channel of a case.

    Attributes
    ----------
    body, lesions : ndarray, shape ``(N,)``
        At most 10 000 intensities each, fewer from each of more than a thousand cases.
    """

    body: Array
    lesions: Array


@dataclass(frozen=True)
class MeasuredScan:
    """Measurement of one case.

    Attributes
    ----------
    scan : ScanFingerprint
    samples : sequence of ChannelSamples
        One entry for each channel.
    """

    scan: ScanFingerprint
    samples: Sequence[ChannelSamples]


@dataclass(frozen=True)
class Measurements:
    """Folder of the measurements of single cases.

    Attributes
    ----------
    folder : Path
    settings : str
        Digest of the settings that the measurements depend on, besides the files of the case, see :meth:`of_dataset`.
    """

    folder: Path
    settings: str

    @classmethod
    def of_dataset(cls, folder: Path, facts: DatasetFacts, samples: int) -> Measurements:
        """Return the measurements of a data set.

        Parameters
        ----------
        folder : Path
        facts : DatasetFacts
        samples : int
            Number of intensities that are drawn from each channel and region.
        """
        content = [__version__, FINGERPRINT_VERSION, facts.model_dump(mode="json"), samples]
        return cls(folder, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16])

    def write(self, case_id: str, source: str, measured: MeasuredScan) -> None:
        """Write the measurement of a case.

        Parameters
        ----------
        case_id : str
        source : str
            Digest of the files of the case.
        measured : MeasuredScan
        """
        arrays = {"scan": _as_bytes(measured.scan.model_dump_json()), "key": _as_bytes(self._key(source))}
        for index, channel in enumerate(measured.samples):
            arrays |= {f"body_{index}": channel.body, f"lesions_{index}": channel.lesions}
        with atomic_path(self._file(case_id)) as temporary, temporary.open("wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    def read(self, case_id: str, source: str) -> MeasuredScan | None:
        """Return the measurement of a case; ``None`` if these files were not measured with these settings."""
        file = self._file(case_id)
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                if bytes(arrays["key"]) != self._key(source).encode():
                    return None
                channels = (len(arrays.files) - 2) // 2
                samples = [ChannelSamples(arrays[f"body_{n}"], arrays[f"lesions_{n}"]) for n in range(channels)]
                return MeasuredScan(ScanFingerprint.model_validate_json(bytes(arrays["scan"])), samples)
        except (OSError, EOFError, KeyError, ValueError, ValidationError, zipfile.BadZipFile) as error:
            logger.warning("%s cannot be read, so the case is measured again: %s", file, error)
            return None

    def _key(self, source: str) -> str:
        return f"{self.settings} {source}"

    def _file(self, case_id: str) -> Path:
        return self.folder / f"{case_id}.npz"


def _as_bytes(text: str) -> Array:
    return np.frombuffer(text.encode("utf-8"), np.uint8)
