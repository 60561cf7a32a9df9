"""Shifted validation scans of a fold: which ones are predicted, and what is stored of them.

A shift (:mod:`detseg3d.synthetic.shifts`) changes a raw scan as another scanner or protocol would. The validation of a
fold predicts shifted copies of its validation scans. Their candidates and their true lesions are stored, so that a
consolidation needs no network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detseg3d.consolidation.outcomes import CaseTruth
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.folders import PredictionFolder
from detseg3d.planning.appearance.comparison import Difference
from detseg3d.synthetic.shifts.catalogue import shifts_for
from detseg3d.synthetic.shifts.shift import Shift, Strength, case_seed
from detseg3d.system.files import atomic_path, open_regular_file
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.json_records import JsonRecord

__all__ = [
    "STRENGTH",
    "ShiftedPair",
    "ShiftedRecord",
    "ShiftedScan",
    "choose_pairs",
    "load_truth",
    "read_shifted_record",
    "save_truth",
    "shifted_candidates",
    "shifted_truth",
    "validation_shifts",
    "write_shifted_record",
]

STRENGTH = Strength.MEDIUM
"""Strength of the shifts of the validation."""
# A small part of all shifts: coarser slices, noise, another contrast curve, fainter lesions, and two mixtures.
_NAMES = ("thick_slices_z", "gaussian_noise", "gamma", "fainter_lesions", "other_scanner", "other_study")
# The shift benchmark uses other seeds, so that it judges no scan on which thresholds were chosen.
_SEED = 1000


@dataclass(frozen=True)
class ShiftedPair:
    """A validation case and the shift that changes its scan.

    Attributes
    ----------
    case_id : str
    shift : Shift
    """

    case_id: str
    shift: Shift

    @property
    def seed(self) -> int:
        """Seed of the shift. It depends on the case only."""
        return case_seed(self.case_id, _SEED)


@dataclass(frozen=True)
class ShiftedScan(JsonRecord):
    """A shifted validation scan that was predicted.

    Attributes
    ----------
    case_id : str
    shift : str
        Name of the shift.
    differences : tuple of Difference
        Measures in which the shifted scan is unlike the training scans.
    """

    case_id: str
    shift: str
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class ShiftedRecord(JsonRecord):
    """Shifted validation scans of a fold; the content of ``validation/shifted_scans.json``.

    Attributes
    ----------
    weights : str
        SHA-256 of the weights of the network that predicted the scans.
    strength : str
        Strength of the shifts.
    scans : tuple of ShiftedScan
    """

    weights: str
    strength: str
    scans: tuple[ShiftedScan, ...]


def validation_shifts(channel_names: Sequence[str]) -> tuple[Shift, ...]:
    """Return the shifts of the validation that are sensible for channels of these names.

    Examples
    --------
    >>> [shift.name for shift in validation_shifts(["CT"])]
    ['thick_slices_z', 'gaussian_noise', 'fainter_lesions', 'other_scanner', 'other_study']
    """
    return tuple(shift for shift in shifts_for(channel_names) if shift.name in _NAMES)


def choose_pairs(
    case_ids: Sequence[str], patients: Sequence[str], shifts: Sequence[Shift], count: int
) -> list[ShiftedPair]:
    """Select the shifted scans of a fold: every patient and every shift about equally often.

    Parameters
    ----------
    case_ids : sequence of str
        Validation cases.
    patients : sequence of str
        Patient of each case.
    shifts : sequence of Shift
    count : int
        Largest number of shifted scans.

    Returns
    -------
    list of ShiftedPair
        At most ``count`` different pairs.
    """
    place: dict[str, int] = {}
    ranks = []
    for case_id, patient in zip(case_ids, patients, strict=True):
        place[patient] = place.get(patient, -1) + 1
        ranks.append((place[patient], case_id))
    # The first scan of each patient comes first, then the second scan of each patient, and so on.
    ordered = [case_id for _, case_id in sorted(ranks)]
    # The shifts are dealt out in turn. After ``period`` rounds each case would get its first shift again, so the order
    # then moves on by one shift. No pair occurs twice.
    period = len(shifts) // math.gcd(len(shifts), len(ordered))
    return [
        ShiftedPair(case_id, shifts[(turn * len(ordered) + index + turn // period) % len(shifts)])
        for turn in range(len(shifts))
        for index, case_id in enumerate(ordered)
    ][:count]


def shifted_candidates(validation: PredictionFolder, shift: str, case_id: str) -> Path:
    """Return the file of the candidates of a shifted scan."""
    return validation.shifted_scans_folder / shift / "candidates" / f"{case_id}.npz"


def shifted_truth(validation: PredictionFolder, shift: str, case_id: str) -> Path:
    """Return the file of the true lesions of a shifted scan, on the grid of the shifted scan."""
    return validation.shifted_scans_folder / shift / "truth" / f"{case_id}.npz"


def save_truth(truth: CaseTruth, path: Path) -> None:
    """Write true lesions to an ``.npz`` file, atomically."""
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        np.savez(
            handle,
            shape=np.asarray(truth.shape, np.int64),
            spacing=np.asarray(truth.spacing, np.float64),
            classes=np.asarray(truth.classes, np.int64),
            voxels=np.asarray(truth.voxels, np.int64),
            corner=np.asarray(truth.corner, np.int64),
            packed=np.frombuffer(truth.packed, np.uint8),
        )


def load_truth(path: Path) -> CaseTruth:
    """Read true lesions that :func:`save_truth` wrote.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read.
    """
    try:
        with open_regular_file(path) as handle, np.load(handle, allow_pickle=False) as data:
            depth, height, width = data["shape"].tolist()
            z, y, x = data["spacing"].tolist()
            return CaseTruth(
                (depth, height, width),
                (z, y, x),
                tuple(data["classes"].tolist()),
                tuple(data["voxels"].tolist()),
                tuple(data["corner"].tolist()),
                data["packed"].tobytes(),
            )
    except (OSError, ValueError, KeyError) as error:
        raise DetSeg3DError(
            f"the true lesions of a shifted scan cannot be read ({type(error).__name__}: {error})",
            file=path,
            remedy="write them again with detseg3d_train DATASET FOLD --val",
        ) from error


def write_shifted_record(record: ShiftedRecord, validation: PredictionFolder) -> None:
    """Write ``shifted_scans.json`` atomically. It is written last, so its scans are complete."""
    write_json(record.to_json(), validation.shifted_scans)


def read_shifted_record(validation: PredictionFolder) -> ShiftedRecord | None:
    """Read ``shifted_scans.json``; return ``None`` if the fold has no shifted scans.

    Raises
    ------
    DetSeg3DError
        If the file is damaged.
    """
    file = validation.shifted_scans
    if not file.is_file():
        return None
    remedy = "write it again with detseg3d_train DATASET FOLD --val"
    try:
        return ShiftedRecord.from_json(read_json(file))
    except DetSeg3DError as error:
        raise DetSeg3DError(error.problem, file=file, value=error.value, remedy=remedy) from error
