"""Decode compressed pixel data: RLE in this process; JPEG, JPEG-LS and JPEG 2000 in a separate process.

Decoders of JPEG are compiled libraries. Damaged data can make them end the process or run forever. In a separate
process they cannot affect other cases: if the decoder process ends or takes too long, only the current file is refused.
"""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404: starts this interpreter with fixed arguments
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.headers import DicomHeader, damaged, read_header
from detseg3d.system.files import open_regular_file

__all__ = ["FrameDecoder", "serve"]


_HTJ2K = {UID(f"1.2.840.10008.1.2.4.{number}") for number in (201, 202, 203)}
_DECODERS = ("pydicom", "pyjpegls", "pylibjpeg", "pillow", "gdcm")
_SECONDS_PER_FRAME = 60.0
# The decoder process gets the module search path of this process.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from detseg3d.data.formats.dicom.encapsulated import serve; serve()"
)


class FrameDecoder:
    """Decoder of the frames of compressed objects, with one decoder process for a whole series.

    Use it as a context manager. The process starts when it is first needed.

    Examples
    --------
    >>> with FrameDecoder() as decoder:                         # doctest: +SKIP
    ...     frames = list(decoder.frames(header, [0]))
    """

    def __init__(self, seconds_per_frame: float = _SECONDS_PER_FRAME) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._seconds = seconds_per_frame

    def __enter__(self) -> FrameDecoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def frames(self, header: DicomHeader, indices: Sequence[int]) -> Iterator[Array]:
        """Yield the stored values ``(Y, X)`` of the frames with these indices.

        Raises
        ------
        DetSeg3DError
            If a frame is missing, cut off, or has another size than the header states, or if the decoder fails.
        """
        if header.transfer_syntax == RLELossless:
            yield from decode_frames(header, indices)
            return
        process = self._start()
        assert process.stdin is not None
        job = json.dumps({"path": str(header.path), "indices": list(indices)})
        try:
            process.stdin.write(job.encode() + b"\n")
            process.stdin.flush()
        except OSError as error:
            raise self._decoder_failure(header) from error
        for _ in indices:
            yield self._receive_frame(header, process)

    def _receive_frame(self, header: DicomHeader, process: subprocess.Popen[bytes]) -> Array:
        assert process.stdout is not None
        watchdog = threading.Timer(self._seconds, process.kill)
        watchdog.start()
        try:
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                raise self._decoder_failure(header)
            try:
                answer = json.loads(line)
            except ValueError as error:
                raise self._decoder_failure(header) from error
            if "error" in answer:
                raise damaged(header.path, str(answer["error"]))
            dtype, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
            size = int(np.prod(shape)) * dtype.itemsize
            data = process.stdout.read(size)
            if len(data) != size:
                raise self._decoder_failure(header)
            return np.frombuffer(data, dtype).reshape(shape)
        finally:
            watchdog.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(  # nosec B603
                [sys.executable, "-c", _CHILD, json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return self._process

    def _decoder_failure(self, header: DicomHeader) -> DetSeg3DError:
        code = self._process.wait() if self._process is not None else None
        self._stop()
        return damaged(header.path, f"its decoder ended with code {code} or took more than {self._seconds:g} s")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()
            process.wait()


def serve() -> None:
    """Run the decoder process: read jobs from standard input and write the frames to standard output.

    A job is one line of JSON with the path of a DICOM file and the indices of frames. The process ends with its input.
    """
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # text that a decoder prints must not mix with the answers
    for line in sys.stdin.buffer:
        job = json.loads(line)
        try:
            for array in decode_frames(read_header(Path(job["path"])), job["indices"]):
                head = {"dtype": array.dtype.str, "shape": list(array.shape)}
                output.write(json.dumps(head).encode() + b"\n" + np.ascontiguousarray(array).tobytes())
                output.flush()
        except (DetSeg3DError, MemoryError) as error:
            text = (
                error.problem.partition(": ")[2] if isinstance(error, DetSeg3DError) else "there is not enough memory"
            )
            output.write(json.dumps({"error": text}).encode() + b"\n")
            output.flush()


def decode_frames(header: DicomHeader, indices: Sequence[int]) -> Iterator[Array]:
    """Decode frames in this process and yield their stored values ``(Y, X)``; see :meth:`FrameDecoder.frames`."""
    shape = (header.count("Rows", 0), header.count("Columns", 0))
    try:
        with open_regular_file(header.path) as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(handle, force=True)
        _add_defaults(dataset)
        frames = _checked_frames(header, dataset)
        if header.transfer_syntax == JPEGExtended12Bit and header.count("BitsStored", 16) > 8:
            arrays: Iterator[Array] = (_decode_with_gdcm(header, frames[index]) for index in indices)
        else:
            arrays = _decode_with_pydicom(header, dataset, indices)
        for array in arrays:
            if array.shape != shape:
                raise damaged(header.path, f"a frame decodes to {array.shape}, not {shape}")
            yield array.astype(_decoded_type(header), copy=False)
    except (DetSeg3DError, MemoryError, GeneratorExit):
        raise
    except Exception as error:  # decoders raise many types of errors
        text = str(error).replace("\n", " ")
        raise damaged(header.path, f"its pixels cannot be decoded ({type(error).__name__}: {text})") from error


def _decoded_type(header: DicomHeader) -> np.dtype[Any]:
    return np.dtype(f"{'i' if header.count('PixelRepresentation', 0) else 'u'}{header.count('BitsAllocated', 16) // 8}")


def _decode_with_pydicom(header: DicomHeader, dataset: Dataset, indices: Sequence[int]) -> Iterator[Array]:
    decoder = get_decoder(header.transfer_syntax)
    plugin = _plugin(header.transfer_syntax, decoder.available_plugins)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for array, _ in decoder.iter_array(dataset, indices=list(indices), raw=True, decoding_plugin=plugin):
            yield array


def _plugin(syntax: UID, available: Sequence[str]) -> str:
    """Return the name of the decoder to use: GDCM for lossless JPEG, else the first of the list that is installed."""
    if syntax in JPEGTransferSyntaxes and syntax != JPEGBaseline8Bit:
        return "gdcm"
    return next((name for name in _DECODERS if name in available), "")


def _decode_with_gdcm(header: DicomHeader, frame: bytes) -> Array:
    """Decode a JPEG frame with 12 bits. GDCM supports this format, but pydicom does not use GDCM for it."""
    import gdcm

    rows, columns, bits = header.count("Rows", 0), header.count("Columns", 0), header.count("BitsStored", 16)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(header.transfer_syntax))))
    signed = header.count("PixelRepresentation", 0)
    image.SetPixelFormat(gdcm.PixelFormat(1, header.count("BitsAllocated", 16), bits, bits - 1, signed))
    data = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(data, _decoded_type(header)).reshape(rows, columns)


