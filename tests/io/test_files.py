from __future__ import annotations

import os
from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.io.files import atomic_path, read_json, write_json, write_text


def test_a_written_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    write_text("ä\n", tmp_path / "new" / "a b.txt")
    assert (tmp_path / "new" / "a b.txt").read_text(encoding="utf-8") == "ä\n"
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["a b.txt"]


def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_rest(tmp_path: Path) -> None:
    write_text("old", tmp_path / "a.txt")
    with pytest.raises(RuntimeError, match="power cut"), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError("power cut")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_temporary_name_keeps_the_ending(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith("scan.nii.gz")
        assert temporary.parent == tmp_path
        temporary.touch()


def test_an_impossible_folder_is_an_error_with_the_target_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DetSeg3DError, match=r"cannot be written(.|\n)*file/a\.txt"):
        write_text("x", tmp_path / "file" / "a.txt")


def test_json_round_trip(tmp_path: Path) -> None:
    data = {"a": [1, 2.5, None], "ü": "x"}
    write_json(data, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == data


def test_nan_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_json_is_readable_text_and_keeps_names_that_are_no_unicode(tmp_path: Path) -> None:
    write_json({"size": "2×3"}, tmp_path / "a.json")
    assert "2×3" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_json({"name": "\udc80"}, tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") == {"name": "\udc80"}


@pytest.mark.parametrize("size", [99, 100, 101])
def test_a_file_may_have_so_many_bytes_and_no_more(tmp_path: Path, size: int) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"1".ljust(size))
    if size <= 100:
        assert read_json(path, most_bytes=100) == 1
    else:
        with pytest.raises(DetSeg3DError, match=r"(?s)larger than any of its kind.*101 bytes.*at most 100"):
            read_json(path, most_bytes=100)


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 100_000, b"{", b"NaN,"])
def test_what_is_no_json_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(DetSeg3DError, match="not valid JSON"):
        read_json(tmp_path / "data.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.json")
    with pytest.raises(DetSeg3DError, match="this is no regular file"):
        read_json(tmp_path / "data.json")
