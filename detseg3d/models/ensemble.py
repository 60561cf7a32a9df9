"""The inference path: both stages on one volume, averaged over networks and mirrored copies.

:func:`detect` is the only way from an image to candidates and RoI masks. Validation during training,
``model(image, mode="test")``, prediction and consolidation all run it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from detseg3d.core.boxes import box_centers, box_sizes
from detseg3d.core.errors import DetSeg3DError
from detseg3d.core.log_odds import mean_by_log_odds
from detseg3d.models.merging.components import DenseComponents
from detseg3d.models.merging.decode import (
    DenseLevel,
    Detections,
    boxes_of_peaks,
    dense_levels,
    highest_probability,
    keep_best,
    suppression_of,
)
from detseg3d.models.merging.influence import Influence
from detseg3d.models.merging.paste import RoiPrediction, rois_of
from detseg3d.models.merging.scores import CandidateScores
from detseg3d.models.networks.detector import DetectorOutput
from detseg3d.models.two_stage import TwoStageNetwork
from detseg3d.planning.sections import InferencePlan
from detseg3d.system.device import autocast
from detseg3d.system.memory import require_memory

__all__ = [
    "DetectOptions",
    "GridImages",
    "MemberScores",
    "SegmentedRois",
    "TwoStageOutput",
    "average_dense",
    "detect",
    "flip_combinations",
    "flip_dense",
    "highest_near",
    "segment_rois",
]

# Trained weights hardly exceed 10, and normalised intensities of scans hardly exceed 100. Larger values explain why the
# output of a network is not finite.
_LARGE_WEIGHT = 1e4
_LARGE_INTENSITY = 1e4
# Largest size of the inputs of Stage 2 that are kept from the passes of Stage 1. The first pass is always kept. The
# estimate of the memory (detseg3d.inference.memory) has a margin for them.
_MAX_KEPT_BYTES = 128 << 20


@dataclass(frozen=True)
class DetectOptions:
    """Options with which both stages run on a volume.

    Attributes
    ----------
    inference : InferencePlan
        Detection threshold, suppression, limit of candidates and size of the RoI batches.
    mirror_axes : tuple of int
        Axes (0, 1, 2 for z, y, x) of the mirrored copies that are averaged in Stage 1. Empty: no mirrored copies.
    device : torch.device
        Device of the networks; the CPU by default.
    limit : int or None
        Largest number of candidates. By default the plan decides by the volume of the image.
    slabs : int
        Number of slabs in which Stage 1 runs; 1 for the whole volume. The networks must be able to run in slabs.
    reach : tuple of 3 floats, or None
        ``None``: Stage 2 outlines every candidate. Otherwise a single network leaves out the candidates that cannot
        influence the lesions (:mod:`detseg3d.models.merging.influence`). The three numbers are the size of a voxel of
        the output grid ``(z, y, x)``, in voxels of the fine grid.
    """

    inference: InferencePlan
    mirror_axes: tuple[int, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    limit: int | None = None
    slabs: int = 1
    reach: tuple[float, float, float] | None = None

    @property
    def roi_mirror_axes(self) -> tuple[int, ...]:
        """Axes of the mirrored copies that are averaged in Stage 2: the last of ``mirror_axes``.

        Two passes give almost the same masks as eight (docs/concepts/design.md).
        """
        return self.mirror_axes[-1:]


class GridImages(NamedTuple):
    """One volume on both grids.

    Attributes
    ----------
    fine : Tensor of float32, shape ``(C, Z, Y, X)``
        On the fine grid.
    detection : Tensor of float32, shape ``(1, C, z, y, x)``
        On the detection grid, padded to the total stride of the detector.
    """

    fine: torch.Tensor
    detection: torch.Tensor

    @classmethod
    def of(cls, model: TwoStageNetwork, image: torch.Tensor, device: torch.device) -> GridImages:
        """Resample a fine volume ``(C, Z, Y, X)`` to the detection grid of ``model``, on ``device``."""
        return cls(image, model.to_detection_grid(image[None]).to(device))


class DetectorAverage(NamedTuple):
    """Output of Stage 1, averaged over networks and mirrored copies.

    Attributes
    ----------
    levels : list of DenseLevel
        Finest level first.
    dense : Tensor of float32, shape ``(K, z, y, x)``, or None
        Probabilities of the dense map; ``None`` if the plan has no dense map.
    """

    levels: list[DenseLevel]
    dense: torch.Tensor | None


class RoiInputs(NamedTuple):
    """Output of one pass of Stage 1 that Stage 2 and the scores of single networks need.

    Attributes
    ----------
    features : Tensor, shape ``(1, F, z, y, x)``, or None
        Projected features, flipped back; ``None`` if the plan shares no features.
    context : Tensor or None
        Coarsest feature map of the flipped volume; ``None`` without context attention.
    probabilities : tuple of Tensor
        For several networks: the heatmap of each level, flipped back, on the CPU. Empty for a single network.
    """

    features: torch.Tensor | None
    context: torch.Tensor | None
    probabilities: tuple[torch.Tensor, ...] = ()

    @classmethod
    def of(
        cls,
        model: TwoStageNetwork,
        output: DetectorOutput,
        axes: Sequence[int],
        device: torch.device,
        levels: Sequence[DenseLevel] = (),
    ) -> RoiInputs:
        """Project the features of a pass on the volume flipped along ``axes``; keep the heatmaps of ``levels``."""
        with autocast(device):
            features = model.roi_features(output.features)
        if features is not None and axes:
            features = features.flip([axis + 2 for axis in axes])
        context = output.context if model.plans.stage2.context_attention else None
        return cls(features, context, tuple(level.probability.cpu() for level in levels))

    @property
    def size(self) -> int:
        """Number of bytes."""
        tensors = [tensor for tensor in (self.features, self.context, *self.probabilities) if tensor is not None]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass
class KeptPasses:
    """Inputs of Stage 2 from the passes of Stage 1, as many as the memory allows.

    Attributes
    ----------
    inputs : dict
        By the number of the network and the axes of the mirrored copy.
    size : int
        Number of bytes.
    """

    inputs: dict[tuple[int, tuple[int, ...]], RoiInputs] = field(default_factory=dict)
    size: int = 0

    def keep(self, network: int, axes: tuple[int, ...], inputs: RoiInputs) -> None:
        """Keep the inputs of one pass if the memory allows it."""
        if not self.inputs or self.size + inputs.size <= _MAX_KEPT_BYTES:
            self.inputs[network, axes] = inputs
            self.size += inputs.size

    def has_all(self, options: DetectOptions) -> bool:
        """Return whether Stage 2 of a single network needs no further pass of Stage 1."""
        return all((0, axes) in self.inputs for axes in flip_combinations(options.roi_mirror_axes))


@dataclass(frozen=True)
class MemberScores:
    """Scores that each of several networks gives to every candidate, averaged over its own mirrored copies.

    Attributes
    ----------
    detection : ndarray of float64, shape ``(M, N)``
        Highest probability of the candidate's class near its centre.
    roi : ndarray of float64, shape ``(M, N)``
        Best score of the candidate's RoIs.
    """

    detection: npt.NDArray[np.float64]
    roi: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SegmentedRois:
    """Averaged predictions of the RoIs of all candidates.

    Attributes
    ----------
    predictions : list of RoiPrediction
        On the fine grid, in the order of the candidates. A large candidate has several RoIs. A candidate that Stage 2
        left out has none.
    members : MemberScores or None
        Scores of each network; ``None`` for a single network.
    """

    predictions: list[RoiPrediction]
    members: MemberScores | None = None

    def select(self, candidates: npt.NDArray[np.int64]) -> SegmentedRois:
        """Return the RoIs of these candidates, which are numbered by their place in ``candidates``."""
        chosen = rois_of(candidates, self.predictions)
        members = self.members
        if members is not None:
            members = MemberScores(members.detection[:, candidates], members.roi[:, candidates])
        return SegmentedRois(chosen, members)


@dataclass(frozen=True)
class TwoStageOutput:
    """Output of both stages for one volume, before any score threshold.

    Attributes
    ----------
    candidates : Detections
        Boxes on the fine grid, best score first.
    rois : SegmentedRois
    highest_probability : float
        Highest probability of Stage 1 in the volume, even if it is below the detection threshold.
    """

    candidates: Detections
    rois: SegmentedRois
    highest_probability: float


@torch.no_grad()
def detect(models: Sequence[TwoStageNetwork], image: torch.Tensor, options: DetectOptions) -> TwoStageOutput:
    """Run both stages on one volume.

    Stage 1 is averaged before it is decoded, and the RoI masks of Stage 2 are averaged after that.

    Parameters
    ----------
    models : sequence of TwoStageNetwork
        Networks with equal plans, in evaluation mode, on ``options.device``.
    image : Tensor of float32, shape ``(C, Z, Y, X)``
        Normalised, on the fine grid.
    options : DetectOptions

    Returns
    -------
    TwoStageOutput

    Raises
    ------
    DetSeg3DError
        If an output is not finite, or if the masks do not fit into the memory.
    """
    model, inference = models[0], options.inference
    images = GridImages.of(model, image, options.device)
    kept_passes = KeptPasses()
    shape = image.shape[1:]
    average = average_dense(models, images.detection, options, kept_passes)
    highest = highest_probability(average.levels, model.cell_sizes, shape)
    peaks = boxes_of_peaks(average.levels, model.cell_sizes, shape, inference.candidate_threshold)
    dense = average.dense
    del average  # before the second reading needs the memory
    boxes = Detections.joined([peaks, _large_boxes(models, images, options)])
    limit = options.limit
    if limit is None:
        limit = inference.candidate_limit(math.prod(shape) * math.prod(model.plans.fine_spacing))
    candidates = keep_best(boxes, shape, suppression_of(inference, limit))
    components = DenseComponents.none()
    if dense is not None:
        components = model.dense_components(dense, shape, inference)
    both = Detections.joined([candidates, components.detections])
    rois = segment_rois(models, images, both, options, kept_passes)
    # Only boxes of lesions cover a component. On scans of another kind, heatmaps fail more often than the dense map, so
    # a component may still be a lesion if its box has a low score.
    is_lesion = CandidateScores.of(both, rois.predictions, inference).final >= inference.score_threshold
    is_lesion[len(candidates) :] = False
    is_kept = np.concatenate([np.ones(len(candidates), np.bool_), ~components.covered_by(both[is_lesion])])
    kept = np.flatnonzero(is_kept)
    best_first = kept[np.argsort(-both.scores[kept], kind="stable")[:limit]]
    highest = max([highest, *both.scores[best_first[:1]].tolist()])
    return TwoStageOutput(both[best_first], rois.select(best_first), highest)


def _large_boxes(models: Sequence[TwoStageNetwork], images: GridImages, options: DetectOptions) -> Detections:
    """Run Stage 1 on the volume at half resolution, and return the boxes above the size of the plan.

    At half resolution, the detector sees a lesion twice as large as those of the training in the usual size.
    """
    model, size = models[0], options.inference.coarse_reading_size
    factor = model.plans.stage1.coarse_factor
    if size is None or max(factor) == 1:
        return Detections.none()
    coarse = model.pad_to_stride(functional.avg_pool3d(images.detection, factor))
    cell_sizes = [[n * by for n, by in zip(cell, factor, strict=True)] for cell in model.cell_sizes]
    # The maps are smaller by the factor, so fewer slabs have the same size.
    slabs = math.ceil(options.slabs / math.prod(factor))
    levels = average_dense(models, coarse, replace(options, slabs=slabs)).levels
    peaks = boxes_of_peaks(levels, cell_sizes, images.fine.shape[1:], options.inference.candidate_threshold)
    edges = box_sizes(peaks.boxes) * np.asarray(model.plans.fine_spacing)
    return peaks[(edges > np.asarray(size)).any(axis=1)]


def flip_combinations(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return all subsets of ``axes``, the empty one first.

    Examples
    --------
    >>> flip_combinations((0, 2))
    [(), (0,), (2,), (0, 2)]
    """
    unique = sorted(set(axes))
    return [subset for count in range(len(unique) + 1) for subset in combinations(unique, count)]


