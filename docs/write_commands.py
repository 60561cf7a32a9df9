"""Write commands.md from the commands' own parsers, and the table of from_nnunet.md; tests compare them.

python docs/write_commands.py
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from detseg3d.core.nnunet import table

FOLDER = Path(__file__).parent
TABLE_BEGINS = "<!-- table: written by docs/write_commands.py from detseg3d/core/nnunet.py -->\n"
TABLE_ENDS = "\n<!-- end of table -->"
COMMANDS = (
    "run",
    "example",
    "convert",
    "plan_and_preprocess",
    "train",
    "consolidate",
    "predict",
    "evaluate",
    "visualize",
    "export_model",
    "install_model",
)
COMMON = ("-h", "--verbose", "--no_progress", "--version")
HEAD = """# Commands

Every command explains itself with `-h`. All take `--verbose` (report in more detail), `--no_progress` (or
`--disable_progress_bar`) and `--version`. They end with 0 if all went well, with 1 if anything failed (what did not
fail is written nevertheless), with 2 if the command line cannot be understood, and with 129, 130 or 143 after SIGHUP,
Ctrl-C or SIGTERM.
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
    parsers = (importlib.import_module(f"detseg3d.cli.{name}").build_parser() for name in COMMANDS)
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
