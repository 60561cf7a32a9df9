"""Memory that the prediction of one scan takes."""

from __future__ import annotations

import math

import torch

from detseg3d.core.precision import Precision
from detseg3d.planning.memory import (
    BASE_INFERENCE,
    IMAGE_BYTES,
    KEPT_OF_THE_OTHER_STAGE,
    LABEL_BYTES,
    NetworkPlan,
    Region,
    inference_bytes,
    stage2_inference_bytes,
)
from detseg3d.planning.plans import Plans
from detseg3d.planning.sections import InferencePlan
from detseg3d.planning.slabs import WHOLE, Passes, max_slabs, slab_inference_bytes
from detseg3d.preprocessing.case import CaseTransform
from detseg3d.system.device import precision_in_use

__all__ = ["network_bytes", "prediction_bytes", "slabs_that_fit"]

# For scans 7 and 17 times as large as planned, the measured peak was 1.03 and 0.93 of the formula (float32, one CPU
# core).
_MARGIN = 1.1


# Copies of the image while it is normalised and resampled, and masks of the body. With slabs, networks may need less
# than these.
_IMAGES_WHILE_RESAMPLING = 2
_BODY_BYTES = 3


def prediction_bytes(
    plans: Plans,
    transform: CaseTransform,
    device: torch.device,
    inference: InferencePlan | None = None,
    passes: Passes = WHOLE,
    precision: Precision | None = None,
) -> float:
    """Estimate the peak memory of predicting a scan, in bytes, not counting the scan itself.

    This is main memory, not memory of an accelerator. The estimate assumes as many candidates as the plan allows, so
    most scans need less.

    Parameters
    ----------
    plans : Plans
    transform : CaseTransform
        Grids of the scan, which may be far larger than the training scans.
    device : torch.device
        An accelerator holds the feature maps in its own memory, and raises an error if that memory is exhausted.
    inference : InferencePlan, optional
        Section that decides the limit of candidates; by default the section of ``plans``.
    passes : Passes
        Number of slabs in which Stage 1 runs; by default 1.
    precision : Precision, optional
        Precision of the feature maps; by default that of PyTorch on ``device``.

    Returns
    -------
    float
    """
    fine, original = math.prod(transform.fine_shape), math.prod(transform.original_shape)
    # Masks are made on the grid of the scan, which may be larger or smaller than the fine grid.
    masks = (original - fine) * LABEL_BYTES
    precision = precision or precision_in_use(device)
    candidates = (inference or plans.inference).candidate_limit(transform.fine_volume)
    if device.type != "cpu":
        _, outlines = _stage2_bytes(plans, candidates, precision)
        return _MARGIN * (fine * (plans.num_channels * 4 + LABEL_BYTES) + masks + outlines)
    region = Region(_detection_shape(plans, transform), fine)
    needed = network_bytes(plans, region, candidates, precision, passes) + max(0, masks)
    if passes.slabs > 1:
        voxels = max(fine, math.prod(transform.crop_shape))
        images = _IMAGES_WHILE_RESAMPLING * voxels * plans.num_channels * IMAGE_BYTES
        needed = max(needed, images + original * _BODY_BYTES)
    return _MARGIN * needed


def slabs_that_fit(
    plans: Plans,
    transform: CaseTransform,
    device: torch.device,
    limit: float | None,
    inference: InferencePlan | None = None,
    several_passes: bool = True,
) -> int:
    """Return the smallest number of slabs with which predicting a scan needs at most ``limit`` bytes.

    Parameters
    ----------
    plans, transform, device, inference
        As for :func:`prediction_bytes`.
    limit : float or None
        Memory in bytes, without the scan itself; ``None`` for no limit.
    several_passes : bool
        True for several networks or mirrored copies.

    Returns
    -------
    int
        1 if no slabs are needed. If no number of slabs is enough, the number that needs the least memory.
    """
    needs = {1: prediction_bytes(plans, transform, device, inference)}
    # An accelerator holds the feature maps in its own memory.
    if limit is None or needs[1] <= limit or device.type != "cpu":
        return 1
    for slabs in range(2, max_slabs(plans.stage1, _detection_shape(plans, transform)) + 1):
        needs[slabs] = prediction_bytes(plans, transform, device, inference, Passes(slabs, several_passes))
        if needs[slabs] <= limit:
            return slabs
    return min(needs, key=lambda slabs: needs[slabs])


def _detection_shape(plans: Plans, transform: CaseTransform) -> tuple[int, ...]:
    """Return the voxels ``(z, y, x)`` of a scan on the detection grid."""
    scales = plans.detection_scale
    return tuple(math.ceil(n / scale - 1e-6) for n, scale in zip(transform.fine_shape, scales, strict=True))


def network_bytes(plans: Plans, region: Region, candidates: int, precision: Precision, passes: Passes = WHOLE) -> float:
    """Estimate the peak memory of both stages on a whole volume, in bytes, not counting the volume itself.

    Parameters
    ----------
    plans : Plans
    region : Region
        The volume.
    candidates : int
        Number of candidates that Stage 2 segments.
    precision : Precision
        Precision of the feature maps.
    passes : Passes
        Number of slabs in which Stage 1 runs; by default 1.

    Returns
    -------
    float
    """
    maps, outlines = _stage2_bytes(plans, candidates, precision)
    network = NetworkPlan.of(plans, precision)
    in_slabs = passes.slabs > 1
    stage1 = slab_inference_bytes(network, region, passes) if in_slabs else inference_bytes(network, region)
    smaller, larger = sorted((stage1, maps))
    return BASE_INFERENCE + larger + KEPT_OF_THE_OTHER_STAGE * smaller + outlines


def _stage2_bytes(plans: Plans, candidates: int, precision: Precision) -> tuple[float, float]:
    return stage2_inference_bytes(plans.stage2, plans.roi.size, plans.inference.roi_batch_size, candidates, precision)
