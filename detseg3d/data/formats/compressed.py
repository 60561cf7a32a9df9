"""Voxels from raw and compressed streams: never more work than a header asks for, and checksums always compared.

The caller states how many bytes it needs. They go into memory of exactly that size, and only a block of a megabyte is
held beside it. A stream may hold up to :data:`SLACK_BYTES` more than the voxels, because some writers pad their files.
Beyond that the file is refused: its header states a wrong size, or it was made to keep the reader busy.
"""

from __future__ import annotations

import bz2
import io
import math
import os
import zlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["SLACK_BYTES", "Encoding", "open_stream", "read_stream"]

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]
"""``gzip`` may have several members; ``zlib`` may be either of zlib and gzip, as MetaImage has it."""

SLACK_BYTES: Final = 1 << 16
"""Bytes behind the voxels that are tolerated: in the unpacked stream, and again in the file."""

_INPUT_BYTES = 1 << 18
_OUTPUT_BYTES = 1 << 20
# Writers of many members (bgzip) put 64 KiB into each. A member of less than this costs more than its bytes are worth.
_MEMBER_BYTES = 1 << 10
_MAX_SMALL_MEMBERS = 1000
# Unpacking cannot give more than this for each byte.
_DEFLATE_LIMIT = 1032
_WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "zlib": zlib.MAX_WBITS | 32}


