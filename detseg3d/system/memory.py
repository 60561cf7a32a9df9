"""How much memory there is, asked before much of it is taken.

Linux grants more memory than there is and then kills the process that uses it, with all the cases it still had to do.
So what a case needs is estimated from its header and compared with what is free.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError

if sys.platform != "win32":
    import resource

__all__ = ["available_bytes", "is_out_of_memory", "out_of_memory", "release_freed_memory", "require_memory"]

_GIGABYTE = 1e9

# PyTorch, ITK and the loader of libraries have no type of their own for this error: only their words tell.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad.?alloc|failed to map segment"
    r"|unable to allocate|memory allocation|failed to allocate|can't start new thread",
    re.IGNORECASE,
)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Memory that this process can still get: free memory and swap, within the limits that hold for it.

    Those are the limits of its control groups, and that of its address space (``ulimit -v``). Of the latter all counts
    that the process has asked for, also what it has given back since.

    Parameters
    ----------
    root : Path, optional
        Where ``proc`` and ``sys`` lie.

    Returns
    -------
    int or None
        Bytes; ``None`` where the system does not tell (anything but Linux).
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        free = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return max(0, min([free, *_free_in_groups(root), *_free_addresses(root)]))


def _free_addresses(root: Path) -> Iterator[int]:
    """What the limit of the address space leaves, if there is such a limit."""
    if sys.platform == "win32":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    with suppress(OSError, ValueError, IndexError):
        pages = int((root / "proc/self/statm").read_text(encoding="ascii").split()[0])
        yield limit - pages * resource.getpagesize()


def _free_in_groups(root: Path) -> Iterator[int]:
    """What each control group of this process leaves, from the innermost outwards; version 2, then version 1."""
    groups = []
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                groups.append((root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file"))
            elif "memory" in controllers.split(","):
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                groups.append((root / "sys/fs/cgroup/memory", path, *names))
    for top, path, limit, used, reclaimable in groups:
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            # Inside a container the path may be the host's; the limits then stand at the top. "max" is no limit.
            with suppress(OSError, ValueError, KeyError):
                most = int((folder / limit).read_text(encoding="ascii"))
                counts = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
                cached = {name: int(value) for name, value in (line.split() for line in counts)}
                taken = int((folder / used).read_text(encoding="ascii"))
                yield most - taken + cached[reclaimable]
            if folder == top:
                break


def require_memory(needed: float, what: str, *, allowed_gb: float | None = None, remedy: str | None = None) -> None:
    """Raise before memory is taken that is not there.

    Parameters
    ----------
    needed : float
        Bytes.
    what : str
        What needs them, as the subject of a sentence.
    allowed_gb : float, optional
        Instead of what is free.
    remedy : str, optional

    Raises
    ------
    DetSeg3DError
        If ``needed`` is more than that. Where the system does not tell what is free, everything is allowed.
    """
    free = available_bytes() if allowed_gb is None else allowed_gb * _GIGABYTE
    if free is None or needed <= free:
        return
    raise DetSeg3DError(
        f"{what} needs about {needed / _GIGABYTE:.3g} GB of memory",
        expected=f"at most {free / _GIGABYTE:.3g} GB, " + ("which are free" if allowed_gb is None else "as allowed"),
        remedy=remedy or "use a machine with more memory or fewer processes (-np), or crop the scan",
    )


@functools.cache
def _trim_function() -> Callable[[int], int] | None:
    """``malloc_trim`` of the GNU C library; ``None`` where there is another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


def release_freed_memory() -> bool:
    """Give memory back to the system that this process has freed and its C library keeps.

    Between blocks of many sizes the library keeps holes, which grow for hours. A training on windows of 48³ took
    0.18 GB more after 120 steps than after 20, and as much as at its beginning when this was called every 20 steps.

    Returns
    -------
    bool
        Whether anything was given back; False where the C library has no such function.
    """
    trim = _trim_function()
    return trim is not None and bool(trim(0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the system, or a limit of the process, did not grant memory.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("std::bad_alloc"))
    (True, True)
    >>> is_out_of_memory(ValueError("out of range"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if not isinstance(error, (RuntimeError, ImportError, OSError)):
        return False
    text = str(error)
    # oneDNN has these words for every reason; where the address space is limited, that is the reason.
    limited = "could not create a primitive" in text and any(True for _ in _free_addresses(Path("/")))
    return limited or bool(_OUT_OF_MEMORY.search(text))


def out_of_memory(error: BaseException) -> DetSeg3DError:
    """The same error in words that a user can act on."""
    return DetSeg3DError(
        "there is not enough memory",
        value=str(error).strip() or None,
        remedy="use a machine with more memory or fewer processes (-np), or raise the limit of the process (ulimit -v)",
    )
