"""The training log: one JSON object per line, so that a killed run loses at most its last line."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import parse_json, read_bounded, write_text
from detseg3d.system.workers import is_bar_shown

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TrainingLog", "describe_epoch", "describe_seconds", "progress_bar"]

logger = logging.getLogger(__name__)

_MOST_BYTES = 1 << 30  # a record has some hundred bytes


class TrainingLog:
    """Appends records to ``training_log.jsonl`` of a fold.

    Parameters
    ----------
    path : Path
    resume_step : int or None
        When resuming, records beyond this step belong to work that was lost and are dropped; ``None`` starts anew.
    unvalidated : bool
        When resuming, the validation at this step is to be done again, too.
    tensorboard : Path or None
        Folder for the same figures as TensorBoard's event files; needs the extra ``track``.

    Raises
    ------
    DetSeg3DError
        If TensorBoard is asked for and not installed, or the log cannot be written.
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
                logger.warning("%s: %d damaged line(s) are dropped", path, damaged)
        write_text("".join(line + "\n" for line in kept), path)  # a new file, also where a link lies

    def append(self, kind: str, **values: Any) -> None:
        """Write one record of the given kind."""
        line = json.dumps({"kind": kind, **values}, allow_nan=False) + "\n"
        try:
            with self.path.open("a", encoding="utf-8") as handle:
                handle.write(line)
        except OSError as error:
            raise DetSeg3DError(
                f"the training log cannot be written: {error.strerror or error}",
                file=self.path,
                remedy="check free space and write permission of the folder, then go on with --c",
            ) from error
        if self._events is not None:
            for name, value in _numbers(values, kind):
                self._events.add_scalar(name, value, values.get("step", 0))
            self._events.flush()


def _records_to(path: Path, last_step: int, unvalidated: bool) -> tuple[list[str], int]:
    """Lines of a log up to ``last_step``, and how many others are damaged.

    The last line may be cut off: it was being written when the run was killed. That is not counted.

    Raises
    ------
    DetSeg3DError
        If the log cannot be read.
    """
    try:
        lines = read_bounded(path, _MOST_BYTES).split(b"\n")
    except OSError as error:
        raise DetSeg3DError(
            f"the training log cannot be read: {error.strerror or error}",
            file=path,
            remedy="restore or remove the file: the checkpoint holds what the training needs",
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
        shutil.rmtree(folder, ignore_errors=True)  # event files of an earlier training would be drawn as one curve
        return SummaryWriter(str(folder))
    return SummaryWriter(str(folder), purge_step=resume_step + 1)


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """All numbers of a record, nested ones with the path to them: ``epoch/losses/size``."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}/{name}")
        elif isinstance(value, (int, float)) and name not in ("step", "epoch"):
            yield f"{prefix}/{name}", float(value)


def describe_seconds(seconds: float) -> str:
    """Seconds as people read them.

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


def describe_epoch(epoch: int, phase: str, losses: dict[str, float], seconds: float, remaining: float) -> str:
    """One line for people: the parts of the loss and the time that is left."""
    parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
    return f"epoch {epoch} ({phase}): {parts}  [{describe_seconds(seconds)}, about {describe_seconds(remaining)} left]"


def progress_bar(done: float, shown: bool) -> tqdm:
    """A bar with the time that is left, from the share ``done`` on; off where there is no terminal."""
    return tqdm(
        total=1.0,
        initial=done,
        desc="training",
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed}<{remaining}",
        disable=not is_bar_shown(shown),
    )
