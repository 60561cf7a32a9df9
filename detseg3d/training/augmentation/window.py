"""Augment the image of a window: lesions, intensities, resolution and noise, and regions beyond a surface."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.intensity import change_intensities, change_local_contrast, multiply_bias
from detseg3d.training.augmentation.lesions import change_lesions
from detseg3d.training.augmentation.regions import Source, replace_regions
from detseg3d.training.augmentation.resolution import change_resolution
from detseg3d.training.augmentation.table import AugmentationTable

__all__ = ["augment_image"]


def augment_image(
    image: npt.NDArray[np.float32],
    instances: npt.NDArray[np.int32],
    source: Source,
    table: AugmentationTable,
    random: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Change the image of a window. Both stages see the same result; the instance map does not change.

    The order is that of a real scan: first the patient (lesions, tissue), then the scanner (contrast, field,
    resolution, noise), last the processing of the scan (removed regions).

    Parameters
    ----------
    image : ndarray of float32, shape ``(C, Z, Y, X)``
        Normalised; may be changed in place.
    instances : ndarray of int32, shape ``(Z, Y, X)``
    source : Source
        The stored scan of the window.
    table : AugmentationTable
    random : numpy Generator

    Returns
    -------
    ndarray of float32, shape ``(C, Z, Y, X)``
    """
    if random.random() < table.untouched:
        return image
    window = tensor_of(image)
    air = torch.minimum(tensor_of(source.air), window.amin(dim=(1, 2, 3)))
    change_lesions(window, instances, source.spacing, table, random)
    window = change_local_contrast(window, source.spacing, table, random)
    window, air = change_intensities(window, air, table, random)
    window = multiply_bias(window, air, source.spacing, table, random)
    window = change_resolution(window, air, source.spacing, table, random)
    window = replace_regions(window, air, instances, source, table, random)
    result: npt.NDArray[np.float32] = window.numpy()
    return result