def flip_dense(level: DenseLevel, axes: Sequence[int]) -> DenseLevel:
    """Flip the dense output of a flipped image back, and change the sign of the offsets.

    This is exact only if the image was padded to whole cells before it was flipped.

    Parameters
    ----------
    level : DenseLevel
        Output for the flipped image.
    axes : sequence of int
        Axes (0, 1, 2 for z, y, x) along which the image was flipped.

    Returns
    -------
    DenseLevel
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
    models: Sequence[TwoStageNetwork],
    image: torch.Tensor,
    options: DetectOptions,
    kept_passes: KeptPasses | None = None,
) -> DetectorAverage:
    """Average Stage 1 over mirrored copies and networks.

    Parameters
    ----------
    models : sequence of TwoStageNetwork
        Networks with equal plans, in evaluation mode, on ``options.device``.
    image : Tensor, shape ``(1, C, z, y, x)``
        On the detection grid, padded, on ``options.device``.
    options : DetectOptions
    kept_passes : KeptPasses, optional
        Receives the inputs of Stage 2 from the passes of the mirrored copies that Stage 2 averages.

    Returns
    -------
    DetectorAverage
        On the CPU.

    Raises
    ------
    DetSeg3DError
        If an output is not finite.
    """
    flips = flip_combinations(options.mirror_axes)
    weight = 1 / (len(flips) * len(models))
    total: list[DenseLevel] = []
    dense: torch.Tensor | None = None
    for number, model in enumerate(models):
        for axes in flips:
            output = _detect_flipped(model, image, axes, options)
            levels = [flip_dense(level, axes) for level in dense_levels(output.levels, 0)]
            if kept_passes is not None and axes in flip_combinations(options.roi_mirror_axes):
                members = levels if len(models) > 1 else []
                kept_passes.keep(number, axes, RoiInputs.of(model, output, axes, options.device, members))
            for index, level in enumerate(levels):
                if len(total) <= index:
                    total.append(
                        DenseLevel(
                            *(torch.zeros(part.shape) for part in (level.probability, level.log_size, level.offset))
                        )
                    )
                total[index].probability += weight * level.probability.cpu()
                total[index].log_size += weight * level.log_size.float().cpu()
                total[index].offset += weight * level.offset.float().cpu()
            if output.dense is not None:
                probability = output.dense[0].float().sigmoid().flip([axis + 1 for axis in axes]).cpu()
                dense = weight * probability if dense is None else dense + weight * probability
            del output  # before the next pass needs the memory
    for level in total:
        _check_finite((level.probability, level.log_size, level.offset), models, image, options.device)
    if dense is not None:
        _check_finite((dense,), models, image, options.device)
    return DetectorAverage(total, dense)


@torch.no_grad()
def segment_rois(
    models: Sequence[TwoStageNetwork],
    images: GridImages,
    candidates: Detections,
    options: DetectOptions,
    kept_passes: KeptPasses | None = None,
) -> SegmentedRois:
    """Run Stage 2 on the RoIs of all candidates, and average over mirrored copies and networks.

    Masks are averaged as probabilities. The scores of several networks are averaged on the scale of log-odds, because
    the calibration of several networks assumes this average (:mod:`detseg3d.evaluation.scores.ensemble_calibration`).

    The volume is flipped, and not its features: the features of a mirrored RoI come from Stage 1 on the mirrored
    volume. Features that are flipped after Stage 1 do not occur in training.

    Parameters
    ----------
    models : sequence of TwoStageNetwork
    images : GridImages
    candidates : Detections
        Boxes on the fine grid.
    options : DetectOptions
    kept_passes : KeptPasses, optional
        Inputs from passes of Stage 1. For other networks and mirrored copies, Stage 1 runs again.

    Returns
    -------
    SegmentedRois
        RoIs that lie outside the volume are left out, and RoIs without influence if ``options.reach`` is given.

    Raises
    ------
    DetSeg3DError
        If an output is not finite, or if the masks do not fit into the memory.
    """
    model, image = models[0], images.fine
    rois, parents = model.tiles(candidates.boxes)
    # A box as large as the volume may have RoIs that show nothing but its margin outside the volume.
    is_shown = np.all((rois[:, :3] < image.shape[1:]) & (rois[:, 3:] > 0), axis=1)
    tiles = _Tiles(candidates, rois[is_shown], parents[is_shown])
    if len(tiles.rois) == 0:
        return SegmentedRois([])
    require_memory(
        2 * len(tiles.rois) * math.prod(model.plans.roi.size),
        f"outlining {len(candidates)} candidates in {len(tiles.rois)} RoIs",
        remedy="raise --candidate_threshold, or use a machine with more memory",
    )
    kept = KeptPasses() if kept_passes is None else kept_passes
    # The calibration of several networks needs the scores of all candidates. If a pass of Stage 1 was not kept, every
    # round would run it again.
    if options.reach is None or len(models) > 1 or not kept.has_all(options):
        return _segment_tiles(models, images, tiles, options, lambda key: kept.inputs.pop(key, None))
    influence = Influence.of(candidates, tiles.rois, tiles.parents, options.reach, options.inference)
    is_outlined = np.zeros(len(candidates), np.bool_)
    predictions: list[RoiPrediction] = []
    chosen = influence.first()
    while len(chosen):
        is_outlined[chosen] = True
        part = tiles.select(chosen)
        predictions += _segment_tiles(models, images, part, options, kept.inputs.get).predictions
        chosen = influence.following(is_outlined, predictions)
    return SegmentedRois(sorted(predictions, key=lambda prediction: prediction.candidate))


class _Tiles(NamedTuple):
    """RoIs of candidates on the fine grid, shape ``(M, 6)``, and the index of the candidate of each RoI."""

    candidates: Detections
    rois: npt.NDArray[Any]
    parents: npt.NDArray[np.int64]

    def select(self, chosen: npt.NDArray[np.int64]) -> _Tiles:
        """Return the RoIs of these candidates."""
        is_chosen = np.isin(self.parents, chosen)
        return _Tiles(self.candidates, self.rois[is_chosen], self.parents[is_chosen])


def _segment_tiles(
    models: Sequence[TwoStageNetwork],
    images: GridImages,
    tiles: _Tiles,
    options: DetectOptions,
    kept_pass: Callable[[tuple[int, tuple[int, ...]]], RoiInputs | None],
) -> SegmentedRois:
    """Run Stage 2 on RoIs; ``kept_pass`` returns the inputs of a kept pass of Stage 1."""
    candidates, rois, parents = tiles
    image, device = images.fine, options.device
    flips = flip_combinations(options.roi_mirror_axes)
    probability = torch.zeros((len(rois), *models[0].plans.roi.size), dtype=torch.float16)
    scores = np.zeros((len(models), len(rois)))
    detection = np.zeros((len(models), len(candidates)))
    for number, model in enumerate(models):
        levels: list[torch.Tensor] = []
        for axes in flips:
            inputs = kept_pass((number, axes))
            if inputs is None:
                inputs = _roi_inputs(model, images.detection, axes, options, len(models) > 1)
            levels = levels or [torch.zeros_like(heatmap) for heatmap in inputs.probabilities]
            for total, heatmap in zip(levels, inputs.probabilities, strict=True):
                total += heatmap / len(flips)
            # The features are sampled in float32. To convert them for every batch would take longer than the sampling.
            features = None if inputs.features is None else inputs.features[0].float()
            for part in _slices(len(rois), options.inference.roi_batch_size):
                crops = model.crop_inputs(image, candidates.boxes[parents[part]], rois[part]).to(device)
                cropped = None
                if features is not None and inputs.features is not None:
                    cropped = model.crop_features(features, rois[part]).to(inputs.features.dtype)
                classes = torch.from_numpy(candidates.classes[parents[part]])
                with autocast(device):
                    mask, roi_score = _segment_flipped(model, crops, cropped, inputs.context, classes, axes)
                probability[part] += (mask / (len(flips) * len(models))).half().cpu()
                # The mps device has no float64, so the scores are converted on the CPU.
                scores[number, part] += roi_score.float().cpu().double().numpy() / len(flips)
            del inputs, features  # before the next pass needs the memory
        if len(models) > 1:
            detection[number] = highest_near(levels, model.cell_sizes, candidates)
    score = scores[0] if len(models) == 1 else mean_by_log_odds(scores)
    _check_finite((probability, torch.from_numpy(scores), torch.from_numpy(detection)), models, image, device)
    predictions = [RoiPrediction(roi, int(parents[i]), probability[i], float(score[i])) for i, roi in enumerate(rois)]
    if len(models) == 1:
        return SegmentedRois(predictions)
    best = np.zeros((len(models), len(candidates)))
    for number in range(len(models)):
        np.maximum.at(best[number], parents, scores[number])
    return SegmentedRois(predictions, MemberScores(detection, best))


def highest_near(
    levels: Sequence[torch.Tensor], cell_sizes: Sequence[Sequence[float]], candidates: Detections
) -> npt.NDArray[np.float64]:
    """Return the highest probability that one network gives to each candidate near its centre.

    Near means within a quarter of the candidate's size and at least within a cell and a half, because the peaks of
    several networks for one lesion seldom lie in the same cell.

    Parameters
    ----------
    levels : sequence of Tensor, each of shape ``(K, z, y, x)``
        Heatmaps of one network.
    cell_sizes : sequence of 3 floats
        Fine voxels per cell ``(z, y, x)`` of each level.
    candidates : Detections
        Boxes on the fine grid.

    Returns
    -------
    ndarray of float64, shape ``(N,)``
    """
    highest = np.zeros(len(candidates))
    centers, sizes = box_centers(candidates.boxes), box_sizes(candidates.boxes)
    for level, cell_size in zip(levels, cell_sizes, strict=True):
        shape = np.array(level.shape[1:])
        reach = np.maximum(sizes / 4 / np.asarray(cell_size), 1.5)
        # Cell i has its centre at i + 1/2.
        middle = centers / np.asarray(cell_size) - 0.5
        low = np.clip(np.ceil(middle - reach), 0, shape - 1).astype(int)
        high = np.clip(np.floor(middle + reach) + 1, low + 1, shape).astype(int)
        for index, class_index in enumerate(candidates.classes.tolist()):
            window = tuple(slice(a, b) for a, b in zip(low[index], high[index], strict=True))
            around = (class_index, *window)
            highest[index] = max(highest[index], float(level[around].max()))
    return highest


def _check_finite(
    outputs: Sequence[torch.Tensor], models: Sequence[TwoStageNetwork], image: torch.Tensor, device: torch.device
) -> None:
    """Raise an error if a network overflowed. NaN reaches no threshold, so the scan would pass for healthy."""
    if all(bool(torch.isfinite(output).all()) for output in outputs):
        return
    intensity = float(image.abs().max())
    modules = [model for model in models if isinstance(model, nn.Module)]  # exported networks show no weights
    weight = max((float(weights.abs().max()) for module in modules for weights in module.parameters()), default=0.0)
    if weight > _LARGE_WEIGHT:
        remedy = "train again or use another model, because the weights are too large"
    elif intensity > _LARGE_INTENSITY:
        remedy = "check the extreme intensities of the scan, and check that it is the right channel"
    else:
        remedy = "predict with -device cpu: neither the scan nor the weights are extreme"
    raise DetSeg3DError(
        "the network's output is not finite, so this scan cannot be predicted",
        value=f"{device.type} with {models[0].precision_on(device)}; largest intensity after normalisation "
        f"{intensity:.3g}, largest weight {weight:.3g}",
        expected="finite numbers",
        remedy=remedy,
    )


def _slices(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def _detect_flipped(
    model: TwoStageNetwork, detection_image: torch.Tensor, axes: Sequence[int], options: DetectOptions
) -> DetectorOutput:
    """Run Stage 1 on the volume flipped along ``axes``."""
    image = detection_image.flip([axis + 2 for axis in axes]) if axes else detection_image
    with autocast(options.device):
        return model.detect(image) if options.slabs == 1 else model.detect_in_slabs(image, options.slabs)


def _roi_inputs(
    model: TwoStageNetwork, image: torch.Tensor, axes: tuple[int, ...], options: DetectOptions, with_probabilities: bool
) -> RoiInputs:
    """Run Stage 1 on the volume flipped along ``axes``, and return the inputs of Stage 2."""
    output = _detect_flipped(model, image, axes, options)
    levels = [flip_dense(level, axes) for level in dense_levels(output.levels, 0)] if with_probabilities else []
    return RoiInputs.of(model, output, axes, options.device, levels)


def _segment_flipped(
    model: TwoStageNetwork,
    crops: torch.Tensor,
    features: torch.Tensor | None,
    context: torch.Tensor | None,
    classes: torch.Tensor,
    axes: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Segment RoIs flipped along ``axes``; return the probabilities of masks, flipped back, and of the scores.

    The features were computed from the flipped volume and flipped back, so crops of both show the same place.
    """
    dims = [axis + 2 for axis in axes]
    if axes:
        crops = crops.flip(dims)
        features = None if features is None else features.flip(dims)
    result = model.segment(crops, features, classes, context)
    mask = result.mask.float().sigmoid()
    return mask.flip([axis + 1 for axis in axes]) if axes else mask, result.score.float().sigmoid()
