"""The training log: one JSON object per line, so that a killed run loses at most its last line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

__all__ = ["TrainingLog", "describe_epoch", "describe_seconds"]

logger = logging.getLogger(__name__)


class TrainingLog:
    """Appends records to ``training_log.jsonl`` of a fold.

    Parameters
    ----------
    path : Path
    resume_step : int or None
        When resuming, records beyond this step belong to work that was lost and are dropped; ``None`` starts anew.
    """

    def __init__(self, path: Path, resume_step: int | None) -> None:
        self.path = path
        kept: list[str] = []
        if resume_step is not None and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that was being written when the run was killed
                if record.get("step", 0) <= resume_step:
                    kept.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def append(self, kind: str, **values: Any) -> None:
        """Write one record of the given kind."""
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"kind": kind, **values}, allow_nan=False) + "\n")


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
