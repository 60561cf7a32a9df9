from __future__ import annotations

import numpy as np

from detseg3d.core.geometry import Geometry
from detseg3d.data.image import Image


def test_an_image_unpacks_into_array_and_geometry() -> None:
    image = Image(np.zeros((2, 3, 4), np.float32), Geometry((2, 3, 4), (3.0, 1.0, 0.5)))
    array, geometry = image
    assert array is image.array and geometry is image.geometry
    assert (image.shape, image.spacing) == ((2, 3, 4), (3.0, 1.0, 0.5))


def test_the_repr_is_one_line_without_voxels() -> None:
    image = Image(np.zeros((2, 3, 4), np.float32), Geometry((2, 3, 4), (3.0, 1.0, 0.5)))
    assert repr(image) == "Image(2×3×4 voxels of 3×1×0.5 mm, float32)"
