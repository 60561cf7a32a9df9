from __future__ import annotations

import functools
import logging
import os
import signal
import subprocess
import sys
import time
import weakref
from multiprocessing.connection import Connection

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.engine import CaseResult
from detseg3d.system.run import Run
from detseg3d.system.workers import describe_failures, run_cases

# Functions for worker processes are defined at module level, because spawned workers import them.


def square(number: int) -> int:
    return number * number


def slow_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return number


def kill_on_two(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def exit_on_one(number: int) -> int:
    if number == 1:
        os._exit(3)
    return number


def exit_without_an_error(number: int) -> int:
    if number == 1:
        os._exit(0)
    return number


def call_sys_exit(_: int) -> None:
    sys.exit(3)


def log_and_kill_on_one(number: int) -> int:
    if number == 1:
        log_warning(number)
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def kill_in_the_middle_of_the_answer_on_one(number: int) -> int:
    if number == 1:

        def send_half(connection: Connection, message: bytes) -> None:
            os.write(connection.fileno(), len(message).to_bytes(4, "big") + bytes(message[: len(message) // 2]))
            os.kill(os.getpid(), signal.SIGKILL)

        Connection._send_bytes = send_half  # type: ignore[attr-defined]
    return number


def fail_with(error: Exception) -> None:
    raise error


class AwkwardError(Exception):
    """Error that cannot be unpickled, because its constructor needs more arguments than the message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def raise_awkward(_: int) -> None:
    raise AwkwardError("not", "portable")


def return_lambda(_: int) -> object:
    return lambda: None


def log_warning(number: int) -> None:
    logging.getLogger("detseg3d.tests").warning("case %d is odd", number)


def process_id(_: int) -> int:
    time.sleep(0.02)
    return os.getpid()


def thread_limit(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def interrupt_is_blocked(_: int) -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def array_threads(_: int) -> str | None:
    return os.environ.get("BLOSC_NTHREADS")


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize("processes", [0, 2])
def test_values_come_in_the_order_of_the_items(processes: int) -> None:
    results = run_cases(slow_first, [0, 1, 2, 3], Run(processes))
    assert results == [CaseResult(number, value=number) for number in range(4)]


@pytest.mark.parametrize("processes", [0, 2])
def test_no_items_give_no_results(processes: int) -> None:
    assert run_cases(square, [], Run(processes)) == []


@pytest.mark.parametrize("processes", [0, 2])
def test_a_failing_case_keeps_type_and_message_and_stops_no_other(processes: int) -> None:
    errors = [ValueError("bad voxel"), KeyError("case"), DetSeg3DError("no such file", file="a.nii", value=3)]
    results = run_cases(fail_with, errors, Run(processes))
    assert [(type(result.error), str(result.error)) for result in results] == [(type(e), str(e)) for e in errors]
    assert all("fail_with" in result.traceback for result in results)


def test_a_package_error_keeps_its_parts_across_processes() -> None:
    (result,) = run_cases(fail_with, [DetSeg3DError("no such file", value=3, remedy="look")], Run(1))
    assert isinstance(result.error, DetSeg3DError)
    assert (result.error.problem, result.error.value, result.error.remedy) == ("no such file", 3, "look")


def test_in_process_work_stays_in_this_process() -> None:
    assert run_cases(process_id, [0], Run(0))[0].value == os.getpid()


def test_work_is_shared_among_processes() -> None:
    used = {result.value for result in run_cases(process_id, list(range(12)), Run(2))}
    assert len(used) == 2
    assert os.getpid() not in used


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_worker_is_an_error_of_its_case_only(processes: int) -> None:
    results = run_cases(kill_on_two, list(range(5)), Run(processes))
    assert [result.value for result in results] == [0, 1, None, 3, 4]
    assert isinstance(results[2].error, DetSeg3DError)
    assert results[2].error.value == "SIGKILL"


def test_a_worker_that_exits_is_an_error_of_its_case_only() -> None:
    results = run_cases(exit_on_one, [0, 1, 2], Run(1))
    assert [result.value for result in results] == [0, None, 2]
    assert isinstance(results[1].error, DetSeg3DError)
    assert results[1].error.value == "exit code 3"


def test_a_worker_that_exits_without_an_error_is_an_error_of_its_case_only() -> None:
    results = run_cases(exit_without_an_error, [0, 1, 2], Run(1))
    assert [result.value for result in results] == [0, None, 2]
    assert isinstance(results[1].error, DetSeg3DError)
    assert results[1].error.value == "exit code 0"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_worker_killed_in_the_middle_of_its_answer_is_an_error_of_its_case_only(processes: int) -> None:
    results = run_cases(kill_in_the_middle_of_the_answer_on_one, list(range(5)), Run(processes))
    assert [result.value for result in results] == [0, None, 2, 3, 4]
    assert isinstance(results[1].error, DetSeg3DError)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
def test_log_records_of_a_killed_worker_reach_this_process(caplog: pytest.LogCaptureFixture) -> None:
    run_cases(log_and_kill_on_one, [0, 1], Run(1))
    assert [record.getMessage() for record in caplog.records] == ["case 1 is odd"]


def test_a_call_of_sys_exit_is_an_error_of_its_case() -> None:
    (result,) = run_cases(call_sys_exit, [0], Run(1))
    assert str(result.error) == "SystemExit: 3"


def test_the_exit_code_is_reported_on_systems_without_sigkill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows does not define SIGKILL."""
    monkeypatch.delattr(signal, "SIGKILL", raising=False)
    (result,) = run_cases(exit_on_one, [1], Run(1))
    assert isinstance(result.error, DetSeg3DError)
    assert result.error.value == "exit code 3"


def test_an_exception_that_cannot_be_pickled_is_described() -> None:
    (result,) = run_cases(raise_awkward, [0], Run(1))
    assert isinstance(result.error, RuntimeError)
    assert str(result.error) == "AwkwardError: not portable"


def test_a_value_that_cannot_be_pickled_is_an_error_of_its_case() -> None:
    results = run_cases(return_lambda, [0], Run(1))
    assert "lambda" in str(results[0].error)


def test_an_item_that_cannot_be_pickled_is_an_error_of_its_case() -> None:
    results = run_cases(square, [2, lambda: None, 3], Run(1))  # type: ignore[list-item]
    assert [result.value for result in results] == [4, None, 9]
    assert results[1].error is not None


def test_a_partial_function_is_accepted() -> None:
    assert run_cases(functools.partial(add, b=10), [1], Run(1))[0].value == 11


def test_log_records_of_workers_reach_this_process(caplog: pytest.LogCaptureFixture) -> None:
    run_cases(log_warning, [1, 3], Run(2))
    assert sorted(record.getMessage() for record in caplog.records) == ["case 1 is odd", "case 3 is odd"]


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert run_cases(thread_limit, [0, 1], Run(2))[0].value == "4"


def test_workers_write_arrays_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several threads, the bytes of a preprocessed case would depend on the order in which the threads finish."""
    monkeypatch.delenv("BLOSC_NTHREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert run_cases(array_threads, [0], Run(1))[0].value == "1"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks on Windows")
def test_an_interrupt_never_reaches_a_worker_not_even_while_it_starts() -> None:
    """A terminal sends Ctrl-C to all processes, and the imports of a worker take seconds."""
    assert run_cases(interrupt_is_blocked, [0], Run(1))[0].value is True
    assert not interrupt_is_blocked(0)


def test_a_script_without_main_guard_fails_with_the_remedy_and_does_not_hang(tmp_path: os.PathLike[str]) -> None:
    script = f"{tmp_path}/script.py"
    with open(script, "w", encoding="utf-8") as handle:
        handle.write(
            "from detseg3d.system.run import Run\n"
            "from detseg3d.system.workers import run_cases\n"
            "run_cases(abs, [1, 2], Run(2))\n"
        )
    done = subprocess.run([sys.executable, script], capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert done.returncode != 0
    assert "if __name__ == '__main__'" in done.stderr


def test_each_failure_is_described_on_its_own_line() -> None:
    results = [
        CaseResult("a", value=1),
        CaseResult("b", error=ValueError("bad")),
        CaseResult("c", error=DetSeg3DError("missing", file="c.nii")),
    ]
    assert describe_failures(results) == "  b: ValueError: bad\n  c: missing\n      file:     c.nii"


def test_a_long_list_of_failures_is_shortened() -> None:
    results = [CaseResult(number, error=ValueError("bad")) for number in range(25)]
    lines = describe_failures(results, limit=3).splitlines()
    assert lines[2:] == ["  2: ValueError: bad", "  and 22 more"]


def test_no_failure_gives_an_empty_description() -> None:
    assert describe_failures([CaseResult("a", value=1)]) == ""


def fail_with_missing_memory(text: str) -> None:
    if text:
        raise RuntimeError(text)
    raise MemoryError


@pytest.mark.parametrize("processes", [0, 1])
def test_missing_memory_is_an_error_of_its_case(processes: int) -> None:
    items = ["", "std::bad_alloc", "DefaultCPUAllocator: can't allocate memory", "another reason"]
    results = run_cases(fail_with_missing_memory, items, Run(processes))
    assert [type(result.error) for result in results] == [DetSeg3DError] * 3 + [RuntimeError]
    assert [result.error.value for result in results[:3]] == [None, *items[1:3]]  # type: ignore[union-attr]


def test_a_failed_case_releases_its_arrays() -> None:
    kept: list[weakref.ref[set[int]]] = []

    def fail(number: int) -> None:
        large = {number}
        kept.append(weakref.ref(large))
        try:
            raise ValueError("inner")
        except ValueError as error:
            raise KeyError("outer") from error

    results = run_cases(fail, [1, 2])
    assert all(isinstance(result.error, KeyError) for result in results)
    assert "inner" in results[0].traceback
    assert [reference() for reference in kept] == [None, None]


def test_no_progress_bar_is_drawn_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert [result.value for result in run_cases(abs, [-1])] == [1]
