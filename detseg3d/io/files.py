"""Atomic writes: a file is either whole or not there, whatever happens to the process that writes it."""

from __future__ import annotations

import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from detseg3d.core.errors import DetSeg3DError

__all__ = ["MOST_JSON_BYTES", "atomic_path", "read_bounded", "read_json", "write_json", "write_text"]

MOST_JSON_BYTES: Final = 1 << 30
"""More than the figures of the largest data set take."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on leaving without an error it takes the place of ``path``.

    The temporary name keeps all suffixes of the target (writers choose the format by it), begins with a dot and is
    unique per process, so two processes writing the same file never mix.

    Raises
    ------
    DetSeg3DError
        If the file cannot be written (disk full, no permission, no such folder).
    """
    target = Path(path)
    temporary = target.with_name(f".{uuid.uuid4().hex[:8]}.partial.{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    except OSError as error:
        raise DetSeg3DError(
            f"the file cannot be written: {error.strerror or error}",
            file=target,
            remedy="check free space and write permission of the folder",
        ) from error
    finally:
        with suppress(OSError):  # a parent that is a file has no such temporary file either
            temporary.unlink(missing_ok=True)


def write_text(text: str, path: str | Path) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(data: Any, path: str | Path) -> None:
    """Write ``data`` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    if not _is_unicode(text):  # a file name that is no proper text, as Linux allows: only escaped it can be kept
        text = json.dumps(data, indent=1, allow_nan=False)
    write_text(text + "\n", path)


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """Read a file of at most ``most_bytes`` bytes.

    Raises
    ------
    DetSeg3DError
        If it has more, or is a pipe or a device, whose end may never come.
    OSError
        If it cannot be read.
    """
    kind = path.stat().st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # opening a folder gives an error of its own
        raise DetSeg3DError("this is no regular file", file=path, remedy="check the path")
    with open(path, "rb") as handle:
        content = handle.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DetSeg3DError(
            "the file is larger than any of its kind should be",
            file=path,
            value=f"{path.stat().st_size} bytes",
            expected=f"at most {most_bytes}",
            remedy="check where it comes from",
        )
    return content


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_json(path: str | Path, most_bytes: int = MOST_JSON_BYTES) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : path
    most_bytes : int, optional
        A larger file is refused before it fills the memory; less than the default where a stranger wrote it.

    Raises
    ------
    DetSeg3DError
        If the file is missing, unreadable, too large or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(read_bounded(path, most_bytes).decode("utf-8"))
    except FileNotFoundError as error:
        raise DetSeg3DError("the file does not exist", file=path, remedy="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the file cannot be read: {error}", file=path) from error
    except (ValueError, RecursionError) as error:  # besides what is no JSON, a whole number of thousands of digits
        raise DetSeg3DError(
            f"the file is not valid JSON: {error}", file=path, remedy="mend or restore the file"
        ) from error
