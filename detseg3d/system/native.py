r"""File names for libraries written in C, C++ and Rust, which take a name as UTF-8 only.

Linux allows any bytes in a name. Python keeps bytes that are not text as lone surrogates (``"m\udcfcller"``). What a
library makes of them ranges from an error to the end of the process.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

__all__ = ["escape_name", "native_path", "unescape_name"]

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")
_OPEN_FILES = Path("/proc/self/fd")
_open_folders: dict[Path, int] = {}


def escape_name(name: str) -> str:
    r"""A name of our own files in which bytes that are not UTF-8 are written out; other names stay as they are.

    Parameters
    ----------
    name : str
        Without a backslash, so that two names never become one.

    Examples
    --------
    >>> escape_name("m\udcfcller.b2nd"), escape_name("müller.b2nd")
    ('m\\xfcller.b2nd', 'müller.b2nd')
    """
    return name if _is_text(name) else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescape_name(name: str) -> str:
    r"""The inverse of :func:`escape_name`.

    Examples
    --------
    >>> unescape_name("m\\xfcller") == "m\udcfcller"
    True
    """
    content = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), name.encode("utf-8", "surrogateescape"))
    return content.decode("utf-8", "surrogateescape")


def native_path(path: str | Path) -> str:
    """The name of a file as a library takes it, for reading and for writing.

    Where a folder above the file has a name that is not UTF-8, the folder is opened, and the path leads through the
    open folder. The folder stays open as long as the process lives: a library may read from a file later.

    Parameters
    ----------
    path : path
        The name of the file itself is UTF-8; see :func:`escape_name`.

    Raises
    ------
    DetSeg3DError
        If the name of the file is not UTF-8, or that of the folder is not and the system has no way round.

    Examples
    --------
    >>> native_path("scans/müller.mha")
    'scans/müller.mha'
    """
    path = Path(path)
    try:
        return os.fsencode(path).decode("utf-8")  # also right where the locale has another encoding than the names
    except UnicodeError:
        pass
    try:
        name = os.fsencode(path.name).decode("utf-8")
        if _OPEN_FILES.is_dir():
            return f"{_OPEN_FILES}/{_open_folder(path.parent.absolute())}/{name}"
    except UnicodeError:
        pass
    raise DetSeg3DError(
        "the name of this file is not UTF-8, and a library that is needed here takes no other names",
        file=path,
        remedy="rename the file, or the folders above it",
    )


def _open_folder(folder: Path) -> int:
    """The number of the open folder; another one if a new folder has taken its place."""
    number = _open_folders.get(folder)
    if number is None or not os.path.samestat(os.fstat(number), os.stat(folder)):  # noqa: PTH116  # beside os.fstat
        number = _open_folders[folder] = os.open(folder, os.O_RDONLY)
    return number


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
