"""Lesion-wise Dice and Hausdorff distance of the BraTS challenges since 2023."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import BoolArray
from detseg3d.core.boxes import boxes_from_instances
from detseg3d.evaluation.definitions.surface_elements import area_surface_metrics
from detseg3d.evaluation.definitions.surfaces import surface_metrics
from detseg3d.evaluation.limits import exceeds
from detseg3d.system.json_records import JsonRecord

__all__ = ["BRATS2024_METS", "GLIOMA", "METASTASES", "LesionwiseCounts", "LesionwiseRule", "lesionwise_scores"]


@dataclass(frozen=True)
class LesionwiseRule(JsonRecord):
    """Rule of a challenge for the lesion-wise metrics.

    Attributes
    ----------
    dilation : int
        True components that touch after this number of dilations (18 neighbours) are one lesion.
    ignored_mm3 : float
        True lesions of this volume or less do not count. A prediction that finds such a lesion is not a false positive.
    penalty_mm : float
        Distance of a missed lesion and of a false positive.
    dilate_prediction : bool
        Join predicted components that touch after the same dilations.
    ignored_predicted_voxels : int
        Predicted components with at most this number of voxels are left out.
    area_weighted : bool
        Weight the HD95 by area, see :mod:`~detseg3d.evaluation.definitions.surface_elements`.
    """

    dilation: int = 1
    ignored_mm3: float = 2.0
    penalty_mm: float = 374.0
    dilate_prediction: bool = False
    ignored_predicted_voxels: int = 0
    area_weighted: bool = False


METASTASES = LesionwiseRule()
"""BraTS-METS. The metastases are small, so the rule merges few lesions and leaves out few lesions."""

BRATS2024_METS = LesionwiseRule(dilate_prediction=True, ignored_predicted_voxels=2, area_weighted=True)
"""BraTS-METS 2024: https://github.com/rachitsaluja/BraTS-2024-Metrics, ``metrics_MET.py`` of commit b04e5a0."""

GLIOMA = LesionwiseRule(dilation=3, ignored_mm3=50.0)
"""BraTS for gliomas, https://github.com/rachitsaluja/BraTS-2023-Metrics."""


@dataclass(frozen=True)
class LesionwiseCounts(JsonRecord):
    """Sums over the lesions of one class in one case, or over several classes or cases.

    Attributes
    ----------
    truth : int
        True lesions that count.
    missed, false_positives : int
        True lesions without a prediction, and predicted components that touch no lesion.
    dice_sum : float
        Sum of Dice over the true lesions that count.
    hd95_sum : float or None
        Sum of HD95 in mm, with the penalties of missed lesions and false positives; ``None`` if distances were not
        computed.
    """

    JSON_PROPERTIES = ("dice", "hd95_mm")

    truth: int = 0
    missed: int = 0
    false_positives: int = 0
    dice_sum: float = 0.0
    hd95_sum: float | None = 0.0

    @property
    def dice(self) -> float:
        """``dice_sum / (truth + false_positives)``; 1.0 if both are 0."""
        count = self.truth + self.false_positives
        return self.dice_sum / count if count else 1.0

    @property
    def hd95_mm(self) -> float | None:
        """Mean distance over true lesions and false positives; 0.0 if both are 0."""
        count = self.truth + self.false_positives
        if self.hd95_sum is None:
            return None
        return self.hd95_sum / count if count else 0.0

    def __add__(self, other: LesionwiseCounts) -> LesionwiseCounts:
        unknown = self.hd95_sum is None or other.hd95_sum is None
        return LesionwiseCounts(
            self.truth + other.truth,
            self.missed + other.missed,
            self.false_positives + other.false_positives,
            self.dice_sum + other.dice_sum,
            None if unknown else (self.hd95_sum or 0.0) + (other.hd95_sum or 0.0),
        )


