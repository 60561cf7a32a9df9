"""Metrics of the service in the text format of Prometheus.

The package prometheus_client is not used: the service has few metrics, and that package keeps them in global variables.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ServiceMetrics", "ServiceState"]

_BUCKETS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


@dataclass(frozen=True)
class ServiceState:
    """Present state of the service.

    Attributes
    ----------
    waiting, running, kept : int
        Number of jobs that wait, run, and are finished and kept.
    finished : dict of str to int
        Number of jobs since the start, by outcome.
    worker_starts : int
        How often the worker process was started.
    worker_process : int or None
        Number of the worker process.
    """

    waiting: int
    running: int
    kept: int
    finished: dict[str, int]
    worker_starts: int
    worker_process: int | None


@dataclass
class ServiceMetrics:
    """Counters of the service. All methods may be called from any thread."""

    _lock: threading.Lock = field(default_factory=threading.Lock)
    _seconds: list[int] = field(default_factory=lambda: [0] * (len(_BUCKETS) + 1))
    _total_seconds: float = 0.0
    _refused: Counter[int] = field(default_factory=Counter)

    def observe_job(self, seconds: float) -> None:
        """Count a job by the seconds that it took."""
        with self._lock:
            self._seconds[sum(seconds > bound for bound in _BUCKETS)] += 1
            self._total_seconds += seconds

    def observe_refusal(self, status: int) -> None:
        """Count a request that was refused, by its HTTP status."""
        with self._lock:
            self._refused[status] += 1

    def text(self, state: ServiceState) -> str:
        """Return all metrics as text."""
        with self._lock:
            seconds, total, refused = list(self._seconds), self._total_seconds, dict(self._refused)
        lines = _metric("detseg3d_jobs_waiting", "gauge", "Scans that wait.", {"": state.waiting})
        lines += _metric("detseg3d_jobs_running", "gauge", "Scans that are predicted.", {"": state.running})
        lines += _metric("detseg3d_jobs_kept", "gauge", "Finished jobs with stored results.", {"": state.kept})
        outcomes = {f'outcome="{name}"': count for name, count in sorted(state.finished.items())}
        lines += _metric("detseg3d_jobs_total", "counter", "Jobs since the start, by outcome.", outcomes)
        statuses = {f'status="{status}"': count for status, count in sorted(refused.items())}
        lines += _metric("detseg3d_refused_total", "counter", "Requests that were refused, by HTTP status.", statuses)
        lines += _metric(
            "detseg3d_worker_starts_total", "counter", "Starts of the worker process.", {"": state.worker_starts}
        )
        lines += ["# HELP detseg3d_job_seconds Time of a job.", "# TYPE detseg3d_job_seconds histogram"]
        count = 0
        for bound, number in zip((*map(str, _BUCKETS), "+Inf"), seconds, strict=True):
            count += number
            lines.append(f'detseg3d_job_seconds_bucket{{le="{bound}"}} {count}')
        lines += [f"detseg3d_job_seconds_sum {total:.6f}", f"detseg3d_job_seconds_count {count}"]
        memory = {'process="service"': _resident_bytes(os.getpid()), 'process="worker"': None}
        if state.worker_process is not None:
            memory['process="worker"'] = _resident_bytes(state.worker_process)
        known = {label: value for label, value in memory.items() if value is not None}
        lines += _metric("detseg3d_resident_bytes", "gauge", "Memory of the processes (Linux).", known)
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, description: str, values: dict[str, int]) -> list[str]:
    lines = [f"# HELP {name} {description}", f"# TYPE {name} {kind}"]
    return lines + [f"{name}{f'{{{labels}}}' if labels else ''} {value}" for labels, value in values.items()]


def _resident_bytes(process: int) -> int | None:
    """Return the memory of a process; ``None`` on systems other than Linux."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    return None
