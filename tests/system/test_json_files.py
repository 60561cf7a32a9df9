from __future__ import annotations

from pathlib import Path

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.json_files import read_json, write_json


def test_written_json_is_read_back(tmp_path: Path) -> None:
    data = {"a": [1, 2.5, None], "ü": "x"}
    write_json(data, tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == data


def test_nan_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"a": float("nan")}, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_missing_invalid_and_unreadable_files_give_different_errors(tmp_path: Path) -> None:
    with pytest.raises(DetSeg3DError, match="does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(DetSeg3DError, match="not valid JSON"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DetSeg3DError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_json_is_readable_text_and_keeps_names_that_are_not_unicode(tmp_path: Path) -> None:
    write_json({"size": "2×3"}, tmp_path / "a.json")
    assert "2×3" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_json({"name": "\udc80"}, tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") == {"name": "\udc80"}


@pytest.mark.parametrize("content", [b"9" * 5000, b"[" * 100_000, b"{", b"NaN,"])
def test_invalid_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(DetSeg3DError, match="not valid JSON"):
        read_json(tmp_path / "data.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is not allowed"),
        ("[-Infinity]", "-Infinity is not allowed"),
        ("[1e999]", "1e999 is too large"),
        ("[9223372036854775808]", "9223372036854775808… is too large"),
        (f"[{'1' * 30}]", "1111… is too large"),
        (f"[{'1' * 5000}]", "1111… is too large"),  # Python itself raises another error for these
        ("[" * 101 + "1" + "]" * 101, "nested deeper than 100 levels"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": 1} x', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
    ],
)
def test_json_beyond_the_limits_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError, match=message) as error:
        read_json(tmp_path / "a.json")
    assert error.value.file == tmp_path / "a.json"


def test_json_at_the_limits_can_be_written_again(tmp_path: Path) -> None:
    text = "[" * 100 + "-9223372036854775808, 9223372036854775807, 1e-999, 1e308" + "]" * 100
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    data = read_json(tmp_path / "a.json")
    write_json(data, tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") == data


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}


def test_missing_memory_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_memory(_path: Path, _max_bytes: int) -> bytes:
        raise MemoryError

    (tmp_path / "a.json").write_text("[1, 2]", encoding="utf-8")
    monkeypatch.setattr("detseg3d.system.json_files.read_bounded", without_memory)
    with pytest.raises(DetSeg3DError) as caught:
        read_json(tmp_path / "a.json")
    assert (caught.value.file, caught.value.value) == (tmp_path / "a.json", "6 bytes")


@pytest.mark.parametrize(
    ("text", "key"),
    [('{"labels": {}, "labels": {"a": 1}}', "labels"), ('[{"b": {"id": 1, "x": 2, "id": 1}}]', "id")],
)
def test_a_repeated_key_is_refused(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError, match=f"'{key}'") as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.file == tmp_path / "a.json"
