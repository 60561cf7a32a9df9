"""Record of one run of a command: ``run.json`` and ``run.log`` beside its results.

The record states how results were made: command line, versions, machine, seed, digests of the inputs, times, peak
memory and outcome. It contains neither environment variables nor the names of the user and of the machine. Several runs
may write to the same folder, for example a training that is resumed. The record then keeps the earlier runs.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import read_bounded, write_text
from detseg3d.system.json_files import read_json, write_json
from detseg3d.system.signals import Interruption

if sys.platform != "win32":
    import resource

__all__ = ["Machine", "RunRecorder", "RunTarget", "digest_of_files", "recorded_run"]

logger = logging.getLogger(__name__)

_LIBRARIES = ("detseg3d", "torch", "numpy")
# Of a larger file only three blocks are read: its beginning, its middle and its end.
_MAX_WHOLE_BYTES = 4 << 20
_BLOCK_BYTES = 64 << 10
_MAX_PREVIOUS_RUNS = 100
_CLOCK_SECONDS = 0.05  # the modification times of files may lag behind the clock
_MAX_LOG_BYTES = 16 << 20  # a longer log of earlier runs is dropped


class ExitState(Enum):
    """Outcome of a run.

    Attributes
    ----------
    SUCCEEDED
        All cases were processed.
    FAILED
        An error ended the run, or some cases failed.
    INTERRUPTED
        A signal such as Ctrl-C ended the run.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Machine:
    """Hardware of a run.

    Attributes
    ----------
    cpu : str
        Model of the processor.
    cores : int
        Cores that the process may use.
    memory_bytes : int or None
        Physical memory.
    gpus : tuple of str
        Models of the GPUs that PyTorch sees.
    system : str
        Name and version of the operating system.
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    gpus: tuple[str, ...]
    system: str

    @classmethod
    def current(cls) -> Machine:
        """Return the machine of this process."""
        has_affinity = hasattr(os, "sched_getaffinity")
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1,
            memory_bytes=_memory_bytes(),
            gpus=_gpus(),
            system=f"{platform.system()} {platform.release()}",
        )


@dataclass(frozen=True)
class RunRecord:
    """Content of ``run.json``.

    Attributes
    ----------
    command : tuple of str
        Program and arguments, as given on the command line.
    versions : mapping of str to str
        Versions of Python and of the libraries that the results depend on.
    machine : Machine
    seed : int or None
        ``None`` if the command draws no random numbers.
    digests : mapping of str to str
        Digest of each kind of input, see :func:`digest_of_files`.
    start, end : str
        ISO 8601, in UTC.
    wall_seconds : float
    cpu_seconds : float
        Processor time of the process and of its finished worker processes.
    peak_memory_bytes : int or None
        Highest memory of the process.
    worker_peak_memory_bytes : int or None
        Highest memory of a single worker process.
    gpu_peak_memory_bytes : int or None
        Highest GPU memory used by tensors. ``None`` without GPU.
    exit_state : ExitState
    exit_code : int
    error : str or None
        Problem that ended the run.
    previous : tuple of mapping
        Records of earlier runs in the same folder, the latest first.
    """

    command: tuple[str, ...]
    versions: Mapping[str, str]
    machine: Machine
    seed: int | None
    digests: Mapping[str, str]
    start: str
    end: str
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int | None
    worker_peak_memory_bytes: int | None
    gpu_peak_memory_bytes: int | None
    exit_state: ExitState
    exit_code: int
    error: str | None
    previous: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {**asdict(self), "exit_state": self.exit_state.value}


@dataclass(frozen=True)
class RunTarget:
    """Place of the record of a run, and its inputs.

    Attributes
    ----------
    folder : Path
        Folder of the results. No record is written if the folder does not exist at the end of the run, or if the run
        failed before it changed the folder: the record of the run that made the results then stays.
    seed : int or None
    inputs : mapping of str to sequence of Path
        Files or folders of each kind of input.
    name : str
        Name of the record without ending.
    """

    folder: Path
    seed: int | None = None
    inputs: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    name: str = "run"


class RunRecorder:
    """Outcome of a run that is being recorded. The command sets the fields.

    Attributes
    ----------
    exit_code : int
    error : Exception or None
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.error: BaseException | None = None


