"""The fingerprint: everything that is measured of a data set before the planner decides anything.

The fingerprint is stored as ``dataset_fingerprint.json`` (:mod:`detseg3d.planning.fingerprint_file`). All classes are
immutable pydantic models, and every value is checked when the file is read. Lengths are millimetres, axes are
``(z, y, x)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator
from typing_extensions import Self

from detseg3d.core.arrays import FloatArray, IntArray
from detseg3d.core.codes import ClassCodes
from detseg3d.data.dataset import RawDataset
from detseg3d.planning.appearance.scan import ScanAppearance
from detseg3d.planning.limits import FiniteFloat

__all__ = [
    "FINGERPRINT_VERSION",
    "CaseFingerprint",
    "ChannelIntensities",
    "DatasetFacts",
    "Fingerprint",
    "FingerprintSummary",
    "IntensityStatistics",
    "LesionRecord",
    "ScanFingerprint",
    "percentiles",
    "percentiles_per_axis",
]

FINGERPRINT_VERSION: Final = 4

PERCENTILES: Final = (0.0, 0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 100.0)
"""The percentiles that are stored for every distribution; 0 is the minimum, 100 is the maximum."""

Percentiles = dict[float, FiniteFloat]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NumberOf = Annotated[int, Field(ge=0)]
Edge = Annotated[int, Field(ge=1, le=1_000_000)]
Lengths = tuple[Positive, Positive, Positive]
Point = tuple[FiniteFloat, FiniteFloat, FiniteFloat]
Shape = tuple[Edge, Edge, Edge]


def percentiles(values: npt.ArrayLike) -> Percentiles:
    """Return the percentiles of values, by percentile.

    Parameters
    ----------
    values : array_like

    Returns
    -------
    dict of float to float
        One entry for each of :data:`PERCENTILES`. Empty if there are no values.

    Examples
    --------
    >>> percentiles([1, 2, 3])[50], percentiles([])
    (2.0, {})
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return {}
    return dict(zip(PERCENTILES, np.percentile(array, PERCENTILES).tolist(), strict=True))


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PercentilesPerAxis(_Record):
    """Percentiles of lengths or numbers of voxels along each axis."""

    z: Percentiles
    y: Percentiles
    x: Percentiles


def percentiles_per_axis(values: npt.ArrayLike) -> PercentilesPerAxis:
    """Return the percentiles of values along each axis.

    Parameters
    ----------
    values : array_like, shape ``(N, 3)``

    Returns
    -------
    PercentilesPerAxis
    """
    array = np.asarray(values, dtype=np.float64).reshape(-1, 3)
    return PercentilesPerAxis(z=percentiles(array[:, 0]), y=percentiles(array[:, 1]), x=percentiles(array[:, 2]))


class LesionRecord(_Record):
    """One lesion of a training case, as measured on the grid of its scan.

    Attributes
    ----------
    class_index : int
        Class, from 0.
    voxels : int
    volume_mm3 : float
    extents_mm : 3 floats
        Edges of the lesion's box.
    diameter_mm : float
        Diameter of a ball with the same volume.
    center_mm : 3 floats
        Centre of the lesion's box, from the corner of the crop to the body. The detector has to find this point.
    nearest_mm : float or None
        Distance from this centre to the nearest centre of another lesion. ``None`` if the case has one lesion.
    """

    class_index: NumberOf
    voxels: Annotated[int, Field(ge=1)]
    volume_mm3: Positive
    extents_mm: Lengths
    diameter_mm: Positive
    center_mm: Point
    nearest_mm: NonNegative | None = None


class IntensityStatistics(_Record):
    """Distribution of the intensities of a region, in the units of the files.

    Attributes
    ----------
    mean, std : float
        Without outliers, see :func:`detseg3d.core.body.plausible_range`.
    percentiles : dict of float to float
        All voxels count. The keys are those of :data:`PERCENTILES`.
    """

    mean: FiniteFloat
    std: NonNegative
    percentiles: Percentiles


class ChannelIntensities(_Record):
    """Intensities of one channel in the body and in the lesions; ``None`` for a region without voxels."""

    body: IntensityStatistics | None
    lesions: IntensityStatistics | None


class ScanFingerprint(_Record):
    """Measurements of the images and the label of one case.

    Attributes
    ----------
    spacing : 3 floats
    shape : 3 ints
        Voxels of the scan.
    crop_box : 6 ints
        The box around the body, ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    cropped_shape : 3 ints
        Voxels of ``crop_box``.
    intensity : tuple of ChannelIntensities
        One for each channel.
    degenerate : tuple of str or None
        For each channel, the reason why the channel carries no information after normalisation, in words. ``None`` if
        the channel carries information.
    image_is_label : bool
        Whether an image holds the label and nothing else.
    appearance : ScanAppearance or None
        Appearance of the scan, for the comparison with new scans. ``None`` in a fingerprint that was not measured.
    lesions : tuple of LesionRecord
    """

    spacing: Lengths
    shape: Shape
    crop_box: tuple[int, int, int, int, int, int]
    cropped_shape: Shape
    intensity: tuple[ChannelIntensities, ...] = ()
    degenerate: tuple[str | None, ...] = ()
    image_is_label: bool = False
    appearance: ScanAppearance | None = None
    lesions: tuple[LesionRecord, ...] = ()

    @property
    def lesion_classes(self) -> IntArray:
        """Class of each lesion, from 0, shape ``(N,)``."""
        return np.array([lesion.class_index for lesion in self.lesions], np.int64)

    @property
    def lesion_extents(self) -> FloatArray:
        """Edges of each lesion's box in mm, shape ``(N, 3)``."""
        return np.array([lesion.extents_mm for lesion in self.lesions], np.float64).reshape(-1, 3)

    @property
    def lesion_centers(self) -> FloatArray:
        """Centre of each lesion's box in mm from the corner of the crop, shape ``(N, 3)``."""
        return np.array([lesion.center_mm for lesion in self.lesions], np.float64).reshape(-1, 3)

    @model_validator(mode="after")
    def _crop_lies_in_the_volume(self) -> Self:
        for axis in range(3):
            start, stop = self.crop_box[axis], self.crop_box[axis + 3]
            if not 0 <= start < stop <= self.shape[axis] or stop - start != self.cropped_shape[axis]:
                raise ValueError("crop_box must lie within shape and have the edges cropped_shape")
        return self


