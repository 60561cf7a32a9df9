"""Decide whether frames form one volume: one position per slice, equal gaps, one orientation, one acquisition.

All functions are pure. The result is either a :class:`Layout` or a :class:`Refusal`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import FloatArray
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.dicom.frames import ACQUISITION_TOLERANCE, Frame

__all__ = ["Layout", "Refusal", "lay_out"]


# Largest error of the position of a slice, as a fraction of the gap between slices. Scanners round positions, and an
# error of a tenth does not move a lesion to another slice. A missing slice causes a larger error.
GAP_TOLERANCE = 0.1
# If every single gap is within the tolerance, small errors may add up to half a gap.
_DRIFT_TOLERANCE = 0.5
# Largest shift of a slice within its plane against the first slice, in voxels. A larger shift is a gantry tilt.
_TILT_TOLERANCE = 0.5
# Two frames closer than this, in mm, have the same position.
_SAME_PLACE = 1e-3
_COSINE_TOLERANCE = 1e-3
_SPACING_TOLERANCE = 1e-4
_MAX_LISTED = 5


@dataclass(frozen=True)
class Layout:
    """Order of the frames in a volume, and the geometry of the volume.

    Attributes
    ----------
    order : tuple of int
        Index of the frame of each slice; positions ascend along the normal of the slices.
    geometry : Geometry
    """

    order: tuple[int, ...]
    geometry: Geometry


@dataclass(frozen=True)
class Refusal:
    """Reason why frames do not form one volume.

    Attributes
    ----------
    reason : str
        Short text for the table of series.
    problem, value, expected, remedy : str
        Fields of the error message; ``value`` may be ``None``.
    is_broken : bool
        True if the series should be a volume but is damaged or incomplete, false if the data are not a volume.
    """

    reason: str
    problem: str
    value: str | None
    expected: str
    remedy: str
    is_broken: bool


_EXPORT_AGAIN = "export the series again, complete"
_ONE_VOLUME = "one volume: one position per slice"


def lay_out(frames: Sequence[Frame], rows: int, columns: int) -> Layout | Refusal:
    """Order frames along their normal and check that they form one volume.

    Parameters
    ----------
    frames : sequence of Frame
        Frames of one series, all of size ``rows`` × ``columns``.
    rows, columns : int

    Returns
    -------
    Layout or Refusal
    """
    refusal = _without_place(frames) or _several_orientations(frames) or _several_spacings(frames)
    if refusal is not None:
        return refusal
    direction = _direction(frames[0].orientation or ())
    places = np.asarray([frame.position for frame in frames], np.float64)
    along = places @ direction[:, 2]
    order = np.argsort(along, kind="stable")
    if len(frames) > 1 and (np.diff(along[order]) <= _SAME_PLACE).any():
        return _repeated_places(frames, along, order)
    refusal = _several_acquisitions(frames, order) or _uneven(frames, along[order], order)
    if refusal is not None:
        return refusal
    slice_spacing = _slice_spacing(frames, along[order])
    if slice_spacing is None:
        return Refusal(
            "a single slice of unknown thickness",
            "the DICOM series is a single slice, and it does not state a thickness",
            None,
            "SliceThickness or SpacingBetweenSlices",
            "give a series of several slices",
            is_broken=True,
        )
    row_spacing, column_spacing = frames[0].pixel_spacing or (0.0, 0.0)
    refusal = _tilted(frames, places[order], direction, min(row_spacing, column_spacing))
    if refusal is not None:
        return refusal
    x, y, z = (float(value) for value in places[order[0]])
    geometry = Geometry(
        shape=(len(frames), rows, columns),
        spacing=(slice_spacing, row_spacing, column_spacing),
        origin=(x, y, z),
        direction=tuple(float(value) + 0.0 for value in direction.ravel()),
    )
    return Layout(tuple(int(index) for index in order), geometry)


def _direction(orientation: Sequence[float]) -> FloatArray:
    """Return the direction matrix. Its columns are the row direction, the column direction and the normal."""
    along_row, along_column = np.asarray(orientation[:3], np.float64), np.asarray(orientation[3:], np.float64)
    along_row = along_row / np.linalg.norm(along_row)
    along_column = along_column - (along_column @ along_row) * along_row
    along_column = along_column / np.linalg.norm(along_column)
    return np.stack([along_row, along_column, np.cross(along_row, along_column)], axis=1)


def _without_place(frames: Sequence[Frame]) -> Refusal | None:
    if all(frame.position is not None and frame.orientation is not None for frame in frames):
        return None
    without = sum(frame.position is None or frame.orientation is None for frame in frames)
    modality = frames[0].header.text("Modality") or "unknown modality"
    return Refusal(
        f"{_describe_modality(modality, frames[0].header.image_type())}: no positions",
        f"the images of the DICOM series do not state their position in the patient ({modality})",
        f"{without} of {len(frames)} frames without ImagePositionPatient or ImageOrientationPatient",
        "slices with positions, as in CT, MR and PET",
        "give the original series; secondary captures, projections and ultrasound have no positions",
        is_broken=without < len(frames),
    )


def _describe_modality(modality: str, image_type: Sequence[str]) -> str:
    if modality in ("CR", "DX", "MG", "XA", "RF", "PX", "IO"):
        return "projection images"
    if modality in ("US", "IVUS", "ES", "GM", "XC", "SM", "OP"):
        return "ultrasound, video or photographs" if modality in ("US", "IVUS") else "photographs or video"
    if modality == "NM":
        return "nuclear medicine frames"
    return "derived or captured images" if "SECONDARY" in image_type else "images"


def _several_orientations(frames: Sequence[Frame]) -> Refusal | None:
    first = np.asarray(frames[0].orientation, np.float64)
    row, column = first[:3], first[3:]
    errors = (float(np.linalg.norm(row)) - 1, float(np.linalg.norm(column)) - 1, float(row @ column))
    if max(abs(error) for error in errors) > _COSINE_TOLERANCE:
        return Refusal(
            "rows and columns not at right angles",
            "the orientation of the DICOM series does not consist of two unit vectors at right angles",
            f"ImageOrientationPatient {_listing(first)}",
            "direction cosines of rows and columns",
            _EXPORT_AGAIN,
            is_broken=True,
        )
    orientations = np.asarray([frame.orientation for frame in frames], np.float64)
    others = np.abs(orientations - first).max(axis=1) > _COSINE_TOLERANCE
    if not others.any():
        return None
    distinct = np.unique(np.round(orientations, 2), axis=0)
    planes = sorted({_plane(orientation) for orientation in distinct})
    return Refusal(
        f"slices of {len(distinct)} orientations, as in a localizer or a rotation",
        "the slices of the DICOM series are not parallel: it is a localizer, a rotation or a mixture",
        f"{len(distinct)} orientations ({', '.join(planes)})",
        "parallel slices",
        "give the series of the scan itself, not the localizer",
        is_broken=False,
    )


def _plane(orientation: FloatArray) -> str:
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return ("sagittal", "coronal", "axial")[int(np.argmax(normal))]


def _several_spacings(frames: Sequence[Frame]) -> Refusal | None:
    spacings = [frame.pixel_spacing for frame in frames]
    missing = sum(spacing is None for spacing in spacings)
    if missing or any(spacing[0] <= 0 or spacing[1] <= 0 for spacing in spacings if spacing):
        return Refusal(
            "no PixelSpacing",
            "the DICOM series does not state the size of its voxels",
            f"{missing} of {len(frames)} frames without PixelSpacing" if missing else "a PixelSpacing of 0",
            "PixelSpacing in each image",
            "give the original series; ImagerPixelSpacing alone is not measured in the patient",
            is_broken=True,
        )
    array = np.asarray(spacings, np.float64)
    if (np.abs(array - array[0]) > _SPACING_TOLERANCE * array[0]).any():
        listing = sorted({(float(row), float(column)) for row, column in array})
        return _mixture("PixelSpacing", " and ".join(f"{a:g}×{b:g} mm" for a, b in listing[:_MAX_LISTED]))
    frame_uids = {frame.header.text("FrameOfReferenceUID") for frame in frames}
    if len(frame_uids) > 1:
        return _mixture("FrameOfReferenceUID", f"{len(frame_uids)} frames of reference")
    return None


def _mixture(attribute: str, values: str) -> Refusal:
    return Refusal(
        f"a mixture: {attribute} differs",
        f"the slices of the DICOM series differ in {attribute}, so they do not form one volume",
        values,
        f"one {attribute}",
        "separate the images that belong together, for instance with dcm2niix, and give one of the volumes",
        is_broken=True,
    )


def _repeated_places(frames: Sequence[Frame], along: FloatArray, order: npt.NDArray[np.intp]) -> Refusal:
    """Return the refusal of frames that share positions: time series, several volumes, or repeated slices."""
    groups: list[list[int]] = []
    for index in order:
        if groups and along[index] - along[groups[-1][0]] <= _SAME_PLACE:
            groups[-1].append(int(index))
        else:
            groups.append([int(index)])
    names = _differing(frames, [group for group in groups if len(group) > 1])
    counts = Counter(len(group) for group in groups)
    varies = f", which differ in {' and '.join(names[:3])}" if names else ""
    if len(groups) == 1:
        return Refusal(
            f"{len(frames)} frames at one position (a time series)",
            "all frames of the DICOM series have one position: it is a time series (cine, perfusion), not a volume",
            f"{len(frames)} frames at one position{varies}",
            _ONE_VOLUME,
            "give a series of neighbouring slices",
            is_broken=False,
        )
    most = max(counts)
    twice = [frames[group[-1]] for group in groups if len(group) > 1]
    if not names and len(twice) < len(groups):
        files = ", ".join(_frame_name(frame) for frame in twice[:_MAX_LISTED])
        return Refusal(
            "repeated slices",
            "slices of the DICOM series have the same position: they are repeated, with different identifiers",
            f"{len(twice)} of {len(groups)} positions hold more than one slice, for example {files}",
            _ONE_VOLUME,
            "remove the slices that were sent twice, or export the series again",
            is_broken=True,
        )
    kind = " and ".join(names[:3]) or "nothing that the headers state"
    regular = f"{most} frames at each of {len(groups)} positions"
    irregular = f"{min(counts)} to {most} frames at each of {len(groups)} positions"
    return Refusal(
        f"{most} volumes in one series: {kind}",
        f"the DICOM series holds several volumes (time points, echoes, b-values …), which differ in {kind}",
        regular if len(counts) == 1 else irregular,
        _ONE_VOLUME,
        "separate the volumes, for instance with dcm2niix, and give the volume that the model was trained for",
        is_broken=False,
    )


def _differing(frames: Sequence[Frame], groups: Sequence[Sequence[int]]) -> list[str]:
    """Return the names of the acquisition values that differ between frames of one position."""
    names: list[str] = []
    for part in ("acquisition", "explanations"):
        for group in groups[: 2 * _MAX_LISTED]:
            values: dict[str, set[str | float]] = {}
            for index in group:
                for name, value in getattr(frames[index], part):
                    values.setdefault(name, set()).add(value)
            names += [name for name, found in values.items() if len(found) > 1 and name not in names]
        if names:
            break
    # The times and the numbers of the acquisitions follow from the values that were varied. They are named only if
    # nothing else differs.
    named = [name for name in names if name not in ("content time", "acquisition time", "acquisition number")]
    return named or names


def _several_acquisitions(frames: Sequence[Frame], order: npt.NDArray[np.intp]) -> Refusal | None:
    values: dict[str, list[str | float]] = {}
    for index in order:
        for name, value in frames[index].acquisition:
            values.setdefault(name, []).append(value)
    for name, found in values.items():
        numbers = [value for value in found if isinstance(value, float)]
        texts = sorted({value for value in found if isinstance(value, str)})
        spread = max(numbers) - min(numbers) if numbers else 0.0
        differs = spread > ACQUISITION_TOLERANCE * max(abs(value) for value in numbers) if numbers else False
        if differs or len(texts) > 1:
            listing = texts or [f"{value:g}" for value in sorted(set(numbers))]
            return _mixture(name, " and ".join(listing[:_MAX_LISTED]))
    slopes = {frame.scaling.source for frame in frames if frame.scaling is not None}
    scaled = any(frame.scaling not in (None, _identity(frame)) for frame in frames)
    if len(slopes) > 1 and scaled:
        return _mixture("rescale", "some state a rescale slope, others do not")
    return None


def _identity(frame: Frame) -> object:
    scaling = frame.scaling
    return scaling if scaling is not None and (scaling.slope, scaling.intercept) == (1.0, 0.0) else None


def _uneven(frames: Sequence[Frame], along: FloatArray, order: npt.NDArray[np.intp]) -> Refusal | None:
    if len(along) < 3:
        return None
    gaps = np.diff(along)
    mean, median = (along[-1] - along[0]) / (len(along) - 1), float(np.median(gaps))
    drift = np.abs(along - along[0] - mean * np.arange(len(along))).max() / mean
    even = np.abs(gaps - median).max() <= GAP_TOLERANCE * median
    if drift <= GAP_TOLERANCE or (even and drift <= _DRIFT_TOLERANCE):
        return None
    worst = int(np.argmax(np.abs(gaps - median)))
    before, after = (_frame_name(frames[order[index]]) for index in (worst, worst + 1))
    whole = np.abs(gaps / median - np.round(gaps / median)) <= GAP_TOLERANCE
    missing = int((np.round(gaps / median) - 1).sum()) if whole.all() else 0
    if 0 < missing < len(along):
        reason, problem = f"{missing} slice(s) missing", f"{missing} slice(s) of the DICOM series are missing"
        remedy = _EXPORT_AGAIN
    else:
        reason, problem = "uneven gaps", "the slices of the DICOM series are not evenly spaced"
        remedy = "resample the series to even spacing first, or export it again if slices are missing"
    return Refusal(
        reason,
        problem,
        f"gaps of {gaps.min():.4g} to {gaps.max():.4g} mm; {gaps[worst]:.4g} mm between {before} and {after}",
        f"{median:.4g} mm between all slices, within {GAP_TOLERANCE:.0%}",
        remedy,
        is_broken=True,
    )


def _tilted(frames: Sequence[Frame], places: FloatArray, direction: FloatArray, pixel: float) -> Refusal | None:
    steps = places - places[0]
    in_plane = steps - np.outer(steps @ direction[:, 2], direction[:, 2])
    farthest = float(np.linalg.norm(in_plane, axis=1).max())
    if farthest <= _TILT_TOLERANCE * pixel:
        return None
    tilt = frames[0].header.number("GantryDetectorTilt")
    stated = f"; GantryDetectorTilt is {tilt:g} degrees" if tilt else ""
    return Refusal(
        "slices not stacked at right angles (gantry tilt)",
        "the slices of the DICOM series are not stacked at right angles, as with a tilted gantry",
        f"a slice is shifted by {farthest:.4g} mm against the first{stated}",
        f"at most {_TILT_TOLERANCE * pixel:.4g} mm, half a voxel",
        "straighten the series first, for instance with dcm2niix",
        is_broken=True,
    )


def _slice_spacing(frames: Sequence[Frame], along: FloatArray) -> float | None:
    """Return the distance between slices as a decimal number; ``None`` for a single slice of unknown thickness."""
    stated = [abs(value) for value in (frames[0].spacing_between, frames[0].thickness) if value]
    if len(along) == 1:
        return stated[0] if stated else None
    measured = float(along[-1] - along[0]) / (len(along) - 1)
    # Positions are rounded. A stated spacing that agrees within this rounding is exact, so it is used.
    near = [value for value in stated if abs(value - measured) <= _SPACING_TOLERANCE * measured]
    return near[0] if near else float(f"{measured:.7g}")


def _frame_name(frame: Frame) -> str:
    name = frame.header.path.name
    return f"frame {frame.index + 1} of {name}" if frame.header.frame_count > 1 else name


def _listing(values: Sequence[float] | FloatArray) -> str:
    return " ".join(f"{value:g}" for value in values)
