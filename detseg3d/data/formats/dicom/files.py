"""Find the DICOM objects of a folder tree, and the files that should be DICOM objects but are not.

:func:`find_dicom_files` states which files are skipped without a message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import check_regular_file, open_regular_file

__all__ = [
    "DICOM_ENDINGS",
    "find_dicom_files",
    "first_dicom_file",
    "is_dicom_file",
    "is_dicom_folder",
    "is_other_kind",
    "like_slices",
    "not_dicom",
]

MAX_FILES = 100_000
_MAX_FOLDER_DEPTH = 16

DICOM_ENDINGS = frozenset({".dcm", ".dicom", ".dic", ".dc3", ".ima"})
# Files of these kinds lie beside slices in exports, on discs and after conversions. They are never opened.
_OTHER_ENDINGS_TEXT = """
    .json .jsonl .txt .csv .tsv .xml .html .htm .css .js .pdf .md .log .ini .inf .cfg .yaml .yml .toml .db .sqlite
    .jpg .jpeg .png .gif .bmp .tif .tiff .svg .ico .zip .gz .tar .7z .rar .nii .mha .mhd .zraw .raw .nrrd .nhdr .seg
    .npy .npz .hdr .bval .bvec .bvals .bvecs .mat .py .sh .bat .exe .dll .so .jar .lnk .url .doc .docx .xls .xlsx .ppt
    .pptx .sha1 .sha256 .md5 .license .tmp .bak .plist
"""
_OTHER_ENDINGS = frozenset(_OTHER_ENDINGS_TEXT.split())
_OTHER_NAMES = frozenset(
    {
        "dicomdir",
        "readme",
        "license",
        "lockfile",
        "version",
        "copying",
        "changelog",
        "thumbs.db",
        "autorun",
        "checksums",
    }
)


@dataclass(frozen=True)
class DicomFiles:
    """Files of a folder tree.

    Attributes
    ----------
    paths : tuple of Path
        Files that begin like DICOM objects, sorted by path.
    other_count : int
        Number of files of other kinds.
    """

    paths: tuple[Path, ...]
    other_count: int


def is_dicom_file(path: str | Path) -> bool:
    """Return whether a file begins like a DICOM object, with or without the preamble. Its name does not matter."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        with open_regular_file(path) as handle:
            return _begins_as_dicom(handle.read(132))
    except OSError:
        return False


def is_dicom_folder(path: str | Path, *, recursive: bool = True) -> bool:
    """Return whether a folder holds a DICOM object, or a file with an ending of :data:`DICOM_ENDINGS`.

    Parameters
    ----------
    path : path
    recursive : bool, optional
        Search subfolders as well, as in exports of a PACS (PATIENT/STUDY/SERIES).
    """
    folder = Path(path)
    if not folder.is_dir():
        return False
    files = _walk(folder) if recursive else _entries(folder)
    return any(
        entry.is_file() and not is_other_kind(entry) and (entry.suffix.lower() in DICOM_ENDINGS or is_dicom_file(entry))
        for entry in files
    )


def first_dicom_file(folder: Path) -> Path | None:
    """Return the first file of a folder tree that begins like a DICOM object, or ``None``."""
    return next((path for path in _walk(folder) if not is_other_kind(path) and is_dicom_file(path)), None)


def find_dicom_files(folder: Path) -> DicomFiles:
    """List the DICOM objects of a folder and of its subfolders.

    Some files are skipped without a message: hidden files (with a leading dot), usual companions of series
    (``DICOMDIR``, ``README``, ``Thumbs.db``, …), files with the ending of another format (``.json``, ``.txt``,
    ``.nii.gz``, …), and other files that are not DICOM objects and do not look like slices.

    A file that looks like a slice but is not a DICOM object is an error, so an empty or overwritten slice is never
    skipped. A file looks like a slice if its name ends in ``.dcm``, ``.dicom``, ``.dic``, ``.dc3`` or ``.ima``, or if
    it has the same ending as a DICOM object in the same folder. In this comparison, all names without an ending agree.
    A number at the end of a name, as in ``1.2.840.5``, is not an ending.

    Parameters
    ----------
    folder : path

    Raises
    ------
    DetSeg3DError
        If a file looks like a slice but is not a DICOM object, if an entry is not a regular file (a pipe, a device), or
        if the folder holds more than :data:`MAX_FILES` files.
    """
    paths: list[Path] = []
    doubtful: list[Path] = []
    other_count = 0
    for path in _walk(folder):
        if is_other_kind(path):
            other_count += 1
            continue
        if not path.exists():  # a broken symbolic link
            doubtful.append(path)
            continue
        check_regular_file(path)
        if _is_readable_dicom(path):
            paths.append(path)
        else:
            doubtful.append(path)
    for path in like_slices(doubtful, paths):
        raise not_dicom(path)
    return DicomFiles(tuple(paths), other_count + len(doubtful))


