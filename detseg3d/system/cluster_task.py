"""The side of a Dask worker: check that the worker fits the command, and run one case.

Dask calls :func:`run_task` in the workers. This module does not import ``distributed`` at the top, because the package
is optional.
"""

from __future__ import annotations

import functools
import logging
import logging.handlers
import os
import platform
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.system.case_call import call, limit_threads

__all__ = ["Conditions", "FolderCheck", "TaskOutcome", "is_task_cancelled", "keep", "python_version", "run_task"]

# A network file system may show a new file a little later on another machine.
_SECONDS_TO_APPEAR: Final = 3.0
_SECONDS_BETWEEN_LOOKS: Final = 0.1


@dataclass(frozen=True)
class FolderCheck:
    """File or folder that a worker must see at the same path as the command.

    Attributes
    ----------
    path : str
        Absolute.
    marker : str or None
        Path of a file that the command wrote into the folder. A worker that does not see this file has another folder
        of the same name. ``None`` for inputs, in which nothing is written.
    """

    path: str
    marker: str | None = None


@dataclass(frozen=True)
class Conditions:
    """Conditions that a worker must meet before it runs a case, and settings of its work.

    Attributes
    ----------
    version : str
        Version of DetSeg3D of the command.
    python : str
        Version of Python of the command, such as ``3.11``.
    folder : str
        Current folder of the command, to which relative paths refer.
    checks : tuple of FolderCheck
    log_level : int
        Log records of this level or higher are returned.
    """

    version: str
    python: str
    folder: str
    checks: tuple[FolderCheck, ...] = ()
    log_level: int = logging.INFO


@dataclass(frozen=True)
class TaskOutcome:
    """Outcome of one case, as a worker returns it.

    Attributes
    ----------
    value, error, traceback
        See :class:`~detseg3d.system.engine.CaseResult`.
    records : tuple of LogRecord
        Log records of the case.
    refusal : DetSeg3DError or None
        Condition that the worker does not meet. The case was then not run.
    """

    value: Any = None
    error: Exception | None = None
    traceback: str = ""
    records: tuple[logging.LogRecord, ...] = ()
    refusal: DetSeg3DError | None = None


def keep(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the function. As a task of Dask, this keeps the function in a worker, from which others copy it."""
    return function


def python_version() -> str:
    """Return major and minor version of Python, such as ``3.11``."""
    return ".".join(platform.python_version_tuple()[:2])


def run_task(conditions: Conditions, function: Callable[[Any], Any], item: Any) -> TaskOutcome:
    """Run one case in a Dask worker.

    Parameters
    ----------
    conditions : Conditions
        The case is not run if the worker does not meet them.
    function : callable
        Takes the item.
    item : object

    Returns
    -------
    TaskOutcome
    """
    try:
        _check_worker(conditions)
        # Another command may have used this worker in the meantime, so this is done before each case.
        os.chdir(conditions.folder)
    except DetSeg3DError as error:
        return TaskOutcome(refusal=error)
    except OSError:
        return TaskOutcome(refusal=_not_shared(conditions.folder, "the current folder of the command"))
    with _collected_records(conditions.log_level) as records:
        outcome = call(function, item)
    return TaskOutcome(*outcome, records=tuple(_drain(records)))


def is_task_cancelled() -> bool:
    """Return whether the command no longer waits for the task that runs in this thread of a Dask worker.

    A task that takes hours asks this from time to time. Outside a Dask worker, the answer is no.
    """
    with suppress(ImportError, ValueError, AttributeError):
        from distributed.worker import get_worker, thread_state

        task = get_worker().state.tasks.get(thread_state.key)
        return task is None or task.state == "cancelled"
    return False


@functools.lru_cache(maxsize=16)
def _check_worker(conditions: Conditions) -> None:
    """Check the conditions, and limit the threads of the worker. An error is not cached."""
    own = (__version__, python_version())
    wanted = (conditions.version, conditions.python)
    if own != wanted:
        raise DetSeg3DError(
            "a worker of the cluster has another version of DetSeg3D or Python than this command",
            value=f"worker on {platform.node()}: DetSeg3D {own[0]}, Python {own[1]}",
            expected=f"DetSeg3D {wanted[0]}, Python {wanted[1]}",
            remedy="start the workers from the environment of this command",
        )
    for check in conditions.checks:
        if not Path(check.path).exists():
            raise _not_shared(check.path, "the path")
        if check.marker is None:
            continue
        if not _appears(Path(check.marker)):
            raise _not_shared(check.path, "another folder of the same name")
        if not os.access(check.path, os.W_OK):
            raise DetSeg3DError(
                "a worker of the cluster cannot write into this folder",
                file=check.path,
                value=f"worker on {platform.node()}",
                remedy="start the workers as the user who owns the folder",
            )
    # Dask runs one case at a time in this worker. More threads are for users who give more cores to each worker.
    declared = os.environ.setdefault("OMP_NUM_THREADS", "1")
    limit_threads(int(declared) if declared.isdecimal() and int(declared) > 0 else 1)


def _appears(file: Path) -> bool:
    """Return whether a file exists or appears within seconds."""
    end = time.monotonic() + _SECONDS_TO_APPEAR
    while not file.exists():
        if time.monotonic() > end:
            return False
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return True


def _not_shared(path: str, found: str) -> DetSeg3DError:
    return DetSeg3DError(
        "a worker of the cluster does not see the same files as this command",
        file=path,
        value=f"{'not there' if found == 'the path' else found} on {platform.node()}",
        expected="the same path on every machine, on a shared file system",
        remedy="move the data to a file system that all machines share, or use -np instead of --cluster",
    )


@contextmanager
def _collected_records(level: int) -> Iterator[queue.SimpleQueue[logging.LogRecord]]:
    """Collect the log records of the package in this process, in a form that can be sent."""
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    package, handler = logging.getLogger("detseg3d"), logging.handlers.QueueHandler(records)  # type: ignore[arg-type]
    before = package.level
    package.addHandler(handler)
    package.setLevel(level)
    try:
        yield records
    finally:
        package.setLevel(before)
        package.removeHandler(handler)


def _drain(records: queue.SimpleQueue[logging.LogRecord]) -> Iterator[logging.LogRecord]:
    while not records.empty():
        yield records.get()
