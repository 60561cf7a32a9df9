"""The worker process that holds the model and predicts one scan after another.

A scan that ends, blocks or fills the worker process costs this scan only: the process is replaced. Messages between the
processes are JSON, because the worker reads files of strangers and unpickling its messages would trust it.

The pool of :mod:`detseg3d.system.workers` is not used: it runs a list of cases and then ends, has no time limits, and
does not report the progress within a case.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.model import ModelDescription, ModelOpener
from detseg3d.serving.records import ErrorRecord, PredictTask, Stage, TaskOutcome
from detseg3d.system.signals import ignore_signals_in_worker, without_interrupt

__all__ = ["CancelledError", "ModelWorker"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_CHECKS = 0.1
_MAX_MESSAGE_BYTES = 1 << 20
_MAX_LOADING_SECONDS = 600.0
_STOP_SECONDS = 2.0


class CancelledError(Exception):
    """The scan was cancelled before its prediction was complete."""


class ModelWorker:
    """A worker process with a loaded model. Only one thread may call :meth:`run`.

    Parameters
    ----------
    source : ModelOpener
        The model that the process loads, for example a :class:`~detseg3d.serving.model.ServedModel`.
    """

    def __init__(self, source: ModelOpener) -> None:
        self._source = source
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self.description: ModelDescription | None = None
        self.starts = 0

    def __enter__(self) -> ModelWorker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process_id(self) -> int | None:
        """Number of the process, or ``None`` if there is no process."""
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def start(self, is_cancelled: Callable[[], bool] = lambda: False) -> ModelDescription:
        """Start the process and wait until it has loaded the model. A process that is running is kept.

        Raises
        ------
        DetSeg3DError
            If the model cannot be loaded, or the process ends while it loads the model.
        CancelledError
            If ``is_cancelled`` returns True while the model is loaded.
        """
        if self.process_id is not None and self.description is not None:
            return self.description
        self.stop()
        context = multiprocessing.get_context("spawn")
        connection, other = context.Pipe()
        level = logging.getLogger("detseg3d").getEffectiveLevel()
        process = context.Process(target=_work, args=(other, self._source, level), daemon=True)
        with without_interrupt():
            process.start()
        other.close()
        with self._lock:
            self._process, self._connection = process, connection
        self.starts += 1
        message = self._receive(time.monotonic() + _MAX_LOADING_SECONDS, is_cancelled)
        if message["kind"] == "failed":
            self.stop()
            raise ErrorRecord.from_json(message["error"]).to_error()
        self.description = ModelDescription.from_json(message["model"])
        return self.description

    def run(
        self,
        task: PredictTask,
        on_stage: Callable[[Stage], None] = lambda _stage: None,
        max_seconds: float | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> TaskOutcome:
        """Predict the scan of a task.

        Parameters
        ----------
        task : PredictTask
        on_stage : callable, optional
            Called at the beginning of each step.
        max_seconds : float, optional
            Time limit, without the time to load the model.
        is_cancelled : callable, optional
            Checked several times a second; if it returns True, the process is ended.

        Returns
        -------
        TaskOutcome

        Raises
        ------
        DetSeg3DError
            If the scan cannot be predicted, the time limit is reached, or the process ends.
        CancelledError
            If ``is_cancelled`` returned True.
        """
        self.start(is_cancelled)
        assert self._connection is not None
        end = None if max_seconds is None else time.monotonic() + max_seconds
        try:
            self._connection.send_bytes(json.dumps(task.to_json()).encode("utf-8"))
        except OSError as error:
            raise self._ended() from error
        while True:
            message = self._receive(end, is_cancelled)
            if message["kind"] == "stage":
                on_stage(Stage(message["stage"]))
                continue
            if message["kind"] == "done":
                return TaskOutcome.from_json(message["outcome"])
            raise ErrorRecord.from_json(message["error"]).to_error()

    def stop(self) -> None:
        """End the process, even if it is busy. May be called from any thread."""
        with self._lock:
            process, self._process = self._process, None
            connection, self._connection = self._connection, None
        if process is not None:
            process.kill()  # it ignores other signals; an unfinished file has a temporary name
            process.join()
        if connection is not None:
            connection.close()

    def _receive(self, end: float | None, is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """Return the next message. If there will not be one, end the process and raise an error."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            raise CancelledError
        while True:
            if is_cancelled():
                self.stop()
                raise CancelledError
            if end is not None and time.monotonic() >= end:
                self.stop()
                raise DetSeg3DError(
                    "the time limit was reached before the scan was predicted",
                    expected="a scan that is predicted within the limit",
                    remedy="send a smaller scan, or start the service with a larger --max_job_seconds",
                )
            with suppress(OSError):  # another thread may have stopped the worker
                wait([connection, process.sentinel], _SECONDS_BETWEEN_CHECKS)
            try:
                if connection.poll():
                    message: dict[str, Any] = json.loads(connection.recv_bytes(_MAX_MESSAGE_BYTES))
                    return message
            except (EOFError, OSError, ValueError) as error:
                raise self._ended() from error
            if not process.is_alive():
                raise self._ended()

    def _ended(self) -> Exception:
        """Return the error of a process that ended, and clean up."""
        process = self._process
        if process is None:  # stop() was called
            return CancelledError()
        process.join(_STOP_SECONDS)
        code = process.exitcode
        self.stop()
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return DetSeg3DError(
            "the worker process ended before the scan was predicted",
            value=how,
            remedy="if the signal is SIGKILL, the usual reason is too little memory: send a smaller scan, or set "
            "--memory_gb",
        )


# -- In the worker process ---------------------------------------------------------------------------------------------


def _work(connection: Connection, source: ModelOpener, log_level: int) -> None:
    """Load the model, then predict tasks until the other side closes the connection."""
    ignore_signals_in_worker()  # the parent process reacts to them
    tqdm.set_lock(
        threading.RLock()
    )  # its usual lock is a resource of the system, which remains if this process is killed
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.WARNING)
    logging.getLogger("detseg3d").setLevel(log_level)

    def send(**message: object) -> None:
        connection.send_bytes(json.dumps(message).encode("utf-8"))

    PredictTask.from_json(PredictTask("", Path()).to_json())  # the first reading of a record takes a second
    try:
        model = source.open()
    except Exception as error:
        logger.debug("the model cannot be loaded", exc_info=True)
        send(kind="failed", error=_record(error).to_json())
        return
    send(kind="ready", model=model.description.to_json())
    from detseg3d.system.case_call import release_frames
    from detseg3d.system.memory import release_freed_memory

    while True:
        try:
            task = PredictTask.from_json(json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            return
        try:
            outcome = model.predict(task, lambda stage: send(kind="stage", stage=stage.value))
        except Exception as error:
            logger.debug("%s failed", task.case_id, exc_info=True)
            record = _record(error)
            release_frames(error)
            release_freed_memory()
            send(kind="failed", error=record.to_json())
        else:
            release_freed_memory()
            send(kind="done", outcome=outcome.to_json())


def _record(error: Exception) -> ErrorRecord:
    from detseg3d.system.memory import is_out_of_memory, out_of_memory

    return ErrorRecord.of(out_of_memory(error) if is_out_of_memory(error) else error)
