"""A Dask cluster for tests: a real scheduler and worker processes that find it by a scheduler file, as under SLURM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


@dataclass
class DaskCluster:
    """Processes of a cluster."""

    scheduler_file: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a program of Dask with the log in a file beside the scheduler file."""
        log = self.scheduler_file.with_name(f"dask_{len(self.processes)}.log")
        quiet = {"OMP_NUM_THREADS": "1", "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "5s"}
        with log.open("wb") as handle:
            process = subprocess.Popen(
                [sys.executable, "-m", *words, "--scheduler-file", str(self.scheduler_file)],
                cwd=REPOSITORY,
                env={**os.environ, **quiet},
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def start_worker(self, *flags: str) -> subprocess.Popen[bytes]:
        """Start workers as ``srun dask worker`` would."""
        folder = self.scheduler_file.parent / "dask_scratch"
        return self.start(
            "distributed.cli.dask_worker", "--no-dashboard", "--nthreads", "1", "--local-directory", str(folder), *flags
        )


@contextmanager
def dask_cluster(folder: Path, *workers: Sequence[str]) -> Iterator[DaskCluster]:
    """Run a scheduler, and the workers with the given flags, until the end of the context."""
    cluster = DaskCluster(folder / "scheduler.json")
    cluster.start("distributed.cli.dask_scheduler", "--no-dashboard", "--host", "127.0.0.1", "--port", "0")
    try:
        while not cluster.scheduler_file.exists():
            assert cluster.processes[0].poll() is None, "the scheduler has ended"
            time.sleep(0.02)
        for flags in workers:
            cluster.start_worker(*flags)
        yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.terminate()
        for process in cluster.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # Dask may wait for a worker that was killed while it started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=5)
