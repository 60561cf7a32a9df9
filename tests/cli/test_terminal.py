from __future__ import annotations

import argparse
import logging
import os
import shlex
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import escape_control_characters, show, terminal
from detseg3d.core.errors import DetSeg3DError

HOSTILE = [
    "\x1b[2J",
    "\x9b2J",
    "\x07",
    "\r",
    "\u202egnp.exe",
    "\x00",
    "\u061c",
    "\u2066a",
    "\u2028",
    "\ud800",
    "\U000e0041",
]


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    return create_parser("detseg3d_test", "Does a test.", "detseg3d_test a")


def escaped(text: str) -> str:
    return text[0].encode("unicode_escape").decode()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_control_characters_from_any_source_are_escaped(
    parser: argparse.ArgumentParser, capfd: pytest.CaptureFixture[str], hostile: str
) -> None:
    def fail(options: argparse.Namespace) -> None:
        show(f"table {hostile}")
        show(f"failed {hostile}", error=True)
        logging.getLogger("detseg3d.test").warning("look at %s", hostile)
        warnings.warn(f"odd header {hostile}", stacklevel=1)
        raise DetSeg3DError(f"a strange file {hostile}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        assert run_command(parser, fail, []) == 1
    shown = capfd.readouterr()
    assert shown.out.count(escaped(hostile)) == 1 and hostile[0] not in shown.out
    assert shown.err.count(escaped(hostile)) == 4 and hostile[0] not in shown.err


@pytest.mark.parametrize("hostile", HOSTILE)
def test_errors_of_the_command_line_are_escaped(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], hostile: str
) -> None:
    with pytest.raises(SystemExit):
        run_command(parser, lambda options: CommandResult(), [f"--{hostile}", f"a{hostile}"])
    shown = capsys.readouterr().err
    assert escaped(hostile) in shown and hostile[0] not in shown


def test_line_breaks_and_letters_of_all_scripts_are_kept() -> None:
    assert escape_control_characters("Fall é 病例 ñ\n\tα−β مریض") == "Fall é 病例 ñ\n\tα−β مریض"


@given(st.text(st.characters(codec=None)))
def test_no_control_character_is_left(text: str) -> None:
    left = {
        character
        for character in escape_control_characters(text)
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    }
    assert left <= {"\n", "\t"}
    bidirectional = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not any(
        unicodedata.bidirectional(character) in bidirectional for character in escape_control_characters(text)
    )


def test_warnings_are_logged_only_while_a_command_runs() -> None:
    before = warnings.showwarning
    with terminal():
        assert warnings.showwarning is not before
    assert warnings.showwarning is before


# -- Streams that are closed or full -----------------------------------------------------------------------------------

SCRIPT = """
import contextlib, logging, os, sys, warnings
from pathlib import Path
from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.workers import run_cases

def work(options):
    logging.getLogger("detseg3d.x").warning("a message")
    warnings.warn("a warning")
    results = run_cases(abs, [-1, -2], description="working")
    show("a table")
    show("a failure", error=True)
    with open(sys.argv[1], "w") as handle:  # if the standard error is closed, this file could get the number 2
        with contextlib.suppress(OSError):
            os.write(2, b"a message of a library")
        handle.write(str([result.value for result in results]))
    if sys.argv[2] == "fail":
        raise DetSeg3DError("it does not work")
    return CommandResult()

raise SystemExit(run_command(create_parser("detseg3d_test", "", ""), work, []))
"""


@pytest.mark.parametrize("outcome", ["work", "fail"])
@pytest.mark.parametrize(
    "streams",
    [
        "",
        "<&-",
        ">&-",
        "2>&-",
        ">&- 2>&-",
        "<&- >&-",
        "<&- 2>&-",
        "<&- >&- 2>&-",
        "2>/dev/full",
        ">/dev/null 2>/dev/full",
    ],
)
def test_closed_streams_change_neither_the_result_nor_the_exit_code(tmp_path: Path, streams: str, outcome: str) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "result"), outcome]
    done = subprocess.run(
        ["sh", "-c", f"{shlex.join(words)} {streams}"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "default"},
        capture_output=True,
    )
    assert done.returncode == (1 if outcome == "fail" else 0)
    assert (tmp_path / "result").read_text(encoding="utf-8") == "[1, 2]"
    assert b"Traceback" not in done.stderr
