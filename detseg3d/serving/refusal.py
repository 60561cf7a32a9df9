"""Errors with which the service refuses a request."""

from __future__ import annotations

from detseg3d.core.errors import DetSeg3DError

__all__ = ["RefusalError"]


class RefusalError(DetSeg3DError):
    """A request that the service does not fulfil.

    Parameters
    ----------
    status : int
        HTTP status.
    problem, value, expected, remedy
        As in :class:`~detseg3d.core.errors.DetSeg3DError`.
    retry_after : int, optional
        Number of seconds after which the client may try again.
    """

    def __init__(
        self,
        status: int,
        problem: str,
        *,
        value: object = None,
        expected: str | None = None,
        remedy: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(problem, value=value, expected=expected, remedy=remedy)
        self.status = status
        self.retry_after = retry_after
