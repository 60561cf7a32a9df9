"""Read position, scaling and acquisition of each frame of a DICOM object.

A classic slice is an object with one frame. In an enhanced object each frame takes an attribute from its own functional
groups, or from the shared functional groups if its own groups do not have the attribute.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag

from detseg3d.data.formats.dicom.headers import DicomHeader, damaged

__all__ = ["ACQUISITION_TOLERANCE", "Frame", "frames_of"]

# Relative tolerance. Scanners round echo and repetition times. The times of different images differ by more.
ACQUISITION_TOLERANCE = 0.05

# Values that are equal in all slices of one volume: name in messages, attribute, functional group.
_ACQUISITION = (
    ("temporal position", "TemporalPositionIdentifier", None),
    ("temporal position", "TemporalPositionIndex", "FrameContentSequence"),
    ("stack", "StackID", "FrameContentSequence"),
    ("echo time", "EchoTime", None),
    ("echo time", "EffectiveEchoTime", "MREchoSequence"),
    ("echo number", "EchoNumbers", None),
    ("repetition time", "RepetitionTime", None),
    ("repetition time", "RepetitionTime", "MRTimingAndRelatedParametersSequence"),
    ("flip angle", "FlipAngle", None),
    ("flip angle", "FlipAngle", "MRTimingAndRelatedParametersSequence"),
    ("inversion time", "InversionTime", None),
    ("inversion time", "InversionTimes", "MRModifierSequence"),
    ("b-value", "DiffusionBValue", None),
    ("b-value", "DiffusionBValue", "MRDiffusionSequence"),
    ("sequence name", "SequenceName", None),
    ("tube voltage", "KVP", None),
    ("tube voltage", "KVP", "CTXRayDetailsSequence"),
    ("convolution kernel", "ConvolutionKernel", None),
    ("convolution kernel", "ConvolutionKernel", "CTReconstructionSequence"),
    ("units", "Units", None),
    ("rescale type", "RescaleType", None),
)
# Values that may differ between the slices of one volume. They explain why a position has several frames.
_EXPLANATIONS = (
    ("trigger time", "TriggerTime", None),
    ("trigger time", "NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence"),
    ("diffusion direction", "DiffusionGradientOrientation", None),
    ("frame reference time", "FrameReferenceTime", None),
    ("acquisition number", "AcquisitionNumber", None),
    ("contrast agent", "ContrastBolusAgent", None),
    ("acquisition time", "AcquisitionTime", None),
    ("acquisition time", "FrameAcquisitionDateTime", "FrameContentSequence"),
    ("content time", "ContentTime", None),
)
_PLACE_KEYWORDS = frozenset({"ImagePositionPatient", "InStackPositionNumber", "SliceLocation", "StackID"})
_FRAME_TYPE_GROUPS = (
    "MRImageFrameTypeSequence",
    "CTImageFrameTypeSequence",
    "PETFrameTypeSequence",
    "ParametricMapFrameTypeSequence",
)


@dataclass(frozen=True)
class Scaling:
    """Conversion of stored values to values: ``stored * slope + intercept``.

    Attributes
    ----------
    slope, intercept : float
    source : str
        The attribute that states slope and intercept; empty if the object states neither.
    """

    slope: float = 1.0
    intercept: float = 0.0
    source: str = ""

    @property
    def is_whole(self) -> bool:
        """True if the conversion turns whole numbers into whole numbers."""
        return self.slope == int(self.slope) and self.intercept == int(self.intercept)


@dataclass(frozen=True)
class Frame:
    """One frame of a DICOM object.

    Attributes
    ----------
    header : DicomHeader
        Header of the object.
    index : int
        Number of the frame in the object, from 0.
    position : 3 floats or None
        Centre of the first voxel, mm LPS; ``None`` if the object does not state it.
    orientation : 6 floats or None
        Direction cosines along a row and along a column; ``None`` if not stated.
    pixel_spacing : 2 floats or None
        Distance between rows and distance between columns, mm.
    thickness, spacing_between : float or None
        Stated slice thickness and stated spacing between slices, mm.
    scaling : Scaling or None
        ``None`` if the conversion is not a slope and an intercept.
    acquisition, explanations : tuple of (str, str or float)
        Names and values that describe the acquisition. ``acquisition`` is equal in all slices of a volume.
    """

    header: DicomHeader
    index: int
    position: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    pixel_spacing: tuple[float, float] | None
    thickness: float | None
    spacing_between: float | None
    scaling: Scaling | None
    acquisition: tuple[tuple[str, str | float], ...]
    explanations: tuple[tuple[str, str | float], ...]


def frames_of(header: DicomHeader) -> tuple[Frame, ...]:
    """Return all frames of an object, in stored order.

    Raises
    ------
    DetSeg3DError
        If an attribute cannot be understood, or the number of functional groups differs from the number of frames.
    """
    shared = next(iter(header.items("SharedFunctionalGroupsSequence")), None)
    own = header.items("PerFrameFunctionalGroupsSequence")
    count = header.frame_count
    if own and len(own) != count:
        raise damaged(header.path, f"it has {count} frames, but functional groups of {len(own)} frames")
    if header.numbers("GridFrameOffsetVector"):
        return _dose_frames(header, count)
    if count > 1 and not own:
        return _frames_without_place(header, count)
    dimensions = _dimensions(header)
    return tuple(
        _frame(_Groups(header, index, own[index] if own else None, shared), dimensions) for index in range(count)
    )


@dataclass(frozen=True)
class _Groups:
    """Look-up of attributes of one frame.

    Attributes are searched in the functional groups of the frame, in the shared groups, and in the object, in this
    order.
    """

    header: DicomHeader
    index: int
    own: Dataset | None
    shared: Dataset | None

    def item(self, group: str | None) -> Dataset | None:
        """Return the item of a functional group of this frame, or ``None``."""
        if group is None:
            return self.header.dataset
        for source in (self.own, self.shared):
            if source is not None:
                items = self.header.items(group, source)
                if items:
                    return items[0]
        return None

    def numbers(self, keyword: str, group: str) -> tuple[float, ...]:
        """Return the numbers of an attribute from its functional group or from the object."""
        item = self.item(group)
        found = self.header.numbers(keyword, item) if item is not None else ()
        return found or self.header.numbers(keyword)

    def value(self, keyword: str, group: str | None) -> str | float | None:
        """Return the value of an attribute as a number or text; ``None`` if the attribute is missing."""
        item = self.item(group)
        if item is None:
            return None
        try:
            value = item.get(keyword)
        except Exception as error:
            raise damaged(self.header.path, f"{keyword} cannot be understood: {error}") from error
        if value is None or value == "":
            return None
        if isinstance(value, (int, float)):
            return float(value)
        return str(value).strip()


def _frame(groups: _Groups, dimensions: tuple[str, ...]) -> Frame:
    header = groups.header
    position = _of_length(
        header, "ImagePositionPatient", groups.numbers("ImagePositionPatient", "PlanePositionSequence"), 3
    )
    orientation = _of_length(
        header, "ImageOrientationPatient", groups.numbers("ImageOrientationPatient", "PlaneOrientationSequence"), 6
    )
    spacing = _of_length(header, "PixelSpacing", groups.numbers("PixelSpacing", "PixelMeasuresSequence"), 2)
    thickness = groups.numbers("SliceThickness", "PixelMeasuresSequence")
    between = groups.numbers("SpacingBetweenSlices", "PixelMeasuresSequence")
    return Frame(
        header=header,
        index=groups.index,
        position=None if position is None else (position[0], position[1], position[2]),
        orientation=orientation,
        pixel_spacing=None if spacing is None else (spacing[0], spacing[1]),
        thickness=thickness[0] if thickness else None,
        spacing_between=between[0] if between else None,
        scaling=_scaling(groups),
        acquisition=_image_kind(groups) + _values(groups, _ACQUISITION),
        explanations=_values(groups, _EXPLANATIONS) + _dimension_values(groups, dimensions),
    )


def _of_length(header: DicomHeader, keyword: str, values: tuple[float, ...], count: int) -> tuple[float, ...] | None:
    if not values:
        return None
    if len(values) != count or not all(math.isfinite(value) and abs(value) < 1e6 for value in values):
        raise damaged(header.path, f"{keyword} is {list(values)}, not {count} numbers")
    return values


def _values(
    groups: _Groups, attributes: tuple[tuple[str, str, str | None], ...]
) -> tuple[tuple[str, str | float], ...]:
    found = ((name, groups.value(keyword, group)) for name, keyword, group in attributes)
    return tuple((name, value) for name, value in found if value is not None)


def _image_kind(groups: _Groups) -> tuple[tuple[str, str | float], ...]:
    """Return the third and later values of ImageType: magnitude or phase, water or fat, axial or localizer."""
    values: tuple[str, ...] = ()
    for group in _FRAME_TYPE_GROUPS:
        item = groups.item(group)
        if item is not None and item.get("FrameType"):
            values = tuple(str(entry).strip().upper() for entry in item.FrameType)
    values = (values or groups.header.image_type())[2:]
    return (("image type", "\\".join(values)),) if values else ()


def _dimensions(header: DicomHeader) -> tuple[str, ...]:
    """Return the keyword of each dimension of DimensionIndexValues."""
    names = []
    for item in header.items("DimensionIndexSequence"):
        tag = item.get("DimensionIndexPointer")
        label = str(item.get("DimensionDescriptionLabel") or "")
        names.append((keyword_for_tag(tag) if tag is not None else "") or label or "an unnamed dimension")
    return tuple(names)


def _dimension_values(groups: _Groups, dimensions: tuple[str, ...]) -> tuple[tuple[str, str | float], ...]:
    item = groups.item("FrameContentSequence")
    if item is None or not dimensions:
        return ()
    values = groups.header.numbers("DimensionIndexValues", item)
    return tuple(
        (f"dimension {name}", value)
        for name, value in zip(dimensions, values, strict=False)
        if name not in _PLACE_KEYWORDS
    )


def _scaling(groups: _Groups) -> Scaling | None:
    """Return the rescale slope and intercept, or the real world value mapping of an object without rescale.

    An object may state both, in different units. Viewers and other readers use the rescale.
    """
    header = groups.header
    if header.items("ModalityLUTSequence"):
        return None
    if header.text("Modality") == "RTDOSE":
        factor = header.number("DoseGridScaling")
        return None if factor is None else _checked(header, Scaling(factor, 0.0, "DoseGridScaling"))
    group = groups.item("PixelValueTransformationSequence")
    source = group if group is not None else header.dataset
    slope, intercept = header.number("RescaleSlope", source), header.number("RescaleIntercept", source)
    if slope is not None or intercept is not None:
        if slope is None or intercept is None:
            missing = "RescaleSlope" if slope is None else "RescaleIntercept"
            raise damaged(header.path, f"{missing} is missing")
        return _checked(header, Scaling(slope, intercept, "RescaleSlope"))
    return _real_world(groups)


def _real_world(groups: _Groups) -> Scaling | None:
    header = groups.header
    items: tuple[Dataset, ...] = ()
    for source in (groups.own, groups.shared, header.dataset):
        if source is not None and not items:
            items = header.items("RealWorldValueMappingSequence", source)
    scalings = set()
    for item in items:
        slope = header.number("RealWorldValueSlope", item)
        intercept = header.number("RealWorldValueIntercept", item)
        if slope is None or intercept is None:
            return None
        scalings.add((slope, intercept))
    if not scalings:
        return Scaling()
    if len(scalings) > 1:
        return None  # the image holds several quantities
    slope, intercept = scalings.pop()
    return _checked(header, Scaling(slope, intercept, "RealWorldValueSlope"))


def _checked(header: DicomHeader, scaling: Scaling) -> Scaling:
    if not (math.isfinite(scaling.slope) and math.isfinite(scaling.intercept)) or scaling.slope == 0:
        raise damaged(header.path, f"{scaling.source} is {scaling.slope:g}, with the intercept {scaling.intercept:g}")
    return scaling


def _frames_without_place(header: DicomHeader, count: int) -> tuple[Frame, ...]:
    """Return frames without positions: the object does not state whether they are times, angles or slices."""
    start = replace(_frame(_Groups(header, 0, None, None), ()), position=None)
    return tuple(replace(start, index=index) for index in range(count))


def _dose_frames(header: DicomHeader, count: int) -> tuple[Frame, ...]:
    """Return the frames of an RT dose: planes at offsets along the normal, or at positions along the patient's z axis.

    The standard defines two forms of GridFrameOffsetVector. A vector that begins with 0 holds offsets along the normal.
    For transverse planes, a vector that begins with the third number of ImagePositionPatient holds positions along z.
    """
    offsets = header.numbers("GridFrameOffsetVector")
    first = _of_length(header, "ImagePositionPatient", header.numbers("ImagePositionPatient"), 3)
    orientation = _of_length(header, "ImageOrientationPatient", header.numbers("ImageOrientationPatient"), 6)
    if first is None or orientation is None:
        raise damaged(header.path, "the dose has no position or no orientation")
    if len(offsets) != count:
        raise damaged(header.path, f"it has {count} frames, but {len(offsets)} numbers in GridFrameOffsetVector")
    transverse = np.allclose(np.abs(orientation), (1, 0, 0, 0, 1, 0), atol=1e-4)
    normal = np.cross(orientation[:3], orientation[3:])
    if offsets[0] != 0 and transverse and abs(offsets[0] - first[2]) <= 1e-3:
        places = [(first[0], first[1], offset) for offset in offsets]
    elif offsets[0] == 0:
        places = [_place(np.asarray(first) + offset * normal) for offset in offsets]
    else:
        raise damaged(
            header.path, f"GridFrameOffsetVector begins with {offsets[0]:g}, neither 0 nor the position {first[2]:g}"
        )
    groups = _Groups(header, 0, None, None)
    start = _frame(groups, ())
    return tuple(replace(start, index=index, position=place) for index, place in enumerate(places))


def _place(point: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in point)
    return x, y, z
