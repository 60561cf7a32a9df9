"""Convert files, arrays and images of other libraries to the type ``Image``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from detseg3d.core.arrays import Array, Spacing, as_spacing
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image
from detseg3d.data.image_source import ImageSource
from detseg3d.data.images import read_image

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

__all__ = ["ImageLike", "as_channels", "as_image"]

ImageLike: TypeAlias = Union[
    Image, ImageSource, str, Path, Array, "SimpleITK.Image", "nibabel.spatialimages.SpatialImage"
]
"""A path, an :class:`Image`, an array with ``spacing``, or an image of SimpleITK or nibabel."""


def as_image(image: ImageLike, spacing: Sequence[float] | None = None) -> Image:
    """Return an image of any supported type as an :class:`~detseg3d.data.image.Image`.

    Parameters
    ----------
    image : path, ImageSource, Image, ndarray, SimpleITK.Image or nibabel image
        An array has shape ``(Z, Y, X)`` and canonical axes: z towards Superior, y towards Posterior, x towards Left.
        Images of other types know their orientation, and their axes are brought to this order.
    spacing : 3 floats, optional
        Voxel spacing in mm ``(z, y, x)`` of an array or a ``.npy`` file. An array requires ``spacing``. Images of
        other types know their spacing, and passing ``spacing`` with such an image is an error.

    Returns
    -------
    Image

    Raises
    ------
    DetSeg3DError
        If an array comes without ``spacing`` or does not have three axes, ``spacing`` is given for an image that knows
        its spacing, a file cannot be read, or the type is not supported.

    Examples
    --------
    >>> as_image(np.zeros((8, 32, 32), np.float32), spacing=(3, 1, 1))
    Image(8×32×32 voxels of 3×1×1 mm, float32)
    """
    if isinstance(image, (str, Path)):
        return read_image(ImageSource(Path(image), None if spacing is None else _checked(spacing)))
    if isinstance(image, np.ndarray):
        return _of_array(image, spacing)
    if spacing is not None:
        raise DetSeg3DError(
            "the spacing is given for an image that has a spacing",
            value=list(spacing),
            expected="spacing only for arrays and .npy files",
            remedy="leave out spacing",
        )
    if isinstance(image, Image):
        return image
    if isinstance(image, ImageSource):
        return read_image(image)
    return _of_library(image)


def as_channels(
    images: ImageLike | Sequence[ImageLike], spacing: Sequence[float] | None = None
) -> tuple[Array, Geometry]:
    """Return the channels of a scan as one array.

    Parameters
    ----------
    images : image or sequence of images
        See :func:`as_image`. An array may have shape ``(C, Z, Y, X)``.
    spacing : 3 floats, optional
        See :func:`as_image`.

    Returns
    -------
    channels : ndarray of float32, shape ``(C, Z, Y, X)``
    geometry : Geometry
        Geometry of the first channel.

    Raises
    ------
    DetSeg3DError
        If an image is not valid, or a channel is not on the grid of the first channel.
    """
    if (isinstance(images, np.ndarray) and images.ndim == 4) or (
        isinstance(images, (list, tuple)) and not isinstance(images, Image)
    ):
        channels = [as_image(channel, spacing) for channel in images]
    else:
        channels = [as_image(images, spacing)]  # type: ignore[arg-type]
    if not channels:
        raise DetSeg3DError("the scan has no channel", expected="at least one image")
    first = channels[0]
    for number, channel in enumerate(channels[1:], start=1):
        differences = first.geometry.difference(channel.geometry)
        if differences:
            raise DetSeg3DError(
                f"channel {number} is not on the grid of channel 0: " + "; ".join(differences),
                expected="one grid for all channels",
                remedy="resample the channels to one grid",
            )
    return np.stack([channel.array.astype(np.float32) for channel in channels]), first.geometry


def _of_array(array: Array, spacing: Sequence[float] | None) -> Image:
    if array.ndim != 3 or 0 in array.shape:
        raise DetSeg3DError("the array is not a volume", value=array.shape, expected="shape (Z, Y, X)")
    if spacing is None:
        raise DetSeg3DError(
            "an array has no voxel spacing",
            expected="spacing in mm (z, y, x)",
            remedy="pass spacing=(z, y, x)",
        )
    return Image(array, Geometry(array.shape, _checked(spacing)))


def _checked(spacing: Sequence[float]) -> Spacing:
    values = np.asarray(spacing, np.float64)
    if values.shape != (3,) or not np.isfinite(values).all() or (values <= 0).any():
        raise DetSeg3DError("the spacing is not valid", value=values.tolist(), expected="three positive numbers in mm")
    return as_spacing(values)


def _of_library(image: Any) -> Image:
    # An image of a library exists only if the program has imported the library. Looking for the library in sys.modules
    # avoids importing a library that the program does not use.
    simpleitk, nibabel_module = sys.modules.get("SimpleITK"), sys.modules.get("nibabel")
    if simpleitk is not None and isinstance(image, simpleitk.Image):
        from detseg3d.data.simpleitk import from_simpleitk

        return from_simpleitk(image)
    if nibabel_module is not None and isinstance(image, nibabel_module.spatialimages.SpatialImage):
        from detseg3d.data.nibabel import from_nibabel

        return from_nibabel(image)
    raise DetSeg3DError(
        "the type of the image is not supported",
        value=type(image).__name__,
        expected="a path, a NumPy array, or an image of SimpleITK, nibabel or DetSeg3D",
    )
