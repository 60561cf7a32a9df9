"""Locks that a process holds on a folder while it works there.

A lock is an operating-system lock on a hidden file (``flock``; byte ranges on Windows). The system releases it when the
process ends, so a file that a killed process left behind locks nothing. The lock works between the processes of one
machine. Between machines it works if the file system supports it, as NFS from version 4 and most cluster file systems
do. If locks are not available or the folder is read-only, the work continues without a lock and a message is logged.

The package filelock is not used: it has no shared locks that end with their process. On systems without locks it uses
files that remain when their process is killed.
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

__all__ = ["locked"]

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 0.2
# Acquiring or releasing a shared lock needs the exclusive lock for a moment, so one failed attempt proves nothing.
_TRIES = 4
_MAX_BYTES = 1 << 16  # maximum length of the list of holders
_BUSY = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@dataclass(frozen=True)
class Holder:
    """Process that holds a lock.

    Attributes
    ----------
    purpose : str
        Activity of the process, as a participle: ``"training fold 0"``.
    process : int
        Process number.
    host : str
        Name of the machine.
    since : str
        Date and time in UTC, ISO 8601.
    writer : str
        Machine or container in which ``process`` is unique, from :func:`~detseg3d.system.files.writer_name`.
    """

    purpose: str
    process: int
    host: str
    since: str
    writer: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, {self.purpose} since {self.since}"

    @classmethod
    def of_this_process(cls, purpose: str) -> Holder:
        """Return a description of this process, with the current time as ``since``."""
        now = datetime.now(timezone.utc).isoformat(sep=" ", timespec="seconds")
        return cls(purpose, os.getpid(), platform.node(), now, writer_name())


@contextmanager
def locked(file: Path, purpose: str, problem: str, *, shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock during the context.

    Parameters
    ----------
    file : Path
        The hidden lock file, in the folder that is locked. A missing folder is created. The last holder removes the
        file. It also removes the folders that were created, if they are empty.
    purpose : str
        Activity of this process, as a participle: ``"training fold 0"``.
    problem : str
        First line of the error if another process holds the lock.
    shared : bool, optional
        Several processes may hold a shared lock at the same time. A lock that is not shared excludes all others.
    wait : bool, optional
        Wait until the lock is free, and log the holders.

    Raises
    ------
    DetSeg3DError
        If another process holds the lock and ``wait`` is false. ``value`` names the holders.

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
        descriptor = _acquire(file, Holder.of_this_process(purpose), problem, shared, wait)
        try:
            yield
        finally:
            if descriptor is not None:
                _release(file, descriptor, shared)
    finally:
        with suppress(OSError):  # a folder that is not empty stays
            for folder in made:
                folder.rmdir()


def _acquire(file: Path, holder: Holder, problem: str, shared: bool, wait: bool) -> int | None:
    """Return the descriptor of the locked file, or ``None`` if locks are not available."""
    logged = False
    tries = _TRIES
    while True:
        descriptor = _open(file)
        if descriptor is None:
            return None
        try:
            taken = _try_lock(descriptor, holder, shared)
            # The last holder removes the file, perhaps after this process opened it. A lock counts only if the opened
            # file still has its name.
            if taken and os.path.samestat(os.fstat(descriptor), file.stat()):
                return descriptor
            others = [] if taken else _holders(descriptor)
        except FileNotFoundError:
            os.close(descriptor)
            continue
        except OSError as error:
            logger.warning("%s: the file system does not support locks (%s)", file.parent, error.strerror or error)
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if taken:
            continue
        holders = "; ".join(map(str, others)) or "an unknown process"
        tries -= 1
        if not wait and tries == 0:
            raise DetSeg3DError(
                problem, file=file.parent, value=holders, remedy="wait until this process has ended, or end it"
            )
        if wait and not logged:
            logger.info("%s: waiting for %s", file.parent, holders)
            logged = True
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _release(file: Path, descriptor: int, shared: bool) -> None:
    with suppress(OSError):
        if not shared or _lock(descriptor, shared=False):  # otherwise other processes still hold the shared lock
            file.unlink(missing_ok=True)
    with suppress(OSError):
        _unlock(descriptor)  # closing is not enough if a forked process has the file open
    os.close(descriptor)


def _open(file: Path) -> int | None:
    """Open the lock file, read-only if it cannot be written; return ``None`` if it cannot be opened."""
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT | flags, 0o666)
    except OSError as error:
        with suppress(OSError):
            return os.open(file, os.O_RDONLY | flags)
        logger.debug("%s: no lock can be held here (%s)", file.parent, error.strerror or error)
        return None


def _try_lock(descriptor: int, holder: Holder, shared: bool) -> bool:
    """Take the lock if it is free, and add the holder to the list; return whether the lock was taken."""
    alone = _lock(descriptor, shared=False)
    if alone:
        with suppress(OSError):  # the file may be open for reading only
            os.ftruncate(descriptor, 0)
    elif not shared:
        return False
    if shared and not _lock(descriptor, shared=True):
        return False
    with suppress(OSError):
        os.write(descriptor, json.dumps(asdict(holder)).encode("ascii") + b"\n")
    return True


def _holders(descriptor: int) -> list[Holder]:
    """Read the list of holders, without processes of this machine that have ended."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    holders = []
    for line in os.read(descriptor, _MAX_BYTES).splitlines():
        with suppress(ValueError, TypeError, RecursionError):
            data: Any = json.loads(line)
            holder = Holder(**data)
            if not is_process_gone(holder.writer, holder.process):
                holders.append(holder)
    return holders


if sys.platform == "win32":
    import msvcrt

    # Bytes far behind the list of holders, because locked bytes cannot be read. A shared lock takes one of these bytes,
    # an exclusive lock takes all of them.
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
        """Take or convert the lock; return whether it was free."""
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
