"""How much memory a plan needs: the feature maps of Stage 1, added up.

Feature maps rule the memory of a network that sees whole volumes; parameters (a few million) do not count. The
constants below are what calibration against measured peaks may change; benchmarks/memory.py measures them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from detseg3d.planning.plans import RoiPlan, Stage1Plan, Stage2Plan

__all__ = [
    "BYTES_PER_VALUE",
    "GIGABYTE",
    "INFERENCE_GB",
    "detection_cells",
    "inference_bytes",
    "inference_limit_gb",
    "measuring_bytes",
    "preprocessing_bytes",
    "roi_bytes",
    "saved_values",
    "stage2_inference_bytes",
    "training_bytes",
]

GIGABYTE = 1e9

# Feature maps are bfloat16 (float16 on older GPUs).
BYTES_PER_VALUE = 2
# What autograd keeps per convolution with norm and activation: the norm's input and the activated output.
MAPS_PER_CONV = 2
# Gradients, and norms and sums on their way, alive at the peak: so many maps of the widest place.
TRANSIENT_MAPS_TRAINING = 3
TRANSIENT_MAPS_INFERENCE = 3
MAPS_STAGE2_INFERENCE = 6
# Logits, targets and the float32 copies of the losses, per output channel of a cell.
BYTES_PER_OUTPUT_TRAINING = 16
BYTES_PER_OUTPUT_INFERENCE = 8
# RoIs per volume: the plan's share of truth boxes, proposals, hard negatives and background together.
STAGE2_ROIS_FACTOR = 1.0
# Bytes per voxel of the fine grid: float32 image per channel, instance map and other maps of the truth or the result.
IMAGE_BYTES = 4
LABEL_BYTES = 6
# Interpreter, libraries, parameters with optimiser state and gradients.
BASE_TRAINING = 0.6e9
# Whole-volume inference stays within this, above the input; of a volume that takes most of it itself, the network may
# take so much all the same.
INFERENCE_GB = 2.0
_FOR_THE_GRID_GB = 1.0


def detection_cells(plan: Stage1Plan, shape: Sequence[int]) -> list[int]:
    """Cells of each backbone stage for a volume of ``shape`` detection voxels, padded to the total stride.

    Examples
    --------
    >>> plan = Stage1Plan(channels=(8, 16), strides=((2, 2, 2),) * 2, kernels=((3, 3, 3),) * 2, blocks=(1, 1),
    ...                   fpn_channels=8, head_stages=(0,), level_upper_sizes=())
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


def _detection_input_bytes(plan: Stage1Plan, cells: Sequence[int], num_channels: int) -> float:
    """The image on the detection grid: float32, and its copy in the compute type."""
    voxels = cells[0] * math.prod(plan.strides[0])
    return voxels * num_channels * (IMAGE_BYTES + BYTES_PER_VALUE)


def saved_values(plan: Stage1Plan, cells: Sequence[int]) -> float:
    """Values of the feature maps that Stage 1 keeps for the backward pass of one volume.

    Agrees with what autograd saves to better than 1 %, the copies of the weights apart.
    """
    values = 0.0
    for count, channels, blocks in zip(cells, plan.channels, plan.blocks, strict=True):
        values += count * channels * MAPS_PER_CONV * (1 + 2 * blocks)
    for stage in plan.head_stages:
        # The merged map, then smoothing and, if there is one, tower.
        values += cells[stage] * plan.fpn_channels * (1 + (1 + plan.towers) * MAPS_PER_CONV)
    return values


def training_bytes(
    stage1: Stage1Plan,
    stage2: Stage2Plan,
    roi: RoiPlan,
    shape: Sequence[int],
    fine_voxels: float,
    num_channels: int,
    num_classes: int,
    rois: int,
    batch_size: int = 1,
) -> float:
    """Peak memory of a training step, in bytes.

    Parameters
    ----------
    stage1, stage2, roi : plans
    shape : 3 ints
        Volume or window, in *detection* voxels.
    fine_voxels : float
        Its voxels on the fine grid.
    num_channels, num_classes : int
    rois : int
        RoIs per volume.
    batch_size : int, optional
        Volumes that run together: 1 for whole volumes, the plan's batch size for windows.
    """
    cells = detection_cells(stage1, shape)
    finest = stage1.head_stages[0]
    values = saved_values(stage1, cells)
    outputs = sum(cells[stage] for stage in stage1.head_stages) * (num_classes + 6)
    widest = max(cells[0] * stage1.channels[0], cells[finest] * stage1.fpn_channels)
    values += TRANSIENT_MAPS_TRAINING * widest
    per_volume = (
        values * BYTES_PER_VALUE
        + outputs * BYTES_PER_OUTPUT_TRAINING
        + _detection_input_bytes(stage1, cells, num_channels)
        + fine_voxels * (num_channels * IMAGE_BYTES + LABEL_BYTES)
        + rois * STAGE2_ROIS_FACTOR * roi_bytes(stage2, roi.size)
    )
    return BASE_TRAINING + batch_size * per_volume


