"""A model as one zip file: what may be in it, how it is written, and how it is unpacked if a stranger made it.

The archive holds files by a fixed list of names and a manifest with the size and the digest of each. Nothing that it
says is believed before it is checked: names are compared with the list, sizes are counted while the data come, digests
are computed. What is unpacked is data; whether it is a model is for :mod:`detseg3d.pipeline.exchange` to say.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.roots import check_dataset_name
from detseg3d.pipeline.zip_directory import check_zip_directory
from detseg3d.system.files import atomic_path, open_regular_file, parse_json

__all__ = [
    "MANIFEST",
    "FileEntry",
    "Manifest",
    "check_shared_name",
    "is_model_file",
    "unpack_archive",
    "write_archive",
]

MANIFEST: Final = "manifest.json"
FORMAT: Final = "DetSeg3D model"
FORMAT_VERSION: Final = 1

MEGABYTE: Final = 1 << 20
MOST_ENTRIES: Final = 256
MOST_DIRECTORY_BYTES: Final = MEGABYTE
MOST_BYTES: Final = 64 << 30  # of all files together
MOST_RATIO: Final = 200  # unpacked to packed; weights hardly shrink, JSON some ten times, zeros a thousand times
_FOLD = r"fold_(?:0|[1-9]\d?|all)"
# All that a model may consist of, and the most bytes of each.
_KINDS: Final = (
    (re.compile(r"(?:plans|operating_point)\.json", re.ASCII), 16 * MEGABYTE),
    (re.compile(r"(?:dataset|dataset_fingerprint)\.json", re.ASCII), 64 * MEGABYTE),
    (re.compile(r"cross_validation/metrics\.json", re.ASCII), 64 * MEGABYTE),
    (re.compile(_FOLD + r"/(?:plans|appearance)\.json", re.ASCII), 16 * MEGABYTE),
    # The largest network that plans may ask for, and its header.
    (re.compile(_FOLD + r"/model_(?:final|best)\.safetensors", re.ASCII), 2_000_000_000 + 8 * MEGABYTE),
)
_CHUNK = MEGABYTE
# Characters that some system forbids in names.
_FORBIDDEN = frozenset('<>:"/\\|?*')


class FileEntry(BaseModel):
    """Size and digest of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What an archive says of itself.

    Attributes
    ----------
    format, version
        Of the archive, not of the model.
    name : str
        ``DatasetXXX_Name``.
    made_with : str
        Version of DetSeg3D.
    files : dict of str to FileEntry
        Every file but the manifest, by its name in the archive.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["DetSeg3D model"] = FORMAT
    version: Literal[1] = FORMAT_VERSION
    name: str
    made_with: Annotated[str, Field(max_length=100)]
    files: Annotated[dict[str, FileEntry], Field(min_length=1, max_length=MOST_ENTRIES - 1)]


def is_model_file(name: str) -> bool:
    """Whether ``name`` (with ``/``) is that of a file of a model."""
    return _most_bytes(name) is not None


def _most_bytes(name: str) -> int | None:
    return next((most for pattern, most in _KINDS if pattern.fullmatch(name)), None)


def check_shared_name(name: str) -> str:
    """Return ``name`` if it can be the folder of a data set on every system.

    Raises
    ------
    DetSeg3DError
        If it is no name of a data set, or has characters that a system forbids or nobody sees.
    """
    check_dataset_name(name)
    if (
        len(name.encode("utf-8", "replace")) > 200
        or name[-1] in ". "
        or not name.isprintable()
        or _FORBIDDEN & set(name)
    ):
        raise DetSeg3DError(
            "the name of the data set cannot be a folder everywhere",
            value=name,
            expected=f"at most 200 bytes, none of {''.join(sorted(_FORBIDDEN))}, no full stop at the end",
            remedy="choose another with --name, or rename the folder",
        )
    return name


# -- Writing -----------------------------------------------------------------------------------------------------------


