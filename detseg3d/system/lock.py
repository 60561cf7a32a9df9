"""Locks that processes hold on a folder while they work there; the system releases them if a process dies.

The lock is one of the operating system on a hidden file (``flock``; byte ranges on Windows), so a file that a killed
process left behind locks nothing. It holds between the processes of one machine. Between machines it holds where the
file system passes it on: NFS from version 4 (or with its lock manager) and most cluster file systems do. Where there
are no locks, or the folder cannot be written, the work goes on without one, and a message says so.

filelock, which PyTorch brings along, has no shared locks that die with their process, and it turns to locks that
outlive their process where the system has none.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import is_process_gone, writer_name

__all__ = ["Holder", "locked"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 0.2
# Taking a shared lock, or giving it back, needs the whole lock for a moment: it is free a moment later.
_TRIES = 4
_MAX_BYTES = 1 << 16  # of the notes about holders
_BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes
    ----------
    purpose : str
        What the process does, as a participle: ``"training fold 0"``.
    process : int
        Its number.
    host : str
        Name of the machine.
    since : str
        Date and time in UTC, ISO 8601.
    writer : str
        Names the set of processes among which ``process`` is unique.
    """

    purpose: str
    process: int
    host: str
    since: str
    writer: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, {self.purpose} since {self.since}"

    @classmethod
    def here(cls, purpose: str) -> Holder:
        """Describe the process that runs, from now on."""
        now = datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
        return cls(purpose, os.getpid(), platform.node(), now, writer_name())


@contextmanager
def locked(file: Path, purpose: str, problem: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock while the context lasts.

    Parameters
    ----------
    file : Path
        The lock's file, hidden, in the folder that the lock is for, which is made if it is missing. The last holder
        removes the file, and with it folders that were made for it and are empty.
    purpose : str
        What this process does, as a participle: ``"training fold 0"``.
    problem : str
        The error's first line where another process holds the lock.
    shared : bool, optional
        Others that ask for a shared lock get it, too; otherwise nobody else gets any.
    wait : bool, optional
        Wait for the lock. The log then says for whom.

    Raises
    ------
    DetSeg3DError
        If another process holds the lock, and ``wait`` is false. The error's value names the holder.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with locked(folder / ".lock", "training fold 0", "this fold is being trained"):
    ...     [file.name for file in folder.iterdir()]
    ['.lock']
    >>> list(folder.iterdir())
    []
    """
    made = [folder for folder in file.parents if not folder.exists()]
    try:
        descriptor = _acquire(file, Holder.here(purpose), problem, shared, wait)
        try:
            yield
        finally:
            if descriptor is not None:
                _release(file, descriptor, shared)
    finally:
        with suppress(OSError):  # nobody has written anything there, or somebody has
            for folder in made:
                folder.rmdir()


def _acquire(file: Path, holder: Holder, problem: str, shared: bool, wait: bool) -> int | None:
    """The descriptor of the locked file; ``None`` where there are no locks."""
    told = False
    tries = _TRIES
    while True:
        descriptor = _open(file)
        if descriptor is None:
            return None
        try:
            taken = _try(descriptor, holder, shared)
            # The last holder removes the file: the one opened may not be the one that others open from now on.
            if taken and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
            others = [] if taken else _holders(descriptor)
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except OSError as error:
            logger.warning("%s: the file system has no locks (%s)", file.parent, error.strerror or error)
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if taken:
            continue
        who = "; ".join(map(str, others)) or "a process that has left no note"
        tries -= 1
        if not wait and tries == 0:
            raise DetSeg3DError(
                problem, file=file.parent, value=who, remedy="wait until this process has ended, or end it"
            )
        if wait and not told:
            logger.info("%s: waiting for %s", file.parent, who)
            told = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _release(file: Path, descriptor: int, shared: bool) -> None:
    with suppress(OSError):
        if not shared or _lock(descriptor, shared=False):  # else others hold it still
            file.unlink(missing_ok=True)
    with suppress(OSError):
        _unlock(descriptor)  # closing is not enough where a forked process has the file open, too
    os.close(descriptor)


def _open(file: Path) -> int | None:
    """Open the lock's file; for reading only where it cannot be written; ``None`` where it cannot be opened."""
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | flags, 0o666)
    except OSError as error:
        with suppress(OSError):
            return os.open(file, os.O_RDONLY | flags)
        logger.debug("%s: no lock can be held here (%s)", file.parent, error.strerror or error)
        return None


def _try(descriptor: int, holder: Holder, shared: bool) -> bool:
    """Take the lock if it is free, and note who has it."""
    alone = _lock(descriptor, shared=False)
    if alone:
        with suppress(OSError):  # opened for reading
            os.ftruncate(descriptor, 0)
    elif not shared:
        return False
    if shared and not _lock(descriptor, shared=True):
        return False
    with suppress(OSError):
        os.write(descriptor, json.dumps(asdict(holder)).encode("ascii") + b"\n")
    return True


def _holders(descriptor: int) -> list[Holder]:
    """Those noted in the file, but for processes of this machine that have ended."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    found = []
    for line in os.read(descriptor, _MAX_BYTES).splitlines():
        with suppress(ValueError, TypeError, RecursionError):
            data: Any = json.loads(line)
            holder = Holder(**data)
            if not is_process_gone(holder.writer, holder.process):
                found.append(holder)
    return found


if sys.platform == "win32":
    import msvcrt

    # Far beyond the notes, which could not be read else. A shared lock is one of these bytes, an exclusive one is all.
    _FIRST_BYTE, _SLOTS = 1 << 30, 256

    def _lock(descriptor: int, shared: bool) -> bool:
        _unlock(descriptor)
        for slot in range(_SLOTS) if shared else [0]:
            os.lseek(descriptor, _FIRST_BYTE + slot, os.SEEK_SET)
            with suppress(OSError):
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1 if shared else _SLOTS)
                return True
        return False

    def _unlock(descriptor: int) -> None:
        for slot in range(_SLOTS):
            for length in (_SLOTS, 1) if slot == 0 else (1,):
                os.lseek(descriptor, _FIRST_BYTE + slot, os.SEEK_SET)
                with suppress(OSError):
                    msvcrt.locking(descriptor, msvcrt.LK_UNLCK, length)

else:
    import fcntl

    def _lock(descriptor: int, shared: bool) -> bool:
        """Take or convert the lock; whether it was free."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