def lesionwise_scores(
    truth: npt.NDArray[Any],
    prediction: npt.NDArray[Any],
    spacing: Sequence[float],
    rule: LesionwiseRule = METASTASES,
    hd95: bool = True,
    voxel_volume_mm3: float | None = None,
) -> LesionwiseCounts:
    """Compare every true lesion with all predictions near this lesion.

    The truth is dilated. True voxels in one 26-connected component of the dilated truth are one lesion. All predicted
    components that touch the dilated lesion together are its prediction. A predicted component that touches several
    lesions is compared with each of them. A predicted component that touches no lesion is a false positive; its Dice is
    0. HD95 comes from :func:`~detseg3d.evaluation.definitions.surfaces.surface_metrics`, or from
    :func:`~detseg3d.evaluation.definitions.surface_elements.area_surface_metrics` if the rule weights it by area.

    Parameters
    ----------
    truth, prediction : ndarray, shape ``(Z, Y, X)``
        Masks of one class. Every value except 0 is inside; different values have the same meaning.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    rule : LesionwiseRule, optional
        Rule of the challenge.
    hd95 : bool, optional
        Also compute distances.
    voxel_volume_mm3 : float, optional
        Volume of one voxel; by default the product of the spacing.

    Returns
    -------
    LesionwiseCounts

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Evaluation program of the BraTS 2023 challenges, https://github.com/rachitsaluja/BraTS-2023-Metrics.

    Examples
    --------
    One lesion is half covered, another lesion is missed, and there is one false positive:

    >>> truth, prediction = np.zeros((2, 1, 1, 30))
    >>> truth[0, 0, 0:4], truth[0, 0, 10:13], prediction[0, 0, 2:6], prediction[0, 0, 20:25] = 1, 1, 1, 1
    >>> counts = lesionwise_scores(truth, prediction, (1.0, 1.0, 1.0))
    >>> counts.truth, counts.missed, counts.false_positives, round(counts.dice, 3)
    (2, 1, 1, 0.167)
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} have different shapes")
    truth, prediction = truth != 0, prediction != 0
    zones = cc3d.connected_components(_dilate(truth, rule.dilation), connectivity=26)
    lesions = np.where(truth, zones, 0)
    parts = cc3d.connected_components(
        _dilate(prediction, rule.dilation) if rule.dilate_prediction else prediction, connectivity=26
    )
    parts[~prediction] = 0
    small = np.bincount(parts.ravel()) <= rule.ignored_predicted_voxels
    small[0] = False
    if small.any():
        parts[small[parts]] = 0
        prediction = parts > 0
    lesion_voxels = np.bincount(lesions.ravel(), minlength=int(zones.max()) + 1)
    part_voxels = np.bincount(parts.ravel())
    near = prediction & (zones > 0)
    pairs = np.unique(np.stack([zones[near], parts[near]], axis=1).astype(np.int64), axis=0)
    common = np.bincount(lesions[prediction & truth], minlength=len(lesion_voxels))
    covering = np.bincount(pairs[:, 0], weights=part_voxels[pairs[:, 1]], minlength=len(lesion_voxels))
    dice = 2 * common / np.maximum(lesion_voxels + covering, 1)
    volume = math.prod(spacing) if voxel_volume_mm3 is None else voxel_volume_mm3
    counted = exceeds(lesion_voxels * volume, rule.ignored_mm3)
    counted[0] = False
    false_positives = int(np.count_nonzero(part_voxels[1:])) - len(np.unique(pairs[:, 1]))
    distances = None
    if hd95:
        distances = false_positives * rule.penalty_mm
        of_lesions, of_parts = (dict(zip(*boxes_from_instances(numbers), strict=True)) for numbers in (lesions, parts))
        for number in np.flatnonzero(counted).tolist():
            own = pairs[pairs[:, 0] == number, 1]
            if len(own) == 0:
                distances += rule.penalty_mm
                continue
            boxes = np.array([of_lesions[number], *(of_parts[part] for part in own.tolist())]).astype(int)
            low, high = boxes[:, :3].min(axis=0), boxes[:, 3:].max(axis=0)
            # The box around lesion and prediction is enough. Otherwise the whole volume would be read for every lesion.
            region = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            predicted = np.isin(parts[region], own)
            measure = area_surface_metrics if rule.area_weighted else surface_metrics
            distances += measure(lesions[region] == number, predicted, spacing).hd95_mm
    return LesionwiseCounts(
        truth=int(counted.sum()),
        missed=int((counted & (covering == 0)).sum()),
        false_positives=false_positives,
        dice_sum=float(dice[counted].sum()),
        hd95_sum=distances,
    )


def _dilate(mask: BoolArray, iterations: int) -> BoolArray:
    """Dilate a mask ``iterations`` times by the 18 neighbours that share a face or an edge."""
    for _ in range(iterations):
        # The 18-neighbourhood is the union of 3 × 3 squares in the three planes. A square is a dilation along two axes.
        along_z, along_y = _dilate_line(mask, 0), _dilate_line(mask, 1)
        mask = _dilate_line(along_z, 1) | _dilate_line(along_z, 2) | _dilate_line(along_y, 2)
    return mask


def _dilate_line(mask: BoolArray, axis: int) -> BoolArray:
    result = mask.copy()
    target, source = np.moveaxis(result, axis, 0), np.moveaxis(mask, axis, 0)
    target[1:] |= source[:-1]
    target[:-1] |= source[1:]
    return result
