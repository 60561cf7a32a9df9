from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import CommandResult, evaluation_exit_code, run_command
from detseg3d.cli.terminal import show
from detseg3d.core.errors import DetSeg3DError
from detseg3d.evaluation.case_files import CaseProblem
from tests.evaluations import result_of


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    return create_parser("detseg3d_test", "Does a test.", "detseg3d_test a\ndetseg3d_test b")


def test_success_is_exit_code_0(parser: argparse.ArgumentParser) -> None:
    assert run_command(parser, lambda options: CommandResult(), []) == 0


def test_the_exit_code_of_the_function_is_kept(parser: argparse.ArgumentParser) -> None:
    assert run_command(parser, lambda options: CommandResult(exit_code=3), []) == 3


def test_cases_that_could_not_be_evaluated_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    problems = tuple(CaseProblem(case, "unreadable") for case in ("b", "a", "b"))
    assert evaluation_exit_code(result_of([], problems=problems)) == 1
    assert "2 validation case(s) could not be evaluated, see above: a, b" in caplog.text


def test_an_evaluation_without_problems_is_a_success() -> None:
    assert evaluation_exit_code(None) == evaluation_exit_code(result_of([])) == 0


def test_a_package_error_is_printed_without_traceback(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise DetSeg3DError("the fold does not exist", value=9, remedy="choose 0 to 4")

    assert run_command(parser, fail, []) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("detseg3d_test: error: the fold does not exist\n  found:    9\n")
    assert "Traceback" not in shown.err
    assert shown.out == ""


def test_verbose_adds_the_traceback(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise DetSeg3DError("the fold does not exist")

    assert run_command(parser, fail, ["--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_exit_code_130(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(options: argparse.Namespace) -> CommandResult:
        raise KeyboardInterrupt

    assert run_command(parser, interrupt, []) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_defect_of_the_program_is_not_hidden(parser: argparse.ArgumentParser) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(parser, fail, [])


def test_log_messages_go_to_stderr_once(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    def report(options: argparse.Namespace) -> CommandResult:
        logging.getLogger("detseg3d.test").info("working")
        logging.getLogger("detseg3d.test").debug("a detail")
        logging.getLogger("detseg3d.test").warning("odd")
        return CommandResult()

    run_command(parser, report, [])
    capsys.readouterr()
    run_command(parser, report, [])
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = [line.split(" ", 1)[1] for line in shown.err.splitlines()]
    assert lines == ["working", "WARNING: odd"]


def test_a_handler_of_the_root_logger_prints_nothing_twice(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(options: argparse.Namespace) -> CommandResult:
        root = logging.StreamHandler()
        logging.getLogger().addHandler(root)
        logging.getLogger("detseg3d.test").info("once")
        logging.getLogger().removeHandler(root)
        return CommandResult()

    run_command(parser, report, [])
    assert capsys.readouterr().err.count("once") == 1
    assert logging.getLogger("detseg3d").propagate


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        ImportError("libgomp.so.1: failed to map segment from shared object"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_a_lack_of_memory_is_a_message_and_exit_code_1(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise error

    assert run_command(parser, fail, []) == 1
    assert capsys.readouterr().err.startswith("detseg3d_test: error: there is not enough memory\n")


def test_an_error_of_the_system_is_a_message_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def function(_: argparse.Namespace) -> CommandResult:
        raise PermissionError(13, "Permission denied", "/data/scans")

    assert run_command(create_parser("detseg3d_x", "", ""), function, []) == 1
    assert capsys.readouterr().err == "detseg3d_x: error: Permission denied\n  file:     /data/scans\n"


def test_a_character_that_the_terminal_lacks_does_not_stop_the_command() -> None:
    script = (
        "from detseg3d.cli.arguments import create_parser\n"
        "from detseg3d.cli.running import CommandResult, run_command\n"
        "parser = create_parser('detseg3d_test', 'Does a test.', 'detseg3d_test')\n"
        "raise SystemExit(run_command(parser, lambda _: print('IoU \\u2265 0.1') or CommandResult(), []))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"IoU ? 0.1")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']"),
        OSError(
            "Matplotlib requires access to a writable cache directory, and a temporary directory could not be created"
        ),
    ],
)
def test_a_missing_folder_for_temporary_files_is_an_error_with_a_remedy(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str], error: OSError
) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise error

    assert run_command(parser, fail, []) == 1
    shown = capsys.readouterr().err
    assert "no folder for temporary files" in shown and "TMPDIR" in shown


@pytest.mark.parametrize("command", ["train", "run"])
def test_missing_docstrings_are_a_clear_error_if_a_library_needs_them(command: str) -> None:
    words = {"train": ["1", "0"], "run": ["--image_dir", "a", "--label_dir", "b", "--output_dir", "c"]}[command]
    done = subprocess.run(
        [sys.executable, "-OO", "-m", f"detseg3d.cli.{command}", *words],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "optimisation level 2" in done.stderr and "PYTHONOPTIMIZE" in done.stderr


IN_A_LOCALE = """
import sys
from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import CommandResult, run_command
def show(options):
    print(sys.getfilesystemencoding(), ascii(options.name), "\u00fc")
    return CommandResult(exit_code=7)
parser = create_parser("detseg3d_test", "Does a test.", "detseg3d_test a")
parser.add_argument("name")
if __name__ == "__main__":
    raise SystemExit(run_command(parser, show))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one encoding of names")
@pytest.mark.parametrize(
    ("variables", "letter"),
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"?"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}, b"\xfc"),
        ({"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, b"?"),
        ({"LC_ALL": "C"}, "ü".encode()),
        ({"LC_ALL": "C.UTF-8"}, "ü".encode()),
    ],
    ids=str,
)
def test_names_are_utf_8_in_every_locale_and_the_terminal_keeps_its_encoding(
    tmp_path: Path, variables: dict[str, str], letter: bytes
) -> None:
    (tmp_path / "script.py").write_text(IN_A_LOCALE, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    for given, seen in ((b"m\xc3\xbcller", "'m\\xfcller'"), (b"m\xfcller", "'m\\udcfcller'")):
        done = subprocess.run(
            [os.fsencode(sys.executable), os.fsencode(tmp_path / "script.py"), given],
            env={**kept, "PYTHONPATH": str(Path(__file__).parents[2]), **variables},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 7, done.stderr
        assert done.stdout.strip() == b"utf-8 " + seen.encode() + b" " + letter


def test_json_prints_one_object_to_stdout_and_text_to_stderr(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(options: argparse.Namespace) -> CommandResult:
        show("a table for people")
        return CommandResult({"cases": ["a", "b"]}, exit_code=1)

    assert run_command(parser, work, ["--json"]) == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["command"] == "detseg3d_test" and document["exit_code"] == 1
    assert document["result"] == {"cases": ["a", "b"]} and document["error"] is None
    assert "a table for people" in shown.err


def test_json_gives_the_fields_of_an_error(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(options: argparse.Namespace) -> CommandResult:
        raise DetSeg3DError("the fold does not exist", file="splits.json", value=9, expected="0 to 4", remedy="choose")

    assert run_command(parser, fail, ["--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == {
        "problem": "the fold does not exist",
        "file": "splits.json",
        "value": "9",
        "expected": "0 to 4",
        "remedy": "choose",
    }
    assert document["exit_code"] == 1
