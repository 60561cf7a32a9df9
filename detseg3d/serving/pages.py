"""The pages of the service. They load no file from another server, because networks of hospitals are closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from detseg3d.core.version import __version__
from detseg3d.serving.model import ModelDescription
from detseg3d.serving.refusal import RefusalError

__all__ = ["PAGE_POLICY", "REPORT_POLICY", "api_page", "asset", "index_page"]

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content security policy of the pages: scripts and styles come from the service only, and none is inline."""

REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-ancestors 'self'; base-uri 'none'; "
    "form-action 'none'; sandbox"
)
"""Content security policy of the report of a patient, which runs no script."""

_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_OWN = ("page.js", "page.css")
_OF_REPORTS = ("report.css", "slices.js", "numbered.js")


@dataclass(frozen=True)
class _Operation:
    """A request, for the description of the interface."""

    method: str
    path: str
    text: str
    parameters: tuple[tuple[str, str, str], ...]
    responses: tuple[tuple[str, str], ...]


def index_page(model: ModelDescription, needs_token: bool) -> str:
    """Return the page to drop a scan.

    Parameters
    ----------
    model : ModelDescription
    needs_token : bool
        The page asks for the token.
    """
    return _environment().get_template("index.html").render(model=model, needs_token=needs_token, version=__version__)


def api_page(schema: Mapping[str, Any]) -> str:
    """Return a page that describes all requests, from the OpenAPI document."""
    operations = [
        _operation(method, path, description)
        for path, methods in schema["paths"].items()
        for method, description in methods.items()
    ]
    return _environment().get_template("api.html").render(operations=operations, version=__version__)


def asset(name: str) -> tuple[str, str]:
    """Return the content and the media type of a script or a style.

    Raises
    ------
    RefusalError
        With the status 404 if no file has this name.
    """
    if name not in (*_OWN, *_OF_REPORTS):
        raise RefusalError(404, "no file has this name")
    package = "detseg3d.serving" if name in _OWN else "detseg3d.reporting.html"
    content = (files(package) / "assets" / name).read_text(encoding="utf-8")
    return content, _TYPES[name[name.rindex(".") :]]


def _operation(method: str, path: str, description: Mapping[str, Any]) -> _Operation:
    return _Operation(
        method=method.upper(),
        path=path,
        text=" ".join(description.get("description", description.get("summary", "")).replace("``", "").split()),
        parameters=tuple(
            (entry["name"], entry["in"], entry.get("description", "")) for entry in description.get("parameters", ())
        ),
        responses=tuple((status, entry["description"]) for status, entry in description["responses"].items()),
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("detseg3d.serving"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
