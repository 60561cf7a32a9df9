"""Read the voxels of a volume: check the size of the pixel data, decode it, and rescale each slice."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import DeflatedExplicitVRLittleEndian

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.formats.dicom.encapsulated import FrameDecoder
from detseg3d.data.formats.dicom.frames import Frame
from detseg3d.data.formats.dicom.headers import DicomHeader, PixelElement, damaged, inflate
from detseg3d.system.files import open_regular_file
from detseg3d.system.memory import require_memory

__all__ = ["check_pixels", "is_colour", "read_values"]

logger = logging.getLogger(__name__)


_INTEGERS = (np.int16, np.uint16, np.int32, np.uint32, np.int64)
_GRAY = ("MONOCHROME1", "MONOCHROME2", "")
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


def check_pixels(header: DicomHeader) -> None:
    """Check that the pixels of an object have a supported form and that the file is long enough for them.

    The pixels are not read.

    Raises
    ------
    DetSeg3DError
        If the form is not supported or the file is too short. The message names the file.
    """
    pixels = header.pixels
    if pixels is None:
        raise damaged(header.path, "it ends before its pixels")
    rows, columns = header.count("Rows", 0), header.count("Columns", 0)
    if rows == 0 or columns == 0:
        raise damaged(header.path, f"it states a size of {rows}×{columns} pixels")
    _check_form(header, pixels)
    _check_syntax(header)
    needed = _frame_bytes(header) * header.frame_count
    if pixels.length is None:
        if not header.transfer_syntax.is_encapsulated:
            raise damaged(header.path, "the length of the pixel data is not stated")
        return
    if header.transfer_syntax.is_encapsulated:
        raise damaged(header.path, f"the pixel data of {header.transfer_syntax.name} is not encapsulated")
    if pixels.length < needed:
        raise damaged(
            header.path,
            f"the pixel data has {pixels.length} bytes; {_size_text(header)} need {needed}",
        )
    if pixels.available < needed:
        raise damaged(header.path, f"the file ends after {pixels.available} of {needed} bytes of pixel data")


def is_colour(header: DicomHeader) -> bool:
    """Return whether an image has several samples per pixel, or a palette."""
    if header.pixels is not None and header.pixels.keyword in _FLOATS:
        return False
    return header.count("SamplesPerPixel", 1) != 1 or header.text("PhotometricInterpretation") not in _GRAY


def _size_text(header: DicomHeader) -> str:
    bits = _FLOATS.get(header.pixels.keyword if header.pixels else "", header.count("BitsAllocated", 16))
    size = f"{header.count('Rows', 0)} rows × {header.count('Columns', 0)} columns of {bits} bits"
    return size if header.frame_count == 1 else f"{header.frame_count} frames of {size}"


def _check_form(header: DicomHeader, pixels: PixelElement) -> None:
    if pixels.keyword in _FLOATS:
        return
    allocated, stored = header.count("BitsAllocated", 0), header.count("BitsStored", 0)
    high = header.count("HighBit", stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise DetSeg3DError(
            "the pixels of the DICOM image have a form that cannot be read",
            file=header.path,
            value=f"BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}",
            expected="8, 16 or 32 bits allocated",
            remedy="convert the series first, for instance with dcm2niix",
        )
    if header.count("PixelRepresentation", 0) not in (0, 1):
        raise damaged(header.path, f"PixelRepresentation is {header.count('PixelRepresentation', 0)}")


def _check_syntax(header: DicomHeader) -> None:
    syntax = header.transfer_syntax
    try:
        readable = get_decoder(syntax).is_available
    except NotImplementedError:
        readable = False
    if not readable:
        raise DetSeg3DError(
            "the compression of the DICOM image is not supported",
            file=header.path,
            value=f"{syntax.name} ({syntax})" if syntax.name != str(syntax) else str(syntax),
            expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000",
            remedy="export the series uncompressed, or decompress it with dcmdjpeg or gdcmconv",
        )


def _frame_bytes(header: DicomHeader) -> int:
    bits = _FLOATS.get(header.pixels.keyword if header.pixels else "", header.count("BitsAllocated", 16))
    return header.count("Rows", 0) * header.count("Columns", 0) * bits // 8


def read_values(frames: Sequence[Frame], factor: float | None = None) -> Array:
    """Read the voxels of ordered frames and rescale each by its own slope and intercept.

    Parameters
    ----------
    frames : sequence of Frame
        In the order of the slices, all of the same size.
    factor : float, optional
        Factor by which the rescaled values are multiplied, for SUV.

    Returns
    -------
    ndarray, shape ``(Z, Y, X)``
        float32 if a slope or intercept is not a whole number, the pixels are floating point, or ``factor`` is given.
        Otherwise the integer type of the file, if this type can hold all values. Otherwise the first of int16, uint16,
        int32, uint32 and int64 that can hold all values.

    Raises
    ------
    DetSeg3DError
        If pixels cannot be decoded, are cut off, or have another size than the header states.
    """
    for frame in frames:
        if frame.scaling is None:
            raise DetSeg3DError(
                "the values of the DICOM image follow a table or several scales, which is not supported",
                file=frame.header.path,
                expected="a rescale slope and intercept",
                remedy="convert the series first, for instance with dcm2niix",
            )
    first = frames[0].header
    whole = factor is None and all(
        frame.scaling is not None
        and frame.scaling.is_whole
        and frame.header.pixels is not None
        and frame.header.pixels.keyword not in _FLOATS
        for frame in frames
    )
    rows, columns = first.count("Rows", 0), first.count("Columns", 0)
    stored_types = {_stored_type(frame.header) for frame in frames}
    identical = whole and all(
        frame.scaling.slope == 1 and frame.scaling.intercept == 0 for frame in frames if frame.scaling
    )
    dtype: npt.DTypeLike
    if not whole:
        dtype = np.float32
    elif identical and len(stored_types) == 1:
        dtype = next(iter(stored_types))
    else:
        dtype = _integer_type(*_theoretical_range(frames))
    needed = len(frames) * rows * columns * np.dtype(dtype).itemsize
    require_memory(needed, f"reading this DICOM series of {len(frames)}×{rows}×{columns} voxels")
    volume = np.empty((len(frames), rows, columns), dtype)
    with FrameDecoder() as decoder:
        for place, stored in _stored_slices(frames, decoder):
            scaling = frames[place].scaling
            assert scaling is not None
            volume[place] = _rescaled(stored, scaling.slope, scaling.intercept, factor, np.dtype(dtype))
    if whole and not (identical and len(stored_types) == 1):
        volume = _compact(volume, stored_types)
    if any(frame.header.text("PhotometricInterpretation") == "MONOCHROME1" for frame in frames):
        logger.info("%s: MONOCHROME1; the values are kept as they are stored, not inverted", first.path.parent)
    return volume


def _stored_type(header: DicomHeader) -> np.dtype[Any]:
    if header.pixels is not None and header.pixels.keyword in _FLOATS:
        return np.dtype(f"f{_FLOATS[header.pixels.keyword] // 8}")
    kind = "i" if header.count("PixelRepresentation", 0) else "u"
    return np.dtype(f"{kind}{header.count('BitsAllocated', 16) // 8}")


def _theoretical_range(frames: Sequence[Frame]) -> tuple[int, int]:
    low = high = 0
    for frame in frames:
        bits = frame.header.count("BitsStored", 16)
        signed = frame.header.count("PixelRepresentation", 0) == 1
        ends = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
        assert frame.scaling is not None
        values = [end * int(frame.scaling.slope) + int(frame.scaling.intercept) for end in ends]
        low, high = min(low, *values), max(high, *values)
    return low, high


def _integer_type(low: int, high: int) -> np.dtype[Any]:
    for candidate in _INTEGERS:
        info = np.iinfo(candidate)
        if info.min <= low and high <= info.max:
            return np.dtype(candidate)
    return np.dtype(np.float32)


def _compact(volume: Array, stored_types: set[np.dtype[Any]]) -> Array:
    """Convert the volume to the stored type or, if this type cannot hold all values, to the smallest type that can."""
    if volume.dtype.kind == "f":
        return volume
    low, high = int(volume.min()), int(volume.max())
    for candidate in (*stored_types, *(np.dtype(kind) for kind in _INTEGERS)):
        info = np.iinfo(candidate)
        if info.min <= low and high <= info.max:
            return volume if candidate == volume.dtype else volume.astype(candidate)
    return volume


def _rescaled(stored: Array, slope: float, intercept: float, factor: float | None, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        if slope == 1 and intercept == 0:
            return stored
        return stored.astype(np.int64) * int(slope) + int(intercept)
    values = stored.astype(np.float64)
    if (slope, intercept) != (1.0, 0.0):
        values = values * slope + intercept
    if factor is not None:
        values = values * factor
    with np.errstate(over="ignore"):  # values beyond single precision become infinite, which later checks refuse
        return values.astype(dtype)


def _stored_slices(frames: Sequence[Frame], decoder: FrameDecoder) -> Iterator[tuple[int, Array]]:
    """Yield the index in the volume and the stored values ``(Y, X)`` of each frame, file by file."""
    by_file: dict[Path, list[int]] = {}
    for place, frame in enumerate(frames):
        by_file.setdefault(frame.header.path, []).append(place)
    spilled = 0
    for places in by_file.values():
        header = frames[places[0]].header
        check_pixels(header)
        places = sorted(places, key=lambda place: frames[place].index)
        indices = [frames[place].index for place in places]
        if header.transfer_syntax.is_encapsulated:
            yield from zip(places, decoder.frames(header, indices), strict=True)
            continue
        for place, (stored, outside) in zip(places, _native(header, indices), strict=True):
            spilled += outside
            yield place, stored
    if spilled:
        logger.warning(
            "%s: %d voxel(s) have bits beyond BitsStored, which are ignored as the standard demands",
            frames[0].header.path.parent,
            spilled,
        )


def _native(header: DicomHeader, indices: Sequence[int]) -> Iterator[tuple[Array, int]]:
    pixels = header.pixels
    assert pixels is not None
    size, shape = _frame_bytes(header), (header.count("Rows", 0), header.count("Columns", 0))
    dtype = _stored_type(header).newbyteorder("<" if header.is_little_endian else ">")
    with _pixel_source(header, pixels, size * header.frame_count) as handle:
        _check_excess(header, pixels, handle, size * header.frame_count)
        for index in indices:
            handle.seek(pixels.offset + index * size)
            # Pairs of bytes are swapped as 16-bit words, so a frame of odd size shares a word with the next frame.
            if pixels.is_byte_swapped and dtype.itemsize == 1:
                data = _swapped(handle, pixels.offset, index * size, size)
            else:
                data = handle.read(size)
            if len(data) != size:
                raise damaged(header.path, f"the file ends in frame {index + 1}")
            stored = np.frombuffer(data, dtype).reshape(shape)
            yield _without_unused_bits(header, stored.astype(dtype.newbyteorder("="), copy=False))


def _swapped(handle: Any, offset: int, start: int, size: int) -> bytes:
    first = start - start % 2
    handle.seek(offset + first)
    data = handle.read(size + 2)
    words = np.frombuffer(data[: len(data) // 2 * 2], ">u2").astype("<u2").tobytes()
    return words[start - first : start - first + size]


def _pixel_source(header: DicomHeader, pixels: PixelElement, needed: int) -> Any:
    if header.transfer_syntax != DeflatedExplicitVRLittleEndian:
        return open_regular_file(header.path)
    data, _ = inflate(header.path, pixels.offset + max(needed, pixels.length or 0))
    if len(data) < pixels.offset + needed:
        raise damaged(header.path, f"it inflates to {len(data)} bytes; {pixels.offset + needed} are needed")
    return io.BytesIO(data)


def _check_excess(header: DicomHeader, pixels: PixelElement, handle: Any, needed: int) -> None:
    """Raise an error if the pixel data is longer than needed. Zeros that are shorter than a frame are padding."""
    excess = (pixels.length or 0) - needed
    if excess <= 1:
        return
    handle.seek(pixels.offset + needed)
    frame = _frame_bytes(header)
    if excess >= frame or any(handle.read(excess)):
        raise damaged(header.path, f"the pixel data has {pixels.length} bytes; {_size_text(header)} need only {needed}")


def _without_unused_bits(header: DicomHeader, stored: Array) -> tuple[Array, int]:
    """Return the stored values without the bits beyond BitsStored, and the number of voxels with such bits."""
    if stored.dtype.kind == "f":
        return stored, 0
    allocated, bits = 8 * stored.dtype.itemsize, header.count("BitsStored", 16)
    shift = header.count("HighBit", bits - 1) - (bits - 1)
    if bits == allocated:
        return stored, 0
    cleaned = (stored << (allocated - bits - shift)) >> (allocated - bits)
    outside = 0 if shift else int(np.count_nonzero(cleaned != stored))
    return cleaned, outside
