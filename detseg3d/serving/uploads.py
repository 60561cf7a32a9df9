"""Receive the files of a client: ``multipart/form-data``, or ``multipart/related`` as in DICOMweb STOW.

The body is written to the disk while it arrives, so memory does not depend on its size. All limits are checked on the
bytes that arrive, not on the sizes that the client states.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from io import BufferedWriter
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from detseg3d.data.formats.endings import file_ending
from detseg3d.serving.records import UploadedFile
from detseg3d.serving.refusal import RefusalError
from detseg3d.serving.settings import ServiceLimits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["receive_files", "too_large"]

_PIECE_BYTES = 1 << 20
_MAX_NAME_LENGTH = 200
_KINDS = ("multipart/form-data", "multipart/related")


async def receive_files(
    body: AsyncIterator[bytes], content_type: str, folder: Path, limits: ServiceLimits
) -> tuple[UploadedFile, ...]:
    """Write the files of a request into a folder.

    Parameters
    ----------
    body : async iterator of bytes
    content_type : str
        Header of the request.
    folder : Path
        An empty folder. The names of the files in it are numbers with a known ending.
    limits : ServiceLimits

    Returns
    -------
    tuple of UploadedFile
        In the order of the request; at least one file.

    Raises
    ------
    RefusalError
        If the body is not valid (400), too large (413), of another kind (415) or too slow (408), or if the disk is full
        (507).
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind.decode("latin-1").lower() not in _KINDS or not boundary:
        raise RefusalError(
            415,
            "the content type of the request is not read",
            value=content_type[:_MAX_NAME_LENGTH],
            expected="multipart/form-data or multipart/related, with a boundary",
            remedy="send the files as a form: curl -F file=@scan.nii.gz",
        )
    receiver = _Receiver(folder, limits, is_form=kind.lower() == b"multipart/form-data")
    try:
        parser = MultipartParser(boundary, receiver.callbacks())
        with anyio.fail_after(limits.max_upload_seconds):
            await _parse(body, parser, limits.max_upload_bytes)
        parser.finalize()
    except TimeoutError as error:
        raise RefusalError(
            408, "the upload took too long", expected=f"at most {limits.max_upload_seconds:g} seconds"
        ) from error
    except FormParserError as error:
        raise RefusalError(400, f"the body of the request is not a valid form: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RefusalError(
                507, "the disk of the service is full", remedy="try again later", retry_after=60
            ) from error
        raise
    finally:
        receiver.close()
    if not receiver.is_complete:
        raise RefusalError(400, "the body of the request ended too early", remedy="send it again")
    if not receiver.files:
        raise RefusalError(400, "the request holds no file", remedy="send at least one file: curl -F file=@scan.nii.gz")
    return tuple(receiver.files)


async def _parse(body: AsyncIterator[bytes], parser: MultipartParser, max_bytes: int) -> None:
    """Give a body to the parser in large pieces. The parser writes to the disk, so it runs in another thread."""
    waiting: list[bytes] = []
    size = total = 0
    async for piece in body:
        total += len(piece)
        if total > max_bytes:
            raise too_large(max_bytes)
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE_BYTES:
            await asyncio.to_thread(parser.write, b"".join(waiting))
            waiting.clear()
            size = 0
    await asyncio.to_thread(parser.write, b"".join(waiting))


def too_large(max_bytes: int) -> RefusalError:
    """Return the error of an upload beyond the limit."""
    return RefusalError(
        413,
        "the upload is too large",
        expected=f"at most {max_bytes} bytes",
        remedy="compress or crop the scan, or start the service with a larger --max_upload_gb",
    )


class _Receiver:
    """The state of one request: the header of the present part, and its file."""

    def __init__(self, folder: Path, limits: ServiceLimits, is_form: bool) -> None:
        self.files: list[UploadedFile] = []
        self.is_complete = False
        self._folder, self._limits, self._is_form = folder, limits, is_form
        self._handle: BufferedWriter | None = None
        self._headers: dict[str, str] = {}
        self._field = self._value = b""

    def callbacks(self) -> MultipartCallbacks:
        """Return the functions that the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._write,
            "on_part_end": self.close,
            "on_end": self._end,
        }

    def close(self) -> None:
        """Close the file of the present part."""
        if self._handle is not None:
            size = self._handle.tell()
            self._handle.close()
            self._handle = None
            last = self.files[-1]
            self.files[-1] = UploadedFile(last.stored, last.name, last.media_type, size)

    def _end(self) -> None:
        self.is_complete = True

    def _begin(self) -> None:
        self._headers = {}

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = self._value.decode("utf-8", "replace")
        self._field = self._value = b""

    def _open(self) -> None:
        number = len(self.files)
        if number >= self._limits.max_files:
            raise RefusalError(
                413,
                "the request holds too many files",
                expected=f"at most {self._limits.max_files}",
                remedy="send one scan, or start the service with a larger --max_files",
            )
        _, options = parse_options_header(self._headers.get("content-disposition", "").encode("utf-8"))
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        if self._is_form and not name:
            field = options.get(b"name", b"").decode("utf-8", "replace")
            raise RefusalError(
                400,
                "a field of the form is not a file",
                value=field[:_MAX_NAME_LENGTH],
                expected="files only",
                remedy="send options in the address: POST /v1/jobs?series=3",
            )
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)[-_MAX_NAME_LENGTH:]
        stored = f"upload_{number:05d}{(file_ending(name.lower()) or '') if name else ''}"
        media_type = self._headers.get("content-type", "")[:_MAX_NAME_LENGTH]
        self.files.append(UploadedFile(stored, shown or f"part {number + 1}", media_type, 0))
        self._handle = (self._folder / stored).open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        assert self._handle is not None
        self._handle.write(memoryview(data)[start:end])
