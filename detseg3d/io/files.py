"""Atomic writes: a file is either whole or not there, whatever happens to the process that writes it."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from detseg3d.core.errors import DetSeg3DError

__all__ = ["atomic_path", "read_json", "write_json", "write_text"]

# Messages that quote a value, and writing it again, need a level of recursion for each level of nesting.
_DEEPEST = 100
# Digits and sign of numbers that may fit 64 bits; Python refuses those of thousands of digits with an error of its own.
_LONGEST_INTEGER = 20


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
    """Read a JSON file; a byte order mark, as editors on Windows write it, is tolerated.

    What comes back can be written again by :func:`write_json`, and its numbers fit 64 bits.

    Raises
    ------
    DetSeg3DError
        If the file is missing, unreadable or not JSON, holds NaN, infinity or a number too large to compute with, or
        is nested too deep.
    """
    path = Path(path)
    try:
        data = json.loads(
            path.read_text(encoding="utf-8-sig"), parse_int=_integer, parse_float=_real, parse_constant=_no_constant
        )
    except FileNotFoundError as error:
        raise DetSeg3DError("the file does not exist", file=path, remedy="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the file cannot be read: {error}", file=path) from error
    except (ValueError, RecursionError) as error:
        raise DetSeg3DError(
            f"the file is not valid JSON: {error}", file=path, remedy="mend or restore the file"
        ) from error
    if _is_deeper(data, _DEEPEST):
        raise DetSeg3DError(f"the file is nested deeper than {_DEEPEST} levels", file=path, remedy="restore the file")
    return data


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _LONGEST_INTEGER else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the number {text[:20]}… is too large")
    return value


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _is_deeper(data: Any, limit: int) -> bool:
    """Whether lists and objects are nested deeper; level by level, since recursion is what depth would break."""
    level = [data]
    for _ in range(limit + 1):
        children: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                children += node.values()
            elif isinstance(node, list):
                children += node
        if not children:
            return False
        level = children
    return True
