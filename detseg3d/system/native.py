r"""File names for libraries written in C, C++ and Rust, which accept UTF-8 only.

Linux allows any bytes in a name. Python stores bytes that are not text as lone surrogates (``"m\udcfcller"``). Such a
name makes some libraries raise an error and others crash the process.
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
    r"""Return a file name in which bytes that are not UTF-8 are written as ``\xNN``.

    Parameters
    ----------
    name : str
        Must not hold a backslash; otherwise two names could have the same result.

    Returns
    -------
    str
        ``name`` itself if it is valid text.

    Examples
    --------
    >>> escape_name("m\udcfcller.b2nd"), escape_name("müller.b2nd")
    ('m\\xfcller.b2nd', 'müller.b2nd')
    """
    return name if _is_text(name) else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def unescape_name(name: str) -> str:
    r"""Return the name that :func:`escape_name` has escaped.

    Examples
    --------
    >>> unescape_name("m\\xfcller") == "m\udcfcller"
    True
    """
    content = _ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), name.encode("utf-8", "surrogateescape"))
    return content.decode("utf-8", "surrogateescape")


def native_path(path: str | Path) -> str:
    """Return a path in UTF-8 that a library can open, for reading and for writing.

    If the name of a folder in the path is not UTF-8, the folder is opened and the result leads through the open folder.
    The folder stays open until the process ends, because a library may read the file later.

    Parameters
    ----------
    path : path
        The name of the file itself must be UTF-8; see :func:`escape_name`.

    Raises
    ------
    DetSeg3DError
        If the name of the file is not UTF-8, or if the name of a folder is not UTF-8 and the system has no ``/proc``.

    Examples
    --------
    >>> native_path("scans/müller.mha")
    'scans/müller.mha'
    """
    path = Path(path)
    try:
        return os.fsencode(path).decode("utf-8")  # correct even if the encoding of the locale differs from the names
    except UnicodeError:
        pass
    try:
        name = os.fsencode(path.name).decode("utf-8")
        if _OPEN_FILES.is_dir():
            return f"{_OPEN_FILES}/{_open_folder(path.parent.absolute())}/{name}"
    except UnicodeError:
        pass
    raise DetSeg3DError(
        "the name is not UTF-8, and a library that reads or writes the file accepts only UTF-8",
        file=path,
        remedy="rename the file, or the folders above it",
    )


def _open_folder(folder: Path) -> int:
    """Return the descriptor of the open folder; open it again if another folder has replaced it."""
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
