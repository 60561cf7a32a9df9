"""Table of all changes: how often each change happens and how large it is, for each amount of augmentation.

Lengths are multiples of the finest voxel edge of the window, so that the table holds for every spacing. Intensities are
standard deviations: a normalised scan has a standard deviation of about 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from detseg3d.core.augmentation import Augmentation

__all__ = ["AugmentationTable", "Change", "table_of"]


@dataclass(frozen=True)
class Change:
    """How often a change happens, and the range of its size.

    Attributes
    ----------
    probability : float
        Fraction of the windows that are changed, 0 to 1.
    low, high : float
        Range of the size. :class:`AugmentationTable` says what the size is.
    """

    probability: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def happens(self, random: np.random.Generator) -> bool:
        """Draw whether the change happens."""
        return bool(random.random() < self.probability)

    def size(self, random: np.random.Generator) -> float:
        """Draw a size, uniform in the range."""
        return float(random.uniform(self.low, self.high))

    def factor(self, random: np.random.Generator) -> float:
        """Draw a size, uniform in the logarithm of the range, so that halving is as likely as doubling."""
        return float(np.exp(random.uniform(np.log(self.low), np.log(self.high))))


@dataclass(frozen=True)
class AugmentationTable:
    """Probabilities and sizes of all changes. The order of the attributes is the order in which they are applied.

    Attributes
    ----------
    zoom : Change
        Rotation and scaling with one interpolation. The size is the edge of the part of the scan that fills the
        window, as a multiple of the edge of the window: below 1 lesions grow, above 1 lesions shrink.
    rotation : float
        Largest angle of a rotation about each axis, in degrees.
    stretch : float
        Each axis of a zoomed window is also scaled by a factor between 1 / ``stretch`` and ``stretch``.
    untouched : float
        Fraction of the windows with no further change. They keep the network good at scans like those of the training.
    lesion_texture : Change
        Irregular texture is added to the lesions. The size is its standard deviation as a fraction of their contrast.
    softening : Change
        The borders of the lesions become diffuse. The size is the weight of the smoothed image.
    fading : Change
        The contrast between a lesion and its surroundings is multiplied by a factor. The size is the factor of the
        window; each lesion and channel deviates from it by up to a quarter.
    local_contrast : Change
        The contrast of small structures is multiplied by a factor that varies from region to region. The size is the
        standard deviation of the logarithm of the factor.
    curve : Change
        The intensities follow a random increasing curve. The size is the standard deviation of the logarithm of its
        slope.
    gamma : Change
        The intensities, scaled to 0 to 1, are raised to a power. The size is the exponent.
    inversion : Change
        Bright and dark are exchanged. The size is not used.
    scale : Change
        The deviations from the mean are multiplied by the size.
    offset : Change
        The size is added. A scan is normalised over its body, so another field of view or a removed skull shifts and
        scales all intensities.
    bias : Change
        The intensities above air are multiplied by a smooth field. The size is the standard deviation of its logarithm.
    blur : Change
        Gaussian blur. The size is the standard deviation.
    thick_slices : Change
        Low resolution along one axis. The size is the distance between two slices.
    low_resolution : Change
        Low resolution along all axes. The size is the new voxel edge. It does not happen together with thick slices.
    noise : Change
        Gaussian noise. In some windows it is correlated between neighbouring voxels; in some it is the noise of a
        magnitude image (Rician). The size is the standard deviation.
    beyond : Change
        The part of a window that lies beyond the scan becomes air. In the other windows it repeats the border of the
        scan. The size is not used.
    cut_outs : Change
        Boxes without lesions are filled. The size is the edge as a fraction of the window.
    outside : Change
        Everything beyond a surface is filled. An ellipsoid imitates the removal of the skull, a plane the end of the
        field of view. The size is the diameter of the ellipsoid as a fraction of the scan.
    ending : float
        Factor of all probabilities in the last phase of a training of several phases.
    """

    zoom: Change = Change()
    rotation: float = 0.0
    stretch: float = 1.0
    untouched: float = 0.0
    lesion_texture: Change = Change()
    softening: Change = Change()
    fading: Change = Change()
    local_contrast: Change = Change()
    curve: Change = Change()
    gamma: Change = Change()
    inversion: Change = Change()
    scale: Change = Change()
    offset: Change = Change()
    bias: Change = Change()
    blur: Change = Change()
    thick_slices: Change = Change()
    low_resolution: Change = Change()
    noise: Change = Change()
    beyond: Change = Change()
    cut_outs: Change = Change()
    outside: Change = Change()
    ending: float = 1.0

    def of_phase(self, phase: int, phases: int) -> AugmentationTable:
        """Return the table of a phase: in the last of several phases, changes are rarer by the factor ``ending``.

        The training then ends with windows that look more like the scans.
        """
        if phases < 2 or phase < phases - 1:
            return self
        changes: dict[str, Any] = {
            name: replace(change, probability=self.ending * change.probability)
            for name, change in ((entry.name, getattr(self, entry.name)) for entry in fields(self))
            if isinstance(change, Change)
        }
        return replace(self, **changes)

    def without_inversion(self) -> AugmentationTable:
        """Return the table for CT, whose unit is absolute: no scanner exchanges bright and dark."""
        return replace(self, inversion=Change())


_TABLES = {
    Augmentation.NONE: AugmentationTable(),
    Augmentation.STANDARD: AugmentationTable(
        zoom=Change(0.4, 0.85, 1.18),
        rotation=15,
        fading=Change(0.3, 0.3, 1.1),
        gamma=Change(0.2, 0.7, 1.5),
        scale=Change(0.35, 0.75, 1.25),
        offset=Change(0.15, -0.2, 0.2),
        blur=Change(0.1, 0.4, 0.8),
        thick_slices=Change(0.1, 1.5, 4),
        noise=Change(0.15, 0, 0.1),
    ),
    Augmentation.STRONG: AugmentationTable(
        zoom=Change(0.5, 0.6, 1.7),
        rotation=30,
        stretch=1.12,
        untouched=0.25,
        lesion_texture=Change(0.15, 0.1, 0.3),
        softening=Change(0.1, 0.4, 1),
        fading=Change(0.6, 0.2, 1.1),
        local_contrast=Change(0.15, 0.15, 0.4),
        curve=Change(0.4, 0.15, 0.5),
        gamma=Change(0.2, 0.6, 1.7),
        inversion=Change(0.05),
        scale=Change(0.5, 0.6, 1.6),
        offset=Change(0.4, -0.6, 0.6),
        bias=Change(0.2, 0.05, 0.2),
        blur=Change(0.15, 0.4, 1.2),
        thick_slices=Change(0.25, 2, 8),
        low_resolution=Change(0.1, 1.3, 2.5),
        noise=Change(0.25, 0, 0.35),
        beyond=Change(0.7),
        cut_outs=Change(0.1, 0.1, 0.4),
        outside=Change(0.15, 0.6, 1),
        ending=0.6,
    ),
}


def table_of(augmentation: Augmentation) -> AugmentationTable:
    """Return the table of an amount of augmentation."""
    return _TABLES[augmentation]
