"""One scan of a patient with its lesions, as the comparison over time takes it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from detseg3d.core.arrays import AnyIntArray, Array, BoolArray, Box, FloatArray, IntArray
from detseg3d.core.body import padding_value
from detseg3d.core.boxes import box_slices, boxes_from_instances
from detseg3d.core.components import instances_from_semantic
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.measures.lesion import LesionMeasures
from detseg3d.measures.measure import measure_lesions
from detseg3d.system.json_records import JsonRecord

__all__ = ["FollowedLesion", "LesionFacts", "RejectedCandidate", "TimePoint"]

_NO_CLASS = "lesion"


@dataclass(frozen=True)
class LesionFacts:
    """Class and score of a lesion, which an instance map does not state.

    Attributes
    ----------
    class_name : str
    score : float or None
    """

    class_name: str = _NO_CLASS
    score: float | None = None


@dataclass(frozen=True)
class FollowedLesion(JsonRecord):
    """A lesion in one scan.

    Attributes
    ----------
    number : int
        Value of the lesion in the instance map.
    class_name : str
    score : float or None
        0 to 1; ``None`` for a lesion without a score, for example a drawn lesion.
    measures : LesionMeasures
    """

    number: int
    class_name: str
    score: float | None
    measures: LesionMeasures


@dataclass(frozen=True)
class RejectedCandidate:
    """A candidate that the model did not accept as a lesion.

    Attributes
    ----------
    box : 6 floats
        ``z0 y0 x0 z1 y1 x1`` in voxel edges of the instance map, in canonical order.
    score : float
        0 to 1.
    """

    box: Box
    score: float


@dataclass(frozen=True, eq=False)
class TimePoint:
    """A scan of a patient at one time.

    Attributes
    ----------
    name : str
        Name for tables and pages.
    instances : Image
        Instance map in canonical order: 0 is background, every other value is one lesion.
    lesions : tuple of FollowedLesion
        One entry for each number in the instance map.
    image : Image or None
        One channel of the scan, for the registration and for pictures. Its grid may differ from that of the map.
    candidates : tuple of RejectedCandidate
    date : datetime.date or None
        Day of the scan; ``None`` if it is unknown.
    """

    name: str
    instances: Image
    lesions: tuple[FollowedLesion, ...]
    image: Image | None = None
    candidates: tuple[RejectedCandidate, ...] = ()
    date: dt.date | None = None

    @classmethod
    def of_instances(
        cls, name: str, instances: Image, facts: Mapping[int, LesionFacts] | None = None, image: Image | None = None
    ) -> TimePoint:
        """Return the time point of an instance map, with the measures of all lesions.

        Parameters
        ----------
        name : str
        instances : Image
            Instance map of whole numbers, in canonical order.
        facts : mapping of int to LesionFacts, optional
            Class and score of each lesion by its number. By default every lesion has the class ``lesion`` and no score.
        image : Image, optional
            One channel of the scan.

        Raises
        ------
        DetSeg3DError
            If the instance map has a lesion without an entry in ``facts``, or negative values.
        """
        ids, _ = boxes_from_instances(instances.array)
        numbers = [int(number) for number in ids]
        missing = [number for number in numbers if facts is not None and number not in facts]
        if missing or any(number < 0 for number in numbers):
            raise DetSeg3DError(
                f"the instance map of {name} has lesions that its record does not list",
                value=(missing or numbers)[:10],
                expected="the numbers of the lesions in rois/CASE.json",
                remedy="predict the case again; do not edit the instance map",
            )
        measured = measure_lesions(instances.array, numbers, instances.geometry)
        lesions = []
        for number, measures in zip(numbers, measured, strict=True):
            known = LesionFacts() if facts is None else facts[number]
            lesions.append(FollowedLesion(number, known.class_name, known.score, measures))
        return cls(name, instances, tuple(lesions), image)

    @property
    def geometry(self) -> Geometry:
        """Geometry of the instance map."""
        return self.instances.geometry

    @cached_property
    def clouds(self) -> dict[int, LesionVoxels]:
        """Voxels of each lesion, by its number."""
        array: AnyIntArray = self.instances.array
        numbers, boxes = boxes_from_instances(array)
        clouds = {}
        for number, box in zip(numbers.tolist(), boxes, strict=True):
            part = box_slices(box)
            voxels = np.argwhere(array[part] == number) + [limits.start for limits in part]
            clouds[int(number)] = LesionVoxels(int(number), voxels, self.geometry)
        return clouds

    @cached_property
    def _padding(self) -> BoolArray | None:
        """Mask of the padding of the image, which shows nothing of the patient; ``None`` without padding."""
        if self.image is None:
            return None
        array = self.image.array
        value = padding_value(array)
        if value is None:
            return None
        # Air inside the body may have the same value. Only padding reaches the edge of the scan.
        components, _ = instances_from_semantic(np.asarray(array == value), (1,))
        faces = [face for axis in range(3) for face in (components.take(0, axis), components.take(-1, axis))]
        border = np.unique(np.concatenate([face.ravel() for face in faces]))
        return np.isin(components, border[border > 0])

    def shows(self, world: FloatArray) -> BoolArray:
        """Return for each point ``(N, 3)``, in mm LPS ``(x, y, z)``, if this scan shows its place.

        A scan does not show places outside its grid and places in its padding.
        """
        places = self.geometry.world_to_voxel_edges(world)
        shown = np.asarray(((places >= 0) & (places <= self.geometry.shape)).all(axis=1))
        if self._padding is None or self.image is None:
            return shown
        inside, voxels = _voxels_at(self.image.geometry, world)
        padded = np.zeros(len(world), bool)
        padded[inside] = self._padding[tuple(voxels[inside].T)]
        return shown & ~padded


@dataclass(frozen=True, eq=False)
class LesionVoxels:
    """The voxels of one lesion.

    Attributes
    ----------
    number : int
    voxels : ndarray of int64, shape ``(N, 3)``
        Indices ``(z, y, x)``.
    geometry : Geometry
    """

    number: int
    voxels: IntArray
    geometry: Geometry

    @cached_property
    def world(self) -> FloatArray:
        """Centres of the voxels in mm LPS, shape ``(N, 3)``, ``(x, y, z)``."""
        return self.geometry.voxel_edges_to_world(self.voxels + 0.5)

    @cached_property
    def limits(self) -> FloatArray:
        """Corners ``(2, 3)`` of the smallest box around the voxel centres in mm LPS."""
        return np.stack([self.world.min(axis=0), self.world.max(axis=0)])

    @property
    def volume_mm3(self) -> float:
        """Volume in mm³."""
        return len(self.voxels) * self.geometry.voxel_volume

    def distances(self, world: FloatArray, reach: float) -> FloatArray:
        """Return the distance in mm of points to the nearest voxel of the lesion.

        Parameters
        ----------
        world : ndarray, shape ``(N, 3)``
            Points in mm LPS.
        reach : float
            Distances in mm beyond this limit are returned as infinity.

        Returns
        -------
        ndarray of float64, shape ``(N,)``
            0 inside the lesion. Distances are measured between voxel centres.
        """
        spacing = np.asarray(self.geometry.spacing)
        margin = np.ceil(reach / spacing).astype(int) + 1
        corner = self.voxels.min(axis=0) - margin
        shape = self.voxels.max(axis=0) + margin + 1 - corner
        outside = np.ones(shape, bool)
        outside[tuple((self.voxels - corner).T)] = False
        field: FloatArray = ndimage.distance_transform_edt(outside, sampling=spacing)
        places = np.floor(self.geometry.world_to_voxel_edges(world)).astype(np.int64) - corner
        inside = ((places >= 0) & (places < shape)).all(axis=1)
        result = np.full(len(world), np.inf)
        result[inside] = field[tuple(places[inside].T)]
        result[result > reach] = np.inf
        return result


def _voxels_at(geometry: Geometry, world: FloatArray) -> tuple[BoolArray, Array]:
    """Return for each point if it lies in the grid, and the voxel that contains it."""
    voxels = np.floor(geometry.world_to_voxel_edges(world)).astype(np.int64)
    return np.asarray(((voxels >= 0) & (voxels < geometry.shape)).all(axis=1)), voxels
