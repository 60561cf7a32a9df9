"""Convert images of SimpleITK in memory to the arrays and geometries of this package, and back.

Files are read by the readers of this package (:mod:`detseg3d.data.images`). The two functions here serve programs that
already hold a scan as a SimpleITK image, or that need results as SimpleITK images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image

__all__ = ["from_simpleitk", "to_simpleitk"]


def from_simpleitk(image: SimpleITK.Image) -> Image:
    """Return the voxels of a SimpleITK image in canonical order, and their geometry.

    Parameters
    ----------
    image : SimpleITK.Image
        Three axes, one real number per voxel.

    Returns
    -------
    Image
        ``array`` has shape ``(Z, Y, X)``. It is a copy in canonical order and in the data type of the image.
        :func:`to_simpleitk` and :func:`~detseg3d.data.images.write_image` use ``geometry`` to restore the axis order of
        the image.

    Raises
    ------
    DetSeg3DError
        If the image does not have three axes, or holds colours, vectors or complex numbers.

    Examples
    --------
    >>> image = SimpleITK.Image(4, 3, 2, SimpleITK.sitkInt16)
    >>> image.SetSpacing((0.5, 0.5, 2.0))
    >>> image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1))  # slices from head to feet
    >>> array, geometry = from_simpleitk(image)
    >>> array.shape, geometry.spacing, geometry.stored_order.axes
    ((2, 3, 4), (2.0, 0.5, 0.5), 'IPL')
    """
    is_complex = image.GetPixelID() in (SimpleITK.sitkComplexFloat32, SimpleITK.sitkComplexFloat64)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or is_complex or 0 in image.GetSize():
        raise DetSeg3DError(
            "the SimpleITK image is not a 3D volume of single real values",
            value=f"size {image.GetSize()}, {image.GetPixelIDTypeAsString()}",
            expected="three axes, one integer or floating point number per voxel",
            remedy="extract one channel, one time point or the magnitude first",
        )
    array: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    depth, height, width = array.shape
    stored = Geometry((depth, height, width), (z, y, x), image.GetOrigin(), image.GetDirection())
    geometry = stored.canonical()
    return Image(np.ascontiguousarray(geometry.stored_order.to_canonical(array)), geometry)


def to_simpleitk(array: npt.NDArray[Any], geometry: Geometry) -> SimpleITK.Image:
    """Return a volume as a SimpleITK image, in the order in which the source of ``geometry`` stores it.

    Parameters
    ----------
    array : ndarray, shape ``(Z, Y, X)``
        In canonical order. SimpleITK has neither bool nor float16: bool becomes uint8 and float16 becomes float32.
    geometry : Geometry
        Geometry of ``array``.

    Returns
    -------
    SimpleITK.Image

    Raises
    ------
    DetSeg3DError
        If the grid is sheared. A SimpleITK image cannot describe a sheared grid.
    ValueError
        If the shapes of array and geometry differ.

    Examples
    --------
    >>> source = SimpleITK.Image(4, 3, 2, SimpleITK.sitkInt16)
    >>> array, geometry = from_simpleitk(source)
    >>> to_simpleitk(array > 0, geometry).GetSize()
    (4, 3, 2)
    """
    if array.shape != geometry.shape:
        raise ValueError(f"array {array.shape} and geometry {geometry.shape} differ in shape")
    stored = geometry.as_stored()
    if stored.affine is not None:
        raise DetSeg3DError(
            "a SimpleITK image cannot hold a sheared grid",
            value=list(stored.affine),
            expected="axes at right angles",
            remedy="write the volume as .nii.gz, or resample the scan first",
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    elif array.dtype == np.float16:
        array = array.astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(geometry.stored_order.to_stored(array)))
    image.SetSpacing(stored.spacing[::-1])
    image.SetOrigin(stored.origin)
    image.SetDirection(stored.direction)
    return image
