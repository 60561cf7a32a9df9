"""Names of cases that come from different machines.

Unicode writes ``ü`` as one character (NFC) or as ``u`` and two dots above (NFD). macOS writes file names in NFD, most
other systems in NFC. Two names that differ in this alone look the same, and name the same case.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from detseg3d.core.errors import DetSeg3DError

__all__ = ["named_like", "normal_name"]

Value = TypeVar("Value")


def normal_name(name: str) -> str:
    r"""The name in Unicode's normal form C, to compare names by.

    Examples
    --------
    >>> normal_name("u\u0308bung") == normal_name("\u00fcbung")
    True
    """
    return unicodedata.normalize("NFC", name)


def named_like(found: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    r"""The same entries, each under the one of ``names`` that differs from its own name in the normal form only.

    An entry without such a name keeps its own.

    Parameters
    ----------
    found : dict
    names : iterable of str

    Raises
    ------
    DetSeg3DError
        If two entries, or two of ``names``, differ from each other in the normal form only.

    Examples
    --------
    >>> list(named_like({"u\u0308bung": 1, "scan": 2}, ["\u00fcbung", "other"])) == ["\u00fcbung", "scan"]
    True
    """
    wanted: dict[str, str] = {}
    for name in names:
        if wanted.setdefault(normal_name(name), name) != name:
            raise _alike(wanted[normal_name(name)], name)
    result: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for name, value in found.items():
        target = wanted.get(normal_name(name), name)
        if sources.setdefault(normal_name(name), name) != name:
            raise _alike(sources[normal_name(name)], name)
        result[target] = value
    return result


def _alike(first: str, second: str) -> DetSeg3DError:
    return DetSeg3DError(
        "two names look the same and differ in their Unicode normal form only",
        value=[ascii(first), ascii(second)],
        remedy="remove or rename one of them",
    )
