"""Process that trains one fold for a worker of a cluster: ``detseg3d_train``, ended with the worker that started it.

The worker holds the standard input of this process open. If the worker ends for any reason, the input ends, and this
process gets SIGTERM: the training finishes its step and writes a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence

from detseg3d.cli import train

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``detseg3d_train`` and return its exit code."""
    threading.Thread(target=_end_with_worker, name="worker watch", daemon=True).start()
    return train.main(arguments)


def _end_with_worker() -> None:
    """Wait for the end of the standard input, and ask this process to end."""
    # Python would abort at its end if this thread waited inside a buffered file.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
