"""Changes of the lesions of a window through its instance map: contrast, texture and sharpness.

The tissue behind a lesion is estimated from its surroundings. The difference between the lesion and this estimate is
the contrast of the lesion. The instance map does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.tensors import tensor_of
from detseg3d.training.augmentation.operators import fill_from_surroundings, smooth, widen
from detseg3d.training.augmentation.table import AugmentationTable

__all__ = ["change_lesions"]

# The surroundings of the lesions reach this many voxels beyond them.
_MARGIN = 12
# Weight of a change in the rim of a lesion. These voxels contain a part of the lesion.
_RIM_WEIGHT = 0.6
# The factors of the lesions of a window differ by up to this much from their common factor.
_VARIATION = 1.25
_FACTOR_LIMITS = (0.15, 1.2)


@dataclass(frozen=True)
class _Lesions:
    """The part of a window around its lesions. The rim of a lesion is the voxels that touch it.

    ``image`` ``(C, z, y, x)`` is a view of this part. ``owner`` ``(z, y, x)`` is the number of the lesion to which a
    voxel belongs, also in rims, and 0 elsewhere. ``weight`` ``(1, z, y, x)`` is 1 in lesions, less in rims and 0
    elsewhere. ``background`` ``(C, z, y, x)`` estimates the tissue without lesions. ``contrast`` ``(C, z, y, x)`` is
    the difference between a lesion and its background, averaged over neighbouring voxels of the lesion.
    """

    image: torch.Tensor
    owner: npt.NDArray[np.int64]
    weight: torch.Tensor
    background: torch.Tensor
    contrast: torch.Tensor


def change_lesions(
    image: torch.Tensor,
    instances: npt.NDArray[np.int32],
    spacing: Sequence[float],
    table: AugmentationTable,
    random: np.random.Generator,
) -> None:
    """Change the lesions of some windows, in place. Voxels that do not touch a lesion keep their values.

    Parameters
    ----------
    image : Tensor of float32, shape ``(C, Z, Y, X)``
    instances : ndarray of int32, shape ``(Z, Y, X)``
    spacing : 3 floats
        Voxel size ``(z, y, x)``.
    table : AugmentationTable
    random : numpy Generator
    """
    fading, texture, softening = (
        change if change.happens(random) else None for change in (table.fading, table.lesion_texture, table.softening)
    )
    if fading is texture is softening is None:
        return
    lesions = _find(image, instances, spacing)
    if lesions is None:
        return
    if texture is not None:
        _add_texture(lesions, texture.size(random), random)
    if softening is not None:
        blurred = smooth(smooth(lesions.image))
        lesions.image.add_((blurred - lesions.image) * (lesions.weight * softening.size(random)))
    if fading is not None:
        _fade(lesions, fading.size(random), random)


def _find(image: torch.Tensor, instances: npt.NDArray[np.int32], spacing: Sequence[float]) -> _Lesions | None:
    """Return the part of a window around its lesions; ``None`` if there are no lesions or no surroundings."""
    is_lesion = instances > 0
    region = []
    for axis in range(3):
        places = np.flatnonzero(is_lesion.any(axis=tuple(other for other in range(3) if other != axis)))
        if len(places) == 0:
            return None
        region.append(slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + 1 + _MARGIN))
    z, y, x = region
    part = image[:, z, y, x]
    numbers = tensor_of(instances[z, y, x], np.float32)[None]
    inside = (numbers > 0).float()
    wide = widen(numbers)
    rim = (wide > 0).float() - inside
    known = 1 - inside - rim
    if not bool(known.any()):
        return None
    # The rim is not known either: it shows a part of the lesion and would make the background too bright or too dark.
    background = fill_from_surroundings(part, known, spacing)
    mean = smooth((part - background) * inside) / smooth(inside).clamp_min(1e-3)
    owner = torch.where(numbers > 0, numbers, wide)[0].numpy().astype(np.int64)
    return _Lesions(part, owner, inside + _RIM_WEIGHT * rim, background, mean * (wide > 0))


def _fade(lesions: _Lesions, factor: float, random: np.random.Generator) -> None:
    """Multiply the contrast of each lesion by about ``factor``."""
    channels = len(lesions.image)
    each = factor * np.exp(
        random.uniform(-np.log(_VARIATION), np.log(_VARIATION), (channels, int(lesions.owner.max()) + 1))
    )
    change = tensor_of(np.clip(each, *_FACTOR_LIMITS)[:, lesions.owner] - 1, np.float32)
    # Only the part of the contrast that the voxel shows is removed. Noise on top of it stays, and no voxel of the rim
    # is pushed beyond its background.
    shown = lesions.image - lesions.background
    low, high = lesions.contrast.clamp_max(0), lesions.contrast.clamp_min(0)
    lesions.image.add_(change * lesions.weight * torch.minimum(torch.maximum(shown, low), high))


def _add_texture(lesions: _Lesions, amount: float, random: np.random.Generator) -> None:
    """Add irregular texture to the lesions, with a standard deviation of ``amount`` times their contrast."""
    noise = smooth(tensor_of(random.standard_normal(lesions.image.shape, dtype=np.float32)))
    noise = noise / noise.std(correction=0).clamp_min(1e-6)
    lesions.image.add_(amount * noise * lesions.contrast * lesions.weight)
