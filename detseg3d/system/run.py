"""Options for work on many cases: where they run, and the progress bar."""

from __future__ import annotations

from dataclasses import dataclass

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.engine import Engine

__all__ = ["Run"]


@dataclass(frozen=True)
class Run:
    """Engine and display of progress for functions that work on many cases.

    Parameters
    ----------
    processes : int
        Number of worker processes. With 0, all cases run in the calling process, which needs the least memory.
    show_progress : bool
        Show a progress bar if the standard error output is a terminal.
    engine : Engine or None
        Runs the cases, for example on a cluster. ``None``: worker processes of this machine.

    Raises
    ------
    DetSeg3DError
        If ``processes`` is negative.

    Examples
    --------
    >>> Run(processes=4).show_progress
    True
    """

    processes: int = 0
    show_progress: bool = True
    engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.processes < 0:
            raise DetSeg3DError("the number of processes is negative", value=self.processes, expected="0, 1, 2, …")
