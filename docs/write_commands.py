"""Write commands.md from the commands' own parsers, and the table of from_nnunet.md; tests compare them.

python docs/write_commands.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detseg3d.cli.commands import COMMANDS
from detseg3d.core.nnunet import table

FOLDER = Path(__file__).parent
TABLE_BEGINS = "<!-- table: written by docs/write_commands.py from detseg3d/core/nnunet.py -->\n"
TABLE_ENDS = "\n<!-- end of table -->"
COMMON = ("-h", "--verbose", "--no_progress", "--json", "--version")
HEAD = """# Commands

`detseg3d COMMAND` and `detseg3d_COMMAND` are the same program; `python -m detseg3d COMMAND` is a third way to start it.
`detseg3d -h` lists the commands, and `-h` explains one command. Every command accepts these flags:

| flag | meaning |
|---|---|
| `--verbose` | show details of the work and tracebacks of errors |
| `--no_progress`, `--disable_progress_bar` | show no progress bars |
| `--json` | print the result as one JSON object to the standard output; messages go to the standard error |
| `--version` | print the version |

The JSON object has the fields `command`, `version`, `exit_code`, `result` and `error`. `error` is null, or it has the
fields `problem`, `file`, `value`, `expected` and `remedy`.

| exit code | meaning |
|---|---|
| 0 | everything succeeded |
| 1 | something failed; the results of all other cases are written |
| 2 | the command line is not valid |
| 129, 130, 143 | interrupted by SIGHUP, Ctrl-C or SIGTERM |

`detseg3d completion bash` (or `zsh`, `tcsh`) prints a script that completes commands and flags in a shell.
"""


def main() -> None:
    """Write both pages beside this file."""
    (FOLDER / "reference" / "commands.md").write_text(page(), encoding="utf-8")
    (FOLDER / "how_to" / "from_nnunet.md").write_text(page_for_nnunet_users(), encoding="utf-8")


def page_for_nnunet_users() -> str:
    """The page from_nnunet.md, with the table of today."""
    text = (FOLDER / "how_to" / "from_nnunet.md").read_text(encoding="utf-8")
    before, rest = text.split(TABLE_BEGINS)
    return before + TABLE_BEGINS + table() + TABLE_ENDS + rest.split(TABLE_ENDS)[1]


def page() -> str:
    """The whole page."""
    parsers = (command.build_parser() for command in COMMANDS)
    return "\n".join([HEAD, *(section(parser) for parser in parsers)])


def section(parser: argparse.ArgumentParser) -> str:
    """Description, example and flags of one command."""
    example = (parser.epilog or "").removeprefix("example:\n")
    lines = [f"## {parser.prog}", "", parser.description or "", "", "```bash"]
    lines += [line.strip() for line in example.splitlines()]
    lines += ["```", "", "| argument | meaning |", "|---|---|"]
    formatter = parser._get_formatter()
    for action in parser._actions:
        if not set(action.option_strings) & set(COMMON) and action.help != argparse.SUPPRESS:
            meaning = formatter._expand_help(action) if action.help else ""
            needed = " (needed)" if action.required and action.option_strings else ""
            lines.append(f"| {name_of(action)} | {escaped(meaning)}{needed} |")
    return "\n".join([*lines, ""])


def name_of(action: argparse.Action) -> str:
    """The flag as it is typed, with what follows it."""
    if not action.option_strings:
        return f"`{action.metavar or action.dest}`"
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
        metavar = action.metavar or choices or action.dest.upper()
        value = " " + (metavar if isinstance(metavar, str) else " ".join(metavar))
    several = " …" if action.nargs in ("+", "*") else ""
    return ", ".join(f"`{flag}{value}{several}`" for flag in action.option_strings)


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
