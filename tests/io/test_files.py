from __future__ import annotations

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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[1e999]", "1e999 is too large"),
        ("[9223372036854775808]", "9223372036854775808… is too large"),
        (f"[{'1' * 30}]", "1111… is too large"),
        (f"[{'1' * 5000}]", "1111… is too large"),  # Python itself refuses these with an error of its own
        ("[" * 101 + "1" + "]" * 101, "nested deeper than 100 levels"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": 1} x', "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
    ],
)
def test_json_that_could_not_be_worked_with_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DetSeg3DError, match=message) as error:
        read_json(tmp_path / "a.json")
    assert error.value.file == tmp_path / "a.json"


def test_what_is_read_can_be_written_again(tmp_path: Path) -> None:
    text = "[" * 100 + "-9223372036854775808, 9223372036854775807, 1e-999, 1e308" + "]" * 100
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    data = read_json(tmp_path / "a.json")
    write_json(data, tmp_path / "b.json")
    assert read_json(tmp_path / "b.json") == data


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": 1}
