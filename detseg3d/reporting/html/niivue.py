"""Where NiiVue's code is: in an installed package, or in a file that the user names. It is never part of this package.

NiiVue is the viewer of the report, https://github.com/niivue/niivue. ``pip install detseg3d[report]`` brings it with
``ipyniivue``, whose widget for notebooks has all of NiiVue in one module of JavaScript but does not export it: the name
of its class, shortened by the bundler, is looked up here. Who uses npm can name ``dist/niivue.umd.js`` (or any bundle
that exports ``Niivue``) instead.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.reporting.html.markup import compress_text
from detseg3d.system.files import read_bounded

__all__ = ["NiivueCode", "find_niivue"]

logger = logging.getLogger(__name__)

_PACKAGE, _MODULE = "ipyniivue", Path("static") / "widget.js"
_MOST_BYTES = 64 << 20
_NAME = r"[A-Za-z_$][\w$]*"


@dataclass(frozen=True)
class NiivueCode:
    """NiiVue as the report takes it in.

    Attributes
    ----------
    kind : str
        ``module``: exports ``Niivue``; ``script``: defines ``niivue.Niivue``.
    source : str
        Where it came from, for people.
    text : str
        JavaScript.
    """

    kind: str
    source: str
    text: str

    @cached_property
    def encoded(self) -> str:
        """The code, compressed, in base64."""
        return compress_text(self.text.encode("utf-8"))


def find_niivue(file: str | Path | None = None) -> NiivueCode | None:
    """NiiVue's code from ``file``, else from the installed package; ``None`` if there is none.

    Parameters
    ----------
    file : path, optional
        ``niivue.umd.js`` of npm's ``@niivue/niivue``, or another single file that exports ``Niivue``.

    Raises
    ------
    DetSeg3DError
        If ``file`` is missing or has no NiiVue in it.
    """
    if file is not None:
        return _from_file(Path(file))
    spec = importlib.util.find_spec(_PACKAGE)  # without importing it, which would import a notebook's machinery
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for folder in folders:
        path = Path(folder) / _MODULE
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        exported = export_niivue(text)
        if exported is not None:
            return NiivueCode("module", _PACKAGE, exported)
        logger.warning("no NiiVue was found in %s: the report shows plain slices", path)
    return None


def _from_file(path: Path) -> NiivueCode:
    try:
        text = read_bounded(path, _MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"NiiVue cannot be read: {error}", file=path, remedy="check the path") from error
    if re.search(r"\bexport\s*\{[^}]*\bNiivue\b[^}]*\}", text):
        return NiivueCode("module", path.name, text)
    if re.search(r"\w\.Niivue\s*=", text) and "attachToCanvas" in text:
        return NiivueCode("script", path.name, text)
    exported = export_niivue(text)
    if exported is None:
        raise DetSeg3DError(
            "there is no NiiVue in this file",
            file=path,
            expected="dist/niivue.umd.js of npm's @niivue/niivue",
            remedy="get it with: npm pack @niivue/niivue",
        )
    return NiivueCode("module", path.name, exported)


def export_niivue(text: str) -> str | None:
    """The module with one more export: the class that has NiiVue's method ``attachToCanvas``.

    Parameters
    ----------
    text : str
        A module in which NiiVue is bundled under a shortened name.

    Returns
    -------
    str or None
        ``None`` if there is no such class, or if nothing in the module makes an instance of it.

    Examples
    --------
    >>> export_niivue("var q=class{async attachToCanvas(a){}};let v=new q(1);export{v as default};").splitlines()[-1]
    'export{q as Niivue};'
    """
    method = text.find("async attachToCanvas(")
    name = None if method < 0 else _class_around(text, method)
    if name is None or re.compile(rf"\bnew {re.escape(name)}(?![\w$])").search(text, method) is None:
        return None
    return f"{text}\nexport{{{name} as Niivue}};\n"


def _class_around(text: str, position: int) -> str | None:
    """The name of the last class that begins before ``position``: ``name=class{`` or ``class name{``."""
    found = position
    while (found := text.rfind("class", 0, found)) >= 0:
        match = re.compile(rf"class(?: ({_NAME}))?(?: extends {_NAME})?\{{").match(text, found)
        if match is None:
            continue  # the word in a text or a longer name
        assigned = re.search(rf"({_NAME})=$", text[max(0, found - 40) : found])
        return assigned[1] if assigned else match[1]
    return None