def write_archive(path: Path, name: str, made_with: str, files: Mapping[str, Path | bytes]) -> Manifest:
    """Write an archive, atomically. Equal files give an equal archive, byte for byte.

    Parameters
    ----------
    path : Path
    name : str
        Of the model: ``DatasetXXX_Name``.
    made_with : str
        Version of DetSeg3D.
    files : mapping
        Name in the archive to where the file is, or to its content.

    Raises
    ------
    DetSeg3DError
        If a file cannot be read or is larger than archives hold, or the archive cannot be written.
    """
    entries = {}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for member in sorted(files):
            most, content = _most_bytes(member), files[member]
            assert most is not None, f"{member} is no file of a model"
            size = len(content) if isinstance(content, bytes) else content.stat().st_size
            if size > most:
                raise DetSeg3DError(
                    "the file is larger than a model may have it", file=member, value=size, expected=f"at most {most}"
                )
            with archive.open(_member(member), "w", force_zip64=size > MEGABYTE << 10) as target:
                entries[member] = _pack(content, target)
        manifest = Manifest(name=name, made_with=made_with, files=entries)
        archive.writestr(_member(MANIFEST), manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _member(name: str) -> zipfile.ZipInfo:
    """An entry that says nothing of when and where it was made."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    info.compress_type = zipfile.ZIP_STORED if name.endswith(".safetensors") else zipfile.ZIP_DEFLATED
    return info


def _pack(content: Path | bytes, target: IO[bytes]) -> FileEntry:
    if isinstance(content, bytes):
        target.write(content)
        return FileEntry(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    digest, size = hashlib.sha256(), 0
    with open_regular_file(content) as source:
        while block := source.read(_CHUNK):
            target.write(block)
            digest.update(block)
            size += len(block)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


# -- Unpacking ---------------------------------------------------------------------------------------------------------


def unpack_archive(path: Path, folder: Path) -> Manifest:
    """Unpack an archive that anybody may have made.

    Parameters
    ----------
    path : Path
    folder : Path
        Exists and is empty. If an error is raised, what is in it is worth nothing.

    Raises
    ------
    DetSeg3DError
        If the file is no zip file, holds anything that is not on the list of a model's files, names a file twice,
        links, encrypts, leaves its folder, grows beyond what the manifest states or the disk has room for, or if a
        digest is wrong.
    """
    with _reading(path):
        check_zip_directory(path, MOST_ENTRIES, MOST_DIRECTORY_BYTES)
        with open_regular_file(path) as opened, zipfile.ZipFile(opened) as archive:
            members = {info.orig_filename: info for info in archive.infolist()}
            _check_names(archive.infolist(), path)
            manifest = _read_manifest(archive, members, path)
            _check_sizes(manifest, members, path)
            _check_room(manifest, folder)
            for name, entry in manifest.files.items():
                with archive.open(members[name]) as source:
                    _unpack(source, folder.joinpath(*name.split("/")), entry, name, path)
    return manifest


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the standard library says of a broken archive is one error to the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise DetSeg3DError("the model file does not exist", file=path, remedy="check the path") from error
    except (zipfile.BadZipFile, zlib.error, struct.error) as error:
        raise _refused(path, f"it is damaged ({error})") from error
    # NotImplementedError is a RuntimeError: methods and versions that the library does not know.
    except (EOFError, ValueError, RuntimeError, OverflowError) as error:
        raise _refused(path, str(error) or type(error).__name__) from error
    except OSError as error:
        raise DetSeg3DError(f"the model cannot be unpacked: {error.strerror or error}", file=path) from error


def _refused(path: Path, why: str, value: object = None, expected: str | None = None) -> DetSeg3DError:
    return DetSeg3DError(
        f"the model file is refused: {why}",
        file=path,
        value=value,
        expected=expected,
        remedy="fetch it again, or ask whoever made it for a file that detseg3d_export_model wrote",
    )


def _check_names(infos: list[zipfile.ZipInfo], path: Path) -> None:
    for info in infos:
        why = _objection(info)
        if why is not None:
            raise _refused(path, why, info.orig_filename[:200])
    counts = Counter(info.orig_filename.casefold() for info in infos)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise _refused(path, "it holds the same name twice", twice[0])


def _objection(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry of the directory, if anything is."""
    name, mode = info.orig_filename, info.external_attr >> 16
    if "\\" in name:
        return "a name has a backslash"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "a name is an absolute path"
    if ".." in name.split("/"):
        return "a name leads out of its folder"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "it holds a link, a folder or a special file"
    if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, masked directory
        return "it is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"it is packed by an unknown method ({info.compress_type})"
    most = 16 * MEGABYTE if name == MANIFEST else _most_bytes(name.casefold())
    if most is None:
        return "it holds a file that belongs to no model"
    if info.file_size > most:
        return f"a file of {info.file_size} bytes, more than the {most} of its kind"
    if info.file_size > MEGABYTE and info.file_size > MOST_RATIO * info.compress_size:
        return f"{info.compress_size} bytes would become {info.file_size}"
    return None


def _read_manifest(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], path: Path) -> Manifest:
    if MANIFEST not in members:
        raise _refused(path, f"it has no {MANIFEST}")
    with archive.open(members[MANIFEST]) as source:
        data: Any = parse_json(source.read(members[MANIFEST].file_size + 1).decode("utf-8"))
    if isinstance(data, dict) and data.get("format") == FORMAT and data.get("version") != FORMAT_VERSION:
        raise DetSeg3DError(
            "the model file has another version of the format",
            file=path,
            value=data.get("version"),
            expected=str(FORMAT_VERSION),
            remedy="update DetSeg3D",
        )
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:80] for part in first["loc"])
        raise _refused(path, f"its manifest is wrong: {where}: {first['msg']}") from error
    try:
        check_shared_name(manifest.name)
    except DetSeg3DError as error:
        raise _refused(path, error.problem, manifest.name[:200], error.expected) from error
    return manifest


