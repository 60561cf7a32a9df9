"""Read voxels from raw and compressed streams, with limited work and with checksums compared.

The caller states how many bytes it needs. Memory of exactly this size is allocated, plus a block of one megabyte. A
stream may hold up to :data:`SLACK_BYTES` more than the voxels, because some writers pad their files. A file with more
bytes is refused: its header states a wrong size, or the file was made to keep the reader busy.

If the package isal is installed (extra ``fast``), it unpacks gzip and zlib data in half of the time of :mod:`zlib` or
less. Both compare the same checksums.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import math
import os
import zlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import numpy as np
import numpy.typing as npt

# The package that unpacks gzip and zlib data.
inflate_library: Any = zlib
with contextlib.suppress(ImportError):  # isal is an optional package
    from isal import isal_zlib

    inflate_library = isal_zlib

__all__ = ["SLACK_BYTES", "Encoding", "open_stream", "read_stream"]

Encoding = Literal["raw", "gzip", "zlib", "bzip2"]
"""``gzip`` may have several members. ``zlib`` stands for zlib or gzip, as in MetaImage."""

SLACK_BYTES: Final = 1 << 16
"""Number of tolerated bytes after the voxels. The unpacked stream and the file may each have so many bytes."""

_INPUT_BYTES = 1 << 18
_OUTPUT_BYTES = 1 << 20
# Programs that write many members (bgzip) put 64 KiB into each member. Members below this limit cost time and hold
# almost no bytes, so the number of such members is limited.
_MEMBER_BYTES = 1 << 10
_MAX_SMALL_MEMBERS = 1000
# Deflate cannot unpack one byte to more bytes than this.
_DEFLATE_LIMIT = 1032
_WINDOW_BITS = {"gzip": zlib.MAX_WBITS | 16, "zlib": zlib.MAX_WBITS | 32}


class _Unpacker(Protocol):
    """Common interface of the decompressors of isal, :mod:`zlib` and :mod:`bz2`."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def feed(self, data: bytes) -> bytes: ...


class _Deflated:
    """Decompressor of a zlib or gzip member.

    At the end of the member, the library compares the checksum and, for gzip, the length.
    """

    def __init__(self, window_bits: int) -> None:
        self._object: Any = inflate_library.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        unused: bytes = self._object.unused_data
        return unused

    def feed(self, data: bytes) -> bytes:
        tail = self._object.unconsumed_tail
        try:
            unpacked: bytes = self._object.decompress(tail + data if tail else data, _OUTPUT_BYTES)
        except inflate_library.error as error:
            raise zlib.error(str(error)) from error  # one type of error for both libraries
        return unpacked


class _Bzipped:
    """Decompressor of a bzip2 stream. :mod:`bz2` compares the checksum of every block and of the stream."""

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
    """Unpacked bytes of a file from a position on. :func:`open_stream` creates a stream.

    Attributes
    ----------
    source : io.BufferedIOBase
        The file, open for reading.
    encoding : {"raw", "gzip", "zlib", "bzip2"}
    """

    source: io.BufferedIOBase
    encoding: Encoding
    _unpacker: _Unpacker | None = None
    _waiting: bytes = b""  # unpacked and not yet returned
    _taken: int = 0
    _members: int = field(default=1)

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes; fewer only at the end of the stream."""
        if self.encoding == "raw":
            return self.source.read(count)
        parts = []
        while count > 0 and (piece := self._next(count)):
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)

    def fill(self, target: memoryview) -> int:
        """Fill ``target`` with the next bytes and return their number."""
        filled = 0
        if self.encoding == "raw":
            while filled < len(target) and (count := self.source.readinto(target[filled:])):
                filled += count
            return filled
        while filled < len(target) and (piece := self._next(len(target) - filled)):
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def position(self) -> int:
        """Return the position in the file after the bytes unpacked so far; exact at the end of a member."""
        unused = 0 if self._unpacker is None else len(self._unpacker.unused_data)
        return self.source.tell() - unused

    def finish(self, alone: bool = True) -> None:
        """Unpack the current member to its end, so that its checksum is compared, and check that few bytes follow.

        Parameters
        ----------
        alone : bool, optional
            True if only padding may follow in the file. False if raw voxels share the file with other data.

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
        """Return an upper limit of the bytes still to come, computed from the size of the file without unpacking."""
        left = _left(self.source)
        if self.encoding == "raw":
            return left
        # A bzip2 block of some 40 bytes may hold 45 MB of zeros, so the size of the file is not a useful limit.
        return math.inf if self.encoding == "bzip2" else (self.source.tell() + left) * _DEFLATE_LIMIT

    def _next(self, count: int) -> bytes:
        """Return up to ``count`` of the next unpacked bytes; no bytes at the end of the stream."""
        while not self._waiting:
            unpacker = self._unpacker
            assert unpacker is not None
            if unpacker.eof:
                rest = unpacker.unused_data or self.source.read(_INPUT_BYTES)
                if not rest.strip(b"\0"):  # padding, or the end
                    return b""
                self._members += 1
                if self._members > _MAX_SMALL_MEMBERS + self._taken // _MEMBER_BYTES:
                    raise ValueError(f"it begins with {self._members - 1} compressed parts that hold almost no bytes")
                self._unpacker = _unpacker(self.encoding)
                self._waiting = self._unpacker.feed(rest)
            else:
                self._waiting = self._unpack()
        piece, self._waiting = self._waiting[:count], self._waiting[count:]
        self._taken += len(piece)
        return piece

    def _unpack(self) -> bytes:
        """Unpack the next bytes of the current member; may return no bytes although the member has not ended."""
        assert self._unpacker is not None
        piece = self._unpacker.feed(b"")
        if piece or self._unpacker.eof:
            return piece
        data = self.source.read(_INPUT_BYTES)
        if not data:
            raise EOFError("the compressed data have no end mark: the file is cut off")
        return self._unpacker.feed(data)


def _unpacker(encoding: Encoding) -> _Unpacker:
    return _Bzipped() if encoding == "bzip2" else _Deflated(_WINDOW_BITS[encoding])


def open_stream(source: io.BufferedIOBase, encoding: Encoding) -> Stream:
    """Return a stream of the unpacked bytes of ``source``, from its current position on.

    Parameters
    ----------
    source : io.BufferedIOBase
        A regular file, open for reading.
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
    """Read voxels, compare the checksums of their data, and check that few bytes follow.

    Parameters
    ----------
    stream : Stream
        From :func:`open_stream`.
    dtype : dtype
        Data type of the voxels, in the byte order of the file.
    count : int
        Number of voxels.
    skip : int, optional
        Bytes of the unpacked stream before the voxels.
    alone : bool, optional
        See :meth:`Stream.finish`.

    Returns
    -------
    ndarray, shape ``(count,)``
        In the machine's byte order.

    Raises
    ------
    EOFError, ValueError, OSError, zlib.error
        If the stream is damaged, or holds too few or far too many bytes.
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
    """Return the number of bytes from the current position of a file to its end."""
    current = source.tell()
    end = source.seek(0, os.SEEK_END)
    source.seek(current)
    return end - current
