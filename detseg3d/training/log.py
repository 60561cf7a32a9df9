"""Log of a training: one JSON object on each line, so that a killed process loses at most the last line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import read_bounded, write_text
from detseg3d.system.json_files import parse_json
from detseg3d.system.workers import is_bar_shown
from detseg3d.training.state import LossValues
from detseg3d.training.validation import ValidationResult

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["EpochRecord", "TrainingLog", "ValidationRecord", "describe_seconds", "progress_bar"]

logger = logging.getLogger(__name__)

_MAX_BYTES = 1 << 30  # a record has a few hundred bytes


@dataclass(frozen=True)
class EpochRecord:
    """Record of an epoch.

    Attributes
    ----------
    epoch, step : int
        Completed epochs and steps.
    seconds : float
        Training time so far.
    learning_rate : float
        Learning rate of the last step.
    phase : str
        Name of the phase.
    losses : LossValues
        Means over the epoch.
    data_seconds, compute_seconds : float
        Time spent in this epoch waiting for windows, and in the steps.
    """

    epoch: int
    step: int
    seconds: float
    learning_rate: float
    phase: str
    losses: LossValues
    data_seconds: float
    compute_seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the record for JSON, with the ``kind`` of record."""
        return {"kind": "epoch", **asdict(self)}

    def describe(self, remaining: float) -> str:
        """Return one line with the parts of the loss, the time so far and the ``remaining`` seconds.

        Examples
        --------
        >>> EpochRecord(3, 9, 65.0, 0.1, "whole volumes", LossValues(size=0.5), 1.0, 2.0).describe(130)[:49]
        'epoch 3 (whole volumes): heatmap 0.000  size 0.50'
        """
        parts = "  ".join(f"{name} {value:.3f}" for name, value in asdict(self.losses).items())
        times = f"{describe_seconds(self.seconds)}, about {describe_seconds(remaining)} left"
        return f"epoch {self.epoch} ({self.phase}): {parts}  [{times}]"


@dataclass(frozen=True)
class ValidationRecord:
    """Record of a validation during the training.

    Attributes
    ----------
    epoch, step : int
        Completed epochs and steps.
    seconds : float
        Training time so far.
    result : ValidationResult
    """

    epoch: int
    step: int
    seconds: float
    result: ValidationResult

    def to_json(self) -> dict[str, Any]:
        """Return the record for JSON, with the ``kind`` of record."""
        position = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds}
        return {"kind": "validation", **position, **self.result.metrics()}


class TrainingLog:
    """Log of a training, ``training_log.jsonl``. Each line is a JSON object.

    Parameters
    ----------
    path : Path
    resume_step : int or None
        Step of the checkpoint of a resumed training. Later records are removed, because their work is lost. ``None``:
        a new log.
    tensorboard : Path or None
        Folder for event files of TensorBoard. Requires the extra ``track``.
    unvalidated : bool
        Remove the record of the validation at ``resume_step``, too, because the validation is repeated.

    Raises
    ------
    DetSeg3DError
        If TensorBoard is requested and not installed, or the log cannot be written.
    """

    def __init__(
        self, path: Path, resume_step: int | None, tensorboard: Path | None = None, unvalidated: bool = False
    ) -> None:
        self.path = path
        self._events = None if tensorboard is None else _event_writer(tensorboard, resume_step)
        kept: list[str] = []
        if resume_step is not None and path.exists():
            kept, damaged = _records_to(path, resume_step, unvalidated)
            if damaged:
                logger.warning("%s: %d damaged line(s) are removed", path, damaged)
        write_text("".join(line + "\n" for line in kept), path)  # replaces a link by a new file

    def append(self, record: EpochRecord | ValidationRecord) -> None:
        """Write a record.

        Raises
        ------
        DetSeg3DError
            If the file cannot be written.
        ValueError
            If a value is not finite.
        """
        content = record.to_json()
        line = json.dumps(content, allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)
        except OSError as error:
            raise DetSeg3DError(
                f"the training log cannot be written: {error.strerror or error}",
                file=self.path,
                remedy="check the free space and the permissions of the folder, then continue with --c",
            ) from error
        if self._events is not None:
            kind = content.pop("kind")
            for name, value in _numbers(content, kind):
                self._events.add_scalar(name, value, record.step)
            self._events.flush()


def _records_to(path: Path, last_step: int, unvalidated: bool) -> tuple[list[str], int]:
    """Return the lines of a log up to ``last_step``, and the number of damaged lines.

    A damaged last line does not count: the process was killed while it wrote this line.
    """
    try:
        lines = read_bounded(path, _MAX_BYTES).split(b"\n")
    except OSError as error:
        raise DetSeg3DError(
            f"the training log cannot be read: {error.strerror or error}",
            file=path,
            remedy="restore or remove the file. The training can be resumed without it",
        ) from error
    kept, damaged = [], 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            text = line.decode("utf-8")
            record = parse_json(text)
            step, kind = record.get("step", 0), record.get("kind")
            within = step <= last_step - (unvalidated and kind == "validation")
        except (ValueError, TypeError, AttributeError, RecursionError):
            damaged += number < len(lines) - 1
            continue
        if within:
            kept.append(text.rstrip("\r"))
    return kept, damaged


def _event_writer(folder: Path, resume_step: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DetSeg3DError(
            "TensorBoard is not installed", remedy='pip install "detseg3d[track]", or train without --tensorboard'
        ) from error
    if resume_step is None:
        shutil.rmtree(folder, ignore_errors=True)  # TensorBoard would join the curves of both trainings
        return SummaryWriter(str(folder))
    return SummaryWriter(str(folder), purge_step=resume_step + 1)


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record with their names. Names of nested numbers are paths: ``epoch/losses/size``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and name not in ("step", "epoch"):
            yield f"{prefix}/{name}", float(value)


def describe_seconds(seconds: float) -> str:
    """Return a duration in hours, minutes and seconds.

    Examples
    --------
    >>> describe_seconds(75), describe_seconds(7260)
    ('1 min 15 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def progress_bar(fraction: float, shown: bool) -> tqdm:
    """Return a progress bar that begins at a completed ``fraction`` of the training.

    The bar is hidden if ``shown`` is false or the standard error output is not a terminal.
    """
    return tqdm(
        total=1.0,
        initial=fraction,
        desc="training",
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
        disable=not is_bar_shown(shown),
    )