def _check_sizes(manifest: Manifest, members: Mapping[str, zipfile.ZipInfo], path: Path) -> None:
    """The manifest and the directory must agree on what there is, before anything of it is read."""
    different = set(manifest.files) ^ (set(members) - {MANIFEST})
    if different:
        raise _refused(path, "its manifest and its files differ", sorted(name[:200] for name in different)[:3])
    unknown = [name for name in manifest.files if not is_model_file(name)]
    if unknown:
        raise _refused(path, "it holds a file that belongs to no model", unknown[0])
    for name, entry in manifest.files.items():
        if members[name].file_size != entry.bytes:
            raise _refused(path, f"{name} has another size than its manifest says", members[name].file_size)
    total = sum(entry.bytes for entry in manifest.files.values())
    if total > MOST_BYTES or total > MOST_RATIO * path.stat().st_size + MEGABYTE:
        raise _refused(path, f"{path.stat().st_size} bytes would become {total}")


def _check_room(manifest: Manifest, folder: Path) -> None:
    needed, free = sum(entry.bytes for entry in manifest.files.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise DetSeg3DError(
            "the disk has no room for the model",
            file=folder.parent,
            value=f"{free} bytes are free",
            expected=f"{needed} bytes",
            remedy="free some, or choose another place with --results",
        )


def _unpack(source: IO[bytes], target: Path, entry: FileEntry, name: str, path: Path) -> None:
    """Write one file and count what comes: the header may say anything."""
    target.parent.mkdir(exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with open(target, "xb") as handle:
        while block := source.read(_CHUNK):
            size += len(block)
            if size > entry.bytes:
                raise _refused(path, f"{name} is larger than its manifest says", size)
            digest.update(block)
            handle.write(block)
        handle.flush()
        os.fsync(handle.fileno())
    if size != entry.bytes:
        raise _refused(path, f"{name} is smaller than its manifest says", size)
    if digest.hexdigest() != entry.sha256:
        raise _refused(path, f"{name} is not the file that its manifest describes", digest.hexdigest(), entry.sha256)
