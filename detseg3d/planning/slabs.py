"""Number and memory of the slabs in which Stage 1 predicts a volume that is too large for the memory.

:mod:`detseg3d.models.networks.slabs` runs the network in slabs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from detseg3d.planning.memory import (
    BYTES_PER_OUTPUT_INFERENCE,
    IMAGE_BYTES,
    LABEL_BYTES,
    NetworkPlan,
    Region,
    detection_cells,
    outputs_per_cell,
)
from detseg3d.planning.sections import Stage1Plan

__all__ = ["WHOLE", "Passes", "max_slabs", "slab_inference_bytes", "slabs_of_stages"]

# Maps of a slab that exist at the same time: input of the layer, its skipped input, output of the convolution, a copy
# with the statistics, and the normalised output.
_MAPS_OF_A_SLAB = 5
# Maps that exist at the same time if a layer runs on the whole map.
_MAPS_OF_A_LAYER = 4


def max_slabs(plan: Stage1Plan, shape: tuple[int, ...]) -> int:
    """Return the largest number of slabs of a volume: no slab is thinner than a cell of the coarsest stage.

    Parameters
    ----------
    plan : Stage1Plan
    shape : tuple of 3 ints
        ``(z, y, x)`` in detection voxels.
    """
    axis = max(range(3), key=lambda axis: shape[axis])
    return max(1, math.ceil(shape[axis] / plan.cumulative_stride(len(plan.strides) - 1)[axis]))


def slabs_of_stages(plan: Stage1Plan, slabs: int) -> list[int]:
    """Return the number of slabs of each backbone stage, in proportion to the size of its maps.

    Parameters
    ----------
    plan : Stage1Plan
    slabs : int
        Number of slabs of the largest map.

    Examples
    --------
    >>> plan = Stage1Plan(channels=(8, 32, 64), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), kernels=((3, 3, 3),) * 3,
    ...                   blocks=(1, 1, 1), fpn_channels=32, head_stages=(1, 2), level_max_sizes=((9.0, 9.0, 9.0),))
    >>> slabs_of_stages(plan, 4)
    [4, 2, 1]
    """
    sizes = []
    for stage, channels in enumerate(plan.channels):
        width = max(channels, plan.fpn_channels) if stage >= plan.head_stages[0] else channels
        sizes.append(width / math.prod(plan.cumulative_stride(stage)))
    return [max(1, math.ceil(slabs * size / max(sizes) - 1e-9)) for size in sizes]


@dataclass(frozen=True)
class Passes:
    """How often Stage 1 runs on a volume.

    Attributes
    ----------
    slabs : int
        Number of slabs of the largest map; 1 for whole maps.
    several : bool
        True for several networks or mirrored copies. The features of an earlier pass and a mirrored image are then held
        during a pass.
    """

    slabs: int = 1
    several: bool = True


WHOLE = Passes()


def slab_inference_bytes(network: NetworkPlan, region: Region, passes: Passes) -> float:
    """Return the peak memory in bytes of whole-volume inference in slabs, above the input array, without libraries.

    As wholes, the prediction holds the image on both grids, two feature maps of the finest level of the pyramid, and
    the coarser maps. Only parts of other maps exist.

    Parameters
    ----------
    network : NetworkPlan
    region : Region
    passes : Passes
        At least 2 slabs.

    Returns
    -------
    float
    """
    stage1, size = network.stage1, network.precision.bytes_per_value
    cells = detection_cells(stage1, region.shape)
    finest = stage1.head_stages[0]
    counts = slabs_of_stages(stage1, passes.slabs)
    maps = [n * channels for n, channels in zip(cells, stage1.channels, strict=True)]
    merged = [n * stage1.fpn_channels for n in cells]
    stages = len(maps)
    # The first layers hold the first map only in part if no head reads it.
    first = min(finest, 1)
    peaks = [maps[first] + _transient(network, region, 0, maps[0], counts[0])]
    for stage in range(first, stages):
        kept = sum(maps[finest:stage]) if stage > finest else 0
        peaks.append(kept + 2 * maps[stage] + _transient(network, region, stage, maps[stage], counts[stage]))
    for stage in range(finest, stages):
        coarser = merged[stage + 1] if stage + 1 < stages else 0
        held = sum(maps[finest:]) + merged[stage] + coarser
        peaks.append(held + _transient(network, region, stage, merged[stage], counts[stage]))
    outputs = sum(cells[stage] for stage in stage1.head_stages) * outputs_per_cell(stage1, network.num_classes)
    outputs += cells[stage1.head_stages[stage1.dense_level]] * network.num_classes if stage1.dense_channels else 0
    outputs *= BYTES_PER_OUTPUT_INFERENCE
    images = cells[0] * math.prod(stage1.strides[0]) * network.num_channels * IMAGE_BYTES
    features = cells[finest] * network.stage2.feature_channels * size
    detection = images + max(peaks) * size + (images + features if passes.several else 0)
    merging = images + features + region.fine_voxels * LABEL_BYTES
    return region.fine_voxels * network.num_channels * IMAGE_BYTES + outputs + max(detection, merging)


def _transient(network: NetworkPlan, region: Region, stage: int, values: float, count: int) -> float:
    """Return the values of the maps that exist while a stage runs, besides the maps that are held as wholes."""
    if count == 1:
        return _MAPS_OF_A_LAYER * values
    stage1 = network.stage1
    axis = max(range(3), key=lambda axis: region.shape[axis])
    stride, coarsest = (stage1.cumulative_stride(index)[axis] for index in (stage, len(stage1.strides) - 1))
    length = math.ceil(region.shape[axis] / coarsest) * coarsest // stride
    # All convolutions of the first stage run together, and the layer behind them. Other layers run one by one.
    convolutions = 2 + 2 * stage1.blocks[0] if stage == 0 else 2
    thickness = min(length, math.ceil(length / count) + 2 * (convolutions + 1))
    return _MAPS_OF_A_SLAB * values * thickness / length
