"""Run the code blocks of a Markdown page: Bash in a real shell with the commands in this process, and Python.

A block that cannot run in a test has a comment above it: ``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Block", "Runner", "blocks_of"]

_FENCE = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?```(?P<language>\w+)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
# Hands its arguments, folder and environment to the process of the test; ends with the output and exit code it returns.
_STUB = """#!/bin/bash
{ printf '%s\\0' "$PWD" "${0##*/}" "$#" "$@"; env -0; } > "$DOCUMENTS_FOLDER/writing"
mv "$DOCUMENTS_FOLDER/writing" "$DOCUMENTS_FOLDER/request"
read -r code < "$DOCUMENTS_FOLDER/answer"
cat "$DOCUMENTS_FOLDER/output"
exit "$code"
"""
_POLL_SECONDS = 0.01


@dataclass(frozen=True)
class Block:
    """A fenced code block of a page.

    Parameters
    ----------
    page : Path
        File that contains the block.
    line : int
        Line of its first fence, counted from 1.
    language : str
        ``bash``, ``python`` or another name behind the fence.
    text : str
        The lines between the fences.
    reason : str, optional
        Why the block cannot run in a test; ``None`` if it can.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """Return the code blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start()) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["reason"],
        )
        for match in _FENCE.finditer(text)
    ]


@dataclass
class Runner:
    """Runs the blocks of one page in one folder; variables last from block to block.

    Parameters
    ----------
    folder : Path
        Working folder of the page.
    scratch : Path
        Folder for the stubs of the commands; outside ``folder``.
    commands : dict of str to callable
        Console scripts by name; each gets its arguments and returns an exit code.
    variables : mapping of str to str, optional
        Environment variables that are set at the beginning.
    """

    folder: Path
    scratch: Path
    commands: dict[str, Callable[[Sequence[str]], int]]
    variables: Mapping[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.scratch / "bin").mkdir(parents=True)
        os.mkfifo(self.scratch / "answer")
        for name in self.commands:
            stub = self.scratch / "bin" / name
            stub.write_text(_STUB, encoding="utf-8")
            stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
        self._environment = dict(os.environ) | dict(self.variables)
        self._names: dict[str, Any] = {"__name__": "page"}

    def run(self, block: Block) -> None:
        """Run a Bash or Python block.

        Raises
        ------
        AssertionError
            If a command of the block ends with an exit code other than 0.
        """
        begin = time.monotonic()
        if block.language == "bash":
            self._run_bash(block)
        elif block.language == "python":
            with _working_in(self.folder, self._environment):
                exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), self._names)
        self.seconds[f"{block.page.name}:{block.line}"] = time.monotonic() - begin

    def _run_bash(self, block: Block) -> None:
        request, after = self.scratch / "request", self.scratch / "environment"
        script = f"set -e\n{block.text}\nenv -0 > {after}\n"
        environment = self._environment | {
            "PATH": f"{self.scratch / 'bin'}:{os.environ['PATH']}",
            "DOCUMENTS_FOLDER": str(self.scratch),
        }
        shell = subprocess.Popen(["bash", "-c", script], cwd=self.folder, env=environment)
        while shell.poll() is None:
            if request.exists():
                fields = request.read_bytes().decode().split("\0")
                request.unlink()
                code = self._answer(fields)
                (self.scratch / "answer").write_text(f"{code}\n", encoding="utf-8")
            time.sleep(_POLL_SECONDS)
        assert shell.returncode == 0, f"{block.page.name}, line {block.line}: exit code {shell.returncode}"
        self._environment = _environment(after.read_bytes().decode().split("\0"))

    def _answer(self, fields: Sequence[str]) -> int:
        folder, name, count = fields[0], fields[1], int(fields[2])
        arguments = list(fields[3 : 3 + count])
        output = io.StringIO()
        with _working_in(Path(folder), _environment(fields[3 + count :])), contextlib.redirect_stdout(output):
            try:
                code = self.commands[name](arguments)
            except SystemExit as end:  # of -h and of a command line that cannot be understood
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
        (self.scratch / "output").write_text(output.getvalue(), encoding="utf-8")
        return code


def _environment(fields: Sequence[str]) -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in fields if "=" in entry)


@contextlib.contextmanager
def _working_in(folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Work in a folder, with an environment, and come back."""
    before, variables = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(variables)