def like_slices(others: Iterable[Path], objects: Iterable[Path]) -> list[Path]:
    """Return the files that look like slices although they are not DICOM objects (:func:`find_dicom_files`).

    Parameters
    ----------
    others : iterable of Path
        Files that are not DICOM objects.
    objects : iterable of Path
        DICOM objects, of which some may lie in the same folder.
    """
    endings: dict[Path, set[str]] = {}
    for path in objects:
        endings.setdefault(path.parent, set()).add(_ending(path))
    return [path for path in others if _ending(path) in DICOM_ENDINGS | endings.get(path.parent, set())]


def is_other_kind(path: Path) -> bool:
    """Return whether the name of a file is that of a companion of series, or has the ending of another format."""
    return path.suffix.lower() in _OTHER_ENDINGS or path.name.lower() in _OTHER_NAMES


def _is_readable_dicom(path: Path) -> bool:
    try:
        with open_regular_file(path) as handle:
            return _begins_as_dicom(handle.read(132))
    except OSError as error:
        raise DetSeg3DError(
            "the file cannot be opened", file=path, value=str(error), remedy="check its permissions"
        ) from error


def not_dicom(path: Path) -> DetSeg3DError:
    """Return the error for a file that looks like a slice but is not a DICOM object."""
    size = path.stat().st_size if path.exists() else None
    description = "a broken link" if size is None else "an empty file" if size == 0 else f"{size} bytes"
    return DetSeg3DError(
        "a file among the DICOM files is not a DICOM object: it is empty, damaged or of another kind",
        file=path,
        value=description,
        expected="a DICOM object, as its name or the files beside it suggest",
        remedy="export the series again, or move the file away if it is not a slice",
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted by path. A link to a folder is followed once."""
    seen: set[tuple[int, int]] = set()
    count = 0
    waiting = [(folder, 0)]
    while waiting:
        current, depth = waiting.pop()
        status = current.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        below = []
        for entry in _entries(current):
            count += 1
            if count > MAX_FILES:
                raise DetSeg3DError(
                    "the folder holds too many files for a DICOM series",
                    file=folder,
                    value=f"more than {MAX_FILES}",
                    remedy="give the folder of one series or one study",
                )
            if not entry.is_dir():
                yield entry
            elif depth < _MAX_FOLDER_DEPTH:
                below.append((entry, depth + 1))
            else:
                raise DetSeg3DError(
                    "the folders are nested too deeply",
                    file=entry,
                    expected=f"at most {_MAX_FOLDER_DEPTH} levels",
                    remedy="give the folder of one series or one study",
                )
        waiting.extend(reversed(below))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith((".", "__MACOSX")))
    except OSError as error:
        raise DetSeg3DError(
            "the folder cannot be listed", file=folder, value=str(error), remedy="check its permissions"
        ) from error


def _ending(path: Path) -> str:
    suffix = path.suffix.lower()
    return "" if suffix[1:].isdigit() else suffix


def _begins_as_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are the start of a DICOM object.

    They end with ``DICM``. In a file without this preamble, they begin with an element of group 2 or 8.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    little = head[0:2] in (b"\x02\x00", b"\x08\x00") and head[3] == 0
    big = head[0:2] in (b"\x00\x02", b"\x00\x08") and head[2] == 0
    if not (little or big):
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or int.from_bytes(head[4:8], "little" if little else "big") < 1 << 16
