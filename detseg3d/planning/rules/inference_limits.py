"""Rules for the limits of the inference: candidates of a scan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["CandidateLimit", "choose_candidate_limit"]


CANDIDATES_PER_LESION = 4
# So many candidates any scan may have. The floor covers training cases of up to so many lesions by itself.
MIN_CANDIDATES = 100
_COVERED_BY_FLOOR = MIN_CANDIDATES // CANDIDATES_PER_LESION
# The masks of all candidates of a scan stay in memory until they are merged.
CANDIDATE_MASKS_BYTES = 1e9
_CANDIDATE_CEILINGS = (1000, 20_000)
_MAX_IN_PLANS = 100_000


class CandidateLimit(NamedTuple):
    """How many candidates a scan may have: ``density`` for each mm³, but from ``minimum`` to ``maximum``."""

    density: float
    minimum: int
    maximum: int


def choose_candidate_limit(
    lesions_per_case: Sequence[int], volumes: Sequence[float], roi_size: Sequence[int]
) -> CandidateLimit:
    """Candidates grow with the scan: several for each lesion that a scan as full as the fullest case would hold.

    A limit that is a number would cut a field of view that is larger than those of the training. Without any limit a
    network that has learned little, and is sure of nothing, would send Stage 2 to thousands of places.

    Parameters
    ----------
    lesions_per_case : sequence of int
    volumes : sequence of float
        Of the same cases, cropped to the body, in mm³.
    roi_size : 3 ints
        Samples of an RoI: the masks of the candidates take memory.

    Examples
    --------
    >>> choose_candidate_limit([0, 1, 1], [1e6] * 3, (32, 32, 32))
    CandidateLimit(density=4e-06, minimum=100, maximum=15258)
    >>> choose_candidate_limit([75, 60], [1e4, 1e4], (24, 24, 24))
    CandidateLimit(density=0.03, minimum=100, maximum=20000)
    """
    counts, sizes = np.asarray(lesions_per_case, np.float64), np.asarray(volumes, np.float64)
    # A lesion or two in a scan that is small by accident say nothing about how dense lesions are.
    usual = np.where(counts > _COVERED_BY_FLOOR, sizes, np.maximum(sizes, np.median(sizes))) if len(sizes) else sizes
    density = CANDIDATES_PER_LESION * float((counts / usual).max(initial=0))
    fullest = int(counts.max(initial=0))
    affordable = int(CANDIDATE_MASKS_BYTES / (2 * math.prod(roi_size)))
    most = max(min(max(affordable, _CANDIDATE_CEILINGS[0]), _CANDIDATE_CEILINGS[1]), 2 * fullest)
    # An organ that is full of lesions may fill a smaller scan than those of the training.
    fewest = max(MIN_CANDIDATES, fullest)
    return CandidateLimit(float(f"{density:.6g}"), min(fewest, _MAX_IN_PLANS), min(most, _MAX_IN_PLANS))
