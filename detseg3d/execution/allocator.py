"""Memory that a process has freed stays with it, so that the next training step need not ask for it again."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

# Numbers of glibc's <malloc.h>.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
# Larger blocks go back at once, which bounds what lies idle. Before 2.35 glibc takes no more than the second.
_LARGEST_KEPT = (128 * 2**20, 32 * 2**20)
_MOST_KEPT = 2**31 - 1  # the largest C int


def keep_freed_memory() -> bool:
    """Let this process keep what it frees instead of giving it back to the system, block by block.

    By default glibc maps every large tensor anew, and the system clears each of its pages again: a tenth of a training
    step on a CPU (docs/design.md). It holds for all of the process: for commands, not for the library.

    Returns
    -------
    bool
        Whether it was done; False without glibc, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    taken = any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return bool(taken and mallopt(_TRIM_THRESHOLD, _MOST_KEPT))
