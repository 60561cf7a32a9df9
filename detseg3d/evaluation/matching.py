"""Compute the overlaps of true and predicted lesions, and match the lesions.

All functions work on instance maps: integer arrays in which 0 is background and every other value is one lesion. Values
need not be consecutive and may be large. A lesion may consist of several components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from detseg3d.core.arrays import BoolArray, FloatArray, IntArray

__all__ = [
    "InstanceTable",
    "OverlapTable",
    "best_overlaps",
    "match_any_overlap",
    "match_by_sum",
    "match_one_to_one",
    "overlap_table",
]


@dataclass(frozen=True)
class InstanceTable:
    """Lesions of one instance map, in ascending order of their values.

    Attributes
    ----------
    ids : ndarray of int64, shape ``(N,)``
        Values in the instance map.
    voxels : ndarray of int64, shape ``(N,)``
        Number of voxels of each lesion.
    centers : ndarray of float64, shape ``(N, 3)``
        Centre of mass ``(z, y, x)`` in voxel edges: the centre of voxel ``i`` is ``i + 0.5``.
    """

    ids: IntArray
    voxels: IntArray
    centers: FloatArray

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class OverlapTable:
    """All overlapping pairs of a true and a predicted lesion. Pairs without a common voxel are left out.

    Attributes
    ----------
    truth, prediction : InstanceTable
        True and predicted lesions.
    truth_index, prediction_index : ndarray of int64, shape ``(K,)``
        Pair ``k`` consists of true lesion ``truth_index[k]`` and predicted lesion ``prediction_index[k]``.
    intersection : ndarray of int64, shape ``(K,)``
        Number of common voxels, at least 1.
    """

    truth: InstanceTable
    prediction: InstanceTable
    truth_index: IntArray
    prediction_index: IntArray
    intersection: IntArray

    @property
    def iou(self) -> FloatArray:
        """Intersection over union of each pair, shape ``(K,)``."""
        sizes = self.truth.voxels[self.truth_index] + self.prediction.voxels[self.prediction_index]
        ratio: FloatArray = self.intersection / (sizes - self.intersection)
        return ratio

    @property
    def dice(self) -> FloatArray:
        """Dice of each pair, shape ``(K,)``."""
        sizes = self.truth.voxels[self.truth_index] + self.prediction.voxels[self.prediction_index]
        ratio: FloatArray = 2 * self.intersection / sizes
        return ratio

    def keep(self, pairs: BoolArray) -> OverlapTable:
        """Return a table with all lesions but only the chosen pairs, for example the pairs of equal class."""
        return OverlapTable(
            self.truth,
            self.prediction,
            self.truth_index[pairs],
            self.prediction_index[pairs],
            self.intersection[pairs],
        )

    def select(self, truth: BoolArray, prediction: BoolArray) -> OverlapTable:
        """Return a table with only the chosen lesions and the pairs between them.

        Parameters
        ----------
        truth : ndarray of bool, shape ``(T,)``
            True for each true lesion to keep.
        prediction : ndarray of bool, shape ``(P,)``
            True for each predicted lesion to keep.
        """
        pairs = truth[self.truth_index] & prediction[self.prediction_index]
        new_truth, new_prediction = np.cumsum(truth) - 1, np.cumsum(prediction) - 1
        return OverlapTable(
            _select(self.truth, truth),
            _select(self.prediction, prediction),
            new_truth[self.truth_index[pairs]],
            new_prediction[self.prediction_index[pairs]],
            self.intersection[pairs],
        )


@dataclass(frozen=True)
class Matches:
    """One-to-one matching of true and predicted lesions.

    Attributes
    ----------
    truth_index, prediction_index : ndarray of int64, shape ``(M,)``
        Match ``k`` consists of true lesion ``truth_index[k]`` and predicted lesion ``prediction_index[k]``.
    iou : ndarray of float64, shape ``(M,)``
        IoU of each match.
    """

    truth_index: IntArray
    prediction_index: IntArray
    iou: FloatArray

    def __len__(self) -> int:
        return len(self.iou)


def overlap_table(truth: npt.NDArray[np.integer[Any]], prediction: npt.NDArray[np.integer[Any]]) -> OverlapTable:
    """Return the sizes of all lesions and of all overlaps between two instance maps.

    The function reads the foreground once, for any number of lesions and any values.

    Parameters
    ----------
    truth, prediction : ndarray of int or bool, shape ``(Z, Y, X)``
        Instance maps on the same grid; 0 is background.

    Raises
    ------
    ValueError
        If the shapes differ or are not three-dimensional.

    Examples
    --------
    >>> truth, prediction = np.zeros((2, 1, 1, 6), np.int32)
    >>> truth[0, 0, 0:4] = 7
    >>> prediction[0, 0, 2:6] = 300
    >>> table = overlap_table(truth, prediction)
    >>> table.truth.ids.tolist(), table.truth.voxels.tolist(), table.intersection.tolist()
    ([7], [4], [2])
    >>> table.iou.round(3).tolist(), table.dice.tolist()
    ([0.333], [0.5])
    """
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(f"two volumes (Z, Y, X) of one shape are needed, found {truth.shape} and {prediction.shape}")
    true_table, true_voxels, true_numbers = _instance_table(truth)
    table, voxels, numbers = _instance_table(prediction)
    # Both lists of foreground voxels ascend, so bisection in the longer list finds the common voxels.
    if len(true_voxels) <= len(voxels):
        common = _positions(voxels, true_voxels)
        first, second = true_numbers[common >= 0], numbers[common[common >= 0]]
    else:
        common = _positions(true_voxels, voxels)
        first, second = true_numbers[common[common >= 0]], numbers[common >= 0]
    pairs, counts = np.unique(first * max(len(table), 1) + second, return_counts=True)
    true_index, index = np.divmod(pairs, max(len(table), 1))
    return OverlapTable(true_table, table, true_index, index, counts.astype(np.int64))


def _positions(sorted_values: IntArray, wanted: IntArray) -> IntArray:
    """Return the position of each of ``wanted`` in ``sorted_values``; -1 if the value is missing."""
    if len(sorted_values) == 0:
        return np.full(len(wanted), -1, np.int64)
    place = np.minimum(np.searchsorted(sorted_values, wanted), len(sorted_values) - 1)
    return np.where(sorted_values[place] == wanted, place, -1).astype(np.int64)


def _instance_table(instances: npt.NDArray[np.integer[Any]]) -> tuple[InstanceTable, IntArray, IntArray]:
    """Return the lesions, and for each foreground voxel its flat index and the row of its lesion in the table."""
    flat = np.ascontiguousarray(instances).ravel()
    foreground = np.flatnonzero(flat)
    ids, numbers = np.unique(flat[foreground], return_inverse=True)
    numbers = numbers.astype(np.int64)
    voxels = np.bincount(numbers, minlength=len(ids))
    positions = np.unravel_index(foreground, instances.shape)
    sums = [np.bincount(numbers, weights=position + 0.5, minlength=len(ids)) for position in positions]
    centers = np.stack(sums, axis=1) / np.maximum(voxels, 1)[:, None]
    return InstanceTable(ids.astype(np.int64), voxels.astype(np.int64), centers), foreground, numbers


def _select(table: InstanceTable, rows: BoolArray) -> InstanceTable:
    return InstanceTable(table.ids[rows], table.voxels[rows], table.centers[rows])


def match_any_overlap(table: OverlapTable) -> tuple[BoolArray, BoolArray]:
    """Mark the lesions that share at least one voxel with a lesion of the other side.

    Most papers on small lesions use this criterion. The criterion is not one-to-one. A prediction that covers two true
    lesions finds both lesions and is one true positive. Two predictions in one true lesion are two true positives, but
    the lesion is found once.

    Returns
    -------
    found : ndarray of bool, shape ``(T,)``
        True lesions that a predicted lesion overlaps.
    true_positive : ndarray of bool, shape ``(P,)``
        Predicted lesions that overlap a true lesion. All other predicted lesions are false positives.
    """
    found, true_positive = np.zeros(len(table.truth), np.bool_), np.zeros(len(table.prediction), np.bool_)
    found[table.truth_index] = True
    true_positive[table.prediction_index] = True
    return found, true_positive


def match_one_to_one(table: OverlapTable, minimum_iou: float) -> Matches:
    """Return the one-to-one matching with the most matches, and among these with the highest total IoU.

    Parameters
    ----------
    table : OverlapTable
        Lesions and their overlaps.
    minimum_iou : float
        Minimum IoU of a match; 0 allows every pair with a common voxel.

    Returns
    -------
    Matches
        Matches in ascending order of the true lesions.

    Notes
    -----
    The Hungarian method computes the matching. A greedy choice by IoU or score can lose matches if lesions lie close
    together. picai_eval (Saha et al. 2022, https://github.com/DIAGNijmegen/picai_eval) can lose matches, too, because
    it maximizes the sum of 1 + IoU: two matches with IoU 1 have the sum 4, but three matches with IoU 0.1 only 3.3.

    References
    ----------
    Kuhn (1955), "The Hungarian method for the assignment problem", Naval Research Logistics Quarterly 2.

    Examples
    --------
    A prediction that covers two true lesions matches only one of them:

    >>> truth, prediction = np.zeros((2, 1, 1, 6), np.int32)
    >>> truth[0, 0] = [1, 1, 0, 0, 2, 2]
    >>> prediction[0, 0] = [5, 5, 5, 5, 5, 5]
    >>> len(match_one_to_one(overlap_table(truth, prediction), 0.1))
    1
    """
    # Every IoU is at most 1. With this value per match, one more match therefore outweighs any sum of IoUs.
    return match_by_sum(table, table.iou, minimum_iou, min(len(table.truth), len(table.prediction)) + 1)


def match_by_sum(table: OverlapTable, quality: FloatArray, minimum: float, per_match: float) -> Matches:
    """Return the one-to-one matching with the highest sum of ``quality + per_match`` over its pairs.

    Parameters
    ----------
    table : OverlapTable
        Lesions and their overlaps.
    quality : ndarray of float64, shape ``(K,)``
        Quality of each pair of ``table``, 0 to 1, for example its IoU.
    minimum : float
        Pairs of lower quality are not matched.
    per_match : float
        Value of each match. With 1, as in picai_eval, two excellent matches may outweigh three poor matches.

    Returns
    -------
    Matches
        Matches in ascending order of the true lesions.
    """
    eligible = np.flatnonzero(quality >= minimum)
    if len(eligible) == 0:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    first, second, values = table.truth_index[eligible], table.prediction_index[eligible], quality[eligible]
    if len(np.unique(first)) == len(np.unique(second)) == len(first):  # no lesion has a choice
        order = np.argsort(first)
        return Matches(first[order], second[order], table.iou[eligible][order])
    # Overlapping lesions form small separate groups. Each group is solved separately, so that 10 000 lesions do not
    # need a matrix of 10 000² numbers.
    size = len(table.truth) + len(table.prediction)
    graph = coo_array((np.ones(len(first)), (first, second + len(table.truth))), shape=(size, size))
    group = connected_components(graph, directed=False)[1][first]
    order = np.argsort(group, kind="stable")
    chosen = [
        pairs[_assign(first[pairs], second[pairs], values[pairs] + per_match)]
        for pairs in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    ]
    kept = np.concatenate(chosen)
    kept = kept[np.argsort(first[kept])]
    return Matches(first[kept], second[kept], table.iou[eligible][kept])


def _assign(first: IntArray, second: IntArray, values: FloatArray) -> IntArray:
    """Return the positions of the pairs in the optimal assignment of one group."""
    if len(first) == 1:
        return np.zeros(1, np.int64)
    rows, row = np.unique(first, return_inverse=True)
    columns, column = np.unique(second, return_inverse=True)
    weight = np.zeros((len(rows), len(columns)))
    weight[row, column] = values
    pair_at = np.full(weight.shape, -1)
    pair_at[row, column] = np.arange(len(first))
    chosen = pair_at[linear_sum_assignment(weight, maximize=True)]
    return chosen[chosen >= 0].astype(np.int64)


def best_overlaps(table: OverlapTable) -> tuple[IntArray, IntArray]:
    """Return the pair with the highest IoU for each lesion.

    Returns
    -------
    of_truth : ndarray of int64, shape ``(T,)``
        Index into the pairs of ``table``; -1 for a lesion without overlap.
    of_prediction : ndarray of int64, shape ``(P,)``
        The same for the predicted lesions.
    """
    ascending = np.argsort(table.iou, kind="stable")
    of_truth, of_prediction = np.full(len(table.truth), -1), np.full(len(table.prediction), -1)
    # If an index is repeated, NumPy keeps the last assignment. The pairs ascend, so the last pair has the highest IoU.
    of_truth[table.truth_index[ascending]] = ascending
    of_prediction[table.prediction_index[ascending]] = ascending
    return of_truth, of_prediction
