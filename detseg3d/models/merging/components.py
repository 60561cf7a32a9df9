"""Candidates from the dense map of Stage 1: the connected components that no box covers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import torch

from detseg3d.core.arrays import BoolArray
from detseg3d.core.boxes import as_boxes, boxes_from_instances
from detseg3d.models.merging.decode import Detections

__all__ = ["ComponentRule", "uncovered_components"]

# A component is covered if the boxes of candidates contain at least this fraction of the component. The RoIs of these
# boxes have a margin, so they show most of the rest as well.
_COVERED_FRACTION = 0.5


@dataclass(frozen=True)
class ComponentRule:
    """Rule by which components of the dense map become candidates.

    Attributes
    ----------
    threshold : float
        Lowest probability of a cell of a component.
    minimum_voxels : float
        Smallest volume of a component in fine voxels.
    """

    threshold: float
    minimum_voxels: float


def uncovered_components(
    probability: torch.Tensor,
    cell_size: Sequence[float],
    shape: Sequence[int],
    candidates: Detections,
    rule: ComponentRule,
) -> Detections:
    """Return the components of the dense map if candidates cover less than half of them.

    Parameters
    ----------
    probability : Tensor of float32, shape ``(K, z, y, x)``
        Dense map: a probability for each class and cell.
    cell_size : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)``.
    shape : sequence of 3 ints
        Shape ``(z, y, x)`` of the volume on the fine grid. Cells of the padding do not count.
    candidates : Detections
        Candidates of the volume, in fine voxel edges. Only boxes of the same class cover a component.
    rule : ComponentRule

    Returns
    -------
    Detections
        Boxes of the 26-connected components in fine voxel edges. The score is the mean probability of the component.
    """
    unit = np.asarray(cell_size, np.float64)
    parts = [Detections.none()]
    cells = [math.ceil(length / size) for length, size in zip(shape, cell_size, strict=True)]
    values = probability.numpy()[:, : cells[0], : cells[1], : cells[2]]
    for label, of_class in enumerate(values):
        components = cc3d.connected_components(of_class >= rule.threshold, connectivity=26)
        ids, boxes = boxes_from_instances(components)
        count = np.bincount(components.ravel())[ids]
        is_covered = _covered(candidates.boxes[candidates.classes == label] / np.tile(unit, 2), of_class.shape)
        covered = np.bincount(components[is_covered], minlength=int(components.max()) + 1)[ids]
        kept = (count * unit.prod() >= rule.minimum_voxels) & (covered < _COVERED_FRACTION * count)
        score = np.bincount(components.ravel(), of_class.ravel())[ids] / count
        parts.append(
            Detections(
                (boxes * np.tile(unit, 2))[kept].astype(np.float32),
                score[kept].astype(np.float32),
                np.full(int(kept.sum()), label, np.int64),
            )
        )
    return Detections.joined(parts)


def _covered(boxes: np.ndarray, shape: Sequence[int]) -> BoolArray:
    """Return a map of ``shape`` cells that is true for cells whose middle lies in one of ``boxes``, in cells."""
    covered = np.zeros(tuple(shape), np.bool_)
    for box in as_boxes(boxes):
        covered[tuple(_cells(box))] = True
    return covered


def _cells(box: np.ndarray) -> Iterator[slice]:
    for low, high in zip(box[:3], box[3:], strict=True):
        yield slice(max(0, math.ceil(low - 0.5)), max(0, math.ceil(high - 0.5)))
