"""Hooks of mkdocs: the page of the Python interface lists the public names, and roles in docstrings become links."""

from __future__ import annotations

import re
from typing import Any

import detseg3d

_NAMES = "<!-- the public names -->"
# As Markdown leaves them: :func:`~detseg3d.api.prediction.predict` with the code marked up.
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data|exc):<code>(~?)([\w.]+)</code>")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put every name of ``detseg3d.__all__`` into the page that asks for them: functions first, then classes."""
    names = sorted(
        (name for name in detseg3d.__all__ if not name.startswith("_")), key=lambda name: (name[0].isupper(), name)
    )
    return markdown.replace(_NAMES, "\n".join(f"::: detseg3d.{name}\n" for name in names))


def on_page_content(html: str, **_: Any) -> str:
    """Replace the roles of Sphinx in docstrings: public names become links, others become code."""
    return _ROLE.sub(_linked, html)


def _linked(match: re.Match[str]) -> str:
    path = match[2]
    shown = path.rsplit(".", 1)[-1] if match[1] else path
    name = path.rsplit(".", 1)[-1]
    return (
        f'<a href="#detseg3d.{name}"><code>{shown}</code></a>' if name in detseg3d.__all__ else f"<code>{shown}</code>"
    )
