"""Two implementations timed in turn, as a ratio: on a machine that does other work nothing else is worth quoting."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

__all__ = ["print_ratio"]


def print_ratio(label: object, theirs: Callable[[], None], ours: Callable[[], None], runs: int) -> None:
    """Print the median ratio of their time to ours over interleaved runs, and the lowest and highest."""
    ours(), theirs()
    ratios = [_seconds(theirs) / _seconds(ours) for _ in range(runs)]
    print(f"{label}: PyTorch / ours = {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def _seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
