"""Read DICOM segmentations as labels.

A segmentation states a name for each segment, and the place of each frame in the patient. Frames without voxels of a
segment are usually left out, so a segmentation is read onto the grid of its image.

- **Types.** ``BINARY`` and ``LABELMAP`` are read. ``FRACTIONAL`` states a probability or an occupancy per voxel, which
  is a label only after a threshold that the user gives.
- **Names.** The class of a segment is its entry in a table of the user. Without a table, the class is the label of the
  segment. DetSeg3D writes the class of a lesion as the description of its segment, and this description is used.
- **Values.** With the values of the classes, all segments of a class have the value of the class. Without them, each
  segment has its number, as in an instance map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.config import disable_value_validation
from pydicom.pixels.utils import iter_pixels

from detseg3d.core.arrays import Array, FloatArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom.files import is_dicom_file
from detseg3d.data.formats.dicom.headers import damaged
from detseg3d.data.formats.endings import file_ending
from detseg3d.data.image_source import SegmentRules
from detseg3d.system.memory import require_memory

__all__ = ["DicomSegment", "is_segmentation", "read_dicom_segmentation", "read_dicom_segments", "segmentation_files"]

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_ENDINGS = (".seg.dcm", ".dcm")
_OWN_MAKER = "DetSeg3D"
# Largest distance between a voxel of the segmentation and a voxel of the image, in voxels.
_ON_VOXELS = 0.02
_MAX_SEGMENTS = 65_535


@dataclass(frozen=True)
class DicomSegment:
    """One segment of a segmentation.

    Attributes
    ----------
    number : int
        Number of the segment in the file.
    label : str
        Label of the segment in the file.
    class_name : str
        Class of the segment by the rules of the module.
    """

    number: int
    label: str
    class_name: str


def is_segmentation(path: Path) -> bool:
    """Return whether a file is a DICOM segmentation."""
    if file_ending(path) is not None or not is_dicom_file(path):
        return False
    try:
        with disable_value_validation():
            header = dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"], force=True)
            return str(header.get("SOPClassUID", "")) in _SEGMENTATIONS
    except Exception:  # pydicom raises many types of errors for damaged files
        return False


def segmentation_files(folder: Path) -> dict[str, Path]:
    """Return the DICOM segmentations of a folder by name: ``CASE.seg.dcm``, ``CASE.dcm``, or one file in ``CASE/``.

    Other DICOM objects, for example reports, are left out.

    Raises
    ------
    DetSeg3DError
        If two segmentations have the same name.
    """
    found: dict[str, Path] = {}
    for entry in sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".")):
        inside = [entry] if entry.is_file() else [path for path in sorted(entry.rglob("*")) if path.is_file()]
        files = [path for path in inside if is_segmentation(path)]
        for path in files:
            lower = entry.name.lower()
            length = next((len(ending) for ending in _ENDINGS if entry.is_file() and lower.endswith(ending)), 0)
            stem = entry.name[: len(entry.name) - length]
            if stem in found:
                raise DetSeg3DError(
                    "a case has two DICOM segmentations",
                    file=folder,
                    value=[str(found[stem].relative_to(folder)), str(path.relative_to(folder))],
                    expected="one segmentation per case",
                    remedy="remove one of the two files",
                )
            found[stem] = path
    return found


def read_dicom_segments(path: Path, rules: SegmentRules | None = None) -> tuple[DicomSegment, ...]:
    """Read the segments of a segmentation that are used, by ascending number.

    Parameters
    ----------
    path : Path
    rules : SegmentRules, optional
        Table of the classes of the segments.

    Raises
    ------
    DetSeg3DError
        If the file cannot be read, or the table does not name each segment.
    """
    return _segments(path, _read(path, pixels=False), rules or SegmentRules())


def read_dicom_segmentation(
    path: Path,
    grid: Geometry,
    names: Mapping[str, int] | None = None,
    rules: SegmentRules | None = None,
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Read a segmentation as a label on the grid of its image.

    Parameters
    ----------
    path : Path
    grid : Geometry
        Geometry of the image. If the image is DICOM, the frames of reference are compared.
    names : mapping of str to int, optional
        Value of each class. Without it, each segment has its number.
    rules : SegmentRules, optional
        Table of the classes of the segments, and threshold of a ``FRACTIONAL`` segmentation.

    Returns
    -------
    ndarray of uint8, uint16 or uint32, shape ``grid.shape``
        In the order of ``grid``.

    Raises
    ------
    DetSeg3DError
        If the segmentation has another frame of reference or another grid than the image, voxels outside the image,
        overlapping segments of different values, a type that needs a threshold, or segments of unknown class.
    """
    rules = rules or SegmentRules()
    dataset = _read(path, pixels=True)
    _check_frame_of_reference(path, dataset, grid)
    values = _values(path, _segments(path, dataset, rules), names)
    _check_type(path, dataset, rules)
    largest = max(values.values(), default=0)
    label = np.zeros(grid.shape, np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else np.uint32)
    try:
        for segment, mask, place in _masks(path, dataset, values, rules):
            _put(path, label, values[segment], _voxels(path, mask, place, grid))
    except (DetSeg3DError, MemoryError):
        raise
    except Exception as error:  # pydicom and its decoders raise many types of errors for damaged files
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    return label


