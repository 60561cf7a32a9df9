"""Strict reading and atomic writing of JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import read_bounded, write_text

__all__ = ["parse_json", "read_json", "write_json"]

MAX_JSON_BYTES: Final = 1 << 30
"""Maximum size of a JSON file. The results of the largest data sets are smaller."""

# Writing a value, or quoting it in a message, needs one level of recursion for each level of nesting.
_MAX_DEPTH = 100
# Digits and sign of a number that may fit into 64 bits. Python itself raises another error for thousands of digits.
_MAX_INTEGER_LENGTH = 20


def write_json(data: Any, path: str | Path) -> None:
    """Write ``data`` atomically as indented JSON.

    Parameters
    ----------
    data : any
        Dicts with text keys, lists, text, finite numbers, booleans and ``None``.
    path : path

    Raises
    ------
    ValueError
        If ``data`` holds NaN or infinity, which JSON does not have.
    DetSeg3DError
        If the file cannot be written.
    """
    text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False)
    if not _is_unicode(text):  # file names on Linux may hold bytes that are not text; JSON keeps them as escapes
        text = json.dumps(data, indent=1, allow_nan=False)
    write_text(text + "\n", path)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_json(path: str | Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file, with or without a byte order mark.

    The result can be written again by :func:`write_json`, and its numbers fit into 64 bits. An object with a repeated
    key is refused, because two programs could read different values from it.

    Parameters
    ----------
    path : path
    max_bytes : int, optional
        A larger file is refused before it fills the memory. Choose a small limit for files of unknown origin.

    Raises
    ------
    DetSeg3DError
        If the file is missing, unreadable, too large or not valid JSON; if it holds NaN, infinity, a number beyond 64
        bits or a repeated key; if it is nested more than 100 levels deep; or if the memory is too small for the file.
    """
    path = Path(path)
    try:
        text = read_bounded(path, max_bytes).decode("utf-8-sig")
        data = parse_json(text)
    except FileNotFoundError as error:
        raise DetSeg3DError("the file does not exist", file=path, remedy="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the file cannot be read: {error}", file=path) from error
    except (ValueError, RecursionError) as error:
        raise DetSeg3DError(
            f"the file is not valid JSON: {error}", file=path, remedy="correct or restore the file"
        ) from error
    except MemoryError as error:
        raise DetSeg3DError(
            "there is not enough memory to read the file",
            file=path,
            value=f"{path.stat().st_size} bytes",
            remedy="free memory, or raise the limit of the process (ulimit -v)",
        ) from error
    if _is_deeper(data, _MAX_DEPTH):
        raise DetSeg3DError(f"the file is nested deeper than {_MAX_DEPTH} levels", file=path, remedy="restore the file")
    return data


def parse_json(text: str) -> Any:
    """Parse JSON strictly: without NaN, infinity, numbers beyond 64 bits and repeated keys.

    Raises
    ------
    ValueError
        If ``text`` is not JSON or breaks one of these rules.
    RecursionError
        If ``text`` is nested far too deep.

    Examples
    --------
    >>> parse_json('{"a": 1}')
    {'a': 1}
    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
        ...
    ValueError: the key 'a' is repeated in one object
    """
    return json.loads(
        text, parse_int=_integer, parse_float=_real, parse_constant=_no_constant, object_pairs_hook=_without_repetition
    )


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:80]!r} is repeated in one object")
            seen.add(key)
    return data


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _MAX_INTEGER_LENGTH else 1 << 63
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"the number {text[:20]}… is too large")
    return value


def _real(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not allowed in JSON")


def _is_deeper(data: Any, limit: int) -> bool:
    """Return whether lists and objects are nested deeper than ``limit`` levels, without recursion."""
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
