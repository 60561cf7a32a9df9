"""Scripts that need a fresh process each: one process imports the libraries, and each script runs in a fork of it.

The imports of torch take seconds, and most of these scripts take milliseconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ForkOutcome", "ForkScript", "run_in_forks"]

_SERVER = """
import json, os, pathlib, sys, traceback

def run(text, environment, output, errors):
    for file, number in ((output, 1), (errors, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    try:
        exec(text, {"__name__": "__main__"})
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    return 0

imports, *scripts = json.loads(sys.argv[1])
exec(imports)
codes = []
for script in scripts:
    process = os.fork()
    if process == 0:
        code = run(*script)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
pathlib.Path(sys.argv[2]).write_text(json.dumps(codes))
"""


@dataclass(frozen=True)
class ForkScript:
    """A Python script, and environment variables that it sets before its first line."""

    text: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ForkOutcome:
    """Exit code, output and error output of a script."""

    code: int
    output: str
    errors: str


def run_in_forks(imports: str, scripts: Sequence[ForkScript], threads: int = 1) -> list[ForkOutcome]:
    """Run scripts one after another, each in a fork of one process.

    Parameters
    ----------
    imports : str
        Python lines that the process runs before it forks. They must start no thread.
    scripts : sequence of ForkScript
    threads : int, optional
        Threads of OpenMP and OpenBLAS.

    Returns
    -------
    list of ForkOutcome
        In the order of the scripts.
    """
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = [(folder / f"{index}.out", folder / f"{index}.err") for index in range(len(scripts))]
        lines = [
            (script.text, dict(script.environment), str(output), str(errors))
            for script, (output, errors) in zip(scripts, files, strict=True)
        ]
        subprocess.run(
            [sys.executable, "-c", _SERVER, json.dumps([imports, *lines]), str(folder / "codes.json")],
            env={**os.environ, **variables},
            cwd=Path(__file__).parents[1],
            check=True,
            timeout=600,
        )
        codes = json.loads((folder / "codes.json").read_text(encoding="utf-8"))
        return [
            ForkOutcome(code, output.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8"))
            for code, (output, errors) in zip(codes, files, strict=True)
        ]
