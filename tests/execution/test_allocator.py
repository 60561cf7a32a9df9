"""Memory that is kept: looked at in a process of its own, since the setting is one of the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from detseg3d.execution.allocator import keep_freed_memory

MEBIBYTES = 100
PROGRAM = f"""
import os
import sys
from pathlib import Path
import numpy as np
from detseg3d.execution.allocator import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

if sys.argv[1] == "keep":
    assert keep_freed_memory()
before = resident()
block = np.ones({MEBIBYTES} * 2**17)
assert resident() - before > {MEBIBYTES - 5}
del block
print(resident() - before)
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc here")


def _left_after_freeing(how: str) -> float:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True)
    return float(done.stdout)


@needs_glibc
def test_a_freed_block_stays_with_the_process() -> None:
    assert _left_after_freeing("keep") > MEBIBYTES - 5


@needs_glibc
def test_without_it_a_freed_block_goes_back() -> None:
    assert _left_after_freeing("leave") < 5


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    assert keep_freed_memory() is False


def test_a_library_without_the_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())

    assert keep_freed_memory() is False
