from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import (
    atomic_files,
    atomic_path,
    check_regular_file,
    check_writable,
    copy_file,
    open_regular_file,
    read_bounded,
    remove_files,
    remove_stale,
    write_text,
)
from detseg3d.system.json_files import read_json


def test_writing_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    write_text("ä\n", tmp_path / "new" / "a b.txt")
    assert (tmp_path / "new" / "a b.txt").read_text(encoding="utf-8") == "ä\n"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a b.txt"]


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_text("old", tmp_path / "a.txt")
    with pytest.raises(RuntimeError, match="power cut"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("power cut")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_flushed_while_it_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to flush files that are not open for writing. The error would look like a full disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: os.write(descriptor, b""))
    write_text("whole", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "whole"


def test_the_temporary_name_keeps_the_ending(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith("scan.nii.gz")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_an_impossible_folder_is_an_error_with_the_target_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DetSeg3DError, match=r"cannot be written(.|\n)*file/a\.txt"):
        write_text("x", tmp_path / "file" / "a.txt")


# -- What killed processes leave behind --------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from detseg3d.system.files import atomic_files, atomic_path
if sys.argv[2] == "file":
    with atomic_path(sys.argv[1] + "/scan.nii.gz") as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
with atomic_files(sys.argv[1], "record.json") as place:
    (place / "scan.nii.gz").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_behind(folder: Path, what: str) -> Path:
    """Leave the temporary file of a process that was killed while writing."""
    before = set(folder.iterdir())
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder), what], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    [left] = set(folder.iterdir()) - before
    return left


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL on Windows")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_next_writer_removes_the_files_of_a_killed_writer(what: str, tmp_path: Path) -> None:
    left = leave_behind(tmp_path, what)
    assert left.name.startswith(".") and ".partial." in left.name
    write_text("x", tmp_path / "other.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


def test_the_temporary_file_of_a_running_process_stays(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("x", encoding="utf-8")
        remove_stale(tmp_path)
        assert temporary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_the_temporary_file_of_another_machine_stays_for_a_day(tmp_path: Path) -> None:
    elsewhere = tmp_path / ".00000000-1-0.partial.a.txt"
    elsewhere.touch()
    remove_stale(tmp_path)
    assert elsewhere.exists()
    os.utime(elsewhere, (time.time() - 25 * 3600,) * 2)
    remove_stale(tmp_path)
    assert not elsewhere.exists()


def test_hidden_files_of_other_programs_stay(tmp_path: Path) -> None:
    for name in (".hidden", ".partial.a", ".x.partial.a.txt"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    remove_stale(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


# -- Files that belong together ----------------------------------------------------------------------------------------


def write_together(folder: Path, text: str, *names: str) -> None:
    with atomic_files(folder, "rois/a.json") as place:
        for name in (*names, "rois/a.json"):
            write_text(text, place / name)


def read_all(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in files}


def test_files_that_belong_together_are_moved_together(tmp_path: Path) -> None:
    write_together(tmp_path / "new", "1", "a.txt", "instances/a.txt")
    assert read_all(tmp_path / "new") == {"a.txt": "1", "instances/a.txt": "1", "rois/a.json": "1"}
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.txt", "instances", "rois"]


def test_a_failure_leaves_all_the_earlier_files(tmp_path: Path) -> None:
    write_together(tmp_path, "1", "a.txt")
    with pytest.raises(RuntimeError, match="power cut"), atomic_files(tmp_path, "rois/a.json") as place:
        write_text("2", place / "a.txt")
        raise RuntimeError("power cut")
    assert read_all(tmp_path) == {"a.txt": "1", "rois/a.json": "1"}


def test_an_error_names_the_final_path(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught, atomic_files(tmp_path, "rois/a.json") as place:
        (place / "file").touch()
        write_text("x", place / "file" / "a.txt")
    assert caught.value.file == tmp_path / "file" / "a.txt"


def test_an_earlier_record_is_removed_before_the_files_are_replaced(tmp_path: Path) -> None:
    """A process that is killed between two files must not leave the earlier record."""
    write_together(tmp_path, "1", "a.txt")
    script = (
        "import os, pathlib, signal, sys\n"
        "from detseg3d.system import files\n"
        "replace = pathlib.Path.replace\n"
        "def die(path, target):\n"
        "    replace(path, target)\n"
        "    if '.partial.' not in path.name:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with files.atomic_files(sys.argv[1], 'rois/a.json') as place:\n"
        "    for name in ('a.txt', 'b.txt', 'rois/a.json'):\n"
        "        files.write_text('2', place / name)\n"
        "    pathlib.Path.replace = die\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert "rois/a.json" not in read_all(tmp_path)
    remove_stale(tmp_path)
    write_together(tmp_path, "2", "a.txt", "b.txt")
    assert read_all(tmp_path) == {"a.txt": "2", "b.txt": "2", "rois/a.json": "2"}


def test_removing_a_folder_is_an_error_and_removing_a_missing_file_is_not(tmp_path: Path) -> None:
    remove_files(tmp_path / "nowhere" / "a.txt")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DetSeg3DError, match="an earlier result cannot be removed"):
        remove_files(tmp_path / "folder")


def test_a_copy_is_complete(tmp_path: Path) -> None:
    write_text("ä", tmp_path / "a.txt")
    copy_file(tmp_path / "a.txt", tmp_path / "new" / "b.txt")
    assert read_all(tmp_path / "new") == {"b.txt": "ä"}


@pytest.mark.parametrize("size", [99, 100, 101])
def test_a_file_may_have_the_maximum_size_and_no_more(tmp_path: Path, size: int) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"1".ljust(size))
    if size <= 100:
        assert read_json(path, max_bytes=100) == 1
    else:
        with pytest.raises(DetSeg3DError, match=r"(?s)too large for a file of its kind.*101 bytes.*at most 100"):
            read_json(path, max_bytes=100)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.json")
    with pytest.raises(DetSeg3DError, match="the path is not a regular file"):
        read_json(tmp_path / "data.json")


def test_a_folder_that_cannot_be_written_is_found_beforehand(tmp_path: Path) -> None:
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DetSeg3DError, match="no file can be written to this folder"):
        check_writable(tmp_path / "file")


def special_file(folder: Path, kind: str) -> Path:
    """Create a special file, on which a reader would wait or find no content."""
    path = folder / "special"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "pipe behind a link":
        os.mkfifo(folder / "pipe")
        path.symlink_to("pipe")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))  # a socket's path may have 108 bytes at most
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("pipe", "a named pipe (FIFO)"),
        ("pipe behind a link", "a named pipe (FIFO)"),
        ("socket", "a socket"),
        ("device", "a device"),
        ("folder", "a folder"),
    ],
)
def test_opening_a_special_file_is_refused(tmp_path: Path, kind: str, found: str) -> None:
    path = special_file(tmp_path, kind)
    for read in (open_regular_file, check_regular_file, lambda file: read_bounded(file, 10), read_json):
        with pytest.raises(DetSeg3DError) as error:
            read(path)
        assert (error.value.file, error.value.value) == (path, found)


