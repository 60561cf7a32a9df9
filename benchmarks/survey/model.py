"""Describe kinds of data sets by facts about their scans and lesions, from which fingerprints are drawn.

Lengths are mm, axes ``(z, y, x)``. Other units are written as if they were mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from detseg3d.core.arrays import AnyFloatArray, Spacing

__all__ = ["Counts", "Exemption", "Kind", "LesionClass", "Modality", "Placement", "Rule", "Scans", "Sizes"]

Shape = tuple[int, int, int]


class Modality(Enum):
    """Intensities of a channel: mean and standard deviation in the body, then in lesions."""

    CT = (10.0, 60.0, 60.0, 40.0)
    MR = (300.0, 80.0, 420.0, 90.0)
    PET = (1.2, 0.8, 7.0, 3.0)
    OTHER = (100.0, 25.0, 150.0, 30.0)
    CONSTANT = (7.0, 0.0, 7.0, 0.0)


class Placement(Enum):
    """How the lesions of a class lie in a scan."""

    SCATTERED = "scattered"  # Anywhere in the region.
    CLUSTERED = "clustered"  # Around a few centres.
    PACKED = "packed"  # On an irregular lattice that fills the region.
    COLUMN = "column"  # One above the other, like vertebrae.
    TWO_COLUMNS = "two columns"  # Two columns on the left and on the right, like ribs.
    ARCH = "arch"  # Side by side in two rows, like teeth.
    NESTED = "nested"  # Inside the lesions of another class.


class Rule(Enum):
    """A property that every plan must have. :mod:`benchmarks.survey.rules` checks it."""

    BOUND = "a perfect Stage 1 finds the lesions"
    SMALLEST_CELL = "the 5th-percentile lesion spans a cell of the finest head"
    LEVELS = "each head level has lesions, of a bounded span in its cells"
    ROI_MAGNIFICATION = "one RoI shows a usual lesion, with samples enough"
    ROI_IN_VOLUME = "no RoI has more samples along an axis than the volume has voxels"
    MEMORY = "training and prediction keep within their limits"
    STEPS = "the training has neither too few nor too many steps"
    CANDIDATES = "the candidates suffice for the fullest scan"
    OUTLIER = "one outlying scan does not change the grid"
    SCALE = "another unit of length gives the same plan in that unit"
    TIME = "the plan is made quickly"


@dataclass(frozen=True)
class Sizes:
    """Log-normal distribution of the diameters of lesions.

    ``median`` is the median diameter, and ``spread`` is the standard deviation of its logarithm. Diameters are clipped
    to ``smallest`` and ``largest``. They are in mm, or fractions of the enclosing lesion for nested classes.
    """

    median: float
    spread: float
    smallest: float
    largest: float

    def draw(self, random: np.random.Generator, count: int) -> AnyFloatArray:
        """Draw ``count`` diameters, shape ``(count,)``."""
        drawn = self.median * np.exp(self.spread * random.standard_normal(count))
        return np.clip(drawn, self.smallest, self.largest)


@dataclass(frozen=True)
class Counts:
    """Log-normal distribution of the number of lesions of a scan.

    ``without`` is the fraction of the scans without lesions, and ``maximum`` is the largest number.
    """

    median: float
    spread: float = 0.0
    without: float = 0.0
    maximum: int = 10_000

    def draw(self, random: np.random.Generator) -> int:
        """Draw the number of lesions of one scan."""
        empty, deviation = random.random() < self.without, random.standard_normal()
        count = round(self.median * float(np.exp(self.spread * deviation)))
        return 0 if empty else min(max(count, 1 if self.median >= 1 else 0), self.maximum)


@dataclass(frozen=True)
class Scans:
    """Scans of one geometry.

    Attributes
    ----------
    spacing, shape : 3 floats, 3 ints
        Geometry of the median scan.
    weight : float
        Fraction of the scans of the data set, relative to the other entries.
    spread : float
        Standard deviation of the logarithm of the first axis' spacing and of its number of slices. That of the other
        two spacings is half as large.
    body : 3 floats
        Fraction of each axis that the crop to the body keeps.
    """

    spacing: Spacing
    shape: Shape
    weight: float = 1.0
    spread: float = 0.0
    body: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LesionClass:
    """The lesions of one class.

    Attributes
    ----------
    name : str
    counts : Counts
        Lesions of each scan, or of each lesion of ``host`` for nested classes.
    sizes : Sizes
    aspect : 3 floats
        Edges of the box in diameters.
    region : 3 floats
        Fraction of each axis of the body in which centres lie.
    placement : Placement
    clusters : int
        Number of centres for clustered lesions.
    step : float
        Distance in mm between neighbours along a column or an arch.
    host : str
        Name of the class that encloses a nested class.
    """

    name: str
    counts: Counts
    sizes: Sizes
    aspect: tuple[float, float, float] = (1.0, 1.0, 1.0)
    region: tuple[float, float, float] = (0.8, 0.8, 0.8)
    placement: Placement = Placement.SCATTERED
    clusters: int = 3
    step: float = 0.0
    host: str = ""


@dataclass(frozen=True)
class Exemption:
    """A rule that no plan can keep for a kind, and the reason."""

    rule: Rule
    reason: str


@dataclass(frozen=True)
class Kind:
    """A kind of data set.

    Attributes
    ----------
    name : str
    group : str
        Heading in the table.
    source : str
        The data set or the publication with these facts, or the limit that the kind tests.
    cases : int
    scans : tuple of Scans
    classes : tuple of LesionClass
        Hosts of nested classes come first.
    channels : tuple of Modality
    instances : bool
        Whether the labels number their lesions.
    outlier : bool
        Whether exactly one scan has the geometry of the first entry of ``scans``.
    exemptions : tuple of Exemption
    """

    name: str
    group: str
    source: str
    cases: int
    scans: tuple[Scans, ...]
    classes: tuple[LesionClass, ...]
    channels: tuple[Modality, ...] = (Modality.MR,)
    instances: bool = False
    outlier: bool = False
    exemptions: tuple[Exemption, ...] = ()

    def is_exempt(self, rule: Rule) -> bool:
        """Return whether the kind may break this rule."""
        return any(exemption.rule is rule for exemption in self.exemptions)
