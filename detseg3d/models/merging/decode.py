"""From the dense output of Stage 1 to boxes: peaks of the averaged heatmaps, decoded once, duplicates suppressed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from detseg3d.core.boxes import boxes_from_centers_and_sizes, clip_boxes
from detseg3d.core.nms import suppress
from detseg3d.models.networks.detector import LevelOutput
from detseg3d.planning.recall_bound import PEAKS_PER_CANDIDATE

__all__ = ["Detections", "DenseLevel", "decode", "dense_levels", "highest_probability", "peaks"]

# A box is learned in the cell that holds the centre, so its true offset is at most half a cell. A predicted centre may
# lie half a cell farther away.
_MAX_OFFSET = 1.0


@dataclass(frozen=True)
class Detections:
    """Aligned records of detected boxes; indexing keeps them aligned.

    Attributes
    ----------
    boxes : ndarray of float32, shape ``(N, 6)``, fine voxel edges
    scores : ndarray of float32, shape ``(N,)``
    classes : ndarray of int64, shape ``(N,)``
    """

    boxes: npt.NDArray[np.floating[Any]]
    scores: npt.NDArray[np.floating[Any]]
    classes: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.boxes.shape == (len(self.scores), 6) and len(self.scores) == len(self.classes)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: npt.NDArray[Any] | slice) -> Detections:
        return Detections(self.boxes[index], self.scores[index], self.classes[index])

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("iterate over .boxes, .scores or .classes")


@dataclass
class DenseLevel:
    """Dense prediction of one level and volume.

    Probability ``(K, z, y, x)``; log size and offset ``(3, z, y, x)``, or ``(3·K, z, y, x)`` if each class has a box.
    """

    probability: torch.Tensor
    log_size: torch.Tensor
    offset: torch.Tensor


def dense_levels(outputs: Sequence[LevelOutput], volume: int) -> list[DenseLevel]:
    """The dense predictions of one volume of a batch, detached."""
    return [
        DenseLevel(
            output.heatmap[volume].detach().float().sigmoid(),
            output.log_size[volume].detach(),
            output.offset[volume].detach(),
        )
        for output in outputs
    ]


def highest_probability(
    levels: Sequence[DenseLevel], cell_sizes: Sequence[Sequence[float]], shape: Sequence[int]
) -> float:
    """The highest probability of all cells that lie in the volume, and not in its padding.

    Parameters
    ----------
    levels : sequence of DenseLevel
    cell_sizes : sequence of (z, y, x)
        Fine voxels per cell of each level.
    shape : sequence of 3 ints
        Fine voxels ``(z, y, x)`` of the volume.
    """
    highest = []
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        inside = tuple(slice(math.ceil(length / unit)) for length, unit in zip(shape, cell_size, strict=True))
        highest.append(float(level.probability[(slice(None), *inside)].max()))
    return max(highest)


def peaks(probability: torch.Tensor, threshold: float) -> torch.Tensor:
    """Cells that reach ``threshold`` and are exceeded by none of the six cells that share a face with them.

    Of the 26 cells around, those at edges and corners often belong to the next lesion; where that one is more certain,
    it must not hide this one (docs/research_log). What stands twice for one lesion is left to the suppression.

    Parameters
    ----------
    probability : Tensor, shape ``(K, Z, Y, X)``
        Heatmap of each class.
    threshold : float

    Returns
    -------
    Tensor of int64, shape ``(P, 4)``
        Class, z, y, x.

    Examples
    --------
    >>> heatmap = torch.tensor([[[[0.9, 0.2], [0.3, 0.5]]]])
    >>> peaks(heatmap, 0.1).tolist()
    [[0, 0, 0, 0], [0, 0, 1, 1]]
    """
    is_peak = probability >= threshold
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 3, 1
        is_peak &= probability == functional.max_pool3d(probability[None], kernel, stride=1, padding=padding)[0]
    return torch.nonzero(is_peak)


def decode(
    levels: Sequence[DenseLevel],
    cell_sizes: Sequence[Sequence[float]],
    shape: Sequence[int],
    *,
    threshold: float,
    max_candidates: int,
    distance: float,
    iou: float,
) -> Detections:
    """Boxes of one volume.

    Parameters
    ----------
    levels : sequence of DenseLevel
        Finest first.
    cell_sizes : sequence of (z, y, x)
        Fine voxels per cell of each level.
    shape : sequence of 3 ints
        Fine voxels of the volume; peaks in cells of the padding beyond it are dropped, centres that were regressed out
        of it are moved back in, and boxes are clipped to it.
    threshold : float
        Lowest heatmap probability of a candidate.
    max_candidates : int
        At most so many boxes are left by the suppression, the best ones. It starts from ten times as many peaks: a
        large lesion has several, and none of them may take the place of a weak lesion elsewhere.
    distance, iou : float
        See :func:`detseg3d.core.nms.suppress`.

    Returns
    -------
    Detections
        Best first.
    """
    boxes, scores, classes = [], [], []
    extent = torch.tensor(tuple(shape), dtype=torch.float32)
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        unit = torch.tensor(tuple(cell_size), dtype=torch.float32)
        index = peaks(level.probability, threshold)
        index = index[((index[:, 1:].cpu().float() * unit) < extent).all(dim=1).to(index.device)]
        label, z, y, x = index.unbind(1)
        cell = index[:, 1:].cpu().float()
        offset, log_size = (_own_box(values, index) for values in (level.offset, level.log_size))
        center = (cell + 0.5 + offset.clamp(-_MAX_OFFSET, _MAX_OFFSET)) * unit
        # No lesion has its centre less than half a voxel from the border, whatever the regression says.
        center = torch.minimum(center.clamp_min(0.5), extent - 0.5)
        # exp(6) = 400 cells: a wild regression must not become an infinite box.
        size = log_size.clamp(-6, 6).exp() * unit
        boxes.append(boxes_from_centers_and_sizes(center.numpy(), size.numpy()))
        scores.append(level.probability[label, z, y, x].cpu().float().numpy())
        classes.append(label.cpu().numpy())
    found = Detections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes))
    found = found[np.argsort(-found.scores, kind="stable")[: PEAKS_PER_CANDIDATE * max_candidates]]
    found = Detections(clip_boxes(found.boxes, shape), found.scores, found.classes)
    kept = suppress(found.boxes, found.scores, found.classes, distance=distance, iou=iou, most=max_candidates)
    return found[kept]


def _own_box(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The numbers of the boxes of peaks ``(class, z, y, x)``, ``(P, 3)`` in float32 on the CPU.

    ``values`` has those of one box for all classes or of one for each, ``(3, Z, Y, X)`` or ``(3·K, Z, Y, X)``.
    """
    label, z, y, x = index.unbind(1)
    boxes = values[:, z, y, x].T.cpu().float().unflatten(1, (-1, 3))
    return boxes[torch.arange(len(boxes)), label.cpu() if boxes.shape[1] > 1 else 0]