def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a")
    monkeypatch.setattr("detseg3d.system.files.check_regular_file", lambda path: None)
    with pytest.raises(DetSeg3DError) as error:
        open_regular_file(tmp_path / "a")
    assert error.value.value == "a named pipe (FIFO)"


def test_a_link_to_a_regular_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to("a")
    with open_regular_file(tmp_path / "b") as handle:
        assert handle.read() == b"content"
    with pytest.raises(FileNotFoundError):
        open_regular_file(tmp_path / "gone")


def test_reading_a_small_file_needs_little_memory_for_any_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    tracemalloc.start()
    assert read_bounded(tmp_path / "a", 1 << 40) == b"content"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


# -- Little memory, doubled keys, text that is no text -----------------------------------------------------------------


@pytest.mark.parametrize("most", [0, 1, 5, 6, 7, 3 << 20])
def test_reading_stops_at_the_limit_even_if_the_size_is_unknown(tmp_path: Path, most: int) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    if most < 6:
        with pytest.raises(DetSeg3DError):
            read_bounded(tmp_path / "a", most)
    else:
        assert read_bounded(tmp_path / "a", most) == b"abcdef"
    if Path("/proc/self/status").exists():  # its size is given as 0
        if most < 100:
            with pytest.raises(DetSeg3DError):
                read_bounded(Path("/proc/self/status"), most)
        else:
            assert read_bounded(Path("/proc/self/status"), most).startswith(b"Name:")


@pytest.mark.parametrize("text", ["lesion \ud800", "\udcff\udcfe", "ä \udfff 𝄞"])
def test_text_with_lone_surrogates_is_written_with_their_numbers(tmp_path: Path, text: str) -> None:
    write_text(text, tmp_path / "a.md")
    written = (tmp_path / "a.md").read_text(encoding="utf-8")
    assert written == "".join(f"\\u{ord(c):04x}" if 0xD800 <= ord(c) < 0xE000 else c for c in text)


# -- Copies and permissions --------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask of the process until the test ends."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="no umask on Windows")
@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("of_library", [0o600, 0o777, 0o400])
def test_permissions_follow_the_umask_for_any_permissions_of_the_library(
    tmp_path: Path, umask: Callable[[int], int], mask: int, of_library: int
) -> None:
    umask(mask)
    for _ in range(2):  # a new file, then a replaced file
        with atomic_path(tmp_path / "model") as temporary:
            descriptor = os.open(temporary, os.O_CREAT | os.O_WRONLY, of_library)
            os.close(descriptor)
            temporary.chmod(of_library)
        assert (tmp_path / "model").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
@pytest.mark.parametrize("by_system", [True, False, None])
def test_a_copy_is_independent_of_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, by_system: bool | None
) -> None:
    """``None`` stands for a system call that ends after a part of the file."""
    if by_system is None:
        monkeypatch.setattr(os, "copy_file_range", partial_copy, raising=False)
    elif not by_system:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    content = os.urandom(size)
    (tmp_path / "source").write_bytes(content)
    copy_file(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    assert (tmp_path / "copy").stat().st_nlink == 1
    (tmp_path / "copy").write_bytes(b"edited")
    assert (tmp_path / "source").read_bytes() == content


def partial_copy(source: int, target: int, count: int) -> int:
    """Write the beginning of a file and then fail, as between different file systems."""
    os.write(target, os.read(source, min(count, 1000)))
    raise OSError("not here")


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError) as caught:
        copy_file(tmp_path / "gone", tmp_path / "copy")
    assert caught.value.file == tmp_path / "gone"
    assert list(tmp_path.iterdir()) == []
