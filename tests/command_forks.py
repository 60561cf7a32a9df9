"""Commands as processes of their own that start in milliseconds: forks of a server, which has loaded the libraries.

A fresh Python process needs seconds to import torch, and most commands of the tests run for less than that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

__all__ = ["CommandFork", "start_fork"]

ROOT = Path(__file__).parents[1]

# The main module of a fork is that of its command, since worker processes load the main module first.
_SERVER = """
import importlib, json, os, signal, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
import torch
from detseg3d.system.files import write_text
from detseg3d.training import trainer
trainer.plot_progress = lambda _log, picture: write_text("picture", picture)
trainer.check_precision = lambda *_: None
requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
print("ready", file=answers, flush=True)
for line in requests:
    request = json.loads(line)
    if "wait" in request:
        pid, status = os.waitpid(request["wait"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if pid else None
    else:
        answer = os.fork()
        if answer == 0:
            os.close(requests.fileno())
            os.close(answers.fileno())
            for file, number in (("/dev/null", 0), (request["output"], 1), (request["errors"], 2)):
                os.dup2(os.open(file, os.O_RDWR | os.O_CREAT), number)
            command = importlib.import_module("detseg3d.cli." + request["command"])
            sys.argv = [command.__file__, *request["words"]]
            sys.modules["__main__"] = command
            sys.exit(command.main())
    print(json.dumps(answer), file=answers, flush=True)
"""

# What the commands import when they run; the optimizers import the last one.
_LOADED = (
    "detseg3d.pipeline.prepare",
    "detseg3d.pipeline.train",
    "detseg3d.pipeline.predict",
    "detseg3d.pipeline.consolidation_report",
    "torch._dynamo",
)


class _Server:
    """The process that the commands are forks of."""

    def __init__(self) -> None:
        variables = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
        # As many threads as the tests have: sums depend on it in their last digits.
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *_LOADED],
            env={**os.environ, **variables, **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        assert self._read() == "ready"

    def _read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, request: dict[str, Any]) -> Any:
        """Send a request; return the answer."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return json.loads(self._read())


_SERVERS: list[_Server] = []


class CommandFork:
    """A command in a fork of the server; used like a ``subprocess.Popen``."""

    def __init__(self, server: _Server, command: str, words: list[str]) -> None:
        self._server = server
        self._folder = tempfile.TemporaryDirectory()
        self._files = [Path(self._folder.name) / name for name in ("output", "errors")]
        output, errors = map(str, self._files)
        self.returncode: int | None = None
        self.pid = server.ask({"command": command, "words": words, "output": output, "errors": errors})

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        if self.returncode is None:
            self.returncode = self._server.ask({"wait": self.pid})
        return self.returncode

    def communicate(self, timeout: float = 600) -> tuple[str, str]:
        """Wait for the end; return the output and the error output."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.01)
        output, errors = (file.read_text(encoding="utf-8") if file.exists() else "" for file in self._files)
        return output, errors

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(15)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(9)


def start_fork(command: str, *words: object) -> CommandFork:
    """Start a command; a training draws no curves and trusts half precision, as with ``quick_trainings``."""
    if not hasattr(os, "fork"):
        pytest.skip("the system has no fork")
    if not _SERVERS:
        _SERVERS.append(_Server())
    return CommandFork(_SERVERS[0], command, [*map(str, words), "--no_progress"])