def _read(path: Path, pixels: bool) -> Dataset:
    try:
        with disable_value_validation():
            dataset = dcmread(path, stop_before_pixels=not pixels, force=True, defer_size=1 << 16)
    except Exception as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from error
    if str(dataset.get("SOPClassUID", "")) not in _SEGMENTATIONS:
        raise DetSeg3DError(
            "the DICOM file is not a segmentation",
            file=path,
            value=str(dataset.get("Modality", "")) or None,
            expected="a segmentation (SEG)",
            remedy="give the DICOM segmentation of the case",
        )
    return dataset


def _segments(path: Path, dataset: Dataset, rules: SegmentRules) -> tuple[DicomSegment, ...]:
    segments, unknown = [], []
    is_own = str(dataset.get("Manufacturer", "")) == _OWN_MAKER
    for item in dataset.get("SegmentSequence") or ():
        number, label = int(item.SegmentNumber), str(item.get("SegmentLabel", "")).strip()
        if number == 0:
            continue  # the background of a label map
        description = str(item.get("SegmentDescription", "")).strip()
        stated = description if is_own and description else label
        class_name: str | None = stated
        if rules.classes is not None:
            known = [key for key in (str(number), label, stated) if key in rules.classes]
            if not known:
                unknown.append(f"{number}: {label}")
                continue
            class_name = rules.classes[known[0]]
        if class_name is not None:
            segments.append(DicomSegment(number, label, class_name))
    if unknown:
        raise DetSeg3DError(
            "the table of segments does not name all segments of the file",
            file=path,
            value=unknown[:10],
            expected="a class, or null to leave the segment out",
            remedy="add the labels of these segments to the file after --segments",
        )
    if len({segment.number for segment in segments}) < len(segments):
        raise damaged(path, "two segments have the same number")
    return tuple(sorted(segments, key=lambda segment: segment.number))


def _values(path: Path, segments: Sequence[DicomSegment], names: Mapping[str, int] | None) -> dict[int, int]:
    """Return the value of each segment in the label."""
    if names is None:
        return {segment.number: segment.number for segment in segments}
    by_name = {name.strip().casefold(): value for name, value in names.items()}
    unknown = [s for s in segments if s.class_name.strip().casefold() not in by_name]
    if unknown:
        raise DetSeg3DError(
            "segments of the DICOM segmentation do not belong to a class",
            file=path,
            value=[f"{segment.number}: {segment.class_name}" for segment in unknown[:10]],
            expected=f"classes among {list(names)}",
            remedy="give the class of each segment in a JSON file after --segments",
        )
    return {segment.number: by_name[segment.class_name.strip().casefold()] for segment in segments}


