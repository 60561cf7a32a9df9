"""One trial: a copy of the files, one of them mutated, and the real command in a fork with limits."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import importlib
import io
import os
import random
import resource
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.fuzz.mutate import Mutant
from benchmarks.fuzz.targets import Target, expand
from detseg3d.data.images import read_image
from detseg3d.system.files import write_text
from detseg3d.training import trainer

__all__ = ["FAULTS", "OUTCOMES", "Ended", "Trial", "run_limited", "try_mutant"]

FAULTS: Final = ("crash", "hang", "traceback", "silent", "wrong voxels", "lost slices", "litter", "memory")
"""What must not happen.

``silent``: an exit code other than 0 without a message. ``wrong voxels``: values that the file's checksum contradicts.
``lost slices``: a volume of another shape from a DICOM series without a warning. ``litter``: temporary files.
"""

OUTCOMES: Final = ("refused", "same result", "other result", *FAULTS)

_WALL_SECONDS = 120
_CPU_SECONDS = 40
_MOST_RESIDENT_MB = 3000
_ADDRESS_SPACE = 16 << 30


@dataclass(frozen=True)
class Ended:
    """How a forked function ended: exit code (``None`` when it was stopped for time), signal, memory, messages."""

    code: int | None
    signal: int
    megabytes: int
    seconds: float
    errors: str


@dataclass(frozen=True)
class Trial:
    """What became of a mutant."""

    target: str
    file: str
    how: str
    outcome: str
    seconds: float
    detail: str


def run_limited(function: Callable[[], int], errors: Path, folder: Path) -> Ended:
    """Call a function in a fork of this process, in ``folder``, with limits of time and memory."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(_in_fork(function, errors, folder))
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        seconds = time.monotonic() - started
        if done or seconds > _WALL_SECONDS:
            break
        time.sleep(0.003)
    stopped = not done
    if stopped:
        os.killpg(pid, signal.SIGKILL)
        _, status, used = os.wait4(pid, 0)
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    stopped = stopped or number == signal.SIGXCPU
    code = None if stopped or number else os.WEXITSTATUS(status)
    text = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    return Ended(code, 0 if stopped else number, used.ru_maxrss // 1024, seconds, text)


def _in_fork(function: Callable[[], int], errors: Path, folder: Path) -> int:
    code = 97
    try:
        faulthandler.disable()  # a crash is counted, and its pages of text are not read
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        for number, encoding in ((1, "utf-8"), (2, "utf-8")):
            stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding, "backslashreplace")
            setattr(sys, "stdout" if number == 1 else "stderr", stream)
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        trainer.plot_progress = lambda _log, picture: write_text(
            "a picture", picture
        )  # it takes longer than a training
        code = function()
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    return code & 255


def try_mutant(target: Target, base: Path, work: Path, draw: random.Random, expected: tuple[str, str]) -> Trial:
    """Mutate a file of a copy of ``base`` and run the command.

    Parameters
    ----------
    target : Target
    base : Path
        The folder that :func:`~benchmarks.fuzz.workspace.build` filled.
    work : Path
        A folder that is emptied first.
    draw : Random
    expected : pair of str
        Digests of the output and of the voxels without a mutation, from :func:`baseline`.
    """
    _copy(target, base, work)
    chosen = draw.choice(expand(target, work / "files"))
    content = chosen.read_bytes()
    mutant = target.mutant(chosen.name, content, draw)
    _put(mutant, chosen)
    ended, output, voxels = _run(target, work)
    outcome = _judge(target, mutant, ended, (output, voxels), expected)
    if outcome not in FAULTS and list(work.glob("files/**/.*.partial.*")):
        outcome = "litter"
    lines = [line for line in ended.errors.strip().splitlines() if line.strip()]
    detail = " | ".join(lines[-6:])[-400:]
    return Trial(target.name, chosen.name, mutant.how, outcome, ended.seconds, detail)


def baseline(target: Target, base: Path, work: Path) -> tuple[str, str]:
    """Digests of what the command writes, and of the voxels that are read, without a mutation."""
    _copy(target, base, work)
    if not expand(target, work / "files"):
        raise SystemExit(f"{target.name}: there is no file to mutate")
    ended, output, voxels = _run(target, work)
    if ended.code != 0 and target.name != "dicom frames -> predict":  # frames without positions are refused
        raise SystemExit(f"{target.name} fails without a mutation:\n{ended.errors}")
    return output, voxels


def _copy(target: Target, base: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    files = work / "files"
    files.mkdir(parents=True)
    wanted = {base / need for need in target.needs} | set(expand(target, base))
    for source in sorted(wanted):
        place = files / source.relative_to(base)
        if source.is_dir():
            shutil.copytree(source, place, dirs_exist_ok=True)
        elif not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)


def _put(mutant: Mutant, path: Path) -> None:
    path.unlink()
    if mutant.special == "fifo":
        os.mkfifo(path)
    elif mutant.special == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
        os.chdir(here)
    elif mutant.special == "device":
        path.symlink_to("/dev/zero")
    elif mutant.special == "folder":
        path.mkdir()
    elif mutant.special == "loop":
        path.symlink_to(path.name)
    elif mutant.special == "sparse":
        with path.open("wb") as handle:
            handle.truncate(1 << 40)
    elif mutant.special != "nothing":
        path.write_bytes(mutant.content)


def _run(target: Target, work: Path) -> tuple[Ended, str, str]:
    command, *words = target.command
    record = work / "voxels"

    def function() -> int:
        if target.read:
            record.write_text(_voxels(Path(target.read)), encoding="ascii")
        return int(importlib.import_module(f"detseg3d.cli.{command}").main(words) or 0)

    ended = run_limited(function, work / "errors", work / "files")
    voxels = record.read_text(encoding="ascii") if record.exists() else ""
    return ended, _digest(work / "files" / target.output), voxels


def _voxels(path: Path) -> str:
    """Shape and digest of the voxels; empty where they are refused."""
    try:
        image = np.ascontiguousarray(read_image(path)[0]).astype(np.float64)
    except Exception:  # the command is about to say why
        return ""
    return f"{image.shape} {hashlib.sha256(image.tobytes()).hexdigest()}"


def _digest(folder: Path) -> str:
    """Of all files in a folder but those that hold times."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        timed = path.name in ("training_log.jsonl", "progress.png", "checkpoint_latest.pt", "dataset_fingerprint.json")
        if path.is_file() and not timed:
            digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


def _judge(target: Target, mutant: Mutant, ended: Ended, found: tuple[str, str], expected: tuple[str, str]) -> str:
    if ended.signal:
        return "crash"
    if ended.code is None:
        return "hang"
    if "Traceback" in ended.errors or ended.code in (97, 99):
        return "traceback"
    if ended.megabytes > _MOST_RESIDENT_MB:
        return "memory"
    output, voxels = found
    if voxels and expected[1] and voxels != expected[1]:
        if mutant.protected:
            return "wrong voxels"
        lost = voxels.split(" ", 3)[:3] != expected[1].split(" ", 3)[:3]
        lost = lost and mutant.special != "nothing"  # of a first or last file that is gone, nothing tells
        if lost and target.name.startswith("dicom") and "WARNING" not in ended.errors and ended.code == 0:
            return "lost slices"
    if ended.code != 0:
        return "refused" if ended.errors.strip() else "silent"
    return "same result" if output == expected[0] else "other result"
