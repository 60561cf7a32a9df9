"""The engines of one machine: this process, or worker processes.

Pebble starts, watches and stops the worker processes. Each worker process has a separate Pebble pool. The workers of
one pool would share one pipe. A worker that is killed while it writes leaves half a message in the pipe, which blocks
the whole pool. With a pool for each worker, the end of a worker affects its own case only, and a new worker replaces
the worker that ended.

This module adds two features that Pebble does not have. Log records of the workers reach the loggers of this process. A
worker that ends with exit code 0 in the middle of a case is reported; Pebble alone would wait for the worker forever.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.case_call import CallOutcome, call, limit_threads, portable, release_frames, translated
from detseg3d.system.engine import CaseResult, Item, Value
from detseg3d.system.signals import exit_with_parent, raise_if_interrupted, without_interrupt

__all__ = ["ThisProcess", "WorkerProcesses"]

_SIGKILL: Final = getattr(signal, "SIGKILL", 9)  # Windows neither defines nor reports SIGKILL
_SECONDS_BETWEEN_CHECKS: Final = 1.0


class ThisProcess:
    """Engine that runs all cases in the calling process, one after the other."""

    def results(
        self, function: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
        """Yield the number and the result of each case, in the order of the cases."""
        for index, item in enumerate(items):
            raise_if_interrupted()
            try:
                yield index, CaseResult(item, value=function(item))
            except Exception as error:
                raise_if_interrupted()
                result: CaseResult[Item, Value] = CaseResult(
                    item, error=translated(error), traceback=traceback.format_exc()
                )
                release_frames(error)
                yield index, result


# -- Worker processes: the side of this process ------------------------------------------------------------------------


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
        self.has_function = False

    def schedule(self, function: Callable[[Any], Any], item: Any) -> Future[CallOutcome]:
        """Give a case to the worker. The first case starts the process.

        The function, which may hold tables of all cases, is only sent until the process has ended a case.
        """
        # The process inherits the blocked signal. It could ignore the signal itself only after its slow imports.
        with without_interrupt():
            future: Future[CallOutcome] = self._pool.schedule(_call, (None if self.has_function else function, item))
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


@dataclass(frozen=True)
class WorkerProcesses:
    """Engine that runs cases in worker processes of this machine.

    Parameters
    ----------
    number : int
        Number of worker processes. At most one per case is started.
    """

    number: int

    def results(
        self, function: Callable[[Item], Value], items: Sequence[Item]
    ) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
        """Yield the number and the result of each case, in the order in which the cases end."""
        num_workers = min(self.number, len(items))
        threads = max(1, (os.cpu_count() or 1) // max(1, num_workers))
        waiting = deque(range(len(items)))
        workers: list[_Worker] = []
        idle: list[_Worker] = []
        busy: dict[Future[CallOutcome], tuple[_Worker, int]] = {}
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
                        any_started = worker.has_function = True
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
                        yield index, CaseResult(items[index], error=portable(error))
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


# -- Worker processes: the side of the worker --------------------------------------------------------------------------


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
    limit_threads(threads)
    package = logging.getLogger("detseg3d")
    package.setLevel(log_level)
    package.addHandler(_SendRecords(log_writer))
    package.propagate = False


_function: Callable[[Any], Any] | None = None
"""The function of this worker process."""


def _call(function: Callable[[Any], Any] | None, item: Any) -> CallOutcome:
    """Call the function on an item; ``None`` for the function of the case before."""
    global _function
    _function = function or _function
    assert _function is not None, "the first case comes with its function"
    return call(_function, item)
