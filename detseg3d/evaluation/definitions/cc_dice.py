"""CC-Dice: the Dice of each true lesion, within the voxels that are nearest to this lesion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from detseg3d.core.arrays import FloatArray
from detseg3d.evaluation.definitions.surfaces import surface_voxels

__all__ = ["cc_dice", "cc_dice_by_lesion"]


_NEIGHBOURS = 8  # candidates for ties; if all tie, all points at this distance are searched
_TIE = 1e-6  # relative difference up to which two distances are equal


def cc_dice(truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[Any], spacing: Sequence[float]) -> float:
    """Return the mean of :func:`cc_dice_by_lesion`.

    If there is no true lesion, the result is 1.0 for an empty prediction and 0.0 otherwise.
    """
    values = cc_dice_by_lesion(truth, prediction, spacing)
    if len(values) == 0:
        return 0.0 if np.any(prediction) else 1.0
    return float(values.mean())


def cc_dice_by_lesion(
    truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[Any], spacing: Sequence[float]
) -> FloatArray:
    """Return the Dice of each true lesion with the predicted voxels that are nearest to this lesion.

    No matching is needed. A small lesion counts as much as a large one. A false positive lowers the value of the
    nearest lesion. Distances are in millimetres. A voxel with the same distance to several lesions counts for
    each of these lesions by an equal share, so that the result does not depend on the order of the lesions.

    Parameters
    ----------
    truth : ndarray of int, shape ``(Z, Y, X)``
        Instance map: 0 is background, every other value is one lesion.
    prediction : ndarray, shape ``(Z, Y, X)``
        Mask: every value except 0 is inside.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.

    Returns
    -------
    ndarray of float64, shape ``(T,)``
        Dice of each lesion, in ascending order of the values in ``truth``.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Jaus et al. (2024), "Every component counts: rethinking the measure of success for medical semantic segmentation in
    multi-instance segmentation tasks", https://arxiv.org/abs/2410.18684.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 12), np.int32)
    >>> truth[0, 0, 0:2], truth[0, 0, 8:12], prediction[0, 0, 0:4] = 1, 2, 1
    >>> cc_dice_by_lesion(truth, prediction, (1.0, 1.0, 1.0)).round(3).tolist()
    [0.667, 0.0]
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} have different shapes")
    inside = np.nonzero(truth)
    ids, numbers = np.unique(truth[inside], return_inverse=True)
    if len(ids) == 0:
        return np.zeros(0)
    voxels = np.bincount(numbers, minlength=len(ids))
    common = np.bincount(numbers[np.asarray(prediction[inside] != 0)], minlength=len(ids))
    outside = np.argwhere((prediction != 0) & (truth == 0))
    stray = _nearest_shares(truth, ids, outside, np.asarray(spacing, np.float64))
    result: FloatArray = 2 * common / (voxels + common + stray)
    return result


def _nearest_shares(
    truth: npt.NDArray[Any], ids: npt.NDArray[Any], points: npt.NDArray[np.int64], scale: FloatArray
) -> FloatArray:
    """Count the voxels ``points`` outside all lesions by their nearest lesion.

    Only surface voxels are searched. The nearest lesion voxel to a point outside is always on the surface of the union
    of the lesions, because an inner voxel has a neighbour that is nearer to the point.
    """
    totals = np.zeros(len(ids))
    if len(points) == 0:
        return totals
    surface = surface_voxels(truth)
    owner = np.searchsorted(ids, truth[tuple(surface.T)])
    tree = cKDTree(surface * scale)
    count = min(_NEIGHBOURS, len(surface))
    distance, index = tree.query(points * scale, k=list(range(1, count + 1)))
    tied = distance <= distance[:, :1] * (1 + _TIE)
    nearest = owner[index]
    alone = ~np.any(tied & (nearest != nearest[:, :1]), axis=1) & ~(tied.all(axis=1) & (count < len(surface)))
    totals += np.bincount(nearest[alone, 0], minlength=len(ids))
    for row in np.flatnonzero(~alone).tolist():
        around = tree.query_ball_point(points[row] * scale, distance[row, 0] * (1 + _TIE))
        lesions = np.unique(owner[around])
        totals[lesions] += 1 / len(lesions)
    return totals
