"""Averages over flips and folds: dense maps of Stage 1 before they are decoded, RoI masks of Stage 2 after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from detseg3d.core.boxes import box_centers, box_sizes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.log_odds import mean_by_log_odds
from detseg3d.models.detseg import DetSeg3D
from detseg3d.models.merging.decode import DenseLevel, Detections, dense_levels
from detseg3d.models.merging.paste import RoiPrediction
from detseg3d.models.networks.detector import DetectorOutput
from detseg3d.system.device import autocast, autocast_dtype
from detseg3d.system.memory import require_memory

__all__ = [
    "MemberScores",
    "SegmentedRois",
    "average_dense",
    "flip_combinations",
    "flip_dense",
    "highest_near",
    "segment_rois",
]

# Trained weights hardly exceed 10, and normalised intensities of scans 100. Beyond these, they are a cause.
_LARGE_WEIGHT = 1e4
_LARGE_INTENSITY = 1e4


@dataclass(frozen=True)
class MemberScores:
    """What each of several networks says of every candidate; its own mirrored copies are averaged.

    Attributes
    ----------
    detection : ndarray of float64, shape ``(M, N)``
        Highest probability of the candidate's class near its centre.
    roi : ndarray of float64, shape ``(M, N)``
        Best score of its RoIs.
    """

    detection: npt.NDArray[np.float64]
    roi: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SegmentedRois:
    """The RoIs of all candidates, averaged, and what the networks say one by one (``None`` for a single network)."""

    predictions: list[RoiPrediction]
    members: MemberScores | None = None


def flip_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """All subsets of ``axes``, the empty one first.

    Examples
    --------
    >>> flip_combinations((0, 2))
    [(), (0,), (2,), (0, 2)]
    """
    unique = sorted(set(axes))
    return [subset for count in range(len(unique) + 1) for subset in combinations(unique, count)]


def flip_dense(level: DenseLevel, axes: Sequence[int]) -> DenseLevel:
    """Undo the flip of the image in the dense prediction: maps are turned back, offsets change their sign.

    Cells turn into cells only if the flipped image was padded to whole cells before it was flipped.
    """
    if not axes:
        return level
    dims = [axis + 1 for axis in axes]
    sign = torch.ones(3, 1, 1, 1, dtype=level.offset.dtype, device=level.offset.device)
    for axis in axes:
        sign[axis] = -1
    sign = sign.repeat(len(level.offset) // 3, 1, 1, 1)  # for each box of a cell
    return DenseLevel(level.probability.flip(dims), level.log_size.flip(dims), level.offset.flip(dims) * sign)


@torch.no_grad()
def average_dense(
    models: Sequence[DetSeg3D], image: torch.Tensor, mirror_axes: Sequence[int], device: torch.device
) -> list[DenseLevel]:
    """Stage 1 averaged over flips and models.

    Parameters
    ----------
    models : sequence of DetSeg3D
        With equal plans, in evaluation mode, on ``device``.
    image : Tensor, shape ``(1, C, Z, Y, X)``
        On the detection grid, padded, on ``device``.
    mirror_axes : sequence of int
        Axes (0, 1, 2 for z, y, x) whose flips are averaged; empty for none.
    device : torch.device

    Returns
    -------
    list of DenseLevel
        On the CPU, finest level first.

    Raises
    ------
    DetSeg3DError
        If an output is not finite.
    """
    flips = flip_combinations(mirror_axes)
    weight = 1 / (len(flips) * len(models))
    total: list[DenseLevel] = []
    for model in models:
        for axes in flips:
            flipped = image.flip([axis + 2 for axis in axes]) if axes else image
            with autocast(device):
                levels = dense_levels(model.detect(flipped).levels, 0)
            for index, level in enumerate(levels):
                level = flip_dense(level, axes)
                if len(total) <= index:
                    total.append(
                        DenseLevel(
                            *(torch.zeros(part.shape) for part in (level.probability, level.log_size, level.offset))
                        )
                    )
                total[index].probability += weight * level.probability.cpu()
                total[index].log_size += weight * level.log_size.float().cpu()
                total[index].offset += weight * level.offset.float().cpu()
    for level in total:
        _check_finite((level.probability, level.log_size, level.offset), models, image, device)
    return total


@torch.no_grad()
def segment_rois(
    models: Sequence[DetSeg3D],
    image: torch.Tensor,
    detection_image: torch.Tensor,
    found: Detections,
    mirror_axes: Sequence[int],
    device: torch.device,
) -> SegmentedRois:
    """Stage 2 on the RoIs of all candidates, averaged over flips and over models.

    Scores of several models are averaged on the scale of log-odds: the calibration of several networks rests on that
    (:mod:`detseg3d.evaluation.scores.ensemble_calibration`).

    A flip is one of the scan, not of what was computed from it: the features that go with mirrored RoIs come from the
    mirrored scan. Features of the scan itself, turned round, would be ones that no training shows.

    Parameters
    ----------
    models : sequence of DetSeg3D
    image : Tensor, shape ``(C, Z, Y, X)``
        Fine grid.
    detection_image : Tensor, shape ``(1, C, Z, Y, X)``
        Detection grid, padded; the Stage 1 features are computed from it anew for each model and flip, which costs one
        more pass each but never holds more than one map of them.
    found : Detections
    mirror_axes : sequence of int
    device : torch.device

    Returns
    -------
    SegmentedRois
        Placed on the fine grid; a large candidate has several, as far as they show something of the volume.

    Raises
    ------
    DetSeg3DError
        If an output is not finite, or there is no memory for the masks.
    """
    rois, parents = models[0].tiles(found.boxes)
    # Of a box as large as the volume the margin alone may fill RoIs.
    shown = np.all((rois[:, :3] < image.shape[1:]) & (rois[:, 3:] > 0), axis=1)
    rois, parents = rois[shown], parents[shown]
    if len(rois) == 0:
        return SegmentedRois([])
    require_memory(
        2 * len(rois) * math.prod(models[0].plans.roi.size),
        f"outlining {len(found)} candidates in {len(rois)} RoIs",
        remedy="raise --candidate_threshold, or use a machine with more memory",
    )
    batch = models[0].plans.inference.roi_batch_size
    flips = flip_combinations(mirror_axes)
    probability = torch.zeros((len(rois), *models[0].plans.roi.size), dtype=torch.float16)
    scores = np.zeros((len(models), len(rois)))
    detection = np.zeros((len(models), len(found)))
    for number, model in enumerate(models):
        levels: list[DenseLevel] = []
        for axes in flips:
            output = _detect_flipped(model, detection_image, axes, device)
            if len(models) > 1:
                levels = _add_dense(levels, dense_levels(output.levels, 0), axes, 1 / len(flips))
            features, context = _roi_features(model, output, axes, device)
            del output
            for part in _slices(len(rois), batch):
                crops = model.crop_inputs(image, found.boxes[parents[part]], rois[part]).to(device)
                classes = torch.from_numpy(found.classes[parents[part]])
                with autocast(device):
                    mask, roi_score = _segment_flipped(model, crops, features, context, rois[part], classes, axes)
                probability[part] += (mask / (len(flips) * len(models))).half().cpu()
                # mps has no float64
                scores[number, part] += roi_score.float().cpu().double().numpy() / len(flips)
            del features, context  # before the next ones are made
        if len(models) > 1:
            detection[number] = highest_near(levels, model.cell_sizes, found)
    score = scores[0] if len(models) == 1 else mean_by_log_odds(scores)
    _check_finite((probability, torch.from_numpy(scores), torch.from_numpy(detection)), models, image, device)
    predictions = [RoiPrediction(roi, int(parents[i]), probability[i], float(score[i])) for i, roi in enumerate(rois)]
    if len(models) == 1:
        return SegmentedRois(predictions)
    best = np.zeros((len(models), len(found)))
    for number in range(len(models)):
        np.maximum.at(best[number], parents, scores[number])
    return SegmentedRois(predictions, MemberScores(detection, best))


def highest_near(
    levels: Sequence[DenseLevel], cell_sizes: Sequence[Sequence[float]], found: Detections
) -> npt.NDArray[np.float64]:
    """The highest probability that one network has for each candidate near its centre.

    Near is within a quarter of the candidate's size, and at least within a cell and a half: the peaks of several
    networks for one lesion seldom lie in one cell.

    Parameters
    ----------
    levels : sequence of DenseLevel
    cell_sizes : sequence of (z, y, x)
        Fine voxels per cell of each level.
    found : Detections
        On the fine grid.

    Returns
    -------
    ndarray of float64, shape ``(N,)``
    """
    highest = np.zeros(len(found))
    centers, sizes = box_centers(found.boxes), box_sizes(found.boxes)
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        shape = np.array(level.probability.shape[1:])
        reach = np.maximum(sizes / 4 / np.asarray(cell_size), 1.5)
        # Cell i has its centre at i + 1/2.
        middle = centers / np.asarray(cell_size) - 0.5
        low = np.clip(np.ceil(middle - reach), 0, shape - 1).astype(int)
        high = np.clip(np.floor(middle + reach) + 1, low + 1, shape).astype(int)
        for index, of_class in enumerate(found.classes.tolist()):
            window = tuple(slice(a, b) for a, b in zip(low[index], high[index], strict=True))
            highest[index] = max(highest[index], float(level.probability[(of_class, *window)].max()))
    return highest


def _check_finite(
    outputs: Sequence[torch.Tensor], models: Sequence[DetSeg3D], image: torch.Tensor, device: torch.device
) -> None:
    """Raise where a network overflowed: below every threshold, NaN would pass for a scan without lesions."""
    if all(bool(torch.isfinite(output).all()) for output in outputs):
        return
    dtype = autocast_dtype(device) or torch.float32
    intensity = float(image.abs().max())
    modules = [model for model in models if isinstance(model, nn.Module)]
    weight = max((float(weights.abs().max()) for module in modules for weights in module.parameters()), default=0.0)
    if weight > _LARGE_WEIGHT:
        remedy = "the weights are too large: train again, or use another model"
    elif intensity > _LARGE_INTENSITY:
        remedy = "the scan has extreme intensities: look at them, and at the channel that is meant"
    else:
        remedy = "neither the scan nor the weights are extreme: predict with -device cpu"
    raise DetSeg3DError(
        "the network's output is not finite, so nothing can be said of this scan",
        value=f"{device.type} with {str(dtype).removeprefix('torch.')}; largest intensity after normalisation "
        f"{intensity:.3g}, largest weight {weight:.3g}",
        expected="finite numbers",
        remedy=remedy,
    )


def _slices(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def _detect_flipped(
    model: DetSeg3D, detection_image: torch.Tensor, axes: Sequence[int], device: torch.device
) -> DetectorOutput:
    """Stage 1 of the scan flipped along ``axes``."""
    dims = [axis + 2 for axis in axes]
    with autocast(device):
        return model.detect(detection_image.flip(dims) if axes else detection_image)


def _add_dense(
    total: list[DenseLevel], levels: Sequence[DenseLevel], axes: Sequence[int], weight: float
) -> list[DenseLevel]:
    """``total`` and ``weight`` times the levels, flipped back; only the probabilities, on the CPU."""
    turned = [flip_dense(level, axes).probability.cpu() * weight for level in levels]
    none = torch.zeros(0)
    if not total:
        return [DenseLevel(probability, none, none) for probability in turned]
    return [
        DenseLevel(level.probability + probability, none, none)
        for level, probability in zip(total, turned, strict=True)
    ]


def _roi_features(
    model: DetSeg3D, output: DetectorOutput, axes: Sequence[int], device: torch.device
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Features for Stage 2 and context of the scan flipped along ``axes``; the features lie where the scan lies."""
    dims = [axis + 2 for axis in axes]
    with autocast(device):
        features = model.roi_features(output.features)
    return features if features is None or not axes else features.flip(dims), output.context


def _segment_flipped(
    model: DetSeg3D,
    crops: torch.Tensor,
    features: torch.Tensor | None,
    context: torch.Tensor | None,
    rois: npt.NDArray[Any],
    classes: torch.Tensor,
    axes: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of mask and score with the RoI flipped along ``axes`` and flipped back.

    ``features`` are those of the flipped scan, laid over the scan as it is, so that crops of both show the same place.
    """
    cropped = None if features is None else model.crop_features(features[0], rois)
    dims = [axis + 2 for axis in axes]
    if axes:
        crops = crops.flip(dims)
        cropped = None if cropped is None else cropped.flip(dims)
    result = model.segment(crops, cropped, classes, context)
    mask = result.mask.float().sigmoid()
    return mask.flip([axis + 1 for axis in axes]) if axes else mask, result.score.float().sigmoid()
