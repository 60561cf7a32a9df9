"""Shape of a lesion: long and short axis, surface area and sphericity, in millimetres.

scikit-image measures the moments (``regionprops``) and meshes the surface (``marching_cubes``). Two corrections give
sensible values for lesions of a few voxels.

- ``regionprops`` treats a voxel as a point. A single voxel then has axes of length 0, and a flat lesion has no short
  axis. Here each voxel is a solid cuboid: its own variance, spacing² / 12 along each axis, is added to the variance of
  the voxel centres. For a solid cuboid or ellipsoid this is exact.
- The mesh of marching cubes cuts off the corners of voxels. A sphericity that combines this surface with the volume
  of the voxels would exceed 1 for small lesions. Here volume and surface come from the same mesh, so that the
  sphericity never exceeds 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import AnyIntArray, BoolArray, FloatArray, IntArray, Spacing
from detseg3d.system.json_records import JsonRecord

__all__ = ["LesionShape", "lesion_shapes"]


@dataclass(frozen=True)
class LesionShape(JsonRecord):
    """Shape of one lesion.

    Attributes
    ----------
    long_axis_mm, short_axis_mm : float
        Longest and shortest axis of the ellipsoid with the second moments of the lesion.
    surface_mm2 : float
        Area of the surface mesh.
    sphericity : float
        Surface area of a sphere with the volume of the mesh, divided by the area of the mesh: 1 for a sphere, less for
        every other shape.
    """

    long_axis_mm: float
    short_axis_mm: float
    surface_mm2: float
    sphericity: float


def lesion_shapes(instances: AnyIntArray, ids: IntArray, spacing: Spacing) -> list[LesionShape]:
    """Measure the shape of each lesion of an instance map.

    Parameters
    ----------
    instances : ndarray of int, shape ``(Z, Y, X)``
        Instance map: 0 is background, every other value is one lesion, even if the lesion has several components.
    ids : ndarray of int64, shape ``(N,)``
        Values of the lesions in ascending order.
    spacing : tuple of 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Returns
    -------
    list of LesionShape
        Shape of each lesion, in the order of ``ids``.

    Notes
    -----
    The axes are defined as in ``regionprops``: an ellipsoid of uniform density with the variance λ along an axis has
    the diameter 2 √(5 λ) along this axis. Volume V and area A of the mesh give the sphericity (36 π V²)^(1/3) / A.

    References
    ----------
    Zwanenburg et al. (2020), "The Image Biomarker Standardization Initiative", Radiology 295(2): surface area and
    volume of the mesh, sphericity. Lorensen and Cline (1987), "Marching cubes", SIGGRAPH.

    Examples
    --------
    A single voxel of 1 mm has the axes of a cube, 2 √(5 / 12) mm:

    >>> shape = lesion_shapes(np.ones((1, 1, 1), int), np.array([1]), (1.0, 1.0, 1.0))[0]
    >>> round(shape.long_axis_mm, 3), round(shape.short_axis_mm, 3), round(shape.sphericity, 3)
    (1.291, 1.291, 0.846)
    """
    from skimage.measure import regionprops  # slow to import, and only evaluations with outlines need it

    if len(ids) == 0:
        return []
    # regionprops visits every number up to the largest number, so the lesions are first numbered without gaps.
    foreground = np.nonzero(instances)
    numbered = np.zeros(instances.shape, np.int32)
    numbered[foreground] = np.searchsorted(ids, instances[foreground]) + 1
    # Many small lesions have the same voxels at different places. Each pattern is measured once.
    measured: dict[tuple[tuple[int, ...], bytes], LesionShape] = {}
    shapes = []
    for region in regionprops(numbered, spacing=spacing):
        mask = region.image
        pattern = (mask.shape, np.packbits(mask).tobytes())
        if pattern not in measured:
            measured[pattern] = _shape(mask, np.asarray(region.inertia_tensor, np.float64), spacing)
        shapes.append(measured[pattern])
    return shapes


def _shape(mask: BoolArray, inertia: FloatArray, spacing: Spacing) -> LesionShape:
    # The inertia tensor of unit mass is trace(C) 1 - C with the covariance C of the voxel centres.
    covariance = np.eye(3) * (np.trace(inertia) / 2) - inertia
    variances = np.linalg.eigvalsh(covariance + np.diag(np.square(spacing) / 12))
    shortest, _, longest = (2 * math.sqrt(5 * value) for value in variances)
    area, volume = _mesh(mask, spacing)
    sphericity = (36 * math.pi * volume**2) ** (1 / 3) / area
    return LesionShape(longest, shortest, area, min(sphericity, 1.0))


def _mesh(mask: BoolArray, spacing: Spacing) -> tuple[float, float]:
    """Return area and volume of the surface mesh of a mask."""
    from skimage.measure import marching_cubes, mesh_surface_area

    # The margin of background closes the surface where the lesion touches the border of its box.
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, spacing=spacing)
    corners = vertices[faces].astype(np.float64)
    # Each triangle spans a tetrahedron with the origin. The signed volumes add up to the volume of the mesh.
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    return float(mesh_surface_area(vertices, faces)), abs(float(volume))
