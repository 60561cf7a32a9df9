"""Commands as processes of their own, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.command_forks import CommandFork
from tests.disks import contents

ROOT = Path(__file__).parents[3]


def start(command: str, *words: object) -> subprocess.Popen[str]:
    """Start a command in a fresh process, with as many threads as the tests have.

    Sums depend on the number of threads in their last digits.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-m", f"detseg3d.cli.{command}", *map(str, words), "--no_progress"],
        env={**environment, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def finish(*processes: subprocess.Popen[str] | CommandFork) -> None:
    """Wait for commands; each must end well."""
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors


def lasting(folder: Path) -> dict[str, bytes]:
    """All files below a folder of trainings, without what tells the time, and without the folder's own name."""
    timed = ("checkpoint_latest.pt", "training_log.jsonl", "progress.png")
    own = str(folder).encode()
    return {name: data.replace(own, b"") for name, data in contents(folder).items() if not name.endswith(timed)}