def roi_bytes(stage2: Stage2Plan, size: Sequence[int]) -> float:
    """Bytes that Stage 2 keeps for the backward pass of one RoI; within 10 % of what autograd saves."""
    samples, current = [math.prod(size)], list(size)
    for stride in stage2.strides:
        current = [n // s for n, s in zip(current, stride, strict=True)]
        samples.append(math.prod(current))
    last = len(samples) - 1
    # Encoder (the finest scale has no residual block) and decoder: input, convolution, and about a map more for
    # crops, logits and the rest; tests compare the sum with what autograd saves.
    values = 0.0
    for scale, (count, channels) in enumerate(zip(samples, stage2.channels, strict=True)):
        maps = MAPS_PER_CONV if scale == 0 else 3 * MAPS_PER_CONV
        values += count * channels * (maps + (0 if scale == last else 2 + MAPS_PER_CONV))
    # Pooling keeps its output and its indices, which have 8 bytes each.
    for count, channels in zip(samples[1:], stage2.channels, strict=False):
        values += count * channels * (1 + 8 / BYTES_PER_VALUE)
    values += samples[1] * stage2.feature_channels
    # The score looks at the finest features in float32.
    return values * BYTES_PER_VALUE + samples[0] * stage2.channels[0] * 4


def inference_bytes(
    stage1: Stage1Plan,
    shape: Sequence[int],
    fine_voxels: float,
    num_channels: int,
    num_classes: int,
    bytes_per_value: int = BYTES_PER_VALUE,
) -> float:
    """Peak memory of whole-volume inference above the input array, in bytes (libraries not counted).

    Three moments compete: the finest backbone stage, the finest level of the pyramid (when the backbone's maps are
    kept), and the merging of RoIs on the fine grid (when only the features for Stage 2 are).
    """
    cells = detection_cells(stage1, shape)
    finest = stage1.head_stages[0]
    kept = sum(n * channels for n, channels in list(zip(cells, stage1.channels, strict=True))[finest:])
    backbone = (1 + TRANSIENT_MAPS_INFERENCE) * cells[0] * stage1.channels[0]
    pyramid = kept + (1 + TRANSIENT_MAPS_INFERENCE) * cells[finest] * stage1.fpn_channels
    outputs = sum(cells[stage] for stage in stage1.head_stages) * (num_classes + 6) * BYTES_PER_OUTPUT_INFERENCE
    detection = max(backbone, pyramid) * bytes_per_value + _detection_input_bytes(stage1, cells, num_channels)
    merging = cells[finest] * stage1.fpn_channels * bytes_per_value + fine_voxels * LABEL_BYTES
    return fine_voxels * num_channels * IMAGE_BYTES + outputs + max(detection, merging)


def inference_limit_gb(fine_voxels: float, num_channels: int, inference_gb: float = INFERENCE_GB) -> float:
    """What whole-volume inference may take above the input array, GB: what decides how fine the detection grid may be.

    ``inference_gb``; but at least 1 GB more than image and masks on the fine grid, which no detection grid makes less.

    Examples
    --------
    >>> inference_limit_gb(300 * 512 * 512, 1), round(inference_limit_gb(1000 * 512 * 512, 1), 2)
    (2.0, 3.62)
    """
    fixed = fine_voxels * (num_channels * IMAGE_BYTES + LABEL_BYTES) / GIGABYTE
    return max(inference_gb, fixed + _FOR_THE_GRID_GB)


def stage2_inference_bytes(
    stage2: Stage2Plan, size: Sequence[int], batch: int, candidates: int, bytes_per_value: int = BYTES_PER_VALUE
) -> tuple[float, float]:
    """Memory of Stage 2 when it predicts, in bytes: its maps, and the masks that it leaves.

    Maps: six of the finest scale are alive at once, measured 5.3 to 6.4 for RoIs of 24³ to 64³ (float32). The masks lie
    in the machine's memory, in half precision, one for each candidate.

    Parameters
    ----------
    stage2 : Stage2Plan
    size : 3 ints
        Samples of an RoI.
    batch : int
        RoIs at a time.
    candidates : int
    bytes_per_value : int, optional
        Of a feature map.
    """
    samples = math.prod(size)
    return batch * MAPS_STAGE2_INFERENCE * samples * stage2.channels[0] * bytes_per_value, candidates * samples * 2


def measuring_bytes(shape: Sequence[int], num_channels: int) -> float:
    """Peak memory of reading a case with its truth and measuring it, in bytes.

    Measured above the image and the instance map: 9 bytes a voxel, whatever the number of channels.
    """
    return math.prod(shape) * (num_channels * IMAGE_BYTES + 4 + 9)


def preprocessing_bytes(fine_shape: Sequence[int], num_channels: int) -> float:
    """Peak memory of resampling a case and storing it, above the case as it was read, in bytes.

    Measured: 5 to 7 bytes a fine voxel for one channel, 9 for two, and the store's half-precision copy.
    """
    return math.prod(fine_shape) * (num_channels * (IMAGE_BYTES + 2) + LABEL_BYTES)
