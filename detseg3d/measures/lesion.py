"""Measures of one lesion: size, axes, surface, intensities and position in the body."""

from __future__ import annotations

from dataclasses import dataclass, replace

from detseg3d.core.orientation import StoredOrder
from detseg3d.system.json_records import JsonRecord

__all__ = ["ChannelIntensities", "LesionMeasures", "LesionShape", "LineEnds", "Point"]

Point = tuple[float, float, float]
"""Position: ``(z, y, x)`` in voxel edges, or ``(x, y, z)`` in mm LPS."""


@dataclass(frozen=True)
class LineEnds(JsonRecord):
    """Both end points of a measured line.

    Attributes
    ----------
    voxel : tuple of 2 points
        ``(z, y, x)`` in voxel edges: the centre of voxel ``i`` is at ``i + 0.5``.
    world : tuple of 2 points
        The same points, ``(x, y, z)`` in mm LPS.
    """

    voxel: tuple[Point, Point]
    world: tuple[Point, Point]

    def to_stored(self, order: StoredOrder) -> LineEnds:
        """Return the same points with voxel positions in the order of a file instead of canonical order."""
        first, second = self.voxel
        return replace(self, voxel=(order.point_to_stored(first), order.point_to_stored(second)))


@dataclass(frozen=True)
class ChannelIntensities(JsonRecord):
    """Intensities of a lesion in one channel of the scan as it was read, before any normalisation.

    Attributes
    ----------
    channel : str
        Name of the channel.
    mean, standard_deviation, minimum, maximum : float
        Over all voxels of the lesion, in the unit of the scan (for example HU or SUV). The standard deviation divides
        by the number of voxels.
    """

    channel: str
    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


@dataclass(frozen=True)
class LesionMeasures(JsonRecord):
    """Measures of one lesion.

    Attributes
    ----------
    voxels : int
        Number of voxels.
    volume_mm3 : float
        Volume of the voxels in mm³.
    diameter_mm : float
        Diameter in mm of a sphere with this volume.
    centroid : tuple of 3 floats
        Mean position of the voxels, ``(z, y, x)`` in voxel edges.
    centroid_world : tuple of 3 floats
        The same point, ``(x, y, z)`` in mm LPS.
    long_axis_mm : float
        RECIST long axis in mm: longest diameter in a slice of the acquisition plane.
    short_axis_mm : float
        RECIST short axis in mm: longest diameter at a right angle to the long axis in the same slice.
    long_axis_ends, short_axis_ends : LineEnds
        End points of both axes.
    slice_axis : str
        Axis of the voxel grid at a right angle to the acquisition plane: ``z``, ``y`` or ``x``.
    slice_index : int
        Index along ``slice_axis`` of the slice of both axes, from 0.
    maximum_diameter_mm : float
        Longest diameter in any direction, in mm.
    maximum_diameter_ends : LineEnds
        End points of this diameter.
    surface_mm2 : float
        Area of the surface mesh in mm².
    sphericity : float
        From 0 to 1: area of a sphere with the volume of the mesh, divided by the area of the mesh.
    intensities : tuple of ChannelIntensities
        One per channel; empty if the scan was not given.
    border_distance_mm : float or None
        Smallest distance from the lesion to the border of the body in mm; ``None`` if the scan was not given or does
        not show the border.
    """

    voxels: int
    volume_mm3: float
    diameter_mm: float
    centroid: Point
    centroid_world: Point
    long_axis_mm: float
    short_axis_mm: float
    long_axis_ends: LineEnds
    short_axis_ends: LineEnds
    slice_axis: str
    slice_index: int
    maximum_diameter_mm: float
    maximum_diameter_ends: LineEnds
    surface_mm2: float
    sphericity: float
    intensities: tuple[ChannelIntensities, ...] = ()
    border_distance_mm: float | None = None

    def to_stored(self, order: StoredOrder) -> LesionMeasures:
        """Return the same measures with voxel positions in the order of a file instead of canonical order.

        Parameters
        ----------
        order : StoredOrder
            Order of the file.
        """
        slice_axis, slice_index = order.stored_slice("zyx".index(self.slice_axis), self.slice_index)
        return replace(
            self,
            centroid=order.point_to_stored(self.centroid),
            long_axis_ends=self.long_axis_ends.to_stored(order),
            short_axis_ends=self.short_axis_ends.to_stored(order),
            slice_axis=slice_axis,
            slice_index=slice_index,
            maximum_diameter_ends=self.maximum_diameter_ends.to_stored(order),
        )


@dataclass(frozen=True)
class LesionShape(JsonRecord):
    """Measures of a lesion that depend on its shape only, for the comparison of true and predicted lesions.

    Attributes
    ----------
    long_axis_mm, short_axis_mm : float
        RECIST axes in mm.
    maximum_diameter_mm : float
        Longest diameter in any direction, in mm.
    surface_mm2 : float
        Area of the surface mesh in mm².
    sphericity : float
        From 0 to 1.
    """

    long_axis_mm: float
    short_axis_mm: float
    maximum_diameter_mm: float
    surface_mm2: float
    sphericity: float

    @classmethod
    def of(cls, measures: LesionMeasures) -> LesionShape:
        """Return the shape from all measures of a lesion."""
        return cls(
            measures.long_axis_mm,
            measures.short_axis_mm,
            measures.maximum_diameter_mm,
            measures.surface_mm2,
            measures.sphericity,
        )
