"""Disks that are full or read-only, and what lies on them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def filled(disk: Path) -> Iterator[None]:
    """While the context lasts, not a single block of the disk is free."""
    filler = disk / "filler"
    fill(filler)
    try:
        yield
    finally:
        filler.unlink()


def fill(filler: Path) -> None:
    """Write a file until the disk is full."""
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as handle:
        while handle.write(bytes(4096)):
            pass


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """While the context lasts, nothing can be written to the disk, not even by root."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder but the filler and the records of runs, which have times, by relative path."""
    omitted = {"filler", "run.json", "run.log"}
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in omitted]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def litter(folder: Path) -> list[str]:
    """Temporary files and folders below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if ".partial." in path.name]
