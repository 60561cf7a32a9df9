from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detseg3d.system.files import atomic_files, write_text
from detseg3d.system.signals import Interruption, interruptible, postponed
from detseg3d.system.workers import run_cases

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
ROOT = Path(__file__).parents[2]
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]

SLEEPING_WORKERS = """
import sys, time
from pathlib import Path
from detseg3d.cli.arguments import create_parser
from detseg3d.cli.running import CommandResult, run_command
from detseg3d.system.workers import run_cases
from detseg3d.system.run import Run
def sleep(path):
    Path(path).touch()
    time.sleep(60)
if __name__ == "__main__":
    parser = create_parser("tool", "", "")
    sys.exit(run_command(parser, lambda options: run_cases(sleep, sys.argv[1:], Run(2)) and CommandResult(), []))
"""


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """The process that runs the tests may ignore some signals, as nohup does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_raise_an_interruption_that_names_them(number: signal.Signals) -> None:
    with pytest.raises(Interruption, match=number.name) as caught, interruptible():
        signal.raise_signal(number)
    assert caught.value.number == number
    assert isinstance(caught.value, KeyboardInterrupt)  # handled like Ctrl-C by other code


def test_earlier_signal_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with interruptible(), postponed():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_ignored(number: signal.Signals) -> None:
    """nohup ignores SIGHUP, and shells ignore SIGINT for background jobs."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with interruptible(), postponed() as interruption:
            signal.raise_signal(number)
            assert interruption.number is None
    finally:
        signal.signal(number, before)


def test_a_postponed_signal_waits_until_the_check() -> None:
    done = []
    with pytest.raises(Interruption, match="SIGTERM"), postponed() as interruption:
        interruption.check()
        signal.raise_signal(signal.SIGTERM)
        done.append("step")
        interruption.check()
        done.append("next step")
    assert done == ["step"]


def test_a_postponed_signal_is_raised_at_the_end_of_the_context() -> None:
    done = []
    with pytest.raises(Interruption, match="SIGINT"):
        with postponed():
            signal.raise_signal(signal.SIGINT)
            done.append("inside")
        done.append("behind")
    assert done == ["inside"]


def test_a_second_interrupt_does_not_wait() -> None:
    done = []
    with pytest.raises(Interruption, match="SIGINT"), postponed():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("too late")
    assert done == []


def test_signals_of_two_kinds_count_once() -> None:
    """Under torchrun, Ctrl-C of the terminal is followed by SIGTERM of torchrun."""
    done = []
    with pytest.raises(Interruption, match="SIGINT"), postponed():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        done.append("step")
    assert done == ["step"]


def library_that_fails(_: object = None) -> None:
    """Drop the exception of a signal, as compiled code may do if it calls Python when the signal arrives."""
    try:
        signal.raise_signal(signal.SIGTERM)
    except KeyboardInterrupt:
        raise ValueError("could not determine the shape") from None


def library_that_swallows(_: object = None) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


def test_an_error_after_a_signal_becomes_an_interruption() -> None:
    with pytest.raises(Interruption, match="SIGTERM") as caught, interruptible():
        library_that_fails()
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_without_a_signal_stays_unchanged() -> None:
    with pytest.raises(ValueError, match="ours"), interruptible():
        raise ValueError("ours")


def test_a_swallowed_signal_is_raised_at_the_end() -> None:
    with pytest.raises(Interruption, match="SIGTERM"), interruptible():
        library_that_swallows()


@pytest.mark.parametrize("library", [library_that_fails, library_that_swallows])
def test_no_further_case_runs_after_a_lost_interruption(library: Callable[[object], None]) -> None:
    done = []

    def work(case: int) -> None:
        done.append(case)
        if case == 1:
            library(case)

    with pytest.raises(Interruption, match="SIGTERM"), interruptible():
        run_cases(work, [0, 1, 2])
    assert done == [0, 1]


def test_nothing_is_written_after_a_signal_that_was_swallowed(tmp_path: Path) -> None:
    with pytest.raises(Interruption), interruptible():
        library_that_swallows()
        write_text("made of what the library left", tmp_path / "a.txt")
    with pytest.raises(Interruption), interruptible(), atomic_files(tmp_path, "record.json") as place:
        (place / "record.json").touch()
        library_that_swallows()
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_written_while_a_signal_is_postponed(tmp_path: Path) -> None:
    with pytest.raises(Interruption), interruptible(), postponed():
        signal.raise_signal(signal.SIGTERM)
        write_text("whole", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").exists()


def test_after_a_context_its_signal_is_forgotten(tmp_path: Path) -> None:
    with pytest.raises(Interruption), interruptible():
        library_that_swallows()
    with interruptible():
        write_text("x", tmp_path / "a.txt")


def test_an_error_is_not_hidden_by_a_postponed_signal() -> None:
    with pytest.raises(ZeroDivisionError), postponed():
        signal.raise_signal(signal.SIGTERM)
        raise ZeroDivisionError


def test_no_handler_is_installed_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with interruptible(), postponed():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def sleeping(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a command with two sleeping workers; return it and the other process numbers of its session."""
    script = folder / "tool.py"
    script.write_text(SLEEPING_WORKERS, encoding="utf-8")
    marks = [folder / "a", folder / "b"]
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, marks)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not all(mark.exists() for mark in marks):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    return process, [number for number in in_session(process.pid) if number != process.pid]


def in_session(session: int) -> list[int]:
    """Return the numbers of the running processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of_session = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(entry.name))
    return found


def gone(session: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while in_session(session):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("whole_group", [False, True], ids=["the command", "its whole group"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_prints_one_line_and_ends_its_workers(
    number: signal.Signals, code: int, whole_group: bool, tmp_path: Path
) -> None:
    process, workers = sleeping(tmp_path)
    assert len(workers) >= 2
    if whole_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (code, f"tool: interrupted ({number.name})\n")
    assert gone(process.pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_command(tmp_path: Path) -> None:
    process, workers = sleeping(tmp_path)
    assert len(workers) >= 2
    process.kill()
    process.communicate(timeout=60)
    assert gone(process.pid)
