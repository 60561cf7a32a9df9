from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from detseg3d.pipeline.zip_directory import check_zip_directory


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as handle:
        for number in range(5):
            handle.writestr(f"{number}.txt", "text")
    return tmp_path / "a.zip"


@pytest.fixture
def large(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with the larger end that files over 2 GB have: the library is told that this is one."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    with zipfile.ZipFile(archive, "w") as handle:
        for number in range(5):
            handle.writestr(f"{number}.txt", "text")
    assert b"PK\x06\x06" in archive.read_bytes()
    return archive


@pytest.mark.parametrize("form", ["archive", "large"])
def test_a_small_directory_passes(form: str, request: pytest.FixtureRequest) -> None:
    check_zip_directory(request.getfixturevalue(form), 5, 1000)


@pytest.mark.parametrize("form", ["archive", "large"])
@pytest.mark.parametrize(("entries", "size"), [(4, 1000), (5, 100)])
def test_a_large_directory_is_refused(form: str, entries: int, size: int, request: pytest.FixtureRequest) -> None:
    with pytest.raises(ValueError, match="its directory has 5 entries and"):
        check_zip_directory(request.getfixturevalue(form), entries, size)


def test_the_larger_end_is_believed_not_the_smaller(large: Path) -> None:
    """As zipfile does: what it would read is what must be bounded."""
    content = bytearray(large.read_bytes())
    struct.pack_into("<QQQ", content, len(content) - 42 - 56 + 24, 10**9, 10**9, 10**12)
    large.write_bytes(content)
    with pytest.raises(ValueError, match=r"its directory has 1000000000 entries and 1000000000000 bytes"):
        check_zip_directory(large, 5, 1000)


def test_a_locator_that_points_elsewhere_is_refused(large: Path) -> None:
    content = bytearray(large.read_bytes())
    struct.pack_into("<Q", content, len(content) - 42 + 8, 0)
    large.write_bytes(content)
    with pytest.raises(ValueError, match="its end is damaged"):
        check_zip_directory(large, 5, 1000)


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip file at all, but long enough to be one", bytes(200)])
def test_what_is_no_zip_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match="it does not end as a zip file does"):
        check_zip_directory(tmp_path / "a.zip", 5, 1000)


@pytest.mark.parametrize("form", ["archive", "large"])
def test_a_truncated_file_is_refused(form: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(form)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="it does not end as a zip file does"):
        check_zip_directory(path, 5, 1000)


def test_a_comment_is_refused(archive: Path) -> None:
    with zipfile.ZipFile(archive, "a") as handle:
        handle.comment = b"hidden"
    with pytest.raises(ValueError, match="does not end"):
        check_zip_directory(archive, 5, 1000)


def test_something_before_the_zip_file_is_refused(archive: Path) -> None:
    archive.write_bytes(b"#!/bin/sh\n" + archive.read_bytes())
    with pytest.raises(ValueError, match="its directory is not where its end says"):
        check_zip_directory(archive, 5, 1000)
