"""Run one function over many cases, in this process or in worker processes.

Pebble starts, watches and stops the worker processes. Each worker process has a separate Pebble pool. The workers of
one pool would share one pipe. A worker that is killed while it writes leaves half a message in the pipe, which blocks
the whole pool. With a pool for each worker, the end of a worker affects its own case only, and a new worker replaces
the worker that ended.

This module adds two features that Pebble does not have. Log records of the workers reach the loggers of this process. A
worker that ends with exit code 0 in the middle of a case is reported; Pebble alone would wait for the worker forever.
"""

from __future__ import annotations

import copy
import logging
import logging.handlers
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any, Final, Generic, TypeVar

from pebble import ProcessExpired, ProcessPool
from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.run import Run
from detseg3d.system.signals import exit_with_parent, raise_if_interrupted, without_interrupt

__all__ = ["CaseResult", "describe_failures", "is_bar_shown", "release_frames", "run_cases"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_Outcome = tuple[Any, Exception | None, str]
"""Value, error and traceback of a case."""

_SIGKILL: Final = getattr(signal, "SIGKILL", 9)  # Windows neither defines nor reports SIGKILL
_SECONDS_BETWEEN_CHECKS: Final = 1.0


@dataclass(frozen=True)
class CaseResult(Generic[Item, Value]):
    """Result of one case.

    Attributes
    ----------
    item : object
        The case.
    value : object or None
        Return value of the function; ``None`` if the case failed.
    error : Exception or None
        The exception that the case raised, with its type and message; ``None`` if the case succeeded.
    traceback : str
        Text of the traceback; empty if the case succeeded.
    """

    item: Item
    value: Value | None = None
    error: Exception | None = None
    traceback: str = ""


def run_cases(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    run: Run = Run(),
    description: str = "",
) -> list[CaseResult[Item, Value]]:
    """Call a function on each item; a case that fails does not stop the others.

    Parameters
    ----------
    function : callable
        Takes one item. With worker processes, ``function`` must be an importable function or a ``functools.partial`` of
        such a function, not a lambda or a nested function. Items and return values must be picklable.
    items : sequence
        The cases.
    run : Run, optional
        Number of worker processes (at most one per item is started) and display of progress.
    description : str, optional
        Label of the progress bar.

    Returns
    -------
    list of CaseResult
        One result per item, in the order of the items.

    Raises
    ------
    DetSeg3DError
        If no worker process can be started.

    Examples
    --------
    >>> [result.value for result in run_cases(abs, [-1, 2])]
    [1, 2]
    >>> run_cases(int, ["x"])[0].error
    ValueError("invalid literal for int() with base 10: 'x'")
    """
    if run.processes == 0:
        finished = _run_here(function, items)
    else:
        finished = _run_in_workers(function, items, min(run.processes, len(items)))
    results: dict[int, CaseResult[Item, Value]] = {}
    with tqdm(
        total=len(items), desc=description or None, disable=not is_bar_shown(run.show_progress), dynamic_ncols=True
    ) as bar:
        for index, result in finished:
            results[index] = result
            bar.update()
    return [results[index] for index in range(len(items))]


def is_bar_shown(wanted: bool) -> bool:
    """Return whether a progress bar is drawn: if it is ``wanted`` and the error output is a terminal.

    Examples
    --------
    >>> is_bar_shown(False)
    False
    """
    # sys.stderr is None or closed if the caller closed it, and None in a Windows program without a console.
    return wanted and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def describe_failures(
    results: Sequence[CaseResult[Any, Any]], name: Callable[[Any], str] = str, limit: int = 20
) -> str:
    """Return one line per failed case, for an error message or the log.

    Parameters
    ----------
    results : sequence of CaseResult
    name : callable, optional
        Returns the name of an item.
    limit : int, optional
        Maximum number of cases that are described.

    Returns
    -------
    str
        Empty if no case failed.

    Examples
    --------
    >>> print(describe_failures(run_cases(int, ["1", "x"])))
      x: ValueError: invalid literal for int() with base 10: 'x'
    """
    lines = []
    for result in results:
        if result.error is not None:
            kind = "" if isinstance(result.error, DetSeg3DError) else f"{type(result.error).__name__}: "
            message = str(result.error).replace("\n", "\n    ")
            lines.append(f"  {name(result.item)}: {kind}{message}")
    if len(lines) > limit:
        lines[limit:] = [f"  and {len(lines) - limit} more"]
    return "\n".join(lines)


def release_frames(error: BaseException | None) -> None:
    """Release the local variables, such as arrays, that the traceback of a handled error keeps alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


# -- In this process ---------------------------------------------------------------------------------------------------


def _run_here(
    function: Callable[[Item], Value], items: Sequence[Item]
) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
    for index, item in enumerate(items):
        raise_if_interrupted()
        try:
            yield index, CaseResult(item, value=function(item))
        except Exception as error:
            raise_if_interrupted()
            result: CaseResult[Item, Value] = CaseResult(
                item, error=_translated(error), traceback=traceback.format_exc()
            )
            release_frames(error)
            yield index, result


# -- In worker processes: the side of this process ---------------------------------------------------------------------


class _Worker:
    """Worker process in a separate Pebble pool.

    Worker processes are spawned: a fork of a process in which torch runs threads may hang.

    Parameters
    ----------
    threads : int
        Threads that the libraries in the worker may use.
    """

    def __init__(self, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        reader, self._log_writer = context.Pipe(duplex=False)
        level = logging.getLogger("detseg3d").getEffectiveLevel()
        self._pool = ProcessPool(
            max_workers=1,
            initializer=_initialize_worker,
            initargs=(self._log_writer, threads, level),
            context=context,
        )
        self._log_thread = threading.Thread(target=_forward_records, args=(reader,), daemon=True)
        self._log_thread.start()

    def schedule(self, function: Callable[[Any], Any], item: Any) -> Future[_Outcome]:
        """Give a case to the worker. The first case starts the process."""
        # The process inherits the blocked signal. It could ignore the signal itself only after its slow imports.
        with without_interrupt():
            future: Future[_Outcome] = self._pool.schedule(_run_item, (function, item))
        # From here on, only the worker can write log records. Its end therefore closes the connection. Pebble cannot
        # pass the closed connection to a replacement, so it reports the worker even if the exit code is 0.
        self._log_writer.close()
        return future

    @property
    def is_running(self) -> bool:
        """True if the pool can still finish the case."""
        return bool(self._pool.active)

    def stop(self) -> None:
        """End the process, even if it is busy, and forward its last log records."""
        self._pool.stop()
        self._pool.join()
        self._log_writer.close()
        self._log_thread.join()


def _run_in_workers(
    function: Callable[[Item], Value], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
    threads = max(1, (os.cpu_count() or 1) // max(1, num_workers))
    waiting = deque(range(len(items)))
    workers: list[_Worker] = []
    idle: list[_Worker] = []
    busy: dict[Future[_Outcome], tuple[_Worker, int]] = {}
    any_started = False
    try:
        while waiting or busy:
            while waiting and len(busy) < num_workers:
                if not idle:
                    workers.append(_Worker(threads))
                    idle.append(workers[-1])
                worker, index = idle.pop(), waiting.popleft()
                busy[worker.schedule(function, items[index])] = worker, index
            finished, unfinished = wait(busy, _SECONDS_BETWEEN_CHECKS, FIRST_COMPLETED)
            # A defect inside the pool could leave a case without an answer.
            stuck = {future for future in unfinished if not busy[future][0].is_running and not future.done()}
            for future in (*finished, *stuck):
                worker, index = busy.pop(future)
                error = BrokenProcessPool() if future in stuck else future.exception()
                if error is None:
                    any_started = True
                    idle.append(worker)
                    yield index, CaseResult(items[index], *future.result())
                elif isinstance(error, (ProcessExpired, BrokenProcessPool)):
                    workers.remove(worker)
                    worker.stop()
                    any_started |= isinstance(error, ProcessExpired)
                    if not any_started:
                        raise _start_error() from None
                    yield index, CaseResult(items[index], error=_exit_error(getattr(error, "exitcode", None)))
                else:  # the item cannot be pickled
                    idle.append(worker)
                    yield index, CaseResult(items[index], error=_portable(error))
    finally:
        for worker in workers:
            worker.stop()


def _forward_records(reader: Connection) -> None:
    """Pass the log records of a worker to the loggers of this process until the worker ends."""
    with reader, suppress(EOFError, OSError):
        while True:
            record = reader.recv()
            logging.getLogger(record.name).handle(record)


def _exit_error(exit_code: int | None) -> DetSeg3DError:
    """Return the error of a case after the end of its worker process.

    ``None`` stands for the exit code 0, which Pebble does not report.
    """
    if exit_code == -_SIGKILL:
        return DetSeg3DError(
            "the system killed the worker process",
            value="SIGKILL",
            remedy="use fewer processes (-np): the usual reason is too little memory",
        )
    if exit_code is not None and exit_code < 0:
        how = signal.Signals(-exit_code).name
    else:
        how = "exit code 0" if exit_code is None else f"exit code {exit_code}"
    return DetSeg3DError(
        "the worker process ended before the case was finished",
        value=how,
        remedy="run the case alone with -np 0 to see more",
    )


def _start_error() -> DetSeg3DError:
    return DetSeg3DError(
        "worker processes cannot be started; the output above gives the reason",
        remedy="in a script, make this call below `if __name__ == '__main__':`, or use Run(processes=0)",
    )


# -- In worker processes: the side of the worker -----------------------------------------------------------------------


class _SendRecords(logging.handlers.QueueHandler):
    """Sends log records to the parent process."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # enqueue below needs no queue
        self._connection = connection

    def enqueue(self, record: logging.LogRecord) -> None:
        self._connection.send(record)


def _initialize_worker(log_writer: Connection, threads: int, log_level: int) -> None:
    """Prepare the worker process before it loads the libraries of the function."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Pebble's handler would wait for compiled code to return
    exit_with_parent()
    _limit_threads(threads)
    package = logging.getLogger("detseg3d")
    package.setLevel(log_level)
    package.addHandler(_SendRecords(log_writer))
    package.propagate = False


def _run_item(function: Callable[[Any], Any], item: Any) -> _Outcome:
    """Call the function, and return an outcome that can be pickled."""
    try:
        value = function(item)
        ForkingPickler.dumps(value)
    except SystemExit as error:
        return None, _portable(error), traceback.format_exc()
    except Exception as error:
        outcome = None, _portable(_translated(error)), traceback.format_exc()
        release_frames(error)
        return outcome
    return value, None, ""


def _translated(error: Exception) -> Exception:
    """Return ``error``, or an out-of-memory error if ``error`` reports missing memory in another form."""
    return out_of_memory(error) if is_out_of_memory(error) else error


def _portable(error: BaseException) -> Exception:
    """Return ``error`` if it can be pickled and restored, else a RuntimeError with its type and message."""
    try:
        ForkingPickler.dumps(error)
        restored = copy.copy(error)  # calls the constructor as unpickling would
        if isinstance(error, Exception) and type(restored) is type(error) and str(restored) == str(error):
            return error
    except Exception:
        logging.getLogger(__name__).debug("an error of type %s cannot be pickled", type(error).__name__)
    return RuntimeError(f"{type(error).__name__}: {error}")


def _limit_threads(threads: int) -> None:
    """Limit the threads of this worker.

    If all workers together had more threads than the machine has cores, all workers would become slower.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    for name in (*names, "NUMEXPR_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    # With several threads, blosc2 stores the blocks of an array in the order in which the threads finish. The same
    # array would then give different files.
    os.environ.setdefault("BLOSC_NTHREADS", "1")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
