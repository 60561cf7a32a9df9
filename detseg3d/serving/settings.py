"""Settings of the service: its limits, its address and its token."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import read_bounded

__all__ = ["MIN_TOKEN_LENGTH", "Access", "ServiceLimits", "read_token"]

MIN_TOKEN_LENGTH = 16
"""Smallest number of characters of a token."""

_MAX_TOKEN_FILE_BYTES = 4096


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of the service.

    Attributes
    ----------
    max_upload_bytes : int
        Size of one upload.
    max_unpacked_bytes : int
        Size of a scan, unpacked: the files of an archive, or the voxels as float32.
    max_files : int
        Number of files in an upload or in an archive.
    max_upload_seconds : float
        Time for one upload.
    max_job_seconds : float
        Time for the prediction of one scan.
    max_queue : int
        Number of scans that wait or are being uploaded.
    max_kept : int
        Number of finished jobs that are kept. The oldest are deleted first.
    keep_seconds : float
        Time after which a finished job and its results are deleted.
    """

    max_upload_bytes: int = 2 * 10**9
    max_unpacked_bytes: int = 4 * 10**9
    max_files: int = 10_000
    max_upload_seconds: float = 600.0
    max_job_seconds: float = 1800.0
    max_queue: int = 16
    max_kept: int = 1000
    keep_seconds: float = 3600.0


@dataclass(frozen=True)
class Access:
    """Address of the service, and the clients that it admits.

    Attributes
    ----------
    host : str
        Address on which the service listens.
    port : int
    token : str or None
        Secret that clients send. ``None`` is allowed only for addresses of this machine.
    names : tuple of str
        Further names under which clients reach the service, for example behind a reverse proxy.

    Raises
    ------
    DetSeg3DError
        If the token is too short, or missing although other machines can reach the address.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < MIN_TOKEN_LENGTH or not self.token.isascii()):
            raise DetSeg3DError(
                "the token is too short, or holds characters other than ASCII",
                expected=f"at least {MIN_TOKEN_LENGTH} characters",
                remedy="make a token: python -c 'import secrets; print(secrets.token_urlsafe(32))' > token.txt",
            )
        if self.token is None and (not self.is_local or self.names):
            raise DetSeg3DError(
                "a service that other machines can reach needs a token",
                value=self.host if not self.names else list(self.names),
                remedy="give a file with a token after --token_file, or leave out --host and --allow_host",
            )

    @property
    def is_local(self) -> bool:
        """True if only this machine reaches the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def hosts(self) -> frozenset[str]:
        """Names that a client may use for the service, in lower case. An address for all networks is not a name."""
        own = {"localhost", "127.0.0.1", "::1"} if self.is_local or _is_every_network(self.host) else set()
        return frozenset(own | {self.host.lower(), *(name.lower() for name in self.names)})

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def admits(self, token: str) -> bool:
        """Return whether a client's token is right. The time of the comparison does not depend on the token."""
        return self.token is None or hmac.compare_digest(token.encode("utf-8"), self.token.encode("utf-8"))


def _is_every_network(host: str) -> bool:
    """Return whether an address stands for all networks of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def read_token(file: Path) -> str:
    """Read a token from a file. White space around it does not count.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read or holds no text.
    """
    try:
        return read_bounded(file, _MAX_TOKEN_FILE_BYTES).decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DetSeg3DError(f"the token cannot be read: {error}", file=file, remedy="check the file") from error
