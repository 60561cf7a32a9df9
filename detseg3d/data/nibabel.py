"""Convert images of nibabel to images of this package, and back.

Files are read by :mod:`detseg3d.data.images`. These functions serve programs that hold an image in memory.
"""

from __future__ import annotations

from typing import Any

import nibabel
import numpy as np

from detseg3d.core.arrays import Array
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.formats.nifti import geometry_of_affine
from detseg3d.data.image import Image

__all__ = ["from_nibabel", "to_nibabel"]


def from_nibabel(image: Any) -> Image:
    """Return the voxels of a nibabel image in canonical order, with their geometry.

    Parameters
    ----------
    image : nibabel.spatialimages.SpatialImage
        Three axes (further axes of length 1 are dropped), one real number per voxel. Its ``affine`` maps voxel indices
        to mm in RAS; the unit in the header of a NIfTI image applies.

    Returns
    -------
    Image
        ``array`` has shape ``(Z, Y, X)``. It has the data type of the image, or float64 if the header scales the
        voxels.

    Raises
    ------
    DetSeg3DError
        If the image does not have three axes, holds colours or complex numbers, or its affine is singular.

    Examples
    --------
    >>> source = nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([0.5, 0.5, 2.0, 1.0]))
    >>> from_nibabel(source)
    Image(2×3×4 voxels of 2×0.5×0.5 mm, int16)
    """
    voxels: Array = np.asanyarray(image.dataobj)
    while voxels.ndim > 3 and voxels.shape[-1] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or 0 in voxels.shape or voxels.dtype.kind not in "biuf":
        raise DetSeg3DError(
            "the nibabel image is not a 3D volume of single real values",
            value=f"shape {voxels.shape}, {voxels.dtype}",
            expected="three axes, one integer or floating point number per voxel",
            remedy="extract one channel, one time point or the magnitude first",
        )
    width, height, depth = voxels.shape
    stored = geometry_of_affine(_header(image), np.asarray(image.affine, np.float64), (depth, height, width))
    if stored is None:
        raise DetSeg3DError(
            "the affine of the nibabel image is singular or not finite",
            value=np.asarray(image.affine).tolist(),
            expected="a finite matrix that can be inverted",
        )
    geometry = stored.canonical()
    return Image(np.ascontiguousarray(geometry.stored_order.to_canonical(voxels.transpose(2, 1, 0))), geometry)


def to_nibabel(array: Array, geometry: Geometry) -> Any:
    """Return a volume as a NIfTI image of nibabel, in the axis order of the source of ``geometry``.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        Voxels in canonical order; bool becomes uint8, and float16 becomes float32.
    geometry : Geometry
        Geometry of ``array``.

    Returns
    -------
    nibabel.Nifti1Image

    Raises
    ------
    ValueError
        If array and geometry differ in shape.

    Examples
    --------
    >>> source = nibabel.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([0.5, 0.5, 2.0, 1.0]))
    >>> image = from_nibabel(source)
    >>> to_nibabel(image.array > 0, image.geometry).shape
    (4, 3, 2)
    """
    if array.shape != geometry.shape:
        raise ValueError(f"array {array.shape} and geometry {geometry.shape} differ in shape")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    stored = geometry.as_stored()
    matrix, offset = stored.index_to_world()
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, offset
    affine[:2] *= -1  # LPS to RAS
    voxels = geometry.stored_order.to_stored(array).transpose(2, 1, 0)
    image = nibabel.Nifti1Image(np.ascontiguousarray(voxels), affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    return image


def _header(image: Any) -> Any:
    """Return a NIfTI header with the unit and the spacing of an image."""
    if isinstance(image.header, nibabel.Nifti1Header):
        return image.header
    header = nibabel.Nifti1Header()  # type: ignore[no-untyped-call]
    header.set_data_shape(image.shape[:3])
    header.set_zooms(np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0))
    header.set_xyzt_units("mm")
    return header