def _add_defaults(dataset: Dataset) -> None:
    """Add default values of attributes that the decoders need."""
    if "SamplesPerPixel" not in dataset:
        dataset.SamplesPerPixel = 1
    if not dataset.get("PhotometricInterpretation"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    if "PixelRepresentation" not in dataset:
        dataset.PixelRepresentation = 0


def _checked_frames(header: DicomHeader, dataset: Dataset) -> list[bytes]:
    """Return the compressed frames; check their number, the size stated in them, and the end mark of their codec."""
    count = header.frame_count
    frames = list(generate_frames(dataset.PixelData, number_of_frames=count))
    if len(frames) != count:
        raise damaged(header.path, f"it has {len(frames)} compressed frames, the header states {count}")
    syntax = header.transfer_syntax
    jpeg_like = syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes)
    jpeg_2000 = syntax in (*JPEG2000TransferSyntaxes, *_HTJ2K)
    if not (jpeg_like or jpeg_2000):
        return frames
    size = (header.count("Rows", 0), header.count("Columns", 0))
    for number, frame in enumerate(frames, start=1):
        if not frame.rstrip(b"\0\xff").endswith(b"\xff\xd9") and b"\xff\xd9" not in frame[-16:]:
            raise damaged(header.path, f"compressed frame {number} is cut off")
        stated = _jpeg_2000_size(frame) if jpeg_2000 else _jpeg_size(frame)
        if stated is not None and stated != size:
            raise damaged(header.path, f"compressed frame {number} has the size {stated}, the header states {size}")
    return frames


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns of the frame header of JPEG or JPEG-LS; ``None`` if the header is missing."""
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows = int.from_bytes(frame[position + 5 : position + 7], "big")
            columns = int.from_bytes(frame[position + 7 : position + 9], "big")
            return (rows, columns) if rows else None
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big")
    return None


def _jpeg_2000_size(frame: bytes) -> tuple[int, int] | None:
    """Return rows and columns of the SIZ marker of a JPEG 2000 codestream; ``None`` if the marker is missing."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(frame) < start + 24:
        return None
    numbers = [int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 24, 4)]
    return numbers[1] - numbers[3], numbers[0] - numbers[2]
