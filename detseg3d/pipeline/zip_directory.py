"""The end of a zip file, looked at before the standard library reads what it points to.

``zipfile`` reads the whole central directory into memory and makes an object of every entry. Its size and the number of
its entries stand at the end of the file (APPNOTE.TXT of PKWARE, sections 4.3.14 to 4.3.16), so a directory of gigabytes
can be refused before.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from detseg3d.system.files import open_regular_file

__all__ = ["check_zip_directory"]

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")


def check_zip_directory(path: Path, most_entries: int, most_bytes: int) -> None:
    """Check that a zip file ends with a directory of bounded size, with nothing after it and nothing between.

    Raises
    ------
    ValueError
        If it does not.
    DetSeg3DError
        If it is not a regular file.
    OSError
        If the file cannot be read.
    """
    with open_regular_file(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        tail_length = min(size, _END.size + _LOCATOR.size + _END_64.size)
        handle.seek(size - tail_length)
        tail = handle.read(tail_length)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise ValueError("it does not end as a zip file does")
    _, disk, first_disk, here, entries, length, offset, comment = _END.unpack(tail[-_END.size :])
    if disk or first_disk or here != entries or comment:
        raise ValueError("it is a part of several files, or carries a comment")
    end = size - _END.size
    locator = tail[: -_END.size][-_LOCATOR.size :]
    if locator[:4] == b"PK\x06\x07":
        # Then the numbers of the larger record count, for which the reader looks just before the locator.
        if (
            len(tail) < tail_length
            or tail_length < _END.size + _LOCATOR.size + _END_64.size
            or tail[:4] != b"PK\x06\x06"
        ):
            raise ValueError("its end is damaged")
        end -= _LOCATOR.size + _END_64.size
        _, _, _, _, disk, first_disk, here, entries, length, offset = _END_64.unpack(tail[: _END_64.size])
        if disk or first_disk or here != entries or _LOCATOR.unpack(locator)[2] != end:
            raise ValueError("its end is damaged")
    if entries > most_entries or length > most_bytes:
        raise ValueError(f"its directory has {entries} entries and {length} bytes")
    if offset + length != end:
        raise ValueError("its directory is not where its end says")
