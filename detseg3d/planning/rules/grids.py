"""Rules for the spacing of both grids and for the volume that the memory is planned for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import Spacing, Triple

__all__ = [
    "PlannedVolume",
    "MIN_CELLS",
    "SPARE_VOLUME",
    "choose_fine_spacing",
    "coarser_spacings",
    "finest_spacing",
    "long_axes",
    "planned_volumes",
]


ANISOTROPY = 3.0  # The coarsest axis gets its 10th percentile if it is over 3 times coarser.
MIN_CELLS = 4  # No axis is pooled to fewer cells.
SPARE_VOLUME = 1.1  # A scan with up to 1.1 times the planned voxels is still trained as a whole.
OUTLIER_VOLUME = 3.0  # A scan with over 3 times the voxels of the 90th percentile is an outlier.
SCANS_WITH_OUTLIERS = 10  # Smallest number of scans among which outliers are looked for.
PERCENTILES = (90, 75, 50)  # Smaller volumes are tried at these percentiles.


def choose_fine_spacing(spacings: npt.ArrayLike, shapes: npt.ArrayLike | None = None) -> Spacing:
    """Choose the spacing of the fine grid: the median of each axis.

    If the coarsest axis is over 3 times coarser than the second coarsest axis, the coarsest axis gets its 10th
    percentile instead, but never less than the spacing of the second coarsest axis. An axis along which every scan has
    a single voxel gets the coarsest spacing, so that no scan gets a second voxel.

    Parameters
    ----------
    spacings : array_like, shape ``(cases, 3)``
        In mm.
    shapes : array_like, shape ``(cases, 3)``, optional
        Voxels of the scans.

    Returns
    -------
    3 floats
        ``(z, y, x)`` in mm.

    Examples
    --------
    >>> choose_fine_spacing([[1, 1, 1], [1, 1, 1], [2, 1, 1]])
    (1.0, 1.0, 1.0)
    >>> choose_fine_spacing([[5, 1, 1]] * 8 + [[2, 1, 1]] * 2)
    (2.0, 1.0, 1.0)
    >>> choose_fine_spacing([[5, 1, 1]] * 8 + [[2, 1, 1]] * 2, [[1, 512, 512]] * 10)
    (5.0, 1.0, 1.0)
    """
    array = np.asarray(spacings, dtype=np.float64).reshape(-1, 3)
    median = np.median(array, axis=0)
    coarsest = int(median.argmax())
    following = float(np.sort(median)[1])
    if median[coarsest] > ANISOTROPY * following:
        median[coarsest] = max(float(np.percentile(array[:, coarsest], 10, method="inverted_cdf")), following)
    if shapes is not None:
        single = np.asarray(shapes).reshape(-1, 3).max(axis=0) == 1
        median[single] = array.max(axis=0)[single]
    # Headers contain noise of single precision. Five digits are a hundredth of a voxel over a whole volume.
    z, y, x = (float(f"{value:.5g}") for value in median)
    return z, y, x


@dataclass(frozen=True)
class PlannedVolume:
    """A volume for which the memory is planned.

    Attributes
    ----------
    shape : 3 ints
        Fine voxels ``(z, y, x)``.
    percentile : int
        Percentile of the scans' edges from which the shape comes.
    outliers : int
        Number of scans that were left out because they are far larger than all others.
    """

    shape: Triple
    percentile: int = 100
    outliers: int = 0

    @property
    def voxels(self) -> int:
        """Number of fine voxels."""
        return math.prod(self.shape)

    def cuts(self, shape: Sequence[int]) -> bool:
        """Return True if a scan of ``shape`` is trained in parts, because it has over a tenth more voxels."""
        return math.prod(shape) > SPARE_VOLUME * self.voxels


def planned_volumes(shapes: npt.ArrayLike) -> list[PlannedVolume]:
    """Return volumes to plan for, the largest first: percentiles of the scans' edges, axis by axis.

    The percentiles are 100, 90, 75 and 50. Outliers are left out first: in 10 scans or more, scans with over 3 times
    the voxels of the 90th percentile. One whole-body scan among head scans therefore does not decide the plan. Of the
    other scans, the 99th percentile counts as the largest edge.

    Parameters
    ----------
    shapes : array_like of int, shape ``(cases, 3)``
        Fine voxels.

    Returns
    -------
    list of PlannedVolume
        Without repeated shapes.

    Examples
    --------
    >>> planned_volumes([[24, 20, 20], [24, 18, 20]])[0]
    PlannedVolume(shape=(24, 20, 20), percentile=100, outliers=0)
    >>> planned_volumes([[180, 220, 200]] * 19 + [[1800, 500, 500]])
    [PlannedVolume(shape=(180, 220, 200), percentile=100, outliers=1)]
    """
    edges = np.asarray(shapes, dtype=np.int64).reshape(-1, 3)
    voxels = edges.astype(np.float64).prod(axis=1)
    usual = np.ones(len(edges), bool)
    if len(edges) >= SCANS_WITH_OUTLIERS:
        usual = voxels <= OUTLIER_VOLUME * float(np.percentile(voxels, 90, method="lower"))
    outliers = int((~usual).sum())
    z, y, x = (int(n) for n in np.percentile(edges[usual], 99, axis=0, method="higher"))
    volumes = [PlannedVolume((z, y, x), 100, outliers)]
    for percentile in PERCENTILES:
        z, y, x = (int(n) for n in np.percentile(edges[usual], percentile, axis=0, method="lower"))
        if (z, y, x) != volumes[-1].shape:
            volumes.append(PlannedVolume((z, y, x), percentile, outliers))
    return volumes


def long_axes(shape: Sequence[int]) -> list[int]:
    """Return the axes that are long enough to be pooled: 8 voxels or more.

    If no axis is so long, all three axes are returned. A short axis is never pooled. Its spacing must not influence how
    the other axes of a thin volume are pooled.

    Examples
    --------
    >>> long_axes((3, 384, 384)), long_axes((448, 448, 15)), long_axes((4, 4, 4))
    ([1, 2], [0, 1, 2], [0, 1, 2])
    """
    return [axis for axis, n in enumerate(shape) if n >= 2 * MIN_CELLS] or [0, 1, 2]


def finest_spacing(spacing: Sequence[float], shape: Sequence[int]) -> float:
    """Return the finest spacing among the axes that are long enough to be pooled.

    Examples
    --------
    >>> finest_spacing((0.1, 1.0, 1.5), (1, 256, 256)), finest_spacing((0.1, 1.0, 1.5), (100, 256, 256))
    (1.0, 0.1)
    """
    return min(spacing[axis] for axis in long_axes(shape))


def coarser_spacings(fine_spacing: Spacing, shape: Sequence[int], step: float = 1.05) -> list[Spacing]:
    """Return the detection spacings to try, finest first.

    The finest axes become coarser first, until all axes are equal. Then all axes become coarser together. An axis that
    is too short to be pooled keeps its spacing.

    Parameters
    ----------
    fine_spacing : 3 floats
        ``(z, y, x)`` in mm.
    shape : 3 ints
        Planned volume in fine voxels.
    step : float, optional
        Ratio of two neighbouring spacings.

    Returns
    -------
    list of 3 floats each
        ``(z, y, x)`` in mm.

    Examples
    --------
    >>> spacings = coarser_spacings((2.0, 1.0, 1.0), (100, 200, 200))
    >>> spacings[0], [round(s, 3) for s in spacings[1]], len({s for s in spacings[-1]})
    ((2.0, 1.0, 1.0), [2.0, 1.05, 1.05], 1)
    >>> coarser_spacings((2.0, 1.0, 1.0), (1, 200, 200))[-1][0]
    2.0
    """
    long = long_axes(shape)
    finest = finest_spacing(fine_spacing, shape)
    spacings = [fine_spacing]
    for power in range(1, 60):
        length = float(f"{finest * step**power:.5g}")
        z, y, x = (max(edge, length) if axis in long else edge for axis, edge in enumerate(fine_spacing))
        spacings.append((z, y, x))
    return spacings
