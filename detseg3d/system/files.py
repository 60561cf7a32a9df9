"""Atomic writes and safe reads of files.

A file is either complete or absent, even if the process that writes it is killed. While a file is being written, it has
a temporary name that begins with a dot and identifies the writing process. If that process is killed, the next process
that writes into the folder removes the temporary file.
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
from collections.abc import Iterable, Iterator
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
    "files_signature",
    "is_process_gone",
    "link_or_copy",
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

# Groups: writer, process. They are followed by a number within the process and the name of the target.
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-\d+\.partial\..+", re.DOTALL)
# This machine cannot tell whether a process on another machine still runs. No file takes a day to write.
_STALE_SECONDS = 24 * 3600

_numbers = itertools.count()
_prepared_folders: set[Path] = set()

_PIECE_BYTES = 1 << 18


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, and move the finished file to ``path``.

    If an error is raised in the context, ``path`` stays unchanged. The temporary name keeps all suffixes of ``path``,
    because libraries choose the format by the suffixes. The name begins with a dot and is unique per process, so two
    processes that write the same file do not mix their data. The first write of a process into a folder removes the
    temporary files of killed processes. The permissions of the file follow the umask, even if the library that writes
    the file sets other permissions.

    Parameters
    ----------
    path : path
        The file to write. Missing folders are created.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written (disk full, no permission, no such folder).
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        _prepare_folder(target.parent)
        temporary.touch()  # raises the error of the system, which many libraries hide
        permissions = stat.S_IMODE(temporary.stat().st_mode)  # the umask determines them
        temporary.unlink()
        yield temporary
        if stat.S_IMODE(temporary.stat().st_mode) != permissions:
            with suppress(OSError):  # some file systems have fixed permissions
                temporary.chmod(permissions)  # some libraries write files that only their user can read
        with open(temporary, "r+b") as handle:  # Windows flushes only files that are open for writing
            os.fsync(handle.fileno())
        raise_if_interrupted()  # if a library hid an interruption, the file may be incomplete
        temporary.replace(target)
        _flush_folder(target.parent)
    except OSError as error:
        raise _write_error("the file", target, error) from error
    finally:
        with suppress(OSError):  # fails if the parent is not a folder; then there is no temporary file
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_files(folder: str | Path, record: str) -> Iterator[Path]:
    """Yield a temporary folder, and move its finished files into ``folder``.

    If an error is raised in the context, ``folder`` stays unchanged. Earlier results therefore survive a full disk. The
    file ``record`` certifies that the other files are complete and belong together. Its earlier version is removed
    first, and its new version is moved last.

    Parameters
    ----------
    folder : path
    record : str
        Path of the certifying file, relative to ``folder``.

    Raises
    ------
    DetSeg3DError
        If a file cannot be written. The error names the final path, not the temporary one.
    """
    folder = Path(folder)
    target = folder / record
    temporary = temporary_beside(folder / target.name)
    try:
        _prepare_folder(temporary.parent)
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
        raise _write_error("the files", target, error) from error
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
    """Raise an error if no file can be written into a folder.

    Call this function before a long computation.

    Parameters
    ----------
    folder : path
        Created if it is missing.

    Raises
    ------
    DetSeg3DError
        If the folder or a file in it cannot be created.
    """
    folder = Path(folder)
    temporary = temporary_beside(folder / "probe")
    try:
        _prepare_folder(folder)
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise DetSeg3DError(
            f"no file can be written to this folder: {error.strerror or error}",
            file=folder,
            remedy="check the permissions of the folder, or choose another folder",
        ) from error


def link_or_copy(source: Path, target: Path) -> Path:
    """Give a file a second name, or copy it if the file system has no hard links; return the second name."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    return target


def files_signature(paths: Iterable[Path]) -> str:
    """Return a digest of the names, sizes and times of files. It differs if a file changes.

    Raises
    ------
    OSError
        If a file does not exist.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _write_error(subject: str, target: Path, error: OSError) -> DetSeg3DError:
    return DetSeg3DError(
        f"{subject} cannot be written: {error.strerror or error}",
        file=target,
        remedy="check free space and write permission of the folder",
    )


def _prepare_folder(folder: Path) -> None:
    """Create a folder; before the first write of this process, remove the temporary files of killed processes."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder not in _prepared_folders:
        _prepared_folders.add(folder)
        remove_stale(folder)


def temporary_beside(target: Path) -> Path:
    """Return a hidden path in the folder of ``target`` that is unique and identifies this process."""
    return target.with_name(f".{writer_name()}-{os.getpid()}-{next(_numbers)}.partial.{escape_name(target.name)}")


