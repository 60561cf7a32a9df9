"""Read the header of one DICOM object, within limits, and locate its pixels."""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from detseg3d.core.errors import DetSeg3DError
from detseg3d.system.files import open_regular_file

__all__ = ["DicomHeader", "PixelElement", "damaged", "inflate", "read_header"]

_MAX_HEADER_BYTES = 256 << 20  # the functional groups of 50 000 frames have about 60 MB
_MAX_INFLATED_HEADER_BYTES = 16 << 20
_UNDEFINED_LENGTH = 0xFFFFFFFF
_PIXEL_ELEMENTS = {0x7FE00010: "PixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00008: "FloatPixelData"}

_KEYWORDS_TEXT = """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate
    AcquisitionDateTime StudyTime SeriesTime AcquisitionTime ContentTime Modality SeriesDescription PatientID
    TimezoneOffsetFromUTC PatientWeight KVP RepetitionTime EchoTime InversionTime EchoNumbers SequenceName ScanOptions
    FlipAngle ConvolutionKernel SliceThickness SpacingBetweenSlices TriggerTime GantryDetectorTilt
    DiffusionBValue DiffusionGradientOrientation ContrastBolusAgent FrameReferenceTime ImagerPixelSpacing
    StudyInstanceUID SeriesInstanceUID SeriesNumber AcquisitionNumber InstanceNumber TemporalPositionIdentifier
    NumberOfTemporalPositions ImagePositionPatient ImageOrientationPatient FrameOfReferenceUID SamplesPerPixel
    PhotometricInterpretation PlanarConfiguration NumberOfFrames FrameIncrementPointer Rows Columns PixelSpacing
    BitsAllocated BitsStored HighBit PixelRepresentation PixelPaddingValue RescaleIntercept RescaleSlope RescaleType
    ModalityLUTSequence LossyImageCompression RealWorldValueMappingSequence SharedFunctionalGroupsSequence
    PerFrameFunctionalGroupsSequence DimensionIndexSequence DimensionOrganizationType Units SUVType CountsSource
    SeriesType DecayCorrection CorrectedImage RadiopharmaceuticalInformationSequence DecayCorrected
    DecayCorrectionDateTime GridFrameOffsetVector DoseGridScaling DoseUnits DetectorInformationSequence
"""
# Private elements in which Philips states the factor from counts to SUV.
_PRIVATE_TAGS = (0x70530010, 0x70531000, 0x70531009)
_TAGS: list[Any] = [Tag(keyword) for keyword in _KEYWORDS_TEXT.split()] + [Tag(tag) for tag in _PRIVATE_TAGS]


@dataclass(frozen=True)
class PixelElement:
    """Place of the pixels of a DICOM object.

    Attributes
    ----------
    keyword : str
        ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
    offset : int
        Position of the first byte of the value: in the file, or in the inflated data set of a deflated file.
    length : int or None
        Length of the value in bytes; ``None`` if the pixels are encapsulated (compressed).
    available : int
        Number of bytes after ``offset`` in the file; for a deflated file, the number that the element states.
    is_byte_swapped : bool
        True if the bytes of an 8-bit image are stored in swapped pairs (big endian, VR OW).
    """

    keyword: str
    offset: int
    length: int | None
    available: int
    is_byte_swapped: bool = False


@dataclass(frozen=True)
class DicomHeader:
    """Header of one DICOM object, without its pixels.

    The methods return the values of attributes. They raise a :class:`DetSeg3DError` if a value cannot be parsed.

    Attributes
    ----------
    path : Path
    dataset : pydicom.Dataset
        The attributes that the reader uses. Other attributes are left out.
    transfer_syntax : pydicom.uid.UID
    is_little_endian : bool
    pixels : PixelElement or None
    is_whole : bool
        For an object without pixels: whether the last element ends at the end of the file.
    """

    path: Path
    dataset: Dataset
    transfer_syntax: UID
    is_little_endian: bool
    pixels: PixelElement | None
    is_whole: bool = True

    def text(self, keyword: str) -> str:
        """Return the value of an attribute as text; empty if the attribute is missing."""
        try:
            value = self.dataset.get(keyword)
        except Exception as error:
            raise damaged(self.path, f"{keyword} cannot be understood: {error}") from error
        return "" if value is None else str(value).strip(" \0")

    def numbers(self, keyword: str, source: Dataset | None = None) -> tuple[float, ...]:
        """Return the numbers of an attribute; empty if the attribute is missing.

        ``source`` is the data set or sequence item that holds the attribute; by default the whole object.
        """
        try:
            value = (self.dataset if source is None else source).get(keyword)
            if value is None or value == "":
                return ()
            values = (value,) if isinstance(value, (int, float, str)) else tuple(value)
            return tuple(float(entry) for entry in values if entry is not None)
        except Exception as error:
            raise damaged(self.path, f"{keyword} cannot be understood: {error}") from error

    def number(self, keyword: str, source: Dataset | None = None) -> float | None:
        """Return the first number of an attribute, or ``None`` if the attribute is missing."""
        values = self.numbers(keyword, source)
        return values[0] if values else None

    def count(self, keyword: str, default: int) -> int:
        """Return the whole number of an attribute, or ``default`` if the attribute is missing."""
        value = self.number(keyword)
        if value is None:
            return default
        if value != int(value) or not 0 <= value < 1 << 31:
            raise damaged(self.path, f"{keyword} is {value:g}, but a whole number from 0 to 2147483647 is needed")
        return int(value)

    def items(self, keyword: str, source: Dataset | None = None) -> tuple[Dataset, ...]:
        """Return the items of a sequence; empty if the sequence is missing."""
        try:
            value = (self.dataset if source is None else source).get(keyword)
            return tuple(value) if value else ()
        except Exception as error:
            raise damaged(self.path, f"{keyword} cannot be understood: {error}") from error

    def image_type(self) -> tuple[str, ...]:
        """Return the values of ImageType in upper case."""
        try:
            value = self.dataset.get("ImageType")
        except Exception as error:
            raise damaged(self.path, f"ImageType cannot be understood: {error}") from error
        if value is None:
            return ()
        return tuple(str(entry).strip().upper() for entry in ([value] if isinstance(value, str) else value))

    @property
    def frame_count(self) -> int:
        """Number of frames of the object; 1 for a classic slice."""
        return max(self.count("NumberOfFrames", 1), 1)


def damaged(path: Path, problem: str) -> DetSeg3DError:
    """Return the error for a DICOM object that is cut off or damaged."""
    return DetSeg3DError(
        f"the DICOM file is damaged or cut off: {problem}",
        file=path,
        expected="a complete DICOM object",
        remedy="export or copy the file again",
    )


def read_header(path: Path) -> DicomHeader:
    """Read the header of a DICOM file.

    The pixels are not read, and a header beyond the limits is refused. A file without the preamble is read as a plain
    data set.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read as a DICOM object.
    """
    try:
        with open_regular_file(path) as handle, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of unusual values; this module checks those that it uses
            size = os.fstat(handle.fileno()).st_size
            head = handle.read(2048)
            handle.seek(0)
            if head[128:132] == b"DICM" and DeflatedExplicitVRLittleEndian.encode() in head:
                return _read_deflated(path)
            dataset = dcmread(
                handle, stop_before_pixels=True, force=True, specific_tags=_TAGS, defer_size=_MAX_HEADER_BYTES
            )
            _check_deferred(path, dataset)
            implicit, little = dataset.original_encoding
            is_whole = handle.tell() <= size and _values_are_whole(dataset)
            pixels = _pixel_element(handle, size, bool(implicit), bool(little))
            syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
            default = ImplicitVRLittleEndian if implicit else UID("1.2.840.10008.1.2.1")
            if not syntax:
                syntax = default if little else ExplicitVRBigEndian
            return DicomHeader(path, dataset, UID(syntax), bool(little), pixels, is_whole)
    except DetSeg3DError:
        raise
    except RecursionError as error:
        raise damaged(path, "its sequences are nested too deeply") from error
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises many types of errors for bytes that are not DICOM
        raise damaged(path, f"{type(error).__name__}: {error}") from error


def _check_deferred(path: Path, dataset: Dataset) -> None:
    for tag in tuple(dataset.keys()):
        element: Any = dataset.get_item(tag)
        if element.value is None and isinstance(element, RawDataElement) and element.length:
            raise damaged(path, f"element {BaseTag(tag)} takes more than {_MAX_HEADER_BYTES >> 20} MB")


def _values_are_whole(dataset: Dataset) -> bool:
    """Return whether each value has the length that its element states. In a truncated file, the last is shorter."""
    elements: Iterable[Any] = (dataset.get_item(tag) for tag in tuple(dataset.keys()))
    return all(
        element.length in (len(element.value or b""), _UNDEFINED_LENGTH)
        for element in elements
        if isinstance(element, RawDataElement)
    )


def _pixel_element(handle: BinaryIO, size: int, implicit: bool, little: bool) -> PixelElement | None:
    """Return the element at the position of the handle if it holds pixels."""
    order = "little" if little else "big"
    start = handle.read(12)
    if len(start) < 8:
        return None
    tag = int.from_bytes(start[0:2], order) << 16 | int.from_bytes(start[2:4], order)  # type: ignore[arg-type]
    if tag not in _PIXEL_ELEMENTS:
        return None
    long_form = not implicit and start[4:6] in (b"OW", b"OB", b"OF", b"OD", b"UN", b"OL", b"OV")
    if implicit:
        length, offset = int.from_bytes(start[4:8], order), 8  # type: ignore[arg-type]
    elif long_form:
        length, offset = int.from_bytes(start[8:12], order), 12  # type: ignore[arg-type]
    else:
        length, offset = int.from_bytes(start[6:8], order), 8  # type: ignore[arg-type]
    position = handle.tell() - len(start) + offset
    return PixelElement(
        _PIXEL_ELEMENTS[tag],
        position,
        None if length == _UNDEFINED_LENGTH else length,
        max(size - position, 0),
        is_byte_swapped=not little and start[4:6] == b"OW",
    )


def _read_deflated(path: Path) -> DicomHeader:
    raw, _ = inflate(path, _MAX_INFLATED_HEADER_BYTES)
    source = io.BytesIO(raw)
    dataset = read_dataset(
        source,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: int(tag) in _PIXEL_ELEMENTS,
        specific_tags=_TAGS,
    )
    pixels = _pixel_element(source, len(raw), implicit=False, little=True)
    if pixels is not None:
        # Only the header is inflated here. The reader of the pixels inflates the rest and checks its size.
        pixels = PixelElement(pixels.keyword, pixels.offset, pixels.length, pixels.length or 0)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return DicomHeader(path, dataset, DeflatedExplicitVRLittleEndian, True, pixels)


def inflate(path: Path, max_bytes: int) -> tuple[bytes, bool]:
    """Inflate the data set of a deflated DICOM file.

    Parameters
    ----------
    path : Path
    max_bytes : int
        Maximum number of inflated bytes. The rest of the data set is not inflated.

    Returns
    -------
    data : bytes
    is_whole : bool
        True if the compressed stream was read to its end mark.

    Raises
    ------
    DetSeg3DError
        If the file meta information or the compressed stream is damaged.
    """
    with open_regular_file(path) as handle:
        start = handle.read(144)
        # Group length (0002,0000) comes first in the file meta information, which is never deflated.
        if start[132:136] != b"\x02\x00\x00\x00" or len(start) < 144:
            raise damaged(path, "the file meta information does not state its length")
        handle.seek(144 + int.from_bytes(start[140:144], "little"))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        parts: list[bytes] = []
        total = 0
        try:
            while total < max_bytes and not inflater.eof:
                block = inflater.unconsumed_tail or handle.read(1 << 20)
                if not block:
                    break
                part = inflater.decompress(block, max_bytes - total)
                parts.append(part)
                total += len(part)
        except zlib.error as error:
            raise damaged(path, str(error)) from error
    return b"".join(parts), inflater.eof
