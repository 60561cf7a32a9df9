"""Atomic writes: a file is either whole or not there, whatever happens to the process that writes it."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError

__all__ = ["atomic_path", "read_json", "write_json", "write_text"]


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


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    DetSeg3DError
        If the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DetSeg3DError("the file does not exist", file=path, remedy="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the file cannot be read: {error}", file=path) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DetSeg3DError(
            f"the file is not valid JSON: {error}", file=path, remedy="mend or restore the file"
        ) from error