def replace_folder(target: Path, new: Path, aside: Path) -> None:
    """Move the folder ``target`` to ``aside`` and the folder ``new`` to ``target``.

    If the second move fails, ``target`` is moved back. All three paths must be on one file system.

    Raises
    ------
    OSError
        If a folder cannot be moved.
    """
    target.rename(aside)
    try:
        new.rename(target)
    except BaseException:
        with suppress(OSError):
            aside.rename(target)
        raise


def remove_stale(folder: Path) -> None:
    """Remove the temporary files in a folder that no process is writing any more.

    The function removes files of processes on this machine that have ended, and files of other machines that were not
    changed for a day. A file that cannot be removed stays. This is harmless: the file is hidden, and nothing reads it.
    """
    with suppress(OSError):
        for entry in list(folder.iterdir()):
            match = _TEMPORARY.fullmatch(entry.name)
            if match is None or not _is_stale(match.group(1), int(match.group(2)), entry):
                continue
            logger.debug("removing a temporary file of a stopped process: %s", entry)
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
    except OSError:  # the file has just been completed
        return False


def is_process_gone(writer: str, process: int) -> bool | None:
    """Return whether a process has ended, or ``None`` if this process cannot tell.

    Parameters
    ----------
    writer : str
        Result of :func:`writer_name` in that process.
    process : int
        Process number.

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
        return None  # the process runs as another user
    return False


@functools.cache
def writer_name() -> str:
    """Return a name for the machine or container in which process numbers are unique."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _flush_folder(folder: Path) -> None:
    """Write the list of files of a folder to the disk, so that a renaming survives a power cut (POSIX only)."""
    if os.name != "posix":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy the content of a file atomically; later changes of one file do not affect the other.

    On a file system that shares unchanged blocks between files (btrfs, XFS), the copy takes no time and no space.

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
    """Let the system copy an open file into another one; return ``False`` if the system cannot do it."""
    if not hasattr(os, "copy_file_range"):
        return False
    left = os.fstat(source).st_size
    try:
        while left > 0:
            copied = os.copy_file_range(source, target, left)
            if copied == 0:
                return False  # some file systems report a wrong size
            left -= copied
    except OSError:
        return False
    return True


def remove_files(*paths: Path) -> None:
    """Remove files; files that do not exist are skipped.

    Raises
    ------
    DetSeg3DError
        If a file cannot be removed.
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
    r"""Write ``text`` atomically as UTF-8.

    UTF-8 cannot store a lone surrogate, so it is written as text, for example ``\udc80``. Python uses lone surrogates
    for the bytes of a file name that is not valid text.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def open_regular_file(path: str | Path) -> BufferedReader:
    """Open a regular file for reading; refuse pipes, sockets and devices without waiting for them.

    Opening a named pipe blocks the process, reading a device may never end, and opening some devices has side effects.
    All readers of files that may come from other people therefore use this function. The kind of file is checked before
    and after opening, in case the file is exchanged in between.

    Parameters
    ----------
    path : path
        Symbolic links are followed.

    Returns
    -------
    BufferedReader
        To be used in a ``with`` statement.

    Raises
    ------
    DetSeg3DError
        If the path is a folder, a named pipe, a socket or a device.
    OSError
        If the file does not exist or cannot be opened.

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
    """Raise an error if a path is not a regular file.

    Call this function before a library opens the file; otherwise use :func:`open_regular_file`.

    Raises
    ------
    DetSeg3DError
        If the path is a folder, a named pipe, a socket or a device.
    OSError
        If the path does not exist.
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
            "the path is not a regular file",
            file=path,
            value=_KINDS_OF_FILES.get(stat.S_IFMT(mode), "a file of another kind"),
            expected="a regular file",
            remedy="check the path",
        )


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Read a whole file of limited size.

    Parameters
    ----------
    path : Path
    max_bytes : int
        Maximum size of the file.

    Raises
    ------
    DetSeg3DError
        If the file is larger or not a regular file.
    OSError
        If the file cannot be read.
    """
    with open_regular_file(path) as handle:
        pieces = []
        # Python allocates memory for all requested bytes, so the first request is limited to the size of the file. The
        # rest of a growing file, or of a /proc file whose stated size is 0, is read in small pieces.
        size = os.fstat(handle.fileno()).st_size
        wanted = min(size, max_bytes) + 1
        left = max_bytes + 1
        while left and (piece := handle.read(min(wanted, left))):
            pieces.append(piece)
            left -= len(piece)
            wanted = _PIECE_BYTES
    if not left:
        raise DetSeg3DError(
            "the file is too large for a file of its kind",
            file=path,
            value=f"{max(size, max_bytes + 1)} bytes or more",
            expected=f"at most {max_bytes}",
            remedy="check the origin of the file",
        )
    return b"".join(pieces)
