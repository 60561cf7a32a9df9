"""Make lesions with scores from a probability map: connected components of the voxels at or above a threshold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt

from detseg3d.core.arrays import BoolArray, FloatArray, IntArray
from detseg3d.core.errors import DetSeg3DError
from detseg3d.data.labels import Lesions
from detseg3d.evaluation.limits import reaches
from detseg3d.evaluation.probabilities.maps import ProbabilityMap

__all__ = ["SCORES", "ComponentRule", "find_components", "lesions_from_probabilities", "reaches_volume"]


SCORES = ("max", "mean", "p95")
"""Kinds of score of a component: maximum, mean or 95th percentile of the probabilities of its voxels."""


@dataclass(frozen=True)
class ComponentRule:
    """Rule by which lesions are made from a probability map.

    Attributes
    ----------
    threshold : float
        Minimum probability of a lesion voxel; above 0. With two classes, 0.5 gives the result of the
        argmax of nnU-Net, except for voxels of exactly 0.5.
    minimum_volume_mm3 : float
        Minimum volume of a component in mm³; smaller components are dropped.
    score : str
        ``max``, ``mean`` or ``p95`` (95th percentile, linearly interpolated) of the probabilities of the voxels.

    Raises
    ------
    DetSeg3DError
        If a value is not valid.
    """

    threshold: float = 0.5
    minimum_volume_mm3: float = 0.0
    score: str = "max"

    def __post_init__(self) -> None:
        # Written as `not (...)` so that NaN is refused, too.
        if not 0 < self.threshold <= 1:
            raise DetSeg3DError(
                "the threshold of a probability map must be a probability above 0",
                value=self.threshold,
                expected="above 0, at most 1",
            )
        if not 0 <= self.minimum_volume_mm3 < float("inf"):
            raise DetSeg3DError(
                "the minimum volume of a lesion must not be negative", value=self.minimum_volume_mm3, expected="mm³"
            )
        if self.score not in SCORES:
            raise DetSeg3DError(
                "unknown score of a component", value=self.score, expected=f"one of {', '.join(SCORES)}"
            )


@dataclass(frozen=True)
class Components:
    """Components of a probability map at one threshold.

    Attributes
    ----------
    instances : ndarray of int32, shape ``(Z, Y, X)``
        Instance map in which the components have the values ``1..N``.
    voxels : ndarray of int64, shape ``(N,)``
        Number of voxels of each component.
    classes : ndarray of int64, shape ``(N,)``
        Index into the ``class_values`` of the map.
    scores : dict of str to ndarray of float64, shape ``(N,)``
        Score of each component, for each of :data:`SCORES`.
    """

    instances: npt.NDArray[np.int32]
    voxels: IntArray
    classes: IntArray
    scores: Mapping[str, FloatArray]


def find_components(map_: ProbabilityMap, threshold: float) -> Components:
    """Return the 26-connected components of the voxels at or above a threshold, with all kinds of score.

    A component contains voxels of only one class.

    Parameters
    ----------
    map_ : ProbabilityMap
        Probability map of the case.
    threshold : float
        Probability above 0.

    Examples
    --------
    >>> values = np.array([[[0.9, 0.6, 0.2, 0.5]]], np.float32)
    >>> components = find_components(ProbabilityMap(values, None, (1,)), 0.5)
    >>> components.instances[0, 0].tolist(), components.voxels.tolist(), components.scores["max"].round(3).tolist()
    ([1, 1, 0, 2], [2, 1], [0.9, 0.5])
    """
    # NumPy rounds a Python float to the precision of the map, so that a stored 0.7 reaches the threshold 0.7.
    inside = map_.probability >= float(threshold)
    if map_.classes is None:
        number = inside.view(np.uint8)
    else:
        number = np.where(inside, map_.classes + np.uint8(1), np.uint8(0))
    # cc3d separates neighbours with different values, so that one pass finds the components of all classes.
    labels, count = cc3d.connected_components(number, connectivity=26, return_N=True)
    count = int(count)
    instances = labels.astype(np.int32, copy=False)
    foreground = np.flatnonzero(inside)
    owner = instances.ravel()[foreground].astype(np.int64) - 1
    values = map_.probability.ravel()[foreground]
    voxels = np.bincount(owner, minlength=count)
    classes = np.zeros(count, np.int64)
    if map_.classes is not None:
        classes[owner] = map_.classes.ravel()[foreground]
    return Components(instances, voxels, classes, _scores(owner, values, voxels))


def _scores(owner: IntArray, values: npt.NDArray[np.float32], voxels: IntArray) -> dict[str, FloatArray]:
    """Return all kinds of score. ``owner`` is the component of each value; every component has at least one value."""
    if len(voxels) == 0:
        return {name: np.zeros(0) for name in SCORES}
    # The bits of positive floats are in the order of their values. One sort of integers therefore sorts by component
    # and then by value.
    ordered = np.sort((owner << 32) | values.view(np.uint32))
    values = (ordered & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
    ends = np.cumsum(voxels)
    position = ends - voxels + 0.95 * (voxels - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, ends - 1)
    low, high = values[below].astype(np.float64), values[above].astype(np.float64)
    return {
        "max": values[ends - 1].astype(np.float64),
        "mean": np.add.reduceat(values, ends - voxels, dtype=np.float64) / voxels,
        "p95": low + (position - below) * (high - low),
    }


def reaches_volume(voxels: IntArray, voxel_volume_mm3: float, minimum_volume_mm3: float) -> BoolArray:
    """Mark the lesions with at least the minimum volume, with a tolerance for rounding errors.

    Parameters
    ----------
    voxels : ndarray of int64, shape ``(N,)``
        Number of voxels of each component.
    voxel_volume_mm3 : float
        Volume of one voxel.
    minimum_volume_mm3 : float
        Minimum volume of a lesion.

    Examples
    --------
    >>> reaches_volume(np.array([2, 3, 4]), 0.1, 0.3).tolist()
    [False, True, True]
    """
    return reaches(voxels * voxel_volume_mm3, minimum_volume_mm3)


def lesions_from_probabilities(
    map_: ProbabilityMap,
    spacing: Sequence[float],
    rule: ComponentRule | None = None,
    class_values: Sequence[int] | None = None,
    voxel_volume_mm3: float | None = None,
) -> Lesions:
    """Return the lesions of a probability map, with scores.

    A voxel belongs to its most probable lesion class if the probability of this class reaches the threshold. Lesions
    are the 26-connected components of each class.

    Parameters
    ----------
    map_ : ProbabilityMap
        Probability map of the case.
    spacing : 3 floats
        Voxel spacing in mm ``(z, y, x)``.
    rule : ComponentRule, optional
        Threshold, minimum volume and kind of score.
    class_values : sequence of int, optional
        Label values of all classes; by default the values of the map. The class of a lesion in the result is an index
        into these values.
    voxel_volume_mm3 : float, optional
        Volume of one voxel; by default the product of the spacing.

    Returns
    -------
    Lesions
        The lesions are numbered from 1 without gaps.

    Examples
    --------
    >>> values = np.array([[[0.9, 0.6, 0.2, 0.5]]], np.float32)
    >>> lesions = lesions_from_probabilities(ProbabilityMap(values, None, (1,)), (1, 1, 1), ComponentRule(0.5, 2.0))
    >>> lesions.instances[0, 0].tolist(), lesions.classes, round(lesions.scores[1], 3)
    ([1, 1, 0, 0], {1: 0}, 0.9)
    """
    rule = rule or ComponentRule()
    components = find_components(map_, rule.threshold)
    volume = math.prod(spacing) if voxel_volume_mm3 is None else voxel_volume_mm3
    kept = reaches_volume(components.voxels, volume, rule.minimum_volume_mm3)
    numbers = np.zeros(len(kept) + 1, np.int32)
    numbers[1:][kept] = np.arange(1, np.count_nonzero(kept) + 1)
    instances = components.instances if kept.all() else numbers[components.instances]
    values = map_.class_values if class_values is None else tuple(class_values)
    index_of = [values.index(value) for value in map_.class_values]
    classes = [index_of[index] for index in components.classes[kept].tolist()]
    scores = components.scores[rule.score][kept].tolist()
    return Lesions(instances, dict(enumerate(classes, start=1)), dict(enumerate(scores, start=1)))
