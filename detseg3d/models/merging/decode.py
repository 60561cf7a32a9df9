"""Decode the dense output of Stage 1 into candidate boxes."""

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
from detseg3d.core.nms import Suppression, suppress
from detseg3d.models.networks.detector import LevelOutput
from detseg3d.planning.recall_bound import PEAKS_PER_CANDIDATE
from detseg3d.planning.sections import InferencePlan

__all__ = [
    "DenseLevel",
    "Detections",
    "boxes_of_peaks",
    "decode",
    "dense_levels",
    "highest_probability",
    "keep_best",
    "peaks",
    "suppression_of",
]

# exp(6) is about 400 cells. A wild size regression must not become an infinite box.
_MAX_LOG_SIZE = 6.0

# A box is learned in the cell that holds the centre, so its true offset is at most half a cell. A predicted centre may
# lie half a cell farther away.
_MAX_OFFSET = 1.0


@dataclass(frozen=True)
class Detections:
    """Boxes with their scores and classes, in the same order. Indexing with an array or a slice selects all three.

    Attributes
    ----------
    boxes : ndarray of float32, shape ``(N, 6)``
        ``z0 y0 x0 z1 y1 x1`` in voxel edges.
    scores : ndarray of float32, shape ``(N,)``
        Probability of Stage 1, from 0 to 1.
    classes : ndarray of int64, shape ``(N,)``
        Class index, from 0.
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

    @classmethod
    def none(cls) -> Detections:
        """Return detections without any box."""
        return cls(np.zeros((0, 6), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    @classmethod
    def joined(cls, parts: Sequence[Detections]) -> Detections:
        """Return the boxes of several detections, one after the other."""
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.scores for part in parts]),
            np.concatenate([part.classes for part in parts]),
        )


@dataclass
class DenseLevel:
    """Dense output of one FPN level for one volume.

    Attributes
    ----------
    probability : Tensor of float32, shape ``(K, z, y, x)``
        Heatmap of each class.
    log_size, offset : Tensor, shape ``(3, z, y, x)`` or ``(3·K, z, y, x)``
        Logarithm of the box size, and offset of the box centre from the centre of the cell, both in cells. There is one
        box per cell, or one box per cell and class.
    """

    probability: torch.Tensor
    log_size: torch.Tensor
    offset: torch.Tensor


def dense_levels(outputs: Sequence[LevelOutput], volume: int) -> list[DenseLevel]:
    """Return the dense output of one volume of a batch, detached, with probabilities instead of logits.

    Parameters
    ----------
    outputs : sequence of LevelOutput
        Output of the detector, finest level first.
    volume : int
        Index of the volume in the batch.

    Returns
    -------
    list of DenseLevel
        Finest level first.
    """
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
    """Return the highest probability of all cells that lie in the volume. Cells of the padding do not count.

    Parameters
    ----------
    levels : sequence of DenseLevel
    cell_sizes : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)`` of each level.
    shape : sequence of 3 ints
        Shape ``(z, y, x)`` of the volume on the fine grid.

    Returns
    -------
    float
    """
    highest = []
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        inside = tuple(slice(math.ceil(length / unit)) for length, unit in zip(shape, cell_size, strict=True))
        all_classes = (slice(None), *inside)
        highest.append(float(level.probability[all_classes].max()))
    return max(highest)


def peaks(probability: torch.Tensor, threshold: float) -> torch.Tensor:
    """Find the local maxima of heatmaps.

    A cell is a peak if it reaches ``threshold`` and if no cell that shares a face with it has a higher value. The other
    20 of the 26 neighbours are not compared: they often belong to the next lesion, and a lesion with a higher value
    must not hide its neighbour. Several peaks of one lesion are left to the suppression.

    Parameters
    ----------
    probability : Tensor, shape ``(K, z, y, x)``
        Heatmap of each class.
    threshold : float
        Lowest probability of a peak.

    Returns
    -------
    Tensor of int64, shape ``(P, 4)``
        Class, z, y and x of each peak.

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


def suppression_of(inference: InferencePlan, limit: int | None = None) -> Suppression:
    """Return the suppression rule of a plan, with at most ``limit`` candidates."""
    return Suppression(inference.suppression_distance, inference.suppression_iou, limit)


