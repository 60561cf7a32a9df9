"""What a kind of data set is: scans, lesions and their number, as facts that a fingerprint is drawn from.

Lengths are mm, axes ``(z, y, x)``. Units other than mm are written as if they were mm.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from detseg3d.core.arrays import AnyFloatArray, Spacing

__all__ = ["Counts", "Exemption", "Kind", "LesionClass", "Modality", "Placement", "Rule", "Scans", "Sizes"]

Shape = tuple[int, int, int]


class Modality(Enum):
    """Where the intensities of a channel lie: mean and standard deviation in the body, and in lesions."""

    CT = (10.0, 60.0, 60.0, 40.0)
    MR = (300.0, 80.0, 420.0, 90.0)
    PET = (1.2, 0.8, 7.0, 3.0)
    OTHER = (100.0, 25.0, 150.0, 30.0)
    CONSTANT = (7.0, 0.0, 7.0, 0.0)


class Placement(Enum):
    """How the lesions of a class lie in a scan."""

    SCATTERED = "scattered"  # anywhere in the region
    CLUSTERED = "clustered"  # around a few centres
    PACKED = "packed"  # on a disturbed lattice that fills the region
    COLUMN = "column"  # one above the other, as vertebrae
    TWO_COLUMNS = "two columns"  # the same on the left and on the right, as ribs
    ARCH = "arch"  # side by side in two rows, as teeth
    NESTED = "nested"  # within the lesions of another class


class Rule(Enum):
    """What every plan must keep; :mod:`benchmarks.survey.rules` checks it."""

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
    """Diameters, log-normal: half of the lesions are smaller than ``median``; ``spread`` is the deviation of the log.

    ``smallest`` and ``largest`` cut the tails. Lengths in mm; for nested classes in shares of the lesion around it.
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
    """Lesions of a scan, log-normal like :class:`Sizes`; a share of the scans has none at all."""

    median: float
    spread: float = 0.0
    without: float = 0.0
    most: int = 10_000

    def draw(self, random: np.random.Generator) -> int:
        """Draw the number of lesions of one scan."""
        empty, deviation = random.random() < self.without, random.standard_normal()
        count = round(self.median * float(np.exp(self.spread * deviation)))
        return 0 if empty else min(max(count, 1 if self.median >= 1 else 0), self.most)


@dataclass(frozen=True)
class Scans:
    """Scans of one geometry.

    Attributes
    ----------
    spacing, shape : 3 floats, 3 ints
        Of the median scan.
    share : float
        Part of the set's scans, relative to the other entries.
    spread : float
        Deviation of the logarithm of the spacing of the first axis and of its number of slices, and, half as large, of
        the spacing of the other two axes.
    body : 3 floats
        Share of each axis that the crop to the body keeps.
    """

    spacing: Spacing
    shape: Shape
    share: float = 1.0
    spread: float = 0.0
    body: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class LesionClass:
    """The lesions of one class.

    Attributes
    ----------
    name : str
    counts : Counts
        Per scan; per lesion of ``host`` for nested classes.
    sizes : Sizes
    aspect : 3 floats
        Edges of the box, in diameters.
    region : 3 floats
        Share of each axis of the body in which centres lie.
    placement : Placement
    clusters : int
        Number of centres for clustered lesions.
    step : float
        For columns and arches: distance of neighbours along the column or the arch in mm.
    host : str
        For nested classes: the class around this one.
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
    """A rule that a kind cannot keep, and why no plan could."""

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
        The data set or the publication that the figures come from, or the limit that the kind tries.
    cases : int
    scans : tuple of Scans
    classes : tuple of LesionClass
        Hosts of nested classes come first.
    channels : tuple of Modality
    instances : bool
        Labels number their lesions.
    outlier : bool
        The first scan of the set has the geometry of the first entry of ``scans``, all others that of the rest.
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
        """Whether the kind may break this rule."""
        return any(exemption.rule is rule for exemption in self.exemptions)
