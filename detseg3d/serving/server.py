"""Run the service until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

from detseg3d.core.errors import DetSeg3DError
from detseg3d.serving.app import create_app
from detseg3d.serving.model import ModelOpener
from detseg3d.serving.runner import JobRunner
from detseg3d.serving.service import Service
from detseg3d.serving.settings import Access, ServiceLimits
from detseg3d.serving.store import JobStore
from detseg3d.serving.worker import ModelWorker
from detseg3d.system.lock import locked

__all__ = ["run_service"]

logger = logging.getLogger(__name__)

_BACKLOG = 128
_MAX_CONNECTIONS = 256
_SECONDS_TO_END = 3
_MAX_HEADER_BYTES = 64 << 10


def run_service(
    source: ModelOpener,
    access: Access,
    limits: ServiceLimits,
    folder: Path | None = None,
    on_ready: Callable[[Access], None] = lambda _access: None,
) -> None:
    """Load a model, and answer requests until a signal arrives.

    Parameters
    ----------
    source : ModelOpener
    access : Access
        With port 0, the system chooses a free port.
    limits : ServiceLimits
    folder : Path, optional
        Folder of the jobs. A service that is started again with this folder continues the jobs in it. By default the
        jobs lie in a temporary folder, which is deleted at the end.
    on_ready : callable, optional
        Called with the address when the service answers.

    Raises
    ------
    DetSeg3DError
        If the port is in use, another service uses the folder, or the model cannot be loaded.
    Interruption
        After SIGINT, SIGTERM or SIGHUP, when everything is cleaned up.
    """
    # The port is taken first, because the model takes long to load.
    with _listening(access) as listener, _job_folder(folder) as jobs, ModelWorker(source) as worker:
        access = replace(access, port=listener.getsockname()[1])
        store = JobStore(jobs, limits)
        service = Service(worker.start(), worker, store, limits, access)
        config = uvicorn.Config(
            create_app(service),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=_SECONDS_TO_END,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
        )
        runner = service.runner()
        runner.start()
        try:
            on_ready(access)
            _Server(config, service, runner).run([listener])
        finally:
            service.stopping.set()
            runner.stop()


class _Server(uvicorn.Server):
    """A server that ends streams of events and jobs when a signal arrives."""

    def __init__(self, config: uvicorn.Config, service: Service, runner: JobRunner) -> None:
        super().__init__(config)
        self._service, self._runner = service, runner

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal."""
        self._service.stopping.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the connections, then the jobs. After this, uvicorn raises the signal again, and no file is written."""
        await super().shutdown(sockets)
        await asyncio.to_thread(self._runner.stop)


@contextmanager
def _listening(access: Access) -> Iterator[socket.socket]:
    """Listen at the address."""
    try:
        family = socket.getaddrinfo(access.host, access.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((access.host, access.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise DetSeg3DError(
            "another program uses the port" if in_use else f"the service cannot listen here: {error.strerror}",
            value=f"{access.host}, port {access.port}",
            remedy="choose another port with --port" if in_use else "check --host and --port",
        ) from error
    with listener:
        yield listener


@contextmanager
def _job_folder(folder: Path | None) -> Iterator[Path]:
    """Hold the folder of the jobs; a temporary folder is deleted at the end."""
    if folder is None:
        temporary = Path(tempfile.mkdtemp(prefix="detseg3d_serve_"))
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        folder.chmod(0o700)  # the folder holds data of patients
    with locked(folder / ".service.lock", "serving", "another service uses this folder"):
        yield folder
