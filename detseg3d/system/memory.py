"""Check of the available memory before a large allocation.

Linux grants more memory than exists and later kills the process that uses it, together with all its remaining cases.
The memory that a case needs is therefore estimated from its header and compared with the available memory.
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

__all__ = [
    "available_bytes",
    "is_out_of_memory",
    "memory_limit",
    "out_of_memory",
    "keep_freed_memory",
    "release_freed_memory",
    "require_memory",
]

_GIGABYTE = 1e9

# PyTorch, ITK and the library loader raise general errors when memory is missing; only the message identifies them.
_OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|cannot allocate memory|not enough memory|out of memory|bad.?alloc|failed to map segment"
    r"|unable to allocate|memory allocation|failed to allocate|can't start new thread",
    re.IGNORECASE,
)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that this process can still allocate.

    The result is the smallest of three amounts: free memory and swap, the rest of the limit of each control group, and
    the rest of the limit of the address space (``ulimit -v``).

    Parameters
    ----------
    root : Path, optional
        Folder that holds ``proc`` and ``sys``.

    Returns
    -------
    int or None
        Bytes; ``None`` on systems other than Linux.
    """
    try:
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
        free = 1024 * (kilobytes["MemAvailable"] + kilobytes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return max(0, min([free, *_free_in_groups(root), *_free_addresses(root)]))


def _free_addresses(root: Path) -> Iterator[int]:
    """Yield the bytes that the address space can still grow, if its size is limited.

    The address space counts all memory that the process has reserved, even if the memory is not used.
    """
    if sys.platform == "win32":
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    with suppress(OSError, ValueError, IndexError):
        pages = int((root / "proc/self/statm").read_text(encoding="ascii").split()[0])
        yield limit - pages * resource.getpagesize()


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yield the bytes that each control group of this process may still use, from the innermost group outwards."""
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
            # In a container, the path may be valid on the host only, and the top folder holds the limits. The value
            # "max" means no limit and raises a ValueError here.
            with suppress(OSError, ValueError, KeyError):
                maximum = int((folder / limit).read_text(encoding="ascii"))
                counts = (folder / "memory.stat").read_text(encoding="ascii").splitlines()
                cached = {name: int(value) for name, value in (line.split() for line in counts)}
                used_bytes = int((folder / used).read_text(encoding="ascii"))
                yield maximum - used_bytes + cached[reclaimable]
            if folder == top:
                break


def memory_limit(allowed_gb: float | None = None) -> float | None:
    """Return the bytes that a computation may use: ``allowed_gb`` (GB of 10⁹ bytes), or the available memory.

    Returns
    -------
    float or None
        ``None`` if no limit is given and the available memory is unknown.

    Examples
    --------
    >>> memory_limit(2.0)
    2000000000.0
    """
    return available_bytes() if allowed_gb is None else allowed_gb * _GIGABYTE


def require_memory(needed: float, subject: str, *, allowed_gb: float | None = None, remedy: str | None = None) -> None:
    """Raise an error if a computation needs more memory than is available.

    Parameters
    ----------
    needed : float
        Number of bytes.
    subject : str
        Object or activity that needs the memory; the subject of the error message.
    allowed_gb : float, optional
        Limit in GB (10⁹ bytes) that replaces the available memory.
    remedy : str, optional
        Replaces the usual remedy.

    Raises
    ------
    DetSeg3DError
        If ``needed`` exceeds the limit. If the available memory is unknown, nothing is raised.
    """
    free = memory_limit(allowed_gb)
    if free is None or needed <= free:
        return
    raise DetSeg3DError(
        f"{subject} needs about {needed / _GIGABYTE:.3g} GB of memory",
        expected=f"at most {free / _GIGABYTE:.3g} GB, " + ("which are free" if allowed_gb is None else "as allowed"),
        remedy=remedy or "use a machine with more memory or fewer processes (-np), or crop the scan",
    )


# Options of mallopt in the GNU C library (malloc.h), and their values in bytes.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_GROWTH_BYTES = 64 << 20
_LARGEST_MMAP_THRESHOLD = 32 << 20


@functools.cache
def _trim_function() -> Callable[[int], int] | None:
    """Return ``malloc_trim`` of the GNU C library, or ``None`` with another C library."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return trim


def release_freed_memory() -> bool:
    """Give freed memory, which the C library of this process still holds, back to the system.

    With blocks of many sizes, the C library keeps growing gaps between the blocks. A training on windows of 48³ voxels
    used 0.18 GB more after 120 steps than after 20 steps. With a call of this function every 20 steps, the memory did
    not grow.

    Returns
    -------
    bool
        True if memory was given back. False if the C library does not offer the function.
    """
    trim = _trim_function()
    return trim is not None and bool(trim(0))


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next arrays of this process.

    A network allocates and frees arrays of some megabytes many times a second. The GNU C library gives the end of its
    heap back to the system as soon as 64 MB are free there. The system then clears the same pages again and again. With
    the limits set here, :func:`release_freed_memory` gives the memory back, for example between two scans.

    Returns
    -------
    bool
        True if the limits were set. False if the C library does not offer them.
    """
    if _trim_function() is None:
        return False
    options = {_TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: _GROWTH_BYTES, _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD}
    return all(ctypes.CDLL(None).mallopt(option, value) == 1 for option, value in options.items())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error was caused by missing memory or by a memory limit of the process.

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
    # oneDNN uses this message for every failure. If the address space is limited, the limit is the likely reason.
    limited = "could not create a primitive" in text and any(True for _ in _free_addresses(Path("/")))
    return limited or bool(_OUT_OF_MEMORY.search(text))


def out_of_memory(error: BaseException) -> DetSeg3DError:
    """Return an error with a remedy for an error that :func:`is_out_of_memory` recognises."""
    return DetSeg3DError(
        "there is not enough memory",
        value=str(error).strip() or None,
        remedy="use a machine with more memory or fewer processes (-np), or raise the limit of the process (ulimit -v)",
    )
