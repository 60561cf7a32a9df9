"""Candidates from the dense map of Stage 1: connected components that the boxes of lesions do not cover."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import torch

from detseg3d.core.arrays import BoolArray
from detseg3d.core.boxes import as_boxes, boxes_from_instances
from detseg3d.models.merging.decode import Detections

__all__ = ["ComponentRule", "DenseComponents"]

# A component is covered if boxes contain at least this fraction of the component. The RoIs of these boxes have a
# margin, so they show most of the rest as well.
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


@dataclass(frozen=True)
class DenseComponents:
    """Connected components of the dense map of a volume.

    Attributes
    ----------
    detections : Detections
        Boxes of the components in fine voxel edges. The score is the mean probability of the component.
    cells : tuple of ndarray
        For each component, its cells as rows ``(z, y, x)``, shape ``(n, 3)``.
    cell_size : tuple of 3 floats
        Fine voxels per cell ``(z, y, x)``.
    """

    detections: Detections
    cells: tuple[npt.NDArray[np.int64], ...]
    cell_size: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.detections)

    @classmethod
    def none(cls) -> DenseComponents:
        """Return no component."""
        return cls(Detections.none(), (), (1.0, 1.0, 1.0))

    @classmethod
    def find(
        cls, probability: torch.Tensor, cell_size: Sequence[float], shape: Sequence[int], rule: ComponentRule
    ) -> DenseComponents:
        """Find the 26-connected components of each class.

        Parameters
        ----------
        probability : Tensor of float32, shape ``(K, z, y, x)``
            Dense map: a probability for each class and cell.
        cell_size : sequence of 3 floats
            Fine voxels per cell ``(z, y, x)``.
        shape : sequence of 3 ints
            Shape ``(z, y, x)`` of the volume on the fine grid. Cells of the padding do not count.
        rule : ComponentRule

        Returns
        -------
        DenseComponents
        """
        unit = np.asarray(cell_size, np.float64)
        parts, cells = [Detections.none()], []
        kept_shape = [math.ceil(length / size) for length, size in zip(shape, cell_size, strict=True)]
        values = probability.numpy()[:, : kept_shape[0], : kept_shape[1], : kept_shape[2]]
        for label, of_class in enumerate(values):
            components = cc3d.connected_components(of_class >= rule.threshold, connectivity=26)
            ids, boxes = boxes_from_instances(components)
            count = np.bincount(components.ravel())[ids]
            kept = count * unit.prod() >= rule.minimum_voxels
            score = np.bincount(components.ravel(), of_class.ravel())[ids] / count
            parts.append(
                Detections(
                    (boxes * np.tile(unit, 2))[kept].astype(np.float32),
                    score[kept].astype(np.float32),
                    np.full(int(kept.sum()), label, np.int64),
                )
            )
            for number, box in zip(ids[kept], boxes[kept].astype(np.int64), strict=True):
                inside = components[tuple(slice(low, high) for low, high in zip(box[:3], box[3:], strict=True))]
                cells.append(np.argwhere(inside == number) + box[:3])
        z, y, x = (float(size) for size in cell_size)
        return cls(Detections.joined(parts), tuple(cells), (z, y, x))

    def select(self, index: npt.NDArray[Any]) -> DenseComponents:
        """Return the components of an array of indices, or for which a boolean array is true."""
        chosen = np.arange(len(self))[index]
        return DenseComponents(self.detections[chosen], tuple(self.cells[i] for i in chosen), self.cell_size)

    def covered_by(self, boxes: Detections) -> BoolArray:
        """Return which components ``boxes`` cover by half or more, shape ``(N,)``.

        Parameters
        ----------
        boxes : Detections
            In fine voxel edges. Only boxes of the same class cover a component.
        """
        result = np.zeros(len(self), np.bool_)
        for number, cells in enumerate(self.cells):
            of_class = boxes.boxes[boxes.classes == self.detections.classes[number]]
            covered = np.zeros(len(cells), np.bool_)
            for low, high in _cell_ranges(of_class, self.cell_size):
                covered |= np.all((cells >= low) & (cells < high), axis=1)
            result[number] = covered.sum() >= _COVERED_FRACTION * len(cells)
        return result


def _cell_ranges(
    boxes: np.ndarray, cell_size: Sequence[float]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield the first cell of each box and the cell after the last one. A cell belongs to a box if its middle does."""
    cells = np.ceil(as_boxes(boxes) / np.tile(np.asarray(cell_size, np.float64), 2) - 0.5).astype(np.int64)
    for box in cells:
        yield box[:3], box[3:]