class _Unpacker(Protocol):
    """What :mod:`zlib` and :mod:`bz2` have in common once their input is kept for them."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes: ...


class _Deflated:
    """A zlib or gzip member; :mod:`zlib` compares the checksum, and for gzip the length, at its end."""

    def __init__(self, window_bits: int) -> None:
        self._object = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def feed(self, data: bytes) -> bytes:
        tail = self._object.unconsumed_tail
        return self._object.decompress(tail + data if tail else data, _OUTPUT_BYTES)


class _Bzipped:
    """A bzip2 stream; :mod:`bz2` compares the checksum of every block and of the stream."""

    def __init__(self) -> None:
        self._object = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    def feed(self, data: bytes) -> bytes:
        return self._object.decompress(data, _OUTPUT_BYTES)


@dataclass
class Stream:
    """The unpacked bytes of a file, from one position on; see :func:`open_stream`."""

    source: io.BufferedIOBase
    encoding: Encoding
    _unpacker: _Unpacker | None = None
    _waiting: bytes = b""  # unpacked and not yet taken
    _taken: int = 0
    _members: int = field(default=1)

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; fewer only at the end of the stream."""
        if self.encoding == "raw":
            return self.source.read(count)
        parts = []
        while count > 0 and (piece := self._next(count)):
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)

    def fill(self, target: memoryview) -> int:
        """Fill ``target``; returns how many bytes there were."""
        done = 0
        if self.encoding == "raw":
            while done < len(target) and (count := self.source.readinto(target[done:])):
                done += count
            return done
        while done < len(target) and (piece := self._next(len(target) - done)):
            target[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def position(self) -> int:
        """Position in the file behind what was unpacked so far; exact at the end of a compressed part."""
        unused = 0 if self._unpacker is None else len(self._unpacker.unused_data)
        return self.source.tell() - unused

    def finish(self, alone: bool = True) -> None:
        """Go to the end of what holds the last byte taken, so that its checksum is compared; look for too much behind.

        ``alone`` may be false where raw voxels share their file with others.

        Raises
        ------
        ValueError
            If more than :data:`SLACK_BYTES` follow.
        """
        behind = 0
        if self._unpacker is not None:
            behind = len(self._waiting)
            self._waiting = b""
            while not self._unpacker.eof and behind <= SLACK_BYTES:
                behind += len(self._unpack())
            if behind <= SLACK_BYTES:
                behind = len(self._unpacker.unused_data)
        if (alone or behind > SLACK_BYTES) and behind + _left(self.source) > SLACK_BYTES:
            raise ValueError(
                f"more than {SLACK_BYTES} bytes follow the voxels: the header states another size than the data have"
            )

    def max_bytes(self) -> float:
        """At least as many bytes as can still come: by the size of the file, before memory is taken for them."""
        left = _left(self.source)
        if self.encoding == "raw":
            return left
        # A bzip2 block of some 40 bytes may hold 45 MB of zeros: no limit worth stating.
        return math.inf if self.encoding == "bzip2" else (self.source.tell() + left) * _DEFLATE_LIMIT

    def _next(self, count: int) -> bytes:
        """Up to ``count`` of the next unpacked bytes; none at the end of the stream."""
        while not self._waiting:
            unpacker = self._unpacker
            assert unpacker is not None
            if unpacker.eof:
                rest = unpacker.unused_data or self.source.read(_INPUT_BYTES)
                if not rest.strip(b"\0"):  # padding, or the end
                    return b""
                self._members += 1
                if self._members > _MAX_SMALL_MEMBERS + self._taken // _MEMBER_BYTES:
                    raise ValueError(f"it begins with {self._members - 1} compressed parts that hold next to nothing")
                self._unpacker = _unpacker(self.encoding)
                self._waiting = self._unpacker.feed(rest)
            else:
                self._waiting = self._unpack()
        piece, self._waiting = self._waiting[:count], self._waiting[count:]
        self._taken += len(piece)
        return piece

    def _unpack(self) -> bytes:
        """The next bytes of a member that has not ended; none only where a piece of it adds no bytes, or it ends."""
        assert self._unpacker is not None
        piece = self._unpacker.feed(b"")
        if piece or self._unpacker.eof:
            return piece
        data = self.source.read(_INPUT_BYTES)
        if not data:
            raise EOFError("the compressed data end before their end is marked: the file is cut off")
        return self._unpacker.feed(data)


def _unpacker(encoding: Encoding) -> _Unpacker:
    return _Bzipped() if encoding == "bzip2" else _Deflated(_WINDOW_BITS[encoding])


def open_stream(source: io.BufferedIOBase, encoding: Encoding) -> Stream:
    """The unpacked bytes of ``source`` from its present position on.

    Parameters
    ----------
    source : io.BufferedIOBase
        A regular file that was opened for reading.
    encoding : {"raw", "gzip", "zlib", "bzip2"}

    Returns
    -------
    Stream

    Examples
    --------
    >>> open_stream(io.BytesIO(zlib.compress(b"voxels")), "zlib").read(3)
    b'vox'
    """
    return Stream(source, encoding, None if encoding == "raw" else _unpacker(encoding))


def read_stream(
    stream: Stream, dtype: np.dtype[Any], count: int, skip: int = 0, alone: bool = True
) -> npt.NDArray[Any]:
    """Read ``count`` voxels, compare the checksum of all that holds them, and check that little follows.

    Parameters
    ----------
    stream : Stream
        Of :func:`open_stream`.
    dtype : dtype
        Of the voxels, in the file's byte order.
    count : int
        Number of voxels.
    skip : int, optional
        Bytes of the unpacked stream before the voxels.
    alone : bool, optional
        Whether nothing but the voxels should be there, apart from :data:`SLACK_BYTES`.

    Returns
    -------
    ndarray, shape ``(count,)``
        In the machine's byte order.

    Raises
    ------
    EOFError, ValueError, OSError, zlib.error
        If the stream is damaged, holds fewer voxels, or far more.
    MemoryError
        If the voxels do not fit in memory.

    Examples
    --------
    >>> stream = open_stream(io.BytesIO(zlib.compress(bytes([0, 1, 0, 2]))), "zlib")
    >>> read_stream(stream, np.dtype(">u2"), 2).tolist()
    [1, 2]
    """
    needed = count * dtype.itemsize
    if needed + skip > stream.max_bytes():
        raise EOFError(_too_few(needed))
    while skip > 0:
        passed = len(stream.read(min(skip, _OUTPUT_BYTES)))
        if passed == 0:
            raise EOFError(_too_few(needed))
        skip -= passed
    voxels = np.empty(count, dtype)
    if stream.fill(voxels.view(np.uint8).data) < needed:
        raise EOFError(_too_few(needed))
    stream.finish(alone)
    if not dtype.isnative:
        voxels = voxels.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return voxels


def _too_few(needed: int) -> str:
    return f"its header claims more voxels than the file holds ({needed} bytes)"


def _left(source: io.BufferedIOBase) -> int:
    """Bytes between the position of a file and its end."""
    here = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(here)
    return end - here
