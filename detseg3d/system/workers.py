"""Run one function over many cases on this machine, in worker processes that may fail one by one.

A process pool of the standard library gives up altogether when one worker is killed and cannot say which case it had.
Here each worker has a pipe of its own, so the death of a worker is an error of its case, a new worker takes its place
and the other cases go on.
"""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import os
import pickle  # nosec B403  # between our own processes only; no file is ever unpickled
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Generic, TypeVar, cast

from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.memory import is_out_of_memory, out_of_memory
from detseg3d.system.run import Run
from detseg3d.system.signals import end_with_parent, raise_again, without_interrupt

__all__ = ["CaseResult", "describe_failures", "is_bar_shown", "release_frames", "run_cases"]

Item = TypeVar("Item")
Value = TypeVar("Value")

_SIGKILL: Final = getattr(signal, "SIGKILL", 9)  # Windows has none, and no exit code of it


@dataclass(frozen=True)
class CaseResult(Generic[Item, Value]):
    """What became of one case: ``value`` if ``error`` is ``None``.

    ``error`` has the type and message of the exception raised by the case; ``traceback`` says where.
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
    """Call ``function`` on each item; a case that fails does not stop the others.

    Parameters
    ----------
    function : callable
        Takes one item. With worker processes it must be importable (no lambda, no nested function; a
        ``functools.partial`` of an importable function will do), and items and values must be picklable.
    items : sequence
        The cases.
    run : Run, optional
        Number of worker processes (at most one per item is started) and display of progress.
    description : str, optional
        Label of the progress bar.

    Returns
    -------
    list of CaseResult
        One per item, in the order of the items.

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
    """Whether a progress bar is ``wanted`` and there is a terminal to draw it on.

    Examples
    --------
    >>> is_bar_shown(False)
    False
    """
    # Python has no standard error where the caller closed it, and none in a program of Windows without a console.
    return wanted and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def describe_failures(
    results: Sequence[CaseResult[Any, Any]], name: Callable[[Any], str] = str, limit: int = 20
) -> str:
    """One line per failed case (empty if none failed), for an error message or the log; ``limit`` cases at most.

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


def _run_here(
    function: Callable[[Item], Value], items: Sequence[Item]
) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
    for index, item in enumerate(items):
        raise_again()
        try:
            yield index, CaseResult(item, value=function(item))
        except Exception as error:
            raise_again()
            result: CaseResult[Item, Value] = CaseResult(item, error=_plain(error), traceback=traceback.format_exc())
            release_frames(error)
            yield index, result


class _Worker:
    """A process and the case it works on. Started by spawning: a fork of a process with torch's threads may hang."""

    def __init__(self, function: bytes, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        level = logging.getLogger("detseg3d").getEffectiveLevel()
        self.process: BaseProcess = context.Process(target=_work, args=(remote, function, threads, level), daemon=True)
        with without_interrupt():  # before the worker can ignore it: importing takes it seconds
            self.process.start()
        remote.close()  # with the last copy in the worker, its death ends the connection
        self.index: int | None = None
        self.ready = False

    def give(self, index: int, item: Any) -> Exception | None:
        """Hand over a case; an error means that the item cannot be sent."""
        self.index = index
        try:
            self.connection.send(item)
        except OSError:
            pass  # the worker died just now; its connection reports that
        except Exception as error:  # not picklable
            self.index = None
            return error
        return None

    def obituary(self) -> DetSeg3DError:
        """Say how the process ended, once it has."""
        self.process.join()
        code = self.process.exitcode or 0
        if code == -_SIGKILL:
            how, remedy = "was killed by the system (SIGKILL)", "most often memory ran out: use fewer processes (-np)"
        elif code < 0:
            how, remedy = f"crashed with {signal.Signals(-code).name}", "run the case alone with -np 0 to see more"
        else:
            how, remedy = f"ended with exit code {code}", "run the case alone with -np 0 to see more"
        return DetSeg3DError(f"the worker process {how}", remedy=remedy)

    def stop(self) -> None:
        """End the process: an idle one leaves by itself when the connection is closed, a busy one is terminated."""
        self.connection.close()
        if self.index is None and self.ready:
            self.process.join(timeout=2)
        self.process.terminate()
        self.process.join()


def _run_in_workers(
    function: Callable[[Item], Value], items: Sequence[Item], num_workers: int
) -> Iterator[tuple[int, CaseResult[Item, Value]]]:
    waiting = deque(range(len(items)))
    # Pickled here so that the worker can limit its threads before the libraries of the function are loaded.
    pickled = pickle.dumps(function)
    threads = max(1, (os.cpu_count() or 1) // max(1, num_workers))
    workers: list[_Worker] = []
    any_ready = False
    try:
        while waiting or any(worker.index is not None for worker in workers):
            while len(workers) < num_workers and len(waiting) > sum(worker.index is None for worker in workers):
                workers.append(_Worker(pickled, threads))
            for worker in workers:
                while worker.index is None and waiting:
                    index = waiting.popleft()
                    error = worker.give(index, items[index])
                    if error is not None:
                        yield index, CaseResult(items[index], error=error)
            for worker in _speaking(workers):
                try:
                    kind, *content = worker.connection.recv()
                except (EOFError, OSError):
                    workers.remove(worker)
                    error = worker.obituary()
                    if not (worker.ready or any_ready):
                        raise _cannot_start(error) from None
                    if worker.index is not None:
                        yield worker.index, CaseResult(items[worker.index], error=error)
                    continue
                if kind == "ready":
                    worker.ready = any_ready = True
                elif kind == "log":
                    logging.getLogger(content[0].name).handle(content[0])
                else:
                    done, worker.index = worker.index, None
                    assert done is not None
                    yield done, CaseResult(items[done], *content)
    finally:
        for worker in workers:
            worker.stop()


def _speaking(workers: Sequence[_Worker]) -> list[_Worker]:
    """Wait until a busy worker has sent something or died. Idle ones are of no interest."""
    busy = {worker.connection: worker for worker in workers if worker.index is not None}
    # No check of the type: on Windows they are connections of another class.
    return [busy[cast("Connection", connection)] for connection in wait(list(busy))] if busy else []


def _cannot_start(error: DetSeg3DError) -> DetSeg3DError:
    return DetSeg3DError(
        f"worker processes cannot be started: {error.problem}; see the output above for the reason",
        remedy="in a script of your own, call this under `if __name__ == '__main__':`, or use Run(processes=0)",
    )


class _SendRecords(logging.handlers.QueueHandler):
    """Passes log records to the parent process, which knows where they should go."""

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        super().__init__(None)  # type: ignore[arg-type]  # enqueue below needs no queue
        self._send = send

    def enqueue(self, record: logging.LogRecord) -> None:
        self._send(("log", record))


def _work(connection: Connection, pickled: bytes, threads: int, log_level: int) -> None:
    """Serve cases until the parent closes the connection; runs in the worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    end_with_parent()
    _limit_threads(threads)
    lock = threading.Lock()

    def send(message: tuple[Any, ...]) -> None:
        with lock:
            connection.send(message)

    package = logging.getLogger("detseg3d")
    package.setLevel(log_level)
    package.addHandler(_SendRecords(send))
    package.propagate = False
    function = pickle.loads(pickled)  # noqa: S301  # nosec B301  # from our own parent process, through a pipe
    send(("ready",))
    with suppress(EOFError, OSError):  # the parent closed the connection or is gone
        while True:
            _answer(send, function, connection.recv())


def _answer(send: Callable[[tuple[Any, ...]], None], function: Callable[[Any], Any], item: Any) -> None:
    message: tuple[Any, ...]
    try:
        message = ("result", function(item), None, "")
    except Exception as error:
        message = ("result", None, _portable(_plain(error)), traceback.format_exc())
        release_frames(error)
    try:
        send(message)
    except OSError:  # the parent is gone
        raise
    except Exception as error:  # the value is not picklable
        send(("result", None, _portable(error), traceback.format_exc()))


def _plain(error: Exception) -> Exception:
    """``error``, or what it means if it is one of the many errors for memory that was not granted."""
    return out_of_memory(error) if is_out_of_memory(error) else error


def release_frames(error: BaseException | None) -> None:
    """Let go of the local variables, arrays among them, that the traceback of a handled error still holds."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _portable(error: Exception) -> Exception:
    """``error`` itself if it survives pickling, else an error that says the same."""
    try:
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # nosec B301  # made in this very line
        survives = type(copy) is type(error) and str(copy) == str(error)
    except Exception:
        survives = False
    return error if survives else RuntimeError(f"{type(error).__name__}: {error}")


def _limit_threads(threads: int) -> None:
    """Give each worker its share of the cores: full teams of threads in every worker slow all of them down."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    for name in (*names, "NUMEXPR_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    # With more, blosc2 puts the blocks of an array in the order in which they are done: no two files would be the same.
    os.environ.setdefault("BLOSC_NTHREADS", "1")
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