def decode(
    levels: Sequence[DenseLevel],
    cell_sizes: Sequence[Sequence[float]],
    shape: Sequence[int],
    threshold: float,
    suppression: Suppression,
) -> Detections:
    """Turn the dense output of Stage 1 into the boxes of one volume, without duplicates.

    Parameters
    ----------
    levels, cell_sizes, shape, threshold
        As in :func:`boxes_of_peaks`.
    suppression : Suppression
        As in :func:`keep_best`.

    Returns
    -------
    Detections
        Best score first, boxes in fine voxel edges.
    """
    return keep_best(boxes_of_peaks(levels, cell_sizes, shape, threshold), shape, suppression)


def boxes_of_peaks(
    levels: Sequence[DenseLevel], cell_sizes: Sequence[Sequence[float]], shape: Sequence[int], threshold: float
) -> Detections:
    """Return the box of every peak of the heatmaps, duplicates included.

    Parameters
    ----------
    levels : sequence of DenseLevel
        Finest level first.
    cell_sizes : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)`` of each level.
    shape : sequence of 3 ints
        Shape ``(z, y, x)`` of the volume on the fine grid. Peaks in the padding are dropped, and centres outside the
        volume are moved into it.
    threshold : float
        Lowest probability of a candidate.

    Returns
    -------
    Detections
        Level by level, boxes in fine voxel edges. Boxes may reach beyond the volume.
    """
    boxes, scores, classes = [], [], []
    extent = torch.tensor(tuple(shape), dtype=torch.float32)
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        unit = torch.tensor(tuple(cell_size), dtype=torch.float32)
        index = peaks(level.probability, threshold)
        # The volume was padded to whole cells of the coarsest level. A cell that begins behind its end is padding.
        index = index[((index[:, 1:].cpu().float() * unit) < extent).all(dim=1).to(index.device)]
        label, z, y, x = index.unbind(1)
        cell = index[:, 1:].cpu().float()
        offset, log_size = (_box_values(values, index) for values in (level.offset, level.log_size))
        center = (cell + 0.5 + offset.clamp(-_MAX_OFFSET, _MAX_OFFSET)) * unit
        # No lesion has its centre less than half a voxel from the border.
        center = torch.minimum(center.clamp_min(0.5), extent - 0.5)
        size = log_size.clamp(-_MAX_LOG_SIZE, _MAX_LOG_SIZE).exp() * unit
        boxes.append(boxes_from_centers_and_sizes(center.numpy(), size.numpy()))
        scores.append(level.probability[label, z, y, x].cpu().float().numpy())
        classes.append(label.cpu().numpy())
    return Detections(np.concatenate(boxes), np.concatenate(scores), np.concatenate(classes))


def keep_best(detections: Detections, shape: Sequence[int], suppression: Suppression) -> Detections:
    """Clip boxes to the volume and drop duplicates.

    The suppression starts from ten times as many boxes as its limit. A large lesion has several peaks, and these must
    not take the places of weak lesions elsewhere.

    Parameters
    ----------
    detections : Detections
        Boxes in fine voxel edges.
    shape : sequence of 3 ints
        Shape ``(z, y, x)`` of the volume on the fine grid.
    suppression : Suppression
        Which duplicates are dropped, and the largest number of candidates (``limit``, which must not be ``None``).

    Returns
    -------
    Detections
        Best score first.
    """
    assert suppression.limit is not None, "decoding needs a limit of candidates"
    best_first = np.argsort(-detections.scores, kind="stable")
    detections = detections[best_first[: PEAKS_PER_CANDIDATE * suppression.limit]]
    clipped = clip_boxes(detections.boxes, shape)
    kept = suppress(clipped, detections.scores, detections.classes, suppression)
    return Detections(clipped, detections.scores, detections.classes)[kept]


def _box_values(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the box values of peaks ``(class, z, y, x)``, shape ``(P, 3)``, in float32 on the CPU.

    ``values`` holds one box for all classes or one box per class, ``(3, z, y, x)`` or ``(3·K, z, y, x)``.
    """
    label, z, y, x = index.unbind(1)
    boxes = values[:, z, y, x].T.cpu().float().unflatten(1, (-1, 3))
    return boxes[torch.arange(len(boxes)), label.cpu() if boxes.shape[1] > 1 else 0]