def _check_frame_of_reference(path: Path, dataset: Dataset, grid: Geometry) -> None:
    image = next((identity for identity in grid.dicom if identity is not None), None)
    stated = str(dataset.get("FrameOfReferenceUID", ""))
    patient = str(dataset.get("PatientID", "") or "")
    is_same_place = image is not None and stated != "" and stated == image.frame_of_reference_uid
    if image is not None and patient and image.patient_id and patient != image.patient_id and not is_same_place:
        raise DetSeg3DError(
            "the DICOM segmentation belongs to another patient than the image",
            file=path,
            value="another PatientID",
            expected="the PatientID of the image",
            remedy="give the segmentation that was drawn on this image",
        )
    if image is not None and image.frame_of_reference_uid and stated != image.frame_of_reference_uid:
        raise DetSeg3DError(
            "the DICOM segmentation has another frame of reference than the image",
            file=path,
            value=stated or "no frame of reference",
            expected=image.frame_of_reference_uid,
            remedy="give the segmentation that was drawn on this image",
        )


def _check_type(path: Path, dataset: Dataset, rules: SegmentRules) -> None:
    kind = str(dataset.get("SegmentationType", "BINARY"))
    if kind == "FRACTIONAL" and rules.threshold is None:
        raise DetSeg3DError(
            "the DICOM segmentation states fractions, which are not a label",
            file=path,
            value="FRACTIONAL",
            expected="BINARY or LABELMAP, or a threshold",
            remedy="give the lowest fraction of a lesion with --fractional_threshold, for example 0.5",
        )
    if kind not in ("BINARY", "LABELMAP", "FRACTIONAL"):
        raise DetSeg3DError(
            "the type of the DICOM segmentation is unknown",
            file=path,
            value=kind,
            expected="BINARY, LABELMAP or FRACTIONAL",
        )
    frames = len(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if frames != int(dataset.get("NumberOfFrames", 1) or 1) or frames == 0:
        raise damaged(path, f"it has functional groups of {frames} frames")
    voxels = math.prod((frames, int(dataset.Rows), int(dataset.Columns)))
    require_memory(int(dataset.Rows) * int(dataset.Columns) * 16, "reading a frame of this segmentation")
    stored = dataset.get("PixelData")
    is_native = not dataset.file_meta.TransferSyntaxUID.is_compressed
    if stored is None or (is_native and len(stored) * 8 < voxels * int(dataset.BitsAllocated)):
        raise damaged(path, "it ends before its pixels")


@dataclass(frozen=True)
class _Place:
    """Place of a frame: centre of the first pixel, and steps to the next row and the next column, mm LPS."""

    corner: FloatArray
    row_step: FloatArray
    column_step: FloatArray


def _masks(
    path: Path, dataset: Dataset, values: Mapping[int, int], rules: SegmentRules
) -> Iterator[tuple[int, npt.NDArray[np.bool_], _Place]]:
    """Yield number, mask ``(Y, X)`` and place of the segments of each frame."""
    kind = str(dataset.get("SegmentationType", "BINARY"))
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or ()), Dataset())
    frames = _bit_frames(dataset) if _has_packed_bits(dataset) else iter_pixels(dataset, raw=True)
    for own, frame in zip(dataset.PerFrameFunctionalGroupsSequence, frames, strict=True):
        place = _place(path, own, shared)
        if kind == "LABELMAP":
            present = [int(number) for number in np.unique(frame) if number]
            undescribed = [number for number in present if number > _MAX_SEGMENTS]
            if undescribed:
                raise damaged(path, f"voxels have the number {undescribed[0]}")
            for number in present:
                if number in values:
                    yield number, frame == number, place
            continue
        number = int(_group(path, own, shared, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        if number not in values:
            continue
        if kind == "FRACTIONAL":
            assert rules.threshold is not None
            mask = frame.astype(np.float64) / float(dataset.MaximumFractionalValue) >= rules.threshold
            yield number, mask & (frame > 0), place
        else:
            yield number, frame != 0, place


def _has_packed_bits(dataset: Dataset) -> bool:
    return int(dataset.BitsAllocated) == 1 and not dataset.file_meta.TransferSyntaxUID.is_compressed


def _bit_frames(dataset: Dataset) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the frames of uncompressed bits.

    Frames follow each other without padding, so a frame may begin inside a byte. ``iter_pixels`` of pydicom 3.0 raises
    an error for such frames.
    """
    packed = np.frombuffer(dataset.PixelData, np.uint8)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    size = rows * columns
    for index in range(int(dataset.NumberOfFrames)):
        first, last = index * size, (index + 1) * size
        bits = np.unpackbits(packed[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(rows, columns)


def _group(path: Path, own: Dataset, shared: Dataset, keyword: str) -> Dataset:
    for source in (own, shared):
        items = source.get(keyword)
        if items:
            item: Dataset = items[0]
            return item
    raise damaged(path, f"a frame does not state {keyword}")


def _place(path: Path, own: Dataset, shared: Dataset) -> _Place:
    position = _group(path, own, shared, "PlanePositionSequence").ImagePositionPatient
    orientation = np.asarray(
        _group(path, own, shared, "PlaneOrientationSequence").ImageOrientationPatient, np.float64
    ).reshape(2, 3)
    between_rows, between_columns = map(float, _group(path, own, shared, "PixelMeasuresSequence").PixelSpacing)
    return _Place(np.asarray(position, np.float64), between_rows * orientation[1], between_columns * orientation[0])


def _voxels(path: Path, mask: npt.NDArray[np.bool_], place: _Place, grid: Geometry) -> tuple[Array, ...]:
    """Return the indices of the voxels of the image that a mask covers."""
    pixels = np.argwhere(mask)
    if not len(pixels):
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.intp)
    points = place.corner + pixels[:, :1] * place.row_step + pixels[:, 1:] * place.column_step
    exact = grid.world_to_voxel_edges(points) - 0.5
    voxels = np.rint(exact).astype(np.intp)
    distance = float(np.abs(exact - voxels).max())
    # Unit steps along axes: otherwise pixels of a finer or coarser grid could fall on voxels by chance.
    matrix, _ = grid.index_to_world()
    steps = np.linalg.solve(matrix, np.stack([place.row_step, place.column_step], axis=1))
    wrong_step = float(np.abs(np.abs(steps).max(axis=0) - 1).max())
    if distance > _ON_VOXELS or wrong_step > 1e-3:
        raise DetSeg3DError(
            "the DICOM segmentation does not lie on the grid of the image",
            file=path,
            value=f"a distance of {distance:.3g} voxels" if distance > _ON_VOXELS else "another spacing",
            expected="the grid of the image",
            remedy="check that image and segmentation belong together, or resample the segmentation to the image",
        )
    outside = ((voxels < 0) | (voxels >= grid.shape)).any(axis=1)
    if outside.any():
        raise DetSeg3DError(
            "the DICOM segmentation has voxels outside the image",
            file=path,
            value=f"{int(outside.sum())} voxel(s) of a frame",
            expected="segments inside the image",
            remedy="check that image and segmentation belong together",
        )
    z, y, x = voxels.T
    return z, y, x


def _put(path: Path, label: Array, value: int, voxels: tuple[Array, ...]) -> None:
    covered = label[voxels]
    overlap = int(((covered != 0) & (covered != value)).sum())
    if overlap:
        raise DetSeg3DError(
            "segments overlap, but a label has one value per voxel",
            file=path,
            value=f"{overlap} voxel(s) of a frame are in two segments",
            remedy="remove the overlap, or leave out segments with null in the file after --segments",
        )
    label[voxels] = value