@contextmanager
def recorded_run(command: Sequence[str], target: Callable[[], RunTarget | None]) -> Iterator[RunRecorder]:
    """Write ``run.json`` and ``run.log`` at the end of the context, also after an error or a signal.

    A record that cannot be written causes a warning, not an error, because an error would hide the outcome of the
    command.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    target : callable
        Returns the place of the record, or ``None`` if the command leaves no record. It is called at the end of the
        run, when the folder of the results is known.

    Yields
    ------
    RunRecorder
    """
    start, started, cpu_started = datetime.now(timezone.utc), time.monotonic(), _cpu_seconds()
    recorder, lines = RunRecorder(), _LogLines()
    package_logger = logging.getLogger("detseg3d")
    package_logger.addHandler(lines)
    try:
        yield recorder
    except BaseException as error:
        # Shells report 128 plus the number of the signal.
        recorder.exit_code = 128 + error.number if isinstance(error, Interruption) else 1
        recorder.error = error
        raise
    finally:
        package_logger.removeHandler(lines)
        try:
            place = target()
            if place is not None and _leaves_record(place.folder, start.timestamp(), _exit_state(recorder)):
                file, log = place.folder / f"{place.name}.json", place.folder / f"{place.name}.log"
                record = RunRecord(
                    command=tuple(command),
                    versions=_versions(),
                    machine=Machine.current(),
                    seed=place.seed,
                    digests={name: digest_of_files(paths, start.timestamp()) for name, paths in place.inputs.items()},
                    start=start.isoformat(timespec="seconds"),
                    end=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                    wall_seconds=round(time.monotonic() - started, 3),
                    cpu_seconds=round(_cpu_seconds() - cpu_started, 3),
                    peak_memory_bytes=_peak_bytes("RUSAGE_SELF"),
                    worker_peak_memory_bytes=_peak_bytes("RUSAGE_CHILDREN"),
                    gpu_peak_memory_bytes=_gpu_peak_bytes(),
                    exit_state=_exit_state(recorder),
                    exit_code=recorder.exit_code,
                    error=_describe_error(recorder.error),
                    previous=_previous_records(file),
                )
                write_text(_previous_log(log) + lines.text(), log)
                write_json(record.to_json(), file)
        except Exception as error:  # the record must not hide the outcome of the command
            # If the command failed, its folders may not exist, and the error of the command gives the reason.
            level = logging.DEBUG if recorder.error is not None else logging.WARNING
            logger.log(level, "the record of this run cannot be written: %s", error)


class _LogLines(logging.Handler):
    """Keep the messages of a run, with their times."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def text(self) -> str:
        """Return the messages as the text of a log file."""
        return "".join(f"{line}\n" for line in self.lines)


def digest_of_files(paths: Sequence[Path], newest: float = math.inf) -> str:
    """Return a digest of the names, sizes and contents of files.

    Only the beginning, the middle and the end of a file above 4 MiB are read, so that large data sets take seconds. A
    different digest shows that other inputs were used. The digest does not protect against manipulation.

    Parameters
    ----------
    paths : sequence of Path
        Files, or folders. The files of a folder count with their names relative to the folder. Missing files are left
        out.
    newest : float, optional
        Files changed after this time (seconds since 1970) are left out, for example results of the same run.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    OSError
        If a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            if not file.is_file() or file.stat().st_mtime > newest:
                continue
            name = file.relative_to(path).as_posix() if file != path else file.name
            size = file.stat().st_size
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            with file.open("rb") as handle:
                if size <= _MAX_WHOLE_BYTES:
                    digest.update(handle.read(_MAX_WHOLE_BYTES))
                    continue
                for offset in (0, (size - _BLOCK_BYTES) // 2, size - _BLOCK_BYTES):
                    handle.seek(offset)
                    digest.update(handle.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _leaves_record(folder: Path, start: float, state: ExitState) -> bool:
    """Return whether the folder exists and the run has succeeded or changed the folder."""
    if not folder.is_dir():
        return False
    changes = (entry.lstat().st_mtime >= start - _CLOCK_SECONDS for entry in (folder, *folder.iterdir()))
    return state is ExitState.SUCCEEDED or any(changes)


def _previous_records(file: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the runs of an existing record, the latest first. A record that cannot be read is left out."""
    try:
        last = read_json(file)
        earlier = last.pop("previous")
        return (last, *earlier)[:_MAX_PREVIOUS_RUNS]
    except (OSError, DetSeg3DError, AttributeError, KeyError, TypeError):
        return ()


def _previous_log(file: Path) -> str:
    """Return the text of an existing log; empty if the log is missing or too long."""
    try:
        return read_bounded(file, _MAX_LOG_BYTES).decode("utf-8", "replace")
    except (OSError, DetSeg3DError):
        return ""


def _exit_state(recorder: RunRecorder) -> ExitState:
    if isinstance(recorder.error, (Interruption, KeyboardInterrupt)):
        return ExitState.INTERRUPTED
    return ExitState.FAILED if recorder.error is not None or recorder.exit_code else ExitState.SUCCEEDED


def _describe_error(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return error.problem if isinstance(error, DetSeg3DError) else f"{type(error).__name__}: {error}".rstrip(": ")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_bytes(who: str) -> int | None:
    if sys.platform == "win32":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(getattr(resource, who)).ru_maxrss) * unit


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int | None:
    with suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _gpus() -> tuple[str, ...]:
    torch = sys.modules.get("torch")  # a command without networks does not import it
    if torch is None or not torch.cuda.is_available():
        return ()
    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _gpu_peak_bytes() -> int | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return max(int(torch.cuda.max_memory_allocated(index)) for index in range(torch.cuda.device_count()))
