"""``detseg3d_completion``: print a script that completes commands and flags in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.commands import COMMANDS
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show

__all__ = ["main"]

_DESCRIPTION = """\
Print a completion script for the command `detseg3d` and for every program `detseg3d_COMMAND`.
After the script is loaded, the Tab key completes commands, flags, choices and file names. Write the
output to the folder of your shell, for example to
~/.local/share/bash-completion/completions/detseg3d (bash) or ~/.zfunc/_detseg3d (zsh)."""

_EXAMPLE = """\
detseg3d_completion bash
detseg3d_completion zsh"""

# Arguments with these names in the help are paths.
_PATHS = ("FILE", "FOLDER", "PATH", "OUT", "JSON", "[NAME=]FOLDER")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d_completion``."""
    parser = create_parser("detseg3d_completion", _DESCRIPTION, _EXAMPLE)
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell that reads the script")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(build_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> CommandResult:
    import shtab

    from detseg3d.cli.main import build_parser as build_main_parser

    parsers = [build_main_parser(complete=True), *(command.build_parser() for command in COMMANDS)]
    scripts = []
    for parser in parsers:
        _mark_paths(parser)
        scripts.append(shtab.complete(parser, options.shell))
    script = "\n".join(scripts)
    show(script)
    return CommandResult({"shell": options.shell, "script": script})


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    """Set the attribute ``complete`` of every argument that is a path, because shtab reads this attribute."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                _mark_paths(subparser)
        elif action.metavar in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
