"""Rules for the inference: how many candidates a scan may have, and which lesions the second reading looks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from detseg3d.core.arrays import FloatArray, Spacing

__all__ = [
    "COMPONENT_PERCENTILE",
    "MIN_COMPONENT_CELLS",
    "MIN_COMPONENT_CELLS_UNLIKE",
    "USUAL_PERCENTILE",
    "choose_candidate_limit",
    "choose_coarse_reading_size",
    "choose_dense_minimum",
]


CANDIDATES_PER_LESION = 4
# Every scan may have this many candidates, which is enough for _COVERED_BY_FLOOR lesions.
MIN_CANDIDATES = 100
_COVERED_BY_FLOOR = MIN_CANDIDATES // CANDIDATES_PER_LESION
# The masks of all candidates of a scan stay in memory until they are merged.
CANDIDATE_MASKS_BYTES = 1e9
_CANDIDATE_CEILINGS = (1000, 20_000)
_MAX_IN_PLANS = 100_000
USUAL_PERCENTILE = 95
"""Percentile of the sizes of the training lesions. Lesions above it are too few to be learned well."""
COMPONENT_PERCENTILE = 99
"""Percentile of the volumes of the training lesions from which components of the dense map become candidates. Smaller
components would add large false positives on scans like those of the training."""
MIN_COMPONENT_CELLS = 27
# Smallest component in a scan that is unlike the training scans, and in the training of Stage 2
# (docs/research_log/components_on_another_scanner.md).
MIN_COMPONENT_CELLS_UNLIKE = 12
"""Smallest component of the dense map that becomes a candidate, in cells: a cube of three cells."""


class CandidateLimit(NamedTuple):
    """Limit of the candidates of a scan: ``density`` per mm³, at least ``minimum`` and at most ``maximum``."""

    density: float
    minimum: int
    maximum: int


def choose_candidate_limit(
    lesions_per_case: Sequence[int], volumes: Sequence[float], roi_size: Sequence[int]
) -> CandidateLimit:
    """Choose the limit of candidates, which grows with the volume of a scan.

    The limit is 4 candidates for each lesion that the scan would have at the highest density of lesions in the data
    set. A fixed number would be too small for scans with a larger field of view than in training. Without a limit, a
    network that has learned little would send Stage 2 to thousands of places.

    Parameters
    ----------
    lesions_per_case : sequence of int
    volumes : sequence of float
        Volumes of the same cases in mm³, cropped to the body.
    roi_size : 3 ints
        Samples ``(z, y, x)`` of an RoI. They decide the memory of the candidates' masks.

    Returns
    -------
    CandidateLimit

    Examples
    --------
    >>> choose_candidate_limit([0, 1, 1], [1e6] * 3, (32, 32, 32))
    CandidateLimit(density=4e-06, minimum=100, maximum=15258)
    >>> choose_candidate_limit([75, 60], [1e4, 1e4], (24, 24, 24))
    CandidateLimit(density=0.03, minimum=100, maximum=20000)
    """
    counts, sizes = np.asarray(lesions_per_case, np.float64), np.asarray(volumes, np.float64)
    # A few lesions in an unusually small scan do not show the density of lesions. Such a scan counts with the median
    # volume.
    usual = np.where(counts > _COVERED_BY_FLOOR, sizes, np.maximum(sizes, np.median(sizes))) if len(sizes) else sizes
    density = CANDIDATES_PER_LESION * float((counts / usual).max(initial=0))
    most_lesions = int(counts.max(initial=0))
    affordable = int(CANDIDATE_MASKS_BYTES / (2 * math.prod(roi_size)))
    maximum = max(min(max(affordable, _CANDIDATE_CEILINGS[0]), _CANDIDATE_CEILINGS[1]), 2 * most_lesions)
    # A scan may show only the organ with the lesions, and be smaller than all training scans. It may have as many
    # lesions as the training scan with the most lesions.
    minimum = max(MIN_CANDIDATES, most_lesions)
    return CandidateLimit(float(f"{density:.6g}"), min(minimum, _MAX_IN_PLANS), min(maximum, _MAX_IN_PLANS))


def choose_coarse_reading_size(extents: FloatArray) -> Spacing | None:
    """Choose the size above which a lesion is looked for at half resolution: the 95th percentile, axis by axis.

    Parameters
    ----------
    extents : ndarray, shape ``(N, 3)``
        Edges ``(z, y, x)`` of the training lesions' boxes in mm.

    Returns
    -------
    3 floats or None
        In mm; ``None`` without lesions.

    Examples
    --------
    >>> choose_coarse_reading_size(np.linspace(0, 100, 101)[:, None] * [1.0, 1.0, 0.5])
    (95.0, 95.0, 47.5)
    """
    if len(extents) == 0:
        return None
    z, y, x = (float(f"{edge:.4g}") for edge in np.percentile(extents, USUAL_PERCENTILE, axis=0))
    return z, y, x


def choose_dense_minimum(volumes: Sequence[float], cell: Spacing) -> float | None:
    """Choose the smallest component of the dense map that becomes a candidate.

    It is larger than 99 % of the training lesions, and has at least 27 cells.

    Parameters
    ----------
    volumes : sequence of float
        Volumes of the training lesions in mm³.
    cell : 3 floats
        Edges ``(z, y, x)`` of a cell of the dense map in mm.

    Returns
    -------
    float or None
        In mm³; ``None`` without lesions.

    Examples
    --------
    >>> choose_dense_minimum([5, 15, 40], (2, 2, 2)), choose_dense_minimum(range(1001), (2, 2, 2))
    (216.0, 990.0)
    """
    if len(volumes) == 0:
        return None
    usual = float(np.percentile(volumes, COMPONENT_PERCENTILE))
    return float(f"{max(usual, MIN_COMPONENT_CELLS * math.prod(cell)):.4g}")
