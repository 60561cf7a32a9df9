"""Run one function over many cases, in this process, in worker processes or on a cluster."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.engine import CaseResult, Item, Value
from detseg3d.system.local_engines import ThisProcess, WorkerProcesses
from detseg3d.system.run import Run

__all__ = ["describe_failures", "is_bar_shown", "run_cases"]


def run_cases(
    function: Callable[[Item], Value],
    items: Sequence[Item],
    run: Run = Run(),
    description: str = "",
) -> list[CaseResult[Item, Value]]:
    """Call a function on each item; a case that fails does not stop the others.

    Parameters
    ----------
    function : callable
        Takes one item. With worker processes or a cluster, ``function`` must be an importable function or a
        ``functools.partial`` of such a function, not a lambda or a nested function. Items and return values must be
        picklable. The function is sent to each worker once.
    items : sequence
        The cases.
    run : Run, optional
        Engine or number of worker processes (at most one per item is started), and display of progress.
    description : str, optional
        Label of the progress bar.

    Returns
    -------
    list of CaseResult
        One result per item, in the order of the items.

    Raises
    ------
    DetSeg3DError
        If no worker process can be started, or the cluster is lost.

    Examples
    --------
    >>> [result.value for result in run_cases(abs, [-1, 2])]
    [1, 2]
    >>> run_cases(int, ["x"])[0].error
    ValueError("invalid literal for int() with base 10: 'x'")
    """
    engine = run.engine or (WorkerProcesses(run.processes) if run.processes else ThisProcess())
    results: dict[int, CaseResult[Item, Value]] = {}
    with tqdm(
        total=len(items), desc=description or None, disable=not is_bar_shown(run.show_progress), dynamic_ncols=True
    ) as bar:
        for index, result in engine.results(function, items) if items else ():
            results[index] = result
            bar.update()
    return [results[index] for index in range(len(items))]


def is_bar_shown(wanted: bool) -> bool:
    """Return whether a progress bar is drawn: if it is ``wanted`` and the error output is a terminal.

    Examples
    --------
    >>> is_bar_shown(False)
    False
    """
    # sys.stderr is None or closed if the caller closed it, and None in a Windows program without a console.
    return wanted and sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def describe_failures(
    results: Sequence[CaseResult[Any, Any]], name: Callable[[Any], str] = str, limit: int = 20
) -> str:
    """Return one line per failed case, for an error message or the log.

    Parameters
    ----------
    results : sequence of CaseResult
    name : callable, optional
        Returns the name of an item.
    limit : int, optional
        Maximum number of cases that are described.

    Returns
    -------
    str
        Empty if no case failed.

    Examples
    --------
    >>> print(describe_failures(run_cases(int, ["1", "x"])))
      x: ValueError: invalid literal for int() with base 10: 'x'
    """
    lines = []
    for result in results:
        if result.error is not None:
            kind = "" if isinstance(result.error, DetSeg3DError) else f"{type(result.error).__name__}: "
            message = str(result.error).replace("\n", "\n    ")
            lines.append(f"  {name(result.item)}: {kind}{message}")
    if len(lines) > limit:
        lines[limit:] = [f"  and {len(lines) - limit} more"]
    return "\n".join(lines)
