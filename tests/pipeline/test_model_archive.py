"""Archives that no honest program would write, made here byte by byte, and those that it writes."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from detseg3d.core.errors import DetSeg3DError
from detseg3d.pipeline import model_archive
from detseg3d.pipeline.model_archive import MANIFEST, check_shared_name, is_model_file, unpack_archive, write_archive

PLANS, WEIGHTS = b'{"version": 1}', bytes(range(256)) * 40
FILES = {"fold_0/plans.json": PLANS, "fold_0/model_final.safetensors": WEIGHTS, "dataset.json": b"{}"}
NAME = "Dataset001_Tiny"


def manifest_of(files: dict[str, bytes], /, **changes: Any) -> bytes:
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    data = {"format": "DetSeg3D model", "version": 1, "name": NAME, "made_with": "0.1.0", "files": entries}
    return json.dumps({**data, **changes}).encode()


def make_zip(path: Path, members: Sequence[tuple[str | zipfile.ZipInfo, bytes]], manifest: bytes | None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
        if manifest is not None:
            archive.writestr(MANIFEST, manifest)
    return path


class Place(NamedTuple):
    """Where an archive lies and where it is unpacked; around the latter, what must not change."""

    archive: Path
    folder: Path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "around" / "inside").mkdir(parents=True)
    (tmp_path / "around" / "victim.json").write_text("untouched", encoding="utf-8")
    return Place(tmp_path / "model.zip", tmp_path / "around" / "inside")


@pytest.fixture
def refusal(place: Place) -> Callable[..., str]:
    """Unpack what is no model; the message of the error that must come."""

    def unpack() -> str:
        with pytest.raises(DetSeg3DError) as caught:
            unpack_archive(place.archive, place.folder)
        around = place.folder.parent
        assert sorted(path.name for path in around.iterdir()) == ["inside", "victim.json"]
        assert (around / "victim.json").read_text(encoding="utf-8") == "untouched"
        assert caught.value.file == place.archive
        return str(caught.value)

    return unpack


def hostile(place: Place, *members: tuple[str | zipfile.ZipInfo, bytes], **changes: Any) -> None:
    """An archive with the usual files and these, all of them in its manifest."""
    named = {member if isinstance(member, str) else member.filename: data for member, data in members}
    make_zip(place.archive, [*FILES.items(), *members], manifest_of({**FILES, **named}, **changes))


# -- What is written ---------------------------------------------------------------------------------------------------


def test_files_come_back_to_the_bit(place: Place, tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(WEIGHTS)
    written = write_archive(
        place.archive, NAME, "0.1.0", {**FILES, "fold_0/model_final.safetensors": tmp_path / "weights"}
    )
    assert unpack_archive(place.archive, place.folder) == written
    found = {path.relative_to(place.folder).as_posix(): path for path in place.folder.rglob("*.*")}
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


def test_the_manifest_has_size_and_digest_of_every_file(place: Place) -> None:
    write_archive(place.archive, NAME, "0.1.0", FILES)
    with zipfile.ZipFile(place.archive) as archive:
        assert archive.testzip() is None
        manifest = json.loads(archive.read(MANIFEST))
    assert manifest == json.loads(manifest_of(FILES))


def test_equal_files_give_an_equal_archive(place: Place, tmp_path: Path) -> None:
    write_archive(place.archive, NAME, "0.1.0", FILES)
    write_archive(tmp_path / "again.zip", NAME, "0.1.0", dict(reversed(FILES.items())))
    assert place.archive.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_an_archive_that_the_library_wrote_of_the_same_files_is_taken(place: Place) -> None:
    """The checks below refuse what is wrong with an archive and not that it was made by hand."""
    hostile(place)
    assert set(unpack_archive(place.archive, place.folder).files) == set(FILES)


def test_an_interrupted_export_leaves_the_earlier_file(place: Place, tmp_path: Path) -> None:
    place.archive.write_bytes(b"earlier")
    with pytest.raises(DetSeg3DError, match=r"cannot be written|No such file"):
        write_archive(place.archive, NAME, "0.1.0", {**FILES, "plans.json": tmp_path / "gone"})
    assert place.archive.read_bytes() == b"earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["around", "model.zip"]


# -- Names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../victim.json", "a name leads out of its folder"),
        ("fold_0/../../victim.json", "a name leads out of its folder"),
        ("fold_0/../plans.json", "a name leads out of its folder"),
        ("/tmp/victim.json", "a name is an absolute path"),
        ("C:/victim.json", "a name is an absolute path"),
        ("..\\victim.json", "a name has a backslash"),
        ("fold_0\\plans.json", "a name has a backslash"),
        ("victim.json", "it holds a file that belongs to no model"),
        ("fold_0/checkpoint_latest.pt", "it holds a file that belongs to no model"),
        ("fold_0/model_final.pkl", "it holds a file that belongs to no model"),
        ("fold_00/plans.json", "it holds a file that belongs to no model"),
        ("fold_²/plans.json", "it holds a file that belongs to no model"),
        ("plans.json\n", "it holds a file that belongs to no model"),
        ("./plans.json", "it holds a file that belongs to no model"),
        ("fold_0/validation/a.json", "it holds a file that belongs to no model"),
        ("fold_1/", "it holds a link, a folder or a special file"),
        ("DATASET.json", "it holds the same name twice"),
        ("Plans.json", "it holds a file that belongs to no model"),
    ],
)
def test_names_that_are_not_on_the_list_are_refused(
    place: Place, refusal: Callable[[], str], name: str, message: str
) -> None:
    info = zipfile.ZipInfo("placeholder")
    info.filename = name  # the constructor would clean it
    info.external_attr = (stat.S_IFDIR if name.endswith("/") else stat.S_IFREG) << 16
    hostile(place, (info, b"" if name.endswith("/") else b"{}"))
    assert message in refusal()


def test_a_name_twice_is_refused(place: Place, refusal: Callable[[], str]) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        hostile(place, ("dataset.json", b"[]"))
    assert "it holds the same name twice" in refusal()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_special_files_are_refused(place: Place, refusal: Callable[[], str], kind: int) -> None:
    info = zipfile.ZipInfo("plans.json")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    hostile(place, (info, b"../victim.json"))
    assert "it holds a link, a folder or a special file" in refusal()


def patch_directory(path: Path, name: str, offset: int, form: str, value: int) -> None:
    """Change a field of the entry of ``name`` in the central directory; offsets as in APPNOTE.TXT, 4.3.12."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        position = archive.start_dir
    while content[position + 46 : position + 46 + len(name)] != name.encode():
        name_length, extra, comment = struct.unpack_from("<3H", content, position + 28)
        position += 46 + name_length + extra + comment
    struct.pack_into(form, content, position + offset, value)
    path.write_bytes(content)


