"""Atomic writes: a file is either whole or not there, whatever happens to the process that writes it.

Until it is whole, a file has a temporary name that begins with a dot and says who writes it. A process that is killed
leaves it behind; the next process that writes into the folder removes it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import platform
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.native import escape_name
from detseg3d.system.signals import raise_if_interrupted

__all__ = [
    "atomic_files",
    "atomic_path",
    "check_writable",
    "check_regular_file",
    "copy_file",
    "is_process_gone",
    "open_regular_file",
    "read_bounded",
    "remove_files",
    "remove_stale",
    "replace_folder",
    "temporary_beside",
    "write_text",
    "writer_name",
]

logger = logging.getLogger(__name__)

# Writer, process, number within the process, target.
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-\d+\.partial\..+", re.DOTALL)
# Of a process elsewhere nobody here can say whether it lives; no file of ours takes a day to write.
_STALE_SECONDS = 24 * 3600

_numbers = itertools.count()
_swept: set[Path] = set()

_PIECE_BYTES = 1 << 18


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving without an error it takes the place of ``path``.

    The temporary name keeps all suffixes of the target (writers choose the format by it), begins with a dot and is
    unique per process, so two processes writing the same file never mix. The first write of a process into a folder
    removes what killed processes left there. The permissions of the file follow the umask, whatever the writer sets.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written (disk full, no permission, no such folder).
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        _enter(target.parent)
        temporary.touch()  # the system says best why it cannot be done; many a library keeps that to itself
        permissions = stat.S_IMODE(temporary.stat().st_mode)  # as the umask says
        temporary.unlink()
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != permissions:
            with suppress(OSError):  # a file system may have permissions of its own
                temporary.chmod(permissions)  # some libraries write files that their user alone can read
        with open(temporary, "r+b") as handle:  # Windows flushes only what is open for writing
            os.fsync(handle.fileno())
        raise_if_interrupted()  # what was made after a library had swallowed an interrupt may not be what it should
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _not_written("the file", target, error) from error
    finally:
        with suppress(OSError):  # a parent that is a file has no such temporary file either
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(folder: str | Path, record: str) -> Iterator[Path]:
    """Yield a temporary folder; on leaving without an error its files take their places in ``folder``, all or none.

    The file ``record`` says that the others are there and belong together: the earlier one goes first, the new one
    comes last. Before that moment nothing of an earlier result is touched, so a full disk costs nothing.

    Parameters
    ----------
    folder : path
    record : str
        Path relative to ``folder``.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written.
    """
    folder = Path(folder)
    target = folder / record
    temporary = temporary_beside(folder / target.name)
    try:
        _enter(temporary.parent)
        temporary.mkdir()
        yield temporary
        last = temporary / record
        moves = {path: folder / path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file()}
        del moves[last]
        for place in moves.values():
            place.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        raise_if_interrupted()
        target.unlink(missing_ok=True)
        for path, place in moves.items():
            path.replace(place)
        for parent in {place.parent for place in moves.values()}:
            _flush_folder(parent)
        last.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _not_written("the files", target, error) from error
    except DetSeg3DError as error:
        if error.file is None or temporary not in error.file.parents:
            raise
        meant = folder / error.file.relative_to(temporary)
        raise DetSeg3DError(
            error.problem, file=meant, value=error.value, expected=error.expected, remedy=error.remedy
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: str | Path) -> None:
    """Raise before a long computation whose results could not be written.

    Raises
    ------
    DetSeg3DError
        If the folder cannot be made, or no file in it.
    """
    folder = Path(folder)
    temporary = temporary_beside(folder / "probe")
    try:
        _enter(folder)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise DetSeg3DError(
            f"nothing can be written to this folder: {error.strerror or error}",
            file=folder,
            remedy="check its permissions, or choose another one",
        ) from error


def _not_written(what: str, target: Path, error: OSError) -> DetSeg3DError:
    return DetSeg3DError(
        f"{what} cannot be written: {error.strerror or error}",
        file=target,
        remedy="check free space and write permission of the folder",
    )


def _enter(folder: Path) -> None:
    """Make the folder of a file; before the first one, remove what killed processes left there."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _swept:
        _swept.add(folder)
        remove_stale(folder)


def temporary_beside(target: Path) -> Path:
    """A hidden name in the folder of ``target`` that no other process uses, that says whose it is, and that is text."""
    return target.with_name(f".{writer_name()}-{os.getpid()}-{next(_numbers)}.partial.{escape_name(target.name)}")


def replace_folder(target: Path, new: Path, aside: Path) -> None:
    """Rename ``new`` to ``target``, which goes ``aside`` first and comes back if that fails; OSError if either does."""
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        with suppress(OSError):
            aside.rename(target)
        raise


def remove_stale(folder: Path) -> None:
    """Remove the temporary files in ``folder`` whose writers are gone.

    Those are files of processes of this machine that no longer run, and of other machines if nobody has touched them
    for a day. What cannot be removed stays: it is hidden, and nothing reads it.
    """
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or not _is_stale(match.group(1), int(match.group(2)), entry):
                continue
            logger.debug("removing what a stopped run left behind: %s", entry)
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()


