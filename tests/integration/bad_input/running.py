"""Run a command as the terminal does, and look at what it said."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Run", "run"]


@dataclass(frozen=True)
class Run:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The message that ended the command, from the first line on."""
        return self.err.partition(": error: ")[2]


def run(main: Callable[[Sequence[str]], int], words: Sequence[object]) -> Run:
    """Run a command in this process; an exception that leaves it is a failure of the test."""
    out, err = io.StringIO(), io.StringIO()
    package = logging.getLogger("detseg3d")
    package.handlers.clear()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    package.handlers.clear()
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return Run(code, out.getvalue(), err.getvalue())