class CaseFingerprint(ScanFingerprint):
    """Measurements of one case, with its source and its patient.

    Attributes
    ----------
    source : str
        Digest of the files and classes of the case, see :func:`detseg3d.data.cases.source_digest`.
    patient : str
        Name of the patient. Cases of one patient are never divided between training and validation.
    """

    source: str
    patient: str


class DatasetFacts(_Record):
    """The entries of dataset.json that plans depend on."""

    channel_names: Annotated[tuple[str, ...], Field(min_length=1)]
    labels: dict[str, Annotated[int, Field(ge=0, le=65_535)]]
    file_ending: str
    instances: bool
    default_spacing: Lengths | None
    suv_channels: tuple[str, ...]
    codes: dict[str, ClassCodes] = Field(default_factory=dict)

    @classmethod
    def of(cls, dataset: RawDataset) -> DatasetFacts:
        """Return the facts about a raw data set."""
        return cls(
            channel_names=dataset.channel_names,
            labels=dataset.labels,
            file_ending=dataset.file_ending,
            instances=dataset.instances,
            default_spacing=dataset.default_spacing,
            suv_channels=dataset.suv_channels,
            codes=dataset.codes,
        )

    @model_validator(mode="after")
    def _labels_differ(self) -> DatasetFacts:
        if len(set(self.labels.values())) != len(self.labels) or 0 not in self.labels.values() or len(self.labels) < 2:
            raise ValueError("labels must be different, 0 for the background and at least one lesion class")
        return self


class FingerprintSummary(_Record):
    """Distributions over all cases and lesions of the data set.

    Attributes
    ----------
    cases : int
    cases_without_lesions : tuple of str
    lesions : int
    lesions_per_class : dict of str to int
    lesions_per_case : dict of float to float
        Percentiles over the cases.
    spacing, shape, cropped_shape : PercentilesPerAxis
        Percentiles over the cases.
    volume_mm3, voxels, longest_edge_mm, diameter_mm, nearest_mm : dict of float to float
        Percentiles over the lesions.
    extents_mm : PercentilesPerAxis
        Percentiles over the lesions.
    intensity : tuple of ChannelIntensities
        One for each channel. Every case has the same weight.
    """

    cases: Annotated[int, Field(ge=1)]
    cases_without_lesions: tuple[str, ...]
    lesions: NumberOf
    lesions_per_class: dict[str, NumberOf]
    lesions_per_case: Percentiles
    spacing: PercentilesPerAxis
    shape: PercentilesPerAxis
    cropped_shape: PercentilesPerAxis
    volume_mm3: Percentiles
    voxels: Percentiles
    extents_mm: PercentilesPerAxis
    longest_edge_mm: Percentiles
    diameter_mm: Percentiles
    nearest_mm: Percentiles
    intensity: tuple[ChannelIntensities, ...]


class Fingerprint(_Record):
    """Everything that is measured of a data set.

    Attributes
    ----------
    version : int
    dataset_name : str
    dataset : DatasetFacts
    cases : dict of str to CaseFingerprint
    summary : FingerprintSummary
    """

    version: Literal[4] = FINGERPRINT_VERSION
    dataset_name: Annotated[str, Field(min_length=1)]
    dataset: DatasetFacts
    cases: Annotated[dict[str, CaseFingerprint], Field(min_length=1)]
    summary: FingerprintSummary

    @property
    def scans(self) -> Sequence[CaseFingerprint]:
        """The cases without their names, in the order of ``cases``."""
        return tuple(self.cases.values())

    @property
    def lesion_extents(self) -> FloatArray:
        """Edges of the boxes of all lesions in mm, shape ``(N, 3)``."""
        return np.concatenate([np.zeros((0, 3)), *(case.lesion_extents for case in self.scans)])

    @model_validator(mode="after")
    def _parts_agree(self) -> Fingerprint:
        classes, channels = len(self.dataset.labels) - 1, len(self.dataset.channel_names)
        for name, case in self.cases.items():
            if any(lesion.class_index >= classes for lesion in case.lesions):
                raise ValueError(f"cases.{name}.lesions: a class from 0 to {classes - 1} is expected")
            if len(case.intensity) != channels:
                raise ValueError(f"cases.{name}.intensity: {channels} channel(s) are expected")
        lesions = sum(len(case.lesions) for case in self.cases.values())
        if (self.summary.cases, self.summary.lesions) != (len(self.cases), lesions):
            raise ValueError(f"summary: {len(self.cases)} cases and {lesions} lesions are expected")
        if len(self.summary.intensity) != channels:
            raise ValueError(f"summary.intensity: {channels} channel(s) are expected")
        return self
