from __future__ import annotations

import subprocess
import sys

import pytest

from detseg3d import __version__
from detseg3d.cli.commands import COMMANDS
from detseg3d.cli.main import main
from tests.cli.test_help import COMMANDS as SCRIPTS
from tests.cli.test_help import SLOW_LIBRARIES


def test_sub_commands_and_scripts_are_the_same() -> None:
    assert sorted(command.name for command in COMMANDS) == sorted(SCRIPTS)


def test_a_sub_command_runs_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"DetSeg3D {__version__}"


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["-h"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command.name in text for command in COMMANDS)


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert __version__ in capsys.readouterr().out


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: detseg3d" in capsys.readouterr().out


@pytest.mark.parametrize(("word", "meant"), [("tran", "train"), ("detseg3d_predict", "predict")])
def test_an_unknown_command_is_refused_with_the_most_similar_command(
    word: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    assert f"did you mean {meant}?" in capsys.readouterr().err


def test_python_m_detseg3d_lists_the_commands_without_slow_libraries() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['detseg3d', '-h']\n"
        "try:\n    runpy.run_module('detseg3d', run_name='__main__')\n"
        "except SystemExit:\n    pass\n"
        f"print(sorted(set({SLOW_LIBRARIES!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "[]"
