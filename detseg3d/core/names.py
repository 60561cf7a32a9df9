"""Comparison of case names in different Unicode normal forms.

Unicode has two forms of ``ü``: one character (NFC), or ``u`` followed by a character for the two dots (NFD). macOS
stores file names in NFD, and most other systems store them in NFC. Two names that differ only in this form look the
same and name the same case.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeVar

from detseg3d.core.errors import DetSeg3DError

__all__ = ["named_like", "normal_name"]

Value = TypeVar("Value")


def normal_name(name: str) -> str:
    r"""Return a name in Unicode normal form C, for comparisons.

    Examples
    --------
    >>> normal_name("u\u0308bung") == normal_name("\u00fcbung")
    True
    """
    return unicodedata.normalize("NFC", name)


def named_like(entries: Mapping[str, Value], names: Iterable[str]) -> dict[str, Value]:
    r"""Rename each entry to the name in ``names`` that differs only in the Unicode normal form.

    Parameters
    ----------
    entries : dict
        Entries by name.
    names : iterable of str
        Names in the preferred spelling. An entry without a match keeps its name.

    Returns
    -------
    dict

    Raises
    ------
    DetSeg3DError
        If two entries, or two of ``names``, differ only in the normal form.

    Examples
    --------
    >>> list(named_like({"u\u0308bung": 1, "scan": 2}, ["\u00fcbung", "other"])) == ["\u00fcbung", "scan"]
    True
    """
    wanted: dict[str, str] = {}
    for name in names:
        if wanted.setdefault(normal_name(name), name) != name:
            raise _ambiguity_error(wanted[normal_name(name)], name)
    result: dict[str, Value] = {}
    sources: dict[str, str] = {}
    for name, value in entries.items():
        target = wanted.get(normal_name(name), name)
        if sources.setdefault(normal_name(name), name) != name:
            raise _ambiguity_error(sources[normal_name(name)], name)
        result[target] = value
    return result


def _ambiguity_error(first: str, second: str) -> DetSeg3DError:
    return DetSeg3DError(
        "two names look the same because they differ only in their Unicode normal form",
        value=[ascii(first), ascii(second)],
        remedy="remove or rename one of them",
    )
