"""The checks that every request passes: name of the service, origin of the page, and token.

A service that listens on ``127.0.0.1`` is reachable for every page that the browser of the user shows. Three checks
keep such pages away. The header ``Host`` must name the service, because a foreign name may be made to lead to this
machine (DNS rebinding). The header ``Origin``, which browsers send with every request of a page that writes, must name
the service as well. Reading needs a page of the service itself (``Sec-Fetch-Site``).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detseg3d.serving.metrics import ServiceMetrics
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.replies import error_reply
from detseg3d.serving.settings import Access

__all__ = ["COOKIE", "Guard"]

COOKIE = "detseg3d_session"
"""Name of the cookie of a browser that sent the token."""

_FREE = ("/health", "/", "/v1/session", "/docs")
_FREE_FOLDER = "/assets/"
_UPLOADS = "/v1/jobs"
_MAX_BODY_BYTES = 8192  # of every request that is not an upload
_ENTRIES = ("/", "/docs")  # a link on another page may lead here
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Guard:
    """ASGI middleware that refuses requests, and adds the headers for security to every response.

    Parameters
    ----------
    app : ASGI application
    access : Access
    metrics : ServiceMetrics

    Attributes
    ----------
    session : str
        Content of the cookie that stands for the token. It is drawn at random at each start.
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: ServiceMetrics, session: str) -> None:
        self._app, self._access, self._metrics, self._session = app, access, metrics, session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", _POLICY)
                if message["status"] >= 400:
                    self._metrics.observe_refusal(message["status"])
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"])
        except RefusalError as error:
            await error_reply(error)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)

    def _check(self, headers: Headers, path: str) -> None:
        host = headers.get("host", "")
        if _name(host) not in self._access.hosts:
            raise RefusalError(
                421,
                "the request names another host than this service",
                value=host[:200],
                remedy="use the address that the service printed, or start it with --allow_host NAME",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise _foreign(origin)
        if path != _UPLOADS:
            _check_body(headers)
        site = headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") and path not in _ENTRIES:
            raise _foreign(site)
        if path in _FREE or path.startswith(_FREE_FOLDER):
            return
        if self._access.token is None or self._has_session(headers.getlist("cookie")):
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self._access.admits(token.strip()):
            raise RefusalError(
                401,
                "the token is missing or wrong",
                expected="the header Authorization: Bearer TOKEN",
                remedy="ask the person who runs the service for the token",
            )

    def _has_session(self, lines: Iterable[str]) -> bool:
        for line in lines:
            try:
                cookie = SimpleCookie(line).get(COOKIE)
            except CookieError:
                continue
            if cookie is not None and secrets.compare_digest(cookie.value.encode(), self._session.encode()):
                return True
        return False


def _check_body(headers: Headers) -> None:
    """Raise an error if a request has a large body, before the body takes memory."""
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers or not length.isdecimal() or int(length) > _MAX_BODY_BYTES:
        raise RefusalError(
            413,
            "the body of the request is too large, or its size is not stated",
            expected=f"at most {_MAX_BODY_BYTES} bytes",
            remedy=f"send scans to {_UPLOADS}",
        )


def _name(host: str) -> str:
    """Return the name of a header ``Host`` without its port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _foreign(value: str) -> RefusalError:
    return RefusalError(
        403,
        "the request comes from a page of another origin",
        value=value[:200],
        remedy="use the page of the service, or a program other than a browser",
    )
