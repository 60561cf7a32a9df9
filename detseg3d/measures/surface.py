"""Surface of a lesion: area of its mesh, and sphericity.

scikit-image meshes the surface by marching cubes. The mesh cuts off the corners of voxels. A sphericity that combines
this surface with the volume of the voxels would exceed 1 for small lesions. Here volume and surface come from the same
mesh, so that the sphericity never exceeds 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from detseg3d.core.arrays import BoolArray, FloatArray

__all__ = ["Surface", "measure_surface"]


@dataclass(frozen=True)
class Surface:
    """Surface of a lesion.

    Attributes
    ----------
    area_mm2 : float
        Area of the mesh.
    sphericity : float
        Area of a sphere with the volume of the mesh, divided by the area of the mesh: 1 for a sphere, less for every
        other shape.
    """

    area_mm2: float
    sphericity: float


def measure_surface(mask: BoolArray, matrix: FloatArray) -> Surface:
    """Measure the surface mesh of a mask. The mask is not smoothed.

    Parameters
    ----------
    mask : ndarray of bool, shape ``(Z, Y, X)``
        At least one voxel is true. Beyond the array is background.
    matrix : ndarray of float64, shape ``(3, 3)``
        Column ``i`` is the step in mm from a voxel to the next voxel along array axis ``i``.

    Notes
    -----
    Volume V and area A of the mesh give the sphericity (36 π V²)^(1/3) / A. The mesh follows the steps between voxels.
    Its area is therefore 8 to 9 % too large for large balls with equal spacings.

    References
    ----------
    Zwanenburg et al. (2020), "The Image Biomarker Standardization Initiative", Radiology 295(2): surface area and
    volume of the mesh, sphericity. Lorensen and Cline (1987), "Marching cubes", SIGGRAPH.

    Examples
    --------
    The mesh of a single voxel is an octahedron:

    >>> surface = measure_surface(np.ones((1, 1, 1), bool), np.eye(3))
    >>> round(surface.area_mm2, 3), round(surface.sphericity, 3)
    (1.732, 0.846)
    """
    from skimage.measure import marching_cubes, mesh_surface_area  # slow to import

    # The margin of background closes the surface where the lesion touches the border of its box.
    vertices, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5)
    places = vertices.astype(np.float64) @ matrix.T
    area, corners = float(mesh_surface_area(places, faces)), places[faces]
    # Each triangle spans a tetrahedron with the origin. The signed volumes add up to the volume of the mesh.
    volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
    sphericity = (36 * math.pi * float(volume) ** 2) ** (1 / 3) / area
    return Surface(area, min(sphericity, 1.0))