@pytest.mark.parametrize("flag", [0x1, 0x40, 0x2000])
def test_encrypted_files_are_refused(place: Place, refusal: Callable[[], str], flag: int) -> None:
    hostile(place)
    patch_directory(place.archive, "dataset.json", 8, "<H", flag)
    assert "it is encrypted" in refusal()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 93])
def test_other_methods_of_packing_are_refused(place: Place, refusal: Callable[[], str], method: int) -> None:
    hostile(place)
    patch_directory(place.archive, "dataset.json", 10, "<H", method)
    assert f"it is packed by an unknown method ({method})" in refusal()


# -- Sizes and digests -------------------------------------------------------------------------------------------------


def test_a_bomb_is_refused_unread(place: Place, refusal: Callable[[], str]) -> None:
    """Ten megabytes of blanks become ten thousand bytes: a thousand to one."""
    hostile(place, ("plans.json", b" " * (10 << 20)))
    assert place.archive.stat().st_size < 40_000
    assert "would become 10485760" in refusal()


def test_a_bomb_under_a_small_size_ends_where_it_is_said_to(place: Place, refusal: Callable[[], str]) -> None:
    data = b" " * (10 << 20)
    files = {**FILES, "plans.json": data}
    make_zip(place.archive, list(files.items()), manifest_of({**FILES, "plans.json": data[:100]}))
    patch_directory(place.archive, "plans.json", 24, "<L", 100)
    assert "it is damaged" in refusal()
    written = place.folder / "plans.json"
    assert not written.exists() or written.stat().st_size <= 100


