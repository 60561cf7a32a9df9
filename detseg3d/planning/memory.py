"""Estimate the memory that a plan needs, mainly by adding up the feature maps of Stage 1.

Feature maps dominate the memory of a network that sees whole volumes. The parameters (a few million) hardly matter. The
constants below were calibrated against measured peaks; ``benchmarks/memory.py`` measures them again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from detseg3d.core.precision import Precision
from detseg3d.planning.plans import Plans
from detseg3d.planning.rules.rois import rois_of_window
from detseg3d.planning.sections import RoiPlan, Stage1Plan, Stage2Plan, TrainingPlan

__all__ = [
    "GIGABYTE",
    "INFERENCE_GB",
    "NetworkPlan",
    "Region",
    "detection_cells",
    "inference_bytes",
    "inference_limit_gb",
    "planned_training_bytes",
    "roi_bytes",
    "saved_values",
    "stage2_inference_bytes",
    "training_bytes",
]


GIGABYTE = 1e9


# Feature maps that autograd keeps for each convolution with norm and activation: input of the norm, and output.
MAPS_PER_CONV = 2


# Further maps of the widest layer at the peak: gradients, and norms and sums that are being computed.
TRANSIENT_MAPS_TRAINING = 3


TRANSIENT_MAPS_INFERENCE = 3


MAPS_STAGE2_INFERENCE = 6


# Overhead of the allocator (holes between blocks) and of the kernels (buffers), as a fraction of the maps, limited to
# MAX_OVERHEAD bytes.
OVERHEAD_FRACTION = 0.4


MAX_OVERHEAD = 0.2e9


# Bytes of logits, targets and losses in float32: for each probability of a cell, and for each value of its boxes, which
# are learned in few cells.
BYTES_PER_PROBABILITY_TRAINING = 74


BYTES_PER_BOX_VALUE_TRAINING = 6


BYTES_PER_OUTPUT_INFERENCE = 8


# Bytes per voxel of the fine grid: float32 image per channel, instance map and other maps of the truth or the result.
IMAGE_BYTES = 4


LABEL_BYTES = 6


# Interpreter and libraries (0.4 GB), parameters with their average, gradients and the state of the optimisers.
BASE_TRAINING = 0.55e9


# Each stage has a peak of memory. This fraction of the smaller peak is still in use at the larger peak.
KEPT_OF_THE_OTHER_STAGE = 0.5


BASE_INFERENCE = 0.02e9


# Stage 2 keeps some maps in float32 in every precision.
BYTES_OF_A_HALF_MAP_STAGE2 = 3


# Memory budget of whole-volume inference, not counting the input. The network may always use _FOR_THE_GRID_GB, even if
# image and masks of a large volume leave less of the budget.
INFERENCE_GB = 2.0


_FOR_THE_GRID_GB = 1.0


@dataclass(frozen=True)
class NetworkPlan:
    """Everything that the memory of a network depends on.

    Attributes
    ----------
    stage1 : Stage1Plan
    stage2 : Stage2Plan
    roi : RoiPlan
    num_channels : int
        Image channels.
    num_classes : int
        Lesion classes, without the background.
    precision : Precision
        Precision of the feature maps, never ``AUTO``.
    """

    stage1: Stage1Plan
    stage2: Stage2Plan
    roi: RoiPlan
    num_channels: int
    num_classes: int
    precision: Precision

    @classmethod
    def of(cls, plans: Plans, precision: Precision) -> NetworkPlan:
        """Return the network of ``plans`` with feature maps in ``precision``."""
        return cls(plans.stage1, plans.stage2, plans.roi, plans.num_channels, plans.num_classes, precision)


@dataclass(frozen=True)
class Region:
    """The part of a scan that a network processes in one pass: a window or a whole volume.

    Attributes
    ----------
    shape : sequence of 3 ints
        ``(z, y, x)`` in *detection* voxels.
    fine_voxels : float
        Number of voxels of this part on the fine grid.
    """

    shape: Sequence[int]
    fine_voxels: float


def detection_cells(plan: Stage1Plan, shape: Sequence[int]) -> list[int]:
    """Return the number of cells of each backbone stage, with the padding to the total stride.

    Parameters
    ----------
    plan : Stage1Plan
    shape : 3 ints
        Detection voxels.

    Returns
    -------
    list of int
        One number for each stage, finest first.

    Examples
    --------
    >>> plan = Stage1Plan(channels=(8, 16), strides=((2, 2, 2),) * 2, kernels=((3, 3, 3),) * 2, blocks=(1, 1),
    ...                   fpn_channels=8, head_stages=(0,), level_max_sizes=())
    >>> detection_cells(plan, (8, 8, 7))
    [64, 8]
    """
    total = plan.cumulative_stride(len(plan.strides) - 1)
    padded = [math.ceil(n / stride) * stride for n, stride in zip(shape, total, strict=True)]
    cells = []
    for stage in range(len(plan.strides)):
        stride = plan.cumulative_stride(stage)
        cells.append(math.prod(n // s for n, s in zip(padded, stride, strict=True)))
    return cells


def _detection_input_bytes(network: NetworkPlan, cells: Sequence[int]) -> float:
    """Return the bytes of the image on the detection grid in float32, and of its copy in the compute type."""
    voxels = cells[0] * math.prod(network.stage1.strides[0])
    return voxels * network.num_channels * (IMAGE_BYTES + network.precision.bytes_per_value)


def saved_values(plan: Stage1Plan, cells: Sequence[int]) -> float:
    """Count the values of the feature maps that Stage 1 keeps for the backward pass of one volume.

    The count differs from the values that autograd saves by less than 1 %, without the copies of the weights.
    """
    values = 0.0
    for count, channels, blocks in zip(cells, plan.channels, plan.blocks, strict=True):
        values += count * channels * MAPS_PER_CONV * (1 + 2 * blocks)
    for stage in plan.head_stages:
        # The merged map, the smoothing and the tower of the head.
        values += cells[stage] * plan.fpn_channels * (1 + 2 * MAPS_PER_CONV)
    return values + _dense_cells(plan, cells) * plan.dense_channels * MAPS_PER_CONV


def _dense_cells(plan: Stage1Plan, cells: Sequence[int]) -> int:
    """Return the number of cells of the dense map; 0 if the plan has no dense map."""
    return cells[plan.head_stages[plan.dense_level]] if plan.dense_channels else 0


def outputs_per_cell(stage1: Stage1Plan, num_classes: int) -> int:
    """Return the number of outputs of a head in a cell: a probability for each class, and six values for each box.

    Examples
    --------
    >>> plan = Stage1Plan(channels=(8,), strides=((2, 2, 2),), kernels=((3, 3, 3),), blocks=(1,), fpn_channels=8,
    ...                   head_stages=(0,), level_max_sizes=())
    >>> outputs_per_cell(plan, 3), outputs_per_cell(plan.model_copy(update={"boxes_per_class": True}), 3)
    (9, 21)
    """
    return num_classes + 6 * (num_classes if stage1.boxes_per_class else 1)


def training_bytes(network: NetworkPlan, region: Region, rois: int, batch_size: int = 1) -> float:
    """Return the peak memory of a training step in bytes.

    Parameters
    ----------
    network : NetworkPlan
    region : Region
    rois : int
        RoIs of each volume.
    batch_size : int, optional
        Volumes that are processed together: 1 for whole volumes, the batch size of the plan for windows.

    Returns
    -------
    float
    """
    stage1, size = network.stage1, network.precision.bytes_per_value
    cells = detection_cells(stage1, region.shape)
    finest = stage1.head_stages[0]
    values = saved_values(stage1, cells)
    classes = network.num_classes
    outputs = sum(cells[stage] for stage in stage1.head_stages) * (
        classes * BYTES_PER_PROBABILITY_TRAINING
        + (outputs_per_cell(stage1, classes) - classes) * BYTES_PER_BOX_VALUE_TRAINING
    )
    outputs += _dense_cells(stage1, cells) * classes * BYTES_PER_PROBABILITY_TRAINING
    widest = max(cells[0] * stage1.channels[0], cells[finest] * stage1.fpn_channels)
    values += TRANSIENT_MAPS_TRAINING * widest
    maps = values * size + rois * roi_bytes(network.stage2, network.roi.size, network.precision)
    per_volume = (
        maps
        + outputs
        + _detection_input_bytes(network, cells)
        + region.fine_voxels * (network.num_channels * IMAGE_BYTES + LABEL_BYTES)
    )
    return BASE_TRAINING + min(OVERHEAD_FRACTION * batch_size * maps, MAX_OVERHEAD) + batch_size * per_volume


def planned_training_bytes(
    network: NetworkPlan, training: TrainingPlan, largest: Sequence[int], scale: Sequence[float]
) -> float:
    """Return the peak memory of a training in bytes, over all its phases.

    Parameters
    ----------
    network : NetworkPlan
    training : TrainingPlan
    largest : sequence of 3 ints
        Planned volume, ``(z, y, x)`` in fine voxels.
    scale : sequence of 3 floats
        Fine voxels per detection voxel.

    Returns
    -------
    float
    """
    needs = []
    for phase in training.curriculum:
        window = phase.window or largest
        region = Region([math.ceil(n / s - 1e-6) for n, s in zip(window, scale, strict=True)], math.prod(window))
        rois = rois_of_window(training, network.roi.size, region.fine_voxels / math.prod(scale))
        # Windows of equal shape are processed as one batch, whole volumes one by one.
        needs.append(training_bytes(network, region, rois, 1 if phase.window is None else training.batch_size))
    return max(needs)


def roi_bytes(stage2: Stage2Plan, size: Sequence[int], precision: Precision) -> float:
    """Return the bytes that Stage 2 keeps for the backward pass of one RoI, correct within 10 %."""
    bytes_per_value = precision.bytes_per_value
    samples, current = [math.prod(size)], list(size)
    for stride in stage2.strides:
        current = [n // s for n, s in zip(current, stride, strict=True)]
        samples.append(math.prod(current))
    last = len(samples) - 1
    # Encoder (without a residual block at the finest scale) and decoder: input, convolution, and about one more map for
    # crops, logits and other values. Tests compare the sum with the bytes that autograd saves.
    values = 0.0
    for scale, (count, channels) in enumerate(zip(samples, stage2.channels, strict=True)):
        maps = MAPS_PER_CONV if scale == 0 else 3 * MAPS_PER_CONV
        values += count * channels * (maps + (0 if scale == last else 2 + MAPS_PER_CONV))
    # Pooling keeps its output and its indices, which have 8 bytes each.
    for count, channels in zip(samples[1:], stage2.channels, strict=False):
        values += count * channels * (1 + 8 / bytes_per_value)
    values += samples[1] * stage2.feature_channels
    # The RoI score reads the finest features in float32.
    return values * bytes_per_value + samples[0] * stage2.channels[0] * 4


def inference_bytes(network: NetworkPlan, region: Region) -> float:
    """Return the peak memory in bytes of whole-volume inference above the input array, without libraries.

    The peak is at one of three moments: at the finest backbone stage, at the finest level of the pyramid (while the
    maps of the backbone are kept), or when RoIs are merged on the fine grid (while only the features for Stage 2
    are kept).
    """
    stage1, bytes_per_value, fine_voxels = network.stage1, network.precision.bytes_per_value, region.fine_voxels
    cells = detection_cells(stage1, region.shape)
    finest = stage1.head_stages[0]
    kept = sum(n * channels for n, channels in list(zip(cells, stage1.channels, strict=True))[finest:])
    backbone = (1 + TRANSIENT_MAPS_INFERENCE) * cells[0] * stage1.channels[0]
    pyramid = kept + (1 + TRANSIENT_MAPS_INFERENCE) * cells[finest] * stage1.fpn_channels
    outputs = sum(cells[stage] for stage in stage1.head_stages) * outputs_per_cell(stage1, network.num_classes)
    outputs += _dense_cells(stage1, cells) * network.num_classes
    outputs *= BYTES_PER_OUTPUT_INFERENCE
    detection = max(backbone, pyramid) * bytes_per_value + _detection_input_bytes(network, cells)
    merging = cells[finest] * stage1.fpn_channels * bytes_per_value + fine_voxels * LABEL_BYTES
    return fine_voxels * network.num_channels * IMAGE_BYTES + outputs + max(detection, merging)


def inference_limit_gb(fine_voxels: float, num_channels: int, inference_gb: float = INFERENCE_GB) -> float:
    """Return the memory in GB that whole-volume inference may use above the input array.

    This limits how fine the detection grid can be. The limit is ``inference_gb``, but at least 1 GB more than image and
    masks on the fine grid. The memory of image and masks does not depend on the detection grid.

    Examples
    --------
    >>> inference_limit_gb(300 * 512 * 512, 1), round(inference_limit_gb(1000 * 512 * 512, 1), 2)
    (2.0, 3.62)
    """
    fixed = fine_voxels * (num_channels * IMAGE_BYTES + LABEL_BYTES) / GIGABYTE
    return max(inference_gb, fixed + _FOR_THE_GRID_GB)


def stage2_inference_bytes(
    stage2: Stage2Plan, size: Sequence[int], batch: int, candidates: int, precision: Precision
) -> tuple[float, float]:
    """Return the memory in bytes of Stage 2 during prediction: its feature maps, and the masks of all candidates.

    Six maps of the finest scale exist at the same time (measured: 5.3 to 6.4 for RoIs of 24³ to 64³ in float32). In
    half precision some of them are still float32, so that a map has 3 bytes per value on average. The masks are kept in
    the main memory in half precision, one mask for each candidate.

    Parameters
    ----------
    stage2 : Stage2Plan
    size : 3 ints
        Samples of an RoI.
    batch : int
        RoIs that are processed together.
    candidates : int
    precision : Precision
        Precision of the feature maps.

    Returns
    -------
    2 floats
        Bytes of the feature maps, and bytes of the masks.
    """
    samples = math.prod(size)
    size_of_value = precision.bytes_per_value if precision is Precision.FP32 else BYTES_OF_A_HALF_MAP_STAGE2
    maps = batch * MAPS_STAGE2_INFERENCE * samples * stage2.channels[0] * size_of_value
    return maps, candidates * samples * 2
