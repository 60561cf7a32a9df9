"""The output of the commands that export results case by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detseg3d.cli.running import EXIT_FAILURE, EXIT_SUCCESS, CommandResult
from detseg3d.cli.terminal import show

__all__ = ["export_result"]


def export_result(
    output: Path, files: Mapping[str, Sequence[Path]], failures: Mapping[str, Exception | str]
) -> CommandResult:
    """Show how many cases were written and which failed, and return the result of the command.

    Parameters
    ----------
    output : Path
        Folder of the files.
    files : mapping of str to sequence of Path
        Files that were written, by case.
    failures : mapping of str to exception or str
        Error of each case that failed.

    Returns
    -------
    CommandResult
        With exit code 1 if a case failed.
    """
    show(f"{len(files)} of {len(files) + len(failures)} case(s) written to {output}")
    if failures:
        show(f"failed: {', '.join(sorted(failures))}", error=True)
    data = {
        "output": str(output),
        "files": {case: [str(path) for path in paths] for case, paths in files.items()},
        "failed": [{"case": case, "error": str(error)} for case, error in sorted(failures.items())],
    }
    return CommandResult(data, EXIT_FAILURE if failures else EXIT_SUCCESS)
