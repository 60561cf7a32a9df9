"""``detseg3d``: one command that has all other commands as sub-commands."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence

from detseg3d.cli.commands import COMMANDS
from detseg3d.cli.terminal import show, use_utf8
from detseg3d.core.version import __version__

__all__ = ["build_parser", "main"]

_EXIT_USAGE = 2

_DESCRIPTION = "Find every lesion in 3D scans and outline each one."
_EPILOG = "`detseg3d COMMAND -h` explains a command. Each command is also a separate program, such as detseg3d_train."


def build_parser(complete: bool = False) -> argparse.ArgumentParser:
    """Return the parser of ``detseg3d``.

    Parameters
    ----------
    complete : bool, optional
        Import every command and include its flags, which shell completion needs.
    """
    parser = argparse.ArgumentParser(prog="detseg3d", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"DetSeg3D {__version__}")
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", parser_class=argparse.ArgumentParser
    )
    for command in COMMANDS:
        parents = [command.build_parser()] if complete else []
        subparsers.add_parser(command.name, help=command.summary, parents=parents, add_help=False)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sub-command that the command line names, and return its exit code."""
    if arguments is None:
        use_utf8()
        arguments = sys.argv[1:]
    command = next((command for command in COMMANDS if arguments and command.name == arguments[0]), None)
    if command is not None:
        return command.run(arguments[1:])
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return _EXIT_USAGE
    if arguments[0].startswith("-"):
        parser.parse_args(arguments)
    names = [command.name for command in COMMANDS]
    similar = difflib.get_close_matches(arguments[0].removeprefix("detseg3d_"), names, 1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    show(f"detseg3d: error: unknown command: {arguments[0]}{hint}", error=True)
    show(f"commands: {', '.join(names)}", error=True)
    return _EXIT_USAGE


if __name__ == "__main__":
    raise SystemExit(main())
