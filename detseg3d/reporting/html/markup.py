"""HTML that cannot be broken by what is put into it: text is escaped unless it says that it is markup."""

from __future__ import annotations

import base64
import gzip
import html
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["DASH", "Html", "compress_text", "dig", "embed_json", "fragment", "number", "plain_text", "tag"]

DASH = "–"
"""What stands where there is no figure."""

# "<" opens a tag or a comment, the two separators end a line in older JavaScript.
_UNSAFE_IN_SCRIPT = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_VOID = frozenset({"br", "col", "input", "meta"})


class Html(str):
    """Markup, to be put into a page as it stands. Any other string is text and gets escaped."""

    __slots__ = ()


def plain_text(value: object) -> str:
    """``value`` as text that UTF-8 can hold: file names may hold bytes that are no characters."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def fragment(*children: object) -> Html:
    """The children one after the other; text is escaped, ``None`` is nothing, lists are taken apart.

    Examples
    --------
    >>> fragment("a < b", None, [tag("b", "&")])
    'a &lt; b<b>&amp;</b>'
    """
    return Html("".join(_markup(child) for child in children))


def _markup(child: object) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return str(child)
    if isinstance(child, Iterable) and not isinstance(child, (str, bytes, Mapping)):
        return "".join(_markup(part) for part in child)
    return html.escape(plain_text(child), quote=True)


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element.

    Parameters
    ----------
    name : str
        Of the element. Never from data.
    *children
        See :func:`fragment`.
    **attributes
        Values are escaped; ``None`` and ``False`` leave the attribute out, ``True`` gives it no value. A trailing
        underscore is dropped and others become hyphens: ``class_="x"``, ``aria_label="y"``.

    Examples
    --------
    >>> tag("td", "</script>", class_="x", data_value=None, hidden=True)
    '<td class="x" hidden>&lt;/script&gt;</td>'
    """
    parts = [name]
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(label)
        elif value is not None and value is not False:
            parts.append(f'{label}="{html.escape(plain_text(value), quote=True)}"')
    opening = f"<{' '.join(parts)}>"
    return Html(opening) if name in _VOID else Html(f"{opening}{fragment(*children)}</{name}>")


def embed_json(data: Any) -> Html:
    """``data`` as JSON that may stand in a ``<script>``: nothing in it can end the script or begin a comment.

    Examples
    --------
    >>> "</" in embed_json({"case": "</script>"}), json.loads(embed_json({"case": "</script>"}))
    (False, {'case': '</script>'})
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return Html(text.translate(_UNSAFE_IN_SCRIPT))


def compress_text(data: bytes) -> str:
    """``data`` compressed, in base64, for the page to take apart again; equal input gives equal text."""
    return base64.b64encode(gzip.compress(data, compresslevel=9, mtime=0)).decode("ascii")


def number(value: object, digits: int = 2) -> str:
    """A figure for people: ``digits`` after the point, thin spaces between thousands, a dash where there is none.

    Examples
    --------
    >>> number(0.666), number(None), number(float("nan")), number(12345.6, 0), number(-0.0), number(-0.5, 1)
    ('0.67', '–', '–', '12\u202f346', '0.00', '−0.5')
    """
    if not _is_number(value):
        return DASH
    rounded = round(float(value), digits) + 0.0  # type: ignore[arg-type]
    return f"{rounded:,.{digits}f}".replace(",", "\u202f").replace("-", "−")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def dig(data: Any, *keys: str) -> Any:
    """The value under ``keys`` in nested dicts; ``None`` as soon as one is not there.

    Examples
    --------
    >>> dig({"dice": {"mean": 0.5}}, "dice", "mean"), dig({"dice": None}, "dice", "mean")
    (0.5, None)
    """
    for key in keys:
        if not isinstance(data, Mapping):
            return None
        data = data.get(key)
    return data
