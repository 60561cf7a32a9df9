"""Metrics of the BraTS-METS challenge of 2026.

The definition follows the package BraTS-evaluation 0.0.10 (https://github.com/BraTS/BraTS_evaluation), its
``config_mets.yaml`` and ``parse_mets_results``. The limits come from the workflow of the organizers
(``--vol_threshold 27 --overlap_threshold 0.2``, ``evaluation/segmentation/score.py`` of
https://github.com/Sage-Bionetworks-Challenges/brats-infra).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from detseg3d.evaluation.definitions.surfaces import directed_distances
from detseg3d.evaluation.limits import reaches, within
from detseg3d.evaluation.matching import match_by_sum, overlap_table
from detseg3d.system.json_records import JsonRecord

__all__ = ["SizeCounts", "Mets2026Case", "mets2026_case"]

LARGE_MM3 = 27.0
"""Minimum volume of a large true lesion in mm³."""

MINIMUM_DICE = 0.2
"""Minimum Dice of a found lesion with its match."""

PENALTY_MM = 373.0
"""HD95 of a missed large lesion and of a false positive: the diagonal of the atlas in mm."""

_MATCHING_DICE = 1e-6
_PER_MATCH = 1e-6


@dataclass(frozen=True)
class SizeCounts(JsonRecord):
    """Numbers of true lesions found and missed, and of false positives.

    Attributes
    ----------
    found, missed : int
        True lesions with and without a match.
    false_positives : int
        Predicted lesions of any size without a match.
    """

    found: int
    missed: int
    false_positives: int

    @property
    def precision(self) -> float:
        """``found / (found + false_positives)``; 0 if nothing was found."""
        return self.found / (self.found + self.false_positives) if self.found else 0.0

    @property
    def recall(self) -> float:
        """``found / (found + missed)``; 0 if nothing was found."""
        return self.found / (self.found + self.missed) if self.found else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if nothing was found."""
        return 2 * self.found / (2 * self.found + self.missed + self.false_positives) if self.found else 0.0


@dataclass(frozen=True)
class Mets2026Case(JsonRecord):
    """One class of one case. The default is a case without lesions on either side.

    Attributes
    ----------
    matched : SizeCounts
        Lesions of all sizes. A lesion counts as found if it has a match, whatever the Dice is.
    large, small : SizeCounts or None
        Large and small true lesions; ``None`` if the truth has no lesion of this size.
    dice, nsd, hd95_mm : float or None
        Means over large true lesions and false positives. A false positive counts 0 (distance: 373 mm). A matched
        lesion has the values of the pair. ``None`` if the truth has no large lesion.
    """

    matched: SizeCounts = SizeCounts(0, 0, 0)
    large: SizeCounts | None = None
    small: SizeCounts | None = None
    dice: float | None = None
    nsd: float | None = None
    hd95_mm: float | None = None


def mets2026_case(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    spacing: Sequence[float],
    voxel_volume_mm3: float,
) -> Mets2026Case:
    """Compare two masks of one class.

    Lesions are the 26-connected components of the masks. They are matched one-to-one with the highest sum of Dice. NSD
    is the mean of two shares: the share of each surface that lies within the smallest spacing of the other surface.
    HD95 is the 95th percentile of the distances of both surfaces together.

    Parameters
    ----------
    truth, prediction : ndarray, shape ``(Z, Y, X)``
        Every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    voxel_volume_mm3 : float
        Volume of one voxel.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 4, 30), np.uint8)
    >>> truth[0, :, 0:10], truth[0, 0, 20:22], prediction[0, :, 0:10] = 1, 1, 1
    >>> case = mets2026_case(truth, prediction, (1.0, 1.0, 1.0), 1.0)
    >>> case.dice, case.large, case.small
    (1.0, SizeCounts(found=1, missed=0, false_positives=0), SizeCounts(found=0, missed=1, false_positives=0))
    """
    lesions, parts = (cc3d.connected_components(mask != 0, connectivity=26) for mask in (truth, prediction))
    table = overlap_table(lesions, parts)
    matches = match_by_sum(table, table.dice, _MATCHING_DICE, _PER_MATCH)
    partner = dict(zip(matches.truth_index.tolist(), matches.prediction_index.tolist(), strict=True))
    false_positives = len(table.prediction) - len(matches)
    large = reaches(table.truth.voxels * voxel_volume_mm3, LARGE_MM3)
    dice = np.zeros(len(table.truth))
    for index, other in partner.items():
        pair = (table.truth_index == index) & (table.prediction_index == other)
        dice[index] = table.dice[pair][0]
    found = dice >= MINIMUM_DICE
    nsd, hd95 = np.zeros(int(large.sum())), np.full(int(large.sum()), PENALTY_MM)
    places, other_places = ndimage.find_objects(lesions), ndimage.find_objects(parts)
    for place, index in enumerate(np.flatnonzero(large).tolist()):
        if index in partner:
            number, other = int(table.truth.ids[index]), int(table.prediction.ids[partner[index]])
            region = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop))
                for a, b in zip(places[number - 1], other_places[other - 1], strict=True)
            )
            nsd[place], hd95[place] = _agreement(lesions[region] == number, parts[region] == other, spacing)
    nothing = np.zeros(false_positives)
    any_large = bool(large.any())
    return Mets2026Case(
        SizeCounts(len(matches), len(table.truth) - len(matches), false_positives),
        _counts(found[large], false_positives),
        _counts(found[~large], false_positives),
        float(np.mean([*dice[large], *nothing])) if any_large else None,
        float(np.mean([*nsd, *nothing])) if any_large else None,
        float(np.mean([*hd95, *(nothing + PENALTY_MM)])) if any_large else None,
    )


def _counts(found: npt.NDArray[np.bool_], false_positives: int) -> SizeCounts | None:
    if len(found) == 0:
        return None
    return SizeCounts(int(found.sum()), int((~found).sum()), false_positives)


def _agreement(
    truth: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float]:
    sides = directed_distances(truth, prediction, spacing)
    shares = [float(np.mean(within(distances, min(spacing)))) for distances in sides]
    return sum(shares) / 2, float(np.percentile(np.concatenate(sides), 95))