@pytest.mark.parametrize("stated", [len(WEIGHTS) - 1, len(WEIGHTS) + 1, 0])
def test_the_manifest_and_the_directory_must_state_the_same_size(
    place: Place, refusal: Callable[[], str], stated: int
) -> None:
    name = "fold_0/model_final.safetensors"
    data = json.loads(manifest_of(FILES))
    data["files"][name]["bytes"] = stated
    make_zip(place.archive, list(FILES.items()), json.dumps(data).encode())
    assert f"{name} has another size than its manifest says" in refusal()


@pytest.mark.parametrize("stated", [100, len(WEIGHTS) - 1, len(WEIGHTS) + 1])
def test_what_comes_is_counted_though_directory_and_manifest_lie_alike(
    place: Place, refusal: Callable[[], str], stated: int
) -> None:
    name = "fold_0/model_final.safetensors"
    data = json.loads(manifest_of(FILES))
    data["files"][name]["bytes"] = stated
    make_zip(place.archive, list(FILES.items()), json.dumps(data).encode())
    patch_directory(place.archive, name, 24, "<L", stated)
    assert "refused" in refusal()
    written = place.folder / name
    assert not written.exists() or written.stat().st_size <= len(WEIGHTS)


def test_more_than_the_manifest_states_is_never_written(
    place: Place, refusal: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the library ever give more than it announced, the count of our own ends it."""
    hostile(place)
    read = zipfile.ZipExtFile.read

    def more(self: zipfile.ZipExtFile, count: int = -1) -> bytes:
        data = read(self, count)
        return data + b"more" if data else data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", more)
    monkeypatch.setattr(
        model_archive,
        "_read_manifest",
        lambda *_: model_archive.Manifest.model_validate(json.loads(manifest_of(FILES))),
    )
    assert "is larger than its manifest says" in refusal()


def test_a_wrong_digest_is_refused(place: Place, refusal: Callable[[], str]) -> None:
    changed = bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:]
    name = "fold_0/model_final.safetensors"
    make_zip(place.archive, [*FILES.items()], manifest_of({**FILES, name: changed}))
    assert f"{name} is not the file that its manifest describes" in refusal()


def test_damaged_data_are_refused(place: Place, refusal: Callable[[], str]) -> None:
    write_archive(place.archive, NAME, "0.1.0", FILES)
    content = place.archive.read_bytes()
    place.archive.write_bytes(content.replace(WEIGHTS[:64], WEIGHTS[64:128], 1))
    assert "it is damaged" in refusal()


def test_files_over_the_limit_of_their_kind_are_refused(place: Place, refusal: Callable[[], str]) -> None:
    hostile(place)
    patch_directory(place.archive, "dataset.json", 24, "<L", (64 << 20) + 1)
    assert "a file of 67108865 bytes, more than the 67108864 of its kind" in refusal()


def test_overlapping_files_are_refused(place: Place, refusal: Callable[[], str]) -> None:
    """Entries that share their data multiply it: each must have a local header of its own name."""
    hostile(place, ("plans.json", b"{}"))
    with zipfile.ZipFile(place.archive) as archive:
        target = archive.getinfo("dataset.json").header_offset
    patch_directory(place.archive, "plans.json", 42, "<L", target)
    assert "it is damaged" in refusal()


def test_too_many_files_are_refused_unread(place: Place, refusal: Callable[[], str]) -> None:
    make_zip(place.archive, [(f"{number}.json", b"") for number in range(300)], manifest_of(FILES))
    assert "its directory has 301 entries" in refusal()


def test_a_model_larger_than_the_disk_is_refused_before_it_is_unpacked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile(place)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 100))
    with pytest.raises(DetSeg3DError, match=r"(?s)the disk has no room for the model.*100 bytes are free"):
        unpack_archive(place.archive, place.folder)
    assert list(place.folder.iterdir()) == []


# -- The manifest ------------------------------------------------------------------------------------------------------


def test_an_archive_without_a_manifest_is_refused(place: Place, refusal: Callable[[], str]) -> None:
    make_zip(place.archive, list(FILES.items()), None)
    assert "it has no manifest.json" in refusal()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "its manifest is wrong: format"),
        ({"files": {}}, "its manifest is wrong: files"),
        ({"files": {"plans.json": {"bytes": -1, "sha256": "0" * 64}}}, "its manifest is wrong: files.plans.json.bytes"),
        ({"files": {"plans.json": {"bytes": 1, "sha256": "../x"}}}, "its manifest is wrong: files.plans.json.sha256"),
        ({"files": {"plans.json": {"bytes": "1", "sha256": "0" * 64}}}, "files.plans.json.bytes"),
        ({"command": "rm"}, "its manifest is wrong: command"),
        ({"made_with": "0" * 101}, "its manifest is wrong: made_with"),
        ({"name": "../../Dataset001_Tiny"}, "this is no data set name"),
        ({"name": "Dataset001_../../x"}, "this is no data set name"),
        ({"name": "Dataset001_a:b"}, "cannot be a folder everywhere"),
        ({"name": "Dataset001_\u202egpj"}, "cannot be a folder everywhere"),
        ({"name": "Dataset001_a\x1b[2J"}, "cannot be a folder everywhere"),
        ({"name": "Dataset001_" + "a" * 300}, "cannot be a folder everywhere"),
    ],
)
def test_a_manifest_that_says_other_things_is_refused(
    place: Place, refusal: Callable[[], str], change: dict[str, Any], message: str
) -> None:
    hostile(place, **change)
    assert message in refusal()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b"9" * 5000])
def test_a_manifest_that_is_none_is_refused(place: Place, refusal: Callable[[], str], content: bytes) -> None:
    make_zip(place.archive, list(FILES.items()), content)
    assert "refused" in refusal()


def test_files_that_the_manifest_does_not_name_are_refused(place: Place, refusal: Callable[[], str]) -> None:
    make_zip(place.archive, [*FILES.items(), ("plans.json", b"{}")], manifest_of(FILES))
    assert "its manifest and its files differ" in refusal() and "['plans.json']" in refusal()


def test_files_that_are_missing_are_refused(place: Place, refusal: Callable[[], str]) -> None:
    make_zip(place.archive, list(FILES.items()), manifest_of({**FILES, "plans.json": b"{}"}))
    assert "its manifest and its files differ" in refusal()


def test_a_later_version_of_the_format_asks_for_an_update(place: Place, refusal: Callable[[], str]) -> None:
    hostile(place, version=2)
    text = refusal()
    assert "another version of the format" in text and "update DetSeg3D" in text


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(500), b"text"])
def test_what_is_no_archive_is_refused(place: Place, refusal: Callable[[], str], content: bytes) -> None:
    place.archive.write_bytes(content)
    assert "refused" in refusal()


def test_an_archive_that_is_not_there_is_named(place: Place) -> None:
    with pytest.raises(DetSeg3DError, match=r"(?s)the model file does not exist.*model\.zip"):
        unpack_archive(place.archive, place.folder)


# -- Names of models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAME, "Dataset101_Tumör 2 (neu)", "Dataset1234_a.b-c"])
def test_usual_names_pass(name: str) -> None:
    assert check_shared_name(name) == name


def test_the_list_of_files_knows_all_that_a_model_has() -> None:
    names = ["plans.json", "operating_point.json", "fold_12/plans.json", "fold_all/model_best.safetensors"]
    assert all(is_model_file(name) for name in [*names, *FILES, "cross_validation/metrics.json"])
    assert not is_model_file(MANIFEST)
