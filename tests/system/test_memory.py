from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system import memory
from detseg3d.system.memory import (
    _trim_function,
    available_bytes,
    is_out_of_memory,
    release_freed_memory,
    require_memory,
)

MEMINFO = "MemTotal: 32000 kB\nMemFree: 1000 kB\nMemAvailable: 16000 kB\nSwapTotal: 0 kB\nSwapFree: 500 kB\n"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_free_memory_includes_swap(tmp_path: Path) -> None:
    write(tmp_path, proc__meminfo=MEMINFO)
    assert available_bytes(tmp_path) == 16500 * 1024


def test_the_limit_of_a_control_group_ignores_cached_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        proc__meminfo=MEMINFO,
        proc__self__cgroup="0::/job/step\n",
        sys__fs__cgroup__job__step__memory_dot_max="max\n",
        sys__fs__cgroup__job__memory_dot_max="1000000\n",
        sys__fs__cgroup__job__memory_dot_current="700000\n",
        sys__fs__cgroup__job__memory_dot_stat="anon 600000\ninactive_file 50000\n",
    )
    assert available_bytes(tmp_path) == 1_000_000 - 700_000 + 50_000


def test_the_older_control_groups_count_too(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup/memory"
    group.mkdir(parents=True)
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__cgroup="9:cpu,memory:/docker/x\n1:name=systemd:/\n")
    (group / "memory.limit_in_bytes").write_text("2000", encoding="utf-8")
    (group / "memory.usage_in_bytes").write_text("1500", encoding="utf-8")
    (group / "memory.stat").write_text("total_inactive_file 100\n", encoding="utf-8")
    assert available_bytes(tmp_path) == 600


def test_the_available_memory_is_unknown_without_meminfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_bytes(tmp_path) is None
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    require_memory(1e18, "this")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine_has_memory() -> None:
    free = available_bytes()
    assert free is not None and 1e7 < free < 1e14


def test_too_large_a_request_is_an_error_that_states_both_amounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 3_000_000_000)
    require_memory(3e9, "this scan")
    with pytest.raises(DetSeg3DError, match=r"this scan needs about 3\.1 GB of memory\n.*at most 3 GB, which are free"):
        require_memory(3.1e9, "this scan")


def test_an_allowed_amount_replaces_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 10)
    require_memory(1e9, "this", allowed_gb=1)
    with pytest.raises(DetSeg3DError, match=r"1\.5 GB(.|\n)*at most 1 GB, as allowed"):
        require_memory(1.5e9, "this", allowed_gb=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_the_address_space_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, proc__meminfo=MEMINFO, proc__self__statm="1000 10 5 1 0 20 0\n")
    limit = 1000 * memory.resource.getpagesize() + 5000
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (limit, limit))
    assert available_bytes(tmp_path) == 5000
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (1000, 1000))
    assert available_bytes(tmp_path) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize(("limit", "expected"), [(10**9, True), (-1, False)])
def test_a_message_of_onednn_means_missing_memory_if_the_address_space_is_limited(
    monkeypatch: pytest.MonkeyPatch, limit: int, expected: bool
) -> None:
    monkeypatch.setattr(memory.resource, "getrlimit", lambda _: (limit, limit))
    assert is_out_of_memory(RuntimeError("could not create a primitive")) is expected


HOLES = """
import sys
from detseg3d.system.memory import release_freed_memory
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
blocks = [bytearray(100_000) for _ in range(2000)]
held = blocks[1::50]
del blocks
before = resident()
release_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(_trim_function() is None, reason="another C library than GNU's")
def test_memory_that_was_freed_between_blocks_that_are_held_is_given_back() -> None:
    completed = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, check=True, text=True)
    assert float(completed.stdout) > 100  # of the 200 MB, 4 MB are still in use


def test_without_malloc_trim_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detseg3d.system.memory._trim_function", lambda: None)
    assert not release_freed_memory()


COUNT_FAULTS = """
import ctypes, resource, sys
from detseg3d.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def fill():
    places = [ctypes.c_void_p(library.malloc(8 << 20)) for _ in range(20)]
    for place in places:
        ctypes.memset(place, 1, 8 << 20)
    for place in places:
        library.free(place)

fill()
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(_trim_function() is None, reason="another C library than GNU's")
def test_freed_memory_is_kept_for_the_next_arrays() -> None:
    """Every page that the process gives back is a page fault when the next array uses it."""

    def faults(mode: str) -> int:
        command = [sys.executable, "-c", COUNT_FAULTS, mode]
        return int(subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout)

    assert faults("keep") < 100 < faults("leave")
