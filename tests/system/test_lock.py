from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.lock import locked

SCRIPT = """
import sys, time
from pathlib import Path
from detseg3d.system.lock import locked
with locked(Path(sys.argv[1]), "testing", "taken", shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_elsewhere(file: Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Hold the lock in another process, which is killed at the end."""
    words = [sys.executable, "-c", SCRIPT, str(file), kind]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def take(file: Path, shared: bool = False) -> None:
    with locked(file, "trying", "the folder is in use", shared=shared):
        pass


@pytest.mark.parametrize(("theirs", "ours"), [("whole", False), ("whole", True), ("shared", False)])
def test_a_lock_that_another_process_holds_is_refused_with_its_holder(tmp_path: Path, theirs: str, ours: bool) -> None:
    file = tmp_path / "new" / ".lock"
    with held_elsewhere(file, theirs) as process:
        with pytest.raises(DetSeg3DError) as caught:
            take(file, ours)
        assert caught.value.problem == "the folder is in use"
        assert caught.value.file == file.parent
        who = str(caught.value.value)
        assert f"process {process.pid} on {os.uname().nodename}, testing since 20" in who
    take(file, ours)  # its process has ended
    assert list(file.parent.iterdir()) == []


def test_empty_folders_created_for_a_lock_are_removed_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / ".lock", "testing", "taken"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "file"]


def test_several_processes_share_a_lock_and_all_are_named(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    with held_elsewhere(file, "shared") as first, held_elsewhere(file, "shared") as second:
        take(file, shared=True)
        with pytest.raises(DetSeg3DError) as caught:
            take(file)
        assert all(f"process {process.pid} " in str(caught.value.value) for process in (first, second))
        first.kill()
        first.wait()
        with pytest.raises(DetSeg3DError) as caught:
            take(file)
        assert f"process {first.pid} " not in str(caught.value.value)
    take(file)


def test_many_processes_can_take_a_shared_lock_at_the_same_time(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom detseg3d.system.lock import locked\n"
        "for _ in range(200):\n    with locked(Path(sys.argv[1]), 'x', 'taken', shared=True): pass\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path / ".lock")]
    processes = [subprocess.Popen(words, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]


def test_only_one_process_holds_an_exclusive_lock(tmp_path: Path) -> None:
    """Each process adds one to a number in a file. Without a lock, some additions would be lost."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom detseg3d.system import lock\n"
        "lock._SECONDS_BETWEEN_TRIES = 0.0005\nnumber = Path(sys.argv[2])\n"
        "for _ in range(60):\n    with lock.locked(Path(sys.argv[1]), 'x', 'taken', wait=True):\n"
        "        value = int(number.read_text())\n        number.write_text(str(value + 1))\n"
    )
    (tmp_path / "number").write_text("0", encoding="ascii")
    words = [sys.executable, "-c", script, str(tmp_path / ".lock"), str(tmp_path / "number")]
    processes = [subprocess.Popen(words, cwd=Path(__file__).parents[2]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "number").read_text(encoding="ascii") == "180"


def test_a_waiting_process_logs_the_holder_and_continues_when_the_holder_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "detseg3d")
    with held_elsewhere(tmp_path / ".lock", "whole") as process:
        os.kill(process.pid, signal.SIGSTOP)  # the process still holds the lock
        subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
        start = time.monotonic()
        with locked(tmp_path / ".lock", "waiting", "taken", wait=True):
            assert time.monotonic() - start > 0.3
        assert f"waiting for process {process.pid} on" in caplog.text


@pytest.mark.parametrize("left", [b"", b"{", b"\xff\x00", b"[1]\n", b'{"process": 1}\n', b"9" * 100_000])
def test_the_lock_file_of_a_dead_process_locks_nothing(tmp_path: Path, left: bytes) -> None:
    (tmp_path / ".lock").write_bytes(left)
    take(tmp_path / ".lock")
    take(tmp_path / ".lock", shared=True)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_can_be_used_without_a_lock(tmp_path: Path) -> None:
    """Several people may train from one read-only preprocessed data set."""
    (tmp_path / "file").touch()
    with locked(tmp_path / "file" / ".lock", "training", "taken", shared=True):
        pass
    with locked(Path("/proc/self/.lock"), "training", "taken", shared=True):
        pass


def test_a_link_with_the_name_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious", encoding="utf-8")
    (tmp_path / ".lock").symlink_to("target")
    take(tmp_path / ".lock")
    assert (tmp_path / "target").read_text(encoding="utf-8") == "precious"


def test_a_file_system_without_locks_is_logged_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_descriptor: int, shared: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("detseg3d.system.lock._lock", refuse)
    take(tmp_path / ".lock")
    assert "does not support locks (No locks available)" in caplog.text and str(tmp_path) in caplog.text


def test_the_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / ".lock", "failing", "taken"):
        raise ZeroDivisionError
    take(tmp_path / ".lock")
    assert list(tmp_path.iterdir()) == []
