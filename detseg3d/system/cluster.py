"""The engine that runs cases as tasks of Dask distributed, on the workers of a cluster or of this machine.

A command does not hand all cases to the scheduler together. It keeps as many cases with the scheduler as there are
workers, so no case waits in the queue of a worker. Dask blames a lost worker on every case in the queue of that worker;
a case that always kills its worker would otherwise take innocent cases with it. The short queue also bounds the memory
of the scheduler.

Dask runs a case again on another worker if its worker ends. It gives up after the worker of the case has ended four
times (``distributed.scheduler.allowed-failures``). The case then runs once more when all others have ended, and becomes
a result with an error if Dask gives up again. A case that raises an
error is not run again, because it would raise the same error.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.version import __version__
from detseg3d.system.case_call import portable
from detseg3d.system.cluster_task import Conditions, FolderCheck, TaskOutcome, keep, python_version, run_task
from detseg3d.system.engine import CaseResult
from detseg3d.system.files import check_writable, temporary_beside, write_text
from detseg3d.system.json_files import read_json
from detseg3d.system.signals import raise_if_interrupted, without_interrupt

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ClusterEngine", "ClusterRequest", "opened_cluster"]

logger = logging.getLogger(__name__)

_LOCAL: Final = "local:"
_PROTOCOLS: Final = ("tcp://", "tls://", "ucx://", "ws://", "wss://")
_SECONDS_TO_CONNECT: Final = 10.0
_SECONDS_BETWEEN_CHECKS: Final = 1.0
_SECONDS_BETWEEN_COUNTS: Final = 5.0
_SECONDS_BETWEEN_REMINDERS: Final = 60.0
_EXPECTED: Final = "tcp://HOST:PORT, a scheduler file, or local:N"


@dataclass(frozen=True)
class ClusterRequest:
    """Cluster that a command asks for, and what the workers must have.

    Attributes
    ----------
    address : str
        ``tcp://HOST:PORT`` or ``tls://HOST:PORT`` of a scheduler, the path of its scheduler file, or ``local:N`` for N
        worker processes on this machine.
    inputs : tuple of Path
        Files and folders that the workers read.
    outputs : tuple of Path
        Folders that the workers write into. They are created.
    resources : mapping of str to float
        Resources that a case takes, such as ``{"GPU": 1}``. A resource is only demanded if at least one worker declares
        it (``dask worker --resources GPU=1``).
    """

    address: str
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Worker:
    """Worker of the cluster, as its scheduler knows it."""

    threads: int
    resources: Mapping[str, float]


class ClusterEngine:
    """Engine that runs cases on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    conditions : Conditions
        Every worker checks them before its first case.
    resources : mapping of str to float
        Resources that each case takes.
    """

    def __init__(self, client: Client, conditions: Conditions, resources: Mapping[str, float]) -> None:
        self._client = client
        self._conditions = conditions
        self._resources = dict(resources)
        self._numbers = itertools.count()
        self._session = secrets.token_hex(4)

    def results(
        self, function: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[int, CaseResult[Any, Any]]]:
        """Yield the number and the result of each case, in the order in which the cases end.

        Raises
        ------
        DetSeg3DError
            If the scheduler is lost, or a worker does not meet the conditions of the command.
        """
        waiting = deque(range(len(items)))
        # Cases whose workers ended. Dask blames an ended worker also on a case that only waited there, so these cases
        # run again at the end, one at a time. If the workers end then, too, the case is the reason.
        suspects: deque[int] = deque()
        alone: set[int] = set()
        running: dict[Future, int] = {}
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        slots = _Slots(self._client, self._resources)
        number = next(self._numbers)
        # The function may hold tables of all cases. As a task, it reaches each worker once and not with each case, and
        # Dask makes it again if the worker that holds it ends.
        kept = self._client.submit(keep, function, key=f"detseg3d-{self._session}-{number}-function", pure=False)
        try:
            while waiting or running or suspects:
                if suspects and not waiting and not running:
                    alone.add(suspects[0])
                    waiting.append(suspects.popleft())
                while waiting and len(running) < slots.count():
                    index = waiting.popleft()
                    try:
                        future = self._submit(kept, items[index], f"{number}-{index}-{len(alone)}")
                    except Exception as error:  # the case cannot be pickled
                        self._check_connection()
                        yield index, CaseResult(items[index], error=portable(error))
                        continue
                    running[future] = index
                    future.add_done_callback(ended.put)
                try:
                    future = ended.get(timeout=_SECONDS_BETWEEN_CHECKS) if running else None
                except queue.Empty:
                    raise_if_interrupted()
                    self._check_connection()
                    slots.count()  # it tells the user if there is no worker
                    continue
                if future is not None:
                    index = running.pop(future)
                    if index not in alone and len(items) > 1 and _is_killed(future):
                        suspects.append(index)
                        continue
                    yield index, self._result(future, items[index])
        finally:
            if running or waiting or suspects:
                self._cancel(list(running), len(waiting) + len(suspects))

    def _submit(self, function: Future, item: Any, name: str) -> Future:
        return self._client.submit(
            run_task,
            self._conditions,
            function,
            item,
            key=f"detseg3d-{self._session}-{name}",
            pure=False,
            resources=self._resources or None,
        )

    def _result(self, future: Future, item: Any) -> CaseResult[Any, Any]:
        """Return the result of a task that has ended."""
        if future.status == "cancelled":
            raise _lost_scheduler()
        if future.status == "error":
            return CaseResult(item, error=self._task_error(future.exception()))
        outcome: TaskOutcome = future.result()
        for record in outcome.records:
            logging.getLogger(record.name).handle(record)
        if outcome.refusal is not None:
            raise outcome.refusal
        return CaseResult(item, outcome.value, outcome.error, outcome.traceback)

    def _task_error(self, error: BaseException | None) -> Exception:
        """Return the error of a case that Dask could not run."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return DetSeg3DError(
                "every worker that ran this case, also alone, ended before the case was finished",
                value=f"KilledWorker: {error.allowed_failures + 1} workers, the last one {error.last_worker.address}",
                remedy="read the log of this worker; the usual reason is too little memory for one case",
            )
        # The worker cannot even read the task, for example because it lacks the package.
        _check_versions(self._client)
        return portable(error if error is not None else RuntimeError("the task has no result"))

    def _check_connection(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise _lost_scheduler()

    def _cancel(self, running: list[Future], not_begun: int) -> None:
        """Withdraw the cases that have not ended. Dask cannot stop a case that a worker has begun."""
        with suppress(Exception):
            self._client.cancel(running, force=True)
        logger.warning(
            "%d case(s) were not begun and are cancelled; up to %d case(s) that workers have begun end without this "
            "command. Run the same command again for the rest",
            not_begun,
            len(running),
        )


def _is_killed(future: Future) -> bool:
    """Return whether Dask gave a case up because its workers ended."""
    from distributed import KilledWorker

    return future.status == "error" and isinstance(future.exception(), KilledWorker)


class _Slots:
    """Number of cases that the workers can run at the same time. It follows workers that join and leave."""

    def __init__(self, client: Client, resources: Mapping[str, float]) -> None:
        self._client = client
        self._resources = resources
        self._count = 0
        self._counted = -float("inf")
        self._reminded = time.monotonic()

    def count(self) -> int:
        """Return the number of cases; at least 1, so that a case waits for the first worker."""
        if time.monotonic() - self._counted > _SECONDS_BETWEEN_COUNTS:
            workers = _workers_of(self._client)
            _check_threads(workers)
            before, self._count = self._count, sum(map(self._fits, workers))
            self._counted = time.monotonic()
            if before not in (0, self._count):
                logger.info("the cluster has %d worker(s) now, after %d", self._count, before)
            if self._count == 0 and self._counted - self._reminded > _SECONDS_BETWEEN_REMINDERS:
                logger.warning("the cluster has no worker for the next case; waiting for one")
                self._reminded = self._counted
        return max(1, self._count)

    def _fits(self, worker: _Worker) -> bool:
        return all(worker.resources.get(name, 0) >= amount for name, amount in self._resources.items())


@contextmanager
def opened_cluster(request: ClusterRequest) -> Iterator[ClusterEngine]:
    """Connect to a cluster, check its workers, and yield the engine that runs cases there.

    Parameters
    ----------
    request : ClusterRequest

    Yields
    ------
    ClusterEngine

    Raises
    ------
    DetSeg3DError
        If the package ``distributed`` is missing, the address cannot be read or reached, a worker has another version
        of DetSeg3D or Python, or a worker runs several cases at the same time.
    """
    try:
        import distributed
    except ImportError as error:
        raise DetSeg3DError(
            "a cluster needs the package distributed", value=str(error), remedy='pip install "detseg3d[cluster]"'
        ) from error
    # Dask reports lost connections as errors with tracebacks, also those that this module handles.
    for name in ("distributed.client", "distributed.batched", "distributed.comm", "distributed.scheduler"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        client = stack.enter_context(_connected(distributed, request.address))
        workers = _first_workers(client)
        _check_versions(client)
        _check_threads(workers)
        conditions = Conditions(
            version=__version__,
            python=python_version(),
            folder=str(Path.cwd()),
            checks=tuple(stack.enter_context(_marked(request))),
            log_level=logging.getLogger("detseg3d").getEffectiveLevel(),
        )
        declared = {name for worker in workers for name in worker.resources}
        demanded = {name: amount for name, amount in request.resources.items() if name in declared}
        logger.info(
            "cluster: %d worker(s) with DetSeg3D %s and Python %s%s",
            len(workers),
            conditions.version,
            conditions.python,
            "".join(f"; each case takes {name} {amount:g}" for name, amount in demanded.items()),
        )
        yield ClusterEngine(client, conditions, demanded)


@contextmanager
def _connected(distributed: Any, address: str) -> Iterator[Client]:
    """Connect to a scheduler, or start one with its workers."""
    with ExitStack() as stack:
        if address.startswith(_LOCAL):
            cluster = stack.enter_context(_local_cluster(distributed, address))
            yield stack.enter_context(distributed.Client(cluster))
            return
        target = _scheduler_address(address)
        try:
            client = distributed.Client(target, timeout=_SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError) as error:
            raise DetSeg3DError(
                f"the scheduler of the cluster cannot be reached: {_first_line(error)}",
                file=None if target == address else address,
                value=target,
                remedy="check that dask scheduler runs at this address, and for tls:// the certificates in the "
                "configuration of Dask",
            ) from error
        yield stack.enter_context(client)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextmanager
def _local_cluster(distributed: Any, address: str) -> Iterator[Any]:
    """Start a scheduler and worker processes on this machine."""
    text = address.removeprefix(_LOCAL)
    if not text.isdecimal() or int(text) < 1:
        raise DetSeg3DError("the address of the cluster cannot be read", value=address, expected=_EXPECTED)
    number = int(text)
    import dask

    # A number that the user has set holds for all libraries.
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = {f"distributed.nanny.pre-spawn-environ.{name}": threads for name in names}
    # The processes and the thread that starts them inherit the blocked signal. This command reacts to Ctrl-C.
    with dask.config.set(limits), without_interrupt():
        cluster = distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # otherwise a second command warns that the port is in use
            memory_limit=0,  # as for -np; the commands check the memory that a case needs
            silence_logs=logging.CRITICAL,
        )
    with cluster:
        yield cluster


def _scheduler_address(address: str) -> str:
    """Return the address of the scheduler that a user names directly or by its scheduler file."""
    if address.startswith(_PROTOCOLS):
        return address
    if "://" in address:
        raise DetSeg3DError("the address of the cluster cannot be read", value=address, expected=_EXPECTED)
    file = Path(address)
    # The scheduler may have been started a moment ago.
    end = time.monotonic() + _SECONDS_TO_CONNECT
    while not file.exists() and file.parent.is_dir() and file.suffix == ".json" and time.monotonic() < end:
        time.sleep(0.1)
    if not file.exists():
        raise DetSeg3DError(
            "the scheduler file does not exist",
            file=file,
            expected=_EXPECTED,
            remedy="start dask scheduler --scheduler-file FILE first",
        )
    content = read_json(file)
    found = content.get("address") if isinstance(content, dict) else None
    if not isinstance(found, str) or not found.startswith(_PROTOCOLS):
        raise DetSeg3DError("this is not a scheduler file of Dask", file=file, value=found, expected="an address")
    return found


def _workers_of(client: Client) -> list[_Worker]:
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except OSError as error:  # Dask's errors of connections are of this kind
        raise _lost_scheduler() from error
    return [_Worker(worker["nthreads"], worker.get("resources", {})) for worker in workers]


def _check_threads(workers: Sequence[_Worker]) -> None:
    """Raise an error if a worker runs several cases at the same time, which would share memory and threads."""
    others = [worker.threads for worker in workers if worker.threads != 1]
    if others:
        raise DetSeg3DError(
            "workers of the cluster run several cases at the same time",
            value=f"{len(others)} of {len(workers)} workers with {max(others)} threads",
            expected="one thread for each worker",
            remedy="start them with dask worker --nthreads 1, and with --nworkers N for N processes",
        )


def _first_workers(client: Client) -> list[_Worker]:
    """Wait for the first worker, and return all workers."""
    reminded = 0.0
    while not (workers := _workers_of(client)):
        if time.monotonic() - reminded > _SECONDS_BETWEEN_REMINDERS:
            logger.warning("the cluster has no worker yet; waiting for one")
            reminded = time.monotonic()
        time.sleep(0.2)
        raise_if_interrupted()
        if client.status not in ("running", "connecting"):
            raise _lost_scheduler()
    return workers


def _check_versions(client: Client) -> None:
    """Check the versions of DetSeg3D and Python in all present workers."""
    versions = client.get_versions(packages=["detseg3d"])
    wanted = _versions(versions["client"])
    # A worker without versions has just ended.
    found = {name: _versions(worker) for name, worker in versions["workers"].items() if isinstance(worker, dict)}
    others = [f"{name}: {text}" for name, text in sorted(found.items()) if text != wanted]
    if others:
        raise DetSeg3DError(
            f"{len(others)} worker(s) of the cluster have another version of DetSeg3D or Python than this command",
            value="; ".join(others[:5]),
            expected=wanted,
            remedy="start the workers from the environment of this command",
        )


def _versions(found: Mapping[str, Any]) -> str:
    """Return the versions of a process of Dask as text."""
    python = ".".join(found["host"]["python"].split(".")[:2])
    package = found["packages"].get("detseg3d")
    return f"{'DetSeg3D without metadata' if package is None else f'DetSeg3D {package}'}, Python {python}"


@contextmanager
def _marked(request: ClusterRequest) -> Iterator[list[FolderCheck]]:
    """Write a file into each output folder during the context, by which workers recognise the folder."""
    checks = [FolderCheck(str(path.absolute())) for path in request.inputs]
    markers: list[Path] = []
    try:
        for folder in request.outputs:
            check_writable(folder)
            # A temporary name, so that a later command removes the file if this one is killed.
            marker = temporary_beside(folder.absolute() / "cluster.txt")
            write_text("This folder is in use by a command with --cluster.\n", marker)
            markers.append(marker)
            checks.append(FolderCheck(str(folder.absolute()), str(marker)))
        yield checks
    finally:
        for marker in markers:
            marker.unlink(missing_ok=True)


def _lost_scheduler() -> DetSeg3DError:
    return DetSeg3DError(
        "the connection to the scheduler of the cluster was lost",
        remedy="check the log of the scheduler, and run the same command again; finished cases are kept",
    )
