"""Interface of the engines that run one function over many cases: this process, worker processes, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

__all__ = ["CaseResult", "Engine", "Item", "Value"]

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclass(frozen=True)
class CaseResult(Generic[Item, Value]):
    """Result of one case.

    Attributes
    ----------
    item : object
        The case.
    value : object or None
        Return value of the function; ``None`` if the case failed.
    error : Exception or None
        The exception that the case raised, with its type and message; ``None`` if the case succeeded.
    traceback : str
        Text of the traceback; empty if the case succeeded.
    """

    item: Item
    value: Value | None = None
    error: Exception | None = None
    traceback: str = ""


class Engine(Protocol):
    """Engine that calls a function on each case."""

    def results(
        self, function: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[int, CaseResult[Any, Any]]]:
        """Yield the number and the result of each case, in the order in which the cases end.

        A case that fails, or whose worker ends, becomes a result with an error. It does not stop the other cases.

        Parameters
        ----------
        function : callable
            Takes one item. Engines with other processes need an importable function or a ``functools.partial`` of such
            a function. Items and return values must be picklable and small: they hold paths, not arrays.
        items : sequence
            The cases.

        Raises
        ------
        DetSeg3DError
            If no case can be run, for example because no worker process can be started.
        """
        ...