def _is_stale(writer: str, process: int, entry: Path) -> bool:
    gone = is_process_gone(writer, process)
    if gone is not None:
        return gone
    try:
        return time.time() - entry.lstat().st_mtime > _STALE_SECONDS
    except OSError:  # its writer has just finished
        return False


def is_process_gone(writer: str, process: int) -> bool | None:
    """Whether a process has ended; ``None`` if nobody here can say.

    Parameters
    ----------
    writer : str
        From :func:`writer_name`, as the process called it.
    process : int

    Examples
    --------
    >>> is_process_gone(writer_name(), os.getpid()), is_process_gone("elsewhere", 1)
    (False, None)
    """
    if writer != writer_name() or os.name != "posix":
        return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return None  # it runs, under another user
    return False


@functools.cache
def writer_name() -> str:
    """Names the set of processes among which a process number means one process: a machine, or a container on it."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _flush_folder(folder: Path) -> None:
    """Make a renaming last through a power cut, where the system offers that."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy the content of a file, atomically; the copy and the source never change each other.

    A file system that can share blocks until one of two files is changed (btrfs, XFS) copies at once.

    Raises
    ------
    DetSeg3DError
        If the source cannot be read or the target cannot be written.
    """
    try:
        reader = open_regular_file(source)
    except OSError as error:
        raise DetSeg3DError(
            f"the file cannot be read: {error.strerror or error}", file=source, remedy="check path and permissions"
        ) from error
    with reader, atomic_path(target) as temporary, open(temporary, "wb") as writer:
        if not _copy_by_system(reader.fileno(), writer.fileno()):
            reader.seek(0)
            writer.truncate(0)
            writer.seek(0)
            shutil.copyfileobj(reader, writer, 1 << 20)


def _copy_by_system(source: int, target: int) -> bool:
    """Let the system copy an open file into another, as it does best; ``False`` if it cannot."""
    if not hasattr(os, "copy_file_range"):
        return False
    left = os.fstat(source).st_size
    try:
        while left > 0:
            copied = os.copy_file_range(source, target, left)
            if copied == 0:
                return False  # not every file system knows how much there is
            left -= copied
    except OSError:
        return False
    return True


def remove_files(*paths: Path) -> None:
    """Remove files, where they are there.

    Raises
    ------
    DetSeg3DError
        If one cannot be removed.
    """
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            continue
        except OSError as error:
            raise DetSeg3DError(
                f"an earlier result cannot be removed: {error.strerror or error}",
                file=path,
                remedy="check the permissions of the folder",
            ) from error


def write_text(text: str, path: str | Path) -> None:
    r"""Write ``text`` as UTF-8, atomically.

    A lone surrogate is not a character, so UTF-8 has no bytes for it. It is written as ``\udc80``. Python makes lone
    surrogates of the bytes of a file name that is not valid text.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def open_regular_file(path: str | Path) -> BufferedReader:
    """Open a regular file for reading, without ever waiting for one that is not.

    A named pipe blocks the process that opens it, a device may have no end, and opening some devices has an effect.
    All readers of files that may come from other people open them here. What is opened is looked at twice, before and
    after opening, so a file that is exchanged in between is found.

    Parameters
    ----------
    path : path
        Symbolic links are followed.

    Returns
    -------
    BufferedReader
        Use it as a context.

    Raises
    ------
    DetSeg3DError
        If it is a folder, a named pipe, a socket or a device.
    OSError
        If it does not exist or cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file, open_regular_file(file.name) as handle:
    ...     handle.read()
    b''
    """
    path = Path(path)
    check_regular_file(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _require_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def check_regular_file(path: str | Path) -> None:
    """Raise if ``path`` is not a regular file; for libraries that open files themselves.

    Raises
    ------
    DetSeg3DError
        If it is a folder, a named pipe, a socket or a device.
    OSError
        If it does not exist.
    """
    path = Path(path)
    _require_regular(path.stat().st_mode, path)


_KINDS_OF_FILES = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _require_regular(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        raise DetSeg3DError(
            "this is not a regular file",
            file=path,
            value=_KINDS_OF_FILES.get(stat.S_IFMT(mode), "a file of another kind"),
            expected="a regular file",
            remedy="check the path",
        )


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a file of at most ``max_bytes`` bytes.

    Raises
    ------
    DetSeg3DError
        If it has more, or is not a regular file.
    OSError
        If it cannot be read.
    """
    with open_regular_file(path) as handle:
        pieces = []
        # Python reserves the memory for all bytes that are asked for, so the file's own size bounds the request. A file
        # that grows, or a file of /proc whose size is given as 0, is read on in small pieces.
        size = os.fstat(handle.fileno()).st_size
        wanted = min(size, max_bytes) + 1
        left = max_bytes + 1
        while left and (piece := handle.read(min(wanted, left))):
            pieces.append(piece)
            left -= len(piece)
            wanted = _PIECE_BYTES
    if not left:
        raise DetSeg3DError(
            "the file is larger than any of its kind should be",
            file=path,
            value=f"{max(size, max_bytes + 1)} bytes or more",
            expected=f"at most {max_bytes}",
            remedy="check where it comes from",
        )
    return b"".join(pieces)
